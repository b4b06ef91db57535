"""Replicas of a NodePool on the real Karpenter: exactly what they carry, whose limits they keep, and what ends them."""

from __future__ import annotations

import time
from typing import Any

from tests.cluster.conftest import eventually
from tests.cluster.karpenter import CARDS, KWOK_CLASS, all_run, condition, create_pods, pool_of
from tests.cluster.running import names
from tests.cluster.test_karpenter import kept, loop, notes, nothing_is_left, reconciler_of
from tfscale import modes
from tfscale.catalogue import snapshot
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODE_POOLS, NODE_REQUESTS, NODES, PODS
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler


def test_a_replica_carries_exactly_what_was_specified(karpenter: KubeClient) -> None:
    """Labels and annotations of claim and node, Karpenter's own facts beside them, and the NodePool as owner."""
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    create_pods(karpenter, 1)
    reconciler.tick(int(time.time()))
    (born,) = karpenter.list(NODE_CLAIMS).items
    loop(reconciler, lambda: all_run(karpenter), "the pod runs")
    loop(reconciler, lambda: not kept(karpenter), "the replica is released")
    (claim,), (node,), (record,) = (
        karpenter.list(NODE_CLAIMS).items, karpenter.list(NODES).items, reconciler.kube.list(NODE_REQUESTS).items
    )  # fmt: skip
    pool = karpenter.get(NODE_POOLS, "gpu")
    facts = {
        "node.kubernetes.io/instance-type": "g6.xlarge",
        "karpenter.sh/capacity-type": "on-demand",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
    }
    labels = {**CARDS, "karpenter.sh/nodepool": "gpu", "tfscale.io/pool": "pool", f"{KWOK_CLASS.group}/kwoknodeclass": "default"}
    hashes = {key: notes(pool)[key] for key in ("karpenter.sh/nodepool-hash", "karpenter.sh/nodepool-hash-version")}
    ours = {"tfscale.io/mode": "reuse-nodeclaim", "tfscale.io/batch": record["spec"]["batch"], "tfscale.io/epoch": "0"}
    protection = {"karpenter.sh/do-not-disrupt": "true", "tfscale.io/protected": "true"}

    assert record["metadata"]["name"] == claim["metadata"]["name"]
    assert labels | facts == without_the_place(claim["metadata"]["labels"])
    assert labels | facts == without_the_place(node["metadata"]["labels"])
    assert hashes | ours | protection == without_kwok(notes(born))
    assert hashes | ours == without_kwok(notes(claim))
    assert hashes | ours == without_kwok(notes(node))
    (owner,) = claim["metadata"]["ownerReferences"]
    assert ("NodePool", "gpu", pool["metadata"]["uid"], True, None) == (
        owner["kind"], owner["name"], owner["uid"], owner["blockOwnerDeletion"], owner.get("controller")
    )  # fmt: skip
    assert [] == claim["spec"].get("taints", [])
    assert {"nvidia.com/gpu": "1"} == claim["spec"]["resources"]["requests"]


def without_kwok(annotations: dict[str, Any]) -> dict[str, Any]:
    """Return annotations without those of Karpenter's provider and of the kubelet that is played."""
    return {key: value for key, value in annotations.items() if "kwok" not in key and not key.startswith("node.alpha.")}


def without_the_place(labels: dict[str, str]) -> dict[str, str]:
    """Return labels without those that say where a machine is, of kwok, of Karpenter's progress, and of its size there."""
    passing = (
        "topology.",
        "kwok.x-k8s.io/",
        "karpenter.kwok.sh/instance-",
        "kubernetes.io/hostname",
        "kwok-partition",
        "eks-node-viewer/",
    )
    progress = ("karpenter.sh/registered", "karpenter.sh/initialized")
    return {key: value for key, value in labels.items() if not key.startswith(passing) and key not in progress}


def test_a_nodepools_limit_is_kept(karpenter: KubeClient) -> None:
    """Two nodes are wanted and one is allowed; with a higher limit the other one comes."""
    karpenter.patch(NODE_POOLS, "gpu", {"spec": {"limits": {"nodes": "1"}}})
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"offers": {"instanceTypes": ["g6.xlarge"]}, "setAsideFor": "5s"}})
    create_pods(karpenter, 2, whole=True)
    loop(reconciler, lambda: running(karpenter) == 1, "one pod runs")
    pods = {"bound": 1, "waiting": 0, "unmet": 1}
    loop(reconciler, lambda: reconciler.kube.get(GPU_POOLS, "pool")["status"]["pods"] == pods, "the other one is unmet")
    assert 1 == len(names(karpenter))
    karpenter.patch(NODE_POOLS, "gpu", {"spec": {"limits": {"nodes": "2"}}})
    loop(reconciler, lambda: all_run(karpenter), "both pods run")


