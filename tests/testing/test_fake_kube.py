"""FakeKube does what a real API server does, and what simulations need beside that."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tfscale.errors import AlreadyExistsError, ClusterError, GoneError, NotFoundError, RefusedObjectError, TooManyRequestsError
from tfscale.kube.port import CRDS, DISRUPTION_BUDGETS, EVENTS, GPU_POOLS, NODES, PODS, Json, Listing, WatchEvent
from tfscale.testing import FakeKube
from tfscale.testing.contracts import WIDGET_CRD, KubeContract

Store = dict[str, Json]


class TestFakeKube(KubeContract):
    """The contract, in memory."""

    @pytest.fixture
    def kube(self) -> FakeKube:
        """A fresh server."""
        kube = FakeKube()
        kube.create(CRDS, WIDGET_CRD)
        return kube


def replayed(listing: Listing, events: Iterable[WatchEvent]) -> Store:
    """Apply watch events to an old list as a cache does, and fail on what a cache could not explain."""
    store = {obj["metadata"]["name"]: obj for obj in listing.items}
    for event in events:
        name = event.object["metadata"].get("name", "")
        match event.type:
            case "ADDED":
                assert name not in store
                store[name] = event.object
            case "MODIFIED":
                assert store[name]["metadata"]["uid"] == event.object["metadata"]["uid"]
                store[name] = event.object
            case "DELETED":
                del store[name]
            case "BOOKMARK":
                continue
    return store


class Replays(RuleBasedStateMachine):
    """Whatever is written, a list and the events after it say the same as a new list."""

    names = st.sampled_from("abc")
    tiers = st.sampled_from(["web", "db", None])
    selectors = st.sampled_from(["", "tier=web", "tier!=web", "!tier"])

    def __init__(self) -> None:
        super().__init__()
        self.kube = FakeKube(seed=0, now=lambda: 0.0)
        self.versions = [int(self.kube.list(GPU_POOLS).resource_version)]
        self.seen: list[tuple[str, Listing]] = []

    @rule(name=names, tier=tiers, finalizers=st.sampled_from([[], ["example.com/hold"]]))
    def create(self, name: str, tier: str | None, finalizers: list[str]) -> None:
        """Create, where the name may be taken."""
        labels = {"tier": tier} if tier else {}
        metadata = {"name": name, "labels": labels, "finalizers": finalizers}
        self.tried(lambda: self.kube.create(GPU_POOLS, {"metadata": metadata}))

    @rule(name=names, tier=tiers, size=st.integers(0, 2))
    def patch(self, name: str, tier: str | None, size: int) -> None:
        """Change label and spec, perhaps to what they are."""
        patch = {"metadata": {"labels": {"tier": tier}}, "spec": {"size": size}}
        self.tried(lambda: self.kube.patch(GPU_POOLS, name, patch))

    @rule(name=names, size=st.integers(0, 2))
    def report(self, name: str, size: int) -> None:
        """Change the status."""
        self.tried(lambda: self.kube.patch_status(GPU_POOLS, name, {"status": {"size": size}}))

    @rule(name=names)
    def release(self, name: str) -> None:
        """Remove the finalizers."""
        self.tried(lambda: self.kube.patch(GPU_POOLS, name, {"metadata": {"finalizers": None}}))

    @rule(name=names)
    def delete(self, name: str) -> None:
        """Delete what may not exist."""
        self.tried(lambda: self.kube.delete(GPU_POOLS, name))

    @rule(selector=selectors)
    def remember(self, selector: str) -> None:
        """Keep a list to replay from."""
        self.seen.append((selector, self.kube.list(GPU_POOLS, label_selector=selector)))

    @invariant()
    def events_lead_to_the_present(self) -> None:
        """Every remembered list plus its events is the list of now: nothing lost, nothing twice."""
        for selector, listing in self.seen:
            events = self.kube.watch(GPU_POOLS, resource_version=listing.resource_version, label_selector=selector, timeout_s=0)
            now = self.kube.list(GPU_POOLS, label_selector=selector)
            assert {obj["metadata"]["name"]: obj for obj in now.items} == replayed(listing, events)

    @invariant()
    def versions_grow(self) -> None:
        """The version of the store never goes back."""
        self.versions.append(int(self.kube.list(GPU_POOLS).resource_version))
        assert sorted(self.versions) == self.versions

    def tried(self, write: Any) -> None:  # noqa: ANN401  # any verb
        """Write, or leave everything as it was."""
        before = self.kube.list(GPU_POOLS)
        try:
            write()
        except ClusterError:
            assert before == self.kube.list(GPU_POOLS)


TestReplays = Replays.TestCase
TestReplays.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class Clock:
    """Simulated time."""

    def __init__(self, now_s: float = 1_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def pod(name: str, **fields: Any) -> Json:  # noqa: ANN401  # any JSON value
    """Return a pod of one container."""
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "pause"}]}, **fields}


def bound(kube: FakeKube, name: str) -> Json:
    """Create a pod and bind it."""
    uid = kube.create(PODS, pod(name), namespace="default")["metadata"]["uid"]
    kube.bind(name, namespace="default", node="gpu-0", uid=uid, annotations={})
    return kube.get(PODS, name, namespace="default")


def test_a_seed_makes_everything_repeat() -> None:
    """Two servers of one seed and one clock hold the same bytes after the same writes."""

    def written() -> Listing:
        kube = FakeKube(seed=7, now=Clock())
        for _ in range(3):
            kube.create(PODS, {**pod(""), "metadata": {"generateName": "asr-"}}, namespace="default")
        bound(kube, "b")
        return kube.list(PODS)

    assert written() == written()


def test_timestamps_come_from_the_injected_clock() -> None:
    """Whole seconds, in UTC."""
    clock = Clock(86_400.9)
    kube = FakeKube(now=clock)
    created = kube.create(GPU_POOLS, {"metadata": {"name": "a", "finalizers": ["example.com/hold"]}})
    clock.now_s += 60

    kube.delete(GPU_POOLS, "a")

    assert created["metadata"]["creationTimestamp"] == "1970-01-02T00:00:00Z"
    assert kube.get(GPU_POOLS, "a")["metadata"]["deletionTimestamp"] == "1970-01-02T00:01:00Z"


def test_end_terminations_does_the_work_of_kubelets() -> None:
    """A bound pod goes when its grace period is over in simulated time, and not before."""
    clock = Clock()
    kube = FakeKube(now=clock)
    bound(kube, "leaving")
    bound(kube, "staying")
    kube.delete(PODS, "leaving", namespace="default", grace_period_s=30)

    left = []
    for _ in range(2):
        kube.end_terminations()
        left.append([one["metadata"]["name"] for one in kube.list(PODS).items])
        clock.now_s += 30

    assert left == [["leaving", "staying"], ["staying"]]


def test_a_watch_reaches_back_exactly_as_far_as_the_history() -> None:
    """One change more and the version is gone, also in the middle of a watch."""
    kube = FakeKube(history=3)
    since = kube.list(GPU_POOLS).resource_version
    for name in "abc":
        kube.create(GPU_POOLS, {"metadata": {"name": name}})
    slow = kube.watch(GPU_POOLS, resource_version=since, timeout_s=1)
    assert len(list(kube.watch(GPU_POOLS, resource_version=since, timeout_s=0))) == 4
    assert next(slow).object["metadata"]["name"] == "a"

    kube.create(GPU_POOLS, {"metadata": {"name": "d"}})

    with pytest.raises(GoneError):
        next(kube.watch(GPU_POOLS, resource_version=since, timeout_s=0))


def test_a_server_forgets_on_request() -> None:
    """A watch from before is gone, also one that is open and has not read all."""
    kube = FakeKube()
    since = kube.list(GPU_POOLS).resource_version
    kube.create(GPU_POOLS, {"metadata": {"name": "a"}})
    slow = kube.watch(GPU_POOLS, resource_version=since, timeout_s=1)
    assert next(slow).object["metadata"]["name"] == "a"
    kube.create(GPU_POOLS, {"metadata": {"name": "b"}})

    kube.forget_history()

    with pytest.raises(GoneError):
        next(slow)
    with pytest.raises(GoneError):
        next(kube.watch(GPU_POOLS, resource_version=since, timeout_s=0))
    now = kube.list(GPU_POOLS).resource_version
    assert ["BOOKMARK"] == [event.type for event in kube.watch(GPU_POOLS, resource_version=now, timeout_s=0)]


def test_a_long_watch_brings_bookmarks() -> None:
    """So that a quiet kind does not age out of the server's memory."""
    kube = FakeKube(bookmark_s=0.05)
    since = kube.list(GPU_POOLS).resource_version
    events = kube.watch(GPU_POOLS, resource_version=since, timeout_s=30)
    kube.create(NODES, {"metadata": {"name": "gpu-0"}})

    bookmarks = [next(events) for _ in range(2)]

    assert ["BOOKMARK"] * 2 == [event.type for event in bookmarks]
    assert [kube.list(NODES).resource_version] * 2 == [event.object["metadata"]["resourceVersion"] for event in bookmarks]


