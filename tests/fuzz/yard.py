"""The cloud of the draining world, and the objects of its cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self

from tests.fuzz.process import Gate
from tfscale.errors import Problem
from tfscale.kube.port import Json
from tfscale.model import LaunchBatch, Machine, NodeRequest, Notice, Offer
from tfscale.modes.base import LaunchResult, ModeContext, Order, ScalingMode, results_of
from tfscale.pool import RECOVER

if TYPE_CHECKING:
    from tests.fuzz.draining_world import DrainingWorld

__all__ = [
    "BOOT_S",
    "DRAIN_WITHIN_S",
    "POOL",
    "POOL_OBJECT",
    "SHAPES",
    "SHARES",
    "SHUTDOWN_S",
    "Building",
    "node_object",
    "pod_object",
    "yard_of",
]

POOL = "gpus"
DRAIN_WITHIN_S = 1_200
BOOT_S = 60
SHUTDOWN_S = 30
SHAPES = {"half": ("6Gi", "40"), "whole": ("12Gi", "90")}
SHARES = {"half": 1, "whole": 2}
"""How many halves of a card each takes."""
OFFERS = tuple(
    Offer(
        instance_type=name,
        zone="a",
        capacity_type=capacity_type,
        gpu_model="T4",
        gpu_count=1,
        vram_mib=16_384,
        mtflops=65_000,
        cpu_milli=4_000,
        memory_mib=16_384,
        price_micro_usd=price,
    )
    for name, capacity_type, price in (("toy.a", "spot", 1), ("toy.b", "spot", 2), ("toy.a", "on-demand", 5))
)


@dataclass(slots=True)
class Building:
    """One machine of the cloud."""

    machine: Machine
    booted: bool = False
    ends_s: int | None = None
    """When the cloud takes it away, where it said so."""
    stopped_s: int | None = None
    outdated: bool = False
    """Whether something else would be bought today."""

    @property
    def node(self) -> str:
        """The name of its node."""
        return f"node-{self.machine.id}"

    @property
    def listed(self) -> Machine:
        """What a mode sees."""
        return Machine(
            id=self.machine.id,
            batch=self.machine.batch,
            pool=POOL,
            offer=self.machine.offer,
            provider_id=self.machine.provider_id,
            launched_s=self.machine.launched_s,
            stopping=self.stopped_s is not None,
            outdated="its image is old" if self.outdated else "",
        )


def yard_of(world: DrainingWorld, gate: Gate) -> type[ScalingMode]:
    """Return the mode that sells the machines of a world."""

    class Opened(_Yard):
        @classmethod
        def open(cls, context: ModeContext) -> Self:  # noqa: ARG003 - it has no options
            return cls(world, gate)

    return Opened


class _Yard:
    """A cloud without faults: what it sells is there after a minute."""

    name: ClassVar[str] = "yard"
    reclaims_idle: ClassVar[bool] = False
    in_cluster: ClassVar[bool] = False

    def __init__(self, world: DrainingWorld, gate: Gate) -> None:
        self._world = world
        self._gate = gate

    def check(self) -> Sequence[Problem]:
        return ()

    def offers(self) -> Sequence[Offer]:
        return OFFERS

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:
        return Order(parameters={"token": name, "count": len(requests), "at": now_s}, offers=tuple(o.id for o in offers))

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        self._gate.passes("launch", lambda: _launch(self._world, batch))
        return results_of(batch, [one.listed for one in self._world.machines.values() if one.machine.batch == batch.name])

    def observe(self) -> Sequence[Machine]:
        return [one.listed for one in self._world.machines.values()]

    def terminate(self, machine_ids: Sequence[str]) -> None:
        for machine_id in machine_ids:
            self._world.check_return(machine_id)
        self._gate.passes("terminate", lambda: _terminate(self._world, machine_ids))

    def hold(self, machine_ids: Sequence[str]) -> None:
        raise AssertionError(f"nobody else removes machines: {machine_ids}")

    def release(self, machine_ids: Sequence[str]) -> None:
        raise AssertionError(f"nothing is protected: {machine_ids}")

    def notices(self) -> Sequence[Notice]:
        return list(self._world.notices.values())

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self._world.check_heard(notice)
            self._gate.passes("acknowledge", partial(self._world.notices.pop, notice.id, None))


def _launch(world: DrainingWorld, batch: LaunchBatch) -> None:
    if any(one.machine.batch == batch.name for one in world.machines.values()):
        return
    for _ in batch.requests:
        world.bought += 1
        machine_id = f"m-{world.bought:03}"
        world.machines[machine_id] = Building(
            Machine(
                id=machine_id,
                batch=batch.name,
                pool=POOL,
                offer=batch.offers[0],
                provider_id=f"toy:///{machine_id}",
                launched_s=world.now_s,
            )
        )


def _terminate(world: DrainingWorld, machine_ids: Sequence[str]) -> None:
    for one in (world.machines[machine_id] for machine_id in machine_ids if machine_id in world.machines):
        one.stopped_s = one.stopped_s or world.now_s


POOL_OBJECT: Json = {
    "apiVersion": "tfscale.io/v1alpha1",
    "kind": "GPUPool",
    "metadata": {"name": POOL, "annotations": {RECOVER: "true"}},
    "spec": {
        "mode": "yard",
        "default": True,
        "idleAfter": "2m",
        "registerWithin": "5m",
        "drainWithin": f"{DRAIN_WITHIN_S}s",
    },
}


def node_object(one: Building) -> Json:
    """Return the node of a machine with one T4."""
    instance_type, zone, capacity_type = one.machine.offer.split("/")
    amounts = {"cpu": "4", "memory": "16Gi", "pods": "110", "nvidia.com/gpu": "1"}
    labels = {
        "tfscale.io/pool": POOL,
        "node.kubernetes.io/instance-type": instance_type,
        "topology.kubernetes.io/zone": zone,
        "karpenter.sh/capacity-type": capacity_type,
        "nvidia.com/gpu.product": "Tesla-T4",
    }
    return {
        "metadata": {"name": one.node, "labels": labels},
        "spec": {"providerID": one.machine.provider_id},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def pod_object(app: str, number: int) -> Json:
    """Return the pod that an owner makes for the nth time."""
    vram, compute = SHAPES[app.partition("-")[0]]
    container = {"name": "main", "image": "example/main", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}
    return {
        "metadata": {
            "name": f"{app}.{number}",
            "namespace": "default",
            "labels": {"app": app, "tfscale.io/enabled": "true"},
            "annotations": {"tfscale.io/vram-request": vram, "tfscale.io/compute-percent-request": compute},
        },
        "spec": {"schedulerName": "tfscale", "containers": [container]},
    }
