"""The plain way to buy: first fit decreasing, and each node made smaller at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.openb_trace import CARD_MILLI, Pod
from bench.shopping_data import Kind

__all__ = ["first_fit_micro"]


@dataclass(slots=True)
class _Node:
    """What is free on a node, and who is there."""

    cpu_milli: int
    memory_mib: int
    free_milli: list[int]
    pods: list[Pod]

    def takes(self, pod: Pod) -> bool:
        """Put the pod here, on the tightest GPUs that have room; return whether it fits."""
        if pod.cpu_milli > self.cpu_milli or pod.memory_mib > self.memory_mib:
            return False
        fitting = sorted((free, at) for at, free in enumerate(self.free_milli) if free >= pod.gpu_milli)[: pod.gpus]
        if len(fitting) < pod.gpus:
            return False
        for free, at in fitting:
            self.free_milli[at] = free - pod.gpu_milli
        self.cpu_milli -= pod.cpu_milli
        self.memory_mib -= pod.memory_mib
        self.pods.append(pod)
        return True


def first_fit_micro(pods: Sequence[Pod], kinds: Sequence[Kind]) -> int:
    """Return what the nodes cost that host all pods, bought in one pass, in the unit of the kinds' prices."""
    nodes: list[_Node] = []
    most = max(kinds, key=lambda kind: (kind.gpus, kind.cpu_milli))
    for pod in sorted(pods, key=lambda pod: -_part(pod, most)):
        if not any(node.takes(pod) for node in nodes):
            kind = min((kind for kind in kinds if _empty(kind).takes(pod)), key=lambda kind: _part(pod, kind) * kind.price_micro)
            nodes.append(_empty(kind))
            nodes[-1].takes(pod)
    return sum(min(kind.price_micro for kind in kinds if _holds(kind, node.pods)) for node in nodes)


def _part(pod: Pod, kind: Kind) -> float:
    """Return the largest part that a pod takes of a node."""
    cards = pod.asked_milli / (kind.gpus * CARD_MILLI)
    return max(pod.cpu_milli / kind.cpu_milli, pod.memory_mib / kind.memory_mib, cards)


def _empty(kind: Kind) -> _Node:
    return _Node(kind.cpu_milli, kind.memory_mib, [CARD_MILLI] * kind.gpus, [])


def _holds(kind: Kind, pods: Sequence[Pod]) -> bool:
    node = _empty(kind)
    return all(node.takes(pod) for pod in pods)
