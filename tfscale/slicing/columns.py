"""A cheaper mix of nodes than the one that is filled first: what stands on a node is a column of a linear program.

Each column is one node of an offer with its load; each row is a group of demands, all of which have to stand somewhere. The
program buys parts of nodes at the least cost. Its duals say what one demand more of each group would cost, and each offer is
filled again by these: a load that is worth more than its node is a new column, until there is none. The whole parts are bought.

Source: Gilmore and Gomory, "A Linear Programming Approach to the Cutting-Stock Problem", Operations Research 9 (1961). Own
code: the loads are those of cards and nodes, for which no library has the knapsack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from tfscale.model import CARD_MILLI, Offer
from tfscale.slicing.capacity import Ints
from tfscale.slicing.choices import Choice, Groups

__all__ = ["Column", "Mix"]

Floats = npt.NDArray[np.float64]

_ORDERS = 100
"""In so many orders a node may be filled: by worth for each part of the node, its dimensions weighed differently."""
_PRIMES = (2, 3, 5)
_AT_ONCE = 10
"""Orders that are tried of each offer in one round; the next round tries the next ones."""
_MOST_ROUNDS = 80
_MOST_WORK = 40_000_000
"""Groups, times nodes that are filled, in all: some seconds."""
_MOST_STEPS = 40
"""How often the rest is solved again. What is left then is bought for as if nothing had been bought."""
_ROUNDING = 1e-6
_LEAST_PART = 0.3
_WORTHWHILE = 0.002
_LEAST_GAIN = 1e-6
"""In parts of the price. What gains less is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A node of one offer with its load: so many demands of these groups. Prices are micro-USD per hour."""

    choice: int
    """Its index among all choices."""
    offer: Offer
    load: Mapping[int, int]

    @property
    def key(self) -> tuple[str, tuple[tuple[int, int], ...]]:
        """What tells it from all others."""
        return self.offer.id, tuple(sorted(self.load.items()))


@dataclass(frozen=True, slots=True)
class _Source:
    """An offer that may be bought as one of a choice's: those of which there are few, and the cheapest of the others."""

    offer: Offer
    price_micro_usd: int


@dataclass(frozen=True, slots=True)
class _Solution:
    """The cheapest mix of parts of nodes."""

    cost_micro_usd: float
    amounts: Floats
    """Of each column."""
    worth: Floats
    """What one demand more of each group would cost."""
    scarce: Mapping[str, float]
    """What one more of an offer of which there are few would save, by its id."""


