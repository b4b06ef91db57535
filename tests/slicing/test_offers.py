"""Which nodes are bought for what is left: what must hold for every input, then single cases."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.model import Demand, Offer, Request
from tfscale.selectors import Operator, Requirement, Taint
from tfscale.slicing import Purchase, Shopping, imagine, pack, shop

demand_lists = st.lists(st.from_type(Demand), max_size=10, unique_by=lambda demand: demand.uid)
offer_lists = st.lists(st.from_type(Offer), max_size=6, unique_by=lambda offer: offer.id)
limits = st.none() | st.integers(0, 5)
money = st.none() | st.sampled_from([0, 400_000, 1_000_000, 5_000_000])

SMALL = Offer(
    instance_type="small",
    zone="a",
    capacity_type="on-demand",
    gpu_model="T4",
    gpu_count=1,
    vram_mib=16_384,
    mtflops=65_000,
    cpu_milli=4_000,
    memory_mib=16_384,
    price_micro_usd=500_000,
)
LARGE = replace(SMALL, instance_type="large", gpu_count=4, cpu_milli=48_000, memory_mib=196_608, price_micro_usd=3_900_000)
UNPRICED = replace(SMALL, instance_type="unpriced", gpu_model="L4", vram_mib=22_888, price_micro_usd=None)


def a_demand(uid: str, *, vram_mib: int = 8_192, gpu_count: int = 1, cpu_milli: int = 0, priority: int = 0) -> Demand:
    """Return a demand for some VRAM."""
    request = Request(gpu_count=gpu_count, vram_mib=vram_mib, compute_milli=0, cpu_milli=cpu_milli)
    return Demand(id=f"default/{uid}", uid=uid, pool="inference", request=request, priority=priority)


def bought(shopping: Shopping) -> list[tuple[str, set[str]]]:
    """Return instance types with the uids they are bought for."""
    return [(purchase.offer.instance_type, uids(purchase)) for purchase in shopping.purchases]


def uids(purchase: Purchase) -> set[str]:
    """Return what a node is bought for."""
    return {placed.demand.uid for placed in purchase.placed}


def hosts(offer: Offer, demands: list[Demand]) -> bool:
    """Return whether the node that the offer becomes takes all of the demands that were promised to it."""
    node = imagine(offer, name="n", pool="inference")
    return pack(demands, [node], pinned={demand.uid: "n" for demand in demands}).left == ()


@given(demand_lists, offer_lists, limits, limits, money)
def test_every_demand_is_bought_for_or_left_once(
    demands: list[Demand], offers: list[Offer], nodes_max: int | None, gpus_max: int | None, micro_usd_max: int | None
) -> None:
    """Nothing is lost, nobody is left without a word and nothing is bought for nobody."""
    shopping = shop(demands, offers, pool="inference", nodes_max=nodes_max, gpus_max=gpus_max, micro_usd_max=micro_usd_max)

    placed = [item.demand.uid for purchase in shopping.purchases for item in purchase.placed]
    left = [item.demand.uid for item in shopping.left]
    assert sorted(demand.uid for demand in demands) == sorted(placed + left)
    assert all(purchase.placed for purchase in shopping.purchases)
    assert all(item.reasons and all(item.reasons) for item in shopping.left)


@given(demand_lists, offer_lists, limits, limits, money)
def test_whatever_alternative_is_launched_takes_what_it_was_bought_for(
    demands: list[Demand], offers: list[Offer], nodes_max: int | None, gpus_max: int | None, micro_usd_max: int | None
) -> None:
    """Each alternative is of the same capacity type and, once it is a node, the packer finds the same room on it."""
    shopping = shop(demands, offers, pool="inference", nodes_max=nodes_max, gpus_max=gpus_max, micro_usd_max=micro_usd_max)

    for purchase in shopping.purchases:
        assert purchase.offer == purchase.alternatives[0]
        assert {purchase.offer.capacity_type} == {offer.capacity_type for offer in purchase.alternatives}
        assert len({offer.id for offer in purchase.alternatives}) == len(purchase.alternatives) <= 20
        assert all(hosts(offer, [item.demand for item in purchase.placed]) for offer in purchase.alternatives)


@given(demand_lists, offer_lists)
def test_slices_are_those_of_the_node_that_the_offer_becomes(demands: list[Demand], offers: list[Offer]) -> None:
    """What is announced for a purchase is what the packer does on that node."""
    for purchase in shop(demands, offers, pool="inference").purchases:
        name = purchase.placed[0].node
        mine = [item.demand for item in purchase.placed]
        node = imagine(purchase.offer, name=name, pool="inference")
        assert purchase.placed == pack(mine, [node], pinned={demand.uid: name for demand in mine}).placed


@given(demand_lists, offer_lists)
def test_without_limits_only_what_no_offer_hosts_is_left(demands: list[Demand], offers: list[Offer]) -> None:
    """A demand is left only if it would not fit alone on a node of any offer."""
    left = [item.demand for item in shop(demands, offers, pool="inference").left]

    assert [] == [demand for demand in left if any(hosts(offer, [demand]) for offer in offers)]


@given(demand_lists, offer_lists)
def test_no_cheaper_offer_takes_the_same_demands(demands: list[Demand], offers: list[Offer]) -> None:
    """A filled node is bought as the cheapest offer that holds its load, in the first zone by name if all else is equal."""
    for purchase in shop(demands, offers, pool="inference").purchases:
        mine = [item.demand for item in purchase.placed]
        priced = [
            (offer.price_micro_usd, offer.id) for offer in offers if offer.price_micro_usd is not None and hosts(offer, mine)
        ]
        if purchase.offer.price_micro_usd is not None:
            assert min(priced) == (purchase.offer.price_micro_usd, purchase.offer.id)


@given(demand_lists, offer_lists)
def test_an_unknown_price_is_the_last_choice(demands: list[Demand], offers: list[Offer]) -> None:
    """A node of unknown price is bought only with a demand on it that no priced offer can host."""
    priced = [offer for offer in offers if offer.price_micro_usd is not None]

    for purchase in shop(demands, offers, pool="inference").purchases:
        known = [offer.price_micro_usd is not None for offer in purchase.alternatives]
        assert sorted(known, reverse=True) == known
        if not known[0]:
            assert any(not any(hosts(offer, [item.demand]) for offer in priced) for item in purchase.placed)


@given(demand_lists, offer_lists, limits, limits, money)
def test_limits_hold_even_if_every_purchase_takes_its_dearest_alternative(
    demands: list[Demand], offers: list[Offer], nodes_max: int | None, gpus_max: int | None, micro_usd_max: int | None
) -> None:
    """Which alternative is launched is up to the cloud; none of them may break a limit."""
    shopping = shop(demands, offers, pool="inference", nodes_max=nodes_max, gpus_max=gpus_max, micro_usd_max=micro_usd_max)

    assert nodes_max is None or len(shopping.purchases) <= nodes_max
    gpus = sum(max(offer.gpu_count for offer in purchase.alternatives) for purchase in shopping.purchases)
    assert gpus_max is None or gpus <= gpus_max
    if micro_usd_max is not None:
        prices = [[offer.price_micro_usd for offer in purchase.alternatives] for purchase in shopping.purchases]
        assert all(price is not None for each in prices for price in each)
        assert sum(max(price or 0 for price in each) for each in prices) <= micro_usd_max


@given(demand_lists, offer_lists, limits, money, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    demands: list[Demand], offers: list[Offer], nodes_max: int | None, micro_usd_max: int | None, random: Random
) -> None:
    """Shuffled demands and offers give the same shopping."""
    shuffled_demands, shuffled_offers = random.sample(demands, len(demands)), random.sample(offers, len(offers))

    expected = shop(demands, offers, pool="inference", nodes_max=nodes_max, micro_usd_max=micro_usd_max)
    assert expected == shop(shuffled_demands, shuffled_offers, pool="inference", nodes_max=nodes_max, micro_usd_max=micro_usd_max)


def test_several_demands_share_a_node() -> None:
    """Three halves of a card need two small nodes, not three."""
    demands = [a_demand(str(index)) for index in range(3)]

    assert [("small", {"0", "1"}), ("small", {"2"})] == bought(shop(demands, [SMALL, LARGE], pool="inference"))


def test_larger_demands_are_fitted_first() -> None:
    """Small ones fill what they leave, whoever waits longer."""
    sizes_mib = (4_096, 8_192, 12_288, 8_192)
    demands = [replace(a_demand(str(age), vram_mib=size), created_s=age) for age, size in enumerate(sizes_mib)]

    assert [("small", {"0", "2"}), ("small", {"1", "3"})] == bought(shop(demands, [SMALL], pool="inference"))


def test_types_are_mixed() -> None:
    """A pod of four cards opens a large node, others fill it, and the rest goes to a small one."""
    demands = [a_demand("four", gpu_count=4, vram_mib=16_384), a_demand("half")]

    assert [("large", {"four"}), ("small", {"half"})] == bought(shop(demands, [SMALL, LARGE], pool="inference"))


def test_a_large_node_is_bought_where_it_is_cheaper_for_each_pod() -> None:
    """Eight cards' worth of pods go to one node if that costs less than eight."""
    bargain = replace(LARGE, price_micro_usd=1_900_000)
    demands = [a_demand(str(index), vram_mib=16_384) for index in range(4)]

    assert ["large"] == [offer for offer, _ in bought(shop(demands, [SMALL, bargain], pool="inference"))]


