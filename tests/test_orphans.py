"""Machines without a record, and calls whose token is too old."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.facts import BATCH, NOW_S, POOL, T4, cluster, demand, kinds, machine, node, only, plan_for, request
from tfscale.lifecycle import State
from tfscale.model import Cluster, Request
from tfscale.plan import Adopt, Launch, Recover, Replay, Terminate
from tfscale.pool import Limits, Policy


def fleet(owned: int, joined: int, foreign: int) -> Cluster:
    """Return machines with a record and a node, ones with a node alone, and ones with neither."""
    names = [f"m{number}" for number in range(owned + joined + foreign)]
    return cluster(
        nodes=tuple(node(name) for name in names[: owned + joined]),
        requests=tuple(request(name) for name in names[:owned]),
        batches=(BATCH,),
        machines=[machine(name, launched_s=0) for name in names],
    )


@given(st.integers(0, 12), st.integers(0, 4), st.integers(0, 12))
def test_machines_are_recovered_unless_too_many_look_like_those_of_others(owned: int, joined: int, foreign: int) -> None:
    """More than two without record and node, and more than one in five, are left alone until somebody has looked."""
    observed = fleet(owned, joined, foreign)
    plan = plan_for(observed, T4)
    doubtful = foreign > 2 and foreign * 5 > owned + joined + foreign

    assert (0 if doubtful else joined + foreign) == kinds(plan).count(Recover)
    assert doubtful == any("without record and node" in str(problem) for problem in plan.problems)
    assert Terminate not in kinds(plan)

    told = replace(observed, pools=(replace(POOL, recovers_all=True),))
    assert (joined + foreign, ()) == (kinds(plan_for(told, T4)).count(Recover), plan_for(told, T4).problems)


@given(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.integers(0, 9), st.integers(0, 4))
def test_what_gets_its_record_back_counts_against_the_limit(owned: int, joined: int, lost: int, most: int, pods: int) -> None:
    """In the round that writes the record, too: it is paid for."""
    there, demands = (
        owned + joined + lost,
        tuple(demand(f"p{number}", Request(gpu_count=1, whole=True)) for number in range(pods)),
    )
    pool = replace(POOL, limits=Limits(nodes=most), recovers_all=True)
    plan = plan_for(replace(fleet(owned, joined, lost), pools=(pool,), demands=demands), T4)
    bought = sum(len(action.requests) for action in plan.actions if isinstance(action, Launch))

    assert bought <= max(most - there, 0)


def test_the_problem_says_what_to_do() -> None:
    """The number, some names, and the annotation."""
    (problem,) = plan_for(fleet(1, 0, 4), T4).problems

    assert str(problem) == (
        "gpupool inference: machines without record and node is '4 of 5, i-m1, i-m2, i-m3 and 1 more'; want their NodeRequests, "
        'or the annotation tfscale.io/recover-orphans "true" on the pool if they are really this cluster\'s'
    )


def test_a_call_with_an_old_token_is_not_made_again() -> None:
    """The cloud may have forgotten it: what exists is taken, and the rest is planned anew."""
    asked = request("a", state=State.REQUESTED, machine_id="", offer="", node="", nominated=("uid-p",))
    other = replace(asked, name="r-b", nominated=())
    batch = replace(BATCH, settled=False, requests=("r-a", "r-b"), created_s=NOW_S - Policy().token_s)
    observed = cluster(demands=(demand("p"),), requests=(asked, other), batches=(batch,), machines=(machine("a"),))
    young = replace(observed, batches=(replace(batch, created_s=batch.created_s + 1),))

    assert (machine("a"),) == only(plan_for(observed, T4), Adopt).machines
    assert [Replay] == kinds(plan_for(young, T4))
    assert [Replay] == kinds(plan_for(replace(observed, machines={}), T4))
    assert Launch not in kinds(plan_for(observed, T4))
