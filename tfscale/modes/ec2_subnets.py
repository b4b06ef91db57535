"""The subnets that a pool names, by zone, with the most room first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tfscale.modes.ec2_calls import Ec2Calls
from tfscale.modes.ec2_prices import Remembered

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import FilterTypeDef, SubnetTypeDef

__all__ = ["Subnets"]

REMEMBER_S = 60
"""How long the number of free addresses is taken for true. It only says which subnet is tried first."""


class Subnets:
    """The subnets of one pool; without ids there are none. `clock` gives seconds."""

    def __init__(self, calls: Ec2Calls, ids: Sequence[str], *, clock: Callable[[], float]) -> None:
        self.ids = tuple(ids)
        self._calls = calls
        self._found: Remembered[dict[str, tuple[str, ...]]] = Remembered(clock)

    def by_zone(self) -> dict[str, tuple[str, ...]]:
        """Return the ids of those that exist."""
        return self._found.get(lambda: (self._ask(), REMEMBER_S)) if self.ids else {}

    def missing(self) -> list[str]:
        """Return the ids of those that do not exist."""
        found = {one for listed in self.by_zone().values() for one in listed}
        return [one for one in self.ids if one not in found]

    def _ask(self) -> dict[str, tuple[str, ...]]:
        # By filter: in SubnetIds one unknown id fails the whole call.
        filters: list[FilterTypeDef] = [{"Name": "subnet-id", "Values": self.ids}]
        found = self._calls.read("DescribeSubnets", lambda: self._calls.ec2.describe_subnets(Filters=filters)["Subnets"])
        by_zone: dict[str, tuple[str, ...]] = {}
        for subnet in sorted(found, key=_room):
            by_zone[subnet["AvailabilityZone"]] = (*by_zone.get(subnet["AvailabilityZone"], ()), subnet["SubnetId"])
        return by_zone


def _room(subnet: SubnetTypeDef) -> tuple[int, str]:
    return (-subnet["AvailableIpAddressCount"], subnet["SubnetId"])