def test_what_is_restored_is_not_collected() -> None:
    """Its owner may be restored after it; from then on it goes with its owner."""
    kube = FakeKube()
    kube.create(GPU_POOLS, {"metadata": {"name": "another"}})
    ref = {"apiVersion": GPU_POOLS.api_version, "kind": GPU_POOLS.kind, "name": "owner", "uid": "u-1"}
    kube.restore(NODES, {"metadata": {"name": "owned", "ownerReferences": [ref]}})
    kube.restore(GPU_POOLS, {"metadata": {"name": "owner", "uid": "u-1"}})
    assert ["owned"] == [node["metadata"]["name"] for node in kube.list(NODES).items]

    kube.delete(GPU_POOLS, "owner")

    assert [] == kube.list(NODES).items


def test_a_watch_ends_with_a_bookmark_to_go_on_from() -> None:
    """Also when other kinds were written: their changes are not read again."""
    kube = FakeKube()
    since = kube.list(GPU_POOLS).resource_version
    kube.create(NODES, {"metadata": {"name": "gpu-0"}})

    (event,) = kube.watch(GPU_POOLS, resource_version=since, timeout_s=0)

    assert event.type == "BOOKMARK"
    assert kube.list(GPU_POOLS).resource_version == event.object["metadata"]["resourceVersion"]


