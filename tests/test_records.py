"""What became of what was ordered: records held against machines and nodes."""

from __future__ import annotations

from dataclasses import replace

from tests.facts import BATCH, NOW_S, POOL, T4, cluster, demand, kinds, machine, node, only, plan_for, request
from tfscale.decide import decide
from tfscale.lifecycle import State
from tfscale.plan import (
    Adopt,
    Advance,
    Assign,
    Drop,
    Forget,
    Launch,
    Recover,
    Replay,
    Terminate,
    Unguard,
)


def test_a_call_of_unknown_outcome_is_replayed() -> None:
    """A batch that is not settled is sent again as it is, and its pods are not bought for again."""
    pending = replace(BATCH, settled=False)
    asked = request("a", state=State.REQUESTED, machine_id="", offer="", node="", nominated=("uid-p",))
    plan = plan_for(cluster(demands=(demand("p"),), requests=(asked,), batches=(pending,)), T4)

    assert [Replay] == kinds(plan)
    assert ("default/p",) == plan.waiting


def test_machines_that_are_seen_are_adopted_without_a_call() -> None:
    """When all that was ordered exists, the cloud is not called again: the token may have expired."""
    pending = replace(BATCH, settled=False)
    asked = request("a", state=State.REQUESTED, machine_id="", offer="", node="")
    plan = plan_for(cluster(requests=(asked,), batches=(pending,), machines=(machine("a"),)), T4)

    assert (machine("a"),) == only(plan, Adopt).machines
    assert Replay not in kinds(plan)


def test_a_request_without_a_call_is_planned_anew_under_another_name() -> None:
    """A crash between the records and the call leaves a request for which nothing was bought."""
    first = only(plan_for(cluster(demands=(demand("p"),)), T4), Launch)
    void = first.requests[0]
    plan = plan_for(cluster(demands=(demand("p"),), requests=(void,)), T4)

    assert void == replace(only(plan, Forget).request, state=State.REQUESTED)
    assert [f"{void.name}-2"] == [wanted.name for wanted in only(plan, Launch).requests]


def test_a_machine_without_a_record_is_recovered() -> None:
    """Somebody deleted its record: it gets one again, and is then used or given back like any other."""
    observed = cluster(nodes=(node("a"),), machines=(machine("a"),))

    assert ("i-a", State.LAUNCHED) == (
        only(plan_for(observed, T4), Recover).request.machine_id,
        only(plan_for(observed, T4), Recover).request.state,
    )
    assert () == plan_for(replace(observed, machines={"inference": (machine("a", stopping=True),)}), T4).actions
    assert () == plan_for(replace(observed, machines={"inference": (machine("a", launched_s=NOW_S - 119),)}), T4).actions


def test_a_machine_of_a_call_without_outcome_is_no_stray() -> None:
    """The call is made again, and tells whose it is."""
    pending = replace(BATCH, settled=False, requests=("r-a", "r-b"))
    asked = request("b", state=State.REQUESTED, machine_id="", offer="", node="")

    assert [Replay] == kinds(plan_for(cluster(requests=(asked,), batches=(pending,), machines=(machine("a"),)), T4))


def test_a_batch_that_no_request_names_is_dropped_without_a_call() -> None:
    """It arrived too late, or its requests were deleted: what it launched all the same is recovered."""
    late = replace(BATCH, settled=False)
    plan = plan_for(cluster(batches=(late,), machines=(machine("a"),)), T4)

    assert [Recover, Drop] == kinds(plan)


def test_a_listing_without_a_machine_whose_node_is_ready_ends_nothing() -> None:
    """The pool's region or the cluster's name was changed: that is a problem to report, not a machine that is gone."""
    plan = plan_for(cluster(nodes=(node("a"),), requests=(request("a"),), batches=(BATCH,)), T4)

    assert ((), 1) == (plan.actions, len(plan.problems))
    assert "i-a" in str(plan.problems[0])


def test_a_pool_whose_mode_was_changed_ends_nothing() -> None:
    """Only the mode that launched a machine knows what became of it."""
    changed = request("a", mode="managed-nodeclaim")
    plan = plan_for(cluster(requests=(changed,), batches=(BATCH,)), T4)

    assert ((), "gpupool inference: spec.mode is 'ec2'; want managed-nodeclaim until i-a is given back") == (
        plan.actions,
        str(plan.problems[0]),
    )