class Mix:
    """The linear program over all columns that were found. All demands of `groups` have to stand on one of them.

    `start` are loads that are known to fit, and that serve every group that one of the `choices` of known price can host.
    """

    def __init__(self, groups: Groups, choices: Sequence[Choice], start: Iterable[Column]) -> None:
        self._groups = groups
        priced = ((at, choice) for at, choice in enumerate(choices) if choice.price_micro_usd is not None)
        self._sheets = {at: _Sheet(choice, groups) for at, choice in priced}
        self._sources = {at: _sources(sheet.choice) for at, sheet in self._sheets.items()}
        self._columns = {column.key: column for column in start if column.offer.price_micro_usd is not None}
        self._rows = _served(self._columns.values(), len(groups.count))
        few = (source.offer for source in chain.from_iterable(self._sources.values()))
        self._few = {offer.id: offer.count_max for offer in few if offer.count_max is not None}
        """How many are left of offers of which there are few."""

    def whole(self, below_micro_usd: int) -> list[tuple[Column, int]]:
        """Return whole nodes of a cheap mix, and how many of each; a few demands are left for which no node would be full.

        Nothing where the parts alone cost hardly less than `below_micro_usd`.

        Of the cheapest mix the whole parts are taken. What is left of it has another cheapest mix, of which the largest part
        is taken for a whole one where there are none, and so on.
        """
        count = self._groups.count.copy()
        if not self._columns:
            return []
        parts_micro_usd = self._improve(count)
        if parts_micro_usd > below_micro_usd * (1 - _WORTHWHILE):
            return []
        taken: dict[tuple[str, tuple[tuple[int, int], ...]], tuple[Column, int]] = {}
        for _ in range(_MOST_STEPS):
            solved = self._solved(count)
            fitting = self._fitting(solved.amounts, count) if solved else []
            if not fitting:
                break
            for column, amount in fitting:
                times = self._take(column, amount, count)
                taken[column.key] = column, taken.get(column.key, (column, 0))[1] + times
        return [(column, times) for _, (column, times) in sorted(taken.items()) if times]

    def _take(self, column: Column, most: int, count: Ints) -> int:
        """Take whole nodes of a column out of what waits and of what there is, and return how many."""
        most = min(most, self._few.get(column.offer.id, most))
        times = min(most, *(int(count[group]) // number for group, number in column.load.items()))
        for group, number in column.load.items():
            count[group] -= times * number
        if column.offer.id in self._few:
            self._few[column.offer.id] -= times
        return times

    def _fitting(self, amounts: Floats, count: Ints) -> list[tuple[Column, int]]:
        """Return the whole parts, or else the largest part of which the whole load waits."""
        columns = list(self._columns.values())
        found = [(columns[at], int(amounts[at] + _ROUNDING)) for at in np.flatnonzero(amounts > 1 - _ROUNDING)]
        if found:
            return found
        for at in np.argsort(-amounts, kind="stable"):
            if amounts[at] < _LEAST_PART:
                break
            column = columns[at]
            if self._few.get(column.offer.id, 1) and all(count[group] >= n for group, n in column.load.items()):
                return [(column, 1)]
        return []

    def _improve(self, count: Ints) -> float:
        """Look for better columns until there are none, or until enough was looked at; return what the mix of parts costs."""
        sheets = self._sheets.values()
        work = sum(sheet.size for sheet in sheets) * _AT_ONCE
        turns = -(-max((max(len(sheet.orders), 2 * sheet.size) for sheet in sheets), default=1) // _AT_ONCE)
        quiet, cost = 0, 0.0
        for number in range(max(min(_MOST_WORK // max(work, 1), _MOST_ROUNDS), 1)):
            solved = self._solved(count)
            if solved is None:
                return float("inf")
            cost = solved.cost_micro_usd
            if quiet == turns:
                break
            quiet = 0 if self._found(number, solved) else quiet + 1
        return cost

    def _solved(self, count: Ints) -> _Solution | None:
        """Return the cheapest mix of parts for so many demands, None where the solver finds none."""
        from scipy.optimize import linprog  # noqa: PLC0415  (half a second that only shopping has to spend)

        columns = list(self._columns.values())
        row_of = {int(group): row for row, group in enumerate(self._rows)}
        limit_of = {offer: len(row_of) + number for number, offer in enumerate(self._few)}
        matrix = np.zeros((len(row_of) + len(limit_of), len(columns)))
        for at, column in enumerate(columns):
            for group, number in column.load.items():
                matrix[row_of[group], at] = -number
            if column.offer.id in limit_of:
                matrix[limit_of[column.offer.id], at] = 1
        bounds = np.concatenate([-count[self._rows].astype(np.float64), [float(left) for left in self._few.values()]])
        prices = [float(column.offer.price_micro_usd or 0) for column in columns]
        found = linprog(prices, A_ub=matrix, b_ub=bounds, method="highs")
        if found.x is None or found.fun is None:
            return None
        duals = -found.ineqlin.marginals
        worth = np.zeros(len(self._groups.count))
        worth[self._rows] = np.maximum(duals[: len(row_of)], 0)
        scarce = {name: float(duals[row]) for name, row in limit_of.items()}
        return _Solution(float(found.fun), found.x, worth, scarce)

    def _found(self, number: int, solution: _Solution) -> bool:
        """Fill every offer in the next few orders by worth, and keep what is worth more than it costs."""
        before = len(self._columns)
        for at, sheet in self._sheets.items():
            load, value = sheet.dearest(number, solution.worth)
            if not load:
                continue
            for source in self._sources[at]:
                cost = source.price_micro_usd + solution.scarce.get(source.offer.id, 0.0)
                if value > cost * (1 + _LEAST_GAIN) and sheet.choice.takes(load):
                    column = Column(choice=at, offer=source.offer, load=load)
                    self._columns.setdefault(column.key, column)
        return len(self._columns) > before


def _sources(choice: Choice) -> list[_Source]:
    found = []
    for offer in choice.offers:
        if offer.price_micro_usd is None:
            break
        found.append(_Source(offer, offer.price_micro_usd))
        if offer.count_max is None:
            break
    return found


def _served(columns: Iterable[Column], groups: int) -> Ints:
    served = np.zeros(groups, dtype=np.bool_)
    for column in columns:
        served[list(column.load)] = True
    return np.flatnonzero(served)


class _Sheet:
    """One choice, in plain numbers: how its node is filled thousands of times."""

    def __init__(self, choice: Choice, groups: Groups) -> None:
        node = choice.node
        self.choice = choice
        self.size = int(choice.hosts.sum())
        self._hosts = np.flatnonzero(choice.hosts)
        cards = groups.gpu_count
        asked = (groups.cpu_milli, groups.memory_mib, choice.vram_mib * cards, choice.compute_milli * cards)
        self._asks = list(
            zip(*(part.tolist() for part in (*asked[:2], cards, choice.vram_mib, choice.compute_milli)), strict=True)
        )
        self._count = groups.count.tolist()
        self._card = (max((gpu.vram_mib for gpu in node.gpus), default=0), CARD_MILLI)
        whole = (node.cpu_milli, node.memory_mib, self._card[0] * len(node.gpus), CARD_MILLI * len(node.gpus))
        shares = [amount[self._hosts] / most for amount, most in zip(asked, whole, strict=True) if most]
        self._shares = np.array([share for share in shares if share.any()] or [np.ones(len(self._hosts))])
        self.orders = _weights(len(self._shares))

    def dearest(self, number: int, worth: Floats) -> tuple[dict[int, int], float]:
        """Return the load that is worth most of those that the orders of this round give, and what it is worth."""
        best: tuple[dict[int, int], float] = ({}, 0.0)
        asked = worth[self._hosts]
        some = asked > 0
        if not some.any():
            return best
        groups = self._hosts[some]
        for at in range(number * _AT_ONCE, (number + 1) * _AT_ONCE):
            size = self.orders[at % len(self.orders)] @ self._shares[:, some]
            by_density = np.argsort(-asked[some] / (size + 1e-9), kind="stable")
            first = [int(groups[at // 2 % len(groups)])] if at % 2 else []
            load = self._filled(first, groups[by_density].tolist())
            value = sum(float(worth[group]) * much for group, much in load.items())
            if value > best[1]:
                best = load, value
        return best

    def _filled(self, first: Sequence[int], order: Sequence[int]) -> dict[int, int]:
        """Return what an empty node takes, on its tightest cards: one of each `first`, then all of one group after the other."""
        node = self.choice.node
        cpu, memory, pods = node.cpu_milli, node.memory_mib, node.pods_max
        cards = [self._card] * len(node.gpus)
        load: dict[int, int] = {}
        for at, group in enumerate(chain(first, order)):
            cpu_milli, memory_mib, number, vram_mib, compute_milli = self._asks[group]
            left = min(self._count[group] - load.get(group, 0), pods, 1 if at < len(first) else pods)
            while left and cpu_milli <= cpu and memory_mib <= memory and self._held(cards, number, vram_mib, compute_milli):
                cpu, memory, pods, left = cpu - cpu_milli, memory - memory_mib, pods - 1, left - 1
                load[group] = load.get(group, 0) + 1
        return load

    def _held(self, cards: list[tuple[int, int]], number: int, vram_mib: int, compute_milli: int) -> bool:
        """Take a demand's part of the tightest cards that have it; return whether there were enough."""
        if not number:
            return True
        vram_most = self._card[0] or 1
        fitting = [
            (compute + vram * CARD_MILLI // vram_most, at)
            for at, (vram, compute) in enumerate(cards)
            if vram >= vram_mib and compute >= compute_milli
        ]
        if len(fitting) < number:
            return False
        for _, at in sorted(fitting)[:number]:
            vram, compute = cards[at]
            cards[at] = (vram - vram_mib, compute - compute_milli)
        return True


def _weights(dimensions: int) -> list[Floats]:
    """Return ways to divide the weight among so many dimensions, evenly spread over all such ways.

    The spacings of points that are spread evenly over a cube of one dimension less; those come from the roots of primes.
    """
    steps = np.sqrt(np.array(_PRIMES[: dimensions - 1], dtype=np.float64))
    cuts = np.sort(np.outer(np.arange(1, _ORDERS + 1), steps) % 1, axis=1)
    edges = np.pad(cuts, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
    return list(np.diff(edges, axis=1)) if dimensions > 1 else [np.ones(1)]
