"""Limits of one pool and of all, the switches that stop buying, and the guard of giving back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.facts import BATCH, HALF, L4, NOW_S, POOL, T4, cluster, demand, machine, node, only, request
from tests.test_headroom import pod
from tfscale.decide import Policy, Supply, decide
from tfscale.lifecycle import State
from tfscale.limits import GUARD_FROM, GUARD_S
from tfscale.model import Cluster, Demand, LaunchBatch, NodeRequest, Offer
from tfscale.plan import Assign, Launch, Plan, Replay, Terminate
from tfscale.pool import Limits, Pool

OTHER = replace(POOL, name="training")
LARGE = replace(T4, instance_type="g4dn.12xlarge", gpu_count=4, cpu_milli=48_000, memory_mib=196_608, price_micro_usd=3_912_000)
limits = st.builds(
    Limits,
    nodes=st.none() | st.integers(0, 6),
    gpus=st.none() | st.integers(0, 9),
    micro_usd=st.none() | st.sampled_from([0, 526_000, 2_000_000, 6_000_000]),
    in_flight=st.none() | st.integers(0, 4),
    launches_per_minute=st.none() | st.integers(0, 4),
)
demands = st.lists(
    st.builds(
        lambda number, pool, cards: demand(f"pod-{number}", replace(HALF, gpu_count=cards), pool=pool),
        st.integers(0, 99),
        st.sampled_from([POOL.name, OTHER.name]),
        st.sampled_from([1, 1, 1, 2, 4]),
    ),
    max_size=16,
    unique_by=lambda one: one.uid,
)


def bought(pool: Pool, count: int, state: State = State.READY, age_s: int = 600) -> tuple[list[NodeRequest], LaunchBatch]:
    """Return the records of so many nodes of one type that a pool bought some time ago."""
    names = [f"{pool.name}-{number}" for number in range(count)]
    requests = [request(name, pool=pool.name, state=state, batch=f"b-{pool.name}", node="") for name in names]
    batch = replace(
        BATCH, name=f"b-{pool.name}", pool=pool.name, requests=tuple(one.name for one in requests), offers=(T4.id,),
        created_s=NOW_S - age_s,
    )  # fmt: skip
    return requests, batch


def world(pools: tuple[Pool, ...], waiting: list[Demand], held: dict[str, tuple[int, State, int]]) -> Cluster:
    """Return a cluster in which pools hold so many nodes, in a state, bought so many seconds ago."""
    parts = {pool.name: bought(pool, *held[pool.name]) for pool in pools}
    nodes = [
        node(one.name, pool=one.pool, machine_id=one.machine_id, fenced="cordoned")
        for requests, _ in parts.values()
        for one in requests
        if one.state is State.READY
    ]
    machines = {
        name: [replace(machine(one.name), id=one.machine_id, batch=one.batch, pool=name) for one in requests]
        for name, (requests, _) in parts.items()
    }
    return replace(
        cluster(),
        pools=pools,
        nodes=tuple(nodes),
        demands=tuple(waiting),
        requests=tuple(one for requests, _ in parts.values() for one in requests),
        batches=tuple(batch for requests, batch in parts.values() if requests),
        machines=machines,
    )


def full_cards(count: int) -> list[Demand]:
    """Return pods that ask for a T4's memory each."""
    return [demand(f"p{number}", replace(HALF, vram_mib=16_384)) for number in range(count)]


def planned(observed: Cluster, policy: Policy, *offers: Offer) -> Plan:
    """Decide with the same offers in all pools."""
    return decide(observed, {pool.name: Supply(offers=offers) for pool in observed.pools}, policy)


def launches(plan: Plan, pool: str = "") -> list[Launch]:
    """Return what is bought, for one pool or for all."""
    return [action for action in plan.actions if isinstance(action, Launch) and pool in {"", action.pool}]