def test_a_deleted_node_object_takes_its_machine_back_to_the_start() -> None:
    """The machine is still paid for: it has to join again in time, or it is returned."""
    observed = cluster(requests=(request("a"),), batches=(BATCH,), machines=(machine("a"),))
    lost = only(plan_for(replace(observed, now_s=NOW_S + 10_000), T4), Advance).request

    assert (State.LAUNCHED, NOW_S + 10_000) == (lost.state, lost.launched_s)


def test_a_deleted_pool_is_released_after_the_last_machine() -> None:
    """Its finalizer stays while anything is recorded or listed."""
    gone = replace(POOL, deleting=True, guarded=True)

    assert [Unguard] == kinds(plan_for(cluster(pools=(gone,))))
    assert Unguard not in kinds(plan_for(cluster(pools=(gone,), machines=(machine("a", stopping=True),))))
    assert Unguard not in kinds(plan_for(cluster(pools=(gone,), batches=(BATCH,))))


def test_a_ready_node_is_recorded_and_used_at_once() -> None:
    """The tick that sees the node Ready also places its pods."""
    coming = request("a", state=State.LAUNCHED, node="", nominated=("uid-p",))
    observed = cluster(nodes=(node("a"),), demands=(demand("p"),), requests=(coming,), batches=(BATCH,), machines=(machine("a"),))
    plan = plan_for(observed, T4)

    assert (State.READY, "a") == (only(plan, Advance).request.state, only(plan, Advance).request.node)
    assert "a" == only(plan, Assign).node


def test_a_node_without_its_gpus_is_not_ready() -> None:
    """A node that shows fewer cards than were bought takes no GPU pod and its clock runs on."""
    coming = request("a", state=State.REGISTERED)
    observed = cluster(nodes=(node("a", gpus=()),), requests=(coming,), batches=(BATCH,), machines=(machine("a"),))

    assert () == plan_for(observed, T4).actions


def test_a_machine_that_is_gone_is_forgotten_and_replaced() -> None:
    """Somebody terminated it: record and node go, its pods are demand again."""
    lost = request("a", nominated=("uid-p",))
    observed = cluster(nodes=(node("a", ready=False),), demands=(demand("p"),), requests=(lost,), batches=(BATCH,))
    plan = plan_for(observed, T4)

    assert [Forget, Drop, Launch] == kinds(plan)
    assert "a" == only(plan, Forget).node


def test_a_fresh_machine_may_be_missing_for_a_while() -> None:
    """The cloud's listing lags; nothing is concluded in the first minute."""
    fresh = request("a", state=State.LAUNCHED, node="", nominated=("uid-p",))
    observed = cluster(demands=(demand("p"),), requests=(fresh,), batches=(BATCH,))

    assert () == plan_for(observed, T4).actions
    gone = plan_for(replace(observed, now_s=NOW_S + 60), T4)
    assert [Forget, Drop] == kinds(gone)
    assert (T4.id,) == only(gone, Forget).disappointing


def test_nothing_is_concluded_while_the_cloud_does_not_answer() -> None:
    """Without a listing no machine is gone, nothing is bought and nothing is returned; pods are still placed."""
    observed = cluster(nodes=(node("a", idle_since_s=0),), demands=(demand("p"),), requests=(request("a"),), batches=(BATCH,))

    assert [Assign] == kinds(decide(replace(observed, machines={}), {}))


def test_a_machine_stopped_by_somebody_takes_no_pod() -> None:
    """An interrupted machine is given back for good and its node is closed at once."""
    observed = cluster(
        nodes=(node("a"),), demands=(demand("p"),), requests=(request("a"),), batches=(BATCH,),
        machines=(machine("a", stopping=True),),
    )  # fmt: skip

    assert [Terminate, Launch] == kinds(plan_for(observed, T4))


def test_termination_is_asked_for_until_the_machine_stops() -> None:
    """A lost call is repeated; a machine that is shutting down is waited for."""
    going = request("a", state=State.TERMINATING)
    observed = cluster(requests=(going,), batches=(BATCH,), machines=(machine("a"),))

    assert [Terminate] == kinds(plan_for(observed, T4))
    assert () == plan_for(replace(observed, machines={"inference": (machine("a", stopping=True),)}), T4).actions
    assert [Forget, Drop] == kinds(plan_for(replace(observed, machines={"inference": ()}), T4))
