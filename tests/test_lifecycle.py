"""The table of node states."""

from __future__ import annotations

import pytest

from tfscale.lifecycle import TRANSITIONS, Event, State, after


@pytest.mark.parametrize("state", State)
def test_every_state_reaches_gone(state: State) -> None:
    """From any state some sequence of events leads to GONE, so that no record stays for ever."""
    reached = {state}
    for _ in State:
        reached |= {target for known in reached for target in TRANSITIONS[known].values()}

    assert State.GONE in reached


@pytest.mark.parametrize("event", Event)
def test_gone_is_final(event: Event) -> None:
    """Nothing brings a forgotten node back."""
    assert State.GONE is after(State.GONE, event)


@pytest.mark.parametrize("state", [State.LAUNCHED, State.REGISTERED, State.READY, State.DRAINING, State.TERMINATING])
def test_a_request_with_a_machine_goes_only_after_the_machine(state: State) -> None:
    """Nothing but the machine's end leads to GONE."""
    assert [Event.MACHINE_GONE] == [event for event in Event if after(state, event) is State.GONE]


def test_a_node_that_has_to_go_takes_no_work_again() -> None:
    """Whatever its node reports, it is emptied and given back."""
    assert {State.DRAINING, State.TERMINATING, State.GONE} == {after(State.DRAINING, event) for event in Event}


def test_a_terminating_node_never_comes_back() -> None:
    """A machine that is being given back takes no work again, whatever its node reports."""
    assert {State.TERMINATING, State.GONE} == {after(State.TERMINATING, event) for event in Event}
