"""What lists and watches show."""

from __future__ import annotations

import pytest

from tfscale.errors import (
    ClusterError,
    GoneError,
    RefusedObjectError,
)
from tfscale.kube.port import NODES, PODS, Kind
from tfscale.testing.contracts.kube.workplace import ELSEWHERE, HOME, NODE, WIDGETS, Workplace

__all__ = ["ReadingContract"]


class ReadingContract:
    """Lists, selectors and watches."""

    def test_list_returns_whole_objects(self, world: Workplace) -> None:
        """With their type, as get does."""
        made = [world.widget("a"), world.widget("b")]

        assert made == world.kube.list(WIDGETS, namespace=HOME, label_selector=world.mine).items

    def test_list_returns_pods_with_their_type(self, world: Workplace) -> None:
        """Also where the server leaves the type out."""
        pod = world.pod()

        assert [pod] == world.kube.list(PODS, namespace=HOME, label_selector=world.mine).items

    def test_list_is_for_one_namespace_or_for_all(self, world: Workplace) -> None:
        """Without a namespace it returns all."""
        world.widget("a")
        world.widget("b", namespace=ELSEWHERE)

        assert world.listed(WIDGETS, namespace=HOME) == ["a"]
        assert world.listed(WIDGETS, namespace=ELSEWHERE) == ["b"]
        assert world.listed(WIDGETS) == ["a", "b"]

    @pytest.mark.parametrize(
        ("selector", "chosen"),
        [
            ("tier=web", ["a"]),
            ("tier==web", ["a"]),
            ("tier!=web", ["b", "c"]),
            ("tier in (web,db)", ["a", "b"]),
            ("tier notin (web, db)", ["c"]),
            ("tier", ["a", "b"]),
            ("!tier", ["c"]),
            ("tier=", []),
            ("cards>1", ["b"]),
            ("cards<3", ["a"]),
            ("tier in (web,db),cards", ["a", "b"]),
            ("tier,cards=4", ["b"]),
        ],
    )
    def test_label_selectors_choose(self, world: Workplace, selector: str, chosen: list[str]) -> None:
        """All forms of the documentation, joined by commas."""
        world.widget("a", metadata={"labels": {"tier": "web", "cards": "1"}})
        world.widget("b", metadata={"labels": {"tier": "db", "cards": "4"}})
        world.widget("c")

        assert chosen == world.listed(WIDGETS, label_selector=f"{world.mine},{selector}")

    @pytest.mark.parametrize("selector", ["a=b=c", "tier in web", "bad key", "=x", "a=b,", "a=$"])
    def test_malformed_label_selectors_are_refused(self, world: Workplace, selector: str) -> None:
        """By list and by watch."""
        with pytest.raises(RefusedObjectError):
            world.kube.list(WIDGETS, label_selector=selector)
        with pytest.raises(RefusedObjectError):
            list(world.kube.watch(WIDGETS, resource_version=world.version(), label_selector=selector, timeout_s=1))

    def test_field_selectors_choose_pods(self, world: Workplace) -> None:
        """By node, phase, scheduler, name and namespace."""
        world.bind(world.pod("a", schedulerName="tfscale"))
        world.pod("b")

        assert world.listed(PODS, field_selector=f"spec.nodeName={NODE}") == ["a"]
        assert world.listed(PODS, field_selector="spec.nodeName=") == ["b"]
        assert world.listed(PODS, field_selector="spec.nodeName!=,status.phase=Pending") == ["a"]
        assert world.listed(PODS, field_selector="spec.schedulerName=tfscale") == ["a"]
        assert world.listed(PODS, field_selector="spec.schedulerName=default-scheduler") == ["b"]
        assert world.listed(PODS, field_selector=f"metadata.name={world.name('b')}") == ["b"]
        assert world.listed(PODS, field_selector=f"metadata.namespace!={HOME}") == []

    def test_field_selectors_choose_nodes(self, world: Workplace) -> None:
        """A node that says nothing can be scheduled."""
        world.node("a", spec={"unschedulable": True})
        world.node("b")

        assert world.listed(NODES, field_selector="spec.unschedulable=true") == ["a"]
        assert world.listed(NODES, field_selector="spec.unschedulable=false") == ["b"]

    @pytest.mark.parametrize(
        ("kind", "selector"),
        [
            (PODS, "spec.priority=1"),
            (NODES, "status.phase=x"),
            (NODES, "metadata.namespace=x"),
            (WIDGETS, "spec.size=1"),
            (PODS, "x"),
        ],
    )
    def test_unknown_field_selectors_are_refused(self, world: Workplace, kind: Kind, selector: str) -> None:
        """Only some fields can be chosen by."""
        with pytest.raises(RefusedObjectError):
            world.kube.list(kind, field_selector=selector)

    def test_watch_shows_what_changed_after_the_list(self, world: Workplace) -> None:
        """And nothing that the list had already, in order."""
        world.widget("old")
        since = world.version()
        name = world.widget("a")["metadata"]["name"]
        world.kube.patch(WIDGETS, name, {"spec": {"size": 2}}, namespace=HOME)
        world.kube.delete(WIDGETS, name, namespace=HOME)

        assert world.seen(since, 3) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]

    def test_watch_goes_on_from_any_event(self, world: Workplace) -> None:
        """The version of an event is a place to watch from."""
        since = world.version()
        for suffix in "abc":
            world.widget(suffix)
        first = world.events(since, 1)[0].object["metadata"]["resourceVersion"]

        assert world.seen(first, 2) == [("ADDED", "b"), ("ADDED", "c")]

    def test_watch_carries_the_objects(self, world: Workplace) -> None:
        """As get returns them; a deleted one as it last was, under a newer version."""
        since = world.version()
        widget = world.widget(spec={"size": 1})
        world.kube.delete(WIDGETS, widget["metadata"]["name"], namespace=HOME)

        added, deleted = (event.object for event in world.events(since, 2))

        assert widget == added
        assert deleted["spec"] == {"size": 1}
        assert widget["metadata"]["uid"] == deleted["metadata"]["uid"]
        assert widget["metadata"]["resourceVersion"] != deleted["metadata"]["resourceVersion"]

    def test_watch_is_for_one_kind_and_namespace(self, world: Workplace) -> None:
        """Others are not seen."""
        since = world.version()
        world.pod("pod")
        world.widget("elsewhere", namespace=ELSEWHERE)
        world.widget("here")

        assert world.seen(since, 1, namespace=HOME) == [("ADDED", "here")]
        assert world.seen(since, 2) == [("ADDED", "elsewhere"), ("ADDED", "here")]

    def test_an_object_that_no_longer_matches_is_deleted_for_the_watcher(self, world: Workplace) -> None:
        """And one that begins to match is added."""
        since = world.version()
        name = world.widget(metadata={"labels": {"tier": "web"}})["metadata"]["name"]
        for tier in ("db", "web"):
            world.kube.patch(WIDGETS, name, {"metadata": {"labels": {"tier": tier}}}, namespace=HOME)
        world.kube.patch(WIDGETS, name, {"spec": {"size": 1}}, namespace=HOME)

        seen = world.seen(since, 4, label_selector=f"{world.mine},tier=web")

        assert [kind for kind, _ in seen] == ["ADDED", "DELETED", "ADDED", "MODIFIED"]

    def test_a_pod_that_is_bound_leaves_the_watch_of_pending_pods(self, world: Workplace) -> None:
        """Field selectors follow changes too."""
        since = world.version(PODS)
        world.bind(world.pod())

        assert world.seen(since, 2, kind=PODS, field_selector="spec.nodeName=") == [("ADDED", "a"), ("DELETED", "a")]

    def test_watch_from_a_forgotten_version_is_gone(self, world: Workplace) -> None:
        """The caller has to list again."""
        world.widget()

        with pytest.raises(GoneError):
            list(world.kube.watch(WIDGETS, resource_version="1", timeout_s=2))

    def test_watch_from_a_malformed_version_fails(self, world: Workplace) -> None:
        """Versions come from lists and events. The real server calls it its own failure (500)."""
        with pytest.raises(ClusterError):
            list(world.kube.watch(WIDGETS, resource_version="yesterday", timeout_s=2))

    def test_watch_ends_by_itself(self, world: Workplace) -> None:
        """After its time, without an error, with nothing but bookmarks when nothing changed."""
        events = list(world.kube.watch(WIDGETS, resource_version=world.version(), label_selector=world.mine, timeout_s=1))

        assert {"BOOKMARK"} >= {event.type for event in events}
