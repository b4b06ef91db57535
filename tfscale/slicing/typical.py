"""The typical workload: what a packer keeps room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tfscale.model import CARD_MILLI, Gpu, GpuSlice, Request
from tfscale.slicing.capacity import NEVER, Bools, Ints
from tfscale.slicing.order import size_of
from tfscale.slicing.worth import Floats, Worth, worths_of

__all__ = ["Targets", "typical_of"]

_COVERED_PCT = 95
_MOST_TARGETS = 256


def typical_of(requests: Iterable[Request]) -> dict[Request, int]:
    """Return the most frequent requests that make up 95% of all, at most 256, with their counts; memory is not told apart.

    Of equally frequent ones the larger comes first. The rare rest would cost time and says little of what comes.

    >>> half = Request(gpu_count=1, compute_milli=500)
    >>> typical_of([half, half, replace(half, memory_mib=512)]) == {half: 3}
    True
    """
    counts = Counter(replace(request, memory_mib=0) for request in requests)
    ordered = sorted(counts, key=lambda request: (counts[request], size_of(request), request.gpu_models), reverse=True)
    wanted, covered = counts.total() * _COVERED_PCT, 0
    targets: dict[Request, int] = {}
    for request in ordered[:_MOST_TARGETS]:
        if covered * 100 >= wanted:
            break
        targets[request] = counts[request]
        covered += counts[request]
    return targets


class Targets:
    """The typical requests against the kinds of card of a cluster, as arrays.

    A *column* is a request for cards without its models: requests that differ in the accepted models alone share it. A
    *makeup* is a set of kinds of card that some node has. Requests without cards only count in ``total``.
    """

    def __init__(self, typical: Mapping[Request, int], kinds: Sequence[Gpu], makeups: Sequence[frozenset[int]]) -> None:
        self._kinds = kinds
        self._typical = {request: count for request, count in typical.items() if request.gpu_count}
        total = max(sum(typical.values()), 1)
        columns = list(dict.fromkeys(replace(request, gpu_models=()) for request in self._typical))
        at = {column: index for index, column in enumerate(columns)}
        self.column: Ints = _ints(at[replace(request, gpu_models=())] for request in self._typical)
        """By target: its column."""
        self.accepts: Bools = np.array(
            [[any(request.slice_of(kinds[kind]) for kind in makeup) for makeup in makeups] for request in self._typical],
            dtype=np.bool_,
        ).reshape(len(self._typical), len(makeups))
        """By target and makeup."""
        weight = np.array([count / total for count in self._typical.values()], dtype=np.float64)
        self.share = np.zeros((len(makeups), len(columns)))
        """By makeup and column: the part of all typical pods that ask for the column and accept the makeup."""
        np.add.at(self.share.T, self.column, self.accepts * weight[:, np.newaxis])
        self.cards: Ints = _ints(column.gpu_count for column in columns)
        self.whole: Bools = np.array([column.whole for column in columns], dtype=np.bool_)
        self.cpu_milli: Ints = _ints(column.cpu_milli for column in columns)
        self._read_parts(columns)
        self._read_weights(weight)

    def _read_parts(self, columns: Sequence[Request]) -> None:
        accepted = [self._accepted(column) for column in columns]
        parts = [
            [column.slice_of(gpu) if kind and kind in accepted[at] else None for at, column in enumerate(columns)]
            for kind, gpu in enumerate(self._kinds)
        ]
        shape = (len(self._kinds), len(columns))
        vram = [[part.vram_mib if part else NEVER for part in row] for row in parts]
        compute = [[part.compute_milli if part else NEVER for part in row] for row in parts]
        self.vram_mib: Ints = np.array(vram, dtype=np.int64).reshape(shape)
        """By kind and column: what one card gives; ``NEVER`` where the kind is too small, or accepted by no target."""
        self.compute_milli: Ints = np.array(compute, dtype=np.int64).reshape(shape)

    def _accepted(self, column: Request) -> set[int]:
        asking = [request for request in self._typical if replace(request, gpu_models=()) == column]
        return {kind for kind, gpu in enumerate(self._kinds) if kind and any(request.slice_of(gpu) for request in asking)}

    def _read_weights(self, weight: Floats) -> None:
        """Weigh the two dimensions by how much of a card is asked in each, and each target by the cards it asks."""
        vram = compute = 0.0
        asked = np.zeros(len(self._typical))
        for index, request in enumerate(self._typical):
            parts = [
                (part.vram_mib / max(gpu.vram_mib, 1), part.compute_milli / CARD_MILLI) for part, gpu in self._parts(request)
            ]
            if parts:
                vram += float(weight[index]) * request.gpu_count * sum(part[0] for part in parts) / len(parts)
                compute += float(weight[index]) * request.gpu_count * sum(part[1] for part in parts) / len(parts)
                asked[index] = request.gpu_count * sum(max(part) for part in parts) / len(parts)
        self.vram_weight, self.compute_weight = (vram, compute) if vram + compute else (1.0, 1.0)
        cards = float(weight @ asked)
        self.per_card: Floats = weight / cards if cards else weight * 0
        """By target: how many pods of it come with each card that the typical mix fills."""

    def _parts(self, request: Request) -> list[tuple[GpuSlice, Gpu]]:
        return [(part, gpu) for gpu in self._kinds[1:] if (part := request.slice_of(gpu))]

    def worths(self, numbers: Sequence[int]) -> tuple[Worth, ...]:
        """Return what free room is worth on each kind of card but the first, which is none; `numbers` says how many there are."""
        cards = tuple(((gpu.vram_mib, CARD_MILLI), number) for gpu, number in zip(self._kinds[1:], numbers[1:], strict=True))
        asked: Counter[tuple[tuple[int, int] | None, ...]] = Counter()
        for request, count in self._typical.items():
            parts = [request.slice_of(gpu) for gpu in self._kinds[1:]]
            asked[tuple((part.vram_mib, part.compute_milli) if part else None for part in parts)] += count * request.gpu_count
        ordered = sorted(asked.items(), key=lambda item: [size or (-1, -1) for size in item[0]])
        return worths_of(cards, tuple(ordered))


def _ints(values: Iterable[int]) -> Ints:
    return np.fromiter(values, dtype=np.int64)
