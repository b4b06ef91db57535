"""Room that is held back: so much of what a pool's cards have stays free, for pods that come at once.

Headroom is free divided by allocatable, in VRAM and in compute. Pods use it without asking; what they take of it is bought again.
Where somebody else removes nodes, the nodes that are needed whatever he does are kept from him.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from tfscale.errors import Problem
from tfscale.lifecycle import State
from tfscale.model import CARD_MILLI, BoundPod, Cluster, Demand, Mirror, Node
from tfscale.pool import Pool
from tfscale.records import Book
from tfscale.slicing import pack

__all__ = ["free_pct", "held_back", "kept_nodes", "needed", "split", "standing", "without_headroom"]

LOWEST = -(2**31)
"""The priority of demand that no pod stands for."""
LOOKED_AT = 20
"""Of how many nodes it is looked at in one round whether their pods would fit elsewhere card by card: the emptiest ones."""
MOST = 1_000
"""Pods that headroom is bought for in one round."""


def kept_nodes(cluster: Cluster, pool: Pool, there: Sequence[Node], *, reclaimed: bool) -> dict[str, str]:
    """Return the nodes that must stay although their pods alone would not keep them, with the reason.

    `reclaimed` says that somebody else removes idle nodes.
    """
    if pool.deleting:
        return {}
    held = {machine.id for machine in cluster.machines.get(pool.name, ()) if machine.held}
    sticky = {node.name for node in there if node.machine_id in held or (node.idle_since_s is None and node.pods)}
    spare = needed(pool, there, sticky)
    apart = split(there, spare) if reclaimed else set()
    return dict.fromkeys(spare, f"{pool.headroom_pct}% headroom needs it") | dict.fromkeys(
        apart, "its pods would fit elsewhere in sums, and not card by card"
    )


def held_back(pool: Pool, book: Book, nodes: Sequence[Node]) -> list[Demand]:
    """Return demand for missing headroom; none while a node is on its way of which nobody knows what it will be."""
    on_the_way = (request for request in book.requests if request.state in {State.REQUESTED, State.LAUNCHED, State.REGISTERED})
    unknown = any(not book.expected[request.name] for request in on_the_way)
    return [] if unknown or pool.deleting or not pool.headroom_pct else standing(pool, nodes)


def without_headroom(
    pool: Pool, there: Sequence[Node], asked: Sequence[Demand], refused: Mapping[str, Sequence[str]]
) -> list[Problem]:
    """Return the problem that headroom is missing and cannot be bought."""
    left = [demand for demand in asked if demand.uid in refused]
    if not left:
        return []
    why = "; ".join(refused[left[0].uid]) or "nothing is on offer"
    want = f"{pool.headroom_pct}%, room for {len(left)} more pods like most of its pods: {why}"
    return [Problem(where=f"gpupool {pool.name}", field="headroom", value=f"{free_pct(there):.0f}%", want=want)]


def standing(pool: Pool, nodes: Sequence[Node]) -> list[Demand]:
    """Return demand for the headroom that is missing, in pods like most that are there, lowest in priority.

    `nodes` are all that there are or will be, with all that is or will be on them. Without pods there is no headroom: a part
    of nothing is nothing.
    """
    allocatable, used = _sum(map(_has, nodes)), _sum(map(_holds, nodes))
    short = _less(_needed(pool, used), allocatable)
    pods = [(node, pod) for node in nodes for pod in node.pods if pod.slices]
    if not pods or not (short.vram_mib or short.mtflops):
        return []
    counts = Counter(pod.request for _, pod in pods)
    node, usual = max(pods, key=lambda one: (counts[one[1].request], one[1].request.vram_mib, one[1].uid))
    part = _takes(node, usual)
    count = max(_times(short.vram_mib, part.vram_mib), _times(short.mtflops, part.mtflops))
    return [
        Demand(
            id=f"headroom/{pool.name}-{number}",
            uid=f"headroom-{pool.name}-{number}",
            pool=pool.name,
            request=usual.request,
            priority=LOWEST,
        )
        for number in range(min(count, MOST))
    ]


def needed(pool: Pool, nodes: Sequence[Node], kept: Collection[str]) -> set[str]:
    """Return the nodes without which there would not be enough headroom: those that are `kept` already first, then the fullest.

    Whatever becomes of all others, the pods of all have room on these, by the sums of their cards, and the headroom beside it.
    """
    need = _needed(pool, _sum(map(_holds, nodes)))
    found: set[str] = set()
    have = Mirror()
    for node in sorted(nodes, key=lambda node: (node.name not in kept, -_holds(node).vram_mib, node.name)):
        if not pool.headroom_pct or (have.vram_mib >= need.vram_mib and have.mtflops >= need.mtflops):
            break
        if node.gpus:
            found.add(node.name)
            have = _sum((have, _has(node)))
    return found


def split(nodes: Sequence[Node], besides: Collection[str]) -> set[str]:
    """Return the nodes whose pods would fit on the others by the sums of their cards, but not card by card.

    Karpenter sees the sums alone, and would empty such a node. `besides` are kept anyway.
    """
    candidates = [node for node in nodes if node.name not in besides and any(_is_mirrored(pod) for pod in node.pods)]
    emptiest = sorted(candidates, key=lambda node: (_holds(node).vram_mib, node.name))[:LOOKED_AT]
    return {node.name for node in emptiest if _is_split(node, [other for other in nodes if other is not node])}


def free_pct(nodes: Iterable[Node]) -> float:
    """Return how much of what the cards have is free, in per cent of the scarcer of VRAM and compute; 100 without cards."""
    listed = list(nodes)
    allocatable, used = _sum(map(_has, listed)), _sum(map(_holds, listed))
    parts = ((used.vram_mib, allocatable.vram_mib), (used.mtflops, allocatable.mtflops))
    return min((100 * (1 - taken / there) for taken, there in parts if there), default=100.0)


def _is_split(node: Node, others: Sequence[Node]) -> bool:
    pods = [pod for pod in node.pods if _is_mirrored(pod)]
    if not _fit_in_sums(pods, others):
        return False
    demands = [Demand(id=pod.id, uid=pod.uid, pool=node.pool, request=pod.request) for pod in pods]
    return bool(pack(demands, others, by_age=False).left)


def _fit_in_sums(pods: Sequence[BoundPod], nodes: Sequence[Node]) -> bool:
    """Return whether a scheduler that adds up would find a node for each of the pods, the largest first."""
    free = [_less(_has(node), _sum(pod.mirror for pod in node.pods)) for node in nodes]
    for pod in sorted(pods, key=lambda pod: (-pod.mirror.vram_mib, pod.uid)):
        ask = pod.mirror
        at = next((i for i, left in enumerate(free) if ask.vram_mib <= left.vram_mib and ask.mtflops <= left.mtflops), None)
        if at is None:
            return False
        free[at] = _less(free[at], ask)
    return True


def _is_mirrored(pod: BoundPod) -> bool:
    return bool(pod.slices) and pod.mirror != Mirror() and not pod.daemon


def _needed(pool: Pool, used: Mirror) -> Mirror:
    """Return what must be allocatable so that the pool's per cent of it are free beside what is used."""
    rest = 100 - pool.headroom_pct
    return Mirror(vram_mib=_times(used.vram_mib * 100, rest), mtflops=_times(used.mtflops * 100, rest))


