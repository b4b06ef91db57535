"""How many machines a place can still give: capacity, quotas, addresses, reservations and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfscale.errors import BadInputError, Problem
from tfscale.testing.fake_ec2.faults import THROTTLED, ApiError
from tfscale.testing.fake_ec2.ground import Ground
from tfscale.testing.fake_ec2.machines import Machines
from tfscale.testing.fake_ec2.market import Market
from tfscale.testing.fake_ec2.reservations import Reservations
from tfscale.testing.fake_ec2.throttle import Throttle

__all__ = ["Capacity", "Place", "Room"]

Capacity = Mapping[tuple[str, str] | tuple[str, str, str], int]
"""How many machines there are of (type, zone), or of (type, zone, capacity type); what is absent is unlimited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a call wants machines: one override of a fleet, or the whole of a RunInstances."""

    instance_type: str
    zone: str
    capacity_type: str
    subnet: str
    override: Mapping[str, Any] = field(default_factory=dict)
    template: Mapping[str, Any] = field(default_factory=dict)
    """The LaunchTemplateSpecification; empty for none."""
    reservation: str = ""


class Room:
    """The limits of one region. A machine takes up its room until it is terminated."""

    def __init__(
        self, market: Market, machines: Machines, reservations: Reservations, ground: Ground, throttle: Throttle
    ) -> None:
        self._market = market
        self._machines = machines
        self._reservations = reservations
        self._ground = ground
        self._throttle = throttle
        self.capacity: Capacity = {}
        self.addresses: dict[str, int] = {}
        """How many machines a subnet can have at once, where that is less than its network."""
        self.vcpus: dict[str, int] = {}
        """The account's quota by capacity type."""

    def set_capacity(self, capacity: Capacity) -> None:
        """Replace the limits by place. Raises ``BadInputError`` for a place that is not in this cloud."""
        for key, count in capacity.items():
            if key[0] not in self._market.facts or key[1] not in self._market.zones or count < 0:
                want = "a type and a zone of the cloud, and a count of at least 0"
                raise BadInputError(
                    Problem(where="simulated cloud", field="capacity", value=f"{'/'.join(key)}: {count}", want=want)
                )
        self.capacity = dict(capacity)

    def available(self, place: Place, most: int) -> tuple[int, ApiError | None]:
        """Return how many machines a place gives, at most `most`, and why not more."""
        count, lack = most, None
        for free, why in self._limits(place):
            if free < count:
                count, lack = max(free, 0), why
        if lack and lack is THROTTLED.error:
            self._throttle.refused["RunInstances"] += 1
        return count, lack

    def free_addresses(self, subnet_id: str) -> int:
        """Return how many machines fit into a subnet.

        A machine that is gone keeps its address of the network, so that no two machines of a run share a node name.
        """
        free = self._ground.subnet(subnet_id).free
        limit = self.addresses.get(subnet_id)
        return free if limit is None else max(min(free, limit - self._machines.in_subnet[subnet_id]), 0)

    def _limits(self, place: Place) -> Iterator[tuple[int, ApiError]]:
        yield from self._reserved(place) if place.reservation else self._unreserved(place)
        yield self.free_addresses(place.subnet), _no_addresses(place)
        if self._throttle.on and THROTTLED.error:
            yield self._throttle.machines(), THROTTLED.error

    def _reserved(self, place: Place) -> Iterator[tuple[int, ApiError]]:
        message = f"The targeted Capacity Reservation {place.reservation} does not have enough available instances."
        yield self._reservations.free(place.reservation), ApiError("ReservationCapacityExceeded", message)

    def _unreserved(self, place: Place) -> Iterator[tuple[int, ApiError]]:
        of_kind = (place.instance_type, place.zone, place.capacity_type)
        held = self._machines.held
        if of_kind[:2] in self.capacity:
            taken = sum(count for key, count in held.items() if key[:2] == of_kind[:2])
            yield self.capacity[of_kind[:2]] - taken, _no_capacity(place)
        if of_kind in self.capacity:
            yield self.capacity[of_kind] - held[of_kind], _no_capacity(place)
        if place.capacity_type in self.vcpus:
            yield self._left_of_quota(place), _no_quota(place.capacity_type)

    def _left_of_quota(self, place: Place) -> int:
        def vcpus(name: str) -> int:
            return self._market.facts[name].cpu_milli // 1_000

        taken = sum(count * vcpus(key[0]) for key, count in self._machines.held.items() if key[2] == place.capacity_type)
        return (self.vcpus[place.capacity_type] - taken) // vcpus(place.instance_type)


def _no_capacity(place: Place) -> ApiError:
    message = f"We currently do not have sufficient {place.instance_type} capacity in the zone you requested ({place.zone})."
    return ApiError("InsufficientInstanceCapacity", message, status=500)


def _no_quota(capacity_type: str) -> ApiError:
    if capacity_type == "spot":
        return ApiError("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    return ApiError("VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit allows.")


def _no_addresses(place: Place) -> ApiError:
    message = f"There are not enough free addresses in subnet '{place.subnet}' for the requested number of instances."
    return ApiError("InsufficientFreeAddressesInSubnet", message)
