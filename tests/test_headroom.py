"""Room that is held back: what is bought for it, which nodes it needs, and which nodes only look as if they could go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import BATCH, NOW_S, POOL, T4, cluster, demand, kinds, machine, node, only, request
from tfscale.decide import Supply, decide
from tfscale.headroom import free_pct, needed, split, standing
from tfscale.lifecycle import State
from tfscale.model import BoundPod, Cluster, Gpu, GpuSlice, Mirror, Node, Offer, Request
from tfscale.plan import Assign, Hold, Launch, MarkIdle, Plan, Release, Terminate
from tfscale.pool import Limits

HELD_BACK = replace(POOL, headroom_pct=40)
CARD = Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000)


def pod(name: str, milli: int = 500, *, card: str = "0", mirrored: bool = True) -> BoundPod:
    """Return a pod that holds a part of a card's VRAM and the same part of its compute."""
    vram_mib = 16_384 * milli // 1_000
    return BoundPod(
        id=f"default/{name}",
        uid=f"uid-{name}",
        request=Request(gpu_count=1, vram_mib=vram_mib, compute_milli=milli, cpu_milli=100, memory_mib=100),
        slices=(GpuSlice(gpu_id=card, vram_mib=vram_mib, compute_milli=milli),),
        mirror=Mirror(vram_mib=vram_mib, mtflops=65 * milli) if mirrored else Mirror(),
    )


def full(name: str, *parts: int) -> Node:
    """Return a node with one card, of which pods hold these parts."""
    return node(name, pods=tuple(pod(f"{name}-{number}", milli) for number, milli in enumerate(parts)))


def plan_with(observed: Cluster, *offers: Offer, reclaims_idle: bool = False) -> Plan:
    """Return what is decided with these offers."""
    return decide(observed, {"inference": Supply(offers=offers, reclaims_idle=reclaims_idle)})


def world(*nodes: Node, **changes: Any) -> Cluster:  # noqa: ANN401 - any field of a cluster
    """Return a cluster of ready nodes of a pool with headroom."""
    names = [one.name for one in nodes]
    parts: dict[str, Any] = {
        "pools": (HELD_BACK,),
        "nodes": nodes,
        "requests": tuple(request(name) for name in names),
        "batches": (replace(BATCH, requests=tuple(f"r-{name}" for name in names)),),
        "machines": tuple(machine(name) for name in names),
    }
    return cluster(**{**parts, **changes})


# --- what is bought ---


def test_missing_headroom_is_bought_in_the_shape_of_the_usual_pod() -> None:
    """A full card needs two thirds of one beside it: two more halves, which are one node."""
    launch = only(plan_with(world(full("a", 500, 500)), T4), Launch)

    assert (1, ("headroom/inference-0", "headroom/inference-1")) == (len(launch.requests), launch.pods[0])


def test_nothing_is_bought_where_enough_is_free() -> None:
    """Half of a card is more than 40%."""
    assert [] == kinds(plan_with(world(full("a", 500)), T4))


def test_without_pods_there_is_no_headroom() -> None:
    """A pool goes down to nothing."""
    assert [] == standing(HELD_BACK, [node("a")])


@pytest.mark.parametrize("state", [State.REQUESTED, State.LAUNCHED])
def test_what_is_on_its_way_is_not_bought_twice(state: State) -> None:
    """Not even while the outcome of its call is not known."""
    coming = request("b", state=state, node="", batch="c", machine_id="" if state is State.REQUESTED else "i-b", offer="")
    batch = replace(BATCH, name="c", requests=("r-b",), settled=state is not State.REQUESTED, offers=(T4.id,))
    machines = (machine("a"),) if state is State.REQUESTED else (machine("a"), machine("b", batch="c", offer=""))
    observed = world(full("a", 500, 500), requests=(request("a"), coming), batches=(BATCH, batch), machines=machines)

    assert Launch not in kinds(plan_with(observed, T4))


def test_headroom_that_limits_forbid_is_told_with_what_is_free() -> None:
    """And no pod is unmet because of it."""
    plan = plan_with(world(full("a", 500, 500), pools=(replace(HELD_BACK, limits=Limits(nodes=1)),)), T4)
    (problem,) = plan.problems

    assert ("headroom", "0%") == (problem.field, problem.value)
    assert problem.want.startswith("40%, room for 2 more pods like most of its pods: limit reached")
    assert () == plan.unmet


