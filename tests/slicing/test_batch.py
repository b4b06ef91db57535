"""Demands that belong together: gangs, pods that must be apart, and batches of which not all find a place."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.model import CARD_MILLI, BoundPod, Demand, Gpu, Node, Offer, Request
from tfscale.slicing import Packer, Packing, pack, shop

GANGS = st.sampled_from(["", "", "one", "two"])
demand_lists = st.lists(
    st.builds(
        lambda demand, gang, apart: replace(demand, gang=gang, apart=apart),
        st.from_type(Demand),
        GANGS,
        st.sampled_from(["", "", "web"]),
    ),
    max_size=10,
    unique_by=lambda demand: demand.uid,
)
node_lists = st.lists(st.from_type(Node), max_size=5, unique_by=lambda node: node.name)
T4 = Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000)


def a_node(name: str, *, cards: int = 1, cpu_milli: int = 64_000, pods: tuple[BoundPod, ...] = ()) -> Node:
    """Return a node of T4 cards."""
    gpus = tuple(replace(T4, id=str(index)) for index in range(cards))
    return Node(name=name, pool="inference", gpus=gpus, cpu_milli=cpu_milli, memory_mib=262_144, pods=pods)


def a_demand(uid: str, milli: int = 0, *, gang: str = "", apart: str = "", created_s: int = 0, cpu_milli: int = 0) -> Demand:
    """Return a demand for a share of one card; 0 asks for none."""
    request = Request(gpu_count=1, compute_milli=milli, cpu_milli=cpu_milli) if milli else Request(cpu_milli=cpu_milli)
    return Demand(id=f"default/{uid}", uid=uid, pool="inference", request=request, gang=gang, apart=apart, created_s=created_s)


def filled_milli(packing: Packing, demands: list[Demand], nodes: list[Node]) -> list[int]:
    """Return what is taken of the cards, by priority, from the highest."""
    vram = {(node.name, gpu.id): gpu.vram_mib for node in nodes for gpu in node.gpus}
    taken = Counter({demand.priority: 0 for demand in demands})
    for item in packing.placed:
        for part in item.slices:
            share = part.vram_mib * CARD_MILLI // max(vram[item.node, part.gpu_id], 1)
            taken[item.demand.priority] += max(share, part.compute_milli)
    return [taken[priority] for priority in sorted(taken, reverse=True)]


@given(demand_lists, node_lists, st.booleans())
def test_a_gang_is_placed_wholly_or_not_at_all(demands: list[Demand], nodes: list[Node], by_age: bool) -> None:  # noqa: FBT001 - drawn
    """Whatever else waits, and also where one member cannot be placed anywhere."""
    packing = pack(demands, nodes, by_age=by_age)

    there = Counter(item.demand.gang for item in packing.placed if item.demand.gang)
    pools = {demand.gang: {other.pool for other in demands if other.gang == demand.gang} for demand in demands}
    for gang, number in there.items():
        assert 1 == len(pools[gang])
        assert sum(demand.gang == gang for demand in demands) == number
    assert len(demands) == len(packing.placed) + len(packing.left)


@given(demand_lists, node_lists, st.booleans())
def test_pods_that_must_be_apart_are_on_different_nodes(demands: list[Demand], nodes: list[Node], by_age: bool) -> None:  # noqa: FBT001 - drawn
    """Two of one name never share a node."""
    names = defaultdict(list)
    for item in pack(demands, nodes, by_age=by_age).placed:
        if item.demand.apart:
            names[item.node].append(item.demand.apart)

    assert all(len(found) == len(set(found)) for found in names.values())


@given(demand_lists, node_lists)
def test_a_batch_fills_no_less_than_one_by_one(demands: list[Demand], nodes: list[Node]) -> None:
    """By priority, from the highest; where all find a place nothing is done differently."""
    fair, dense = pack(demands, nodes), pack(demands, nodes, by_age=False)

    assert filled_milli(dense, demands, nodes) >= filled_milli(fair, demands, nodes)
    if not fair.left:
        assert fair == dense


@given(demand_lists, node_lists, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_input_does_not_matter(demands: list[Demand], nodes: list[Node], random: Random, by_age: bool) -> None:  # noqa: FBT001 - drawn
    """Also with gangs, pods that must be apart, and several orders tried."""
    shuffled = random.sample(demands, len(demands)), random.sample(nodes, len(nodes))

    assert pack(demands, nodes, by_age=by_age) == pack(*shuffled, by_age=by_age)


def test_a_batch_prefers_what_fills_the_cards() -> None:
    """A pod without cards is older than the one that needs the CPU beside its card, and one card than a pair of them."""
    node = a_node("n", cards=2, cpu_milli=8_000)
    pair = replace(a_demand("pair", 1_000, created_s=2), request=Request(gpu_count=2, compute_milli=1_000))
    batches = [
        [a_demand("web", cpu_milli=8_000), a_demand("asr", 500, cpu_milli=1_000, created_s=1)],
        [a_demand("asr", 500), pair],
    ]

    placed = [
        [{item.demand.uid for item in pack(batch, [node], by_age=by_age).placed} for by_age in (True, False)] for batch in batches
    ]

    assert [[{"web"}, {"asr"}], [{"asr"}, {"pair"}]] == placed


def test_every_member_of_a_gang_that_is_left_is_told_which_one_has_no_place() -> None:
    """And the others of the same size take the room that it would have had."""
    gang = [a_demand(f"train-{index}", 1000, gang="train") for index in range(3)]
    packing = pack([*gang, a_demand("asr", 1000, created_s=1)], [a_node("n", cards=2)])

    assert ["asr"] == [item.demand.uid for item in packing.placed]
    reason = "gang train: 1 of 3 without a place, default/train-2: 1 node: needs 1000 milli compute on one card, at most 0 free"
    assert [(reason,)] * 3 == [item.reasons for item in packing.left]


def test_a_gang_with_a_member_that_cannot_be_read_is_left() -> None:
    """Half of it would wait for ever."""
    gang = [a_demand("a", 100, gang="g"), replace(a_demand("b", 100, gang="g"), blocked="asks for a volume")]

    assert {"a": ("gang g: default/b: asks for a volume",), "b": ("asks for a volume",)} == {
        item.demand.uid: item.reasons for item in pack(gang, [a_node("n")]).left
    }


def test_a_pinned_member_goes_when_its_gang_goes() -> None:
    """A place that was kept for it is free again."""
    gang = [a_demand("a", 600, gang="g"), a_demand("b", 600, gang="g")]
    packing = pack([*gang, a_demand("c", 900, created_s=1)], [a_node("n")], pinned={"a": "n"})

    assert ["c"] == [item.demand.uid for item in packing.placed]


def test_a_pod_that_is_bound_keeps_others_of_its_name_away() -> None:
    """Until it is gone; the explanation says so."""
    web = BoundPod(id="default/web-0", uid="web-0", request=Request(), apart="web")
    packer = Packer([a_node("n", pods=(web,))], typical={})
    demand = a_demand("web-1", apart="web")

    assert packer.place(demand) is None
    assert ("1 x T4: 1 node: a pod of web is there",) == packer.explain(demand)
    assert packer.place(a_demand("other", apart="other")) is not None
    assert packer.remove("web-0")
    assert packer.place(demand) is not None
    assert packer.place(a_demand("web-2", apart="web")) is None
    assert packer.remove("web-1")
    assert packer.place(a_demand("web-2", apart="web")) is not None


@pytest.mark.parametrize(
    ("demand", "reason"),
    [
        (a_demand("a", 500, gang="g"), "nodes are not bought for gang g"),
        (a_demand("a", 500, apart="web"), "nodes are not bought for pods of web, which must be apart"),
    ],
)
def test_nothing_is_bought_for_demands_that_belong_together(demand: Demand, reason: str) -> None:
    """Bought for one by one, half a gang would stand there."""
    offer = Offer(
        instance_type="small",
        zone="a",
        capacity_type="spot",
        gpu_model="T4",
        gpu_count=1,
        vram_mib=16_384,
        mtflops=65_000,
        cpu_milli=4_000,
        memory_mib=16_384,
        price_micro_usd=1,
    )
    shopping = shop([demand], [offer], pool="inference")

    assert () == shopping.purchases
    assert [(reason,)] == [item.reasons for item in shopping.left]
