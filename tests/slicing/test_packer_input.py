"""What the packer says to demands and nodes that it cannot use, and of what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.slicing.test_pack import a_demand, a_node, a_share
from tfscale.errors import BadInputError
from tfscale.model import INSTANCE_TYPE, BoundPod, Demand, Gpu, GpuSlice, Node, Request
from tfscale.slicing import Packer, Weights

T4 = Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000)
HALF = Request(gpu_count=1, vram_mib=8_192, compute_milli=500)


def a_packer(*nodes: Node) -> Packer:
    """Return a packer that expects nothing in particular."""
    return Packer(nodes or [a_node("n")], typical={})


def held(vram_mib: int, compute_milli: int, *, gpu_id: str = "0") -> BoundPod:
    """Return a pod that holds this of a card."""
    part = GpuSlice(gpu_id=gpu_id, vram_mib=vram_mib, compute_milli=compute_milli)
    return BoundPod(id="x/y", uid="held", request=a_share(vram_mib), slices=(part,))


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (Request(cpu_milli=-1), "cpu_milli is '-1'; want 0 or more"),
        (Request(memory_mib=-1), "memory_mib is '-1'; want 0 or more"),
        (Request(gpu_count=-1), "gpu_count is '-1'; want 0 or more"),
        (Request(gpu_count=1, vram_mib=-1), "vram_mib is '-1'; want 0 or more"),
        (Request(gpu_count=1, compute_mtflops=-1), "compute_mtflops is '-1'; want 0 or more"),
        (Request(gpu_count=1, compute_milli=-1), "compute_milli is '-1'; want 0 or more"),
        (
            Request(gpu_count=1, compute_mtflops=1, compute_milli=2),
            "compute_mtflops is '1'; want nothing beside compute_milli 2",
        ),
        (Request(vram_mib=1), "gpu_count is '0'; want 1 or more, as parts of a card are asked"),
        (Request(compute_milli=1), "gpu_count is '0'; want 1 or more, as parts of a card are asked"),
        (Request(compute_mtflops=1), "gpu_count is '0'; want 1 or more, as parts of a card are asked"),
        (Request(whole=True), "gpu_count is '0'; want 1 or more, as parts of a card are asked"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(request_: Request, line: str) -> None:
    """Placed or pinned: pod, field, value and what was expected; nothing is changed by it."""
    packer = a_packer()

    for verb in (packer.place, lambda demand: packer.pin(demand, "n")):
        with pytest.raises(BadInputError) as refused:
            verb(a_demand("a", request_))
        assert f"pod default/a: {line}" == str(refused.value)
    assert (a_node("n"),) == packer.snapshot()
    assert 1 == len(packer.explain(a_demand("a", request_)))


def test_a_pod_gets_one_place() -> None:
    """The second demand of a uid is refused, whoever placed the first; a pod that is to move may hold two."""
    packer = a_packer(a_node("n", cards=2, pods=(held(1, 1),)))
    packer.place(a_demand("a", HALF))

    for uid in ("a", "held"):
        with pytest.raises(BadInputError, match=f"pod default/{uid}: uid is '{uid}'; want a pod without a place"):
            packer.place(a_demand(uid, HALF))
    assert packer.place(a_demand("held", HALF), moving=True)
    with pytest.raises(BadInputError, match="want a pod without a place"):
        packer.place(a_demand("held", HALF), moving=True)


def test_a_node_of_a_name_that_is_taken_is_refused() -> None:
    """At the start and later."""
    with pytest.raises(BadInputError, match=r"node n: metadata\.name is 'n'; want a unique name"):
        a_packer(a_node("n"), a_node("n"))
    with pytest.raises(BadInputError, match=r"node n: metadata\.name is 'n'; want a unique name"):
        a_packer().add(a_node("n"))


def test_a_node_that_is_not_there_is_told() -> None:
    """A name that is mistyped must not pass for done. A pin to a node that is gone is just not held."""
    packer = a_packer()

    with pytest.raises(BadInputError, match="packer: node is 'm'; want a node that is there"):
        packer.drop("m")
    with pytest.raises(BadInputError, match="packer: node is 'm'; want a node that is there"):
        packer.fence("m", "cordoned")
    assert packer.pin(a_demand("a", HALF), "m") is None
    assert not packer.remove("nobody")


def test_records_beyond_a_card_leave_nothing_and_no_debt() -> None:
    """Such a card takes a slice of nothing and no other; when the pod is gone the card is all there."""
    packer = a_packer(a_node("n", pods=(held(99_999, 9_999),)))

    assert packer.place(a_demand("a", HALF)) is None
    assert ("1 x T4: 1 node: needs 8192 MiB VRAM on one card, at most 0 free, 8192 too few",) == packer.explain(
        a_demand("a", HALF)
    )
    assert packer.place(a_demand("b", a_share(0)))
    packer.remove("held")
    assert packer.place(a_demand("a", a_share(16_384)))


def test_a_node_with_a_pod_on_a_card_that_it_does_not_have_takes_nobody() -> None:
    """Which is said; with that pod gone it takes pods again."""
    packer = a_packer(a_node("n", pods=(held(1, 1, gpu_id="7"),)))

    assert packer.place(a_demand("a", Request())) is None
    assert ("1 x T4: 1 node: a pod holds card 7, which the node does not have",) == packer.explain(a_demand("a", Request()))
    packer.remove("held")
    assert packer.place(a_demand("a", Request()))


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (Request(gpu_count=1, gpu_models=("H100",)), "g4, 2 x T4: 1 node: needs GPU model H100"),
        (a_share(16_385), "g4, 2 x T4: 1 node: needs 16385 MiB VRAM on one card, at most 16384 free, 1 too few"),
        (a_share(0, gpu_count=3), "g4, 2 x T4: 1 node: needs 3 cards on one node, at most 2 there, 1 too few"),
        (
            Request(gpu_count=1, compute_mtflops=65_001),
            "g4, 2 x T4: 1 node: needs 65001 mTFLOPs on one card, at most 65000 free, 1 too few",
        ),
        (
            Request(gpu_count=2, compute_milli=1_001),
            "g4, 2 x T4: 1 node: needs 1001 milli compute on each of 2 cards, at most 1000 free, 1 too few",
        ),
        (Request(cpu_milli=64_001), "g4, 2 x T4: 1 node: needs 64001m CPU, at most 64000 free, 1 too few"),
        (Request(memory_mib=262_145), "g4, 2 x T4: 1 node: needs 262145 MiB memory, at most 262144 free, 1 too few"),
    ],
)
def test_what_no_node_can_ever_take_is_refused_with_what_is_missing(request_: Request, line: str) -> None:
    """Larger than any card, of a model that nobody has, more than a node: not placed, and by how much it is too large."""
    packer = a_packer(replace(a_node("n", cards=2), labels={INSTANCE_TYPE: "g4"}))

    assert packer.place(a_demand("a", request_)) is None
    assert (line,) == packer.explain(a_demand("a", request_))


def test_each_class_of_nodes_has_its_own_lines() -> None:
    """Alike are nodes of one type with the same cards; of each the most frequent cause comes first."""
    l4 = Gpu(id="0", model="L4", vram_mib=22_888, mtflops=121_000)
    packer = a_packer(
        *(replace(a_node(name), fenced="cordoned") for name in "ab"),
        a_node("c"),
        replace(a_node("d"), gpus=(l4, replace(T4, id="1"))),
        a_node("e", cards=0),
        replace(a_node("f"), pool="other"),
    )

    assert (
        "1 x L4, 1 x T4: 1 node: needs 40000 MiB VRAM on one card, at most 22888 free, 17112 too few",
        "1 x T4: 2 nodes: cordoned",
        "1 x T4: 1 node: needs 40000 MiB VRAM on one card, at most 16384 free, 23616 too few",
        "no GPU: 1 node: needs a GPU",
    ) == packer.explain(a_demand("a", a_share(40_000)))


def test_without_a_node_of_the_pool_that_is_the_explanation() -> None:
    """Also when there is no node at all."""
    for packer in (Packer([], typical={}), a_packer(replace(a_node("n"), pool="other"))):
        assert packer.place(a_demand("a", HALF)) is None
        assert ("no node of pool inference",) == packer.explain(a_demand("a", HALF))


def test_a_blocked_demand_is_explained_by_what_blocks_it() -> None:
    """It is placed nowhere, pinned nowhere, and nobody is blamed for it."""
    packer, blocked = a_packer(), replace(a_demand("a", HALF), blocked="asks for a volume")

    assert (None, None) == (packer.place(blocked), packer.pin(blocked, "n"))
    assert ("asks for a volume",) == packer.explain(blocked)


@pytest.mark.parametrize("name", ["worth", "useless", "scarcity", "free", "step"])
def test_without_one_part_of_the_score_every_demand_that_fits_is_still_placed(name: str) -> None:
    """Weights decide where, never whether."""
    packer = Packer([a_node("a"), a_node("b")], typical={HALF: 1}, weights=replace(Weights(), **{name: 0}))
    demands = [a_demand(str(number), HALF) for number in range(4)]

    assert demands == [placed.demand for demand in demands if (placed := packer.place(demand))]


def test_a_node_that_comes_is_of_use_at_once_and_one_that_goes_is_not() -> None:
    """With its kind of card known or new, with a row to spare or none."""
    packer, demand = a_packer(), Demand(id="x/a", uid="a", pool="inference", request=replace(HALF, gpu_models=("L4",)))
    node = replace(a_node("l"), gpus=(Gpu(id="0", model="L4", vram_mib=22_888, mtflops=121_000),))

    for _ in range(3):
        assert packer.place(demand) is None
        packer.add(node)
        placed = packer.place(demand)
        assert placed is not None
        assert "l" == placed.node
        packer.drop("l")


def test_a_pod_that_moves_keeps_both_places_when_a_new_kind_of_node_comes() -> None:
    """The new one is given up first, then the old one; each frees what it held."""
    t4, l4 = (Gpu(id="0", model=model, vram_mib=16_384, mtflops=65_000) for model in ("T4", "L4"))
    request = Request(gpu_count=1, compute_milli=1_000)
    bound = BoundPod(id="x/a", uid="a", request=request, slices=(GpuSlice(gpu_id="0", vram_mib=0, compute_milli=1_000),))
    nodes = [
        Node(name=name, pool="p", gpus=(t4,), cpu_milli=1_000, memory_mib=1_024, pods=pods)
        for name, pods in (("old", (bound,)), ("new", ()))
    ]
    packer = Packer(nodes, typical={})
    demand = Demand(id="x/a", uid="a", pool="p", request=request)

    assert packer.place(demand, moving=True) is not None
    packer.add(Node(name="other", pool="q", gpus=(l4,), cpu_milli=1_000, memory_mib=1_024))
    assert [1, 1, 0] == [len(node.pods) for node in packer.snapshot()]
    assert packer.remove("a")
    assert [1, 0, 0] == [len(node.pods) for node in packer.snapshot()]
    assert packer.remove("a")
    assert [0, 0, 0] == [len(node.pods) for node in packer.snapshot()]
    assert not packer.remove("a")
