"""Modes, NodePools and claims for tests of the NodeClaim modes, and an API server that can fail."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfscale.catalogue import InstanceType
from tfscale.errors import ClusterError, TfscaleError
from tfscale.gpus import GpuTable
from tfscale.kube.port import NODE_CLAIMS, NODE_CLASSES, NODE_POOLS, NODES, Json, Kind, Listing
from tfscale.model import LaunchBatch, NodeRequest, Offer
from tfscale.modes.base import LaunchResult, ModeContext, ScalingMode
from tfscale.modes.managed_nodeclaim import ManagedNodeClaimMode
from tfscale.modes.reuse_nodeclaim import ReuseNodeClaimMode
from tfscale.pool import OfferFilter, Pool
from tfscale.quantity import time_text
from tfscale.testing import FakeKube

A, B, C = "us-east-1a", "us-east-1b", "us-east-1c"
NOW_S = 1_800_000_000
EC2_CLASS = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
INSTANCE_TYPE, ZONE = "node.kubernetes.io/instance-type", "topology.kubernetes.io/zone"
CAPACITY_TYPE, DO_NOT_DISRUPT = "karpenter.sh/capacity-type", "karpenter.sh/do-not-disrupt"


def _type(name: str, price_micro_usd: int, cpu: int, memory_gib: int, **card: Any) -> InstanceType:  # noqa: ANN401 - fields
    return InstanceType(name=name, cpu_milli=cpu * 1_000, memory_mib=memory_gib * 1_024, price_micro_usd=price_micro_usd, **card)


CATALOGUE = {
    one.name: one
    for one in (
        _type("g4dn.xlarge", 526_000, 4, 16, gpu_model="T4", gpu_count=1, spot_price_micro_usd=200_000),
        _type("g6.xlarge", 804_800, 4, 16, gpu_model="L4", gpu_count=1, vram_mib=22_888),
        _type("g6.12xlarge", 4_601_600, 48, 192, gpu_model="L4", gpu_count=4, vram_mib=22_888),
        _type("g5g.xlarge", 420_000, 4, 8, gpu_model="T4G", gpu_count=1, arch="arm64"),
        _type("m5.large", 96_000, 2, 8),
    )
}


class FailingKube(FakeKube):
    """An API server whose next creates fail with `errors`, one each; None lets one pass. A lost reply comes after the act."""

    def __init__(self) -> None:
        self.now_s = NOW_S
        super().__init__(now=lambda: self.now_s, seed=1)
        self.errors: list[TfscaleError | None] = []
        self.lost_replies = False
        self.list_errors: dict[str, ClusterError] = {}

    def create(self, kind: Kind, obj: Json, *, namespace: str | None = None) -> Json:
        """Create, unless the next error says otherwise."""
        error = self.errors.pop(0) if self.errors else None
        if error is not None and not self.lost_replies:
            raise error
        created = super().create(kind, obj, namespace=namespace)
        if error is not None:
            raise error
        return created

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """List, unless the kind is to fail."""
        if error := self.list_errors.get(kind.plural):
            raise error
        return super().list(kind, namespace=namespace, label_selector=label_selector, field_selector=field_selector)


def cluster(*pools: Json) -> FailingKube:
    """Return a cluster with a node class and these NodePools."""
    kube = FailingKube()
    kube.create(NODE_CLASSES[0], {"metadata": {"name": "gpu"}})
    for pool in pools:
        kube.create(NODE_POOLS, pool)
        if status := pool.get("status"):
            kube.patch_status(NODE_POOLS, pool["metadata"]["name"], {"status": status})
    return kube


def managed(kube: FakeKube, *, pool: str = "gpus", wanted: OfferFilter | None = None, **options: object) -> ManagedNodeClaimMode:
    """Return the mode of one pool with two zones."""
    found = Pool(
        name=pool,
        mode="managed-nodeclaim",
        wanted=OfferFilter(zones=(A, B)) if wanted is None else wanted,
        options={"nodeClassRef": EC2_CLASS, **options},
    )
    return ManagedNodeClaimMode.open(ModeContext(pool=found, gpus=GpuTable(), kube=kube, cluster="test", catalogue=CATALOGUE))


def reuse(kube: FakeKube, *, pool: str = "gpus", wanted: OfferFilter | None = None, **options: object) -> ReuseNodeClaimMode:
    """Return the mode of one pool with two zones."""
    found = Pool(
        name=pool, mode="reuse-nodeclaim", wanted=OfferFilter(zones=(A, B)) if wanted is None else wanted, options=options
    )
    return ReuseNodeClaimMode.open(ModeContext(pool=found, gpus=GpuTable(), kube=kube, cluster="test", catalogue=CATALOGUE))


def node_pool(
    name: str = "gpu",
    *,
    requirements: Sequence[Json] = (),
    template: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    **spec: object,
) -> Json:
    """Return a NodePool; `template` is the metadata of its nodes, `metadata` its own."""
    inner = {"nodeClassRef": EC2_CLASS, "requirements": [*requirements], "expireAfter": "720h"}
    return {
        "metadata": {"name": name, **(metadata or {})},
        "spec": {"template": {"metadata": dict(template or {}), "spec": inner}, **spec},
        "status": dict(status or {}),
    }


def condition(name: str, status: str = "True", since_s: int = NOW_S) -> Json:
    """Return one condition as Karpenter writes it."""
    return {"type": name, "status": status, "lastTransitionTime": time_text(since_s)}


def launched(
    kube: FakeKube, name: str, offer_id: str = f"g6.xlarge/{A}/on-demand", *, node: bool = True, ready_since_s: int = NOW_S
) -> None:
    """Do what Karpenter does with a claim that exists: labels, status and, with `node`, its registered Node."""
    kind, zone, capacity_type = offer_id.split("/")
    facts = {INSTANCE_TYPE: kind, ZONE: zone, CAPACITY_TYPE: capacity_type}
    claim = kube.patch(NODE_CLAIMS, name, {"metadata": {"labels": facts}})
    status: Json = {
        "providerID": f"aws:///{zone}/i-{name}",
        "capacity": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"},
        "conditions": [condition("Launched")],
    }
    if node:
        meta = {"name": f"node-{name}", **{key: claim["metadata"].get(key, {}) for key in ("labels", "annotations")}}
        kube.create(NODES, {"metadata": meta, "spec": {"providerID": status["providerID"]}})
        status["nodeName"] = meta["name"]
        status["conditions"] += [condition(kind, since_s=ready_since_s) for kind in ("Registered", "Initialized", "Ready")]
    kube.patch_status(NODE_CLAIMS, name, {"status": status})


def foreign_claim(kube: FakeKube, name: str, pool: str, *, labels: Mapping[str, str] | None = None) -> None:
    """Create a claim that Karpenter made for a NodePool."""
    kube.create(
        NODE_CLAIMS, {"metadata": {"name": name, "labels": {"karpenter.sh/nodepool": pool, **(labels or {})}}, "spec": {}}
    )


def batch_of(mode: ScalingMode, offers: Sequence[Offer], count: int = 1, *, name: str = "batch") -> LaunchBatch:
    """Return a prepared batch, as it comes back from Kubernetes."""
    requests = [NodeRequest(name=f"{name}-{number}", pool="gpus", mode=mode.name) for number in range(count)]
    order = mode.prepare(name, requests, offers, now_s=NOW_S)
    return LaunchBatch(
        name=name,
        pool="gpus",
        mode=mode.name,
        requests=tuple(request.name for request in requests),
        parameters=json.loads(json.dumps(order.parameters)),
        offers=order.offers,
    )


def made(kube: FakeKube) -> dict[str, Json]:
    """Return all claims by name."""
    return {claim["metadata"]["name"]: claim for claim in kube.list(NODE_CLAIMS).items}


def machine_ids(results: Sequence[LaunchResult]) -> list[str | None]:
    """Return the machine of every request, in the order of the requests."""
    return [result.machine.id if result.machine else None for result in results]


def values(claim: Json, key: str) -> list[str]:
    """Return the values of a claim's only requirement on a key."""
    (found,) = [item["values"] for item in claim["spec"]["requirements"] if item["key"] == key]
    return list(found)
