"""Conditions as they stand in a status, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tfscale.conditions import Condition
from tfscale.kube.fields import Field, tried
from tfscale.kube.port import Json
from tfscale.quantity import time_text

__all__ = ["read_conditions", "write_conditions"]

_STATUSES: dict[str, Literal["True", "False", "Unknown"]] = {"True": "True", "False": "False", "Unknown": "Unknown"}


def read_conditions(status: Field) -> tuple[Condition, ...]:
    """Return the conditions of a status. Nothing is decided by them: where they cannot be read, they are written anew."""
    return tried([], lambda: tuple(map(_condition, status.at("conditions").items())), ())


def _condition(item: Field) -> Condition:
    generation = item.at("observedGeneration")
    if item.at("status").text() not in _STATUSES:
        raise item.at("status").refused("one of " + ", ".join(_STATUSES))
    return Condition(
        type=item.at("type").needed(),
        status=_STATUSES[item.at("status").text()],
        reason=item.at("reason").text(),
        message=item.at("message").text(),
        since_s=item.at("lastTransitionTime").seconds(),
        generation=generation.whole(most=2**63 - 1) if generation.given else None,
    )


def write_conditions(conditions: Iterable[Condition]) -> list[Json]:
    """Return the conditions as a status carries them."""
    return [
        {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": time_text(condition.since_s),
        }
        | ({} if condition.generation is None else {"observedGeneration": condition.generation})
        for condition in conditions
    ]
