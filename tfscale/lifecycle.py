r"""The life of one requested node as a table: state by event.

::

    REQUESTED --launched--> LAUNCHED --registered--> REGISTERED --ready--> READY --idle--> TERMINATING --gone--> GONE
                                                                             \--disrupted--> DRAINING --drained--/

Every state reaches GONE. A node that becomes not Ready later keeps its state: its readiness is a fact of the node, read
at every tick. A node object that is deleted takes its request back to LAUNCHED, where the time to join runs again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

__all__ = ["TIMEOUTS", "TRANSITIONS", "Event", "State", "after"]


class State(StrEnum):
    """Where a node request stands."""

    REQUESTED = "Requested"
    """Recorded; its machine is not known yet."""
    LAUNCHED = "Launched"
    """The cloud gave a machine; no node yet."""
    REGISTERED = "Registered"
    """The node exists but is not Ready or shows no GPU yet."""
    READY = "Ready"
    """The node took or takes pods."""
    DRAINING = "Draining"
    """It has to go: its node takes nothing new, and its pods are asked to leave."""
    TERMINATING = "Terminating"
    """The machine is being given back; asked again until it is gone."""
    GONE = "Gone"
    """Nothing is left; the record can be deleted."""


class Event(StrEnum):
    """What was observed or decided about a node request."""

    LAUNCHED = "launched"
    REGISTERED = "registered"
    READY = "ready"
    LAUNCH_TIMED_OUT = "launch timed out"
    """The cloud accepted the machine and does not run it."""
    REGISTRATION_TIMED_OUT = "registration timed out"
    """It runs, and no node came."""
    INITIALIZATION_TIMED_OUT = "initialization timed out"
    """Its node came, and is not complete."""
    STOPPED = "stopped"
    """Interrupted or stopped by somebody else; terminating it as well is safe."""
    IDLE = "idle"
    DISRUPTED = "disrupted"
    """It has to go, and pods are on its node."""
    DRAINED = "drained"
    """No pod is left on its node, or the time for that is over."""
    NODE_GONE = "node gone"
    MACHINE_GONE = "machine gone"


TIMEOUTS = (Event.LAUNCH_TIMED_OUT, Event.REGISTRATION_TIMED_OUT, Event.INITIALIZATION_TIMED_OUT)
"""What ends a machine that did not become a node in time."""

_ENDS = {
    **dict.fromkeys((*TIMEOUTS, Event.STOPPED, Event.IDLE), State.TERMINATING),
    # Its record was lost while it ran, so that its pods came before its states.
    Event.DISRUPTED: State.DRAINING,
}

TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.REQUESTED: {Event.LAUNCHED: State.LAUNCHED},
    State.LAUNCHED: {
        Event.REGISTERED: State.REGISTERED,
        Event.READY: State.READY,
        **_ENDS,
        # Interrupted, or terminated by hand, before it joined.
        Event.MACHINE_GONE: State.GONE,
    },
    State.REGISTERED: {
        Event.READY: State.READY,
        Event.NODE_GONE: State.LAUNCHED,
        **_ENDS,
        Event.MACHINE_GONE: State.GONE,
    },
    State.READY: {
        # Somebody deleted the node object; the machine is still paid for.
        Event.NODE_GONE: State.LAUNCHED,
        Event.IDLE: State.TERMINATING,
        Event.STOPPED: State.TERMINATING,
        Event.DISRUPTED: State.DRAINING,
        Event.MACHINE_GONE: State.GONE,
    },
    State.DRAINING: {
        Event.DRAINED: State.TERMINATING,
        # There is nothing left to wait for.
        Event.NODE_GONE: State.TERMINATING,
        Event.STOPPED: State.TERMINATING,
        Event.MACHINE_GONE: State.GONE,
    },
    State.TERMINATING: {Event.MACHINE_GONE: State.GONE},
    State.GONE: {},
}


def after(state: State, event: Event) -> State:
    """Return the state that follows; an event that means nothing in this state changes nothing.

    >>> after(State.LAUNCHED, Event.READY)
    <State.READY: 'Ready'>
    >>> after(State.TERMINATING, Event.READY)
    <State.TERMINATING: 'Terminating'>
    """
    return TRANSITIONS[state].get(event, state)
