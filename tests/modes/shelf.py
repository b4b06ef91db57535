"""A mode in memory that keeps every promise, and its world: a shelf with machines on it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, cast

from tfscale.errors import BadInputError, LaunchRefusedError, ModeError, Problem
from tfscale.gpus import GpuTable
from tfscale.kube.port import Kube
from tfscale.model import LaunchBatch, Machine, NodeRequest, Notice, Offer
from tfscale.modes.base import LaunchResult, ModeContext, Order, Refusal, ScalingMode
from tfscale.pool import Pool
from tfscale.testing import FakeKube, Ground

__all__ = ["OFFERS", "Shelf", "ShelfGround", "ShelfKube", "ShelfMode"]

OFFERS = (
    Offer(
        instance_type="one", zone="left", capacity_type="on-demand", gpu_model="L4", gpu_count=1, vram_mib=23_034,
        mtflops=121_000, cpu_milli=8_000, memory_mib=32_768, price_micro_usd=500_000,
    ),
    Offer(
        instance_type="two", zone="right", capacity_type="on-demand", gpu_model="T4", gpu_count=1, vram_mib=16_384,
        mtflops=65_000, cpu_milli=8_000, memory_mib=32_768, price_micro_usd=None,
    ),
)  # fmt: skip


@dataclass(slots=True)
class Shelf:
    """The machines that exist, by id, and what happens to calls."""

    machines: dict[str, Machine] = field(default_factory=dict)
    room: int | None = None
    """How many more there may be."""
    losing: bool = False


class ShelfKube(FakeKube):
    """A cluster that leads to a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__()
        self.shelf = shelf


class ShelfMode:
    """Puts machines on the shelf and takes them off. They are named after their requests."""

    name: ClassVar[str] = "shelf"
    reclaims_idle: ClassVar[bool] = False
    in_cluster: ClassVar[bool] = True

    def __init__(self, context: ModeContext, shelf: Shelf) -> None:
        self.pool = context.pool
        self.shelf = shelf

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Return the mode. It has no options."""
        for key in context.pool.options:
            where = f"gpupool {context.pool.name}"
            raise BadInputError(Problem(where=where, field="a key of spec.options", value=key, want="none"))
        return cls(context, cast("ShelfKube", context.kube).shelf)

    def check(self) -> Sequence[Problem]:
        """Find nothing wrong."""
        return ()

    def offers(self) -> Sequence[Offer]:
        """Return what the pool wants of two kinds of machine."""
        wanted = self.pool.wanted
        return [
            offer
            for offer in OFFERS
            if offer.instance_type in (wanted.instance_types or (offer.instance_type,))
            and offer.zone in (wanted.zones or (offer.zone,))
            and offer.gpu_model in (wanted.gpu_models or (offer.gpu_model,))
            and offer.capacity_type in wanted.capacity_types
        ]

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:
        """Return the token, which is the name of the batch."""
        if not requests:
            raise LaunchRefusedError(f"{name}: nothing is asked for at {now_s}")
        return Order(parameters={"token": name}, offers=tuple(offer.id for offer in offers))

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Put one machine on the shelf for each request that has none."""
        results = [self.machine_for(batch, request) for request in batch.requests]
        if self.shelf.losing:
            self.shelf.losing = False
            raise ModeError("the reply was lost")
        return results

    def machine_for(self, batch: LaunchBatch, request: str) -> LaunchResult:
        """Find or make the machine of one request."""
        full = Refusal(offer=batch.offers[0], code="Full", message="the shelf is full")
        machine_id = f"m-{request}"
        if machine_id not in self.shelf.machines:
            if self.shelf.room == 0:
                return LaunchResult(request=request, machine=None, refusals=(full,))
            self.put(Machine(id=machine_id, batch=batch.name, pool=batch.pool, offer=batch.offers[0], provider_id=machine_id))
        return LaunchResult(request=request, machine=self.shelf.machines[machine_id])

    def put(self, machine: Machine) -> None:
        """Put a machine on the shelf."""
        self.shelf.machines[machine.id] = machine
        if self.shelf.room is not None:
            self.shelf.room -= 1

    def observe(self) -> Sequence[Machine]:
        """Return the pool's machines."""
        return [machine for machine in self.shelf.machines.values() if machine.pool == self.pool.name]

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Take the pool's machines off the shelf, when the world settles."""
        for machine in self.observe():
            if machine.id in machine_ids:
                self.shelf.machines[machine.id] = replace(machine, stopping=True)

    def hold(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nobody else removes these machines."""

    def release(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nothing is protected."""

    def notices(self) -> Sequence[Notice]:
        """Return nothing: nobody takes these machines away."""
        return ()

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Do nothing: there are no notices."""


class ShelfGround(Ground):
    """A shelf of its own for each test."""

    mode: ClassVar[type[ScalingMode]] = ShelfMode

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.kube: Kube = ShelfKube(self.shelf)

    def context(self, pool: str) -> ModeContext:
        """Return what leads to the shelf."""
        return ModeContext(pool=Pool(name=pool, mode="shelf"), gpus=GpuTable(), kube=self.kube, cluster="test")

    def really_there(self) -> Collection[str]:
        """Count what is on the shelf."""
        return list(self.shelf.machines)

    def foreign(self) -> str:
        """Put somebody's machine on the shelf."""
        machine = Machine(id=f"foreign-{len(self.shelf.machines)}", batch="", pool="", offer="", provider_id="")
        self.shelf.machines[machine.id] = machine
        return machine.id

    def settle(self) -> None:
        """Take off what is stopping."""
        self.shelf.machines = {name: machine for name, machine in self.shelf.machines.items() if not machine.stopping}

    def lose_reply(self) -> bool:
        """Lose the reply of the next launch."""
        self.shelf.losing = True
        return True

    def leave_room_for(self, machines: int) -> bool:
        """Bound the shelf."""
        self.shelf.room = machines
        return True


_: type[ScalingMode] = ShelfMode
