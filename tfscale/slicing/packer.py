"""One request after another onto nodes, with what was worked out for the last one kept for the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfscale.model import GpuSlice, Node, Request
from tfscale.slicing.capacity import Bools, Capacity, Ints, Shape
from tfscale.slicing.fragmentation import Fragmentation
from tfscale.slicing.vacancy import Vacancy

__all__ = ["Packer"]

_NOWHERE = -1
_MOST_SCORES = 256
"""How many requests scores are kept for: each needs a few numbers for every node."""


@dataclass(slots=True)
class _Scores:
    """The best place of one request on every node, as of a length of the log of changed nodes."""

    shape: Shape
    score: Ints
    cards: Ints
    seen: int = 0


class Packer:
    """Places one request after another on nodes, each where it adds least fragmentation.

    Scores are kept by request; only those of nodes that changed since are made again.
    """

    def __init__(self, nodes: Sequence[Node], vacancies: Sequence[Vacancy], targets: Mapping[Request, int]) -> None:
        self.capacity = Capacity(nodes, vacancies)
        self._fragmentation = Fragmentation(self.capacity, targets)
        self._changed: list[int] = []
        self._scores: dict[Request, _Scores] = {}

    def place(self, request: Request, open_to: Bools) -> tuple[int, tuple[GpuSlice, ...]] | None:
        """Take what the request asks of the best node that is open to it; return the node's index and the slices."""
        scores = self._current(request)
        # Of equal scores a node in use wins, then the first one.
        rank = np.where(open_to & (scores.score >= 0), scores.score * 2 + self.capacity.used, _NOWHERE)
        row = int(rank.argmax()) if rank.size else 0
        if not rank.size or rank[row] == _NOWHERE:
            return None
        cards = scores.cards[row]
        self.capacity.take(scores.shape, row, cards)
        self._fragmentation.refresh(np.array([row]))
        self._changed.append(row)
        return row, self._slices(request, row, cards)

    def _slices(self, request: Request, row: int, cards: Ints) -> tuple[GpuSlice, ...]:
        gpus = [self.capacity.nodes[row].gpus[card] for card in cards]
        return tuple(sorted(part for gpu in gpus if (part := request.slice_of(gpu))))

    def _current(self, request: Request) -> _Scores:
        scores = self._scores.get(request)
        if scores is None:
            if len(self._scores) == _MOST_SCORES:
                del self._scores[next(iter(self._scores))]
            rows = np.arange(len(self.capacity.nodes))
            cards = np.zeros((len(rows), request.gpu_count), dtype=np.int64)
            scores = _Scores(self.capacity.shape(request), np.full(len(rows), _NOWHERE), cards)
            self._scores[request] = scores
        else:
            rows = np.unique(np.array(self._changed[scores.seen :], dtype=np.int64))
        self._rescore(scores, rows)
        scores.seen = len(self._changed)
        return scores

    def _rescore(self, scores: _Scores, rows: Ints) -> None:
        scores.score[rows] = _NOWHERE
        rows, cards = self._choices(scores.shape, rows)
        if rows.size:
            score = self._fragmentation.score(scores.shape, rows, cards)
            order = np.lexsort((-score, rows))
            best = order[np.unique(rows[order], return_index=True)[1]]
            scores.score[rows[best]] = score[best]
            scores.cards[rows[best]] = cards[best]

    def _choices(self, shape: Shape, rows: Ints) -> tuple[Ints, Ints]:
        """Return the places worth scoring: every fitting card for a request of one, the tightest cards for one of many."""
        number = shape.request.gpu_count
        rows = rows[self.capacity.has_room(shape.request, rows)]
        if number == 0:
            return rows, np.zeros((len(rows), 0), dtype=np.int64)
        fits = self.capacity.fits(shape, rows)
        if number == 1:
            at, card = np.nonzero(fits & ~self.capacity.repeats(rows))
            return rows[at], card[:, np.newaxis]
        enough = fits.sum(axis=1) >= number
        free = np.where(fits, self._fragmentation.free_milli(rows), np.iinfo(np.int64).max)
        return rows[enough], np.argsort(free[enough], axis=1, kind="stable")[:, :number]
