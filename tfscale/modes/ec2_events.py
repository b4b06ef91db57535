"""What EC2 says ahead of time: one message of EventBridge, read with suspicion. Pure.

Sources: EC2's pages on spot interruption notices, rebalance recommendations, "Monitor Capacity Blocks
using EventBridge" and interruptible reservations; the schema of AWS Health events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["News", "UnreadableError", "read_news"]

SPOT_NOTICE_S = 120
BLOCK_ENDS_EARLY_S = 1_800
"""How long before the end of a capacity block EC2 begins to terminate its machines."""
_MACHINE = re.compile(r"i-[0-9a-f]{8,17}", re.ASCII)
_RESERVATION = re.compile(r"cr-[0-9a-f]{8,17}", re.ASCII)
_CODE = re.compile(r"[A-Z0-9_]{1,100}", re.ASCII)

Message = Mapping[str, Any]


class UnreadableError(ValueError):
    """A message that nobody can make sense of; says in a few words of ours what kind of trouble it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What one message says. Its texts are our own: nothing of the message but checked ids and codes is in them."""

    event: str
    machine_ids: tuple[str, ...] = ()
    reservation: str = ""
    """All machines in this capacity reservation, instead of named ones."""
    ends_s: int | None = None
    """When they go whatever we do; None where that is not said."""
    scarce: bool = False
    why: str


def read_news(body: str) -> News | None:
    """Return what a message says, or None where nobody needs to do anything. Raises ``UnreadableError``.

    A message may come through an SNS topic, in an envelope.

    >>> read_news('{"source": "aws.ec2", "detail-type": "EC2 Instance Rebalance Recommendation",'
    ...           ' "detail": {"instance-id": "i-0123456789abcdef0"}}').machine_ids
    ('i-0123456789abcdef0',)
    """
    message = _decoded(body)
    if message.get("Type") == "Notification" and isinstance(message.get("Message"), str):
        message = _decoded(message["Message"])
    # EC2's page on capacity blocks spells it with an underscore.
    kind = message.get("detail-type", message.get("detail_type"))
    if not isinstance(kind, str) or not isinstance(message.get("source"), str):
        raise UnreadableError("no event of EventBridge")
    read = _READERS.get(kind)
    if read is None:
        return None
    detail = message.get("detail")
    if not isinstance(detail, dict):
        raise UnreadableError("an event without detail")
    return read(message, detail)


def _decoded(text: str) -> Message:
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError("no JSON") from error
    if not isinstance(decoded, dict):
        raise UnreadableError("JSON that is no object")
    return decoded


def _spot(message: Message, detail: Message) -> News:
    said_s = _time_s(message.get("time"))
    ends_s = None if said_s is None else said_s + SPOT_NOTICE_S
    machine = _machine(detail)
    return News(event="SpotInterruption", machine_ids=machine, ends_s=ends_s, scarce=True, why="EC2 takes the spot machine back")


def _rebalance(message: Message, detail: Message) -> News:  # noqa: ARG001 - as the other readers
    why = "EC2 says that the spot machine is likely to be taken back"
    return News(event="RebalanceRecommendation", machine_ids=_machine(detail), scarce=True, why=why)


def _reservation(message: Message, detail: Message) -> News:
    ends_s = _time_s(detail.get("instance-termination-time"))
    if ends_s is None:
        ends_s = _time_s(message.get("time"))
    why = "EC2 takes the machine of a capacity reservation back"
    return News(event="ReservationInterruption", machine_ids=_machine(detail), ends_s=ends_s, scarce=True, why=why)


def _block(message: Message, detail: Message) -> News:
    found = detail.get("capacity-reservation-id")
    if not isinstance(found, str) or not _RESERVATION.fullmatch(found):
        raise UnreadableError("an event without a reservation's id")
    end_s = _time_s(detail.get("end-date"))
    ends_s = _time_s(message.get("time")) if end_s is None else end_s - BLOCK_ENDS_EARLY_S
    return News(event="CapacityBlockEnd", reservation=found, ends_s=ends_s, scarce=True, why=f"capacity block {found} ends")


def _health(message: Message, detail: Message) -> News | None:  # noqa: ARG001 - as the other readers
    planned = detail.get("service") == "EC2" and detail.get("eventTypeCategory") == "scheduledChange"
    entities = detail.get("affectedEntities", [])
    if not planned or detail.get("statusCode") == "closed" or not isinstance(entities, list):
        return None
    named = [entity.get("entityValue") for entity in entities if isinstance(entity, dict)]
    machines = tuple(dict.fromkeys(one for one in named if isinstance(one, str) and _MACHINE.fullmatch(one)))
    code = detail.get("eventTypeCode")
    what = code if isinstance(code, str) and _CODE.fullmatch(code) else "a scheduled change"
    # Volumes and hosts have such events too.
    return News(
        event="HealthEvent", machine_ids=machines, ends_s=_time_s(detail.get("startTime")), why=f"AWS Health announces {what}"
    )


_READERS: Mapping[str, Callable[[Message, Message], News | None]] = {
    "EC2 Spot Instance Interruption Warning": _spot,
    "EC2 Instance Rebalance Recommendation": _rebalance,
    "EC2 Capacity Reservation Instance Interruption Warning": _reservation,
    "EC2 Interruptible Capacity Reservation Instance Interruption Warning": _reservation,
    "Capacity Block Expiration Warning": _block,
    "Capacity Block Reservation Expiration Warning": _block,
    "EC2 Capacity Block Expiration Warning": _block,
    "AWS Health Event": _health,
}
"""By ``detail-type``. EC2's pages have several names for some. A change of state is none of these: the list of machines, which is
read in the same round, shows it."""


def _machine(detail: Message) -> tuple[str, ...]:
    found = detail.get("instance-id")
    if not isinstance(found, str) or not _MACHINE.fullmatch(found):
        raise UnreadableError("an event without a machine's id")
    return (found,)


def _time_s(value: object) -> int | None:
    """Return the seconds since the epoch; None for anything else than the forms that ISO 8601 and mail have."""
    if not isinstance(value, str):
        return None
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = read(value)
            moment = found.replace(tzinfo=found.tzinfo or UTC).timestamp()
        except (ValueError, OverflowError, TypeError, IndexError):
            continue
        return int(moment) if moment >= 0 else None
    return None
