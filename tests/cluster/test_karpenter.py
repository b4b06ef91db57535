"""Both modes on NodeClaims with the real Karpenter: it launches, registers, initializes, keeps and reclaims."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.conftest import define, eventually
from tests.cluster.control_plane import TOOLS, ControlPlane
from tfscale import modes
from tfscale.catalogue import snapshot
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.kube.configmaps import InConfigMaps
from tfscale.kube.convert import pool_object
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODE_CLASSES, NODE_POOLS, NODE_REQUESTS, NODES, PODS, Json, Kube
from tfscale.model import OfferFilter, Pool
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler

ZONES = ("us-east-1a", "us-east-1b")
TYPES = ("g6.xlarge", "g6.12xlarge")
KWOK_CLASS = next(kind for kind in NODE_CLASSES if kind.kind == "KWOKNodeClass")
CLASS_REF = {"group": KWOK_CLASS.group, "kind": KWOK_CLASS.kind, "name": "default"}
CARDS = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "22888"}
"""What feature discovery would write."""
POOLS: dict[str, Json] = {
    "managed-nodeclaim": {"nodeClassRef": CLASS_REF, "labels": CARDS},
    "reuse-nodeclaim": {"nodePools": ["gpu"]},
}


def instance_type(name: str) -> Json:
    """Return a type of the catalogue as Karpenter's kwok provider reads it."""
    facts = snapshot()[name]
    capacity_type = {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]}
    offerings = [
        {
            "Price": (facts.price_micro_usd or 0) / 10**6,
            "Available": True,
            "Requirements": [capacity_type, {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}],
        }
        for zone in ZONES
    ]
    resources = {"cpu": f"{facts.cpu_milli}m", "memory": f"{facts.memory_mib}Mi", "ephemeral-storage": "100Gi", "pods": "58"}
    return {
        "name": name,
        "architecture": facts.arch,
        "operatingSystems": ["linux"],
        "resources": {**resources, "nvidia.com/gpu": str(facts.gpu_count)},
        "offerings": offerings,
    }


@pytest.fixture
def karpenter(control_plane: ControlPlane, kube: KubeClient) -> KubeClient:
    """Give a cluster with Karpenter, kwok, a node class and a NodePool."""
    define(kube, *sorted((TOOLS / "crds").glob("*.yaml")))
    control_plane.start_karpenter([instance_type(name) for name in TYPES])
    control_plane.start_kwok()
    api_version = f"{KWOK_CLASS.group}/{KWOK_CLASS.version}"
    kube.create(KWOK_CLASS, {"apiVersion": api_version, "kind": KWOK_CLASS.kind, "metadata": {"name": "default"}, "spec": {}})
    requirement = {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]}
    template = {"metadata": {"labels": CARDS}, "spec": {"nodeClassRef": CLASS_REF, "requirements": [requirement]}}
    disruption = {"consolidationPolicy": "WhenEmptyOrUnderutilized", "consolidateAfter": "5s"}
    pool = {"metadata": {"name": "gpu"}, "spec": {"template": template, "disruption": disruption}}
    kube.create(NODE_POOLS, {"apiVersion": NODE_POOLS.api_version, "kind": NODE_POOLS.kind, **pool})
    eventually(lambda: condition(kube.get(NODE_POOLS, "gpu"), "Ready"), "the NodePool is Ready")
    return kube


def condition(obj: Json, name: str) -> bool:
    """Return whether an object has a condition."""
    found = obj.get("status", {}).get("conditions", [])
    return any(one["type"] == name and one["status"] == "True" for one in found)


def reconciler_of(kube: Kube, mode: str) -> Reconciler:
    """Return the loop for one pool, with its records in ConfigMaps."""
    records, gpus = InConfigMaps(kube, namespace="default"), GpuTable()
    wanted = OfferFilter(instance_types=TYPES, zones=ZONES)
    records.create(GPU_POOLS, pool_object(Pool(name="pool", mode=mode, options=POOLS[mode], wanted=wanted, idle_after_s=5)))
    return Reconciler(
        kube=records,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=records, cluster="test", catalogue=snapshot()),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )


def create_pods(kube: Kube, count: int) -> None:
    """Create pods of which two share a card."""
    annotations = {"tfscale.io/vram-request": "8Gi", "tfscale.io/compute-percent-request": "40"}
    container = {"name": "main", "image": "example/main", "resources": {"requests": {"cpu": "300m", "memory": "1Gi"}}}
    spec = {"schedulerName": "tfscale", "terminationGracePeriodSeconds": 0, "containers": [container]}
    for index in range(count):
        kube.create(PODS, {"metadata": {"name": f"pod-{index}", "annotations": annotations}, "spec": spec}, namespace="default")


def loop(reconciler: Reconciler, until: Callable[[], object], what: str, *, within_s: float = 90) -> None:
    """Tick every second until something holds."""

    def holds() -> bool:
        report = reconciler.tick(int(time.time()))
        assert () == report.problems
        time.sleep(1)
        return bool(until())

    eventually(holds, what, within_s=within_s)


