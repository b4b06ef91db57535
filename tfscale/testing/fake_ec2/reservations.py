"""Capacity that somebody paid for ahead: reservations and capacity blocks, as EC2 describes and hands them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tfscale.testing.fake_ec2.faults import ApiError, no_such
from tfscale.testing.fake_ec2.pages import Answer, chosen, page, tag_values, tags_of

__all__ = ["BLOCK_ENDS_EARLY_S", "Reservations", "SimulatedReservation"]

BLOCK_ENDS_EARLY_S = 1_800
"""EC2 begins to terminate the machines of a capacity block half an hour before it ends. Source: EC2's page on Capacity Blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedReservation:
    """Machines of one type and zone that are kept free. Only a call that names the reservation gets them."""

    id: str
    instance_type: str
    zone: str
    count: int
    block: bool = False
    """Whether it is a capacity block, which must be asked for with its own market type and ends its machines with it."""
    end_s: int | None = None
    """When it ends; None is never."""
    tags: Mapping[str, str] = field(default_factory=dict)

    def ended(self, now_s: int) -> bool:
        """Return whether it has ended."""
        return self.end_s is not None and now_s >= self.end_s

    def closes_s(self) -> int | None:
        """Return when its machines end; None where they outlive it."""
        return self.end_s - BLOCK_ENDS_EARLY_S if self.block and self.end_s is not None else None


class Reservations:
    """The reservations of a region. `clock` gives seconds, `used` how many machines of a reservation there are."""

    def __init__(
        self, reservations: Iterable[SimulatedReservation], *, clock: Callable[[], int], used: Callable[[str], int]
    ) -> None:
        self.all = {one.id: one for one in reservations}
        self._clock = clock
        self._used = used

    def answers(self) -> Mapping[str, Answer]:
        """Return the operations that are answered here."""
        return {"DescribeCapacityReservations": self._describe}

    def find(self, reservation_id: str) -> SimulatedReservation:
        """Return one. Raises ``ApiError`` where it is not there, or is over."""
        if reservation_id not in self.all:
            raise no_such("InvalidCapacityReservationId.NotFound", "Capacity Reservation ID", reservation_id)
        found = self.all[reservation_id]
        if found.ended(self._clock()):
            raise ApiError("InvalidCapacityReservationState", f"The Capacity Reservation '{reservation_id}' is not active.")
        return found

    def free(self, reservation_id: str) -> int:
        """Return how many machines it can still give."""
        return max(self.all[reservation_id].count - self._used(reservation_id), 0)

    def _describe(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        asked = parameters.get("CapacityReservationIds", [])
        for reservation_id in asked:
            if reservation_id not in self.all:
                raise no_such("InvalidCapacityReservationId.NotFound", "Capacity Reservation ID", reservation_id)
        entries = [self._shown(one) for one in self.all.values() if not asked or one.id in asked]
        return page(chosen(entries, parameters, _values), "CapacityReservations", parameters)

    def _shown(self, one: SimulatedReservation) -> dict[str, Any]:
        ended = one.ended(self._clock())
        end = {} if one.end_s is None else {"EndDate": datetime.fromtimestamp(one.end_s, UTC)}
        return {
            "CapacityReservationId": one.id,
            "InstanceType": one.instance_type,
            "InstancePlatform": "Linux/UNIX",
            "AvailabilityZone": one.zone,
            "Tenancy": "default",
            "TotalInstanceCount": one.count,
            "AvailableInstanceCount": 0 if ended else self.free(one.id),
            "State": "expired" if ended else "active",
            "EndDateType": "unlimited" if one.end_s is None else "limited",
            **end,
            "InstanceMatchCriteria": "targeted",
            "ReservationType": "capacity-block" if one.block else "default",
            "Tags": tags_of(one.tags),
        }


_FIELDS = {"instance-type": "InstanceType", "availability-zone": "AvailabilityZone", "state": "State"}


def _values(entry: Mapping[str, Any], name: str) -> list[str] | None:
    return [entry[_FIELDS[name]]] if name in _FIELDS else tag_values(entry["Tags"], name)
