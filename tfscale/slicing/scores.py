"""How good each node is for a request, kept between placements.

A score says what a placement destroys: worth of room on the card, GPU capacity that becomes useless to the typical pods,
and places for typical pods of which there are few. Nodes that are alike have one score, and what is kept is made anew where
a node changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfscale.model import CARD_MILLI, Request
from tfscale.slicing.alike import Singles
from tfscale.slicing.capacity import Bools, Capacity, Ints
from tfscale.slicing.cards import REFUSED, Steps
from tfscale.slicing.hosting import Hosting
from tfscale.slicing.worth import Floats

__all__ = ["Scores", "Weights"]

_NOWHERE = -np.inf
_NEVER = -1
_PRICED_EVERY = 30
"""After how many placements prices are worked out anew."""
_REPRICED_PART = 4
"""After as many placements as one node in so many, a request's scores of unchanged nodes get the new prices."""
_LARGE = 1_000
"""Fewer nodes than these get new prices sooner, a few dozen at once: there one placement changes much and costs little."""
_MOST_BYTES = 256 * 1024 * 1024
"""How much is kept for all requests together."""
_CHUNK = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How many points each loss costs. Zero leaves it out."""

    worth: float = 400
    """Per card of worth that is lost on the card: nearly always the first thing to decide."""
    useless: float = 100
    """Times the published score, 0..1: the part of capacity that becomes useless for typical pods."""
    scarcity: float = 6
    """Per typical pod that loses its place, by how many such pods come for each place."""
    free: float = 0.125
    """Per card that is free on the node: full nodes are filled first."""
    step: float = 2
    """Scores within one step are equal, and the first node wins; 0: no scores are equal."""


_NOWHERE_SLOT = 0
"""The slot of all groups on whose nodes a request does not fit."""


class Row:
    """One request against every node. What is known of a group lies in a slot; groups on which it does not fit have none."""

    def __init__(self, steps: Steps, nodes: int, columns: int, priced: int) -> None:
        self.steps = steps
        self.total: Floats = np.full(nodes, _NOWHERE)
        """By node."""
        self.slot: Ints = np.zeros(0, dtype=np.int64)
        """By group."""
        self.group: Ints = np.zeros(1, dtype=np.int64)
        """By slot, as all that follows."""
        self.base: Floats = np.full(1, _NOWHERE)
        """Points without the prices."""
        self.points: Floats = np.full(1, _NOWHERE)
        self.spent: Singles = np.zeros((1, columns), dtype=np.float32)
        """By column, too: the places for typical pods that are lost."""
        self.cards: Ints = np.zeros((1, steps.shape.request.gpu_count), dtype=np.int64)
        """The best cards."""
        self.unused: list[int] = []
        self.seen = _NEVER
        self.priced = priced

    def nbytes(self) -> int:
        """Return how much memory it takes, nearly."""
        by_slot = self.group.nbytes + self.base.nbytes + self.points.nbytes + self.spent.nbytes + self.cards.nbytes
        by_state = self.steps.rank.nbytes + self.steps.loss.nbytes + self.steps.after.nbytes
        return self.total.nbytes + self.slot.nbytes + by_slot + by_state

    def free(self, groups: Ints, known: int) -> None:
        """Forget what is known of these groups, of as many as are `known` now."""
        if known > len(self.slot):
            self.slot = np.concatenate([self.slot, np.zeros(known - len(self.slot), dtype=np.int64)])
        self.unused += filter(None, self.slot[groups].tolist())
        self.slot[groups] = _NOWHERE_SLOT

    def take(self, groups: Ints) -> Ints:
        """Return a slot for each of these groups, which have none."""
        if len(groups) > len(self.unused):
            self._grow(len(groups) - len(self.unused))
        slots = np.array(self.unused[-len(groups) :], dtype=np.int64)
        del self.unused[-len(groups) :]
        self.slot[groups], self.group[slots] = slots, groups
        return slots

    def _grow(self, least: int) -> None:
        size = len(self.base)
        more = max(least, size // 2)
        self.unused += range(size + more - 1, size - 1, -1)
        for name in ("group", "base", "points", "spent", "cards"):
            values = getattr(self, name)
            setattr(self, name, np.concatenate([values, np.zeros((more, *values.shape[1:]), dtype=values.dtype)]))


class Scores:
    """The scores of all requests seen lately, over a capacity that ``take`` and ``changed`` change."""

    def __init__(self, capacity: Capacity, hosting: Hosting, weights: Weights) -> None:
        self._capacity = capacity
        self._hosting = hosting
        self._weights = weights
        self._rows: dict[Request, Row] = {}
        self._asked: Row | None = None
        """The request that was asked for last."""
        nodes = len(hosting.makeup)
        self._pace = min(nodes / _LARGE, 1)
        self._often = nodes / _REPRICED_PART
        self._prices = hosting.prices()
        self._priced_at = hosting.changes
        self._weighed_at = hosting.changes

    def best(self, request: Request, open_to: Bools) -> int | None:
        """Return the best node for the request among those open to it; None where it fits on none of them."""
        row = self._asked = self._current(request)
        if not row.total.size:
            return None
        best = int(row.total.argmax())
        if not open_to[best]:
            best = int(np.where(open_to, row.total, _NOWHERE).argmax())
        return best if open_to[best] and row.total[best] > _NOWHERE else None

    def take(self, node: int) -> Ints:
        """Give the request that was asked for last its part of the node that ``best`` has named; return the cards."""
        row, hosting = self._asked, self._hosting
        if row is None:
            raise AssertionError("no request was asked for")
        cards: Ints = row.cards[row.slot[hosting.alike.of[node]]].copy()
        states = hosting.states[node, cards]
        self._capacity.take(row.steps.shape, node, cards)
        hosting.moved(node, cards, row.steps.after[states])
        return cards

    def changed(self, node: int) -> None:
        """Say that the capacity of a node was changed by somebody else."""
        self._hosting.refresh([node])

    def _current(self, request: Request) -> Row:
        hosting = self._hosting
        if hosting.changes - self._priced_at >= _PRICED_EVERY * self._pace:
            self._prices, self._priced_at = hosting.prices(), hosting.changes
        row = self._rows.get(request)
        if row is None:
            row = self._learn(request)
            self._forget_some()
        else:
            self._catch_up(row)
        if hosting.changes - self._weighed_at > self._often:
            self._forget_some()
        if hosting.changes - row.priced > self._often * self._pace:
            alike = hosting.alike
            row.points = self._priced(row.base, row.spent, alike.makeup[row.group]) + alike.bonus[row.group]
            row.total = row.points[row.slot[alike.of]]
            row.priced = hosting.changes
        return row

    def _learn(self, request: Request) -> Row:
        hosting = self._hosting
        steps = hosting.cards.steps_of(self._capacity.shape(request))
        row = Row(steps, len(hosting.makeup), hosting.targets.cards.size, hosting.changes)
        self._catch_up(row)
        self._rows[request] = row
        return row

    def _forget_some(self) -> None:
        """Give up requests that were not asked for long where all take too much memory."""
        self._weighed_at = self._hosting.changes
        kept = sum(known.nbytes() for known in self._rows.values())
        oldest = sorted(self._rows, key=lambda request: self._rows[request].seen)
        for request in oldest[:-1]:
            if kept <= _MOST_BYTES:
                break
            old = self._rows.pop(request)
            self._hosting.cards.forget(old.steps)
            kept -= old.nbytes()

    def _catch_up(self, row: Row) -> None:
        """Score the groups that came since the request was looked at last."""
        hosting, alike = self._hosting, self._hosting.alike
        (groups,) = (alike.born_at > row.seen).nonzero()
        for start in range(0, len(groups), _CHUNK):
            self._rescore(row, groups[start : start + _CHUNK])
        (nodes,) = (hosting.changed_at > row.seen).nonzero()
        row.total[nodes] = row.points[row.slot[alike.of[nodes]]]
        row.seen = hosting.changes

    def _rescore(self, row: Row, groups: Ints) -> None:
        hosting, alike, request, steps = self._hosting, self._hosting.alike, row.steps.shape.request, row.steps
        row.free(groups, len(alike.born_at))
        cpu_milli = alike.cpu_milli[groups] - request.cpu_milli
        cards, before, fits = self._choose(steps, alike.states[groups], request.gpu_count)
        (fitting,) = (fits & (cpu_milli >= 0) & (alike.memory_mib[groups] >= request.memory_mib)).nonzero()
        if not fitting.size:
            return
        groups, cpu_milli, cards, before = groups[fitting], cpu_milli[fitting], cards[fitting], before[fitting]
        traits, columns = hosting.cards.traits, row.spent.shape[1]
        left = alike.traits[groups] + _over_cards(traits[steps.after[before]] - traits[before])
        hosts = hosting.hosts_with(left[:, :columns], cpu_milli)
        makeup = alike.makeup[groups]
        useful = hosting.useful_with(hosts, left[:, columns:-1], makeup)
        free, weights = left[:, -1].astype(np.float64), self._weights
        less_useless = alike.useless[groups] - (free - useful)
        base = weights.useless / (1 + np.exp(-less_useless / CARD_MILLI))
        base -= weights.worth * _over_cards(steps.loss[before]) + weights.free * free / CARD_MILLI
        spent = alike.hosts[groups] - hosts
        spent *= np.float32(weights.scarcity)
        slots = row.take(groups)
        row.base[slots], row.spent[slots], row.cards[slots] = base, spent, cards
        row.points[slots] = self._priced(base, spent, makeup) + alike.bonus[groups]

    def _choose(self, steps: Steps, states: Ints, number: int) -> tuple[Ints, Ints, Bools]:
        """Return the cards of each node that lose least worth, the fullest of equal ones, their states, and whether all fit."""
        if not number or number > states.shape[1]:
            none = np.zeros((len(states), number), dtype=np.int64)
            return none, none, np.full(len(states), not number)
        rank = self._hosting.cards.known(steps, states)
        cards = rank.argmin(axis=1)[:, np.newaxis] if number == 1 else np.argsort(rank, axis=1, kind="stable")[:, :number]
        before = states[np.arange(len(states))[:, np.newaxis], cards]
        return cards, before, steps.rank[before[:, -1]] < REFUSED

    def _priced(self, base: Floats, spent: Singles, makeup: Ints) -> Floats:
        """Return the points by the prices of now, in whole steps."""
        points: Floats = base - np.vecdot(spent, self._prices[makeup])
        step = self._weights.step
        return np.rint(points / step) * step if step else points


def _over_cards(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the sum over the second axis, the cards; mostly there is one, and then nothing is to be added."""
    total: npt.NDArray[Any] = values[:, 0] if values.shape[1] == 1 else np.add.reduce(values, axis=1)
    return total
