"""Nodes of others, taken into a pool and handed back: what is refused, what is written, and what is left in the end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.adoption import Result, adopt, hand_back
from tfscale.errors import ClusterUnreachableError
from tfscale.gpus import GpuTable
from tfscale.kube.convert import advertisement
from tfscale.kube.port import DISRUPTION_BUDGETS, GPU_POOLS, NODES, PODS, Json, Kind
from tfscale.model import Mirror
from tfscale.testing import FakeKube

GPUS = GpuTable()
AMOUNTS = {"cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "1"}
NODE: Json = {
    "metadata": {"name": "a", "labels": {"nvidia.com/gpu.product": "NVIDIA-L4", "team": "vision"}, "annotations": {"note": "x"}},
    "spec": {"providerID": "aws:///us-east-1a/i-1", "taints": [{"key": "gpu", "effect": "NoSchedule"}]},
    "status": {"capacity": AMOUNTS, "allocatable": AMOUNTS, "conditions": [{"type": "Ready", "status": "True"}]},
}


class DyingKube(FakeKube):
    """An API server that is away from one write on."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.left = 99

    def patch(self, kind: Kind, name: str, patch: Any, **options: Any) -> Json:  # noqa: ANN401 - as the verb
        """Write, unless it is over."""
        self._count()
        return super().patch(kind, name, patch, **options)

    def patch_status(self, kind: Kind, name: str, patch: Any, **options: Any) -> Json:  # noqa: ANN401 - as the verb
        """Write, unless it is over."""
        self._count()
        return super().patch_status(kind, name, patch, **options)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ClusterUnreachableError("gone")


def cluster(node: Json = NODE) -> DyingKube:
    """Return a cluster with two pools and one node of somebody else."""
    kube = DyingKube()
    for name in ("mine", "other"):
        kube.create(GPU_POOLS, {"metadata": {"name": name}, "spec": {"mode": "static"}})
    kube.create(NODES, copy.deepcopy(node))
    return kube


def taken(kube: FakeKube, pool: str = "mine", **options: Any) -> Result:  # noqa: ANN401 - any option
    """Return what becomes of node a when it is adopted."""
    (result,) = adopt(kube, ["a"], pool=pool, gpus=GPUS, **options)
    return result


def returned(kube: FakeKube, **options: Any) -> Result:  # noqa: ANN401 - any option
    """Return what becomes of node a when it is handed back, while nobody ends pods."""
    (result,) = hand_back(kube, ["a"], **{"wait_s": 0, "sleep": lambda _: None, **options})
    return result


def place(kube: FakeKube, name: str, scheduler: str = "tfscale") -> None:
    """Let a pod run on the node."""
    container = {"name": "main", "image": "example/main"}
    spec = {"schedulerName": scheduler, "nodeName": "a", "terminationGracePeriodSeconds": 0, "containers": [container]}
    pod = {"metadata": {"name": name, "namespace": "default", "labels": {"app": name}}, "spec": spec}
    kube.create(PODS, pod, namespace="default")
    kube.patch_status(
        PODS, name, {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}, namespace="default"
    )


def seen(kube: FakeKube) -> Json:
    """Return the node without what every write changes."""
    node = kube.get(NODES, "a")
    for key in ("resourceVersion", "managedFields", "generation"):
        node["metadata"].pop(key, None)
    return node


def test_an_adopted_node_is_of_the_pool_and_says_so_when_asked_again() -> None:
    """A dry run changes nothing."""
    kube = cluster()
    before = seen(kube)

    assert ("done", before) == (taken(kube, dry_run=True).verdict, seen(kube))
    assert "node/a adopted into pool mine" == str(taken(kube))
    meta = seen(kube)["metadata"]
    assert ("mine", "open") == (meta["labels"]["tfscale.io/pool"], meta["annotations"]["tfscale.io/adopted"])
    assert "node/a is of pool mine already" == str(taken(kube))


WITHOUT_GPUS = {**NODE["status"], "allocatable": {"cpu": "1"}, "capacity": {}}


