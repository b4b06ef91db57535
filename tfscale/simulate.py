"""The same loop over simulated time: a cluster in memory, a cloud on moto, and a clock that jumps to the next event.

The world plays those parts that a real cluster has others for: machines become nodes after their boot delay, the nodes of
terminated machines go with what ran on them, bound pods run and end, workloads arrive.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tfscale import modes
from tfscale.decide import Policy
from tfscale.errors import BadInputError, ConflictError, NotFoundError, Problem, RefusedObjectError
from tfscale.gpus import GpuTable
from tfscale.kube.port import NODES, PODS, Json, Kind
from tfscale.kube.requests import TENSOR_FUSION
from tfscale.modes.base import ModeContext
from tfscale.quantity import usd_text
from tfscale.reconcile import Reconciler
from tfscale.scenario import Cloud, Scenario, read_scenario
from tfscale.testing.fake_ec2 import SimulatedCloud, SimulatedType
from tfscale.testing.fake_kube import FakeKube

__all__ = ["World", "open_scenario", "open_world"]


Joins = Callable[[Json], Json | None]


class World:
    """A simulated cluster and cloud with one clock. It is the :class:`~tfscale.reconcile.Clock` of the loop, too."""

    def __init__(
        self, scenario: Scenario, cloud: SimulatedCloud, *, cluster: str, prefix: str, policy: Policy, joins: Joins
    ) -> None:
        gpus = GpuTable(scenario.gpu_models)
        self.kube = FakeKube(now=lambda: float(self._now_s), seed=scenario.seed)
        self.cloud = cloud
        self._joins = joins
        self._joined: set[str] = set()
        self.reconciler = Reconciler(
            kube=self.kube,
            mode_of=modes.load,
            open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=self.kube, cluster=cluster, aws=cloud.session),
            gpus=gpus,
            prefix=prefix,
            policy=policy,
        )
        self.start_s = self._now_s = scenario.start_s
        self._delays = scenario.cloud
        # Arrivals by time, then by their order in the file.
        self._arrivals = [
            (scenario.start_s + load.arrive_after_s, number, pod, load.run_for_s)
            for number, (load, pod) in enumerate((load, pod) for load in scenario.workloads for pod in load.pods())
        ]
        heapq.heapify(self._arrivals)
        self._run_for_s: dict[str, int] = {}
        self._ends: list[tuple[int, str, str]] = []
        for kind, obj in scenario.objects:
            self.kube.create(kind, obj)
        self._play()

    def now_s(self) -> int:
        """Return the simulated time."""
        return self._now_s

    def stamp(self, now_s: int) -> str:
        """Return the time since the start as ``hh:mm:ss``."""
        minutes, seconds = divmod(now_s - self.start_s, 60)
        return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"

    def pending(self) -> bool:
        """Return whether anything in the world is still to happen by itself."""
        self._play()
        return self._next_s() is not None

    def wait(self, until_s: int | None) -> None:
        """Move the clock to `until_s` or to the next event, whichever is first, and let happen what is due."""
        self._play()
        due_s = min((time_s for time_s in (until_s, self._next_s()) if time_s is not None), default=self._now_s)
        self._now_s = max(due_s, self._now_s + 1)
        self._play()

    def _next_s(self) -> int | None:
        times_s = [queue[0][0] for queue in (self._arrivals, self._ends) if queue]
        if self._delays is not None:
            for machine in self.cloud.machines:
                if machine.terminate_asked_s is not None and machine.state != "terminated":
                    times_s.append(machine.terminate_asked_s + self._delays.shutdown_delay_s)
                elif machine.state == "pending":
                    times_s.append(machine.launched_s + self._delays.boot_delay_s)
        return min(times_s, default=None)

    def _play(self) -> None:
        """Let everything happen that is due now."""
        self.cloud.advance(self._now_s)
        self._join_and_leave()
        while self._arrivals and self._arrivals[0][0] <= self._now_s:
            _, _, pod, run_for_s = heapq.heappop(self._arrivals)
            created = self.kube.create(PODS, pod)["metadata"]
            if run_for_s is not None:
                self._run_for_s[created["uid"]] = run_for_s
        self._end_pods()
        self._start_pods()
        self.kube.end_terminations()

    def _join_and_leave(self) -> None:
        for node in self.cloud.nodes():
            name = node["metadata"]["name"]
            if name not in self._joined:
                # Once: a kubelet does not make its node again when somebody deletes it.
                self._joined.add(name)
                if joining := self._joins(node):
                    self.kube.create(NODES, joining)
        self._joined -= self.cloud.gone_nodes()
        known = {node["metadata"]["name"] for node in self.kube.list(NODES).items}
        for name in sorted(known & self.cloud.gone_nodes()):
            self.kube.delete(NODES, name)
            for pod in self.kube.list(PODS, field_selector=f"spec.nodeName={name}").items:
                if pod["status"].get("phase") not in {"Succeeded", "Failed"}:
                    meta = pod["metadata"]
                    self.kube.delete(PODS, meta["name"], namespace=meta["namespace"], grace_period_s=0)

    def _start_pods(self) -> None:
        for pod in self.kube.list(PODS, field_selector="status.phase=Pending").items:
            if pod["spec"].get("nodeName"):
                self._phase(pod["metadata"]["namespace"], pod["metadata"]["name"], "Running")
                run_for_s = self._run_for_s.get(pod["metadata"]["uid"])
                if run_for_s is not None:
                    end = (self._now_s + run_for_s, pod["metadata"]["namespace"], pod["metadata"]["name"])
                    heapq.heappush(self._ends, end)

    def _end_pods(self) -> None:
        while self._ends and self._ends[0][0] <= self._now_s:
            _, namespace, name = heapq.heappop(self._ends)
            self._phase(namespace, name, "Succeeded")

    def _phase(self, namespace: str, name: str, phase: str) -> None:
        try:
            self.kube.patch_status(PODS, name, {"status": {"phase": phase}}, namespace=namespace)
        except NotFoundError:
            return  # deleted meanwhile: a pod that is gone neither runs nor ends


@contextmanager
def open_scenario(
    path: str, *, cluster: str = "local", prefix: str = TENSOR_FUSION, policy: Policy | None = None
) -> Iterator[World]:
    """Yield the world of a scenario file. Raises ``BadInputError`` for a file that cannot be read or is wrong.

    `cluster` is the name that machines are tagged with, `prefix` that of TensorFusion's annotations.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
        raise BadInputError(Problem(where="tfscale", field="--local", value=path, want=f"a scenario file ({why})")) from error
    with open_world(read_scenario(text, name=path), cluster=cluster, prefix=prefix, policy=policy) as world:
        yield world


