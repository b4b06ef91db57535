"""What the free room of one card is worth, in cards: how much of what typical pods ask it can still serve.

Cards filled by the typical mix are a cutting-stock problem: the fewest cards that serve the mix, as a linear program
over patterns (what may lie on one card together). Its duals are prices of the requests such that no pattern is worth more
than one card. The worth of free room is the dearest pattern that fits in it: room that nothing typical fits into is worth
nothing, and of two places for a slice the one that loses less worth keeps the better pattern alive.

Source: Gilmore and Gomory, "A Linear Programming Approach to the Cutting-Stock Problem", Operations Research 9 (1961),
with column generation over an unbounded knapsack. Own code, as no library offers the values for every size of room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Room", "worth_of"]

Floats = npt.NDArray[np.float64]
Room = tuple[int, int]
"""VRAM and compute, each in its own unit."""

_MOST_STEPS_OF_ONE = 128
"""Into how many steps a card is cut where requests differ in one dimension alone."""
_MOST_STEPS = 60
"""And in each of two dimensions."""
_MOST_PATTERNS = 400
_SLACK = 1e-9
_DIGITS = 4
"""Values are rounded to these, so that the solver's last bits decide nothing."""


class Worth:
    """The worth of every free room of a card of one size; ``of`` is the only question."""

    def __init__(self, units: tuple[float, float], values: Floats) -> None:
        self._units = units
        self._values = values

    def of(self, room: Room) -> float:
        """Return what free room is worth, 0 (nothing typical fits) to 1 (an empty card)."""
        vram, compute = (int(free / unit + _SLACK) for free, unit in zip(room, self._units, strict=True))
        return float(self._values[vram, compute])


@lru_cache(maxsize=256)
def worth_of(card: Room, asked: tuple[tuple[Room, int], ...]) -> Worth:
    """Return the worth of free room on a card, given what requests take of it and how often they are made.

    Where nothing is asked, room is worth its share of the card. Sizes are cut into steps, exactly where few steps do.

    >>> thirds = worth_of((0, 1000), (((0, 330), 1),))
    >>> [round(thirds.of((0, free)), 2) for free in (1000, 700, 400, 300)]
    [1.0, 0.67, 0.33, 0.0]
    """
    shares = [(size, count) for size, count in asked if any(size) and count]
    used = [any(size[dimension] for size, _ in shares) for dimension in (0, 1)]
    if not shares:
        return _linear(card)
    most = _MOST_STEPS if all(used) else _MOST_STEPS_OF_ONE
    units = tuple(_unit(card[axis], [size[axis] for size, _ in shares], most) for axis in (0, 1))
    steps = tuple(_steps(size, units) for size, _ in shares)
    count_of: dict[Room, int] = {}
    for step, (_, count) in zip(steps, shares, strict=True):
        if any(step):
            count_of[step] = count_of.get(step, 0) + count
    if not count_of:
        return _linear(card)
    values = _duals(_steps(card, units), list(count_of), np.array(list(count_of.values()), dtype=np.float64))
    return Worth((units[0], units[1]), values)


def _linear(card: Room) -> Worth:
    vram, compute = max(card[0], 0), max(card[1], 0)
    parts = [np.linspace(0, 1, _MOST_STEPS + 1) if size else np.ones(1) for size in (vram, compute)]
    values = np.minimum(parts[0][:, np.newaxis], parts[1][np.newaxis, :])
    return Worth((vram / _MOST_STEPS or 1.0, compute / _MOST_STEPS or 1.0), values)


def _unit(size: int, asked: Sequence[int], most: int) -> float:
    """Return the step in which one dimension is counted: the common divisor of all sizes, or a `most`-th of the card."""
    if not any(asked) or size < 1:
        return float(max(size, 1) + 1)
    common = math.gcd(size, *asked)
    return float(common) if size // common <= most else size / most


def _steps(size: Room, units: Sequence[float]) -> Room:
    return int(size[0] / units[0] + _SLACK), int(size[1] / units[1] + _SLACK)


def _duals(card: Room, sizes: Sequence[Room], counts: Floats) -> Floats:
    """Return the worth of every room of a card, in steps: one row for each VRAM, one column for each compute."""
    from scipy.optimize import linprog  # noqa: PLC0415  (half a second that only packing has to spend)

    patterns = [_only(index, size, card, len(sizes)) for index, size in enumerate(sizes)]
    weights = counts / counts.sum()
    for _ in range(_MOST_PATTERNS):
        found = linprog(-weights, A_ub=np.array(patterns), b_ub=np.ones(len(patterns)), bounds=(0, 1), method="highs")
        if found.x is None:
            raise RuntimeError(f"the linear program of {len(sizes)} requests has no solution: {found.message}")
        values = _knapsack(card, sizes, found.x)
        if values[-1, -1] <= 1 + _SLACK:
            break
        patterns.append(_dearest(card, sizes, found.x, values))
    return np.minimum(np.round(values, _DIGITS), 1.0)


def _only(index: int, size: Room, card: Room, number: int) -> list[int]:
    fitting = min(whole // part for whole, part in zip(card, size, strict=True) if part)
    return [fitting if at == index else 0 for at in range(number)]


def _knapsack(card: Room, sizes: Sequence[Room], prices: Floats) -> Floats:
    """Return the dearest pattern's price for every room, each request any number of times."""
    values = np.zeros((card[0] + 1, card[1] + 1))
    for (vram, compute), price in zip(sizes, prices, strict=True):
        if price > 0:
            _offer(values, vram, compute, float(price))
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


def _dearest(card: Room, sizes: Sequence[Room], prices: Floats, values: Floats) -> list[int]:
    """Return how often each request is in the dearest pattern of a whole card."""
    pattern = [0] * len(sizes)
    vram, compute = card
    while values[vram, compute] > _SLACK:
        for index, (part, share) in enumerate(sizes):
            left = (vram - part, compute - share)
            if min(left) >= 0 and prices[index] > 0 and abs(values[left] + prices[index] - values[vram, compute]) <= _SLACK:
                pattern[index] += 1
                vram, compute = left
                break
        else:
            break
    return pattern
