"""What server-side apply does: who owns which fields, what is taken, what is refused, what is removed."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tfscale.errors import AlreadyExistsError, ClusterError, ConflictError, NotFoundError, RefusedObjectError
from tfscale.kube.port import CONFIG_MAPS, LEASES, NODES, PODS, Json, Kind
from tfscale.testing.contracts.kube.workplace import ELSEWHERE, HOLD, HOME, WIDGETS, Workplace

__all__ = ["ApplyingContract"]

OTHER = "somebody-else"


class ApplyingContract:
    """The verb ``apply``."""

    def test_apply_creates_what_is_not_there(self, world: Workplace) -> None:
        """Without the status, as create does."""
        widget = world.applied(WIDGETS, spec={"size": 1}, status={"ready": True})

        assert (widget["spec"], widget["metadata"]["generation"]) == ({"size": 1}, 1)
        assert "status" not in widget
        assert widget == world.now(WIDGETS, widget)

    def test_apply_takes_the_namespace_from_the_object(self, world: Workplace) -> None:
        """The namespace may be given in the object alone."""
        widget = world.widget()

        after = world.kube.apply(WIDGETS, {"metadata": {"name": world.name("a"), "namespace": HOME}, "spec": {"x": 1}})

        assert widget["metadata"]["uid"] == after["metadata"]["uid"]

    def test_applying_the_same_again_makes_no_version(self, world: Workplace) -> None:
        """So that a loop may apply what it wants without waking anybody."""
        first = world.applied(WIDGETS, spec={"size": 1}, metadata={"labels": {"a": "b"}})

        assert first == world.applied(WIDGETS, spec={"size": 1}, metadata={"labels": {"a": "b"}})

    def test_apply_leaves_what_it_does_not_name(self, world: Workplace) -> None:
        """Others' fields stay, at any depth."""
        world.widget(spec={"keep": 1, "deep": {"a": 1}})

        after = world.applied(WIDGETS, spec={"new": 2, "deep": {"b": 2}})

        assert after["spec"] == {"keep": 1, "new": 2, "deep": {"a": 1, "b": 2}}

    def test_what_the_next_apply_leaves_out_is_removed(self, world: Workplace) -> None:
        """With the objects that it leaves empty."""
        world.widget(spec={"keep": 1})
        world.applied(WIDGETS, spec={"a": 1, "deep": {"b": 2}}, metadata={"labels": {"x": "1", "y": "2"}})

        after = world.applied(WIDGETS, spec={"a": 1}, metadata={"labels": {"x": "1"}})

        assert after["spec"] == {"keep": 1, "a": 1}
        assert tuple(after["metadata"]["labels"].get(key) for key in "xy") == ("1", None)

    def test_what_somebody_else_applies_too_stays(self, world: Workplace) -> None:
        """Both own it; it goes when the last of them leaves it out."""
        world.widget(spec={"keep": 1})
        world.applied(WIDGETS, spec={"size": 1})
        world.applied(WIDGETS, spec={"size": 1}, manager=OTHER)

        first, second = world.applied(WIDGETS), world.applied(WIDGETS, manager=OTHER)

        assert [first["spec"], second["spec"]] == [{"keep": 1, "size": 1}, {"keep": 1}]

    def test_a_field_of_somebody_else_conflicts(self, world: Workplace) -> None:
        """The error names manager and field, and nothing is written, not even what is free."""
        before = world.applied(WIDGETS, spec={"deep": {"size": 1}}, manager=OTHER)

        with pytest.raises(ConflictError, match=rf'conflict with "{OTHER}".*\.spec\.deep\.size') as caught:
            world.applied(WIDGETS, spec={"deep": {"size": 2}, "free": 1})

        assert not isinstance(caught.value, AlreadyExistsError)
        assert before == world.now(WIDGETS, before)

    def test_force_takes_a_field_over(self, world: Workplace) -> None:
        """Then the other one's wish conflicts, and leaving it out gives nothing away."""
        world.applied(WIDGETS, spec={"size": 1, "more": 1}, manager=OTHER)

        forced = world.applied(WIDGETS, spec={"size": 2}, force=True)

        assert forced["spec"] == {"size": 2, "more": 1}
        with pytest.raises(ConflictError):
            world.applied(WIDGETS, spec={"size": 1, "more": 1}, manager=OTHER)
        assert world.applied(WIDGETS, spec={"more": 1}, manager=OTHER)["spec"] == {"size": 2, "more": 1}

    def test_a_second_owner_makes_a_version_but_no_generation(self, world: Workplace) -> None:
        """Who owns what is a part of the object."""
        first = world.applied(WIDGETS, spec={"size": 1})

        second = world.applied(WIDGETS, spec={"size": 1}, manager=OTHER)

        assert first["metadata"]["resourceVersion"] != second["metadata"]["resourceVersion"]
        assert [obj["metadata"]["generation"] for obj in (first, second)] == [1, 1]

    @pytest.mark.parametrize("verb", ["create", "patch"])
    def test_our_own_create_and_patch_conflict_too(self, world: Workplace, verb: str) -> None:
        """What is written otherwise is owned apart, under the same name. An equal value is no conflict."""
        name = world.widget(spec={"size": 1} if verb == "create" else {})["metadata"]["name"]
        if verb == "patch":
            world.kube.patch(WIDGETS, name, {"spec": {"size": 1}}, namespace=HOME)

        assert world.applied(WIDGETS, spec={"size": 1})["spec"] == {"size": 1}
        with pytest.raises(ConflictError, match=r"\.spec\.size"):
            world.applied(WIDGETS, spec={"size": 2})

    def test_a_patch_takes_what_it_changes(self, world: Workplace) -> None:
        """Who had applied it owns it no more."""
        name = world.applied(WIDGETS, spec={"size": 1, "keep": 1})["metadata"]["name"]
        world.kube.patch(WIDGETS, name, {"spec": {"size": 2}}, namespace=HOME)

        with pytest.raises(ConflictError, match=r"\.spec\.size"):
            world.applied(WIDGETS, spec={"size": 1, "keep": 1})
        assert world.applied(WIDGETS, spec={"keep": 1})["spec"] == {"size": 2, "keep": 1}

    def test_a_patch_that_changes_nothing_takes_nothing(self, world: Workplace) -> None:
        """The field still goes with the apply that set it."""
        name = world.applied(WIDGETS, spec={"size": 1, "keep": 1})["metadata"]["name"]
        world.kube.patch(WIDGETS, name, {"spec": {"size": 1}}, namespace=HOME)

        assert world.applied(WIDGETS, spec={"keep": 1})["spec"] == {"keep": 1}

    def test_a_patch_that_removes_a_field_frees_it(self, world: Workplace) -> None:
        """Anybody may set it again."""
        name = world.applied(WIDGETS, spec={"size": 1, "keep": 1})["metadata"]["name"]
        world.kube.patch(WIDGETS, name, {"spec": {"size": None}}, namespace=HOME)

        assert world.applied(WIDGETS, spec={"size": 3}, manager=OTHER)["spec"] == {"size": 3, "keep": 1}

    def test_a_spec_that_is_left_with_nothing_is_refused(self, world: Workplace) -> None:
        """It would become null, which its schema does not take; leaving it out altogether removes it."""
        before = world.applied(WIDGETS, spec={"size": 1})

        with pytest.raises(RefusedObjectError):
            world.applied(WIDGETS, spec={})
        assert before == world.now(WIDGETS, before)
        assert "spec" not in world.applied(WIDGETS)

    def test_lists_that_are_maps_are_merged_by_key(self, world: Workplace) -> None:
        """The applied items come in their order, others stay where they were between them."""
        world.widget(spec={"parts": [{"name": "a", "x": 1}, {"name": "b"}]})

        both = world.applied(WIDGETS, spec={"parts": [{"name": "c"}, {"name": "a", "y": 2}]})
        less = world.applied(WIDGETS, spec={"parts": [{"name": "a"}]})

        assert both["spec"]["parts"] == [{"name": "c"}, {"name": "a", "x": 1, "y": 2}, {"name": "b"}]
        assert less["spec"]["parts"] == [{"name": "a", "x": 1}, {"name": "b"}]

    def test_one_item_of_a_list_conflicts_by_its_key(self, world: Workplace) -> None:
        """The message says which item."""
        world.applied(WIDGETS, spec={"parts": [{"name": "a", "x": 1}]}, manager=OTHER)

        with pytest.raises(ConflictError, match=r'\.spec\.parts\[name="a"\]\.x'):
            world.applied(WIDGETS, spec={"parts": [{"name": "a", "x": 2}]})

    def test_sets_are_united(self, world: Workplace) -> None:
        """Each item has its owners."""
        world.widget(spec={"tags": ["t", "u"]})

        both = world.applied(WIDGETS, spec={"tags": ["v", "t"]})
        less = world.applied(WIDGETS, spec={"tags": ["t"]})

        assert [obj["spec"]["tags"] for obj in (both, less)] == [["v", "t", "u"], ["t", "u"]]

    @pytest.mark.parametrize(("field", "old", "new"), [("list", [1, 2], [2]), ("pair", {"a": 1, "b": 2}, {"a": 1})])
    def test_other_lists_and_atomic_maps_are_one_value(self, world: Workplace, field: str, old: Any, new: Any) -> None:  # noqa: ANN401
        """Whoever applies them owns them whole."""
        world.applied(WIDGETS, spec={field: old}, manager=OTHER)

        with pytest.raises(ConflictError, match=rf"\.spec\.{field}"):
            world.applied(WIDGETS, spec={field: new})
        assert {field: new} == world.applied(WIDGETS, spec={field: new}, force=True)["spec"]

    def test_conditions_of_two_managers_are_merged_by_type(self, world: Workplace) -> None:
        """Each keeps and removes its own."""
        ours, theirs = {"type": "Ours", "status": "True"}, {"type": "Theirs", "status": "False"}
        world.widget()

        world.applied(WIDGETS, status={"conditions": [theirs]}, subresource="status", manager=OTHER)
        both = world.applied(WIDGETS, status={"conditions": [ours], "size": 1}, subresource="status")
        less = world.applied(WIDGETS, status={"size": 1}, subresource="status")

        assert [[theirs, ours], [theirs]] == [obj["status"]["conditions"] for obj in (both, less)]

    def test_applying_the_status_changes_nothing_else(self, world: Workplace) -> None:
        """Labels and spec in it are dropped, and it owns nothing of them."""
        widget = world.widget(spec={"size": 1})

        after = world.applied(
            WIDGETS, metadata={"labels": {"x": "y"}}, spec={"size": 2}, status={"ready": True}, subresource="status"
        )

        assert (after["status"], after["spec"]) == ({"ready": True}, {"size": 1})
        assert widget["metadata"]["labels"] == after["metadata"]["labels"]
        assert widget["metadata"]["generation"] == after["metadata"]["generation"]

    @pytest.mark.parametrize(
        "text", ["\U0001f600 \u00e9", "\\ud83d \\U0001f600", "a\x7fb", "\x85\u2028\ufeff", "yes", "1e3", "\t: #"]
    )
    def test_any_text_is_applied_as_it_is(self, world: Workplace, text: str) -> None:
        """Whatever stands between the writer and the server: not all JSON is YAML."""
        assert text == world.applied(WIDGETS, spec={"note": text})["spec"]["note"]

    def test_applying_the_rest_leaves_the_status_alone(self, world: Workplace) -> None:
        """The status part is dropped, and what was applied to the status stays."""
        world.widget(spec={"size": 1})
        world.applied(WIDGETS, status={"ready": True}, subresource="status")

        after = world.applied(WIDGETS, metadata={"labels": {"x": "y"}}, status={"ready": False})

        assert after["status"] == {"ready": True}

    def test_a_status_needs_its_object(self, world: Workplace) -> None:
        """And a kind that has one."""
        world.applied(LEASES, spec={"holderIdentity": "a"})

        with pytest.raises(NotFoundError):
            world.applied(WIDGETS, status={"ready": True}, subresource="status")
        with pytest.raises(NotFoundError):
            world.applied(LEASES, status={"ready": True}, subresource="status")

    @pytest.mark.parametrize("field", ["resourceVersion", "uid"])
    @pytest.mark.parametrize("part", ["spec", "status"])
    def test_an_apply_for_another_version_or_object_conflicts(self, world: Workplace, field: str, part: str) -> None:
        """A precondition that does not hold changes nothing; one that holds does no harm."""
        widget = world.widget()
        current = world.kube.patch(WIDGETS, widget["metadata"]["name"], {"spec": {"size": 2}}, namespace=HOME)
        stale = {"resourceVersion": widget["metadata"]["resourceVersion"], "uid": str(uuid.uuid4())}
        options = {part: {"x": 1}, "subresource": "status" if part == "status" else ""}

        with pytest.raises(ConflictError):
            world.applied(WIDGETS, metadata={field: stale[field]}, **options)
        assert current == world.now(WIDGETS, widget)
        assert world.applied(WIDGETS, metadata={field: current["metadata"][field]}, **options)[part]["x"] == 1

    def test_apply_does_not_create_an_object_of_a_known_uid(self, world: Workplace) -> None:
        """It is gone. A version alone does not keep the server from making it again."""
        with pytest.raises(ConflictError):
            world.applied(WIDGETS, metadata={"uid": str(uuid.uuid4())}, spec={"size": 1})

        assert world.applied(WIDGETS, metadata={"resourceVersion": "5"}, spec={"size": 1})["spec"] == {"size": 1}

    @pytest.mark.parametrize(
        "options",
        [
            {"spec": {"size": None}},
            {"metadata": {"labels": {"a": None}}},
            {"manager": ""},
            {"metadata": {"managedFields": [{"manager": "x"}]}},
            {"metadata": {"name": ""}},
            {"metadata": {"name": "Upper"}},
            {"metadata": {"labels": {"a": "b c"}}},
            {"metadata": {"namespace": ELSEWHERE}},
            {"kind": "Gadget"},
            {"spec": {"value": float("nan")}},
        ],
        ids=lambda options: "-".join(f"{key}-{value}" for key, value in options.items()),
    )
    def test_malformed_applies_are_refused(self, world: Workplace, options: Json) -> None:
        """Null too: to give a field up, it is left out."""
        with pytest.raises(RefusedObjectError):
            world.applied(WIDGETS, **options)
        assert world.listed(WIDGETS, label_selector="") == []

    @pytest.mark.parametrize("spec", [{"parts": [{"name": "a"}, {"name": "a"}]}, {"tags": ["a", "a"]}])
    def test_two_items_of_one_key_are_refused(self, world: Workplace, spec: Json) -> None:
        """The real server calls it its own failure (500)."""
        before = world.widget()

        with pytest.raises(ClusterError):
            world.applied(WIDGETS, spec=spec)
        assert before == world.now(WIDGETS, before)

    def test_apply_cannot_rewrite_history(self, world: Workplace) -> None:
        """A creation time or generation is not taken, and a deletion is begun by a delete alone."""
        widget = world.widget()
        forged = {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 99}

        assert widget == world.applied(WIDGETS, metadata=forged)
        with pytest.raises(RefusedObjectError):
            world.applied(WIDGETS, metadata={"deletionTimestamp": "2001-01-01T00:00:00Z"})

    def test_a_finalizer_is_given_up_by_leaving_it_out(self, world: Workplace) -> None:
        """The object that is being deleted goes with its last one."""
        widget = world.applied(WIDGETS, metadata={"finalizers": [HOLD]})
        world.kube.delete(WIDGETS, widget["metadata"]["name"], namespace=HOME)
        assert not world.gone(WIDGETS, widget)

        world.applied(WIDGETS)

        assert world.gone(WIDGETS, widget)

    def test_finalizers_of_two_managers_are_united(self, world: Workplace) -> None:
        """Each takes its own off."""
        world.applied(WIDGETS, metadata={"finalizers": [HOLD]}, manager=OTHER)

        both = world.applied(WIDGETS, metadata={"finalizers": [f"{HOLD}-2"]})
        less = world.applied(WIDGETS)

        assert [[HOLD, f"{HOLD}-2"], [HOLD]] == [obj["metadata"]["finalizers"] for obj in (both, less)]

    def test_watch_shows_an_apply_as_any_write(self, world: Workplace) -> None:
        """ADDED where it creates."""
        since = world.version()
        for size in (1, 2):
            world.applied(WIDGETS, spec={"size": size})

        assert world.seen(since, 2, label_selector="") == [("ADDED", "a"), ("MODIFIED", "a")]

    def test_nobody_is_shown_who_owns_what(self, world: Workplace) -> None:
        """Managed fields are left out by every verb."""
        since = world.version()
        widget = world.widget()
        shown = [
            widget,
            world.applied(WIDGETS, spec={"x": 1}),
            world.now(WIDGETS, widget),
            world.kube.patch(WIDGETS, widget["metadata"]["name"], {"spec": {"y": 1}}, namespace=HOME),
            *world.kube.list(WIDGETS, label_selector=world.mine).items,
            *(event.object for event in world.events(since, 1)),
        ]

        assert not [obj for obj in shown if "managedFields" in obj["metadata"]]

    def test_a_container_of_a_pod_is_known_by_its_name(self, world: Workplace) -> None:
        """Its image has an owner."""
        world.pod()
        containers = [{"name": "main", "image": "registry.example/other"}]

        with pytest.raises(ConflictError, match=r'\.spec\.containers\[name="main"\]\.image'):
            world.applied(PODS, spec={"containers": containers})
        forced = world.applied(PODS, spec={"containers": containers}, force=True)
        assert [one["image"] for one in forced["spec"]["containers"]] == ["registry.example/other"]

    def test_what_a_bind_wrote_belongs_to_nobody(self, world: Workplace) -> None:
        """The server keeps no owner of it: an apply of another value is no conflict."""
        pod = world.pod()
        world.bind(pod, annotations={"a": "1"})

        assert world.applied(PODS, metadata={"annotations": {"a": "2"}})["metadata"]["annotations"] == {"a": "2"}

    def test_conditions_of_a_pod_are_merged_by_type(self, world: Workplace) -> None:
        """Beside those that others report."""
        name = world.pod()["metadata"]["name"]
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        world.kube.patch_status(PODS, name, ready, namespace=HOME)

        after = world.applied(PODS, status={"conditions": [{"type": "Ours", "status": "True"}]}, subresource="status")

        assert [one["type"] for one in after["status"]["conditions"]] == ["Ready", "Ours"]

    def test_the_taints_of_a_node_are_one_value(self, world: Workplace) -> None:
        """Whoever sets one owns all: two controllers cannot apply taints side by side."""
        world.node(spec={"taints": [{"key": "a", "effect": "NoSchedule"}]})

        with pytest.raises(ConflictError, match=r"\.spec\.taints"):
            world.applied(NODES, spec={"taints": [{"key": "b", "effect": "NoSchedule"}]})

    def test_the_capacity_of_a_node_is_merged_by_resource(self, world: Workplace) -> None:
        """What is no longer applied goes; what was created with the node belongs to nobody."""
        world.node(status={"capacity": {"cpu": "4"}, "allocatable": {"cpu": "4"}})

        added = world.applied(NODES, status={"capacity": {"x.io/a": "1", "x.io/b": "2"}}, subresource="status")
        less = world.applied(NODES, status={"capacity": {"x.io/a": "1", "cpu": "8"}}, subresource="status")

        assert added["status"]["capacity"] == {"cpu": "4", "x.io/a": "1", "x.io/b": "2"}
        assert less["status"]["capacity"] == {"cpu": "8", "x.io/a": "1"}

    def test_the_data_of_a_config_map_is_merged_by_key(self, world: Workplace) -> None:
        """Every key has its owners."""
        world.made(CONFIG_MAPS, world.bare("a", data={"a": "1"}), HOME)

        both = world.applied(CONFIG_MAPS, data={"b": "2"})
        less = world.applied(CONFIG_MAPS)

        assert [obj["data"] for obj in (both, less)] == [{"a": "1", "b": "2"}, {"a": "1"}]

    @pytest.mark.parametrize("kind", [CONFIG_MAPS, LEASES], ids=lambda kind: kind.plural)
    def test_an_applied_object_may_end_empty(self, world: Workplace, kind: Kind) -> None:
        """With its last field goes what it was in."""
        part: Json = {"data": {"a": "1"}} if kind == CONFIG_MAPS else {"spec": {"holderIdentity": "a"}}
        world.applied(kind, **part)

        after = world.applied(kind)

        assert not after.get("data")
        assert not after.get("spec")

    def test_owner_references_are_known_by_uid(self, world: Workplace) -> None:
        """Two owners, each applied by another manager."""
        refs = [world.reference(NODES, world.node(suffix)) for suffix in ("b", "c")]
        world.applied(WIDGETS, metadata={"ownerReferences": refs[:1]}, manager=OTHER)

        both = world.applied(WIDGETS, metadata={"ownerReferences": refs[1:]})
        less = world.applied(WIDGETS)

        assert [refs, refs[:1]] == [obj["metadata"]["ownerReferences"] for obj in (both, less)]