def exceeded(limit: Limits, held: int, age: tuple[State, int], made: list[Launch]) -> dict[str, bool]:
    """Return which limits a purchase breaks beside so many nodes that are held, if the dearest of its offers are taken."""
    state, age_s = age
    count = sum(len(one.requests) for one in made)
    gpus = sum(len(one.requests) * max(offer.gpu_count for offer in one.offers) for one in made)
    micro_usd = sum(len(one.requests) * max(offer.price_micro_usd or 0 for offer in one.offers) for one in made)
    sums = {
        "nodes": (limit.nodes, held, count),
        "gpus": (limit.gpus, held, gpus),
        "micro_usd": (limit.micro_usd, held * (T4.price_micro_usd or 0), micro_usd),
        "in_flight": (limit.in_flight, held if state is State.LAUNCHED else 0, count),
        "launches": (limit.launches_per_minute, held if age_s < 60 else 0, count),
    }
    return {name: more > 0 and most is not None and there + more > most for name, (most, there, more) in sums.items()}


@settings(max_examples=150)
@given(
    waiting=demands,
    own=limits,
    total=limits,
    held=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    state=st.sampled_from([State.READY, State.LAUNCHED]),
    age_s=st.sampled_from([10, 59, 60, 600]),
)
def test_a_plan_of_all_pools_exceeds_no_limit(
    *, waiting: list[Demand], own: Limits, total: Limits, held: tuple[int, int], state: State, age_s: int
) -> None:
    """Whatever is there, on its way or bought a moment ago, and whichever offers the cloud takes."""
    pools = (replace(POOL, limits=own), OTHER)
    observed = world(pools, waiting, {one.name: (count, state, age_s) for one, count in zip(pools, held, strict=True)})
    plan = planned(observed, Policy(total=total), T4, LARGE, L4)

    assert not any(exceeded(own, held[0], (state, age_s), launches(plan, POOL.name)).values())
    assert not any(exceeded(total, sum(held), (state, age_s), launches(plan)).values())


@given(waiting=demands, everywhere=st.booleans(), unsettled=st.booleans())
def test_nothing_is_bought_while_buying_is_stopped(*, waiting: list[Demand], everywhere: bool, unsettled: bool) -> None:
    """Not even by a call that may never have reached its cloud; what is stopped is told, and why nobody is served."""
    pool = POOL if everywhere else replace(POOL, stop_buying="review")
    mine = [one for one in waiting if one.pool == POOL.name]
    observed = world((pool,), mine, {POOL.name: (1, State.REQUESTED, 10)})
    lost = replace(observed.requests[0], machine_id="", offer="", launched_s=0)
    batches = tuple(replace(batch, settled=not unsettled) for batch in observed.batches)
    observed = replace(observed, requests=(lost,), batches=batches, machines={POOL.name: []})
    plan = planned(observed, Policy(stop_buying="review" if everywhere else ""), T4, LARGE)

    assert [] == [action for action in plan.actions if isinstance(action, Launch | Replay)]
    assert ["review"] == [problem.value for problem in plan.problems]
    assert {one.id for one in mine} == {unmet.pod for unmet in plan.unmet}


def test_pods_are_still_placed_while_buying_is_stopped() -> None:
    """A node that is there is there."""
    observed = world((replace(POOL, stop_buying="true"),), [demand("p")], {POOL.name: (1, State.READY, 600)})
    observed = replace(observed, nodes=tuple(replace(one, fenced="") for one in observed.nodes))

    assert "default/p" == only(planned(observed, Policy(), T4), Assign).pod


@pytest.mark.parametrize(
    ("own", "total", "reason"),
    [
        (Limits(nodes=1), Limits(), "limit reached: 0 more nodes allowed"),
        (Limits(in_flight=1), Limits(), "limit reached: 0 more nodes in flight allowed"),
        (Limits(launches_per_minute=1), Limits(), "limit reached: 0 more launches this minute allowed"),
        (Limits(nodes=9), Limits(gpus=1), "limit reached: 0 more GPUs in all pools allowed"),
        (Limits(), Limits(micro_usd=600_000), "limit reached: 0.07 more USD per hour in all pools allowed"),
        (Limits(), Limits(launches_per_minute=1), "limit reached: 0 more launches this minute in all pools allowed"),
    ],
)
def test_a_pod_is_told_which_limit_keeps_it_waiting(own: Limits, total: Limits, reason: str) -> None:
    """The one that leaves least."""
    observed = world((replace(POOL, limits=own),), full_cards(2), {POOL.name: (1, State.LAUNCHED, 10)})
    plan = planned(observed, Policy(total=total), T4)

    assert [reason] == [unmet.reasons[0] for unmet in plan.unmet]


