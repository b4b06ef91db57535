"""A list from memory is either as good as one from the API server, or it is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kube.reflector_faults import eventually, versions
from tfscale import modes
from tfscale.errors import ClusterError, ClusterUnreachableError, ForbiddenError, NotFoundError
from tfscale.gpus import GpuTable
from tfscale.kube.cache import Cache, Patience
from tfscale.kube.convert import pool_object
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODES, PODS, Json, Kind, Listing, WatchEvent
from tfscale.kube.reflector import Pace
from tfscale.modes.base import ModeContext
from tfscale.pool import Pool
from tfscale.reconcile import Reconciler
from tfscale.testing import FakeKube

QUICK = Pace(pause_s=(0.01, 0.02), refused_s=0.02)
HOME = "default"
Act = Callable[[Cache], object]


class Cluster(FakeKube):
    """A cluster whose watches can be held up, whose lists can fail, and whose replies can be lost."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.flowing = threading.Event()
        self.flowing.set()
        self.failure: ClusterError | None = None
        self.loses_replies = False
        self.watch_fails = False
        self.listed: list[Kind] = []

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """Return all objects that match, or fail."""
        self.listed.append(kind)
        if self.failure:
            raise type(self.failure)(str(self.failure))
        return super().list(kind, namespace=namespace, label_selector=label_selector, field_selector=field_selector)

    def watch(self, kind: Kind, *, resource_version: str, timeout_s: int = 300, **selectors: Any) -> Iterator[WatchEvent]:  # noqa: ANN401 - as the port has them
        """Yield what is there at short intervals, if nothing holds it up."""
        if self.watch_fails:
            raise ClusterUnreachableError("watch: reset")
        for _ in range(min(timeout_s, 10)):
            for event in super().watch(kind, resource_version=resource_version, timeout_s=0, **selectors):
                self.flowing.wait(10)
                resource_version = event.object["metadata"]["resourceVersion"]
                yield event
            time.sleep(0.01)

    def bind(self, name: str, **how: Any) -> None:  # noqa: ANN401 - as the port has them
        """Bind a pod, and perhaps lose the reply."""
        super().bind(name, **how)
        if self.loses_replies:
            raise ClusterUnreachableError("bind: no answer")


@dataclass
class Clock:
    """Time that can jump, as it does for a process that stood still."""

    ahead_s: float = 0

    def __call__(self) -> float:
        """Return the seconds."""
        return time.monotonic() + self.ahead_s


@contextmanager
def cached(cluster: Cluster, **options: Any) -> Iterator[Cache]:  # noqa: ANN401 - options of the cache
    """Give a cache of the cluster that does not wait for long."""
    patience = Patience(first_list_s=0.5, own_write_s=options.pop("own_write_s", 5))
    with Cache(cluster, pace=QUICK, patience=patience, **options) as cache:
        yield cache
        cluster.flowing.set()


def pod(name: str, **meta: Any) -> Json:  # noqa: ANN401 - any JSON
    """Return a pod to create."""
    return {"metadata": {"name": name, **meta}, "spec": {"containers": [{"name": "main", "image": "example/main"}]}}


def cluster_with_pod() -> tuple[Cluster, str]:
    """Return a cluster with a pod ``a``, and the pod's uid."""
    cluster = Cluster()
    return cluster, cluster.create(PODS, pod("a"), namespace=HOME)["metadata"]["uid"]


def writes(uid: str) -> dict[str, Act]:
    """Return one write of each kind to the pod ``a``, by verb."""
    change: Json = {"metadata": {"labels": {"x": "y"}}}
    applied = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}}}
    return {
        "create": lambda cache: cache.create(PODS, pod("b"), namespace=HOME),
        "patch": lambda cache: cache.patch(PODS, "a", change, namespace=HOME),
        "patch_status": lambda cache: cache.patch_status(PODS, "a", {"status": {"phase": "Failed"}}, namespace=HOME),
        "apply": lambda cache: cache.apply(PODS, applied, namespace=HOME),
        "bind": lambda cache: cache.bind("a", namespace=HOME, node="n", uid=uid, annotations={}),
        "delete": lambda cache: cache.delete(PODS, "a", namespace=HOME),
        "delete by uid": lambda cache: cache.delete(PODS, "a", namespace=HOME, uid=uid),
        "evict": lambda cache: cache.evict("a", namespace=HOME),
    }