def test_a_waiting_watch_wakes_up() -> None:
    """A change in another thread arrives long before the time is over."""
    kube = FakeKube()
    events = kube.watch(GPU_POOLS, resource_version=kube.list(GPU_POOLS).resource_version, timeout_s=30)
    writer = threading.Timer(0.05, kube.create, (GPU_POOLS, {"metadata": {"name": "a"}}))
    writer.start()

    assert next(events).object["metadata"]["name"] == "a"
    writer.join()


def test_threads_do_not_lose_writes() -> None:
    """Eight writers on one object: every successful compare-and-swap counts once."""
    kube = FakeKube()
    kube.create(GPU_POOLS, {"metadata": {"name": "a"}, "spec": {"count": 0}})
    since = kube.list(GPU_POOLS).resource_version

    def count_up() -> None:
        for _ in range(20):
            while True:
                meta, spec = (kube.get(GPU_POOLS, "a")[part] for part in ("metadata", "spec"))
                patch = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "spec": {"count": spec["count"] + 1}}
                try:
                    kube.patch(GPU_POOLS, "a", patch)
                except ClusterError:
                    continue
                break

    writers = [threading.Thread(target=count_up) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    counts = [
        event.object["spec"]["count"]
        for event in kube.watch(GPU_POOLS, resource_version=since, timeout_s=0)
        if event.type != "BOOKMARK"
    ]
    assert list(range(1, 161)) == counts


def test_generated_names_avoid_taken_ones() -> None:
    """A name that is taken is not generated again."""
    first = FakeKube(seed=1).create(GPU_POOLS, {"metadata": {"generateName": "p-"}})["metadata"]["name"]
    second = FakeKube(seed=1)
    second.create(GPU_POOLS, {"metadata": {"name": first}})

    assert first != second.create(GPU_POOLS, {"metadata": {"generateName": "p-"}})["metadata"]["name"]


def test_kinds_without_a_status_have_no_such_subresource() -> None:
    """An Event's status is not there to be patched, and counts no generations."""
    kube = FakeKube()
    event = kube.create(EVENTS, {"metadata": {"name": "a"}, "reason": "Placed"}, namespace="default")

    assert "generation" not in event["metadata"]
    with pytest.raises(NotFoundError):
        kube.patch_status(EVENTS, "a", {"status": {}}, namespace="default")


def test_an_object_with_a_resource_version_is_not_created() -> None:
    """It is a copy of something that exists."""
    kube = FakeKube()
    node = kube.create(NODES, {"metadata": {"name": "gpu-0"}})
    node["metadata"]["name"] = "gpu-1"

    with pytest.raises(RefusedObjectError, match=r"metadata\.resourceVersion"):
        kube.create(NODES, node)


@pytest.mark.parametrize(
    "selector",
    [
        {},
        {"matchLabels": {"app": "asr"}},
        {"matchExpressions": [{"key": "app", "operator": "In", "values": ["asr"]}]},
        {"matchLabels": {"app": "asr"}, "matchExpressions": [{"key": "other", "operator": "DoesNotExist"}]},
    ],
)
def test_a_budget_selects_pods_as_its_author_meant(selector: Json) -> None:
    """One of two pods may go, the second may not."""
    kube = FakeKube()
    spec = {"minAvailable": 1, "selector": selector}
    kube.create(DISRUPTION_BUDGETS, {"metadata": {"name": "pdb"}, "spec": spec}, namespace="default")
    for name in ("a", "b"):
        bound(kube, name)
        kube.patch(PODS, name, {"metadata": {"labels": {"app": "asr"}}}, namespace="default")
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        kube.patch_status(PODS, name, {"status": ready}, namespace="default")

    kube.evict("a", namespace="default")
    with pytest.raises(TooManyRequestsError):
        kube.evict("b", namespace="default")

    assert kube.get(DISRUPTION_BUDGETS, "pdb", namespace="default")["status"]["disruptionsAllowed"] == 0


def test_a_budget_of_another_namespace_forbids_nothing() -> None:
    """It protects what it selects in its own."""
    kube = FakeKube()
    budget = {"metadata": {"name": "pdb", "namespace": "elsewhere"}, "spec": {"minAvailable": 1, "selector": {}}}
    kube.create(DISRUPTION_BUDGETS, budget)
    bound(kube, "a")
    kube.patch_status(PODS, "a", {"status": {"phase": "Running"}}, namespace="default")

    kube.evict("a", namespace="default")

    assert "deletionTimestamp" in kube.get(PODS, "a", namespace="default")["metadata"]


def test_refusals_name_object_field_value_and_what_was_wanted() -> None:
    """One line that the author of the object understands."""
    kube = FakeKube()

    with pytest.raises(RefusedObjectError) as caught:
        kube.create(PODS, {**pod("a"), "metadata": {"name": "a", "labels": {"app": "bad value"}}}, namespace="default")

    assert str(caught.value).startswith("pod default/a: metadata.labels[app] is 'bad value'; want at most 63 letters")
    kube.create(PODS, pod("a"), namespace="default")
    with pytest.raises(AlreadyExistsError, match="pod default/a exists already"):
        kube.create(PODS, pod("a"), namespace="default")


def test_the_stand_ins_need_no_test_runner_and_no_client() -> None:
    """A program that simulates imports neither pytest nor the official client with FakeKube."""
    code = "import sys, tfscale.testing; print(sorted({'pytest', 'kubernetes', 'boto3'} & set(sys.modules)))"

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"  # noqa: S603  # our own code