def test_zones_are_alternatives_of_each_other() -> None:
    """The cheapest zone is the first choice, then the first by name; the others follow."""
    zones = [replace(SMALL, zone=zone) for zone in "cab"]
    dearer = replace(SMALL, zone="d", price_micro_usd=510_000)
    spot = replace(SMALL, zone="a", capacity_type="spot", price_micro_usd=600_000)

    purchase = shop([a_demand("a")], [dearer, *zones, spot, UNPRICED], pool="inference").purchases[0]

    assert ["a", "b", "c", "d", "a"] == [offer.zone for offer in purchase.alternatives]
    assert purchase.alternatives[-1] == UNPRICED


def test_a_zone_that_a_demand_asks_for_is_kept() -> None:
    """A dearer zone is bought, and no other is an alternative."""
    dear = replace(SMALL, zone="b", price_micro_usd=900_000)
    zone = Requirement(key="topology.kubernetes.io/zone", operator=Operator.IN, values=("b",))
    demand = replace(a_demand("a"), terms=((zone,),))

    assert (dear,) == shop([demand], [SMALL, dear], pool="inference").purchases[0].alternatives


def test_higher_priority_is_served_first_under_a_limit() -> None:
    """One node is allowed: the less important pod waits although it is larger."""
    demands = [a_demand("low", vram_mib=16_384), a_demand("high", vram_mib=12_000, priority=1)]

    shopping = shop(demands, [SMALL], pool="inference", nodes_max=1)

    assert [("small", {"high"})] == bought(shopping)
    assert [("limit reached: 1 more nodes allowed",)] == [item.reasons for item in shopping.left]