def test_a_pod_that_waits_is_served_before_headroom() -> None:
    """One node may still be bought, and the pod gets it."""
    observed = world(full("a", 500, 500), demands=(demand("w"),), pools=(replace(HELD_BACK, limits=Limits(nodes=2)),))
    launch = only(plan_with(observed, T4), Launch)

    assert "default/w" in launch.pods[0]


# --- what it needs ---


def test_an_empty_node_that_headroom_needs_is_not_idle() -> None:
    """Without headroom it would be marked; with more nodes than are needed the others are."""
    nodes = (full("a", 500, 500), node("b"))
    spare = node("c")

    assert [] == kinds(plan_with(world(*nodes), T4))
    assert [MarkIdle] == kinds(plan_with(world(*nodes, pools=(POOL,)), T4))
    assert "c" == only(plan_with(world(*nodes, spare), T4), MarkIdle).node


def test_where_somebody_else_removes_nodes_those_that_are_needed_are_held() -> None:
    """Each once; what is held and not needed any more is released."""
    nodes = (full("a", 500, 500), node("b"), node("c"))
    first = plan_with(world(*nodes), T4, reclaims_idle=True)
    held = (machine("a", held=True), machine("b", held=True), machine("c"))
    later = world(node("a"), node("b"), node("c"), machines=held)

    assert ["a", "b"] == [one.node for one in first.actions if isinstance(one, Hold)]
    assert [] == kinds(plan_with(world(*nodes, machines=held), T4, reclaims_idle=True))
    assert ["a", "b"] == [one.node for one in plan_with(later, T4, reclaims_idle=True).actions if isinstance(one, Release)]


@pytest.mark.parametrize(
    "changes", [{"ready": False}, {"ready": False, "silent_since_s": NOW_S - 9}, {"fenced": "it is cordoned"}]
)
def test_a_held_node_that_is_away_for_a_while_is_not_released(changes: dict[str, Any]) -> None:
    """An outage of the API server or of a network must not give its nodes to whoever removes them."""
    nodes = (full("a", 500, 500), replace(full("b", 500), **changes))
    held = (machine("a", held=True), machine("b", held=True))

    assert Release not in kinds(plan_with(world(*nodes, machines=held), T4, reclaims_idle=True))


def test_held_nodes_stay_held_where_others_would_do_as_well() -> None:
    """Few changes: the fullest comes first only among those that are alike held or not."""
    nodes = [full("a", 500), full("b", 500), full("c", 100)]

    assert {"b", "c"} <= needed(replace(POOL, headroom_pct=40), nodes, {"b", "c"})


SHARES = st.lists(st.sampled_from([100, 200, 250, 400, 500]), max_size=4).filter(lambda parts: sum(parts) <= 1_000)


@given(st.lists(SHARES, min_size=1, max_size=5), st.integers(1, 90), st.integers(0, 31))
def test_whatever_becomes_of_the_others_headroom_and_room_for_their_pods_stay(
    loads: list[list[int]], percent: int, held: int
) -> None:
    """By sums: what is kept has room for all pods and the headroom beside, or it is everything with a card."""
    pool = replace(POOL, headroom_pct=percent)
    nodes = [full(f"n{number}", *parts) for number, parts in enumerate(loads)]
    sticky = {one.name for number, one in enumerate(nodes) if held >> number & 1}
    kept = [one for one in nodes if one.name in needed(pool, nodes, sticky)]
    used = sum(sum(parts) for parts in loads)

    assert len(kept) == len(nodes) or len(kept) * 1_000 * (100 - percent) >= used * 100
    assert needed(pool, nodes, {one.name for one in kept}) == {one.name for one in kept}


@given(st.lists(SHARES, min_size=1, max_size=5), st.integers(1, 90))
def test_what_is_bought_restores_headroom_at_once(loads: list[list[int]], percent: int) -> None:
    """With what is bought there is enough, and nothing more is asked for."""
    pool = replace(POOL, headroom_pct=percent)
    nodes = [full(f"n{number}", *parts) for number, parts in enumerate(loads)]
    asked = standing(pool, nodes)
    plan = plan_with(world(*nodes, pools=(pool,)), T4)
    bought = sum(len(one.requests) for one in plan.actions if isinstance(one, Launch))
    after = [*nodes, *(node(f"m{number}") for number in range(bought))]

    assert bool(asked) == (free_pct(nodes) < percent)
    assert [] == standing(pool, after)
    assert free_pct(after) >= percent or not any(loads)


