"""States of cards: what is free on one card of a kind, worked out once and named by a number.

Thousands of cards are in a few hundred states, so what a state has room for and what a placement makes of it is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tfscale.model import CARD_MILLI, Gpu
from tfscale.slicing.capacity import GONE, Ints, Shape
from tfscale.slicing.typical import Targets
from tfscale.slicing.worth import Floats

__all__ = ["NO_CARD", "REFUSED", "CardStates", "Steps"]

NO_CARD = 0
"""The state of a card that is not there."""
REFUSED = 1e12
"""The rank of a card that cannot take a request: beyond every other."""
_UNKNOWN = -1.0
_MOST_ROOM = 64
_LOSS = 1e7
"""How much a card of worth outranks thousandths of a card that are free: the smallest loss outranks them all."""
_DIGITS = 3
"""Of a loss: worth is rounded itself, and the difference of two rounded values is no difference."""

State = tuple[int, int, int, bool]
"""Kind, free VRAM in MiB, free compute in thousandths, whether nobody holds a part of it."""


@dataclass(slots=True)
class Steps:
    """What one request makes of every state: ``after`` is the next state, ``rank`` is best where it is lowest."""

    shape: Shape
    rank: Floats
    loss: Floats
    """In cards of worth."""
    after: Ints


class CardStates:
    """All states met so far, and for each what it has room for. A state is learned when it is first met."""

    def __init__(self, kinds: Sequence[Gpu], targets: Targets, numbers: Sequence[int]) -> None:
        self._kinds = kinds
        self._targets = targets
        self._worths = [None, *targets.worths(numbers)]
        self._ids: dict[State, int] = {}
        self._states: list[State] = []
        self._steps: list[Steps] = []
        columns = targets.cards.size
        self.traits: npt.NDArray[np.float32] = np.zeros((0, 2 * columns + 1), dtype=np.float32)
        """By state, whole numbers side by side, so that cards are added up at once. By column how many of a target's parts the
        card can still take, at most 64; by column its free room in thousandths where a part of the target fits, else 0; and
        the thousandths of the card that are free: the dimension that is asked for more weighs more.
        """
        self._free: list[float] = []
        self._worth: list[float] = []
        self.id_of(0, GONE, GONE, empty=False)

    def id_of(self, kind: int, vram_mib: int, compute_milli: int, *, empty: bool) -> int:
        """Return the number of a state."""
        state = (kind, vram_mib, compute_milli, empty)
        known = self._ids.get(state)
        return self._learn(state) if known is None else known

    def _learn(self, state: State) -> int:
        number = self._ids[state] = len(self._states)
        self._states.append(state)
        if number >= len(self.traits):
            self._grow(max(64, 2 * number))
        kind, vram_mib, compute_milli, empty = state
        there = kind and vram_mib >= 0
        self._free.append(free := self._free_of(state) if there else 0.0)
        self._worth.append(self._worth_of(state) if there else 0.0)
        if there:
            room = self._room(kind, vram_mib, compute_milli, empty=empty)
            self.traits[number] = np.concatenate([room, np.where(room > 0, free, 0), [free]])
        return number

    def _grow(self, size: int) -> None:
        more = size - len(self.traits)
        self.traits = np.concatenate([self.traits, np.zeros((more, self.traits.shape[1]), dtype=np.float32)])
        for steps in self._steps:
            steps.rank = np.concatenate([steps.rank, np.full(more, _UNKNOWN)])
            steps.loss = np.concatenate([steps.loss, np.zeros(more)])
            steps.after = np.concatenate([steps.after, np.zeros(more, dtype=np.int64)])

    def _free_of(self, state: State) -> float:
        kind, vram_mib, compute_milli, _ = state
        targets = self._targets
        vram = vram_mib * CARD_MILLI / max(self._kinds[kind].vram_mib, 1)
        both = vram * targets.vram_weight + compute_milli * targets.compute_weight
        return float(round(both / (targets.vram_weight + targets.compute_weight)))

    def _worth_of(self, state: State) -> float:
        kind, vram_mib, compute_milli, empty = state
        worth = self._worths[kind]
        if worth is None:
            return 0.0
        return worth.whole if empty else worth.of((vram_mib, compute_milli))

    def _room(self, kind: int, vram_mib: int, compute_milli: int, *, empty: bool) -> Floats:
        targets = self._targets
        vram, compute = targets.vram_mib[kind], targets.compute_milli[kind]
        times = np.minimum(vram_mib // np.maximum(vram, 1), compute_milli // np.maximum(compute, 1))
        unbounded = (vram == 0) & (compute == 0)
        times = np.where(vram == 0, compute_milli // np.maximum(compute, 1), times)
        times = np.where((compute == 0) & (vram > 0), vram_mib // np.maximum(vram, 1), times)
        times = np.where(unbounded, _MOST_ROOM, times)
        times = np.where(targets.whole, np.minimum(times, int(empty)), times)
        # A pod of several shares takes as many cards, so a card has room for one part of it.
        return np.minimum(times, np.where(targets.cards > 1, 1, _MOST_ROOM)).astype(np.float64)

    def steps_of(self, shape: Shape) -> Steps:
        """Return what a request makes of every state; to be read through ``known`` alone."""
        size = len(self.traits)
        steps = Steps(shape, np.full(size, _UNKNOWN), np.zeros(size), np.zeros(size, dtype=np.int64))
        self._steps.append(steps)
        return steps

    def forget(self, steps: Steps) -> None:
        """Keep the steps of a request no longer."""
        self._steps = [kept for kept in self._steps if kept is not steps]

    def known(self, steps: Steps, states: Ints) -> Floats:
        """Return the ranks of these states, worked out where that was not done yet."""
        rank = steps.rank[states]
        if np.minimum.reduce(rank, axis=None, initial=0) < 0:
            for state in np.unique(states[rank < 0]).tolist():
                self._step(steps, state)
            rank = steps.rank[states]
        return rank

    def _step(self, steps: Steps, number: int) -> None:
        kind, vram_mib, compute_milli, empty = self._states[number]
        shape = steps.shape
        vram, compute = int(shape.vram_mib[kind]), int(shape.compute_milli[kind])
        whole = shape.request.whole
        if vram > vram_mib or compute > compute_milli or (whole and not empty):
            steps.rank[number] = REFUSED
            return
        left = (GONE, GONE) if whole else (vram_mib - vram, compute_milli - compute)
        after = self.id_of(kind, *left, empty=False)
        loss = max(round(self._worth[number] - self._worth[after], _DIGITS), 0.0)
        steps.after[number] = after
        steps.loss[number] = loss
        steps.rank[number] = loss * _LOSS + self._free[number]

    def __len__(self) -> int:
        """Return how many states were met."""
        return len(self._states)