# --- own writes ---


@pytest.mark.parametrize("verb", writes(""))
def test_a_list_waits_for_what_was_written_before(verb: str) -> None:
    """The watch brings it late, and yet the list has it."""
    cluster, uid = cluster_with_pod()
    with cached(cluster) as cache:
        cache.list(PODS)
        cluster.flowing.clear()
        writes(uid)[verb](cache)
        threading.Timer(0.1, cluster.flowing.set).start()
        before = len(cluster.listed)
        seen = versions(cache.list(PODS).items)

        assert versions(cluster.list(PODS).items) == seen
        assert len(cluster.listed) == before + 1


@pytest.mark.parametrize("verb", writes(""))
def test_a_list_that_cannot_show_what_was_written_is_refused(verb: str) -> None:
    """The next one does not rely on the watch any more."""
    cluster, uid = cluster_with_pod()
    with cached(cluster, own_write_s=0.05) as cache:
        cache.list(PODS)
        cluster.flowing.clear()
        writes(uid)[verb](cache)
        with pytest.raises(ClusterUnreachableError, match=r"list pods: the watch lags, it has not brought .* yet"):
            cache.list(PODS)

        assert versions(cluster.list(PODS).items) == versions(cache.list(PODS).items)


def test_a_write_without_an_answer_leads_to_a_fresh_list() -> None:
    """It may have been done, and nobody says under which version."""
    cluster, uid = cluster_with_pod()
    with cached(cluster) as cache:
        cache.list(PODS)
        cluster.flowing.clear()
        cluster.loses_replies = True
        with pytest.raises(ClusterUnreachableError, match="no answer"):
            writes(uid)["bind"](cache)

        assert "n" == cache.list(PODS).items[0]["spec"]["nodeName"]


def test_a_write_that_was_refused_holds_nothing_up() -> None:
    """Nothing was written."""
    cluster, _ = cluster_with_pod()
    with cached(cluster) as cache:
        cache.list(PODS)
        cluster.flowing.clear()
        with pytest.raises(ClusterError):
            cache.bind("a", namespace=HOME, node="n", uid="another", annotations={})

        assert 1 == len(cache.list(PODS).items)


def test_a_pod_that_was_made_anew_by_others_counts_as_deleted() -> None:
    """Under the name that was deleted there may be another pod at once."""
    cluster, _ = cluster_with_pod()
    with cached(cluster) as cache:
        cache.list(PODS)
        cluster.flowing.clear()
        cache.delete(PODS, "a", namespace=HOME)
        again = cluster.create(PODS, pod("a"), namespace=HOME)
        cluster.flowing.set()
        eventually(lambda: [again["metadata"]["uid"]] == [one["metadata"]["uid"] for one in cache.list(PODS).items])


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from(["create", "patch", "bind", "delete", "evict"]), st.sampled_from("abc")), max_size=8))
def test_whatever_is_written_is_in_the_next_list(steps: list[tuple[str, str]]) -> None:
    """Of the right version, and nothing that was deleted."""
    cluster = Cluster()
    with cached(cluster, kinds=[PODS]) as cache:
        for index, (verb, name) in enumerate(steps):
            found = {one["metadata"]["name"]: one for one in cache.list(PODS).items}
            if (verb == "create") == (name in found):
                continue
            uid = found[name]["metadata"]["uid"] if name in found else ""
            label = {"metadata": {"labels": {"step": str(index)}}}
            act: dict[str, Callable[[], object]] = {
                "create": partial(cache.create, PODS, pod(name), namespace=HOME),
                "patch": partial(cache.patch, PODS, name, label, namespace=HOME),
                "bind": partial(cache.bind, name, namespace=HOME, node="n", uid=uid, annotations={}),
                "delete": partial(cache.delete, PODS, name, namespace=HOME, grace_period_s=index % 2),
                "evict": partial(cache.evict, name, namespace=HOME),
            }
            if not (verb == "bind" and (found[name]["spec"].get("nodeName") or "deletionTimestamp" in found[name]["metadata"])):
                act[verb]()
            assert alive(cluster) == alive(cache)


def alive(kube: Cluster | Cache) -> dict[str, str]:
    """Return the versions of the pods that are not on their way out."""
    return versions([one for one in kube.list(PODS).items if "deletionTimestamp" not in one["metadata"]])


