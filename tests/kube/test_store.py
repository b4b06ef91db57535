"""The store never goes back and ends where the cluster is, whatever arrives in whatever order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.errors import ClusterUnreachableError, NotFoundError
from tfscale.kube.port import NODES, Json, Listing, WatchEvent
from tfscale.kube.store import Store
from tfscale.testing import FakeKube

steps = st.lists(st.tuples(st.sampled_from(["create", "label", "delete"]), st.sampled_from("abc")), max_size=20)


def node(name: str, version: str, uid: str = "u") -> Json:
    """Return an object with a version."""
    return {"metadata": {"name": name, "resourceVersion": version, "uid": uid}}


def history_of(steps: list[tuple[str, str]]) -> tuple[list[WatchEvent], list[Listing]]:
    """Do these steps and return the events, and the list after each of them with that of the beginning first."""
    kube = FakeKube(seed=1)
    lists = [kube.list(NODES)]
    for index, (verb, name) in enumerate(steps):
        exists = any(obj["metadata"]["name"] == name for obj in lists[-1].items)
        if verb == "create" and not exists:
            kube.create(NODES, {"metadata": {"name": name}})
        elif verb == "label" and exists:
            kube.patch(NODES, name, {"metadata": {"labels": {"step": str(index)}}})
        elif verb == "delete" and exists:
            kube.delete(NODES, name)
        else:
            continue
        lists.append(kube.list(NODES))
    events = kube.watch(NODES, resource_version=lists[0].resource_version, timeout_s=0)
    return [event for event in events if event.type != "BOOKMARK"], lists


def known(store: Store) -> dict[str, str]:
    """Return the versions of the objects by name."""
    return {obj["metadata"]["name"]: obj["metadata"]["resourceVersion"] for obj in store.listing().items}


@given(steps, st.data())
def test_it_ends_where_the_cluster_is(steps: list[tuple[str, str]], data: st.DataObject) -> None:
    """With events that come twice, late, or from a watch before the last list; and the listener knows the same."""
    events, lists = history_of(steps)
    told: dict[str, str] = {}

    def listen(event: WatchEvent) -> None:
        meta = event.object["metadata"]
        if event.type == "DELETED":
            del told[meta["name"]]
        else:
            assert (event.type == "ADDED") is (meta["name"] not in told)
            told[meta["name"]] = meta["resourceVersion"]

    store = Store(listener=listen)
    arrived = 0
    store.replace(lists[0], began_s=0)
    while arrived < len(events):
        match data.draw(st.sampled_from(["next", "old", "list", "past"])):
            case "next":
                assert store.apply(events[arrived], generation=store.mark()[0])
                arrived += 1
            case "old" if arrived:
                again = data.draw(st.integers(0, arrived - 1))
                assert store.apply(events[again], generation=store.mark()[0])
            case "list":
                arrived = data.draw(st.integers(arrived, len(events)))
                store.replace(lists[arrived], began_s=0)
            case "past":
                assert not store.apply(events[arrived], generation=store.mark()[0] - 1)
        expected = {obj["metadata"]["name"]: obj["metadata"]["resourceVersion"] for obj in lists[arrived].items}
        assert expected == known(store) == told


def test_a_version_that_is_no_number_is_only_compared_for_equality() -> None:
    """Then the order of arrival counts."""
    store = Store()
    store.replace(Listing(items=[node("a", "x")], resource_version="x"), began_s=0)
    for version in ("y", "y", "b"):
        store.apply(WatchEvent("MODIFIED", node("a", version)), generation=1)

    assert {"a": "b"} == known(store)
    assert not store.reached("b")


def test_a_bookmark_moves_the_version_and_nothing_else() -> None:
    """Whoever listens is not told."""
    told: list[WatchEvent] = []
    store = Store(listener=told.append)
    store.replace(Listing(items=[], resource_version="5"), began_s=0)
    store.apply(WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "9"}}), generation=1)

    assert "9" == store.version
    assert [] == told


def test_a_cluster_that_was_restored_from_a_backup_is_believed() -> None:
    """Its versions begin again, lower."""
    store = Store()
    store.replace(Listing(items=[node("a", "90")], resource_version="90"), began_s=0)
    store.replace(Listing(items=[node("a", "7")], resource_version="8"), began_s=0)

    assert {"a": "7"} == known(store)
    assert "8" == store.version


def test_the_age_counts_from_the_last_thing_heard() -> None:
    """A list is as old as its beginning; an event or bookmark makes it new; what is cleared is infinitely old."""
    now_s = 100.0
    store = Store(clock=lambda: now_s)
    assert float("inf") == store.age_s()
    store.replace(Listing(items=[], resource_version="1"), began_s=97)
    assert 3 == store.age_s()
    store.apply(WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "2"}}), generation=1)
    assert 0 == store.age_s()
    now_s = 160
    assert 60 == store.age_s()
    store.clear()
    assert float("inf") == store.age_s()


def test_news_end_a_failure() -> None:
    """Why nothing came in is of no interest once something does."""
    store = Store()
    store.replace(Listing(items=[], resource_version="1"), began_s=0)
    store.fail(NotFoundError("no"))
    assert store.failure
    store.apply(WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "2"}}), generation=1)

    assert store.failure is None


@pytest.mark.parametrize(
    "broken",
    [{}, {"metadata": None}, {"metadata": []}, {"metadata": {"name": "a"}}, {"metadata": {"name": "a", "resourceVersion": 5}}],
)
@pytest.mark.parametrize(
    "arrive",
    [
        lambda store, obj: store.apply(WatchEvent("ADDED", obj), generation=1),
        lambda store, obj: store.apply(WatchEvent("BOOKMARK", obj), generation=1),
    ],
)
def test_what_is_no_object_changes_nothing(broken: Json, arrive: Callable[[Store, Json], object]) -> None:
    """It is the connection that is at fault."""
    store = Store()
    store.replace(Listing(items=[node("a", "1")], resource_version="1"), began_s=0)
    with pytest.raises(ClusterUnreachableError, match=r"an object without metadata\.(name|resourceVersion) arrived"):
        arrive(store, broken)

    assert {"a": "1"} == known(store)
