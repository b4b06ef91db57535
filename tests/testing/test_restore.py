"""An object is restored as another server had it, and then behaves like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tfscale.errors import AlreadyExistsError, ClusterError, NotFoundError, RefusedObjectError
from tfscale.kube.port import GPU_POOLS, NODES, PODS, Json
from tfscale.testing import FakeKube

POD: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "a",
        "namespace": "x",
        "uid": "u-1",
        "creationTimestamp": "2026-07-20T13:44:30Z",
        "deletionTimestamp": "2026-07-20T13:45:00Z",
        "deletionGracePeriodSeconds": 30,
        "generation": 4,
        "resourceVersion": "77",
        "annotations": {"note": "kept"},
    },
    "spec": {
        "nodeName": "n",
        "schedulerName": "other",
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "containers": [{"name": "c", "image": "i"}],
    },
    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["labels", "conditions", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from(["name", "namespace", "labels", "annotations", "uid", "finalizers"]), VALUES), VALUES, VALUES
)
def test_whatever_is_restored_can_be_listed_and_deleted_or_was_refused(
    meta: Mapping[str, Any], spec: object, status: object
) -> None:
    """Nothing that the server would choke on later gets in."""
    kube = FakeKube(seed=1)
    try:
        name = kube.restore(PODS, {"metadata": {"name": "a", "namespace": "x", **meta}, "spec": spec, "status": status})[
            "metadata"
        ]
    except ClusterError:
        return
    assert 1 == len(kube.list(PODS, label_selector="!none").items)
    kube.delete(PODS, name["name"], namespace=name["namespace"], grace_period_s=0)


def test_only_the_resource_version_is_new() -> None:
    """Uid, times, generation, status and deletion stay, unlike with a create."""
    kube = FakeKube()
    restored = kube.restore(PODS, POD)
    version = restored["metadata"]["resourceVersion"]

    assert {**POD, "metadata": {**POD["metadata"], "resourceVersion": version}} == restored == kube.get(PODS, "a", namespace="x")
    assert "77" != version


def test_a_watch_sees_it_arrive() -> None:
    """It is an object like any other."""
    kube = FakeKube()
    before = kube.list(PODS).resource_version
    restored = kube.restore(PODS, POD)
    events = [*kube.watch(PODS, resource_version=before, timeout_s=0)]

    assert [("ADDED", restored)] == [(event.type, event.object) for event in events[:-1]]


def test_what_no_stored_object_lacks_is_filled_in() -> None:
    """So that an object that was written by hand can be restored, too."""
    kube = FakeKube(now=lambda: 0.0, seed=1)
    node = kube.restore(NODES, {"metadata": {"name": "n", "labels": None, "uid": None}})
    pod = kube.restore(PODS, {"metadata": {"name": "a", "namespace": "x"}, "spec": None})

    assert "1970-01-01T00:00:00Z" == node["metadata"]["creationTimestamp"]
    assert node["metadata"]["uid"] != pod["metadata"]["uid"]
    assert ("default-scheduler", "Pending") == (pod["spec"]["schedulerName"], pod["status"]["phase"])
    kube.bind("a", namespace="x", node="n", uid=pod["metadata"]["uid"], annotations={})
    kube.delete(PODS, "a", namespace="x", grace_period_s=0)


def test_the_last_finalizer_ends_what_was_being_deleted() -> None:
    """A deletion that had begun goes on."""
    kube = FakeKube()
    meta = {"name": "p", "finalizers": ["f"], "deletionTimestamp": "2026-07-20T13:45:00Z", "deletionGracePeriodSeconds": 0}
    kube.restore(GPU_POOLS, {"metadata": meta})
    kube.patch(GPU_POOLS, "p", {"metadata": {"finalizers": None}})

    with pytest.raises(NotFoundError):
        kube.get(GPU_POOLS, "p")


def test_nothing_is_restored_twice() -> None:
    """An object that is there is not replaced."""
    kube = FakeKube()
    kube.restore(PODS, POD)

    with pytest.raises(AlreadyExistsError):
        kube.restore(PODS, POD)


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        ({"metadata": {"namespace": "x"}}, "metadata.name"),
        ({"metadata": {"name": "a"}}, "namespace"),
        ({"metadata": {"name": "a", "namespace": "x", "labels": {"a": 5}}}, "metadata.labels"),
        ({"metadata": {"name": "a", "namespace": "x", "annotations": []}, "kind": "Node"}, "kind"),
        ({"metadata": {"name": "a", "namespace": "x"}, "status": "Running"}, "status"),
    ],
)
def test_what_no_server_would_have_stored_is_refused(obj: Json, field: str) -> None:
    """The error names the field."""
    with pytest.raises(RefusedObjectError, match=field):
        FakeKube().restore(PODS, obj)
