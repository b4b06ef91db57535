"""A node of the real Karpenter is adopted with the command, a slice runs on it, and it is handed back as it was."""

from __future__ import annotations

import time

from tests.cluster.conftest import eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.karpenter import CARDS, CLASS_REF, all_run, condition, create_pods, pool_of
from tfscale import modes
from tfscale.catalogue import snapshot
from tfscale.cli import Exit, main
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODES, PODS, Json
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler


def test_a_node_is_adopted_used_and_handed_back(control_plane: ControlPlane, cluster: KubeClient) -> None:
    """Nothing is bought while it has room; its pod is asked to leave before it goes back, and its claim is never touched."""
    cluster.create(GPU_POOLS, pool_of("managed-nodeclaim"))
    cluster.create(NODE_CLAIMS, a_claim())
    eventually(lambda: condition(cluster.get(NODE_CLAIMS, "theirs"), "Ready"), "somebody's node is there")
    (node,) = cluster.list(NODES).items
    name, before = node["metadata"]["name"], steady(node)
    flags = ["--kubeconfig", str(control_plane.kubeconfig)]

    assert Exit.DONE == main(["adopt", "--pool", "pool", *flags, name])
    create_pods(cluster, 1)
    reconciler = reconciler_of(cluster)

    def runs() -> bool:
        reconciler.tick(int(time.time()))
        return all_run(cluster)

    eventually(runs, "the pod runs")
    assert [name] == [pod["spec"]["nodeName"] for pod in cluster.list(PODS).items]
    assert ["theirs"] == [claim["metadata"]["name"] for claim in cluster.list(NODE_CLAIMS).items]
    assert Exit.DONE == main(["hand-back", "--wait", "60", *flags, name])
    reconciler.tick(int(time.time()))
    assert ([], before) == (cluster.list(PODS).items, steady(cluster.get(NODES, name)))
    assert "deletionTimestamp" not in cluster.get(NODE_CLAIMS, "theirs")["metadata"]


def a_claim() -> Json:
    """Return a claim that somebody made by hand, whose node is not to be disrupted."""
    chosen = {
        "node.kubernetes.io/instance-type": "g6.xlarge",
        "karpenter.sh/capacity-type": "on-demand",
        "topology.kubernetes.io/zone": "us-east-1a",
    }
    requirements = [{"key": key, "operator": "In", "values": [value]} for key, value in chosen.items()]
    spec = {"nodeClassRef": CLASS_REF, "requirements": requirements, "expireAfter": "Never"}
    metadata = {"name": "theirs", "labels": CARDS}
    return {"apiVersion": NODE_CLAIMS.api_version, "kind": NODE_CLAIMS.kind, "metadata": metadata, "spec": spec}


def steady(node: Json) -> Json:
    """Return what of a node nobody changes by the way: kwok and Karpenter write conditions and versions."""
    kept = {
        key: value for key, value in node["metadata"].items() if key in {"labels", "annotations", "ownerReferences", "finalizers"}
    }
    amounts = {key: node["status"][key] for key in ("capacity", "allocatable")}
    return {"metadata": kept, "spec": node["spec"], **amounts}


def reconciler_of(kube: KubeClient) -> Reconciler:
    """Return the loop."""
    gpus = GpuTable()
    return Reconciler(
        kube=kube,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="test", catalogue=snapshot()),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )
