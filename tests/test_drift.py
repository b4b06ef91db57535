"""Outdated machines: each is replaced by its like before its pods leave, one at a time, and only where that can be done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import BATCH, HALF, NOW_S, POOL, T4, cluster, demand, kinds, machine, node, only, plan_for, request
from tfscale.disruption import replaceable
from tfscale.lifecycle import Event, State
from tfscale.model import DISRUPTED, BoundPod, Cluster, Disruption, GpuSlice, Guest, Machine, NodeRequest
from tfscale.plan import Assign, Drain, Launch, Terminate
from tfscale.pool import Limits
from tfscale.selectors import Taint

PART = GpuSlice(gpu_id="0", vram_mib=8_192, compute_milli=500)
DRIFT = Disruption(since_s=NOW_S, event="Drifted", why="its image is old")
YEARS_S = 10**8


def old(name: str, **changes: Any) -> Machine:  # noqa: ANN401 - any field of a machine
    """Return a machine that would be another one today."""
    return machine(name, outdated="its image is old", **changes)


def pod(name: str) -> BoundPod:
    """Return a pod of ours that holds half a card."""
    return BoundPod(id=f"default/{name}", uid=f"uid-{name}", request=HALF, slices=(PART,))


def guest(name: str, **changes: Any) -> Guest:  # noqa: ANN401 - any field of a guest
    """Return what is read of such a pod while its node may go."""
    return replace(Guest(id=f"default/{name}", uid=f"uid-{name}", demand=demand(name)), **changes)


def drifted(*names: str, **changes: Any) -> Cluster:  # noqa: ANN401 - any field of a cluster
    """Return a cluster of ready nodes with a pod each whose machines are outdated."""
    parts = {
        "requests": tuple(request(name) for name in names),
        "nodes": tuple(node(name, pods=(pod(name),)) for name in names),
        "guests": {name: (guest(name),) for name in names},
        "batches": (replace(BATCH, requests=tuple(f"r-{name}" for name in names)),),
        "machines": tuple(old(name, launched_s=NOW_S - 900 + number) for number, name in enumerate(names)),
    }
    return cluster(**{**parts, **changes})


def begun(name: str, **changes: Any) -> NodeRequest:  # noqa: ANN401 - any field of a request
    """Return the record of a node that is being replaced."""
    return request(name, state=State.DRAINING, drain=DRIFT, **changes)


def test_the_replacement_is_bought_before_any_pod_is_asked_to_leave() -> None:
    """One purchase for the pods that run there, and a node that takes no more."""
    plan = plan_for(drifted("a"), T4)
    drain = only(plan, Drain)

    assert [Launch, Drain] == kinds(plan)
    assert ("uid-a",) == only(plan, Launch).requests[0].nominated
    assert (DRIFT, ()) == (drain.request.drain, drain.pods)


def test_nobody_hurries_a_node_that_is_only_outdated() -> None:
    """Its pods stay as long as their next place is not there; a rebalance would have ended it long ago."""
    waits = drifted("a", requests=(begun("a"),), now_s=NOW_S + YEARS_S, pools=(replace(POOL, limits=Limits(nodes=1)),))

    assert [] == kinds(plan_for(waits, T4))


def test_pods_leave_when_the_replacement_is_ready_and_then_the_machine_goes() -> None:
    """In two rounds."""
    coming = request("b", nominated=("uid-a",), batch="c")
    batches = (BATCH, replace(BATCH, name="c", requests=("r-b",)))
    ready = drifted(
        "a", requests=(begun("a"), coming), nodes=(node("a", pods=(pod("a"),)), node("b")), batches=batches,
        machines=(old("a"), machine("b", batch="c")),
    )  # fmt: skip
    moved = replace(
        ready, nodes=(node("a"), node("b", pods=(pod("a"),))), guests={}, requests=(begun("a"), replace(coming, nominated=()))
    )

    assert ["default/a"] == [one.id for one in only(plan_for(ready, T4), Drain).pods]
    assert (Event.DRAINED, "i-a") == (
        only(plan_for(moved, T4), Terminate).event,
        only(plan_for(moved, T4), Terminate).request.machine_id,
    )


def test_room_that_is_there_is_used_first() -> None:
    """Nothing is bought, and the pod may leave at once."""
    roomy = drifted(
        "a",
        nodes=(node("a", pods=(pod("a"),)), node("b")),
        requests=(request("a"), request("b")),
        machines=(old("a"), machine("b")),
    )
    plan = plan_for(roomy, T4)

    assert ["default/a"] == [one.id for one in only(plan, Drain).pods]
    assert Launch not in kinds(plan)


@pytest.mark.parametrize("why", ["no offer", "limit", "held", "pool goes", "not outdated", "not ready yet", "stopping"])
def test_a_node_that_cannot_be_replaced_is_left_as_it_is(why: str) -> None:
    """It is not fenced either: a node of yesterday is better than none."""
    changes: dict[str, dict[str, Any]] = {
        "no offer": {},
        "limit": {"pools": (replace(POOL, limits=Limits(nodes=1)),)},
        "held": {"guests": {"a": (guest("a", held=True),)}},
        "pool goes": {"pools": (replace(POOL, deleting=True),)},
        "not outdated": {"machines": (machine("a"),)},
        "not ready yet": {"requests": (request("a", state=State.REGISTERED),), "nodes": (node("a", ready=False),)},
        "stopping": {"machines": (old("a", stopping=True),)},
    }
    plan = plan_for(drifted("a", **changes[why]), *(() if why == "no offer" else (T4,)))

    assert not [
        one for one in plan.actions if isinstance(one, Drain) and one.request.drain and one.request.drain.event == "Drifted"
    ]


def test_nodes_are_replaced_one_by_one_oldest_first() -> None:
    """The next one begins when the first is gone."""
    first = plan_for(drifted("a", "b"), T4)
    second = plan_for(drifted("a", "b", requests=(begun("a"), request("b"))), T4)

    assert "i-a" == only(first, Drain).request.machine_id
    assert "i-a" == only(second, Drain).request.machine_id


def test_one_that_cannot_be_replaced_holds_up_no_other() -> None:
    """Of two, the older one has a pod that is not to be disturbed."""
    plan = plan_for(drifted("a", "b", guests={"a": (guest("a", held=True),), "b": (guest("b"),)}), T4)

    assert "i-b" == only(plan, Drain).request.machine_id


def test_one_that_is_stuck_holds_up_the_others_for_the_time_of_a_drain_only() -> None:
    """A budget may forbid for ever that its pods leave."""
    stuck = drifted("a", "b", requests=(begun("a"), request("b")))

    assert [] == replaceable(replace(stuck, now_s=NOW_S + POOL.drain_within_s - 1), POOL)
    assert ["i-b"] == [one.machine_id for one in replaceable(replace(stuck, now_s=NOW_S + POOL.drain_within_s), POOL)]


def test_a_taint_without_its_record_counts_as_one_that_is_replaced() -> None:
    """The process died between the two writes: it goes on with that node, without hurry, and begins no second one."""
    taints = (Taint(key=DISRUPTED, value="Drifted"),)
    cut = drifted("a", "b", nodes=(node("a", pods=(pod("a"),)), node("b", pods=(pod("b"),), taints=taints)))
    drain = only(plan_for(cut, T4), Drain)

    assert ("i-b", "Drifted") == (drain.request.machine_id, drain.request.drain and drain.request.drain.event)


def test_an_outdated_node_without_pods_just_goes() -> None:
    """There is nothing to replace."""
    plan = plan_for(drifted("a", nodes=(node("a"),), guests={}), T4)

    assert Event.IDLE is only(plan, Terminate).event
    assert [Terminate] == kinds(plan)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=5))
def test_replacing_never_costs_a_waiting_pod_its_place(facts: list[tuple[bool, bool, bool]]) -> None:
    """Whatever is outdated, held or empty: pods that could be placed without drift are placed or bought for with it too."""
    names = [f"n{number}" for number in range(len(facts))]
    parts: dict[str, Any] = {
        "nodes": tuple(node(name, pods=() if empty else (pod(name),)) for name, (_, _, empty) in zip(names, facts, strict=True)),
        "guests": {name: () if empty else (guest(name, held=held),) for name, (_, held, empty) in zip(names, facts, strict=True)},
        "machines": tuple(old(name) if outdated else machine(name) for name, (outdated, _, _) in zip(names, facts, strict=True)),
        "demands": (demand("w"), demand("x")),
    }
    with_drift = plan_for(drifted(*names, **parts), T4)
    without = plan_for(drifted(*names, **{**parts, "machines": tuple(map(machine, names))}), T4)

    assert without.unmet == with_drift.unmet == ()
    assert sum(isinstance(one, Drain) for one in with_drift.actions) <= 1
    assert {one.pod for one in without.actions if isinstance(one, Assign)} >= {
        one.pod for one in with_drift.actions if isinstance(one, Assign)
    }
