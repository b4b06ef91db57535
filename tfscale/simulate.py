"""The same loop over simulated time: a cluster in memory, a cloud on moto, and a clock that jumps to the next event.

The world plays those parts that a real cluster has others for: machines become nodes after their boot delay, the nodes of
terminated machines go with what ran on them, bound pods run and end, workloads arrive.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfscale import modes
from tfscale.decide import Policy
from tfscale.errors import BadInputError, ConflictError, GoneError, NotFoundError, Problem, RefusedObjectError
from tfscale.gpus import GpuTable
from tfscale.kube.port import NODE_CLAIMS, NODE_CLASSES, NODE_POOLS, NODES, PODS, Json, Kind, WatchEvent
from tfscale.kube.requests import TENSOR_FUSION
from tfscale.modes.base import ModeContext
from tfscale.quantity import usd_text
from tfscale.reconcile import Reconciler
from tfscale.scenario import (
    CallsFail,
    Capacity,
    CapacityChanges,
    Cloud,
    Fault,
    KarpenterStops,
    MachinesStop,
    Restart,
    Scenario,
    Workload,
    read_scenario,
)
from tfscale.testing.fake_ec2 import (
    ACCESS_DENIED,
    LOST_REPLY,
    SERVER_ERROR,
    THROTTLED,
    UNREACHABLE,
    SimulatedCloud,
    SimulatedType,
)
from tfscale.testing.fake_ec2 import Fault as CallFault
from tfscale.testing.fake_karpenter import KarpenterStandIn
from tfscale.testing.fake_kube import FakeKube

__all__ = ["FAULTS", "Ways", "World", "open_scenario", "open_world"]

FAULTS: Mapping[str, CallFault] = {
    "accessDenied": ACCESS_DENIED,
    "lostReply": LOST_REPLY,
    "serverError": SERVER_ERROR,
    "throttled": THROTTLED,
    "unreachable": UNREACHABLE,
}
"""How a call of EC2 can fail, by its name in a scenario."""

_SOON_S = 86_400

Joins = Callable[[Json], Json | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How a world runs, beside what its scenario says."""

    cluster: str = "local"
    """The name that machines are tagged with."""
    prefix: str = TENSOR_FUSION
    """Prefix of TensorFusion's annotations."""
    policy: Policy = field(default_factory=Policy)
    joins: Joins = lambda node: node
    """May change each node object before it joins (a smaller one, with a taint), or return None: then it never joins."""
    keep_ended: bool = True
    """Whether pods that ended stay in the cluster, as those of a Job; else they go, as those of a Deployment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Life:
    """A pod that is to run for some time, whatever becomes of it meanwhile."""

    load: Workload
    name: str
    left_s: int | None
    """None runs until the end of the simulation."""
    end_s: int | None = None
    """Known once it runs."""
    lost: int = 0
    """How often it was lost and made again."""


class World:
    """A simulated cluster and cloud with one clock. It is the :class:`~tfscale.reconcile.Clock` of the loop, too.

    Pods of workloads behave as those of a Deployment: one that is lost before its end is made again, for the rest of its time.
    """

    def __init__(self, scenario: Scenario, cloud: SimulatedCloud, ways: Ways) -> None:
        gpus = GpuTable(scenario.gpu_models)
        self.kube = FakeKube(now=lambda: float(self._now_s), seed=scenario.seed)
        self.cloud = cloud
        self._ways = ways
        self._joined: set[str] = set()
        catalogue = {kind.name: kind for kind in scenario.cloud.instance_types} if scenario.cloud else {}
        self.reconciler = Reconciler(
            kube=self.kube,
            mode_of=modes.load,
            open_with=lambda pool: ModeContext(
                pool=pool,
                gpus=gpus,
                kube=self.kube,
                cluster=ways.cluster,
                catalogue=catalogue,
                aws=cloud.session,
                sleep=lambda _: None,
                clock=lambda: float(self._now_s),
            ),
            gpus=gpus,
            prefix=ways.prefix,
            policy=ways.policy,
        )
        self.start_s = self._now_s = scenario.start_s
        self._end_s = None if scenario.duration_s is None else scenario.start_s + scenario.duration_s
        self._delays = scenario.cloud
        self.seed = scenario.seed
        self.prices = _prices(scenario)
        self._faults = deque(scenario.faults)
        self._karpenter = KarpenterStandIn(self.kube, cloud, catalogue=catalogue, gpus=gpus) if _has_karpenter(scenario) else None
        self._karpenter_back_s = scenario.start_s
        self._answered = False
        # By time, then by their order in the file.
        self._arrivals = [
            (scenario.start_s + after_s, number, name, load)
            for number, (after_s, name, load) in enumerate(
                (after_s, name, load) for load in scenario.workloads for after_s, name in load.arriving(scenario.seed)
            )
        ]
        heapq.heapify(self._arrivals)
        self._lives: dict[str, _Life] = {}
        self._ends: list[tuple[int, str]] = []
        self._seen = self.kube.list(PODS).resource_version
        for kind, obj in scenario.objects:
            self.kube.create(kind, obj)
        self._play()

    def now_s(self) -> int:
        """Return the simulated time."""
        return self._now_s

    def steady_s(self) -> float:
        """Return the simulated time, which nobody puts back."""
        return float(self._now_s)

    @property
    def has_end(self) -> bool:
        """Whether the scenario says when it ends."""
        return self._end_s is not None

    def over(self) -> bool:
        """Return whether the end that the scenario sets is reached."""
        return self._end_s is not None and self._now_s >= self._end_s

    def stamp(self, now_s: int) -> str:
        """Return the time since the start as ``hh:mm:ss``."""
        minutes, seconds = divmod(now_s - self.start_s, 60)
        return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"

    def pending(self) -> bool:
        """Return whether anything in the world is still to happen by itself, and within a day.

        Nodes of a NodePool expire, after 30 days unless it says otherwise: a run does not wait for that.
        """
        self._play()
        if self._answered:
            return True
        next_s = self._next_s()
        return next_s is not None and (next_s < self._now_s + _SOON_S or self._end_s is not None or bool(self._arrivals))

    def wait(self, until_s: int | None) -> None:
        """Move the clock to `until_s` or to the next event, whichever is first, and let happen what is due.

        Where Karpenter answers to what was just written, the time stays: the loop should see it.
        """
        self._play()
        if self._answered:
            self._answered = False
            return
        due_s = min((time_s for time_s in (until_s, self._next_s()) if time_s is not None), default=self._now_s)
        self._now_s = max(due_s, self._now_s + 1)
        self._play()
        self._answered = False

    def _next_s(self) -> int | None:
        times_s = [queue[0][0] for queue in (self._arrivals, self._ends) if queue]
        if self._end_s is not None:
            times_s.append(self._end_s)
        if self._faults:
            times_s.append(self.start_s + self._faults[0].at_s)
        if self._karpenter and (next_s := self._karpenter.next_s()) is not None:
            times_s.append(max(next_s, self._karpenter_back_s))
        if self._delays is not None:
            for machine in self.cloud.machines:
                if machine.terminate_asked_s is not None and machine.state != "terminated":
                    times_s.append(machine.terminate_asked_s + self._delays.shutdown_delay_s)
                elif machine.state == "pending":
                    times_s.append(machine.launched_s + self._delays.boot_delay_s)
        return min(times_s, default=None)

    def _play(self) -> None:
        """Let everything happen that is due now."""
        while self._faults and self.start_s + self._faults[0].at_s <= self._now_s:
            self._break(self._faults.popleft())
        self.cloud.advance(self._now_s)
        self._join_and_leave()
        self._play_karpenter()
        while self._arrivals and self._arrivals[0][0] <= self._now_s:
            _, _, name, load = heapq.heappop(self._arrivals)
            self._begin(_Life(load=load, name=name, left_s=load.run_for_s))
        while self._ends and self._ends[0][0] <= self._now_s:
            self._end(heapq.heappop(self._ends)[1])
        self._follow_pods()
        self.kube.end_terminations()

    def _play_karpenter(self) -> None:
        if self._karpenter is None or self._now_s < self._karpenter_back_s:
            return
        before = self.kube.list(NODE_POOLS).resource_version
        self._karpenter.advance(self._now_s)
        self._answered = self._answered or before != self.kube.list(NODE_POOLS).resource_version

    # --- machines and nodes ---

    def _join_and_leave(self) -> None:
        for node in self.cloud.nodes():
            name = node["metadata"]["name"]
            if name not in self._joined:
                # Once: a kubelet does not make its node again when somebody deletes it.
                self._joined.add(name)
                if joining := self._ways.joins(node):
                    self.kube.create(NODES, joining)
        for name in sorted(self._joined & self.cloud.gone_nodes()):
            self._joined.remove(name)
            with suppress(NotFoundError):
                self.kube.delete(NODES, name)
            for pod in self.kube.list(PODS, field_selector=f"spec.nodeName={name}").items:
                if pod["status"].get("phase") not in {"Succeeded", "Failed"}:
                    meta = pod["metadata"]
                    self.kube.delete(PODS, meta["name"], namespace=meta["namespace"], grace_period_s=0)

    def _break(self, fault: Fault) -> None:
        match fault:
            case CapacityChanges(capacity=capacity):
                self.cloud.limit(_place(capacity), capacity.machines)
            case CallsFail():
                self.cloud.fail_next(fault.operation, FAULTS[fault.how], times=fault.times)
            case MachinesStop():
                running = [machine.id for machine in self.cloud.machines if machine.state == "running"]
                draw = random.Random(f"{self.seed}/{fault.at_s}")  # noqa: S311 - a simulation, no secrets
                self.cloud.take_away(draw.sample(running, min(fault.machines, len(running))))
            case Restart():
                self.reconciler.forget()
            case KarpenterStops():
                self._karpenter_back_s = self.start_s + fault.at_s + fault.for_s

    # --- pods ---

    def _begin(self, life: _Life) -> None:
        created = self.kube.create(PODS, life.load.pod(life.name if not life.lost else f"{life.name}.{life.lost}"))
        self._lives[created["metadata"]["uid"]] = life

    def _follow_pods(self) -> None:
        """Let pods that were bound run, and make those again that were lost."""
        for event in self._pod_events():
            meta = event.object["metadata"]
            if event.type == "BOOKMARK":
                self._seen = meta["resourceVersion"]
            elif event.type == "DELETED":
                self._lost(meta["uid"])
            elif event.object["spec"].get("nodeName") and event.object["status"].get("phase") == "Pending":
                self._run(meta)

    def _pod_events(self) -> Iterator[WatchEvent]:
        try:
            yield from self.kube.watch(PODS, resource_version=self._seen, timeout_s=0)
        except GoneError:
            # More happened than the cluster remembers.
            now = self.kube.list(PODS)
            there = {pod["metadata"]["uid"] for pod in now.items}
            yield from (WatchEvent("DELETED", {"metadata": {"uid": uid}}) for uid in [*self._lives] if uid not in there)
            yield from (WatchEvent("MODIFIED", pod) for pod in now.items)
            yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": now.resource_version}})

    def _run(self, meta: Json) -> None:
        try:
            self.kube.patch_status(PODS, meta["name"], {"status": {"phase": "Running"}}, namespace=meta["namespace"])
        except NotFoundError:
            return  # deleted since: its deletion is the next event
        life = self._lives.get(meta["uid"])
        if life is not None and life.end_s is None and life.left_s is not None:
            life = self._lives[meta["uid"]] = replace(life, end_s=self._now_s + life.left_s)
            heapq.heappush(self._ends, (self._now_s + (life.left_s or 0), meta["uid"]))

    def _lost(self, uid: str) -> None:
        life = self._lives.pop(uid, None)
        if life is not None:
            left_s = life.left_s if life.end_s is None else max(life.end_s - self._now_s, 1)
            self._begin(replace(life, left_s=left_s, end_s=None, lost=life.lost + 1))

    def _end(self, uid: str) -> None:
        life = self._lives.pop(uid, None)
        if life is None:
            return  # lost meanwhile: its successor has an end of its own
        name = life.name if not life.lost else f"{life.name}.{life.lost}"
        with suppress(NotFoundError):
            if self._ways.keep_ended:
                self.kube.patch_status(PODS, name, {"status": {"phase": "Succeeded"}}, namespace=life.load.namespace)
            else:
                self.kube.delete(PODS, name, namespace=life.load.namespace, grace_period_s=0)


@contextmanager
def open_scenario(path: str, ways: Ways | None = None, *, seed: int | None = None) -> Iterator[World]:
    """Yield the world of a scenario file, perhaps with another seed than the file's.

    Raises ``BadInputError`` for a file that cannot be read or is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
        raise BadInputError(
            Problem(where="tfscale", field="scenario file", value=path, want=f"a file that can be read ({why})")
        ) from error
    scenario = read_scenario(text, name=path)
    with open_world(scenario if seed is None else replace(scenario, seed=seed), ways) as world:
        yield world


