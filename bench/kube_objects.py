"""Nodes, NodeClaims and pods as a large GPU cluster has them, written to an API server as fast as it takes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tfscale.errors import NotFoundError
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import CRDS, NODE_CLAIMS, NODES, PODS, Json
from tfscale.manifests import read_manifests

__all__ = ["PODS_PER_WORKLOAD", "claim", "fast_client", "fill", "node", "pod", "serve_claims"]

TIME = "2026-07-01T12:00:00Z"
PODS_PER_WORKLOAD = 50
WRITERS = 8
MESSAGES = {
    "Ready": "kubelet is posting ready status",
    "MemoryPressure": "kubelet has sufficient memory available",
    "DiskPressure": "kubelet has no disk pressure",
    "PIDPressure": "kubelet has sufficient PID available",
}


def fast_client(kubeconfig: str) -> KubeClient:
    """Return a client that does not hold itself back."""
    return KubeClient.connect(kubeconfig=kubeconfig, timing=Timing(call_s=60, read_s=60, calls_per_s=100_000, burst=100_000))


def node(number: int) -> Json:
    """Return a node that Karpenter launched, with its labels, conditions, addresses and images."""
    name = f"ip-10-{number >> 16}-{number >> 8 & 255}-{number & 255}.ec2.internal"
    zone = f"us-east-1{'abc'[number % 3]}"
    amounts = {"cpu": "4", "ephemeral-storage": "104845292Ki", "memory": "16Gi", "pods": "58", "nvidia.com/gpu": "1"}
    labels = {
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "karpenter.k8s.aws/ec2nodeclass": "gpu",
        "karpenter.k8s.aws/instance-category": "g",
        "karpenter.k8s.aws/instance-cpu": "4",
        "karpenter.k8s.aws/instance-family": "g6",
        "karpenter.k8s.aws/instance-generation": "6",
        "karpenter.k8s.aws/instance-gpu-count": "1",
        "karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia",
        "karpenter.k8s.aws/instance-gpu-memory": "22888",
        "karpenter.k8s.aws/instance-gpu-name": "l4",
        "karpenter.k8s.aws/instance-memory": "16384",
        "karpenter.k8s.aws/instance-size": "xlarge",
        "karpenter.sh/capacity-type": "on-demand",
        "karpenter.sh/initialized": "true",
        "karpenter.sh/registered": "true",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "g6.xlarge",
        "nvidia.com/gpu.memory": "23034",
        "nvidia.com/gpu.product": "NVIDIA-L4",
        "nvidia.com/gpu.present": "true",
        "tfscale.io/pool": "inference",
        "topology.kubernetes.io/region": "us-east-1",
        "topology.kubernetes.io/zone": zone,
    }
    conditions = [
        {"type": kind, "status": str(kind == "Ready"), "reason": f"Kubelet{kind}", "message": message, "lastHeartbeatTime": TIME}
        for kind, message in MESSAGES.items()
    ]
    images = [
        {"names": [f"registry.example/team/model-{index}@sha256:{index:064x}"], "sizeBytes": 10**9 + index} for index in range(20)
    ]
    return {
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {"csi.volume.kubernetes.io/nodeid": f'{{"ebs.csi.aws.com":"i-{number:017x}"}}', "node.alpha/ttl": "0"},
        },
        "spec": {
            "providerID": f"aws:///{zone}/i-{number:017x}",
            "taints": [{"key": "tfscale.io/pool", "value": "inference", "effect": "NoSchedule"}],
        },
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": conditions,
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": name}],
            "images": images,
        },
    }


def claim(number: int) -> Json:
    """Return a NodeClaim of a mode, without its status."""
    requirements = [
        {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["g6.xlarge", "g6.2xlarge", "g5.xlarge"]},
        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["us-east-1a", "us-east-1b"]},
        {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]},
    ]
    return {
        "metadata": {
            "name": f"inference-{number:05d}",
            "labels": {"tfscale.io/pool": "inference", "node.kubernetes.io/instance-type": "g6.xlarge"},
            "annotations": {"tfscale.io/mode": "managed-nodeclaim", "tfscale.io/batch": f"batch-{number // 10}"},
        },
        "spec": {
            "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
            "requirements": requirements,
            "resources": {"requests": {"nvidia.com/gpu": "1"}},
            "expireAfter": "Never",
        },
    }


def pod(number: int, nodes: int) -> Json:
    """Return a pod of a Deployment that serves a model on a share of a card, bound to one of the nodes."""
    workload = number // PODS_PER_WORKLOAD
    record = '[{"gpu":"0","vramMib":4096,"computeMilli":200}]'
    container = {
        "name": "main",
        "image": f"registry.example/team/model-{workload}:1.{workload % 7}",
        "args": ["--model", f"/models/model-{workload}", "--max-num-seqs", "64"],
        "env": [{"name": f"SETTING_{index}", "value": f"value {index}"} for index in range(12)],
        "ports": [{"containerPort": 8000, "name": "http"}],
        "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 5},
        "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    }
    return {
        "metadata": {
            "name": f"model-{workload}-{number:08x}-{number % 100_000:05d}",
            "namespace": "default",
            "labels": {"app": f"model-{workload}", "pod-template-hash": f"{workload:08x}", "team": f"team-{workload % 10}"},
            "annotations": {
                "tfscale.io/vram-request": "4Gi",
                "tfscale.io/compute-percent-request": "20",
                "tfscale.io/allocation": record,
                "prometheus.io/scrape": "true",
            },
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"model-{workload}", "uid": f"{workload}"}
            ],
        },
        "spec": {
            "schedulerName": "tfscale",
            "nodeName": node(number % nodes)["metadata"]["name"],
            "containers": [container, {"name": "proxy", "image": "registry.example/proxy:1", "resources": {}}],
            "tolerations": [{"key": "tfscale.io/pool", "operator": "Equal", "value": "inference", "effect": "NoSchedule"}],
            "volumes": [{"name": "models", "emptyDir": {}}],
        },
    }


def claim_status(number: int) -> Json:
    """Return what Karpenter writes on a claim whose node runs."""
    kinds = ("Launched", "Registered", "Initialized", "Ready")
    conditions: list[Json] = [
        {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": TIME} for kind in kinds
    ]
    name = node(number)["metadata"]["name"]
    amounts = {"cpu": "4", "memory": "16Gi", "pods": "58", "nvidia.com/gpu": "1"}
    status = {"providerID": node(number)["spec"]["providerID"], "nodeName": name, "capacity": amounts, "allocatable": amounts}
    return {"status": {**status, "conditions": conditions}}


def serve_claims(kube: KubeClient, definitions: Path) -> None:
    """Install the definition of NodeClaims and wait until they are served."""
    for manifest in read_manifests(definitions.read_text(encoding="utf-8"), name=definitions.name):
        kube.create(CRDS, manifest.value)
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        try:
            kube.list(NODE_CLAIMS)
        except NotFoundError:
            time.sleep(0.2)
        else:
            return


def fill(kubeconfig: str, *, nodes: int, claims: int, pods: int) -> float:
    """Create so many objects and return how many seconds that took."""
    began_s = time.monotonic()
    local = threading.local()

    def mine() -> KubeClient:
        if not hasattr(local, "kube"):
            local.kube = fast_client(kubeconfig)
        kube: KubeClient = local.kube
        return kube

    def make_claim(number: int) -> None:
        made = mine().create(NODE_CLAIMS, claim(number))
        mine().patch_status(NODE_CLAIMS, made["metadata"]["name"], claim_status(number))

    with ThreadPoolExecutor(WRITERS) as several:
        _all(several, lambda number: mine().create(NODES, node(number)), range(nodes))
        _all(several, make_claim, range(claims))
        _all(several, partial(_make_pod, mine, nodes), range(pods))
    return time.monotonic() - began_s


def _make_pod(mine: Callable[[], KubeClient], nodes: int, number: int) -> None:
    mine().create(PODS, pod(number, max(nodes, 1)))


def _all(several: ThreadPoolExecutor, make: Callable[[int], Any], numbers: Iterable[int]) -> None:
    for _ in several.map(make, numbers):
        pass
