"""Records in ConfigMaps behave as custom resources do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfscale.errors import AlreadyExistsError, ClusterError, ConflictError, NotFoundError, RefusedObjectError
from tfscale.kube.configmaps import InConfigMaps
from tfscale.kube.port import CONFIG_MAPS, GPU_POOLS, NODE_REQUESTS, NODES, PODS, Json, Kube
from tfscale.testing import FakeKube


def records(kube: FakeKube | None = None) -> InConfigMaps:
    """Return the port under test."""
    return InConfigMaps(kube or FakeKube(seed=0), namespace="mine")


def request(name: str = "r", **fields: Any) -> Json:  # noqa: ANN401 - JSON
    """Return a record to create."""
    return {
        "apiVersion": NODE_REQUESTS.api_version,
        "kind": NODE_REQUESTS.kind,
        "metadata": {"name": name},
        "spec": {"pool": "p"},
        **fields,
    }


KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
PARTS = st.dictionaries(KEYS, VALUES, max_size=3)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.dictionaries(KEYS, st.sampled_from(["x", "y"]) | st.none(), max_size=2),
        "annotations": st.dictionaries(KEYS, st.sampled_from(["x", "y"]) | st.none(), max_size=2),
        "finalizers": st.lists(st.sampled_from(["t.io/a", "t.io/b"]), max_size=2, unique=True),
    },
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), PARTS),
        st.tuples(st.just("patch"), st.fixed_dictionaries({}, optional={"spec": PARTS, "metadata": METADATA})),
        st.tuples(st.just("patch_status"), st.fixed_dictionaries({"status": PARTS})),
        st.tuples(st.just("delete"), st.none()),
    ),
    max_size=8,
)


def does(kube: Kube, step: tuple[str, Any]) -> str:
    """Take a step and return the name of the error it raised."""
    verb, value = step
    try:
        match verb:
            case "create":
                kube.create(NODE_REQUESTS, request(spec=value, status={"dropped": True}))
            case "patch":
                kube.patch(NODE_REQUESTS, "r", value)
            case "patch_status":
                kube.patch_status(NODE_REQUESTS, "r", value)
            case _:
                kube.delete(NODE_REQUESTS, "r")
    except ClusterError as error:
        return type(error).__name__
    return ""


def shown(kube: Kube) -> list[Json]:
    """Return what is there, without what two servers count differently."""
    objects = kube.list(NODE_REQUESTS).items
    for obj in objects:
        for key in ("uid", "resourceVersion", "creationTimestamp", "generation", "deletionTimestamp"):
            obj["metadata"].pop(key, None)
        obj.setdefault("status", {})
        obj.setdefault("spec", {})
    return objects


@settings(max_examples=200)
@given(STEPS)
def test_whatever_is_done_to_records_has_the_effect_it_has_on_custom_resources(steps: list[tuple[str, Any]]) -> None:
    """The same errors, and the same objects after every step."""
    real, kept = FakeKube(seed=0), records()
    for step in steps:
        assert does(real, step) == does(kept, step)
        assert shown(real) == shown(kept)


def test_a_record_is_a_config_map_that_people_can_find() -> None:
    """Named after kind and name, labelled, in the one namespace."""
    kube = FakeKube(seed=0)
    records(kube).create(NODE_REQUESTS, request())
    (stored,) = kube.list(CONFIG_MAPS).items

    assert ("tfscale.noderequests.r", "mine") == (stored["metadata"]["name"], stored["metadata"]["namespace"])
    assert {"tfscale.io/kind": "noderequests"} == stored["metadata"]["labels"]
    assert {"spec": '{"pool": "p"}'} == stored["data"]


def test_kinds_and_other_config_maps_are_kept_apart() -> None:
    """A pool and a request of one name, and what others keep in the namespace."""
    kube = FakeKube(seed=0)
    kube.create(CONFIG_MAPS, {"metadata": {"name": "other", "namespace": "mine"}, "data": {"spec": "no JSON"}})
    kept = records(kube)
    kept.create(NODE_REQUESTS, request())
    kept.create(GPU_POOLS, {"metadata": {"name": "r"}, "spec": {"mode": "static"}})

    assert [{"pool": "p"}] == [obj["spec"] for obj in kept.list(NODE_REQUESTS).items]
    assert [{"mode": "static"}] == [obj["spec"] for obj in kept.list(GPU_POOLS).items]


def test_other_kinds_are_passed_on() -> None:
    """Pods and nodes are those of the cluster."""
    kube = FakeKube(seed=0)
    kept = records(kube)
    kept.create(NODES, {"metadata": {"name": "n"}})
    kept.create(PODS, {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}, namespace="default")
    uid = kept.get(PODS, "p", namespace="default")["metadata"]["uid"]
    kept.bind("p", namespace="default", node="n", uid=uid, annotations={"a": "b"})
    kept.patch(NODES, "n", {"spec": {"unschedulable": True}})
    kept.patch_status(NODES, "n", {"status": {"phase": "x"}})

    assert [True] == [node["spec"]["unschedulable"] for node in kube.list(NODES).items]
    assert ["n"] == [pod["spec"]["nodeName"] for pod in kept.list(PODS).items]
    kept.evict("p", namespace="default", grace_period_s=0)
    assert [] == kube.list(PODS).items
    assert [] == kube.list(CONFIG_MAPS).items


def test_preconditions_hold() -> None:
    """Another version or uid is a conflict, whoever keeps the object."""
    kept = records()
    first = kept.create(NODE_REQUESTS, request())["metadata"]["resourceVersion"]
    kept.patch(NODE_REQUESTS, "r", {"spec": {"pool": "q"}})

    with pytest.raises(ConflictError):
        kept.patch(NODE_REQUESTS, "r", {"metadata": {"resourceVersion": first}, "spec": {"pool": "x"}})
    with pytest.raises(ConflictError):
        kept.patch_status(NODE_REQUESTS, "r", {"metadata": {"uid": "other"}, "status": {"a": 1}})
    with pytest.raises(ConflictError):
        kept.delete(NODE_REQUESTS, "r", resource_version=first)
    with pytest.raises(AlreadyExistsError):
        kept.create(NODE_REQUESTS, request())
    assert "q" == kept.get(NODE_REQUESTS, "r")["spec"]["pool"]


class Interrupted(FakeKube):
    """A cluster where somebody else writes just before the first patches arrive."""

    def __init__(self, times: int) -> None:
        super().__init__(seed=0)
        self.left = times

    def patch(self, kind: Any, name: str, patch: Any, *, namespace: str | None = None) -> Json:  # noqa: ANN401 - as above it
        """Let the other one write first."""
        if self.left:
            self.left -= 1
            super().patch(kind, name, {"metadata": {"annotations": {"other": str(self.left)}}}, namespace=namespace)
        return super().patch(kind, name, patch, namespace=namespace)


@pytest.mark.parametrize(("times", "error"), [(0, None), (4, None), (5, ConflictError)])
def test_a_write_that_another_came_before_is_done_again(times: int, error: type[ClusterError] | None) -> None:
    """Neither is lost; who never gets through is told."""
    kube = Interrupted(times)
    kept = records(kube)
    kept.create(NODE_REQUESTS, request())
    if error:
        with pytest.raises(error):
            kept.patch_status(NODE_REQUESTS, "r", {"status": {"state": "Ready"}})
        return
    kept.patch_status(NODE_REQUESTS, "r", {"status": {"state": "Ready"}})

    assert {"state": "Ready"} == kept.get(NODE_REQUESTS, "r")["status"]
    assert ({"other": "0"} if times else None) == kept.get(NODE_REQUESTS, "r")["metadata"].get("annotations")


def test_changes_are_watched_as_objects_of_their_kind() -> None:
    """Added, modified and deleted; bookmarks pass."""
    kept = records()
    since = kept.list(NODE_REQUESTS).resource_version
    kept.create(NODE_REQUESTS, request())
    kept.create(GPU_POOLS, {"metadata": {"name": "p"}, "spec": {}})
    kept.patch_status(NODE_REQUESTS, "r", {"status": {"state": "Ready"}})
    kept.delete(NODE_REQUESTS, "r")
    events = list(kept.watch(NODE_REQUESTS, resource_version=since, timeout_s=0))

    assert ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"] == [event.type for event in events]
    assert ["r", "r", "r"] == [event.object["metadata"]["name"] for event in events[:3]]
    assert ["NodeRequest"] * 3 == [event.object["kind"] for event in events[:3]]


@pytest.mark.parametrize("data", [None, {"spec": "{oops", "metadata": "{}", "note": "["}], ids=["emptied", "broken"])
def test_a_record_that_somebody_broke_does_not_hide_the_others(data: object) -> None:
    """It is read as it is, for its reader to name, and can be written again."""
    kube = FakeKube(seed=0)
    kept = records(kube)
    for name in ("a", "b"):
        kept.create(NODE_REQUESTS, request(name))
    kube.patch(CONFIG_MAPS, "tfscale.noderequests.a", {"data": data}, namespace="mine")
    broken, fine = kept.list(NODE_REQUESTS).items

    assert ("a", data and "{oops") == (broken["metadata"]["name"], broken.get("spec"))
    assert {"pool": "p"} == fine["spec"]
    assert {"pool": "q"} == kept.patch(NODE_REQUESTS, "a", {"spec": {"pool": "q"}})["spec"]


def test_records_are_applied_as_a_whole() -> None:
    """Who applied the spec owns all of it; labels have their owners one by one, and the status is apart."""
    kube = FakeKube(seed=0)
    kept = records(kube)
    kept.apply(NODE_REQUESTS, request(metadata={"name": "r", "labels": {"a": "1"}}, status={"dropped": True}))
    kept.apply(NODE_REQUESTS, {"metadata": {"name": "r", "labels": {"b": "2"}}}, manager="other")
    kept.apply(NODE_REQUESTS, {"metadata": {"name": "r"}, "status": {"state": "Ready"}}, subresource="status")

    with pytest.raises(ConflictError, match=r'conflict with "tfscale": \.data\.spec'):
        kept.apply(NODE_REQUESTS, request(spec={"pool": "q"}), manager="other")
    after = kept.apply(NODE_REQUESTS, request(spec={"pool": "q"}))

    assert ({"pool": "q"}, {"state": "Ready"}) == (after["spec"], after["status"])
    assert {"b": "2"} == after["metadata"]["labels"]
    assert kept.get(NODE_REQUESTS, "r") == after
    assert kept.apply(NODES, {"metadata": {"name": "n"}}) == kube.get(NODES, "n")


def test_the_status_of_a_record_needs_the_record() -> None:
    """The one that was meant."""
    kept = records()
    report: Json = {"metadata": {"name": "r"}, "status": {"state": "Ready"}}
    with pytest.raises(NotFoundError):
        kept.apply(NODE_REQUESTS, report, subresource="status")
    kept.create(NODE_REQUESTS, request())
    with pytest.raises(ConflictError):
        kept.apply(NODE_REQUESTS, {**report, "metadata": {"name": "r", "uid": "another"}}, subresource="status")

    assert {} == kept.get(NODE_REQUESTS, "r").get("status", {})


def test_what_cannot_be_served_is_refused() -> None:
    """Field selectors of kept kinds; objects that are not there."""
    kept = records()
    with pytest.raises(RefusedObjectError, match=r"field selector is 'metadata\.name=r'; want none"):
        kept.list(NODE_REQUESTS, field_selector="metadata.name=r")
    with pytest.raises(NotFoundError):
        kept.get(NODE_REQUESTS, "r")
