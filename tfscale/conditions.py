"""Conditions: what a status says about its object, in the form that people know and `kubectl wait` waits for.

Source: ``metav1.Condition`` of the Kubernetes API; those of a node request have the names of Karpenter's NodeClaim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tfscale.errors import CloudUnreachableError, CredentialsError, Problem, TfscaleError
from tfscale.lifecycle import Event, State

__all__ = ["STEPS", "Condition", "of_pool", "of_request", "says", "settled", "updated"]

MOST_PROBLEMS = 3
"""How many problems a message tells; correcting them shows the others."""
MOST_CHARACTERS = 32_768
"""How long a message may be; the API server refuses a longer one with all of the status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One statement about an object."""

    type: str
    status: Literal["True", "False", "Unknown"]
    """Unknown is not yet."""
    reason: str
    """One word in CamelCase."""
    message: str = ""
    since_s: int = 0
    """Since when the status is what it is; 0 before it is written."""
    generation: int | None = None
    """The ``metadata.generation`` of the object that was looked at; None where nobody counts it."""


def updated(before: Iterable[Condition], now: Iterable[Condition], *, now_s: int) -> tuple[Condition, ...]:
    """Return the conditions of `before` with those of `now` in their place. A time moves only with its status.

    >>> ready = Condition(type="Ready", status="True", reason="Fine", since_s=5)
    >>> updated([ready], [Condition(type="Ready", status="True", reason="Better")], now_s=9)[0].since_s
    5
    """
    kept = {condition.type: condition for condition in before}
    for condition in now:
        old = kept.get(condition.type)
        since_s = old.since_s if old and old.status == condition.status else now_s
        kept[condition.type] = replace(condition, since_s=since_s)
    return tuple(kept.values())


STEPS = ("Launched", "Registered", "Initialized", "Ready")
"""The conditions of a node request."""
_REACHED = {State.REQUESTED: 0, State.LAUNCHED: 1, State.REGISTERED: 2, State.READY: 4}
"""How many of the steps are done. A node that is Ready and shows its cards is initialized and ready at once."""


_ENDS: Mapping[Event | None, str] = {
    Event.LAUNCH_TIMED_OUT: "LaunchTimeout",
    Event.REGISTRATION_TIMED_OUT: "RegistrationTimeout",
    Event.INITIALIZATION_TIMED_OUT: "InitializationTimeout",
}


def of_request(state: State, *, event: Event | None = None, reason: str = "", why: str = "") -> tuple[Condition, ...]:
    """Return what a state says. A node on its way out is not ready, and what it had reached is not said anew.

    `event` is what led to the state, `why` the same in words. `reason` is the word of whoever met trouble: a machine that is
    only just tried is not launched.

    >>> [condition.status for condition in of_request(State.REGISTERED)]
    ['True', 'True', 'Unknown', 'Unknown']
    """
    reached = _REACHED.get(state)
    if reached is None:
        return (Condition(type="Ready", status="False", reason=_ENDS.get(event) or reason or state, message=why),)
    steps = tuple(
        Condition(type=step, status="True", reason=step)
        if number < reached
        else Condition(type=step, status="Unknown", reason=f"Not{step}")
        for number, step in enumerate(STEPS)
    )
    return (Condition(type=STEPS[0], status="Unknown", reason=reason, message=why), *steps[1:]) if reason else steps


def says(conditions: Iterable[Condition], reason: str) -> bool:
    """Return whether a record of a launched machine says this reason for which it does not run; empty: that it runs.

    >>> says([Condition(type="Launched", status="Unknown", reason="LaunchFailed")], "LaunchFailed")
    True
    """
    launched = next((one for one in conditions if one.type == STEPS[0]), None)
    if launched is None or launched.status == "True":
        return not reason
    return launched.reason == reason


def settled() -> Condition:
    """Return that the outcome of a launch batch is known."""
    return Condition(type="Settled", status="True", reason="OutcomeKnown")


def of_pool(problems: Sequence[Problem], error: TfscaleError | None, *, readable: bool, deleting: bool) -> Condition:
    """Return whether a pool works.

    `problems` are those of the pool, `error` is what kept its mode from answering, `readable` whether everything that was
    recorded for it can be read.
    """
    if problems:
        return _not_ready(_REASONS.get(_part(problems[0]), "Contradiction"), _told(problems))
    if error is not None:
        return _not_ready(_reason(error), str(error))
    if not readable:
        return _not_ready("BadRecord", "a NodeRequest or LaunchBatch of it cannot be read, so it is left alone")
    if deleting:
        return _not_ready("Deleting", "it goes when everything that was bought for it is given back")
    return Condition(type="Ready", status="True", reason="ModeAnswers")


def _reason(error: TfscaleError) -> str:
    match error:
        case CredentialsError():
            return "CredentialsRejected"
        case CloudUnreachableError():
            return "CloudUnreachable"
        case _:
            return "ModeFailed"


_REASONS = {
    "spec.mode": "BadMode",
    "spec.options": "BadOptions",
    "spec": "BadSpec",
    "metadata": "BadName",
    "headroom": "HeadroomMissing",
    "metadata.annotations": "BuyingStopped",
    "--stop-buying": "BuyingStopped",
    "nodes to give back": "TooManyIdle",
}


def _part(problem: Problem) -> str:
    """Return the part of the object that the field is in."""
    path = problem.field.removeprefix("a key of ").partition("[")[0].split(".")
    whole = ".".join(path[:2])
    return whole if whole in _REASONS else path[0]


def _told(problems: Sequence[Problem]) -> str:
    lines = [str(problem).removeprefix(f"{problem.where}: ") for problem in problems[:MOST_PROBLEMS]]
    return "; ".join([*lines, f"and {len(problems) - len(lines)} more"] if len(problems) > len(lines) else lines)


def _not_ready(reason: str, message: str) -> Condition:
    # As it will come back from the API server: a text that is no Unicode would be written anew at every tick.
    text = message.encode(errors="replace").decode()
    return Condition(type="Ready", status="False", reason=reason, message=text[:MOST_CHARACTERS])
