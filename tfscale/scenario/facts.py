"""What a scenario says, as values."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tfscale.catalogue import InstanceType
from tfscale.gpus import GpuModel
from tfscale.kube.port import PODS, Json, Kind
from tfscale.quantity import time_s

__all__ = [
    "START",
    "Arrivals",
    "CallsFail",
    "Capacity",
    "CapacityChanges",
    "Cloud",
    "Fault",
    "KarpenterStops",
    "MachinesStop",
    "Restart",
    "Scenario",
    "Workload",
]

START = "2026-01-01T00:00:00Z"
"""When a simulation begins unless the scenario says otherwise: fixed, so that two runs are alike."""
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How many machines of a type a zone has at once. A type, zone and capacity type that is not listed has no limit."""

    instance_type: str
    zone: str
    capacity_type: str
    machines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """The simulated cloud."""

    region: str
    zones: tuple[str, ...]
    boot_delay_s: int
    """From the launch of a machine until its node is Ready."""
    shutdown_delay_s: int
    """From the call until a machine is terminated."""
    instance_types: tuple[InstanceType, ...]
    capacity: tuple[Capacity, ...]
    launch_template: str
    """Name of the launch template that exists there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How the pods of a workload are spread over a span of time."""

    over_s: int
    pattern: Literal["even", "random", "diurnal"] = "even"
    """``even``: equal gaps. ``random``: at any moment alike. ``diurnal``: random, with one peak a day."""
    peak_at_s: int = 0
    """When the peak is, from the start of the simulation; one day later again."""
    peak_to_trough: float = 4.0
    """How many times more pods arrive at the peak than half a day away from it."""

    def times_s(self, count: int, *, after_s: int, seed: str) -> list[int]:
        """Return when the pods arrive, in order, from `after_s` on. The same seed gives the same times."""
        if self.pattern == "even":
            return [after_s + index * self.over_s // count for index in range(count)]
        draw = random.Random(seed)  # noqa: S311 - a simulation, no secrets
        return sorted(self._draw(draw, after_s) for _ in range(count))

    def _draw(self, draw: random.Random, after_s: int) -> int:
        # Rejection: a moment is kept with the probability that its rate has of the highest one.
        while True:
            time_s = after_s + draw.randrange(self.over_s)
            if self.pattern == "random" or draw.random() < self._rate(time_s):
                return time_s

    def _rate(self, time_s: int) -> float:
        """Return the rate of arrivals as a part of the highest: a cosine over the day."""
        low = 1 / self.peak_to_trough
        return low + (1 - low) * (1 + math.cos(2 * math.pi * (time_s - self.peak_at_s) / _DAY_S)) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Pods that arrive and each end some time after they began to run. One that is lost before its end is made again."""

    name: str
    namespace: str
    replicas: int
    arrive_after_s: int
    arrivals: Arrivals | None = None
    """None: all arrive together."""
    run_for_s: int | None
    """None runs until the end of the simulation."""
    template: Mapping[str, Any]
    """``metadata`` and ``spec`` of each pod."""

    def pod(self, name: str) -> Json:
        """Return one pod."""
        pod = copy.deepcopy(dict(self.template))
        pod["metadata"] = pod["metadata"] | {"name": name, "namespace": self.namespace}
        return {"apiVersion": PODS.api_version, "kind": PODS.kind} | pod

    def arriving(self, seed: int) -> Iterator[tuple[int, str]]:
        """Yield when each pod arrives, and its name: the workload's, numbered from 0. `seed` is the scenario's."""
        if self.arrivals is None:
            times_s = [self.arrive_after_s] * self.replicas
        else:
            # Of its own, so that one more workload leaves the others as they are.
            own_seed = f"{seed}/{self.namespace}/{self.name}"
            times_s = self.arrivals.times_s(self.replicas, after_s=self.arrive_after_s, seed=own_seed)
        yield from ((time_s, f"{self.name}-{index}") for index, time_s in enumerate(times_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityChanges:
    """From now on a zone has so many machines of a type; those beyond stay."""

    at_s: int
    capacity: Capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsFail:
    """The next calls of one EC2 operation fail."""

    at_s: int
    operation: str
    how: str
    """A name of :data:`tfscale.simulate.FAULTS`."""
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinesStop:
    """Running machines are taken away, as spot machines are, drawn by the seed."""

    at_s: int
    machines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """The process of tfscale dies and begins anew with nothing in its memory."""

    at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KarpenterStops:
    """Karpenter does nothing for a while."""

    at_s: int
    for_s: int


Fault = CapacityChanges | CallsFail | MachinesStop | Restart | KarpenterStops


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole scenario."""

    objects: tuple[tuple[Kind, Json], ...] = ()
    """What the cluster holds at the start, in the order of the file."""
    gpu_models: tuple[GpuModel, ...] = ()
    """Card models beside the built-in ones."""
    cloud: Cloud | None = None
    """None where nothing can be bought: fixed nodes only."""
    workloads: tuple[Workload, ...] = ()
    faults: tuple[Fault, ...] = ()
    """In the order of their times."""
    seed: int = 0
    start_s: int = time_s(START)
    duration_s: int | None = None
    """When the simulation ends; None: when nothing is left to happen."""
