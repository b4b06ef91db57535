"""The machines of a simulated region: how they boot and end by the clock, and when EC2 lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tfscale.testing.fake_ec2.ground import Ground

__all__ = ["Machines", "SimulatedMachine"]

FORGOTTEN_AFTER_S = 3_600
"""How long EC2 lists a machine that is terminated. Source: EC2's page on termination ("usually an hour")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedMachine:
    """One instance that was ever launched. Times are in seconds; None has not come yet."""

    id: str
    instance_type: str
    zone: str
    capacity_type: str
    launched_s: int
    node: str
    """Name of the node that it becomes."""
    subnet: str = ""
    reservation: str = ""
    """Id of the capacity reservation that it is from; empty for none."""
    tags: Mapping[str, str] = field(default_factory=dict)
    state: str = "pending"
    listed_s: int = 0
    """From when on EC2 lists it."""
    terminate_asked_s: int | None = None
    ended_s: int | None = None

    @property
    def provider_id(self) -> str:
        """Return what its node carries in ``spec.providerID``."""
        return f"aws:///{self.zone}/{self.id}"


class Machines:
    """All machines that ever were, and what those that are not terminated take up. Delays are in seconds."""

    def __init__(self, ground: Ground, *, boot_delay_s: int, shutdown_delay_s: int) -> None:
        self._ground = ground
        self._boot_delay_s = boot_delay_s
        self._shutdown_delay_s = shutdown_delay_s
        self._moving: set[str] = set()
        """Those whose state changes by itself."""
        self._unlisted: dict[str, None] = {}
        self._ended: dict[str, None] = {}
        """Those that are listed although they are terminated, in that order."""
        self.now_s = 0
        self.describe_lag_s = 0
        """How long a machine that is launched from now on is not listed."""
        self.all: dict[str, SimulatedMachine] = {}
        self.held: Counter[tuple[str, str, str]] = Counter()
        """Machines by type, zone and capacity type."""
        self.in_reservation: Counter[str] = Counter()
        self.in_subnet: Counter[str] = Counter()

    def begin(self, machine: SimulatedMachine) -> None:
        """Let a machine that was launched boot."""
        self.all[machine.id] = replace(machine, launched_s=self.now_s, listed_s=self.now_s + self.describe_lag_s)
        self._count(machine, 1)
        if self.describe_lag_s:
            self._unlisted[machine.id] = None
        self._moving.add(machine.id)
        self._set_state(machine.id, "running" if not self._boot_delay_s else "pending")

    def advance(self, now_s: int) -> None:
        """Let machines boot and end until this moment."""
        self.now_s = now_s
        for machine_id in sorted(self._moving):
            machine = self.all[machine_id]
            if machine.state == "pending" and now_s >= machine.launched_s + self._boot_delay_s:
                self._set_state(machine_id, "running")
            if machine.terminate_asked_s is not None and now_s >= machine.terminate_asked_s + self._shutdown_delay_s:
                self._end(machine_id, machine.terminate_asked_s + self._shutdown_delay_s)
        for machine_id in [one for one in self._unlisted if now_s >= self.all[one].listed_s]:
            del self._unlisted[machine_id]

    def take_away(self, ids: Iterable[str], *, at_s: int | None = None) -> None:
        """Begin to terminate machines; they were told at `at_s`, or now."""
        for machine_id in ids:
            if self.all[machine_id].terminate_asked_s is None:
                self.all[machine_id] = replace(self.all[machine_id], terminate_asked_s=self.now_s if at_s is None else at_s)
                self._moving.add(machine_id)
                self._set_state(machine_id, "shutting-down")
        self.advance(self.now_s)

    def tag(self, machine_id: str, tags: Mapping[str, str]) -> None:
        """Replace the tags of a machine."""
        self.all[machine_id] = replace(self.all[machine_id], tags=dict(tags))

    def hidden(self) -> frozenset[str]:
        """Return the machines that EC2 does not list: not yet, or not any more."""
        return frozenset(self._unlisted) | {machine_id for machine_id in self._ended if self._is_forgotten(machine_id)}

    def unknown(self, ids: Sequence[str]) -> list[str]:
        """Return those ids that EC2 says it does not know."""
        return [one for one in ids if one not in self.all or one in self._unlisted or self._is_forgotten(one)]

    def _is_forgotten(self, machine_id: str) -> bool:
        ended_s = self.all[machine_id].ended_s
        return ended_s is not None and self.now_s >= ended_s + FORGOTTEN_AFTER_S

    def _set_state(self, machine_id: str, state: str) -> None:
        machine = self.all[machine_id] = replace(self.all[machine_id], state=state)
        if state == "running":
            self._moving.discard(machine_id)
        self._ground.show(machine_id, state, machine.launched_s)

    def _end(self, machine_id: str, ended_s: int) -> None:
        machine = self.all[machine_id] = replace(self.all[machine_id], state="terminated", ended_s=ended_s)
        self._moving.discard(machine_id)
        self._ended[machine_id] = None
        self._count(machine, -1)
        self._ground.end(machine_id)

    def _count(self, machine: SimulatedMachine, by: int) -> None:
        self.in_subnet[machine.subnet] += by
        if machine.reservation:
            self.in_reservation[machine.reservation] += by
        else:
            self.held[machine.instance_type, machine.zone, machine.capacity_type] += by
