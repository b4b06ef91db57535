"""What the free room of one card is worth, in cards: how much of what typical pods ask it can still serve.

Cards filled by the typical mix are a cutting-stock problem: as much of the mix as all cards can serve, as a linear program
over patterns (what may lie on one card together). Its duals are prices of the requests and of the kinds of card, such that no
pattern is worth more than its card. The worth of free room is the dearest pattern that fits in it: room that nothing typical
fits into is worth nothing, and of two places for a slice the one that loses less worth keeps the better pattern alive.

All kinds of card are priced together, in average cards: a slice that a small card serves as well is not worth more there, and
a kind that many ask for and few have is dear.

Source: Gilmore and Gomory, "A Linear Programming Approach to the Cutting-Stock Problem", Operations Research 9 (1961),
with column generation over an unbounded knapsack. Own code, as no library offers the values for every size of room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["Asked", "Cards", "Floats", "Room", "Worth", "worths_of"]

Floats = npt.NDArray[np.float64]
Room = tuple[int, int]
"""VRAM and compute, each in its own unit."""
Cards = tuple[Room, int]
"""What a card of one kind has, and how many of them there are."""
Asked = tuple[tuple[Room | None, ...], int]
"""What one request takes of a card of each kind, None where it accepts none; and on how many cards it is asked."""

_MOST_STEPS_OF_ONE = 1_024
"""Into how many steps a card is cut where requests differ in one dimension alone."""
_MOST_STEPS = 200
"""And in each of two dimensions: coarser steps make losses that there are not."""
_LEAST_ROUNDS, _MOST_ROUNDS = 16, 400
_MOST_WORK = 400_000_000
"""Rooms times requests that are looked at in all: a second, nearly. With hundreds of requests prices are good, not best."""
_SLACK = 1e-9
_TOLERANCE = 1e-6
"""By how much of a card a pattern may be worth more than its card."""
_DIGITS = 4
"""Values are rounded to these, so that the solver's last bits decide nothing."""