@given(st.lists(SHARES, min_size=1, max_size=4), st.sampled_from([20, 40, 60]))
def test_rounds_without_new_pods_come_to_rest(loads: list[list[int]], percent: int) -> None:
    """What is bought is there in the next round, and then nothing is left to do but to wait."""
    pool = replace(POOL, headroom_pct=percent)
    nodes = [full(f"n{number}", *parts) for number, parts in enumerate(loads)]
    plan = plan_with(world(*nodes, pools=(pool,)), T4, reclaims_idle=True)
    bought = sum(len(one.requests) for one in plan.actions if isinstance(one, Launch))
    after = [*nodes, *(node(f"m{number}") for number in range(bought))]
    held = {one.node for one in plan_with(world(*after, pools=(pool,)), T4, reclaims_idle=True).actions if isinstance(one, Hold)}
    machines = tuple(machine(one.name, held=one.name in held) for one in after)
    rest = plan_with(world(*after, pools=(pool,), machines=machines), T4, reclaims_idle=True)

    assert [] == kinds(rest)


# --- what only looks as if it could go ---


def two_cards(name: str, *pods: BoundPod) -> Node:
    """Return a node with two cards."""
    return node(name, gpus=(CARD, replace(CARD, id="1")), pods=pods)


def test_a_node_whose_pods_fit_in_sums_only_is_held() -> None:
    """Two halves of two cards are free over there, and the pod asks for more than a half of one."""
    there = two_cards("a", pod("p", 500, card="0"), pod("q", 500, card="1"))
    small, large = full("b", 400), full("c", 600)

    assert set() == split([there, small], ())
    assert {"c"} == split([there, large], ())
    assert set() == split([there, large], {"c"})


def test_pods_that_ask_for_no_sums_are_not_looked_at() -> None:
    """Whoever adds up sees nothing of them, so that nothing is kept from him."""
    there = two_cards("a", pod("p", 500, card="0", mirrored=False), pod("q", 500, card="1", mirrored=False))

    assert set() == split([there, node("c", pods=(pod("r", 600, mirrored=False),))], ())


def test_a_node_that_would_fit_nowhere_in_sums_is_left_to_whoever_adds_up() -> None:
    """He sees himself that it has to stay."""
    assert set() == split([full("a", 600), full("b", 600)], ())


def test_what_is_split_is_held_only_where_somebody_else_removes_nodes() -> None:
    """Where nobody does, nothing is done."""
    nodes = (two_cards("a", pod("p", 500, card="0"), pod("q", 500, card="1")), full("c", 600))
    observed = world(*nodes, pools=(POOL,))

    assert ["c"] == [one.node for one in plan_with(observed, T4, reclaims_idle=True).actions if isinstance(one, Hold)]
    assert [] == kinds(plan_with(observed, T4))


def test_what_a_pod_will_take_of_the_sums_is_known_when_it_gets_its_place() -> None:
    """With it the first node is full in sums, too, so that nobody who adds up would empty the other one."""
    half = pod("w", 450)
    waiting = replace(demand("w"), request=half.request, mirror=half.mirror)
    observed = world(full("a", 450), full("b", 450), pools=(POOL,), demands=(waiting,))
    plan = plan_with(observed, T4, reclaims_idle=True)

    assert 1 == len([one for one in plan.actions if isinstance(one, Assign)])
    assert [] == [one for one in plan.actions if isinstance(one, Hold)]


def test_why_there_are_no_offers_is_told() -> None:
    """As far as the mode says it."""
    observed = world(pools=(POOL,), demands=(demand("w"),))
    (unmet,) = decide(observed, {"inference": Supply(withheld=("nodepool gpu: it is full",))}).unmet

    assert ("default/w", "nodepool gpu: it is full") == (unmet.pod, unmet.reasons[0])


def test_a_pool_that_is_deleted_holds_nothing_back() -> None:
    """It is emptied."""
    deleted = replace(HELD_BACK, deleting=True)
    plan = plan_with(world(node("a"), node("b"), pools=(deleted,)), T4)

    assert [Terminate, Terminate] == kinds(plan)
    assert () == plan.problems