@contextmanager
def open_world(
    scenario: Scenario,
    *,
    cluster: str = "local",
    prefix: str = TENSOR_FUSION,
    policy: Policy | None = None,
    joins: Joins = lambda node: node,
) -> Iterator[World]:
    """Yield a world at the start of the scenario; nothing outside this process is touched.

    `joins` may change each node object before it joins (a smaller one, with a taint), or return None: then it never joins.
    """
    _check_objects(scenario)
    with _cloud(scenario.cloud, GpuTable(scenario.gpu_models), scenario.seed) as cloud:
        cloud.advance(scenario.start_s)
        yield World(scenario, cloud, cluster=cluster, prefix=prefix, policy=policy or Policy(), joins=joins)


def _check_objects(scenario: Scenario) -> None:
    """Raise ``BadInputError`` with all objects that an API server would refuse, before any time has passed."""
    trial = FakeKube(seed=0)
    problems = []
    objects: list[tuple[Kind, Json]] = [*scenario.objects]
    objects += [(PODS, pod) for load in scenario.workloads for pod in load.pods()]
    for kind, obj in objects:
        try:
            trial.create(kind, obj)
        except (RefusedObjectError, ConflictError) as error:
            where = f"{kind.kind.lower()} {obj.get('metadata', {}).get('name', '')}"
            problems.append(Problem(where=where, field="object", value=str(error), want="an object that an API server accepts"))
    if problems:
        raise BadInputError(*problems)


def _cloud(cloud: Cloud | None, gpus: GpuTable, seed: int) -> SimulatedCloud:
    """Return the cloud, an empty one where the scenario has none: a simulation must never reach a real account."""
    if cloud is None:
        return SimulatedCloud(instance_types=(), gpus=gpus, seed=seed)
    return SimulatedCloud(
        region=cloud.region,
        zones=cloud.zones,
        instance_types=[
            SimulatedType(
                name=kind.name,
                gpu_model=kind.gpu_model,
                gpu_count=kind.gpu_count,
                vcpu=kind.cpu_milli // 1_000,
                memory_mib=kind.memory_mib,
                usd_per_hour=None if kind.price_micro_usd is None else usd_text(kind.price_micro_usd),
                spot_usd_per_hour=None if kind.spot_price_micro_usd is None else usd_text(kind.spot_price_micro_usd),
            )
            for kind in cloud.instance_types
        ],
        capacity={(entry.instance_type, entry.zone, entry.capacity_type): entry.machines for entry in cloud.capacity},
        boot_delay_s=cloud.boot_delay_s,
        shutdown_delay_s=cloud.shutdown_delay_s,
        launch_template=cloud.launch_template,
        gpus=gpus,
        seed=seed,
    )