def test_the_loop_sees_through_it_what_it_wrote() -> None:
    """Pods get their cards, each tick goes on from the last, and then nothing is left to do."""
    cluster = Cluster()
    cluster.create(GPU_POOLS, pool_object(Pool(name="pool", mode="static")))
    amounts = {"cpu": "8", "memory": "32Gi", "pods": "20", "nvidia.com/gpu": "2"}
    labels = {"tfscale.io/pool": "pool", "nvidia.com/gpu.product": "Tesla-T4"}
    status = {"allocatable": amounts, "capacity": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
    cluster.create(NODES, {"metadata": {"name": "n", "labels": labels}})
    cluster.patch_status(NODES, "n", {"status": status})
    notes = {"tfscale.io/vram-request": "8Gi", "tfscale.io/compute-percent-request": "40"}
    for name in "abc":
        waiting = pod(name, annotations=notes)
        cluster.create(PODS, {**waiting, "spec": {**waiting["spec"], "schedulerName": "tfscale"}}, namespace=HOME)
    with cached(cluster) as cache:
        gpus = GpuTable()
        open_with = partial(ModeContext, gpus=gpus, kube=cache, cluster="test", catalogue={})
        loop = Reconciler(
            kube=cache, mode_of=modes.load, open_with=lambda pool: open_with(pool=pool), gpus=gpus, prefix="tensor-fusion.ai"
        )
        reports = [loop.tick(number) for number in (1, 2)]

        assert [4, 0] == [len(report.outcomes) for report in reports]
        assert ["n"] * 3 == [one["spec"]["nodeName"] for one in cluster.list(PODS).items]


# --- when a list is refused ---


def test_before_the_first_list_the_reason_is_told() -> None:
    """And soon after it can be had, all is well."""
    cluster = Cluster()
    cluster.failure = ClusterUnreachableError("503 overloaded")
    with cached(cluster) as cache:
        with pytest.raises(ClusterUnreachableError, match="list pods: there was no first list yet: 503 overloaded"):
            cache.list(PODS)
        assert not cache.synced()
        cluster.failure = ForbiddenError("pods is forbidden")
        with pytest.raises(ForbiddenError, match="pods is forbidden"):
            cache.list(PODS)
        cluster.failure = None

        assert [] == cache.list(PODS).items
        eventually(cache.synced)


def test_a_kind_that_is_not_served_is_told_at_once_and_found_later() -> None:
    """As the API server would; the cache is not unready because of it."""
    cluster = Cluster()
    cluster.failure = NotFoundError("the cluster does not serve nodeclaims")
    with cached(cluster, kinds=[NODE_CLAIMS]) as cache:
        with pytest.raises(NotFoundError, match="does not serve nodeclaims"):
            cache.list(NODE_CLAIMS)
        assert cache.synced()
        cache.resync()
        cluster.failure = None

        eventually(lambda: cache.age_s(NODE_CLAIMS) < 1)
        assert [] == cache.list(NODE_CLAIMS).items


def test_what_is_too_old_is_refused() -> None:
    """With the kind and the age; until news come again."""
    clock = Clock()
    cluster, _ = cluster_with_pod()
    with cached(cluster, clock=clock) as cache:
        cache.list(PODS)
        cluster.flowing.clear()
        cluster.failure = ClusterUnreachableError("no route")
        clock.ahead_s = 200
        with pytest.raises(ClusterUnreachableError, match=r"list pods: what is known is 20\d s old; want at most 150 s"):
            cache.list(PODS)
        assert 200 <= cache.age_s(PODS) < 210
        assert not cache.synced()
        cluster.failure = None
        cluster.flowing.set()

        eventually(cache.synced)
        assert 1 == len(cache.list(PODS).items)


def test_while_watches_fail_a_list_is_asked_of_the_server() -> None:
    """After an outage they are tried again late: nothing is decided on what was true before it."""
    cluster, _ = cluster_with_pod()
    cluster.watch_fails = True
    with cached(cluster, kinds=[PODS]) as cache:
        for name in ("b", "c", "d"):
            cluster.create(PODS, pod(name), namespace=HOME)
            time.sleep(0.1)

            assert name in {obj["metadata"]["name"] for obj in cache.list(PODS).items}


def test_a_kind_on_demand_is_followed_from_its_first_list_on() -> None:
    """Before that nobody asks for it, and a cache that may not read it is not held up."""
    cluster, _ = cluster_with_pod()
    with cached(cluster) as cache:
        cache.resync()

        assert NODE_CLAIMS not in cluster.listed
        assert [[], []] == [cache.list(NODE_CLAIMS).items for _ in range(2)]
        assert 1 == cluster.listed.count(NODE_CLAIMS)
        cluster.create(NODE_CLAIMS, {"metadata": {"name": "n"}, "spec": {}})
        cache.resync()

        assert ["n"] == [obj["metadata"]["name"] for obj in cache.list(NODE_CLAIMS).items]


def test_a_cache_that_may_read_no_longer_says_so() -> None:
    """At once, although what is known is not old."""
    cluster, _ = cluster_with_pod()
    clock = Clock()
    with cached(cluster, clock=clock) as cache:
        cache.list(PODS)
        cluster.failure = ForbiddenError("pods is forbidden")
        cluster.flowing.clear()
        clock.ahead_s = 100
        cluster.flowing.set()
        eventually(lambda: not cache.synced())
        with pytest.raises(ForbiddenError, match="pods is forbidden"):
            cache.list(PODS)


def test_after_a_resync_everything_is_fresh() -> None:
    """Although the watches are held up."""
    cluster, _ = cluster_with_pod()
    with cached(cluster) as cache:
        cache.list(PODS)
        cluster.flowing.clear()
        cluster.delete(PODS, "a", namespace=HOME)
        cluster.create(NODES, {"metadata": {"name": "n"}})
        cache.resync()

        assert [] == cache.list(PODS).items
        assert ["n"] == [one["metadata"]["name"] for one in cache.list(NODES).items]


def test_it_ends_within_a_second() -> None:
    """With all its threads."""
    before = threading.active_count()
    with cached(Cluster()) as cache:
        cache.list(PODS)
        began_s = time.monotonic()

    assert time.monotonic() - began_s < 1.5
    assert before == threading.active_count()


# --- what is served from where ---


def test_choices_are_those_of_the_api_server() -> None:
    """By label, namespace and both; a field or a set of values is asked of the server."""
    cluster = Cluster()
    for name, labels in {"a": {"x": "1"}, "b": {"x": "2"}, "d": {}}.items():
        cluster.create(PODS, pod(name, labels=labels), namespace=HOME)
    cluster.create(PODS, pod("c", labels={"x": "1", "y": ""}), namespace="other")
    choices: list[tuple[dict[str, str], bool]] = [
        ({}, False),
        ({"namespace": HOME}, False),
        ({"label_selector": "x=1"}, False),
        ({"label_selector": "x==1,y="}, False),
        ({"label_selector": "x=1", "namespace": HOME}, False),
        ({"label_selector": "y"}, True),
        ({"label_selector": "x in (1, 2)"}, True),
        ({"label_selector": "x!=1"}, True),
        ({"field_selector": "metadata.name=a"}, True),
    ]
    with cached(cluster) as cache:
        cache.list(PODS)
        for choice, live in choices:
            before = len(cluster.listed)
            found = versions(cache.list(PODS, **choice).items)
            assert before + live == len(cluster.listed)
            assert versions(cluster.list(PODS, **choice).items) == found


def test_other_kinds_are_asked_of_the_server() -> None:
    """What is bought is decided on records as they are now."""
    cluster = Cluster()
    with cached(cluster) as cache:
        cluster.flowing.clear()
        cache.create(GPU_POOLS, {"metadata": {"name": "pool"}})

        assert ["pool"] == [one["metadata"]["name"] for one in cache.list(GPU_POOLS).items]
        assert "pool" == cache.get(GPU_POOLS, "pool")["metadata"]["name"]
        version = cache.list(GPU_POOLS).resource_version
        assert [] == [one for one in cache.watch(GPU_POOLS, resource_version=version, timeout_s=0) if one.type != "BOOKMARK"]


def test_objects_are_shared_and_cut() -> None:
    """Nothing is copied for a list; a get has all of the object."""
    cluster, _ = cluster_with_pod()
    with cached(cluster) as cache:
        (one,), (same,) = cache.list(PODS).items, cache.list(PODS).items

        assert one is same
        assert "image" not in one["spec"]["containers"][0]
        assert "image" in cache.get(PODS, "a", namespace=HOME)["spec"]["containers"][0]
