"""A small cluster and cloud in which everything goes wrong, and what must hold there whatever happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests import recount
from tests.fuzz.objects import NODES_MAX, POOL, QUEUE, START_S, Cloud, foreign_machine, pod_object, pool_object
from tests.fuzz.process import CrashError, Process, Trap
from tfscale.catalogue import InstanceType
from tfscale.errors import AlreadyExistsError, ClusterError, NotFoundError, NotLeadingError
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, NODES, PODS, Json, Kind
from tfscale.pool import RECOVER
from tfscale.reconcile import FindMode, Report
from tfscale.testing import FakeKube
from tfscale.testing.fake_ec2 import Fault, MemoryCloud, SimulatedMachine

__all__ = ["FuzzWorld", "Tally", "ViolationError"]

_ENDED = ("Succeeded", "Failed")
_CALM_ROUNDS = 80
_LIVE = frozenset({"pending", "running", "shutting-down"})


class ViolationError(AssertionError):
    """Something that must never happen did. `what` is the figure under which it counts."""

    def __init__(self, what: str, text: str) -> None:
        super().__init__(f"{what}: {text}")
        self.what = what


@dataclass(slots=True)
class Tally:
    """What was done and what happened, over all schedules."""

    schedules: int = 0
    steps: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    """By kind of fault: how often it really struck."""
    rounds: int = 0
    violations: Counter[str] = field(default_factory=Counter)


class FuzzWorld:
    """Everything of one schedule. `find_mode` may give a mode with a planted bug."""

    leaves_none: tuple[Kind, ...] = (NODE_REQUESTS, LAUNCH_BATCHES, NODES)
    """Of what nothing may be left in the end."""
    catalogue: Mapping[str, InstanceType] = {}
    """What the process knows about instance types beforehand."""

    def __init__(self, cloud: Cloud, tally: Tally, find_mode: FindMode) -> None:
        self.now_s = START_S
        self.cloud = cloud
        self.tally = tally
        self.kube = FakeKube(now=lambda: float(self.now_s), seed=0)
        self._find_mode = find_mode
        self._joined: set[str] = set()
        self._wanted: dict[str, int] = {}
        """Pods that their owner makes again when they are lost: name without number, and the number."""
        self.ordered: dict[str, int] = {}
        """Machines by batch, for each batch that was ever recorded."""
        self._seen_version = self.kube.list(LAUNCH_BATCHES).resource_version
        self.late: list[Callable[[], Any]] = []
        """Writes on their way that nobody waits for any more."""
        self.skew_s = 0
        self._processes = 0
        self.by_hand = 0
        """Records deleted by hand: limits do not count what they stood for."""
        cloud.advance(self.now_s)
        self._sqs = cloud.session.client("sqs", region_name=cloud.region)
        self._queue = self._sqs.create_queue(QueueName=QUEUE)["QueueUrl"]
        cloud.events.send_to(self._queue)
        self.foreign = self.furnish()
        self.epoch = 1
        self.process = self._started()
        self.last: Report | None = None

    def furnish(self) -> str:
        """Make the pool and what it needs. Return the machine that is somebody else's."""
        self.kube.create(GPU_POOLS, pool_object(self.cloud))
        return foreign_machine(self.cloud)

    # --- what the world does by itself ---

    def play(self) -> None:
        """Let machines boot and end, nodes join and leave, and owners replace what they lost."""
        self.cloud.advance(self.now_s)
        for node in self.cloud.nodes():
            name = node["metadata"]["name"]
            if name not in self._joined and self.joins(node):
                self._joined.add(name)
                self.kube.create(NODES, node)
        for name in sorted(self._joined & self.cloud.gone_nodes()):
            self._joined.remove(name)
            with suppress(NotFoundError):
                self.kube.delete(NODES, name)
            for pod in self.kube.list(PODS, field_selector=f"spec.nodeName={name}").items:
                self.kube.delete(PODS, pod["metadata"]["name"], namespace="default", grace_period_s=0)
        self.control()
        self.kube.end_terminations()
        self._run_pods()

    def joins(self, node: Json) -> bool:
        """Return whether this node of the cloud is one of this cluster."""
        return not node["spec"]["providerID"].endswith(self.foreign)

    def control(self) -> None:
        """Let the controllers of others do what is due; here there are none."""

    def _run_pods(self) -> None:
        there = set()
        for pod in self.kube.list(PODS).items:
            there.add(pod["metadata"]["labels"]["app"])
            if pod["spec"].get("nodeName") and pod["status"].get("phase") == "Pending":
                self.kube.patch_status(PODS, pod["metadata"]["name"], {"status": {"phase": "Running"}}, namespace="default")
        for app in [app for app in self._wanted if app not in there]:
            self._wanted[app] += 1
            self._make(app)

    def _make(self, app: str) -> None:
        shape = int(app.rpartition("-")[2])
        self.kube.create(PODS, pod_object(f"{app}.{self._wanted[app]}", app, shape))

    # --- steps ---

    def add_pod(self, shape: int) -> None:
        """Let an owner ask for one more pod."""
        app = f"p{len(self._wanted)}-{self.tally.steps}-{shape}"
        self._wanted[app] = 0
        self._make(app)

    def end_pod(self, number: int) -> None:
        """Let an owner ask for one pod less."""
        if self._wanted:
            app = sorted(self._wanted)[number % len(self._wanted)]
            del self._wanted[app]
            for pod in self.kube.list(PODS, label_selector=f"app={app}").items:
                self.kube.delete(PODS, pod["metadata"]["name"], namespace="default", grace_period_s=0)

    def pass_time(self, seconds: int) -> None:
        """Move all clocks on."""
        self.now_s += seconds
        self.play()

    def round(self, *, at: int | str = 0, trap: Trap | None = None) -> None:
        """Make one round of the loop, with a trap at one of the writes from now on: it stays until it is sprung."""
        process = self.process
        if trap is not None:
            process.gate.arm(at, trap)
        self.tally.rounds += 1
        try:
            self.last = process.tick(self.now_s + self.skew_s)
        except CrashError:
            self.process = self._started()
        except (ClusterError, NotLeadingError):
            self.last = None
        self.play()

    def _started(self) -> Process:
        epoch = self.epoch
        self._processes += 1
        return Process(
            self.kube, self.cloud.session, find_mode=self._find_mode, identity=f"p{self._processes}-", epoch=epoch,
            leads=lambda: self.epoch == epoch, steady=lambda: float(self.now_s), catalogue=self.catalogue,
        )  # fmt: skip

    def restart(self) -> None:
        """Kill the process between two rounds."""
        self.process = self._started()

    def lead_anew(self) -> None:
        """Let another process lead; what this one still does is refused."""
        self.epoch += 1
        self.process = self._started()

    # --- trouble ---

    @contextmanager
    def led_by_another(self) -> Iterator[None]:
        """Let another process lead and make two rounds, and the one that stood still go on; the other one stays."""
        stale = self.process
        self.lead_anew()
        self.round()
        self.round()
        successor, self.process = self.process, stale
        try:
            yield
        finally:
            self.process = successor

    def deliver(self) -> None:
        """Let a write arrive that was on its way."""
        if self.late:
            self.count("late writes")
            with suppress(Exception):
                self.late.pop(0)()

    def count(self, what: str) -> None:
        """Note that something struck."""
        self.tally.happened[what] += 1

    def fail_next(self, operation: str, name: str, fault: Fault, times: int) -> None:
        """Let calls of the cloud fail."""
        self.count(name)
        self.cloud.fail_next(operation, fault, times=times)

    def warn(self, kind: str, machine_id: str) -> None:
        """Let the cloud say something about a machine ahead of time, or somebody put nonsense into the queue."""
        self.count("warnings")
        if kind == "interruption":
            self.cloud.events.interrupt(machine_id)
        elif kind == "rebalance":
            self.cloud.events.recommend_rebalance(machine_id)
        elif kind == "retirement":
            self.cloud.events.retire([machine_id, self.foreign], start_s=self.now_s + 3_600)
        else:
            self._sqs.send_message(QueueUrl=self._queue, MessageBody=kind)

    def end_trouble(self) -> None:
        """Let everything work from now on."""
        self.cloud.set_capacity({})
        self.cloud.set_describe_lag(0)
        for capacity_type in ("on-demand", "spot"):
            self.cloud.set_quota(capacity_type, None)
        self.skew_s = 0
        while self.late:
            self.deliver()
        self.process.gate.arm(0, None)
        self.process.view.thaw()
        self.process.view.unreachable = 0
        self.play()

    # --- what must hold ---

    def live(self) -> list[SimulatedMachine]:
        """Return the machines that are ours and cost money."""
        return [one for one in self.ours() if one.state in ("pending", "running")]

    def ours(self) -> list[SimulatedMachine]:
        """Return the machines that are not somebody else's, also those that have ended."""
        return [one for one in self.cloud.machines if one.id != self.foreign]

    def check(self) -> None:
        """Raise ``ViolationError`` where something is that must never be."""
        self._note_batches()
        for batch, count in self.bought().items():
            if count > self.ordered.get(batch, 0):
                raise ViolationError(
                    "duplicates", f"batch {batch!r} ordered {self.ordered.get(batch, 0)} machines and has {count}"
                )
        taken = Counter(status["machineId"] for one in self._requests() if (status := one.get("status", {})).get("machineId"))
        for machine, count in taken.items():
            if count > 1:
                raise ViolationError("duplicates", f"machine {machine} belongs to {count} requests")
        if len(self.live()) > NODES_MAX + self.by_hand:
            raise ViolationError("duplicates", f"{len(self.live())} machines; the limit is {NODES_MAX}")
        if wrong := recount.over_committed(self.kube):
            raise ViolationError("over-commits", "; ".join(wrong))
        if any(one.state not in ("pending", "running") for one in self.cloud.machines if one.id == self.foreign):
            raise ViolationError("foreign", f"{self.foreign} was terminated")

    def bought(self) -> Counter[str]:
        """Return how many machines there ever were, by batch."""
        return Counter(one.tags.get("tfscale.io/batch", "") for one in self.ours())

    def calm(self) -> None:
        """End all trouble; then all demand is served or explained within some rounds, and nothing is left after the demand."""
        self._settle("not_converged", self._served)
        while self._wanted:
            self.end_pod(0)
        self._settle("leaks", self._empty)

    def _settle(self, what: str, done: Callable[[], str]) -> None:
        why = "nothing"
        for _ in range(_CALM_ROUNDS):
            self.round()
            self.check()
            self._look_after_orphans()
            why = done()
            if not why:
                return
            self.pass_time(self._pause_s())
        raise ViolationError(what, f"after {_CALM_ROUNDS} calm rounds: {why}; {self._last_words()}")

    def _look_after_orphans(self) -> None:
        """Do what a problem asks for: say that machines without a record are ours."""
        if self.last and any("without record" in problem.field for problem in self.last.problems):
            self.count("orphans confirmed")
            self.kube.patch(GPU_POOLS, POOL, {"metadata": {"annotations": {RECOVER: "true"}}})

    def _last_words(self) -> str:
        """Return what the last round did and what it found wrong."""
        if self.last is None:
            return "the last round failed"
        told = [*map(str, self.last.problems), *(f"{one.action}: {one.error or one.note}" for one in self.last.outcomes)]
        return "; ".join(told) or "it found nothing wrong"

    def _pause_s(self) -> int:
        plan = self.last.plan if self.last else None
        times = (
            [time_s - self.now_s - self.skew_s for time_s in (plan.recheck_s, plan.retry_s) if time_s is not None] if plan else []
        )
        soon = 5 if self.last is None or self.last.outcomes else 30
        return min(max(min(times, default=soon), soon), 120)

    def _served(self) -> str:
        report = self.last
        if report is None or report.outcomes or any(outcome.error for outcome in report.outcomes):
            return "still acting"
        unmet = {one.pod for one in report.plan.unmet if one.reasons}
        open_pods = [
            f"default/{pod['metadata']['name']}"
            for pod in self.kube.list(PODS).items
            if not pod["spec"].get("nodeName") and pod["status"].get("phase") not in _ENDED
        ]
        waiting = [pod for pod in open_pods if pod not in unmet]
        return f"pods wait without reason: {waiting}" if waiting else ""

    def _empty(self) -> str:
        left = [one.id for one in self.ours() if one.state in _LIVE]
        left += [
            obj["metadata"]["name"] for kind in self.leaves_none for obj in self.kube.list(kind).items if not self.stays(obj)
        ]
        left += ["messages"] if self._unheard() else []
        return f"left are {left}" if left else ""

    def stays(self, obj: Json) -> bool:  # noqa: ARG002 - nothing here
        """Return whether this object is somebody else's."""
        return False

    def _unheard(self) -> int:
        counts: list[Any] = ["ApproximateNumberOfMessages"]
        if isinstance(self.cloud, MemoryCloud):
            # moto shows a message of a dead process again by the clock on the wall.
            counts.append("ApproximateNumberOfMessagesNotVisible")
        found = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=counts)["Attributes"]
        return sum(map(int, found.values()))

    def _note_batches(self) -> None:
        for event in self.kube.watch(LAUNCH_BATCHES, resource_version=self._seen_version, timeout_s=0):
            if event.type == "ADDED":
                name = event.object["metadata"]["name"]
                self.ordered[name] = self.ordered.get(name, 0) + len(event.object["spec"]["requests"])
            self._seen_version = event.object["metadata"]["resourceVersion"]

    def _requests(self) -> list[Json]:
        return self.kube.list(NODE_REQUESTS).items

    def delete_by_hand(self, kind: Kind, number: int) -> None:
        """Let somebody delete one object."""
        objects = [obj for obj in self.kube.list(kind).items if not self.stays(obj)]
        if objects:
            self.count(f"deleted {kind.plural}")
            self.by_hand += 1
            with suppress(NotFoundError, AlreadyExistsError):
                self.kube.delete(kind, objects[number % len(objects)]["metadata"]["name"])