def all_run(kube: Kube) -> bool:
    """Return whether every pod runs."""
    return {"Running"} == {pod["status"].get("phase") for pod in kube.list(PODS).items}


def nothing_is_left(reconciler: Reconciler) -> bool:
    """Return whether claims, nodes and records are gone."""
    return not any(reconciler.kube.list(kind).items for kind in (NODE_CLAIMS, NODES, NODE_REQUESTS))


def notes(obj: Json) -> dict[str, Any]:
    """Return an object's annotations."""
    return dict(obj["metadata"].get("annotations", {}))


@pytest.mark.parametrize("mode", POOLS)
def test_pods_run_on_nodes_that_karpenter_launched_and_everything_goes_again(karpenter: KubeClient, mode: str) -> None:
    """Three halves on two cards; the claims become Launched, Registered and Initialized; without pods nothing is left."""
    reconciler = reconciler_of(karpenter, mode)
    create_pods(karpenter, 3)
    loop(reconciler, lambda: all_run(karpenter), "all pods run")
    claims = karpenter.list(NODE_CLAIMS).items

    assert 2 == len(claims) == len(karpenter.list(NODES).items)
    for claim in claims:
        assert all(condition(claim, name) for name in ("Launched", "Registered", "Initialized", "Ready"))
        assert {"g6.xlarge"} == {claim["metadata"]["labels"]["node.kubernetes.io/instance-type"]}
        assert "pool" == claim["metadata"]["labels"]["tfscale.io/pool"]
    for pod in karpenter.list(PODS).items:
        karpenter.delete(PODS, pod["metadata"]["name"], namespace="default", grace_period_s=0)
    loop(reconciler, lambda: nothing_is_left(reconciler), "claims, nodes and records are gone", within_s=180)


def test_a_managed_claim_is_no_nodepools_and_never_expires(karpenter: KubeClient) -> None:
    """Its node carries our taint, and nobody but us may disrupt it."""
    reconciler = reconciler_of(karpenter, "managed-nodeclaim")
    create_pods(karpenter, 1)
    loop(reconciler, lambda: all_run(karpenter), "the pod runs")
    (claim,), (node,) = karpenter.list(NODE_CLAIMS).items, karpenter.list(NODES).items

    assert ("Never", False) == (claim["spec"]["expireAfter"], "karpenter.sh/nodepool" in claim["metadata"]["labels"])
    assert [("tfscale.io/pool", "pool", "NoSchedule")] == [(t["key"], t["value"], t["effect"]) for t in node["spec"]["taints"]]
    assert "true" == notes(node)["karpenter.sh/do-not-disrupt"]


def test_a_replica_belongs_to_its_nodepool_and_is_released_with_its_first_pod(karpenter: KubeClient) -> None:
    """It is counted, it has not drifted, and neither claim nor node is protected any longer."""
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    create_pods(karpenter, 1)
    loop(reconciler, lambda: all_run(karpenter), "the pod runs")
    loop(reconciler, lambda: not kept(karpenter), "claim and node are released")
    eventually(lambda: counted(karpenter) == 1, "the NodePool counts the replica")
    (claim,) = karpenter.list(NODE_CLAIMS).items
    hashes = {key: value for key, value in notes(karpenter.get(NODE_POOLS, "gpu")).items() if "nodepool-hash" in key}

    assert hashes.items() <= notes(claim).items()
    assert ["NodePool"] == [owner["kind"] for owner in claim["metadata"]["ownerReferences"]]
    assert not condition(claim, "Drifted")


def kept(kube: Kube) -> list[str]:
    """Return the names of the claims and nodes that say that they must not be disrupted."""
    objects = [*kube.list(NODE_CLAIMS).items, *kube.list(NODES).items]
    return [obj["metadata"]["name"] for obj in objects if "karpenter.sh/do-not-disrupt" in notes(obj)]


def counted(kube: Kube) -> int:
    """Return how many nodes the NodePool counts."""
    return int(kube.get(NODE_POOLS, "gpu").get("status", {}).get("nodes", 0))


def test_an_empty_replica_is_kept_until_its_time_is_over_and_then_reclaimed(karpenter: KubeClient) -> None:
    """Its pod went away before it came: Karpenter takes it back once tfscale lets it."""
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"options": {"protectFor": "20s"}}})
    create_pods(karpenter, 1)
    reconciler.tick(int(time.time()))
    karpenter.delete(PODS, "pod-0", namespace="default", grace_period_s=0)
    eventually(lambda: kept(karpenter) and karpenter.list(NODES).items, "the node joins, protected")
    ready_s = time.monotonic()
    loop(reconciler, lambda: not kept(karpenter), "it is released")
    kept_s = time.monotonic() - ready_s
    loop(reconciler, lambda: nothing_is_left(reconciler), "it is reclaimed", within_s=180)

    assert 15 < kept_s < 40