def running(kube: KubeClient) -> int:
    """Return how many pods run."""
    return sum(pod["status"].get("phase") == "Running" for pod in kube.list(PODS).items)


def test_a_nodepool_that_cannot_be_used_is_refused_until_it_can(karpenter: KubeClient) -> None:
    """Its node class is gone, so that it is not Ready: no claim is written, and the pool says why."""
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    node_class = karpenter.get(KWOK_CLASS, "default")
    karpenter.delete(KWOK_CLASS, "default")
    eventually(lambda: not condition(karpenter.get(NODE_POOLS, "gpu"), "Ready"), "the NodePool is not Ready")
    create_pods(karpenter, 1)
    report = reconciler.tick(int(time.time()))

    assert "a NodePool that nodes can be taken from (gpu: " in str(report.problems)
    assert set() == names(karpenter)
    metadata = {"name": "default"}
    karpenter.create(KWOK_CLASS, {**{key: node_class[key] for key in ("apiVersion", "kind", "spec")}, "metadata": metadata})
    eventually(lambda: condition(karpenter.get(NODE_POOLS, "gpu"), "Ready"), "the NodePool is Ready again")
    again = reconciler_of_what_is_there(reconciler)
    loop(again, lambda: all_run(karpenter), "the pod runs")


def reconciler_of_what_is_there(before: Reconciler) -> Reconciler:
    """Return the loop of another process."""
    gpus = GpuTable()
    return Reconciler(
        kube=before.kube,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=before.kube, cluster="test", catalogue=snapshot()),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )


def test_two_pools_of_two_modes_share_a_cluster(karpenter: KubeClient) -> None:
    """Each buys by its own mode, neither touches the other's, and each gives back its own."""
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    other: dict[str, Any] = pool_of("managed-nodeclaim")
    other["metadata"]["name"] = "other"
    reconciler.kube.create(GPU_POOLS, other)
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"default": True}})
    create_pods(karpenter, 1)
    create_pods(karpenter, 1, first=1, pool="other")
    loop(reconciler, lambda: all_run(karpenter), "both pods run")
    owners = {claim["metadata"]["labels"]["tfscale.io/pool"]: notes(claim)["tfscale.io/mode"] for claim in claims(karpenter)}
    places = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in karpenter.list(PODS).items}
    pools = {node["metadata"]["name"]: node["metadata"]["labels"]["tfscale.io/pool"] for node in karpenter.list(NODES).items}

    assert {"pool": "reuse-nodeclaim", "other": "managed-nodeclaim"} == owners
    assert {"pod-0": "pool", "pod-1": "other"} == {name: pools[node] for name, node in places.items()}
    karpenter.delete(PODS, "pod-1", namespace="default", grace_period_s=0)
    loop(reconciler, lambda: len(names(karpenter)) == 1, "the managed node is given back")
    assert ["pool"] == [claim["metadata"]["labels"]["tfscale.io/pool"] for claim in claims(karpenter)]
    assert all_run(karpenter)


def claims(kube: KubeClient) -> list[dict[str, Any]]:
    """Return the claims."""
    return list(kube.list(NODE_CLAIMS).items)


def test_a_pool_that_is_deleted_leaves_nothing(cluster: KubeClient) -> None:
    """Its pods are asked to leave, its node goes, and then the pool itself; the NodePool stays."""
    pool = pool_of("reuse-nodeclaim")
    cluster.create(GPU_POOLS, pool)
    gpus = GpuTable()
    reconciler = Reconciler(
        kube=cluster,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=cluster, cluster="test", catalogue=snapshot()),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )
    create_pods(cluster, 1)
    loop(reconciler, lambda: all_run(cluster), "the pod runs")
    cluster.delete(GPU_POOLS, "pool")
    loop(reconciler, lambda: nothing_is_left(reconciler) and not cluster.list(GPU_POOLS).items, "nothing is left")

    assert ["gpu"] == [one["metadata"]["name"] for one in cluster.list(NODE_POOLS).items]