@pytest.mark.parametrize(
    ("change", "pool", "says"),
    [
        (lambda _: None, "none", "there is no gpupool none"),
        (lambda node: node["metadata"]["labels"].update({"tfscale.io/pool": "other"}), "mine", "it is of pool other"),
        (lambda node: node["spec"].update(unschedulable=True), "mine", "it is cordoned"),
        (lambda node: node.update(status=WITHOUT_GPUS), "mine", "it has no GPUs"),
        (lambda node: node["metadata"].update(labels={}), "mine", "its GPU model is not known"),
    ],
    ids=["no pool", "of another pool", "cordoned", "no GPUs", "no model"],
)
def test_what_cannot_be_adopted_says_why_and_stays_as_it_is(change: Callable[[Json], object], pool: str, says: str) -> None:
    """Each in words."""
    node = copy.deepcopy(NODE)
    change(node)
    kube = cluster(node)
    before, result = seen(kube), taken(kube, pool)

    assert ("refused", True, before) == (result.verdict, result.says.startswith(f"not adopted: {says}"), seen(kube))


def test_one_bad_name_keeps_no_other_node_from_being_adopted() -> None:
    """Every node has its own answer, each once."""
    kube = cluster()
    results = adopt(kube, ["none", "a", "a"], pool="mine", gpus=GPUS)

    assert ["node/none does not exist", "node/a adopted into pool mine"] == [str(one) for one in results]


@given(cordoned=st.booleans(), told=st.booleans(), dies=st.lists(st.integers(0, 4), max_size=4))
def test_a_node_is_handed_back_as_it_was(*, cordoned: bool, told: bool, dies: list[int]) -> None:
    """Whatever was written on it meanwhile, wherever the command was cut off before it was asked again."""
    kube = cluster()
    before = seen(kube)
    taken(kube)
    if told:
        kube.patch_status(NODES, "a", advertisement(Mirror(vram_mib=1, mtflops=2)))
    if cordoned:
        kube.patch(NODES, "a", {"spec": {"unschedulable": True}})
    for writes in dies:
        kube.left = writes
        returned(kube)
    kube.left = 99
    last = returned(kube)
    if cordoned:
        before["spec"]["unschedulable"] = True

    assert before == seen(kube)
    assert last.says in {"handed back", "was not adopted: left alone"}


def test_our_pods_leave_first_and_those_of_others_stay() -> None:
    """Nothing new is placed there meanwhile."""
    kube = cluster()
    taken(kube)
    place(kube, "ours")
    place(kube, "theirs", "default-scheduler")
    first = returned(kube)

    assert ("waits", "waits until default/ours left it") == (first.verdict, first.says)
    assert (True, "mine") == (seen(kube)["spec"]["unschedulable"], seen(kube)["metadata"]["labels"]["tfscale.io/pool"])
    assert "handed back" == returned(kube).says
    assert ["theirs"] == [pod["metadata"]["name"] for pod in kube.list(PODS).items]


def test_budgets_are_respected_and_named() -> None:
    """It is asked again until the time is over."""
    kube = cluster()
    taken(kube)
    place(kube, "ours")
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "ours"}}}
    kube.create(DISRUPTION_BUDGETS, {"metadata": {"name": "all", "namespace": "default"}, "spec": spec}, namespace="default")
    slept: list[float] = []
    result = returned(kube, wait_s=10, sleep=slept.append)

    assert ("waits until default/ours left it, 1 of them held by a budget", 5) == (result.says, len(slept))


def test_what_was_not_adopted_is_not_handed_back() -> None:
    """A node that was bought, or labelled by hand, is not touched."""
    kube = cluster()
    before = seen(kube)

    assert ("was not adopted: left alone", before) == (returned(kube).says, seen(kube))


def test_a_dry_run_of_a_return_says_who_would_have_to_leave() -> None:
    """And changes nothing."""
    kube = cluster()
    taken(kube)
    place(kube, "ours")
    before = seen(kube)

    assert "would be handed back after default/ours left it" == returned(kube, dry_run=True).says
    assert before == seen(kube)
