"""What is free on many nodes, as arrays: one row per node, one column per card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tfscale.model import Gpu, Request
from tfscale.slicing.vacancy import Card, Vacancy

__all__ = ["GONE", "NEVER", "Bools", "Capacity", "Ints", "Shape"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NEVER = 1 << 40
"""What a request asks of a card that cannot take it: more than any card has."""
GONE = -1
"""Free on a card that is held whole or does not exist: less than any request asks, nothing included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A request with what it takes of one card of each kind."""

    request: Request
    vram_mib: Ints
    compute_milli: Ints


class Capacity:
    """The free part of every node; ``take`` and ``read`` are the only changes. A row without a node has nothing free."""

    def __init__(self, vacancies: Sequence[Vacancy | None]) -> None:
        rows, width = len(vacancies), max((len(vacancy.cards) for vacancy in vacancies if vacancy), default=0)
        self.cpu_milli: Ints = np.full(rows, GONE, dtype=np.int64)
        self.memory_mib: Ints = self.cpu_milli.copy()
        self.pods: Ints = np.zeros(rows, dtype=np.int64)
        self.used: Bools = np.zeros(rows, dtype=np.bool_)
        self.vram_mib: Ints = np.full((rows, width), GONE, dtype=np.int64)
        self.compute_milli: Ints = self.vram_mib.copy()
        self.holders: Ints = np.zeros_like(self.vram_mib)
        self.kind: Ints = np.zeros_like(self.vram_mib)
        """Index into ``kinds``; 0 where there is no card."""
        self.kinds: list[Gpu] = [Gpu(id="", model="", vram_mib=0, mtflops=0)]
        self._known: dict[tuple[str, int, int], int] = {}
        for row, vacancy in enumerate(vacancies):
            for card in vacancy.cards if vacancy else ():
                if _kind_of(card) not in self._known:
                    self._known[_kind_of(card)] = len(self.kinds)
                    self.kinds.append(card.gpu)
            self.read(row, vacancy)

    def kinds_of(self, vacancy: Vacancy) -> list[int] | None:
        """Return the kinds of a node's cards; None where it has no place in the arrays: a kind that is new, too many cards."""
        kinds = [self._known.get(_kind_of(card), 0) for card in vacancy.cards]
        return kinds if all(kinds) and len(kinds) <= self.kind.shape[1] else None

    def read(self, row: int, vacancy: Vacancy | None) -> None:
        """Take over what is free on a node now; None: there is no node any more."""
        self.kind[row] = self.holders[row] = 0
        self.vram_mib[row] = self.compute_milli[row] = GONE
        self.cpu_milli[row] = vacancy.cpu_milli if vacancy else GONE
        self.memory_mib[row] = vacancy.memory_mib if vacancy else GONE
        self.pods[row] = vacancy.pods if vacancy else 0
        self.used[row] = bool(vacancy and vacancy.used)
        for column, card in enumerate(vacancy.cards if vacancy else ()):
            self.kind[row, column] = self._known[_kind_of(card)]
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

    def fits(self, shape: Shape, rows: Ints) -> Bools:
        """Return which cards of these rows can take the shape."""
        kind = self.kind[rows]
        fits = (shape.vram_mib[kind] <= self.vram_mib[rows]) & (shape.compute_milli[kind] <= self.compute_milli[rows])
        return fits & (self.holders[rows] == 0) if shape.request.whole else fits

    def take(self, shape: Shape, row: int, cards: Ints) -> None:
        """Give the shape its part of a node; the caller has seen that it fits."""
        # Few cards: one after another they are taken sooner than as arrays.
        for card in cards.tolist():
            if shape.request.whole:
                self.vram_mib[row, card] = self.compute_milli[row, card] = GONE
            else:
                kind = self.kind[row, card]
                self.vram_mib[row, card] -= shape.vram_mib[kind]
                self.compute_milli[row, card] -= shape.compute_milli[kind]
            self.holders[row, card] += 1
        self.cpu_milli[row] -= shape.request.cpu_milli
        self.memory_mib[row] -= shape.request.memory_mib
        self.pods[row] -= 1
        self.used[row] = True


def _kind_of(card: Card) -> tuple[str, int, int]:
    return (card.gpu.model, card.gpu.vram_mib, card.gpu.mtflops)


def _ints(values: Iterable[int]) -> Ints:
    return np.fromiter(values, dtype=np.int64)
