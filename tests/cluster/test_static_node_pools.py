"""A static NodePool on the real Karpenter: scaled for us and back, without a node of anybody else being lost for long."""

from __future__ import annotations

from typing import Any

from tests.cluster.conftest import eventually
from tests.cluster.karpenter import CARDS, CLASS_REF, ON_DEMAND, ZONES, all_run, condition, create_pods
from tests.cluster.running import names
from tests.cluster.test_karpenter import loop, notes, reconciler_of, successor_of
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODE_POOLS, NODE_REQUESTS, PODS
from tfscale.modes.nodeclaim_static import SCALED


def one_of(key: str, *values: str) -> dict[str, Any]:
    """Return one requirement."""
    return {"key": key, "operator": "In", "values": [*values]}


def test_a_static_node_pool_is_scaled_and_scaled_back(karpenter: KubeClient) -> None:
    """One node is somebody else's; two pods need two more, and both are given back one after the other."""
    inner = {
        "nodeClassRef": CLASS_REF,
        "requirements": [
            ON_DEMAND,
            one_of("node.kubernetes.io/instance-type", "g6.xlarge"),
            one_of("topology.kubernetes.io/zone", ZONES[0]),
        ],
    }
    template = {"metadata": {"labels": {**CARDS, "tfscale.io/pool": "pool"}}, "spec": inner}
    pool = {"metadata": {"name": "fixed"}, "spec": {"replicas": 1, "limits": {"nodes": "3"}, "template": template}}
    karpenter.create(NODE_POOLS, {"apiVersion": NODE_POOLS.api_version, "kind": NODE_POOLS.kind, **pool})
    eventually(lambda: len(initialized(karpenter)) == 1, "the node of others is there")
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    offers = {"instanceTypes": ["g6.xlarge"], "zones": [ZONES[0]]}
    options = {"nodePools": ["fixed"]}
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"offers": offers, "options": options, "setAsideFor": "5s"}})
    create_pods(karpenter, 4, whole=True)
    loop(reconciler, lambda: running(karpenter) == 3, "three pods run")

    assert 3 == replicas(karpenter)
    assert 2 == len(reconciler.kube.list(NODE_REQUESTS).items)
    ours = {one["metadata"]["name"] for one in karpenter.list(NODE_CLAIMS).items if "tfscale.io/batch" in notes(one)}
    assert ours == {one["status"]["machineId"] for one in reconciler.kube.list(NODE_REQUESTS).items}
    assert ours < names(karpenter)
    pods = {"bound": 3, "waiting": 0, "unmet": 1}
    loop(reconciler, lambda: reconciler.kube.get(GPU_POOLS, "pool")["status"]["pods"] == pods, "the limit leaves one unmet")

    for pod in karpenter.list(PODS).items:
        karpenter.delete(PODS, pod["metadata"]["name"], namespace="default", grace_period_s=0)
    again = successor_of(reconciler)
    loop(again, lambda: not again.kube.list(NODE_REQUESTS).items, "both are given back")
    eventually(lambda: len(initialized(karpenter)) == 1 == len(names(karpenter)), "the node of others is left")

    assert 1 == replicas(karpenter)
    assert SCALED not in notes(karpenter.get(NODE_POOLS, "fixed"))
    create_pods(karpenter, 1, first=9)
    loop(again, lambda: all_run(karpenter), "a pod runs on the node of others")
    assert 1 == replicas(karpenter)


def initialized(kube: KubeClient) -> list[str]:
    """Return the names of the claims whose nodes can be used."""
    return [one["metadata"]["name"] for one in kube.list(NODE_CLAIMS).items if condition(one, "Initialized")]


def running(kube: KubeClient) -> int:
    """Return how many pods run."""
    return sum(pod["status"].get("phase") == "Running" for pod in kube.list(PODS).items)


def replicas(kube: KubeClient) -> int:
    """Return how many nodes the static NodePool is to have."""
    return int(kube.get(NODE_POOLS, "fixed")["spec"]["replicas"])
