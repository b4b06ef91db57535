"""What creates and patches do, and what they refuse."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from tfscale.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    RefusedObjectError,
)
from tfscale.kube.port import NODES, PODS, Json, Kube
from tfscale.testing.contracts.kube.workplace import ELSEWHERE, HOME, WIDGETS, Workplace

__all__ = ["WritingContract"]


class WritingContract:
    """Creates, patches and the errors of both."""

    def test_create_fills_in_what_the_server_owns(self, world: Workplace) -> None:
        """A new object has its type, namespace, uid, version, generation and time."""
        widget = world.widget(spec={"size": 1})

        meta = widget["metadata"]
        assert (widget["apiVersion"], widget["kind"]) == ("contract.tfscale.io/v1", "Widget")
        assert (meta["namespace"], meta["generation"]) == (HOME, 1)
        assert widget["spec"] == {"size": 1}
        assert all(meta[key] for key in ("uid", "resourceVersion", "creationTimestamp"))
        assert widget == world.now(WIDGETS, widget)

    def test_create_takes_the_namespace_from_the_object(self, world: Workplace) -> None:
        """The namespace may be given in the object alone."""
        widget = world.made(WIDGETS, world.bare("a", metadata={"namespace": HOME}), None)

        assert widget["metadata"]["namespace"] == HOME

    def test_create_of_a_taken_name_is_refused(self, world: Workplace) -> None:
        """The first object stays as it is."""
        first = world.widget(spec={"size": 1})

        with pytest.raises(AlreadyExistsError):
            world.widget(spec={"size": 2})
        assert first == world.now(WIDGETS, first)

    def test_names_are_taken_per_namespace(self, world: Workplace) -> None:
        """The same name in two namespaces is two objects."""
        here, there = world.widget(), world.widget(namespace=ELSEWHERE)

        assert here["metadata"]["uid"] != there["metadata"]["uid"]

    def test_generated_names_differ(self, world: Workplace) -> None:
        """``generateName`` gets five characters more."""
        wanted = {"generateName": f"{world.run}-g-", "name": ""}

        names = {world.widget(metadata=wanted)["metadata"]["name"] for _ in range(3)}

        assert len(names) == 3
        assert {len(world.run) + 3 + 5} == {len(name) for name in names}

    def test_a_new_name_is_a_new_identity(self, world: Workplace) -> None:
        """An object that was deleted and made again has another uid."""
        first = world.widget()
        world.kube.delete(WIDGETS, first["metadata"]["name"], namespace=HOME)

        assert first["metadata"]["uid"] != world.widget()["metadata"]["uid"]

    @pytest.mark.parametrize(
        "metadata",
        [
            {"name": "Upper"},
            {"name": "under_score"},
            {"name": "-dash"},
            {"name": "a" * 254},
            {"name": ""},
            {"labels": {"bad key": "x"}},
            {"labels": {"key": "bad value"}},
            {"labels": {"key": "x" * 64}},
            {"annotations": {"bad key": "x"}},
            {"annotations": {"key": "x" * (256 * 1024)}},
            {"annotations": {"key": 1}},
            {"namespace": ELSEWHERE},
        ],
        ids=lambda metadata: "-".join(f"{key}-{str(value)[:20]}" for key, value in metadata.items()),
    )
    def test_malformed_metadata_is_refused(self, world: Workplace, metadata: Json) -> None:
        """Names, labels and annotations follow the syntax of Kubernetes."""
        with pytest.raises(RefusedObjectError):
            world.widget(metadata=metadata)
        assert world.listed(WIDGETS) == []

    def test_an_object_of_another_type_is_refused(self, world: Workplace) -> None:
        """``kind`` and ``apiVersion`` fit where they are sent."""
        with pytest.raises(RefusedObjectError):
            world.widget(kind="Gadget", apiVersion="contract.tfscale.io/v1")

    @pytest.mark.parametrize("fields", [{"metadata": []}, {"spec": 1}], ids=["metadata", "spec"])
    def test_an_object_of_the_wrong_shape_is_refused(self, world: Workplace, fields: Json) -> None:
        """Its parts are objects."""
        with pytest.raises(RefusedObjectError):
            world.made(WIDGETS, {"metadata": {"name": world.name("a")}, **fields}, HOME)

    def test_what_is_not_json_is_refused(self, world: Workplace) -> None:
        """NaN and Python's own types do not reach the server."""
        for value in (float("nan"), {1, 2}, object()):
            with pytest.raises(RefusedObjectError):
                world.widget(spec={"value": value})

    def test_create_drops_the_status(self, world: Workplace) -> None:
        """A custom resource begins without a status."""
        assert "status" not in world.widget(status={"ready": True})

    def test_a_new_pod_is_pending(self, world: Workplace) -> None:
        """Whatever status it was created with."""
        assert world.pod(status={"phase": "Running"})["status"]["phase"] == "Pending"

    def test_a_node_keeps_the_status_it_is_created_with(self, world: Workplace) -> None:
        """Nodes are the exception: a kubelet registers with its capacity."""
        node = world.node(status={"capacity": {"nvidia.com/gpu": "1"}})

        assert node["status"]["capacity"] == {"nvidia.com/gpu": "1"}

    def test_patch_leaves_the_status_alone(self, world: Workplace) -> None:
        """The status part of a patch is dropped."""
        widget = world.widget()

        patched = world.kube.patch(WIDGETS, widget["metadata"]["name"], {"status": {"ready": True}}, namespace=HOME)

        assert widget == patched

    def test_patch_status_changes_nothing_else(self, world: Workplace) -> None:
        """Labels and spec in a status patch are dropped."""
        widget = world.widget(spec={"size": 1})
        patch = {"metadata": {"labels": {"x": "y"}}, "spec": {"size": 2}, "status": {"ready": True}}

        after = world.kube.patch_status(WIDGETS, widget["metadata"]["name"], patch, namespace=HOME)

        assert after["status"] == {"ready": True}
        assert widget["spec"] == after["spec"]
        assert widget["metadata"]["labels"] == after["metadata"]["labels"]
        assert widget["metadata"]["resourceVersion"] != after["metadata"]["resourceVersion"]

    def test_patch_status_of_a_node_merges(self, world: Workplace) -> None:
        """Other resources of its capacity stay."""
        node = world.node(status={"capacity": {"cpu": "4"}})
        patch = {"status": {"capacity": {"tfscale.io/vram-mib": "22888"}}}

        after = world.kube.patch_status(NODES, node["metadata"]["name"], patch)

        assert after["status"]["capacity"] == {"cpu": "4", "tfscale.io/vram-mib": "22888"}

    def test_generation_counts_changes_of_the_spec_alone(self, world: Workplace) -> None:
        """Labels and status do not make a new generation."""
        name = world.widget(spec={"size": 1})["metadata"]["name"]

        labelled = world.kube.patch(WIDGETS, name, {"metadata": {"labels": {"x": "y"}}}, namespace=HOME)
        reported = world.kube.patch_status(WIDGETS, name, {"status": {"ready": True}}, namespace=HOME)
        resized = world.kube.patch(WIDGETS, name, {"spec": {"size": 2}}, namespace=HOME)

        assert [obj["metadata"]["generation"] for obj in (labelled, reported, resized)] == [1, 1, 2]

    def test_a_write_that_changes_nothing_makes_no_version(self, world: Workplace) -> None:
        """So that a loop may write what it wants without waking anybody."""
        widget = world.widget(spec={"size": 1})

        again = world.kube.patch(WIDGETS, widget["metadata"]["name"], {"spec": {"size": 1}}, namespace=HOME)

        assert widget == again

    def test_true_is_not_one(self, world: Workplace) -> None:
        """A change of type alone is a change."""
        name = world.widget(spec={"flag": 1})["metadata"]["name"]

        after = world.kube.patch(WIDGETS, name, {"spec": {"flag": True}}, namespace=HOME)

        assert (after["spec"]["flag"], after["metadata"]["generation"]) == (True, 2)

    def test_what_says_nothing_is_no_change(self, world: Workplace) -> None:
        """False, empty lists and empty objects where nothing was are not stored."""
        node = world.node()
        patch = {"metadata": {"annotations": {"none": None}, "finalizers": []}, "spec": {"unschedulable": False, "taints": []}}

        assert node == world.kube.patch(NODES, node["metadata"]["name"], patch)

    def test_every_change_makes_a_new_version(self, world: Workplace) -> None:
        """No two versions of an object are equal."""
        name = world.widget()["metadata"]["name"]

        written = [world.kube.patch(WIDGETS, name, {"spec": {"size": size}}, namespace=HOME) for size in range(3)]

        assert len({obj["metadata"]["resourceVersion"] for obj in written}) == 3

    def test_patch_merges_as_rfc_7386_says(self, world: Workplace) -> None:
        """Objects merge, null removes, lists are replaced."""
        name = world.widget(spec={"keep": 1, "drop": 2, "deep": {"a": 1, "b": 2}, "list": [1, 2]})["metadata"]["name"]
        patch = {"spec": {"drop": None, "deep": {"b": None, "c": 3}, "list": [3], "new": {"x": None, "y": 1}}}

        after = world.kube.patch(WIDGETS, name, patch, namespace=HOME)

        assert after["spec"] == {"keep": 1, "deep": {"a": 1, "c": 3}, "list": [3], "new": {"y": 1}}

    @pytest.mark.parametrize("field", ["resourceVersion", "uid"])
    @pytest.mark.parametrize("part", ["spec", "status"])
    def test_a_patch_for_another_version_or_object_conflicts(self, world: Workplace, field: str, part: str) -> None:
        """A precondition that does not hold changes nothing."""
        widget = world.widget()
        current = world.kube.patch(WIDGETS, widget["metadata"]["name"], {"spec": {"size": 2}}, namespace=HOME)
        stale = {"resourceVersion": widget["metadata"]["resourceVersion"], "uid": str(uuid.uuid4())}
        verb = world.kube.patch if part == "spec" else world.kube.patch_status

        with pytest.raises(ConflictError) as caught:
            verb(WIDGETS, widget["metadata"]["name"], {"metadata": {field: stale[field]}, part: {"x": 1}}, namespace=HOME)

        assert not isinstance(caught.value, AlreadyExistsError)
        assert current == world.now(WIDGETS, widget)

    @pytest.mark.parametrize("field", ["resourceVersion", "uid"])
    @pytest.mark.parametrize("part", ["spec", "status"])
    def test_a_patch_for_this_version_or_object_is_taken(self, world: Workplace, field: str, part: str) -> None:
        """A precondition that holds does no harm."""
        widget = world.widget()
        verb = world.kube.patch if part == "spec" else world.kube.patch_status
        patch = {"metadata": {field: widget["metadata"][field]}, part: {"x": 1}}

        after = verb(WIDGETS, widget["metadata"]["name"], patch, namespace=HOME)

        assert after[part] == {"x": 1}

    def test_patch_cannot_rename(self, world: Workplace) -> None:
        """Name and namespace are the address of an object."""
        name = world.widget()["metadata"]["name"]

        for metadata in ({"name": f"{name}-b"}, {"namespace": ELSEWHERE}):
            with pytest.raises(RefusedObjectError):
                world.kube.patch(WIDGETS, name, {"metadata": metadata}, namespace=HOME)

    def test_patch_cannot_rewrite_history(self, world: Workplace) -> None:
        """A creation time or generation in a patch is not taken."""
        widget = world.widget()
        forged = {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 99}

        assert widget == world.kube.patch(WIDGETS, widget["metadata"]["name"], {"metadata": forged}, namespace=HOME)

    def test_patch_cannot_begin_a_deletion(self, world: Workplace) -> None:
        """Only a delete does."""
        widget = world.widget()
        patch = {"metadata": {"deletionTimestamp": "2001-01-01T00:00:00Z"}}

        with pytest.raises(RefusedObjectError):
            world.kube.patch(WIDGETS, widget["metadata"]["name"], patch, namespace=HOME)

    def test_patch_cannot_set_a_malformed_label(self, world: Workplace) -> None:
        """A change is checked as a new object is."""
        widget = world.widget()

        with pytest.raises(RefusedObjectError):
            world.kube.patch(WIDGETS, widget["metadata"]["name"], {"metadata": {"labels": {"a": "b c"}}}, namespace=HOME)
        assert widget == world.now(WIDGETS, widget)

    def test_patch_cannot_move_a_pod(self, world: Workplace) -> None:
        """The node of a pod is written by a bind alone."""
        pod = world.pod()

        with pytest.raises(RefusedObjectError):
            world.kube.patch(PODS, pod["metadata"]["name"], {"spec": {"nodeName": "elsewhere"}}, namespace=HOME)
        assert "nodeName" not in world.now(PODS, pod)["spec"]

    def test_patch_cannot_change_the_machine_of_a_node(self, world: Workplace) -> None:
        """A provider id is set once."""
        name = world.node()["metadata"]["name"]
        world.kube.patch(NODES, name, {"spec": {"providerID": "aws:///us-east-1a/i-1"}})

        with pytest.raises(RefusedObjectError):
            world.kube.patch(NODES, name, {"spec": {"providerID": "aws:///us-east-1a/i-2"}})

    @pytest.mark.parametrize(
        "verb",
        [
            lambda kube, name: kube.get(PODS, name, namespace=HOME),
            lambda kube, name: kube.patch(PODS, name, {}, namespace=HOME),
            lambda kube, name: kube.patch_status(PODS, name, {"status": {}}, namespace=HOME),
            lambda kube, name: kube.delete(PODS, name, namespace=HOME),
            lambda kube, name: kube.delete(PODS, name, namespace=HOME, uid=str(uuid.uuid4())),
            lambda kube, name: kube.evict(name, namespace=HOME),
            lambda kube, name: kube.bind(name, namespace=HOME, node="n", uid=str(uuid.uuid4()), annotations={}),
        ],
        ids=["get", "patch", "patch_status", "delete", "delete-with-uid", "evict", "bind"],
    )
    def test_what_does_not_exist_is_not_found(self, world: Workplace, verb: Callable[[Kube, str], object]) -> None:
        """Every verb on one object says so."""
        with pytest.raises(NotFoundError):
            verb(world.kube, world.name("missing"))

    @pytest.mark.parametrize("name", ["", ".", ".."])
    def test_a_name_that_addresses_a_collection_is_refused(self, world: Workplace, name: str) -> None:
        """Or a delete without a name would empty the namespace."""
        widget = world.widget()

        with pytest.raises(RefusedObjectError):
            world.kube.delete(WIDGETS, name, namespace=HOME)
        assert not world.gone(WIDGETS, widget)

    def test_a_namespaced_object_needs_a_namespace(self, world: Workplace) -> None:
        """And a cluster-scoped one takes none."""
        with pytest.raises(RefusedObjectError):
            world.made(WIDGETS, world.bare("a"), None)
        with pytest.raises(RefusedObjectError):
            world.kube.get(WIDGETS, "a")
        with pytest.raises(RefusedObjectError):
            world.kube.get(NODES, "a", namespace=HOME)

    def test_what_is_handed_out_is_a_copy(self, world: Workplace) -> None:
        """Changing it changes nothing on the server."""
        widget = world.widget(spec={"list": [1]})
        since = world.version()
        world.kube.patch(WIDGETS, widget["metadata"]["name"], {"spec": {"x": 1}}, namespace=HOME)
        for obj in (
            world.now(WIDGETS, widget),
            world.kube.list(WIDGETS, label_selector=world.mine).items[0],
            world.events(since, 1)[0].object,
        ):
            obj["spec"].get("list", []).append(2)
            obj["metadata"]["labels"] = {}

        assert world.now(WIDGETS, widget)["spec"]["list"] == [1]
        assert world.events(since, 1)[0].object["spec"]["list"] == [1]

    def test_what_is_handed_in_is_copied(self, world: Workplace) -> None:
        """The caller may use its object again, and finds it as it was."""
        spec = {"list": [1]}
        widget = world.widget(spec=spec)
        spec["list"].append(2)

        assert world.now(WIDGETS, widget)["spec"]["list"] == [1]