def test_the_loop_looks_again_when_a_minute_has_passed() -> None:
    """Launches of a minute ago do not count any more, and nothing else would wake it."""
    pool = replace(POOL, limits=Limits(launches_per_minute=1))
    observed = world((pool,), full_cards(2), {POOL.name: (1, State.LAUNCHED, 10)})

    assert NOW_S + 50 == planned(observed, Policy(), T4).retry_s
    assert 1 == len(launches(planned(replace(observed, now_s=NOW_S + 50), Policy(), T4)))


def test_the_pool_that_holds_least_is_served_first_where_all_share_a_limit() -> None:
    """By name it would be the other one, for ever."""
    waiting = [demand("a", pool=POOL.name), demand("b", pool=OTHER.name)]
    observed = world((POOL, OTHER), waiting, {POOL.name: (2, State.READY, 600), OTHER.name: (0, State.READY, 600)})

    assert ["training"] == [one.pool for one in launches(planned(observed, Policy(total=Limits(nodes=3)), T4))]


def test_what_a_limit_leaves_is_bought_and_the_rest_is_named() -> None:
    """Three nodes are wanted, two allowed."""
    pool = replace(POOL, limits=Limits(nodes=2))
    waiting = full_cards(3)
    plan = planned(world((pool,), waiting, {POOL.name: (0, State.READY, 600)}), Policy(), T4)

    assert (2, ["limit reached: 2 more nodes allowed"]) == (
        sum(len(one.requests) for one in launches(plan)),
        [unmet.reasons[0] for unmet in plan.unmet],
    )


# --- the guard ---


def idle(count: int, busy: int, since_s: int = 400, **changes: Any) -> Cluster:  # noqa: ANN401 - any field of a pool
    """Return a pool of which so many nodes are idle, and so many have work."""
    pool = replace(POOL, **changes)
    observed = world((pool,), [], {POOL.name: (count + busy, State.READY, 6_000)})
    nodes = [
        replace(one, fenced="", idle_since_s=NOW_S - since_s)
        if at < count
        else replace(one, fenced="", pods=(pod(one.name, 1_000, mirrored=False),))
        for at, one in enumerate(observed.nodes)
    ]
    return replace(observed, nodes=tuple(nodes))


def returned(observed: Cluster, **rules: Any) -> int:  # noqa: ANN401 - any rule
    """Return how many nodes are given back."""
    plan = planned(observed, Policy(**rules), T4)
    return sum(isinstance(action, Terminate) for action in plan.actions)


@pytest.mark.parametrize(
    ("count", "busy", "expected"),
    [(GUARD_FROM, 0, GUARD_FROM), (GUARD_FROM + 1, 0, 0), (GUARD_FROM + 1, GUARD_FROM + 1, GUARD_FROM + 1), (14, 10, 0)],
)
def test_more_than_half_of_the_nodes_are_not_given_back_at_once(count: int, busy: int, expected: int) -> None:
    """Ten always are; above that, half of all at most."""
    assert expected == returned(idle(count, busy))


def test_the_guard_says_what_it_holds_and_until_when() -> None:
    """The problem names the pool and how to let them go, and the loop looks again after the hour."""
    plan = planned(idle(14, 2), Policy(), T4)

    assert [("gpupool inference", "14")] == [(problem.where, problem.value) for problem in plan.problems]
    assert NOW_S - 400 + GUARD_S == plan.recheck_s


@pytest.mark.parametrize(
    ("changes", "rules", "since_s"),
    [
        ({"terminates_all": True}, {}, 400),
        ({}, {"terminate_share_pct": 100}, 400),
        ({}, {}, GUARD_S),
        ({"deleting": True}, {}, 400),
    ],
)
def test_what_is_meant_passes_the_guard(changes: dict[str, Any], rules: dict[str, Any], since_s: int) -> None:
    """An annotation, a setting, a pool that is deleted, and nodes that have been idle for an hour."""
    assert 14 == returned(idle(14, 0, since_s, **changes), **rules)


def test_it_cannot_be_passed_in_steps() -> None:
    """Nodes that are on their way out count with those that would follow them."""
    observed = idle(8, 2)
    going = [replace(one, state=State.TERMINATING, node="") for one in bought(replace(POOL, name="old"), 6)[0]]
    gone = replace(observed, requests=(*observed.requests, *(replace(one, pool=POOL.name) for one in going)))

    assert (8, 0) == (returned(observed), returned(gone))
