"""Both modes on NodeClaims with the real Karpenter: it launches, registers, initializes, keeps and reclaims."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.conftest import KARPENTER_S, eventually
from tests.cluster.karpenter import POOLS, all_run, condition, create_pods, pool_of
from tfscale import modes
from tfscale.catalogue import snapshot
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.kube.configmaps import InConfigMaps
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODE_POOLS, NODE_REQUESTS, NODES, PODS, Json, Kube
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler


def reconciler_of(kube: Kube, mode: str) -> Reconciler:
    """Return the loop for one pool, with its records in ConfigMaps."""
    records = InConfigMaps(kube, namespace="default")
    records.create(GPU_POOLS, pool_of(mode))
    return reconciler_on(records)


def successor_of(reconciler: Reconciler) -> Reconciler:
    """Return the loop of another process on the same cluster."""
    return reconciler_on(reconciler.kube)


def reconciler_on(records: Kube) -> Reconciler:
    """Return the loop on a cluster that knows our kinds."""
    gpus = GpuTable()
    return Reconciler(
        kube=records,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=records, cluster="test", catalogue=snapshot()),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )


def loop(reconciler: Reconciler, until: Callable[[], object], what: str, *, within_s: float = KARPENTER_S) -> None:
    """Tick every second until something holds."""

    def holds() -> bool:
        report = reconciler.tick(int(time.time()))
        assert () == report.problems
        time.sleep(1)
        return bool(until())

    eventually(holds, what, within_s=within_s)


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
    loop(reconciler, lambda: nothing_is_left(reconciler), "claims, nodes and records are gone")


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
    loop(reconciler, lambda: nothing_is_left(reconciler), "it is reclaimed")

    assert 15 < kept_s < 40
