"""The Kubernetes node that a simulated machine becomes, as kubelet, GPU feature discovery and tfscale's mirror fill it."""

from __future__ import annotations

import re
from typing import Any

from tfscale.gpus import GpuTable
from tfscale.modes.ec2_catalogue import Facts, node_labels
from tfscale.modes.ec2_fleet import POOL_TAG
from tfscale.testing.fake_ec2.machines import SimulatedMachine

__all__ = ["node_of"]

_PODS = "110"


def node_of(machine: SimulatedMachine, facts: Facts, gpus: GpuTable, region: str) -> dict[str, Any]:
    """Return the Ready node of a machine. Everything the machine has is allocatable."""
    amounts = {"cpu": f"{facts.cpu_milli}m", "memory": f"{facts.memory_mib}Mi", "pods": _PODS, **_card_amounts(facts)}
    condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": machine.node, "labels": _labels(machine, facts, gpus, region)},
        "spec": {"providerID": machine.provider_id},
        "status": {"capacity": amounts, "allocatable": dict(amounts), "conditions": [condition]},
    }


def _labels(machine: SimulatedMachine, facts: Facts, gpus: GpuTable, region: str) -> dict[str, str]:
    pool = {POOL_TAG: machine.tags[POOL_TAG]} if POOL_TAG in machine.tags else {}
    return {
        **node_labels(facts, region),
        "kubernetes.io/hostname": machine.node,
        "node.kubernetes.io/instance-type": machine.instance_type,
        "topology.kubernetes.io/zone": machine.zone,
        "karpenter.sh/capacity-type": machine.capacity_type,
        **_card_labels(facts, gpus),
        **pool,
    }


def _card_labels(facts: Facts, gpus: GpuTable) -> dict[str, str]:
    if not facts.gpu_count:
        return {}
    model = gpus.find(facts.gpu_model)
    # Feature discovery writes the driver's name of the card, which the table has as the first alias.
    product = model.aliases[0] if model.aliases else model.name
    return {
        "nvidia.com/gpu.product": re.sub(r"[^A-Za-z0-9_.-]+", "-", product),
        "nvidia.com/gpu.memory": str(facts.vram_mib),
        "nvidia.com/gpu.count": str(facts.gpu_count),
        # Feature discovery does not know it: a part of a card computes less than its model.
        "tfscale.io/gpu-mtflops": str(facts.mtflops),
    }


def _card_amounts(facts: Facts) -> dict[str, str]:
    if not facts.gpu_count:
        return {}
    return {
        "nvidia.com/gpu": str(facts.gpu_count),
        "tfscale.io/vram-mib": str(facts.gpu_count * facts.vram_mib),
        "tfscale.io/compute-mtflops": str(facts.gpu_count * facts.mtflops),
    }
