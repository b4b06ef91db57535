"""A small world around the stand-in for Karpenter: one clock, a cluster in memory, a simulated EC2, and who else acts there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tfscale.catalogue import InstanceType
from tfscale.errors import NotFoundError
from tfscale.kube.port import EVENTS, NODE_CLAIMS, NODE_CLASSES, NODE_POOLS, NODES, PODS, Json, Kind
from tfscale.testing import FakeKube, KarpenterStandIn, SimulatedCloud
from tfscale.testing.fake_ec2 import SimulatedMachine, SimulatedType

A, B = "us-east-1a", "us-east-1b"
BOOT_S, SHUTDOWN_S = 60, 30
TYPE, ZONE, CAPACITY = "node.kubernetes.io/instance-type", "topology.kubernetes.io/zone", "karpenter.sh/capacity-type"
HOLD = {"karpenter.sh/do-not-disrupt": "true"}
CLASS = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}

TYPES = (
    SimulatedType(name="g4dn.xlarge", usd_per_hour="0.526", spot_usd_per_hour="0.2"),
    SimulatedType(name="g6.xlarge", usd_per_hour="0.8048", spot_usd_per_hour="0.3"),
    SimulatedType(name="g6.12xlarge", usd_per_hour="4.6016"),
    SimulatedType(name="m5.large", usd_per_hour="0.096"),
)
"""What the cloud sells."""


def _type(name: str, cpu: int, memory_gib: int, price: int | None, spot: int | None = None, **card: Any) -> InstanceType:  # noqa: ANN401 - fields
    return InstanceType(
        name=name, cpu_milli=cpu * 1_000, memory_mib=memory_gib * 1_024, price_micro_usd=price, spot_price_micro_usd=spot, **card
    )


CATALOGUE = {
    one.name: one
    for one in (
        _type("g6.12xlarge", 48, 192, 4_601_600, gpu_model="L4", gpu_count=4, vram_mib=22_888),
        _type("g6.xlarge", 4, 16, 804_800, 300_000, gpu_model="L4", gpu_count=1, vram_mib=22_888),
        _type("g4dn.xlarge", 4, 16, 526_000, 200_000, gpu_model="T4", gpu_count=1),
        _type("m5.large", 2, 8, 96_000),
        _type("unsold.xlarge", 4, 16, None, gpu_model="L4", gpu_count=1),
    )
}


def within(key: str, *values: str, operator: str = "In") -> Json:
    """Return one requirement."""
    return {"key": key, "operator": operator, "values": [*values]}


ONE_G6 = (within(TYPE, "g6.xlarge"), within(CAPACITY, "on-demand"))


class KarpenterWorld:
    """What `tfscale simulate` is to the stand-in, without a loop of ours.

    Machines become nodes once, after their boot delay, and the nodes and pods of terminated machines go. `joins` is what a
    node has beside what the cloud gives it. What an earlier world left in the cloud is ended first.
    """

    def __init__(self, cloud: SimulatedCloud, *, joins: Mapping[str, Any] | None = None) -> None:
        cloud.set_capacity({})
        cloud.take_away([machine.id for machine in cloud.machines if machine.state != "terminated"])
        cloud.advance(cloud.now_s + SHUTDOWN_S)
        self.now_s = cloud.now_s
        self.cloud = cloud
        # No uid of an earlier world comes again: its machine would be taken for the claim's.
        self.kube = FakeKube(now=lambda: float(self.now_s), seed=self.now_s)
        self.karpenter = self.fresh()
        self._joins = joins or {}
        self._old = frozenset(machine.id for machine in cloud.machines)
        self._joined: set[str] = set()
        self.cleans_up = True
        """Whether nodes and pods of machines that are gone are deleted."""
        self.kube.create(NODE_CLASSES[0], {"metadata": {"name": "gpu"}})

    def fresh(self) -> KarpenterStandIn:
        """Return a stand-in that knows nothing yet."""
        return KarpenterStandIn(self.kube, self.cloud, catalogue=CATALOGUE)

    # --- objects ---

    def claim(
        self,
        name: str,
        *requirements: Json,
        pool: str = "",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        **spec: Any,  # noqa: ANN401 - any field
    ) -> Json:
        """Create a claim, standalone unless `pool` names its NodePool, and return it."""
        owned = {"karpenter.sh/nodepool": pool} if pool else {}
        metadata: Json = {"name": name, "labels": {**owned, **(labels or {})}, "annotations": dict(annotations or {})}
        if pool:
            uid = self.kube.get(NODE_POOLS, pool)["metadata"]["uid"]
            metadata["ownerReferences"] = [{"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": pool, "uid": uid}]
        chosen = [*(requirements or ONE_G6)]
        wanted = {"nodeClassRef": CLASS, "requirements": chosen, "expireAfter": "Never", **spec}
        return self.kube.create(NODE_CLAIMS, {"metadata": metadata, "spec": wanted})

    def pool(self, name: str = "gpus", **disruption: str) -> Json:
        """Create a NodePool and return it."""
        return self.kube.create(NODE_POOLS, {"metadata": {"name": name}, "spec": {"disruption": disruption}})

    def pod(self, name: str, node: str, *, grace_s: int = 5, **metadata: Any) -> None:  # noqa: ANN401 - any field
        """Create a pod that runs on a node."""
        obj = {"metadata": {"name": name, **metadata}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": grace_s}}
        self.kube.create(PODS, obj, namespace="default")
        self.kube.patch_status(PODS, name, {"status": {"phase": "Running"}}, namespace="default")

    # --- looking ---

    def get(self, name: str) -> Json | None:
        """Return a claim, or None where it is gone."""
        return next((claim for claim in self.kube.list(NODE_CLAIMS).items if claim["metadata"]["name"] == name), None)

    def live(self, name: str) -> Json:
        """Return a claim that is there."""
        return self.kube.get(NODE_CLAIMS, name)

    def node(self, name: str) -> Json:
        """Return the node of a claim."""
        return self.kube.get(NODES, self.live(name)["status"]["nodeName"])

    def machines(self) -> list[SimulatedMachine]:
        """Return the machines of this world that are not terminated."""
        return [machine for machine in self.cloud.machines if machine.id not in self._old and machine.state != "terminated"]

    def conditions(self, name: str) -> dict[str, str]:
        """Return the status of each condition of a claim."""
        return {one["type"]: one["status"] for one in self.live(name)["status"]["conditions"]}

    def reason(self, name: str, condition: str) -> str:
        """Return the reason of a condition of a claim."""
        found = (one["reason"] for one in self.live(name)["status"]["conditions"] if one["type"] == condition)
        return str(next(found, ""))

    def events(self) -> list[str]:
        """Return the reasons of all events."""
        return [event["reason"] for event in self.kube.list(EVENTS).items]

    # --- time ---

    def play(self) -> None:
        """Let everything happen that is due now."""
        self.cloud.advance(self.now_s)
        for node in self.cloud.nodes():
            if node["metadata"]["name"] not in self._joined:
                self._joined.add(node["metadata"]["name"])
                self.kube.create(NODES, _merged(node, self._joins))
        for name in sorted(self.cloud.gone_nodes() if self.cleans_up else ()):
            self._leave(name)
        self.karpenter.advance(self.now_s)
        self.kube.end_terminations()

    def run(self, seconds: int) -> None:
        """Let this much time pass, from event to event."""
        end_s = self.now_s + seconds
        self.play()
        while self.now_s < end_s:
            self.now_s = min([end_s, *(max(time_s, self.now_s + 1) for time_s in self.next_times_s())])
            self.play()

    def next_times_s(self) -> Sequence[int]:
        """Return when something happens by itself: in the cloud, and what the stand-in says."""
        times_s = [machine.launched_s + BOOT_S for machine in self.machines() if machine.state == "pending"]
        times_s += [one.terminate_asked_s + SHUTDOWN_S for one in self.machines() if one.terminate_asked_s is not None]
        own_s = self.karpenter.next_s()
        return times_s if own_s is None else [*times_s, own_s]

    def _leave(self, name: str) -> None:
        with suppress(NotFoundError):
            self.kube.delete(NODES, name)
        for pod in self.kube.list(PODS, field_selector=f"spec.nodeName={name}").items:
            self.kube.delete(PODS, pod["metadata"]["name"], namespace="default", grace_period_s=0)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node with more fields; whatever is not a mapping is replaced."""
    return {
        key: _merged(one.get(key, {}), other[key]) if isinstance(other.get(key), Mapping) else other.get(key, one.get(key))
        for key in {**one, **other}
    }


def annotate(world: KarpenterWorld, kind: Kind, name: str, annotations: Mapping[str, str | None]) -> None:
    """Set annotations of an object; None takes one off."""
    world.kube.patch(kind, name, {"metadata": {"annotations": dict(annotations)}})
