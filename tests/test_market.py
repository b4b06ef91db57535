"""What may be bought now: names that stand for more than one offer, and offers of which there are only some."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import HALF, L4, NOW_S, POOL, T4, cluster, demand, node, plan_for
from tfscale.failures import OTHERS_FIRST
from tfscale.market import EVERYTHING, Supply, set_aside, usable
from tfscale.model import BoundPod, Offer, Request
from tfscale.plan import Launch
from tfscale.pool import SetAside
from tfscale.slicing import shop

SPOT = replace(T4, capacity_type="spot", price_micro_usd=200_000)
PLACED = replace(T4, subnets=("subnet-1", "subnet-2"))


def left(names: tuple[str, ...], *offers: Offer) -> list[tuple[str, tuple[str, ...]]]:
    """Return the offers, with their subnets, that may be bought while these names are set aside."""
    pool = replace(POOL, set_aside=tuple(SetAside(offer=name, until_s=NOW_S + 1, reason="full") for name in names))
    return [(offer.id, offer.subnets) for offer in usable(cluster(), pool, Supply(offers=offers)).offers]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), [(PLACED.id, ("subnet-1", "subnet-2")), (SPOT.id, ())]),
        (("*/*/spot",), [(PLACED.id, ("subnet-1", "subnet-2"))]),
        ((EVERYTHING,), []),
        ((OTHERS_FIRST,), []),
        (("subnet-1",), [(PLACED.id, ("subnet-2",)), (SPOT.id, ())]),
        (("subnet-1", "subnet-2"), [(SPOT.id, ())]),
        ((T4.id,), [(SPOT.id, ())]),
        ((T4.instance_type,), []),
    ],
)
def test_a_name_leaves_out_all_that_it_stands_for(names: tuple[str, ...], expected: list[tuple[str, tuple[str, ...]]]) -> None:
    """An offer, a type, a capacity type, or a subnet; an offer without a subnet left is out."""
    assert expected == left(names, PLACED, SPOT)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        (T4.id, POOL.set_aside_s),
        ("*/*/spot", POOL.set_aside_s),
        ("subnet-1", POOL.set_aside_s),
        ("t", 3_600),
        (EVERYTHING, 5),
        (OTHERS_FIRST, 30),
    ],
)
def test_only_what_was_paid_for_is_left_out_for_an_hour(name: str, seconds: int) -> None:
    """An instance type alone is what did not become a node."""
    assert NOW_S + seconds == set_aside(POOL, NOW_S, name, "why").until_s


def test_a_pause_is_longer_each_time_and_short_at_most() -> None:
    """It doubles from five seconds to forty, and begins anew when it was over for so long."""
    pool, now_s = POOL, NOW_S
    lengths_s: list[int] = []
    for wait_s in (0, 1, 1, 1, 1, 41):
        now_s += wait_s
        entry = set_aside(pool, now_s, EVERYTHING, "slow down")
        pool, lengths_s = replace(pool, set_aside=(entry,)), [*lengths_s, entry.until_s - now_s]
        now_s = entry.until_s

    assert [5, 10, 20, 40, 40, 5] == lengths_s


@given(st.lists(st.integers(0, POOL.set_aside_s - 1), max_size=5))
def test_what_was_bought_together_disappoints_once(gaps_s: list[int]) -> None:
    """Of many claims of one call each tells its end, within the time for which its offers are out."""
    pool, now_s = POOL, NOW_S
    for gap_s in [0, *gaps_s]:
        now_s += gap_s
        pool = replace(pool, set_aside=(set_aside(pool, now_s, T4.id, "none left"),))
    (entry,) = pool.set_aside

    assert (1, now_s + POOL.set_aside_s) == (entry.times, entry.until_s)
    assert 2 == set_aside(pool, entry.until_s, T4.id, "none left").times


@pytest.mark.parametrize(
    ("name", "why"),
    [(EVERYTHING, "its cloud wants a pause: */*/*"), (OTHERS_FIRST, "a launch was stuck, and others are to have their turn: *")],
)
def test_who_waits_is_told_of_a_pause(name: str, why: str) -> None:
    """It is no lack of capacity."""
    pool = replace(POOL, set_aside=(SetAside(offer=name, until_s=NOW_S + 5, reason="slow down"),))
    lines, retry_s = usable(cluster(), pool, Supply(offers=[T4])).obstacles(demand("p", HALF))

    assert NOW_S + 5 == retry_s
    assert [why] == [line.partition(";")[0] for line in lines]


@given(st.lists(st.integers(0, 3), max_size=3), st.integers(0, 8))
def test_no_more_is_bought_of_an_offer_than_there_is(counts: list[int], pods: int) -> None:
    """Reserved machines are taken first, each reservation for as many as it has, and the rest is bought elsewhere."""
    reserved = [
        replace(T4, capacity_type="reserved", reservation=f"cr-{number}", count_max=count, price_micro_usd=50)
        for number, count in enumerate(counts)
    ]
    whole = replace(HALF, vram_mib=16_000)
    shopping = shop([demand(f"p{number}", whole) for number in range(pods)], [*reserved, L4], pool="inference")
    bought = Counter(purchase.offer.id for purchase in shopping.purchases)

    assert min(sum(counts), pods) == sum(bought[offer.id] for offer in reserved)
    assert pods == bought.total()
    assert [] == [offer.id for offer in reserved if bought[offer.id] > (offer.count_max or 0)]
    assert [] == [one for one in shopping.purchases if any(other.count_max is not None for other in one.alternatives[1:])]


def test_daemons_that_all_nodes_have_are_counted_for_a_type_of_which_there_is_none() -> None:
    """A pod of all of a new type's CPU would find its node smaller than its offer; the daemons of the least laden node count."""
    light, heavy = (
        BoundPod(id=f"kube-system/{cpu_milli}", uid=str(cpu_milli), request=Request(cpu_milli=cpu_milli), daemon=True)
        for cpu_milli in (200, 900)
    )
    nodes = (node("a", pods=(light,)), node("b", pods=(light, heavy)))
    (offer,) = usable(cluster(nodes=nodes), POOL, Supply(offers=(L4,))).offers

    assert (L4.cpu_milli - 200, L4.pods_max - 1) == (offer.cpu_milli, offer.pods_max)


UNPRICED = replace(
    T4, instance_type="p9.48xlarge", gpu_model="H100", gpu_count=8, vram_mib=81_920, mtflops=989_000, cpu_milli=192_000,
    memory_mib=2_097_152, price_micro_usd=None,
)  # fmt: skip


@given(st.integers(1, 40), st.sampled_from([(T4,), (T4, L4), (L4, SPOT)]))
def test_an_unpriced_node_of_eight_cards_is_never_bought_while_a_priced_one_fits(count: int, priced: tuple[Offer, ...]) -> None:
    """A price of nothing is not nothing: it would have been the best bargain for any number of pods."""
    demands = tuple(demand(f"pod-{number}") for number in range(count))
    plan = plan_for(cluster(demands=demands), UNPRICED, *priced)
    bought = {offer.instance_type for action in plan.actions if isinstance(action, Launch) for offer in action.offers[:1]}

    assert bought <= {offer.instance_type for offer in priced}
    assert () == plan.unmet


def test_an_unpriced_node_is_bought_for_what_fits_nowhere_else() -> None:
    """It is the last choice, and a choice."""
    large = demand("large", replace(HALF, gpu_count=8))
    plan = plan_for(cluster(demands=(large, demand("small"))), UNPRICED, T4)

    assert {8, 1} >= {action.offers[0].gpu_count for action in plan.actions if isinstance(action, Launch)} >= {8}