def test_within_a_tight_limit_a_smaller_node_is_bought() -> None:
    """The node that is the best bargain but too dear does not keep an affordable one from being bought."""
    bargain = replace(LARGE, price_micro_usd=1_900_000)
    demands = [a_demand(str(index), vram_mib=16_384) for index in range(4)]

    shopping = shop(demands, [SMALL, bargain], pool="inference", micro_usd_max=1_000_000)

    assert ["small", "small"] == [offer for offer, _ in bought(shopping)]
    assert {("limit reached: 1.00 more USD per hour allowed",)} == {item.reasons for item in shopping.left}


def test_a_limit_on_gpus_is_named() -> None:
    """The pod that would need more cards than allowed is left with that reason."""
    left = shop([a_demand("a", gpu_count=4)], [SMALL, LARGE], pool="inference", gpus_max=3).left

    assert [("limit reached: 3 more GPUs allowed",)] == [item.reasons for item in left]


def test_an_unknown_price_is_not_bought_under_a_limit_on_money() -> None:
    """What it costs cannot be counted, and the reason says so."""
    demand = a_demand("a", vram_mib=20_000)

    assert ["unpriced"] == [offer for offer, _ in bought(shop([demand], [SMALL, UNPRICED], pool="inference"))]
    left = shop([demand], [SMALL, UNPRICED], pool="inference", micro_usd_max=9_000_000).left
    assert [("price of unpriced is unknown and the pool limits USD per hour",)] == [item.reasons for item in left]


def test_an_unknown_price_is_not_free() -> None:
    """Two small nodes are bought although one of unknown price would take both pods."""
    unpriced = replace(LARGE, price_micro_usd=None)
    demands = [a_demand(str(index), vram_mib=16_384) for index in range(2)]

    assert ["small", "small"] == [offer for offer, _ in bought(shop(demands, [SMALL, unpriced], pool="inference"))]


