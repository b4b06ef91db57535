"""Mirrored extended resources: what nodes advertise of their cards, and pods ask of them, in sums that everybody can add up.

kube-scheduler and Karpenter know nothing of cards that are shared. With two extended resources, ``tfscale.io/vram-mib`` and
``tfscale.io/compute-mtflops``, they keep the sums of a node, and Karpenter moves slices only where they fit by these sums.
Sums are necessary, not sufficient: two halves of two cards are no card. Which card, and whether there is one, is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfscale.gpus import GpuTable
from tfscale.model import CARD_MILLI, Cluster, Mirror, Node, Request
from tfscale.plan import Advertise
from tfscale.pool import Pool

__all__ = ["advertised", "mirror_of", "mirror_of_node"]


def mirror_of(request: Request, gpus: GpuTable) -> Mirror:
    """Return what a pod with this request asks of its node in sums over its cards, never more than it takes of any node.

    A percentage of a card is the least that it can mean on a model that is accepted. A pod that asks for whole GPUs mirrors
    nothing: the device plugin's own resource counts it.

    >>> mirror_of(Request(gpu_count=2, vram_mib=4_096, compute_milli=500, gpu_models=("L4", "T4")), GpuTable())
    Mirror(vram_mib=8192, mtflops=65000)
    """
    if request.whole or not request.gpu_count:
        return Mirror()
    mtflops = request.compute_mtflops
    if mtflops is None:
        models = [gpus.find(name) for name in request.gpu_models] or gpus.models
        mtflops = (request.compute_milli or 0) * min(model.mtflops for model in models) // CARD_MILLI
    return Mirror(vram_mib=request.gpu_count * request.vram_mib, mtflops=request.gpu_count * mtflops)


def mirror_of_node(node: Node) -> Mirror:
    """Return what the node is to advertise: the sum of its cards, and never less than its pods ask.

    With less, a kubelet that restarts would fail them. A fence changes nothing of it: taints and filters keep pods away.
    """
    return Mirror(
        vram_mib=max(sum(gpu.vram_mib for gpu in node.gpus), sum(pod.mirror.vram_mib for pod in node.pods)),
        mtflops=max(sum(gpu.mtflops for gpu in node.gpus), sum(pod.mirror.mtflops for pod in node.pods)),
    )


def advertised(cluster: Cluster, pool: Pool) -> Sequence[Advertise]:
    """Return what to write on nodes of the pool that do not say what they have. A node without cards says nothing.

    A kubelet that lost its checkpoint sets extended resources to zero: what is not as it should be is written again.
    """
    return [
        Advertise(pool=pool.name, node=node.name, mirror=mirror, why=_why(node))
        for node in cluster.nodes
        if node.pool == pool.name and node.gpus and node.mirror != (mirror := mirror_of_node(node))
    ]


def _why(node: Node) -> str:
    if node.mirror is None:
        return "it does not say what its cards have in all"
    return f"it says {node.mirror.vram_mib} MiB and {node.mirror.mtflops} mTFLOPs"