def _has(node: Node) -> Mirror:
    return Mirror(vram_mib=sum(gpu.vram_mib for gpu in node.gpus), mtflops=sum(gpu.mtflops for gpu in node.gpus))


def _holds(node: Node) -> Mirror:
    return _sum(_takes(node, pod) for pod in node.pods)


def _takes(node: Node, pod: BoundPod) -> Mirror:
    mtflops = {gpu.id: gpu.mtflops for gpu in node.gpus}
    parts = [(part.vram_mib, part.compute_milli * mtflops.get(part.gpu_id, 0)) for part in pod.slices]
    return Mirror(vram_mib=sum(vram for vram, _ in parts), mtflops=_times(sum(part for _, part in parts), CARD_MILLI))


def _sum(parts: Iterable[Mirror]) -> Mirror:
    listed = list(parts)
    return Mirror(vram_mib=sum(one.vram_mib for one in listed), mtflops=sum(one.mtflops for one in listed))


def _less(much: Mirror, less: Mirror) -> Mirror:
    return Mirror(vram_mib=max(much.vram_mib - less.vram_mib, 0), mtflops=max(much.mtflops - less.mtflops, 0))


def _times(amount: int, part: int) -> int:
    """Return how often the part goes into the amount, rounded up; 0 for a part of nothing."""
    return -(-amount // part) if part else 0
