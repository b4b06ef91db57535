"""Slices in two dimensions: an independent check of placements, in whole numbers and without arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.slices2d_work import Case, Placement
from tfscale.model import CARD_MILLI, Gpu, Node, Request

__all__ = ["Account", "faults"]

_MOST_FAULTS = 20


@dataclass(slots=True)
class _Card:
    gpu: Gpu
    vram_mib: int
    compute_milli: int = CARD_MILLI
    slices: int = 0
    whole: bool = False


class Account:
    """One node: what is free on it."""

    def __init__(self, node: Node) -> None:
        self._cpu_milli = node.cpu_milli
        self._memory_mib = node.memory_mib
        self._pods = node.pods_max
        self._cards = [_Card(gpu, gpu.vram_mib) for gpu in node.gpus]

    def fitting(self, request: Request) -> list[int]:
        """Return the cards that have room for one slice of the request."""
        return [at for at, card in enumerate(self._cards) if _has_room(card, request)]

    def hosts(self, request: Request) -> bool:
        """Return whether the request fits on the node."""
        return not self.lacks(request) and len(self.fitting(request)) >= request.gpu_count

    def lacks(self, request: Request) -> str:
        """Return what the node has too little of, cards not considered; empty if nothing."""
        if self._pods < 1:
            return "pods"
        if request.cpu_milli > self._cpu_milli:
            return "CPU"
        return "memory" if request.memory_mib > self._memory_mib else ""

    def take(self, request: Request, cards: Sequence[int], sign: int = 1) -> None:
        """Take what the request asks on these cards; with a `sign` of -1, give it back."""
        self._cpu_milli -= sign * request.cpu_milli
        self._memory_mib -= sign * request.memory_mib
        self._pods -= sign
        for at in cards:
            card = self._cards[at]
            vram_mib, milli = _needs(card.gpu, request)
            card.vram_mib -= sign * vram_mib
            card.compute_milli -= sign * milli
            card.slices += sign
            card.whole = request.whole and sign > 0


def _needs(gpu: Gpu, request: Request) -> tuple[int, int]:
    """Return VRAM and compute of one slice on this card, compute rounded up to thousandths."""
    if request.whole:
        return gpu.vram_mib, CARD_MILLI
    if request.compute_milli is not None:
        return request.vram_mib, request.compute_milli
    return request.vram_mib, ((request.compute_mtflops or 0) * CARD_MILLI + gpu.mtflops - 1) // gpu.mtflops


def _has_room(card: _Card, request: Request) -> bool:
    if request.gpu_models and card.gpu.model not in request.gpu_models:
        return False
    vram_mib, milli = _needs(card.gpu, request)
    alone = not card.whole and not (request.whole and card.slices)
    return alone and vram_mib <= card.vram_mib and milli <= card.compute_milli


def faults(case: Case, places: Sequence[Placement | None]) -> list[str]:
    """Return what is wrong with the placements of all arrivals, at most 20: what does not fit, and what was refused but fits."""
    accounts = [Account(node) for node in case.nodes]
    found: list[str] = []
    if len(places) != len(case.arrivals):
        found.append(f"{len(places)} placements; want {len(case.arrivals)}, one for each arrival")
    for at, (kind, place) in enumerate(zip(case.arrivals, places, strict=False)):
        request = case.kinds[kind].request
        found += [f"arrival {at} ({case.kinds[kind].name}): {fault}" for fault in _faults(request, place, accounts)]
        if len(found) >= _MOST_FAULTS:
            break
        if place is not None:
            accounts[place.node].take(request, place.cards)
    return found[:_MOST_FAULTS]


def _faults(request: Request, place: Placement | None, accounts: Sequence[Account]) -> Iterator[str]:
    if place is None:
        fitting = [row for row, account in enumerate(accounts) if account.hosts(request)]
        if fitting:
            yield f"refused, but fits on node {fitting[0]}"
        return
    row, cards = place.node, place.cards
    if len(set(cards)) != request.gpu_count or len(cards) != request.gpu_count:
        yield f"cards {list(cards)}; want {request.gpu_count} different ones"
    lacks = accounts[row].lacks(request)
    if lacks:
        yield f"node {row} has too little {lacks}"
    fitting = accounts[row].fitting(request)
    yield from (f"card {card} of node {row} has no room" for card in cards if card not in fitting)
