"""Where the instances and networks of a simulated region are kept: the part that differs between moto and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Ground", "Subnet", "network_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """One subnet, as far as a launch needs it."""

    id: str
    zone: str
    free: int
    """Addresses of its network that no machine ever had."""


class Ground(Protocol):
    """Keeps instances in the shape in which EC2 describes them. Raises ``ApiError`` with EC2's codes."""

    @property
    def subnets(self) -> Mapping[str, str]:
        """The first subnet of each zone."""
        ...

    def add_subnet(self, zone: str, cidr: str | None = None) -> str:
        """Make one more subnet and return its id."""
        ...

    def subnet(self, subnet_id: str) -> Subnet:
        """Return one subnet."""
        ...

    def describe_subnets(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a DescribeSubnets."""
        ...

    def run(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make instances as RunInstances does, whatever capacity there is, and answer as it does."""
        ...

    def show(self, machine_id: str, state: str, launched_s: int) -> None:
        """Let an instance be shown in a state, and launched at a time."""
        ...

    def end(self, machine_id: str) -> None:
        """Terminate an instance for good."""
        ...

    def tag(self, resource_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Add tags to instances and whatever else is kept here."""
        ...

    def untag(self, resource_ids: Sequence[str], keys: Sequence[str]) -> None:
        """Take tags off."""
        ...

    def describe_instances(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a DescribeInstances; the reply is not changed afterwards."""
        ...


def network_of(number: int) -> str:
    """Return the network of a subnet: as many addresses as EC2 lets one have."""
    return f"10.{number}.0.0/16"