@contextmanager
def open_world(scenario: Scenario, ways: Ways | None = None) -> Iterator[World]:
    """Yield a world at the start of the scenario; nothing outside this process is touched."""
    _check_objects(scenario)
    with _cloud(scenario.cloud, GpuTable(scenario.gpu_models), scenario.seed) as cloud:
        cloud.advance(scenario.start_s)
        yield World(scenario, cloud, ways or Ways())


def _check_objects(scenario: Scenario) -> None:
    """Raise ``BadInputError`` with all objects that an API server would refuse, before any time has passed."""
    trial = FakeKube(seed=0)
    problems = []
    objects: list[tuple[Kind, Json]] = [*scenario.objects]
    objects += [(PODS, load.pod(name)) for load in scenario.workloads for _, name in load.arriving(scenario.seed)]
    for kind, obj in objects:
        try:
            trial.create(kind, obj)
        except (RefusedObjectError, ConflictError) as error:
            where = f"{kind.kind.lower()} {obj.get('metadata', {}).get('name', '')}"
            problems.append(Problem(where=where, field="object", value=str(error), want="an object that an API server accepts"))
    if problems:
        raise BadInputError(*problems)


def _prices(scenario: Scenario) -> dict[tuple[str, str], int]:
    """Return the known prices by instance type and capacity type."""
    types = scenario.cloud.instance_types if scenario.cloud else ()
    prices = {(kind.name, "on-demand"): kind.price_micro_usd for kind in types}
    prices |= {(kind.name, "spot"): kind.spot_price_micro_usd for kind in types}
    return {key: price for key, price in prices.items() if price is not None}


def _has_karpenter(scenario: Scenario) -> bool:
    """Return whether the cluster has objects of Karpenter, which then is there, too."""
    return any(kind in (NODE_POOLS, NODE_CLAIMS, *NODE_CLASSES) for kind, _ in scenario.objects)


def _place(capacity: Capacity) -> tuple[str, str, str]:
    return (capacity.instance_type, capacity.zone, capacity.capacity_type)


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
        capacity={_place(entry): entry.machines for entry in cloud.capacity},
        boot_delay_s=cloud.boot_delay_s,
        shutdown_delay_s=cloud.shutdown_delay_s,
        launch_template=cloud.launch_template,
        gpus=gpus,
        seed=seed,
    )
