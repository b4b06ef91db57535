"""The pods of examples/three-modes.yaml on a real control plane with the real Karpenter: ``make demo-cluster``.

API server, scheduler, controllers and Karpenter are the real ones; kwok plays the kubelets, and this script plays NVIDIA's
feature discovery and the workloads. Pool ``direct`` is left out, for there is no EC2 here. Everything happens twelve times as
fast as in the simulation.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.conftest import define
from tests.cluster.control_plane import TOOLS, ControlPlane
from tests.cluster.karpenter import CLASS_REF, KWOK_CLASS, ON_DEMAND, condition, instance_type, label_cards, node_class
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODE_POOLS, NODE_REQUESTS, NODES, PODS, Json, Kind, Kube
from tfscale.scenario import Scenario, Workload, read_scenario

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "three-modes.yaml"
LEFT_OUT = "direct"
SPEED = 12
WITHIN_S = 300
LINE_S = 10
"""Between two lines of the table."""


def main() -> int:
    """Run the demo; return 0 when every pod ran and nothing is left."""
    scenario = read_scenario(EXAMPLE.read_text(encoding="utf-8"), name=EXAMPLE.name)
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder)) as plane:
        kube = KubeClient.connect(kubeconfig=str(plane.kubeconfig))
        print("kube-apiserver, kube-scheduler, kube-controller-manager, Karpenter and kwok start")
        define(kube, *sorted((TOOLS / "crds").glob("*.yaml")), *sorted((ROOT / "tfscale" / "crds").glob("*.yaml")))
        _start(plane, kube, scenario)
        story = Story(kube, [load for load in scenario.workloads if not load.name.startswith(LEFT_OUT)])
        with _reconciling(plane.kubeconfig) as process:
            story.play()
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
        print(*story.account(), sep="\n")
        return code or (0 if story.went_well else 1)


def _start(plane: ControlPlane, kube: Kube, scenario: Scenario) -> None:
    assert scenario.cloud
    zones = scenario.cloud.zones
    plane.start_controllers()
    plane.start_scheduler()
    plane.start_karpenter([instance_type(one.name, zones) for one in scenario.cloud.instance_types])
    plane.start_kwok()
    kube.create(KWOK_CLASS, node_class())
    for kind, obj in scenario.objects:
        if kind in (NODE_POOLS, GPU_POOLS) and obj["metadata"]["name"] != LEFT_OUT:
            kube.create(kind, _for_kwok(kind, obj))
    _wait(lambda: condition(kube.get(NODE_POOLS, "gpu"), "Ready"), "the NodePool is Ready")


def _for_kwok(kind: Kind, obj: Json) -> Json:
    """Return an object of the example as it has to be with Karpenter's kwok provider, with shorter times."""
    spec = obj["spec"]
    if kind == NODE_POOLS:
        template = {**spec["template"], "spec": {"nodeClassRef": CLASS_REF, "requirements": [ON_DEMAND], "expireAfter": "720h"}}
        disruption = {**spec["disruption"], "consolidateAfter": f"{60 // SPEED}s"}
        return {**obj, "spec": {**spec, "template": template, "disruption": disruption}}
    options = spec["options"] | ({"nodeClassRef": CLASS_REF} if "nodeClassRef" in spec["options"] else {})
    return {**obj, "spec": {**spec, "options": options, "idleAfter": f"{300 // SPEED}s"}}


