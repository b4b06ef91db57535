"""What Karpenter's kwok provider needs to be given: instance types, a node class, and the labels that nobody else writes."""

from __future__ import annotations

from collections.abc import Sequence

from tfscale.catalogue import snapshot
from tfscale.gpus import GpuTable
from tfscale.kube.convert import pool_object
from tfscale.kube.port import NODE_CLASSES, NODES, PODS, Json, Kube
from tfscale.mirror import mirror_of
from tfscale.model import Request
from tfscale.pool import OfferFilter, Pool

KWOK_CLASS = next(kind for kind in NODE_CLASSES if kind.kind == "KWOKNodeClass")
CLASS_REF = {"group": KWOK_CLASS.group, "kind": KWOK_CLASS.kind, "name": "default"}


def _in(key: str, value: str) -> Json:
    return {"key": key, "operator": "In", "values": [value]}


ON_DEMAND = _in("karpenter.sh/capacity-type", "on-demand")
ZONES = ("us-east-1a", "us-east-1b")
TYPES = ("g6.xlarge", "g6.12xlarge")
CAPACITY_TYPES = ("on-demand", "spot")
CARDS = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "22888"}
"""What feature discovery would write."""
POOLS: dict[str, Json] = {
    "managed-nodeclaim": {"nodeClassRef": CLASS_REF, "labels": CARDS},
    "reuse-nodeclaim": {"nodePools": ["gpu"]},
}
"""Options by mode."""
OLD_NAMES = {"T4": "Tesla-T4"}
"""Products from before NVIDIA named them after itself."""


def instance_type(name: str, zones: Sequence[str], capacity_types: Sequence[str] = ("on-demand",)) -> Json:
    """Return a type of the catalogue as the provider reads it, on offer in these zones, at one price."""
    facts = snapshot()[name]
    offerings = [
        {
            "Price": (facts.price_micro_usd or 0) / 10**6,
            "Available": True,
            "Requirements": [_in("karpenter.sh/capacity-type", kind), _in("topology.kubernetes.io/zone", zone)],
        }
        for kind in capacity_types
        for zone in zones
    ]
    resources = {"cpu": f"{facts.cpu_milli}m", "memory": f"{facts.memory_mib}Mi", "ephemeral-storage": "100Gi", "pods": "58"}
    return {
        "name": name,
        "architecture": facts.arch,
        "operatingSystems": ["linux"],
        "resources": {**resources, "nvidia.com/gpu": str(facts.gpu_count)},
        "offerings": offerings,
    }


def node_class() -> Json:
    """Return the node class that `CLASS_REF` names."""
    return {
        "apiVersion": f"{KWOK_CLASS.group}/{KWOK_CLASS.version}",
        "kind": KWOK_CLASS.kind,
        "metadata": {"name": "default"},
        "spec": {},
    }


def condition(obj: Json, name: str) -> bool:
    """Return whether an object has a condition."""
    found = obj.get("status", {}).get("conditions", [])
    return any(one["type"] == name and one["status"] == "True" for one in found)


def label_cards(kube: Kube) -> None:
    """Label new nodes with their cards, as NVIDIA's feature discovery does."""
    for node in kube.list(NODES).items:
        labels = node["metadata"].get("labels", {})
        facts = snapshot().get(labels.get("node.kubernetes.io/instance-type", ""))
        if facts and "nvidia.com/gpu.product" not in labels:
            product = OLD_NAMES.get(facts.gpu_model, f"NVIDIA-{facts.gpu_model}")
            found = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(facts.vram_mib)}
            kube.patch(NODES, node["metadata"]["name"], {"metadata": {"labels": found}})


def pool_of(mode: str, *, idle_after_s: int = 5) -> Json:
    """Return a pool of both types under a mode."""
    wanted = OfferFilter(instance_types=TYPES, zones=ZONES)
    return pool_object(Pool(name="pool", mode=mode, options=POOLS[mode], wanted=wanted, idle_after_s=idle_after_s))


def create_pods(kube: Kube, count: int, *, first: int = 0, whole: bool = False, mirrored: bool = False, pool: str = "") -> None:
    """Create pods of which two share an L4, or each takes a whole one, with or without the mirrored resources."""
    share = {"tfscale.io/vram-request": "8Gi", "tfscale.io/compute-percent-request": "100" if whole else "40"}
    asked = Request(gpu_count=1, vram_mib=8_192, compute_milli=1_000 if whole else 400, gpu_models=("L4",))
    sums = mirror_of(asked, GpuTable())
    mirrors = {"tfscale.io/vram-mib": str(sums.vram_mib), "tfscale.io/compute-mtflops": str(sums.mtflops)}
    requests = {"cpu": "300m", "memory": "1Gi", **(mirrors if mirrored else {})}
    if mirrored:
        share["tfscale.io/gpu-model"] = "L4"
    if pool:
        share["tfscale.io/gpupool"] = pool
    limits = mirrors if mirrored else {}
    container = {"name": "main", "image": "example/main", "resources": {"requests": requests, "limits": limits}}
    spec = {"schedulerName": "tfscale", "terminationGracePeriodSeconds": 0, "containers": [container]}
    for index in range(first, first + count):
        kube.create(PODS, {"metadata": {"name": f"pod-{index}", "annotations": share}, "spec": spec}, namespace="default")


def all_run(kube: Kube) -> bool:
    """Return whether every pod runs."""
    return {"Running"} == {pod["status"].get("phase") for pod in kube.list(PODS).items}
