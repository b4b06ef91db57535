"""A small cluster on a cloud that takes its machines back, and what must hold there whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.fuzz.process import CrashError, Gate, View
from tests.fuzz.yard import (
    BOOT_S,
    DRAIN_WITHIN_S,
    POOL_OBJECT,
    SHARES,
    SHUTDOWN_S,
    Building,
    node_object,
    pod_object,
    yard_of,
)
from tfscale.errors import ClusterError, NotFoundError
from tfscale.gpus import GpuTable
from tfscale.kube.pods import keeps_busy
from tfscale.kube.port import DISRUPTION_BUDGETS, GPU_POOLS, NODE_REQUESTS, NODES, PODS, Json
from tfscale.kube.records import read_node_request
from tfscale.lifecycle import State
from tfscale.model import DISRUPTED, NodeRequest, Notice
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler, Report
from tfscale.testing import FakeKube

__all__ = ["HELD", "DrainingWorld"]

START_S = 1_800_000_000
PATIENCE_S = 900
"""How long a pod waits for its next place."""
HELD = "karpenter.sh/do-not-disrupt"


class DrainingWorld:
    """Cluster, cloud, kubelets and owners of pods, and one process of tfscale that may die at any write.

    An owner makes another pod as soon as one is asked to leave, as a ReplicaSet does.
    """

    def __init__(self) -> None:
        self.now_s = START_S
        self.kube = FakeKube(now=lambda: float(self.now_s), seed=0)
        self.machines: dict[str, Building] = {}
        self.notices: dict[str, Notice] = {}
        self.bought = 0
        self.causes = 0
        """How many machines may have been bought: one for each pod, and what was taken from it."""
        self._wanted: dict[str, int] = {}
        """How often the pod of each app was made."""
        self._warned: set[str] = set()
        self.kube.create(GPU_POOLS, POOL_OBJECT)
        self.process = _Process(self)

    # --- what the world does by itself ---

    def pass_time(self, seconds: int) -> None:
        """Move the clock on."""
        self.now_s += seconds
        self.play()

    def play(self) -> None:
        """Let machines boot and end, nodes join and leave, pods run, and owners make up for what they lose."""
        for one in list(self.machines.values()):
            if one.ends_s is not None and self.now_s >= one.ends_s and one.stopped_s is None:
                one.stopped_s = self.now_s
            if one.stopped_s is not None and self.now_s >= one.stopped_s + SHUTDOWN_S:
                self.lose_node(one.node)
                del self.machines[one.machine.id]
            elif one.stopped_s is None and not one.booted and self.now_s >= (one.machine.launched_s or 0) + BOOT_S:
                one.booted = True
                self.kube.create(NODES, node_object(one))
        self._run_pods()

    def lose_node(self, name: str) -> None:
        """Let a node go with its pods."""
        with suppress(NotFoundError):
            self.kube.delete(NODES, name)
        for pod in self._pods_on(name):
            self.kube.delete(PODS, pod["metadata"]["name"], namespace="default", grace_period_s=0)

    def _run_pods(self) -> None:
        there = set()
        for pod in self.kube.list(PODS).items:
            meta, running = pod["metadata"], {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            if "deletionTimestamp" not in meta:
                there.add(meta["labels"]["app"])
            if pod["spec"].get("nodeName") and pod["status"].get("phase") == "Pending":
                self.kube.patch_status(PODS, meta["name"], {"status": running}, namespace="default")
        for app in [app for app in self._wanted if app not in there]:
            self._wanted[app] += 1
            self.kube.create(PODS, pod_object(app, self._wanted[app]))

    @property
    def wants_pods(self) -> bool:
        """Whether any owner wants a pod."""
        return bool(self._wanted)

    # --- what others do ---

    def add_pod(self, shape: str) -> None:
        """Let an owner want one more pod."""
        self.causes += 1
        self._wanted[f"{shape}-{self.causes}"] = 0
        self.play()

    def end_pod(self, number: int) -> None:
        """Let an owner want one pod less."""
        if self._wanted:
            app = sorted(self._wanted)[number % len(self._wanted)]
            del self._wanted[app]
            for pod in self.kube.list(PODS, label_selector=f"app={app}").items:
                self.kube.delete(PODS, pod["metadata"]["name"], namespace="default", grace_period_s=0)

    def warn(self, number: int, in_s: int | None, *, scarce: bool) -> None:
        """Let the cloud say of one machine that it will be taken away; it may say so of one that went."""
        running = [one for one in self.machines.values() if one.stopped_s is None]
        if not running:
            return
        one = running[number % len(running)]
        ends_s = None if in_s is None else self.now_s + in_s
        name = f"notice-{len(self._warned)}-{self.now_s}-{in_s}-{one.machine.id}"
        event = "Rebalance" if in_s is None else "Interruption"
        self.notices[name] = Notice(
            id=name, machine_id=one.machine.id, event=event, ends_s=ends_s, scarce=scarce, why="others want it"
        )
        one.ends_s = min((time_s for time_s in (one.ends_s, ends_s) if time_s is not None), default=None)
        self._note_loss(one)

    def outdate(self, number: int) -> None:
        """Let another image be wanted than that of one machine."""
        if self.machines:
            one = list(self.machines.values())[number % len(self.machines)]
            one.outdated = True
            self._note_loss(one)

    def lift_restraints(self) -> None:
        """Let every pod be disturbed."""
        self.set_budget(None)
        for pod in self.kube.list(PODS).items:
            self.kube.patch(PODS, pod["metadata"]["name"], {"metadata": {"annotations": {HELD: None}}}, namespace="default")

    def outdated(self) -> str:
        """Return the machines that are to be replaced."""
        return ", ".join(name for name, one in self.machines.items() if one.outdated)

    def take(self, number: int) -> None:
        """Let a machine end without a word."""
        if self.machines:
            one = list(self.machines.values())[number % len(self.machines)]
            one.stopped_s = one.stopped_s or self.now_s
            self._note_loss(one)

    def delete_node(self, number: int) -> None:
        """Let somebody delete a node; its machine runs on."""
        joined = [one for one in self.machines.values() if one.booted and one.stopped_s is None]
        if joined:
            self._note_loss(joined[number % len(joined)])
            self.lose_node(joined[number % len(joined)].node)
            self.play()

    def delete_record(self, number: int) -> None:
        """Let somebody delete a record; what it stood for may be bought again."""
        records = self.kube.list(NODE_REQUESTS).items
        if records:
            self.causes += 2
            self.kube.delete(NODE_REQUESTS, records[number % len(records)]["metadata"]["name"])

    def set_budget(self, least: int | None) -> None:
        """Let at least so many pods be kept running; None takes the budget away."""
        with suppress(NotFoundError):
            self.kube.delete(DISRUPTION_BUDGETS, "all", namespace="default")
        if least is not None:
            spec = {"minAvailable": least, "selector": {}}
            self.kube.create(DISRUPTION_BUDGETS, {"metadata": {"name": "all", "namespace": "default"}, "spec": spec})

    def hold(self, number: int, *, on: bool) -> None:
        """Let somebody ask not to disturb a pod, or no more."""
        pods = self.kube.list(PODS).items
        if pods:
            name = pods[number % len(pods)]["metadata"]["name"]
            self.kube.patch(PODS, name, {"metadata": {"annotations": {HELD: "true" if on else None}}}, namespace="default")

    def _note_loss(self, one: Building) -> None:
        """Count once for each machine how many may be bought for what is lost with it."""
        if one.machine.id not in self._warned:
            self._warned.add(one.machine.id)
            # Two halves may leave one after the other, and meet others that have come meanwhile.
            self.causes += max(1, len(self._pods_on(one.node)))

    # --- the loop ---

    def round(self, *, dies_at: int = 0, after: bool = False) -> Report | None:
        """Make one round; with `dies_at` the process dies before or after its write of that number."""
        self.process.gate.arm(dies_at, _dying_after if after else _dying_before)
        try:
            return self.process.reconciler.tick(self.now_s)
        except CrashError:
            self.process = _Process(self)
            return None
        finally:
            self.play()

    # --- what must hold ---

    def check(self) -> None:
        """Compare what was bought with what there was to buy it for, and see that few nodes are replaced at once."""
        assert self.bought <= self.causes, f"{self.bought} machines were bought for {self.causes} causes"
        records = map(read_node_request, self.kube.list(NODE_REQUESTS).items)
        drains = [record.drain for record in records if record.state is State.DRAINING and record.drain]
        fresh = [drain for drain in drains if drain.event == "Drifted" and self.now_s < drain.since_s + DRAIN_WITHIN_S]
        assert len(fresh) <= 1, f"{len(fresh)} nodes are replaced at once"

    def check_eviction(self, pod: Json) -> None:
        """Hold an eviction against what the cluster says at that moment."""
        meta, name = pod["metadata"], pod["spec"]["nodeName"]
        node, record = self.kube.get(NODES, name), self._record_of(name)
        assert node["spec"]["unschedulable"]
        assert DISRUPTED in {taint["key"] for taint in node["spec"]["taints"]}
        assert record is not None
        assert State.DRAINING is record.state, f"{meta['name']} is asked to leave {record.name}, which is {record.state}"
        assert HELD not in (meta.get("annotations") or {})
        assert record.drain is not None
        unhurried = record.drain.event == "Drifted" or self.now_s < record.drain.since_s + PATIENCE_S
        if record.drain.ends_s is None and unhurried:
            assert self._most_free() >= SHARES[meta["labels"]["app"].partition("-")[0]], f"{meta['name']} has no place to go"

    def check_return(self, machine_id: str) -> None:
        """Hold the return of a machine against the pods that are on its node."""
        one = self.machines.get(machine_id)
        busy = self._pods_on(one.node) if one and one.stopped_s is None else []
        if one and busy:
            record = self._record_of(one.node)
            assert record is not None
            assert record.drain is not None, f"{machine_id} is returned with {len(busy)} pods on it"
            assert record.drain.event != "Drifted", f"{machine_id} is returned with pods on it although nobody hurries"
            ends_s = record.drain.since_s + DRAIN_WITHIN_S if record.drain.ends_s is None else record.drain.ends_s
            assert self.now_s >= ends_s, f"{machine_id} is returned {ends_s - self.now_s} s too early"

    def check_heard(self, notice: Notice) -> None:
        """Hold an acknowledgement against what is written down."""
        one = self.machines.get(notice.machine_id)
        if one is not None and one.stopped_s is None:
            record = self._record_of(one.node)
            assert record is not None
            assert record.state in {State.DRAINING, State.TERMINATING}, (
                f"{notice.id} is acknowledged, {record.name} is {record.state}"
            )

    def unserved(self) -> str:
        """Return what is not as it should be in the end, or nothing."""
        at = {one["metadata"]["labels"]["app"]: one["spec"].get("nodeName") for one in self.kube.list(PODS).items}
        homeless = [app for app in self._wanted if not at.get(app)]
        alive = [name for name in self._warned if name in self.machines and not self.machines[name].outdated]
        trouble = {"wait": homeless, "are still there": alive, "are not acknowledged": list(self.notices)}
        return "; ".join(f"{names} {what}" for what, names in trouble.items() if names)

    def left(self) -> str:
        """Return what is left of machines, records and nodes."""
        kinds = (NODE_REQUESTS, NODES)
        return ", ".join([*self.machines, *(one["metadata"]["name"] for kind in kinds for one in self.kube.list(kind).items)])

    def _pods_on(self, node: str) -> list[Json]:
        return [pod for pod in self.kube.list(PODS, field_selector=f"spec.nodeName={node}").items if keeps_busy(pod)]

    def _record_of(self, node: str) -> NodeRequest | None:
        machine_id = node.removeprefix("node-")
        records = map(read_node_request, self.kube.list(NODE_REQUESTS).items)
        return next((record for record in records if record.machine_id == machine_id), None)

    def _most_free(self) -> int:
        """Return how many halves of a card are free on the node that has most of those that stay."""
        staying = [
            node["metadata"]["name"]
            for node in self.kube.list(NODES).items
            if DISRUPTED not in {taint["key"] for taint in node["spec"].get("taints") or ()}
        ]
        taken = [
            sum(SHARES[pod["metadata"]["labels"]["app"].partition("-")[0]] for pod in self._pods_on(name)) for name in staying
        ]
        return max((2 - halves for halves in taken), default=0)


class _Witness(View):
    """The cluster as the process sees it, with a look at each eviction right before it is carried out."""

    def __init__(self, world: DrainingWorld, gate: Gate) -> None:
        super().__init__(world.kube, gate)
        self._world = world

    def evict(self, name: str, *, namespace: str, **how: Any) -> None:  # noqa: ANN401 - as the verb
        """Evict a pod, unless this is one that must stay."""
        pod = self._world.kube.get(PODS, name, namespace=namespace)
        self._world.check_eviction(pod)
        self._gate.passes("evict", lambda: self._world.kube.evict(name, namespace=namespace, **how))


class _Process:
    """One process, until it dies."""

    def __init__(self, world: DrainingWorld) -> None:
        self.gate = Gate(leads=lambda: True)
        # What stands for a cluster has all that is asked of it, and no common type with the real one.
        view: Any = _Witness(world, self.gate)
        gpus = GpuTable()
        mode = yard_of(world, self.gate)
        self.reconciler = Reconciler(
            kube=view,
            mode_of=lambda name, *, where, field: mode,  # noqa: ARG005 - there is one mode
            open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=view, cluster="draining"),
            gpus=gpus,
            prefix="tfscale.io",
        )


def _dying_before(name: str, write: Callable[[], Any]) -> Any:  # noqa: ANN401, ARG001 - as any trap
    raise CrashError


def _dying_after(name: str, write: Callable[[], Any]) -> Any:  # noqa: ANN401, ARG001 - as any trap
    with suppress(ClusterError):
        write()
    raise CrashError
