"""What is free on many nodes, as arrays: one row per node, one column per card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tfscale.model import CARD_MILLI, Gpu, Node, Request
from tfscale.slicing.vacancy import Vacancy

__all__ = ["NEVER", "Bools", "Capacity", "Ints", "Shape"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NEVER = 1 << 40
"""What a request asks of a card that cannot take it: more than any card has."""
_GONE = -1
"""Free on a card that is held whole or does not exist: less than any request asks, nothing included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A request with what it takes of one card of each kind."""

    request: Request
    vram_mib: Ints
    compute_milli: Ints


class Capacity:
    """The free part of every node; ``take`` is the only change."""

    def __init__(self, nodes: Sequence[Node], vacancies: Sequence[Vacancy]) -> None:
        self.nodes = nodes
        self.cpu_milli = _ints(vacancy.cpu_milli for vacancy in vacancies)
        self.memory_mib = _ints(vacancy.memory_mib for vacancy in vacancies)
        self.pods = _ints(vacancy.pods for vacancy in vacancies)
        self.used: Bools = np.array([vacancy.used for vacancy in vacancies], dtype=np.bool_)
        width = max((len(vacancy.cards) for vacancy in vacancies), default=0)
        self.vram_mib = np.full((len(vacancies), width), _GONE, dtype=np.int64)
        self.compute_milli = self.vram_mib.copy()
        self.holders = np.zeros_like(self.vram_mib)
        self.kind = np.zeros_like(self.vram_mib)
        """Index into ``kinds``; 0 where there is no card."""
        self.kinds: list[Gpu] = [Gpu(id="", model="", vram_mib=0, mtflops=0)]
        self._fill(vacancies)

    def _fill(self, vacancies: Sequence[Vacancy]) -> None:
        known: dict[tuple[str, int, int], int] = {}
        for row, vacancy in enumerate(vacancies):
            for column, card in enumerate(vacancy.cards):
                key = (card.gpu.model, card.gpu.vram_mib, card.gpu.mtflops)
                if key not in known:
                    known[key] = len(self.kinds)
                    self.kinds.append(card.gpu)
                self.kind[row, column] = known[key]
                self.holders[row, column] = card.holders
                if not card.sealed:
                    self.vram_mib[row, column] = card.vram_mib
                    self.compute_milli[row, column] = card.compute_milli

    def shape(self, request: Request) -> Shape:
        """Return the request with what it takes of one card of each kind here."""
        parts = [request.slice_of(gpu) if index and request.gpu_count else None for index, gpu in enumerate(self.kinds)]
        return Shape(
            request=request,
            vram_mib=_ints(part.vram_mib if part else NEVER for part in parts),
            compute_milli=_ints(part.compute_milli if part else NEVER for part in parts),
        )

    def has_room(self, request: Request, rows: Ints) -> Bools:
        """Return which rows have the CPU, the memory and a pod left, cards not considered."""
        enough = (request.cpu_milli <= self.cpu_milli[rows]) & (request.memory_mib <= self.memory_mib[rows])
        return enough & (self.pods[rows] > 0)

    def fits(self, shape: Shape, rows: Ints) -> Bools:
        """Return which cards of these rows can take the shape."""
        kind = self.kind[rows]
        fits = (shape.vram_mib[kind] <= self.vram_mib[rows]) & (shape.compute_milli[kind] <= self.compute_milli[rows])
        return fits & (self.holders[rows] == 0) if shape.request.whole else fits

    def repeats(self, rows: Ints) -> Bools:
        """Return which cards of these rows are just like the card before them, so that a choice between them is none."""
        alike = np.zeros((len(rows), self.kind.shape[1]), dtype=np.bool_)
        states = (self.kind[rows], self.vram_mib[rows], self.compute_milli[rows], self.holders[rows])
        alike[:, 1:] = np.logical_and.reduce([state[:, 1:] == state[:, :-1] for state in states])
        return alike

    def after(self, shape: Shape, rows: Ints, cards: Ints) -> tuple[Ints, Ints]:
        """Return the free VRAM and compute that the shape would leave on these cards: one row of `cards` for each row."""
        at = (rows[:, np.newaxis], cards)
        if shape.request.whole:
            return np.full(cards.shape, _GONE), np.full(cards.shape, _GONE)
        kind = self.kind[at]
        return self.vram_mib[at] - shape.vram_mib[kind], self.compute_milli[at] - shape.compute_milli[kind]

    def take(self, shape: Shape, row: int, cards: Ints) -> None:
        """Give the shape its part of a node; the caller has seen that it fits."""
        self.vram_mib[row, cards], self.compute_milli[row, cards] = (
            left[0] for left in self.after(shape, np.array([row]), cards[np.newaxis])
        )
        self.holders[row, cards] += 1
        self.cpu_milli[row] -= shape.request.cpu_milli
        self.memory_mib[row] -= shape.request.memory_mib
        self.pods[row] -= 1
        self.used[row] = True

    def vram_of_kind(self) -> Ints:
        """Return the VRAM of one empty card of each kind, never 0."""
        return _ints(max(gpu.vram_mib, 1) for gpu in self.kinds)

    def vram_share(self, vram_mib: Ints, kind: Ints) -> Ints:
        """Return free VRAM as thousandths of the card; what is gone counts as 0."""
        return np.maximum(vram_mib, 0) * CARD_MILLI // self.vram_of_kind()[kind]


def _ints(values: Iterable[int]) -> Ints:
    return np.fromiter(values, dtype=np.int64)
