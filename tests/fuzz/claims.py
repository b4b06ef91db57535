"""The schedules for the modes on NodeClaims: the same cluster, with a Karpenter between it and the cloud."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.fuzz.machine import FAULTS, Schedule
from tests.fuzz.objects import NODES_MAX, POOL, TYPES, ZONES, Cloud
from tests.fuzz.process import ORDER
from tests.fuzz.traps import TRAPS, trap
from tests.fuzz.world import FuzzWorld, ViolationError
from tfscale.catalogue import InstanceType
from tfscale.kube.port import (
    GPU_POOLS,
    LAUNCH_BATCHES,
    NODE_CLAIMS,
    NODE_CLASSES,
    NODE_POOLS,
    NODE_REQUESTS,
    NODES,
    Json,
)
from tfscale.modes.base import ScalingMode
from tfscale.modes.managed_nodeclaim import ManagedNodeClaimMode
from tfscale.modes.reuse_nodeclaim import ReuseNodeClaimMode
from tfscale.quantity import micro_usd
from tfscale.testing import KarpenterStandIn

__all__ = ["ClaimSchedule", "ClaimWorld", "ManagedSchedule", "ReuseSchedule", "find_managed", "find_reuse"]

CLASS = {"group": NODE_CLASSES[0].group, "kind": NODE_CLASSES[0].kind, "name": "gpu"}
FOREIGN = "foreign"
BATCH = "tfscale.io/batch"
JOINS_S = 120
"""After how long the machine of somebody else has become a node."""
CATALOGUE = {
    kind.name: InstanceType(
        name=kind.name,
        gpu_model=kind.gpu_model or "",
        gpu_count=kind.gpu_count or 0,
        cpu_milli=(kind.vcpu or 0) * 1_000,
        memory_mib=kind.memory_mib or 0,
        price_micro_usd=micro_usd(kind.usd_per_hour),
        spot_price_micro_usd=micro_usd(kind.spot_usd_per_hour) if kind.spot_usd_per_hour else None,
    )
    for kind in TYPES
}


class ClaimWorld(FuzzWorld):
    """A world in which Karpenter buys, and where one of its claims looks like one of ours."""

    mode = "managed-nodeclaim"
    options: Mapping[str, Any] = {"nodeClassRef": CLASS}
    leaves_none = (NODE_REQUESTS, LAUNCH_BATCHES, NODES, NODE_CLAIMS)
    catalogue = CATALOGUE

    def furnish(self) -> str:
        """Make the pool, its node class, and a claim of somebody else that has the label of our pool."""
        self.karpenter = self.fresh()
        self.kube.create(NODE_CLASSES[0], {"metadata": {"name": CLASS["name"]}})
        self.kube.create(GPU_POOLS, self._pool())
        self.kube.create(NODE_CLAIMS, _foreign_claim())
        for _ in range(2):
            self.cloud.advance(self.now_s)
            self.play()
            self.now_s += JOINS_S
        (machine,) = self.cloud.machines
        return machine.id

    def fresh(self) -> KarpenterStandIn:
        """Return a Karpenter that knows nothing yet."""
        cloud: Any = self.cloud
        return KarpenterStandIn(self.kube, cloud, catalogue=CATALOGUE)

    def joins(self, node: Json) -> bool:  # noqa: ARG002 - each of them
        """Say that every machine is of this cluster."""
        return True

    def control(self) -> None:
        """Let Karpenter do what is due."""
        self.karpenter.advance(self.now_s)

    def restart_karpenter(self) -> None:
        """Let another replica of Karpenter take over; none where none runs."""
        down = self.karpenter.down
        self.karpenter = self.fresh()
        self.karpenter.down = down

    def set_class_ready(self, status: str) -> None:
        """Let the node class say whether it can be used."""
        conditions = [{"type": "Ready", "status": status, "reason": "Test", "message": ""}]
        self.kube.patch_status(NODE_CLASSES[0], CLASS["name"], {"status": {"conditions": conditions}})

    def end_trouble(self) -> None:
        """Let Karpenter and its node class work, too."""
        self.karpenter.down = False
        self.set_class_ready("True")
        super().end_trouble()

    def stays(self, obj: Json) -> bool:
        """Return whether this is somebody else's claim, or its node."""
        return FOREIGN in {obj["metadata"]["name"], obj["metadata"].get("labels", {}).get("who")}

    def bought(self) -> Counter[str]:
        """Return how many claims there are, by batch: one that Karpenter gave up may be made once more."""
        return Counter(claim["metadata"]["annotations"][BATCH] for claim in self.claims())

    def claims(self) -> list[Json]:
        """Return the claims that are not somebody else's."""
        return [claim for claim in self.kube.list(NODE_CLAIMS).items if not self.stays(claim)]

    def check(self) -> None:
        """Raise ``ViolationError`` where there are more claims than may be, too, or a foreign one is touched."""
        super().check()
        if len(self.claims()) > NODES_MAX + self.by_hand:
            raise ViolationError("duplicates", f"{len(self.claims())} claims; the limit is {NODES_MAX}")
        if "deletionTimestamp" in self.kube.get(NODE_CLAIMS, FOREIGN)["metadata"]:
            raise ViolationError("foreign", f"claim {FOREIGN} was deleted")

    def _pool(self) -> Json:
        spec = {
            "mode": self.mode,
            "default": True,
            "options": dict(self.options),
            "offers": {
                "instanceTypes": [kind.name for kind in TYPES], "capacityTypes": ["spot", "on-demand"], "zones": [*ZONES],
            },
            # The node of somebody else has the pool's label, and counts.
            "limits": {"nodes": NODES_MAX + 1},
            "idleAfter": "1m",
        }  # fmt: skip
        return {"apiVersion": "tfscale.io/v1alpha1", "kind": "GPUPool", "metadata": {"name": POOL}, "spec": spec}


