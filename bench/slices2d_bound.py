"""Slices in two dimensions: what nobody can beat, by a linear program.

Demands of one kind may be cut into parts and spread over types of node (nodes that are equal when empty); what the nodes of
one type have is added up. Whatever can be placed really can be placed in this way too, so the value of the best such
placement is a bound, also for somebody who knows all arrivals and refuses some of them.

Cards and nodes do not add up, though: two slices of 0.6 do not share a card. Dual feasible functions say so: f maps
shares of a card to shares such that whatever fits one card still fits it after f. With the family u(k), which is x where
(k+1)x is whole, else floor((k+1)x)/k, each k gives one more sum that is at most the number of cards (for VRAM and for
compute) or of nodes (for CPU, memory and whole cards). k = 1 says that slices of over a half do not share a card.

Source: Fekete and Schepers, "New classes of fast lower bounds for bin packing problems", Mathematical Programming 91 (2001).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from tfscale.model import CARD_MILLI, Node, Request

__all__ = ["bound"]

Floats = npt.NDArray[np.float64]
_CUTS = range(1, 13)


def bound(nodes: Sequence[Node], wanted: Mapping[Request, int], values: Mapping[Request, float]) -> float:
    """Return how much value of the wanted requests (with how many of each) could be placed on the empty nodes at most.

    Raises ``ValueError`` for a node with cards that differ, which types of node do not cover.
    """
    requests = [request for request, count in wanted.items() if count]
    types = _types(nodes)
    hosts = [(at, kind) for at, (node, _) in enumerate(types) for kind, request in enumerate(requests) if _fits(request, node)]
    if not hosts:
        return 0.0
    rows, limits = [], []
    for kind, request in enumerate(requests):
        rows.append([float(other == kind) for _, other in hosts])
        limits.append(float(wanted[request]))
    for at, (node, count) in enumerate(types):
        own = [requests[kind] for where, kind in hosts if where == at]
        for uses, limit in _limits(node, own):
            column = iter(uses)
            rows.append([next(column) if where == at else 0.0 for where, _ in hosts])
            limits.append(limit * count)
    gain = np.array([values[requests[kind]] for _, kind in hosts])
    scale = float(gain.max()) or 1.0
    found = linprog(-gain / scale, A_ub=np.array(rows), b_ub=np.array(limits), method="highs")
    if found.x is None or found.fun is None:
        raise RuntimeError(f"the linear program of {len(requests)} requests has no solution: {found.message}")
    return float(-found.fun) * scale


def _types(nodes: Sequence[Node]) -> list[tuple[Node, int]]:
    """Return one node of each type, with how many there are."""
    examples, counts = dict[object, Node](), Counter[object]()
    for node in nodes:
        cards = [(gpu.model, gpu.vram_mib, gpu.mtflops) for gpu in node.gpus]
        if len(set(cards)) > 1:
            raise ValueError(f"{node.name} has cards that differ; want one model on a node")
        key = (tuple(cards), node.cpu_milli, node.memory_mib, node.pods_max)
        examples.setdefault(key, node)
        counts[key] += 1
    return [(node, counts[key]) for key, node in examples.items()]


def _fits(request: Request, node: Node) -> bool:
    if request.cpu_milli > node.cpu_milli or request.memory_mib > node.memory_mib or request.gpu_count > len(node.gpus):
        return False
    return not request.gpu_count or request.slice_of(node.gpus[0]) is not None


def _limits(node: Node, requests: Sequence[Request]) -> Iterator[tuple[list[float], float]]:
    """Yield what each request takes of one node, and how much of it there is: sums, and the same through the functions."""
    cards = len(node.gpus)
    parts = [request.slice_of(node.gpus[0]) if request.gpu_count else None for request in requests]
    vram = [part.vram_mib / node.gpus[0].vram_mib if part else 0.0 for part in parts]
    compute = [part.compute_milli / CARD_MILLI if part else 0.0 for part in parts]
    count = [request.gpu_count for request in requests]
    for shares in (vram, compute):
        yield [number * share for number, share in zip(count, shares, strict=True)], cards
        for k in _CUTS:
            yield [number * _dual_feasible(share, k) for number, share in zip(count, shares, strict=True)], cards
    cpu = [request.cpu_milli / max(node.cpu_milli, 1) for request in requests]
    memory = [request.memory_mib / max(node.memory_mib, 1) for request in requests]
    whole = [request.gpu_count * request.whole / max(cards, 1) for request in requests]
    for shares in (cpu, memory, whole):
        yield shares, 1.0
        for k in _CUTS:
            yield [_dual_feasible(share, k) for share in shares], 1.0
    yield [1.0 for _ in requests], node.pods_max


def _dual_feasible(share: float, k: int) -> float:
    """Return u(k) of a share, 0..1."""
    times = share * (k + 1)
    nearest = round(times)
    return share if abs(times - nearest) < 1e-9 else int(times) / k  # noqa: PLR2004 - the last bits of a double
