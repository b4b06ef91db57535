"""How much of the free GPU capacity the typical pods cannot use, and how much of it a placement would add.

Source: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent",
USENIX ATC 2023. There a card has one dimension; here it has VRAM and compute, each weighed by how much of it the targets
ask for. All amounts are integers, so that a score does not depend on the order in which it was summed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from tfscale.model import CARD_MILLI, Request
from tfscale.slicing.capacity import Bools, Capacity, Ints, Shape
from tfscale.slicing.order import size_of

__all__ = ["Fragmentation", "targets_of"]

_COVERED_PCT = 95
_MOST_TARGETS = 64
_LOGITS = tuple(math.log(step / (100 - step)) for step in range(1, 100))
"""Where 100 / (1 + exp(-x)) passes 1, 2, ... 99."""


def targets_of(requests: Iterable[Request]) -> dict[Request, int]:
    """Return the most frequent requests that make up 95% of all, at most 64, with their counts; memory is not told apart.

    Of equally frequent ones the larger comes first.
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


class Fragmentation:
    """The fragmentation of every node: the free GPU capacity that the target requests cannot use, weighed by their counts."""

    def __init__(self, capacity: Capacity, targets: Mapping[Request, int]) -> None:
        self._capacity = capacity
        self._read_targets(targets)
        self._free = np.zeros(capacity.kind.shape, dtype=np.int64)
        self._fits = np.zeros((*capacity.kind.shape, len(targets)), dtype=np.bool_)
        self._fitting = np.zeros((len(capacity.nodes), len(targets)), dtype=np.int64)
        self._stranded = np.zeros_like(self._fitting)
        self._value = np.zeros(len(capacity.nodes), dtype=np.int64)
        self.refresh(np.arange(len(capacity.nodes)))

    def _read_targets(self, targets: Mapping[Request, int]) -> None:
        shapes = [self._capacity.shape(request) for request in targets]
        kinds = len(self._capacity.kinds)
        # By kind of card, then by target.
        self._vram_mib = np.array([shape.vram_mib for shape in shapes], dtype=np.int64).reshape(-1, kinds).T
        self._compute_milli = np.array([shape.compute_milli for shape in shapes], dtype=np.int64).reshape(-1, kinds).T
        self._whole = np.array([request.whole for request in targets], dtype=np.bool_)
        self._cards = np.array([request.gpu_count for request in targets], dtype=np.int64)
        self._cpu_milli = np.array([request.cpu_milli for request in targets], dtype=np.int64)
        self._weight = np.array(list(targets.values()), dtype=np.int64)
        self._total = max(sum(targets.values()), 1)
        self._steps = np.array([math.ceil(self._total * CARD_MILLI * logit) for logit in _LOGITS], dtype=np.int64)
        self._vram_weight, self._compute_weight = _dimension_weights(targets, self._capacity)
        self._cpu_per_card = _cpu_per_card(targets, self._capacity)

    def refresh(self, rows: Ints) -> None:
        """Read these rows of the capacity again."""
        capacity = self._capacity
        kind, vram, compute = capacity.kind[rows], capacity.vram_mib[rows], capacity.compute_milli[rows]
        self._free[rows] = free = self._measure(vram, compute, kind)
        self._fits[rows] = fits = self._fit(vram, compute, kind, capacity.holders[rows] == 0)
        self._fitting[rows] = fitting = fits.sum(axis=1)
        self._stranded[rows] = stranded = (free[..., np.newaxis] * ~fits).sum(axis=1)
        self._value[rows] = self._weigh(capacity.cpu_milli[rows], fitting, stranded, free.sum(axis=1))

    def free_milli(self, rows: Ints) -> Ints:
        """Return how much of each card is free, in thousandths; the dimension that is asked for more weighs more."""
        return self._free[rows]

    def score(self, shape: Shape, rows: Ints, cards: Ints) -> Ints:
        """Return how good it is to place the shape on these cards, one row of `cards` for each of `rows`: 0 (worst) to 99.

        This is the published score: the integer part of 100 / (1 + exp(-less)), where `less` says by how many cards the
        fragmentation shrinks. The coarse steps matter: they make ties, and ties keep pods together.
        """
        at = (rows[:, np.newaxis], cards)
        kind, (vram, compute) = self._capacity.kind[at], self._capacity.after(shape, rows, cards)
        free, fits = self._measure(vram, compute, kind), self._fit(vram, compute, kind, np.zeros(cards.shape, dtype=np.bool_))
        was_free, did_fit = self._free[at], self._fits[at]
        more_stranded = (free[..., np.newaxis] * ~fits - was_free[..., np.newaxis] * ~did_fit).sum(axis=1)
        value = self._weigh(
            self._capacity.cpu_milli[rows] - shape.request.cpu_milli,
            self._fitting[rows] + fits.sum(axis=1) - did_fit.sum(axis=1),
            self._stranded[rows] + more_stranded,
            self._free[rows].sum(axis=1) + (free - was_free).sum(axis=1),
        )
        if shape.request.gpu_count == 0:
            value += self._newly_starved(rows, shape.request.cpu_milli)
        return np.searchsorted(self._steps, self._value[rows] - value, side="right")

    def _newly_starved(self, rows: Ints, cpu_milli: int) -> Ints:
        """Return the free GPU capacity that would lose the CPU it is typically used with, weighed as every target's loss.

        Own addition to the published score, which sees only the last step, where a node can no longer host a target.
        """
        free, cpu = self._free[rows].sum(axis=1), self._capacity.cpu_milli[rows]
        before: Ints = np.maximum(free - cpu * CARD_MILLI // self._cpu_per_card, 0)
        after: Ints = np.maximum(free - (cpu - cpu_milli) * CARD_MILLI // self._cpu_per_card, 0)
        return (after - before) * self._total

    def _measure(self, vram_mib: Ints, compute_milli: Ints, kind: Ints) -> Ints:
        vram, compute = self._capacity.vram_share(vram_mib, kind), np.maximum(compute_milli, 0)
        both = vram * self._vram_weight + compute * self._compute_weight
        share: Ints = both // (self._vram_weight + self._compute_weight)
        return share

    def _fit(self, vram_mib: Ints, compute_milli: Ints, kind: Ints, empty: Bools) -> Bools:
        """Return which targets cards in this state can take; the targets are one more axis."""
        fits: Bools = self._vram_mib[kind] <= vram_mib[..., np.newaxis]
        fits &= self._compute_milli[kind] <= compute_milli[..., np.newaxis]
        return fits & (empty[..., np.newaxis] | ~self._whole)

    def _weigh(self, cpu_milli: Ints, fitting: Ints, stranded: Ints, free: Ints) -> Ints:
        """Return the fragmentation: all that is free where a target cannot be hosted, else the cards too small for it."""
        hosts = (fitting >= self._cards) & (self._cpu_milli <= cpu_milli[:, np.newaxis])
        return np.where(hosts, stranded, free[:, np.newaxis]) @ self._weight


def _dimension_weights(targets: Mapping[Request, int], capacity: Capacity) -> tuple[int, int]:
    """Return how much VRAM and how much compute the targets ask for, both as shares of a card."""
    vram = compute = 0
    for request, count in targets.items():
        for gpu in capacity.kinds[1:]:
            part = request.slice_of(gpu)
            if part is not None:
                vram += count * request.gpu_count * part.vram_mib * CARD_MILLI // max(gpu.vram_mib, 1)
                compute += count * request.gpu_count * part.compute_milli
    return (vram, compute) if vram + compute else (1, 1)


def _cpu_per_card(targets: Mapping[Request, int], capacity: Capacity) -> int:
    """Return the millicores that the targets ask for beside one whole card, the larger of VRAM and compute counting."""
    cpu = share = 0
    for request, count in targets.items():
        parts = [(part, gpu) for gpu in capacity.kinds[1:] if (part := request.slice_of(gpu))]
        if request.gpu_count and parts:
            shares = [max(part.vram_mib * CARD_MILLI // max(gpu.vram_mib, 1), part.compute_milli) for part, gpu in parts]
            cpu += count * request.cpu_milli
            share += count * request.gpu_count * max(shares)
    return max(cpu * CARD_MILLI // max(share, 1), 1)