@contextmanager
def _reconciling(kubeconfig: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``tfscale reconcile`` meanwhile. What it says is shown."""
    command = [sys.executable, "-m", "tfscale", "reconcile", "--kubeconfig", str(kubeconfig), "--interval", "2"]
    print("$ tfscale reconcile --kubeconfig ... --interval 2", flush=True)
    with subprocess.Popen(command, cwd=ROOT) as process:  # noqa: S603 - our own interpreter
        try:
            yield process
        finally:
            process.terminate()


def _wait(holds: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not holds():
        if time.monotonic() > end_s:
            raise SystemExit(f"not within {WITHIN_S} s: {what}")
        time.sleep(0.5)


@dataclass(slots=True)
class Story:
    """Pods that come, run and go, and what was seen of it."""

    kube: Kube
    loads: Sequence[Workload]
    _started_s: float = field(default_factory=time.monotonic)
    _line_s: float = 0
    _claims: dict[str, str] = field(default_factory=dict)
    """Pool by NodeClaim."""
    _ran_s: dict[str, float] = field(default_factory=dict)
    """When each pod began to run, or was first seen running."""
    _pool: dict[str, str] = field(default_factory=dict)
    """By pod."""

    @property
    def went_well(self) -> bool:
        """Whether every pod ran and nothing is left."""
        return len(self._ran_s) == len(self._pool) == sum(load.replicas for load in self.loads) and not any(self._left().values())

    def play(self) -> None:
        """Let pods arrive, run and end, until all have gone and the nodes with them."""
        _wait(lambda: self._step() and not any(self._left().values()), "every pod ran, and claims, nodes and records are gone")

    def account(self) -> Iterator[str]:
        """Yield the result, counted from the cluster's own objects."""
        yield ""
        yield f"{'pool':<10}{'nodes launched':>16}{'pods that ran':>16}{'of':>5}"
        asked, ran, launched = (
            Counter(self._pool.values()),
            Counter(map(self._pool.get, self._ran_s)),
            Counter(self._claims.values()),
        )
        for pool in sorted(asked):
            yield f"{pool:<10}{launched[pool]:>16}{ran[pool]:>16}{asked[pool]:>5}"
        yield "left: " + ", ".join(f"{count} {name}" for name, count in self._left().items())

    def _step(self) -> bool:
        """Do what is due; return whether every pod has come and gone."""
        label_cards(self.kube)
        now_s = time.monotonic() - self._started_s
        pods = {pod["metadata"]["name"]: pod for pod in self.kube.list(PODS).items}
        for load in self.loads:
            for after_s, name in load.arriving(0):
                self._live(load, name, due=now_s >= after_s / SPEED, pod=pods.get(name))
        for claim in self.kube.list(NODE_CLAIMS).items:
            self._claims[claim["metadata"]["name"]] = claim["metadata"]["labels"].get("tfscale.io/pool", "?")
        self._show(now_s, pods)
        return not pods and len(self._ran_s) == sum(load.replicas for load in self.loads)

    def _live(self, load: Workload, name: str, *, due: bool, pod: Json | None) -> None:
        if pod is None:
            if due and name not in self._pool:
                self._pool[name] = load.template["metadata"]["annotations"]["tfscale.io/gpupool"]
                created = load.pod(name)
                created["spec"]["terminationGracePeriodSeconds"] = 0
                self.kube.create(PODS, created, namespace=load.namespace)
            return
        if pod["status"].get("phase") == "Running":
            since_s = self._ran_s.setdefault(name, time.monotonic())
            if load.run_for_s is not None and time.monotonic() - since_s > load.run_for_s / SPEED:
                self.kube.delete(PODS, name, namespace=load.namespace, grace_period_s=0)

    def _left(self) -> dict[str, int]:
        kinds = {"pods": PODS, "nodes": NODES, "nodeclaims": NODE_CLAIMS, "noderequests": NODE_REQUESTS}
        return {name: len(self.kube.list(kind).items) for name, kind in kinds.items()}

    def _show(self, now_s: float, pods: dict[str, Json]) -> None:
        if now_s - self._line_s < LINE_S:
            return
        self._line_s = now_s
        phases = Counter(pod["status"].get("phase", "Pending") for pod in pods.values())
        nodes = Counter(node["metadata"]["labels"]["node.kubernetes.io/instance-type"] for node in self.kube.list(NODES).items)
        shown = ", ".join(f"{count} {name}" for name, count in sorted(nodes.items())) or "none"
        print(f"after {now_s:3.0f} s: pods {phases['Pending']} pending, {phases['Running']} running; nodes: {shown}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
