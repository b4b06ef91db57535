"""What the packer says of a demand that it leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tfscale.model import BoundPod, Demand, Gpu, GpuSlice, Node, Request
from tfscale.selectors import Operator, Requirement, Taint
from tfscale.slicing import pack

T4 = Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000)


def a_node(name: str, *, cards: int = 1, cpu_milli: int = 64_000, pods: tuple[BoundPod, ...] = ()) -> Node:
    """Return a node of T4 cards."""
    gpus = tuple(replace(T4, id=str(index)) for index in range(cards))
    return Node(name=name, pool="inference", gpus=gpus, cpu_milli=cpu_milli, memory_mib=262_144, pods=pods)


def a_demand(uid: str, request: Request) -> Demand:
    """Return a demand without constraints."""
    return Demand(id=f"default/{uid}", uid=uid, pool="inference", request=request)


def a_share(vram_mib: int, *, gpu_count: int = 1, cpu_milli: int = 0) -> Request:
    """Return a request for some VRAM."""
    return Request(gpu_count=gpu_count, vram_mib=vram_mib, compute_milli=0, cpu_milli=cpu_milli)


def test_reasons_group_nodes_by_cause() -> None:
    """Each node is counted once, under the first thing that is in the way, most frequent first."""
    node = a_node("a")
    nodes = [
        node,
        replace(node, name="b"),
        replace(node, name="c", gpus=(replace(T4, vram_mib=22_888),)),
        replace(node, name="d", taints=(Taint(key="gpu", value="true"),)),
        replace(node, name="e", taints=(Taint(key="gpu", value="true"),)),
        replace(node, name="f", ready=False),
        replace(node, name="g", pool="other"),
    ]

    left = pack([a_demand("a", a_share(40_960))], nodes).left

    assert (
        "3 nodes: needs 40960 MiB VRAM on one card, at most 22888 free",
        "2 nodes: taint gpu=true:NoSchedule is not tolerated",
        "1 node: not ready",
    ) == left[0].reasons


_WHOLE_POD = BoundPod(
    id="x/y",
    uid="9",
    request=Request(gpu_count=1, whole=True),
    slices=(GpuSlice(gpu_id="0", vram_mib=16_384, compute_milli=1_000),),
)
_HALF_POD = BoundPod(id="x/y", uid="9", request=a_share(8_192), slices=(GpuSlice(gpu_id="0", vram_mib=8_192, compute_milli=600),))
_STRAY_POD = BoundPod(id="x/y", uid="9", request=a_share(1), slices=(GpuSlice(gpu_id="5", vram_mib=1, compute_milli=0),))


_HALF = a_node(
    "n", cards=2, pods=(_HALF_POD, replace(_HALF_POD, slices=(GpuSlice(gpu_id="1", vram_mib=9_000, compute_milli=700),)))
)


@pytest.mark.parametrize(
    ("node", "request_", "cause"),
    [
        (a_node("n", cards=0), a_share(1), "needs a GPU"),
        (a_node("n"), Request(gpu_count=1, gpu_models=("H100", "L4")), "needs GPU model H100 or L4"),
        (a_node("n", cards=2), a_share(1, gpu_count=4), "needs 4 cards on one node, at most 2 there"),
        (_HALF, a_share(8_000, gpu_count=2), "needs 8000 MiB VRAM on each of 2 cards, at most 7384 free"),
        (_HALF, Request(gpu_count=1, whole=True), "needs 1 empty card, at most 0 there"),
        (_HALF, Request(gpu_count=1, compute_milli=500), "needs 500 milli compute on one card, at most 400 free"),
        (_HALF, Request(gpu_count=1, compute_mtflops=30_000), "needs 30000 mTFLOPs on one card, at most 26000 free"),
        (a_node("n", pods=(_WHOLE_POD,)), a_share(0), "needs 1 card to share, at most 0 not held whole"),
        (a_node("n", cpu_milli=900), Request(cpu_milli=1_000), "needs 1000m CPU, at most 900 free"),
        (a_node("n"), Request(memory_mib=300_000), "needs 300000 MiB memory, at most 262144 free"),
        (replace(a_node("n"), pods_max=0), Request(), "needs room for one more pod"),
        (replace(a_node("n"), fenced="cordoned"), Request(), "cordoned"),
        (a_node("n", pods=(_STRAY_POD,)), Request(), "a pod holds card 5, which the node does not have"),
    ],
)
def test_the_reason_names_what_is_missing(node: Node, request_: Request, cause: str) -> None:
    """Each thing that a node can lack has its own sentence with both numbers."""
    left = pack([a_demand("a", request_)], [node]).left

    assert [(f"1 node: {cause}",)] == [item.reasons for item in left]


def test_without_a_node_of_the_pool_that_is_the_reason() -> None:
    """Nodes of other pools are not spoken of."""
    left = pack([a_demand("a", Request())], [replace(a_node("n"), pool="other")]).left

    assert [("no node of pool inference",)] == [item.reasons for item in left]


def test_vram_and_compute_must_be_free_on_the_same_card() -> None:
    """One card with VRAM and another with compute do not add up, and the reason says so."""
    no_vram, no_compute = (
        GpuSlice(gpu_id="0", vram_mib=16_384, compute_milli=0),
        GpuSlice(gpu_id="1", vram_mib=0, compute_milli=1_000),
    )
    held = BoundPod(id="x/y", uid="9", request=Request(gpu_count=2), slices=(no_vram, no_compute))

    left = pack([a_demand("a", Request(gpu_count=1, vram_mib=1, compute_milli=1))], [a_node("n", cards=2, pods=(held,))]).left

    assert ("1 node: needs VRAM and compute together on one card",) == left[0].reasons


def test_labels_that_do_not_match_are_told() -> None:
    """The reason repeats what the pod asks for."""
    zone = Requirement(key="zone", operator=Operator.IN, values=("a", "b"))
    demand = replace(a_demand("a", Request()), terms=((zone,), (Requirement(key="gpu", operator=Operator.EXISTS),)))

    left = pack([demand], [a_node("n")]).left

    assert ("1 node: labels do not match zone In a,b or gpu Exists",) == left[0].reasons
