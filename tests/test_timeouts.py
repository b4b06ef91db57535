"""Machines that do not become nodes in time: each of three times has a reason of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.facts import BATCH, L4, NOW_S, POOL, T4, cluster, demand, kinds, machine, node, only, plan_for, request
from tfscale.conditions import of_request
from tfscale.decide import Policy, Supply, decide
from tfscale.lifecycle import Event, State
from tfscale.model import UNREGISTERED, Cluster, Node, Trouble
from tfscale.plan import Admit, Advance, Assign, Avoid, Forget, Launch, Nominate, Terminate
from tfscale.scenario import Scenario
from tfscale.selectors import Taint
from tfscale.simulate import open_world


def waiting(state: State, age_s: int, **parts: Any) -> Cluster:  # noqa: ANN401 - any field of a cluster
    """Return a cluster in which a pod waits for a machine that was launched so long ago."""
    coming = request("a", state=state, launched_s=NOW_S - age_s, nominated=("uid-p",))
    observed = cluster(demands=(demand("p"),), requests=(coming,), batches=(BATCH,), machines=(machine("a"),))
    return replace(observed, **parts)


def joined(age_s: int, **changes: Any) -> Node:  # noqa: ANN401 - any field of a node
    """Return the node of the machine, which joined so long ago."""
    return node("a", created_s=NOW_S - age_s, **changes)


PENDING = {"inference": (machine("a", started=False),)}
STUCK = {"inference": (machine("a", started=False, trouble=Trouble(reason="LaunchFailed", message="no subnet")),)}
LATE: list[tuple[Cluster, Event, str, str]] = [
    (
        waiting(State.LAUNCHED, POOL.launch_within_s, machines=PENDING),
        Event.LAUNCH_TIMED_OUT,
        "the cloud did not run it within 300 s",
        T4.id,
    ),
    (
        waiting(State.LAUNCHED, Policy().withdraw_s, machines=STUCK),
        Event.LAUNCH_TIMED_OUT,
        "the cloud did not run it within 30 s: LaunchFailed: no subnet",
        T4.id,
    ),
    (
        waiting(State.LAUNCHED, POOL.register_within_s),
        Event.REGISTRATION_TIMED_OUT,
        "its node did not join within 900 s",
        T4.instance_type,
    ),
    (
        waiting(State.REGISTERED, 1_700, nodes=(joined(POOL.initialise_within_s, ready=False),)),
        Event.INITIALIZATION_TIMED_OUT,
        "its node is not Ready 900 s after it joined",
        T4.instance_type,
    ),
    (
        waiting(State.REGISTERED, 1_700, nodes=(joined(POOL.initialise_within_s, gpus=()),)),
        Event.INITIALIZATION_TIMED_OUT,
        "its node shows 0 of 1 GPUs 900 s after it joined",
        T4.instance_type,
    ),
]


@pytest.mark.parametrize(("observed", "event", "why", "left_out"), LATE)
def test_a_machine_that_is_late_is_given_back_and_replaced(observed: Cluster, event: Event, why: str, left_out: str) -> None:
    """The plan says what was waited for, leaves out what disappointed, and buys another type for the pod."""
    plan = plan_for(observed, T4, L4)
    ended = only(plan, Terminate)

    assert (event, why, (left_out,)) == (ended.event, ended.why, ended.disappointing)
    assert L4.id == only(plan, Launch).offers[0].id


@pytest.mark.parametrize(("observed", "event", "why", "left_out"), LATE)
def test_a_second_earlier_it_is_waited_for(observed: Cluster, event: Event, why: str, left_out: str) -> None:  # noqa: ARG001 - the same table
    """And the loop looks again when the time is over."""
    plan = plan_for(replace(observed, now_s=NOW_S - 1), T4, L4)

    assert [] == [action for action in plan.actions if isinstance(action, Terminate | Launch)]
    assert plan.recheck_s == NOW_S


def test_nothing_is_late_while_it_is_not_known_what_was_bought() -> None:
    """A mode that cannot tell its offers cannot tell how many cards there should be."""
    observed = LATE[3][0]

    assert Terminate not in kinds(decide(observed, {}))
    assert Terminate in kinds(decide(observed, {"inference": Supply(offers=(T4,))}))


def test_the_record_says_which_time_was_over() -> None:
    """In the words of Karpenter's conditions."""
    events = (Event.LAUNCH_TIMED_OUT, Event.REGISTRATION_TIMED_OUT, Event.INITIALIZATION_TIMED_OUT, Event.IDLE)

    assert ["LaunchTimeout", "RegistrationTimeout", "InitializationTimeout", "Terminating"] == [
        of_request(State.TERMINATING, event=event)[0].reason for event in events
    ]


BARRED = (Taint(key=UNREGISTERED, effect="NoExecute"), Taint(key="theirs"))


@pytest.mark.parametrize("state", [State.LAUNCHED, State.REGISTERED, State.READY])
def test_a_complete_node_is_admitted_before_anything_is_placed_there(state: State) -> None:
    """Until its taint is off it stays on its way, and what it was bought for waits for it."""
    observed = waiting(state, 60, nodes=(joined(10, taints=BARRED[:1]),))
    plan = plan_for(observed, T4)

    assert "a" == only(plan, Admit).node
    assert [] == [action for action in plan.actions if isinstance(action, Assign | Launch | Avoid | Terminate | Nominate)]
    assert State.READY not in [action.request.state for action in plan.actions if isinstance(action, Advance)]


@pytest.mark.parametrize("lacking", [{"ready": False}, {"gpus": ()}, {"fenced": "cordoned"}])
def test_a_node_that_is_not_complete_is_not_admitted(lacking: dict[str, Any]) -> None:
    """Nothing may run where a card is missing."""
    observed = waiting(State.REGISTERED, 60, nodes=(joined(10, taints=BARRED[:1], **lacking),))

    assert Admit not in kinds(plan_for(observed, T4))


def test_a_node_without_the_taint_is_ready_at_once() -> None:
    """Launch templates of others put none."""
    plan = plan_for(waiting(State.REGISTERED, 60, nodes=(joined(10),)), T4)

    assert State.READY is only(plan, Advance).request.state
    assert "a" == only(plan, Assign).node


def test_a_clock_that_was_put_forward_takes_no_machine_away() -> None:
    """A fresh machine that is not listed yet looks old: for a minute after the step it may still come."""
    fresh = request("a", state=State.LAUNCHED, launched_s=NOW_S - 3_600)
    observed = replace(cluster(requests=(fresh,), batches=(BATCH,)), seen_since_s=NOW_S - 59)

    assert ((), NOW_S + 1) == (plan_for(observed, T4).actions, plan_for(observed, T4).recheck_s)
    assert Forget in kinds(plan_for(replace(observed, seen_since_s=NOW_S - 60), T4))


@pytest.mark.parametrize(("step_s", "counts"), [(0, False), (9, False), (-9, False), (10, True), (-3_600, True)])
def test_a_step_of_the_clock_is_noticed_at_the_next_round(step_s: int, counts: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """What passes at both clocks alike is no step, however long it is."""
    with open_world(Scenario()) as world:
        reconciler = world.reconciler
        reconciler.note_clocks(NOW_S, 5.0)
        reconciler.note_clocks(NOW_S + 1_000, 1_005.0)
        reconciler.note_clocks(NOW_S + 2_000 + step_s, 2_005.0)

        assert reconciler.seen_since_s == (NOW_S + 2_000 + step_s if counts else NOW_S)