class ReuseWorld(ClaimWorld):
    """A world with a NodePool whose nodes are replicated."""

    mode = "reuse-nodeclaim"
    options: Mapping[str, Any] = {"protectFor": "2m"}

    def furnish(self) -> str:
        """Make the NodePool, too."""
        within = [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot", "on-demand"]}]
        template = {"spec": {"nodeClassRef": CLASS, "requirements": within, "expireAfter": "Never"}}
        spec = {"template": template, "disruption": {"consolidateAfter": "30s"}}
        self.kube.create(NODE_POOLS, {"metadata": {"name": "gpu"}, "spec": spec})
        return super().furnish()


class ClaimSchedule(Schedule):
    """One schedule in which Karpenter buys."""

    world: ClaimWorld

    @rule(what=st.sampled_from(sorted(TRAPS)))
    def claim_goes_wrong(self, what: str) -> None:
        """Something befalls the next claim that is made."""
        self.world.round(at=ORDER, trap=trap(self.world, what))

    @rule(
        operation=st.sampled_from(["CreateFleet", "TerminateInstances"]),
        fault=st.sampled_from(sorted(FAULTS)),
        times=st.integers(1, 3),
    )
    def karpenters_call_fails(self, operation: str, fault: str, times: int) -> None:
        """What Karpenter asks of the cloud fails, and it tries again."""
        self.world.fail_next(operation, fault, FAULTS[fault], times)

    @rule(down=st.booleans())
    def karpenter_stops(self, down: bool) -> None:  # noqa: FBT001 - a parameter of the rule
        """No replica of Karpenter runs, or one runs again."""
        self.world.count("Karpenter stops")
        self.world.karpenter.down = down

    @rule()
    def karpenter_restarts(self) -> None:
        """Another replica takes over."""
        self.world.count("Karpenter restarts")
        self.world.restart_karpenter()

    @rule(status=st.sampled_from(["True", "False", "Unknown"]))
    def class_changes(self, status: str) -> None:
        """The node class can be used no more, or again."""
        self.world.count("class changes")
        self.world.set_class_ready(status)

    @rule(number=st.integers(0, 9))
    def claim_deleted(self, number: int) -> None:
        """Somebody deletes a claim of ours."""
        if claims := self.world.claims():
            self.world.count("deleted nodeclaims")
            self.world.kube.delete(NODE_CLAIMS, claims[number % len(claims)]["metadata"]["name"])

    @rule(change=st.sampled_from([
        {"offers": {"instanceTypes": ["toy.t4", "toy.a10g"]}},
        {"offers": {"instanceTypes": [kind.name for kind in TYPES]}},
        {"launchWithin": "1m"},
        {"launchWithin": "5m"},
        {"idleAfter": "30s"},
        {"registerWithin": "2m"},
        {"registerWithin": "15m"},
    ]))  # fmt: skip
    def pool_changes(self, change: dict[str, object]) -> None:
        """Somebody edits the pool."""
        self.world.count("pool changes")
        self.world.kube.patch(GPU_POOLS, POOL, {"spec": change})


class ManagedSchedule(ClaimSchedule):
    """One schedule of mode managed-nodeclaim."""

    def open_world(self, cloud: Cloud) -> ClaimWorld:
        """Return the world of this mode."""
        return ClaimWorld(cloud, self.tally, type(self).find_mode)


class ReuseSchedule(ClaimSchedule):
    """One schedule of mode reuse-nodeclaim."""

    def open_world(self, cloud: Cloud) -> ClaimWorld:
        """Return the world of this mode."""
        return ReuseWorld(cloud, self.tally, type(self).find_mode)

    @rule(nodes=st.sampled_from([None, "1", "3"]))
    def limit_changes(self, nodes: str | None) -> None:
        """The NodePool may have fewer nodes, or as many as it likes."""
        self.world.count("limit changes")
        self.world.kube.patch(NODE_POOLS, "gpu", {"spec": {"limits": {"nodes": nodes}}})


def find_managed(name: str, *, where: str, field: str) -> type[ScalingMode]:  # noqa: ARG001 - as FindMode has it
    """Return the mode of every pool here."""
    return ManagedNodeClaimMode


def find_reuse(name: str, *, where: str, field: str) -> type[ScalingMode]:  # noqa: ARG001 - as FindMode has it
    """Return the mode of every pool here."""
    return ReuseNodeClaimMode


def _foreign_claim() -> Json:
    """Return a claim that Karpenter's user made, with the label of our pool. Nothing of ours fits on its node."""
    chosen = {
        "node.kubernetes.io/instance-type": TYPES[0].name,
        "topology.kubernetes.io/zone": ZONES[0],
        "karpenter.sh/capacity-type": "on-demand",
    }
    requirements = [{"key": key, "operator": "In", "values": [value]} for key, value in chosen.items()]
    taint = {"key": "example.com/foreign", "effect": "NoSchedule"}
    spec = {"nodeClassRef": CLASS, "requirements": requirements, "taints": [taint], "expireAfter": "Never"}
    return {"metadata": {"name": FOREIGN, "labels": {"tfscale.io/pool": POOL, "who": FOREIGN}}, "spec": spec}