@pytest.mark.parametrize(("more", "expected"), [(1, ["small"]), (2, ["small", "double"])])
def test_purchases_share_what_the_limits_leave_for_alternatives(more: int, expected: list[str]) -> None:
    """Two nodes may both be replaced by larger and dearer ones only if the limits allow it for both."""
    double = replace(SMALL, instance_type="double", gpu_count=2, cpu_milli=1_000, price_micro_usd=600_000)
    demands = [replace(a_demand(str(index)), request=Request(gpu_count=1, whole=True, cpu_milli=1_000)) for index in range(2)]

    by_gpus = shop(demands, [SMALL, double], pool="inference", gpus_max=2 + more)
    by_price = shop(demands, [SMALL, double], pool="inference", micro_usd_max=1_000_000 + more * 100_000)

    for purchase in (*by_gpus.purchases, *by_price.purchases):
        assert expected == [offer.instance_type for offer in purchase.alternatives]


def test_a_full_node_is_bought_as_the_cheapest_offer_that_holds_its_load() -> None:
    """The load that makes one type the best bargain may fit on a cheaper type that would have been filled otherwise.

    On `roomy` alone the pod with much memory would come second and leave no CPU for the third.
    """
    roomy = replace(SMALL, instance_type="roomy", memory_mib=65_536, price_micro_usd=450_000)
    cheap = replace(SMALL, instance_type="cheap", cpu_milli=2_000, memory_mib=65_536, vram_mib=2_000, price_micro_usd=50_000)
    demands = [
        replace(a_demand("card"), request=Request(gpu_count=1, vram_mib=12_000, compute_milli=0)),
        replace(
            a_demand("memory"), request=Request(gpu_count=1, vram_mib=100, compute_milli=0, cpu_milli=1_000, memory_mib=20_000)
        ),
        replace(a_demand("cpu"), request=Request(cpu_milli=3_500)),
    ]

    shopping = shop(demands, [SMALL, roomy, cheap], pool="inference")

    assert [("roomy", {"card", "cpu"}), ("cheap", {"memory"})] == bought(shopping)


def test_what_no_offer_can_host_is_told_with_the_largest() -> None:
    """The reason names what is asked, the most that can be had, and where."""
    left = shop([a_demand("a", vram_mib=90_000)], [SMALL, UNPRICED], pool="inference").left

    expected = "no offer is large enough: needs 90000 MiB VRAM on one card, largest offer has 22888 (unpriced)"
    assert [(expected,)] == [item.reasons for item in left]


def test_a_missing_model_is_told() -> None:
    """No number would help here."""
    demand = replace(a_demand("a"), request=Request(gpu_count=1, gpu_models=("H100",), compute_milli=1))

    assert [("no offer has GPU model H100",)] == [item.reasons for item in shop([demand], [SMALL], pool="inference").left]


def test_offers_that_refuse_a_demand_are_counted() -> None:
    """Taints and labels are told like those of nodes."""
    tainted = replace(SMALL, taints=(Taint(key="gpu", value="true"),))

    left = shop([a_demand("a")], [tainted, replace(tainted, zone="b")], pool="inference").left

    assert [("2 offers: taint gpu=true:NoSchedule is not tolerated",)] == [item.reasons for item in left]


def test_without_offers_that_is_the_reason() -> None:
    """Nothing can be bought at all."""
    assert [("there is no offer in pool inference",)] == [
        item.reasons for item in shop([a_demand("a")], [], pool="inference").left
    ]


def test_an_imagined_node_carries_the_labels_that_follow_and_those_of_the_offer() -> None:
    """What the offer says of itself wins."""
    offer = replace(LARGE, labels={"kubernetes.io/arch": "arm64", "team": "speech"}, taints=(Taint(key="gpu"),))

    node = imagine(offer, name="n", pool="inference")

    assert {
        "node.kubernetes.io/instance-type": "large",
        "topology.kubernetes.io/zone": "a",
        "karpenter.sh/capacity-type": "on-demand",
        "tfscale.io/pool": "inference",
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "arm64",
        "team": "speech",
    } == node.labels
    assert (Taint(key="gpu"),) == node.taints
    assert ["0", "1", "2", "3"] == [gpu.id for gpu in node.gpus]
    assert ("n", "inference", 48_000, 196_608, 110) == (node.name, node.pool, node.cpu_milli, node.memory_mib, node.pods_max)