class Worth:
    """The worth of every free room of a card of one kind, in average cards of the cluster."""

    def __init__(self, units: tuple[float, float], values: Floats, whole: float) -> None:
        self._units = units
        self._values = values
        self.whole = whole
        """Of an empty card."""

    def of(self, room: Room) -> float:
        """Return what free room is worth, 0 (nothing typical fits) to that of an empty card."""
        vram, compute = (int(free / unit + _SLACK) for free, unit in zip(room, self._units, strict=True))
        return float(self._values[vram, compute])


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of card in steps."""

    at: int
    units: tuple[float, float]
    card: Room
    sizes: tuple[Room | None, ...]
    number: int


@lru_cache(maxsize=64)
def worths_of(cards: tuple[Cards, ...], asked: tuple[Asked, ...]) -> tuple[Worth, ...]:
    """Return what free room on a card of each kind is worth, given what requests take of it and how often they are made.

    Where nothing is asked, room is worth its share of the card. Sizes are cut into steps, exactly where few steps do.

    >>> thirds, = worths_of((((0, 1000), 8),), ((((0, 330),), 1),))
    >>> [round(thirds.of((0, free)), 2) for free in (1000, 700, 400, 300)]
    [1.0, 0.67, 0.33, 0.0]
    >>> small, large = worths_of((((0, 300), 1), ((0, 900), 1)), ((((0, 300), (0, 300)), 1),))
    >>> small.whole, large.whole
    (0.5, 1.5)
    """
    worths = [_linear(card) for card, _ in cards]
    kinds = [kind for at in range(len(cards)) if (kind := _kind(at, cards[at], asked))]
    counts = np.array(
        [count * any(kind.sizes[index] for kind in kinds) for index, (_, count) in enumerate(asked)], dtype=np.float64
    )
    if counts.any():
        for kind, values in zip(kinds, _duals(kinds, counts / counts.sum()), strict=True):
            worths[kind.at] = Worth(kind.units, values, float(values[-1, -1]))
    return tuple(worths)


def _kind(at: int, cards: Cards, asked: Sequence[Asked]) -> _Kind | None:
    """Return a kind of card in steps, None where there is none of it or nothing is asked of it."""
    card, number = cards
    sizes = [size if size and any(size) and count else None for size, count in ((sizes[at], count) for sizes, count in asked)]
    known = [size for size in sizes if size]
    if not known or not number:
        return None
    most = _MOST_STEPS if all(any(size[axis] for size in known) for axis in (0, 1)) else _MOST_STEPS_OF_ONE
    units = (_unit(card[0], [size[0] for size in known], most), _unit(card[1], [size[1] for size in known], most))
    steps = [_steps(size, units) if size else None for size in sizes]
    # Less than a step of a card is nothing.
    return _Kind(at, units, _steps(card, units), tuple(step if step and any(step) else None for step in steps), number)


def _linear(card: Room) -> Worth:
    vram, compute = max(card[0], 0), max(card[1], 0)
    parts = [np.linspace(0, 1, _MOST_STEPS + 1) if size else np.ones(1) for size in (vram, compute)]
    values = np.minimum(parts[0][:, np.newaxis], parts[1][np.newaxis, :])
    return Worth((vram / _MOST_STEPS or 1.0, compute / _MOST_STEPS or 1.0), values, 1.0)


def _unit(size: int, asked: Sequence[int], most: int) -> float:
    """Return the step in which one dimension is counted: the common divisor of all sizes, or a `most`-th of the card."""
    if not any(asked) or size < 1:
        return float(max(size, 1) + 1)
    common = math.gcd(size, *asked)
    return float(common) if size // common <= most else size / most


def _steps(size: Room, units: Sequence[float]) -> Room:
    return int(size[0] / units[0] + _SLACK), int(size[1] / units[1] + _SLACK)


def _duals(kinds: Sequence[_Kind], parts: Floats) -> list[Floats]:
    """Return by kind the worth of every room of a card, in steps: one row for each VRAM, one column for each compute.

    The variables are the price of each request and, after these, of each kind of card. The mix is worth 1, a pattern at most
    its card, and all cards together as little as that allows.
    """
    from scipy.optimize import linprog  # noqa: PLC0415  (half a second that only packing has to spend)

    numbers = np.array([kind.number for kind in kinds], dtype=np.float64)
    cost = np.concatenate([np.zeros(len(parts)), numbers / numbers.sum()])
    mix = np.concatenate([parts, np.zeros(len(kinds))])[np.newaxis]
    patterns = [
        _priced(_only(index, size, kind.card, len(parts)), at, len(kinds))
        for at, kind in enumerate(kinds)
        for index, size in enumerate(kind.sizes)
        if size
    ]
    work = sum(len(kind.sizes) * (kind.card[0] + 1) * (kind.card[1] + 1) for kind in kinds)
    for _ in range(min(max(_MOST_WORK // work, _LEAST_ROUNDS), _MOST_ROUNDS)):
        found = linprog(
            cost, A_ub=np.array(patterns), b_ub=np.zeros(len(patterns)), A_eq=mix, b_eq=[1.0], bounds=(0, None), method="highs"
        )
        if found.x is None:
            raise RuntimeError(f"the linear program of {len(parts)} requests has no solution: {found.message}")
        prices, worth = found.x[: len(parts)], found.x[len(parts) :]
        values = [_knapsack(kind.card, kind.sizes, prices) for kind in kinds]
        dearer = [at for at, value in enumerate(values) if value[-1, -1] > worth[at] + _TOLERANCE * max(worth.max(), _SLACK)]
        if not dearer:
            break
        for at in dearer:
            kind = kinds[at]
            patterns.append(_priced(_dearest(kind.card, kind.sizes, prices, values[at]), at, len(kinds)))
    mean = float(cost @ np.concatenate([prices, [value[-1, -1] for value in values]])) or 1.0
    return [np.round(value / mean, _DIGITS) for value in values]


def _priced(pattern: list[int], at: int, kinds: int) -> list[float]:
    """Return the row that says: the pattern is worth at most its card."""
    return [*map(float, pattern), *(-1.0 if other == at else 0.0 for other in range(kinds))]


def _only(index: int, size: Room, card: Room, number: int) -> list[int]:
    fitting = min(whole // part for whole, part in zip(card, size, strict=True) if part)
    return [fitting if at == index else 0 for at in range(number)]


def _knapsack(card: Room, sizes: Sequence[Room | None], prices: Floats) -> Floats:
    """Return the dearest pattern's price for every room, each request any number of times."""
    values = np.zeros((card[0] + 1, card[1] + 1))
    for size, price in zip(sizes, prices, strict=True):
        if size and price > 0:
            _offer(values, *size, float(price))
    return values


def _offer(values: Floats, vram: int, compute: int, price: float) -> None:
    """Let one more request be part of the patterns; blocks of its size, so that it may come many times."""
    if not vram:
        values, vram, compute = values.T, compute, vram
    for start in range(vram, len(values), vram):
        stop = min(start + vram, len(values))
        before = values[start - vram : stop - vram, : values.shape[1] - compute]
        here = values[start:stop, compute:]
        np.maximum(here, before + price, out=here)


def _dearest(card: Room, sizes: Sequence[Room | None], prices: Floats, values: Floats) -> list[int]:
    """Return how often each request is in the dearest pattern of a whole card."""
    pattern = [0] * len(sizes)
    vram, compute = card
    while values[vram, compute] > _SLACK:
        for index, size in enumerate(sizes):
            left = (vram - size[0], compute - size[1]) if size else (-1, -1)
            if min(left) >= 0 and prices[index] > 0 and abs(values[left] + prices[index] - values[vram, compute]) <= _SLACK:
                pattern[index] += 1
                vram, compute = left
                break
        else:
            break
    return pattern
