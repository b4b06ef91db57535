"""Capacity that was paid for ahead: the reservations and capacity blocks that a pool names, and their room."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from tfscale.errors import ModeError
from tfscale.modes.ec2_calls import Ec2Calls, code_of
from tfscale.modes.ec2_prices import Remembered

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import CapacityReservationTypeDef

__all__ = ["RESERVED", "Reservation", "Reservations", "reserved_price"]

log = logging.getLogger(__name__)

RESERVED = "reserved"
"""The capacity type of machines from a reservation, as Karpenter calls it."""
REMEMBER_S = 60
CLOSES_S = 40 * 60
"""How long before its end nothing is launched into a reservation. EC2 ends the machines of a block 30 minutes before, and
warns 10 minutes earlier. Source: EC2, page "Monitor Capacity Blocks using EventBridge"."""
_MOST_IDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One reservation that is there."""

    id: str
    instance_type: str
    zone: str
    free: int
    """How many machines may be launched into it now."""
    block: bool
    """True: a capacity block, which must be asked for as such."""


def reserved_price(on_demand_micro_usd: int | None) -> int:
    """Return what a reserved machine costs beyond what is paid anyway: next to nothing, but ordered as on demand, and never 0.

    The ten-thousandth part; one micro-USD per hour where the price is not known. Karpenter takes the ten-millionth part.

    >>> reserved_price(55_040_000), reserved_price(None)
    (5504, 1)
    """
    return max((on_demand_micro_usd or 0) // 10_000, 1)


class Reservations:
    """The reservations of one pool. `clock` gives seconds of any kind, `now` those since the epoch."""

    def __init__(self, calls: Ec2Calls, ids: Sequence[str], *, clock: Callable[[], float], now: Callable[[], float]) -> None:
        self._calls = calls
        self._ids = tuple(ids)
        self._now = now
        self._told: dict[str, str] = {}
        self._found: Remembered[Mapping[str, CapacityReservationTypeDef]] = Remembered(clock)

    def all(self) -> list[Reservation]:
        """Return those that are there, with their room as it was within the last minute; none where nothing may be launched."""
        self._tell()
        return [
            Reservation(
                id=found["CapacityReservationId"],
                instance_type=found["InstanceType"],
                zone=found["AvailabilityZone"],
                free=0 if self._closed(found) else found["AvailableInstanceCount"],
                block=is_block(found),
            )
            for found in self._described().values()
        ]

    def _tell(self) -> None:
        """Log once what nothing is launched into: the pool goes on without it."""
        closed = self.closed()
        for one in closed.keys() - self._told.keys():
            log.warning("nothing is launched into reservation %s: %s", one, closed[one])
        self._told = closed

    def is_block(self, reservation_id: str) -> bool:
        """Return whether this is a capacity block."""
        found = self._described().get(reservation_id)
        return found is not None and is_block(found)

    def forget(self) -> None:
        """Ask anew: something was launched, or refused."""
        self._found.forget()

    def closed(self) -> dict[str, str]:
        """Return why nothing may be launched into some of them, beside a lack of room, by id."""
        described = self._described()
        whys = {one: self._closed(described[one]) if one in described else "there is no such reservation" for one in self._ids}
        return {one: why for one, why in whys.items() if why}

    def _closed(self, found: CapacityReservationTypeDef) -> str:
        if found["State"] != "active":
            return f"it is {found['State']}"
        end = found.get("EndDate")
        if end is not None and end.timestamp() - self._now() <= CLOSES_S:
            return f"it ends at {end:%Y-%m-%d %H:%M} UTC"
        return ""

    def _described(self) -> Mapping[str, CapacityReservationTypeDef]:
        return self._found.get(lambda: (self._ask(), REMEMBER_S)) if self._ids else {}

    def _ask(self) -> dict[str, CapacityReservationTypeDef]:
        parts = [self._ids[start : start + _MOST_IDS] for start in range(0, len(self._ids), _MOST_IDS)]
        return {one["CapacityReservationId"]: one for part in parts for one in self._describe(part)}

    def _describe(self, ids: Sequence[str]) -> Iterable[CapacityReservationTypeDef]:
        def ask() -> list[CapacityReservationTypeDef]:
            pages = self._calls.ec2.get_paginator("describe_capacity_reservations").paginate(CapacityReservationIds=[*ids])
            return [one for page in pages for one in page["CapacityReservations"]]

        try:
            return self._calls.read("DescribeCapacityReservations", ask)
        except ModeError as error:
            cause = error.__cause__
            if not isinstance(cause, ClientError) or not code_of(cause).startswith("InvalidCapacityReservationId"):
                raise
            # There is no filter by id, and one that is unknown fails the call for all.
            return [found for one in ids for found in self._describe([one])] if len(ids) > 1 else []


def is_block(found: CapacityReservationTypeDef) -> bool:
    """Return whether a reservation is a capacity block."""
    return found.get("ReservationType") == "capacity-block"
