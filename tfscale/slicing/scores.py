"""How good each node is for a request, kept between placements.

A score says what a placement destroys: worth of room on the card, GPU capacity that becomes useless to the typical pods,
and places for typical pods of which there are few. What is kept is made anew where a node changed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from tfscale.model import CARD_MILLI, Request
from tfscale.slicing.capacity import Bools, Capacity, Ints
from tfscale.slicing.cards import REFUSED, Steps
from tfscale.slicing.hosting import Hosting, Singles
from tfscale.slicing.worth import Floats

__all__ = ["Scores", "Weights"]

_NOWHERE = -np.inf
_PRICED_EVERY = 20
"""After how many placements prices are worked out anew."""
_REPRICED_PART = 6
"""After as many placements as one node in so many, a request's scores of unchanged nodes get the new prices."""
_MOST_BYTES = 256 * 1024 * 1024
"""How much is kept for all requests together."""
_CHUNK = 2_048
_USED = 0.5


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


@dataclass(slots=True)
class Row:
    """One request against every node."""

    steps: Steps
    base: Floats
    """Points without the prices."""
    spent: Singles
    """By node and column: the places for typical pods that are lost."""
    cards: Ints
    """By node: the best cards."""
    total: Floats
    seen: int
    priced: int

    def nbytes(self) -> int:
        """Return how much memory it takes, nearly."""
        return self.base.nbytes + self.spent.nbytes + self.cards.nbytes + self.total.nbytes


class Scores:
    """The scores of all requests seen lately, over a capacity that ``take`` and ``changed`` change."""

    def __init__(self, capacity: Capacity, hosting: Hosting, weights: Weights) -> None:
        self._capacity = capacity
        self._hosting = hosting
        self._weights = weights
        self._rows: OrderedDict[Request, Row] = OrderedDict()
        self._bytes = 0
        self._changes = 0
        self._changed_at: Ints = np.zeros(len(capacity.cpu_milli), dtype=np.int64)
        self._prices = hosting.prices()
        self._priced_at = 0

    def best(self, request: Request, open_to: Bools) -> int | None:
        """Return the best node for the request among those open to it; None where it fits on none of them."""
        row = self._current(request)
        if not row.total.size:
            return None
        best = int(np.where(open_to, row.total, _NOWHERE).argmax())
        return best if open_to[best] and row.total[best] > _NOWHERE else None

    def take(self, request: Request, node: int) -> Ints:
        """Give the request its part of a node that ``best`` has named; return the cards."""
        row = self._rows[request]
        cards: Ints = row.cards[node]
        states = self._hosting.states[node, cards]
        self._capacity.take(row.steps.shape, node, cards)
        self._hosting.moved(node, cards, row.steps.after[states])
        self._note(node)
        return cards

    def changed(self, node: int) -> None:
        """Say that the capacity of a node was changed by somebody else."""
        self._hosting.refresh(np.array([node]))
        self._note(node)

    def _note(self, node: int) -> None:
        self._changes += 1
        self._changed_at[node] = self._changes

    def _current(self, request: Request) -> Row:
        if self._changes - self._priced_at >= _PRICED_EVERY:
            self._prices, self._priced_at = self._hosting.prices(), self._changes
        row = self._rows.get(request)
        if row is None:
            row = self._learn(request)
        else:
            self._rows.move_to_end(request)
            self._rescore(row, np.flatnonzero(self._changed_at > row.seen))
        row.seen = self._changes
        if self._changes - row.priced > len(row.total) / _REPRICED_PART:
            prices = self._prices[self._hosting.makeup]
            row.total = self._rounded(row.base - np.einsum("nc,nc->n", row.spent, prices), slice(None))
            row.priced = self._changes
        return row

    def _learn(self, request: Request) -> Row:
        nodes, columns = self._hosting.hosts.shape
        row = Row(
            steps=self._hosting.cards.steps_of(self._capacity.shape(request)),
            base=np.full(nodes, _NOWHERE),
            spent=np.zeros((nodes, columns), dtype=np.float32),
            cards=np.zeros((nodes, request.gpu_count), dtype=np.int64),
            total=np.full(nodes, _NOWHERE),
            seen=self._changes,
            priced=self._changes,
        )
        for start in range(0, nodes, _CHUNK):
            self._rescore(row, np.arange(start, min(start + _CHUNK, nodes)))
        self._rows[request] = row
        self._bytes += row.nbytes()
        while self._bytes > _MOST_BYTES and len(self._rows) > 1:
            _, old = self._rows.popitem(last=False)
            self._hosting.cards.forget(old.steps)
            self._bytes -= old.nbytes()
        return row

    def _rescore(self, row: Row, nodes: Ints) -> None:
        capacity, hosting, request = self._capacity, self._hosting, row.steps.shape.request
        row.base[nodes] = row.total[nodes] = _NOWHERE
        nodes = nodes[capacity.has_room(request, nodes)]
        states = hosting.states[nodes]
        cards, fits = self._choose(row.steps, states, request.gpu_count)
        nodes, cards, states = nodes[fits], cards[fits], states[fits]
        if not nodes.size:
            return
        before = np.take_along_axis(states, cards, axis=1)
        after = row.steps.after[before]
        known, weights = hosting.cards, self._weights
        room = hosting.room[nodes] + (known.room[after] - known.room[before]).sum(axis=1)
        usable = hosting.usable[nodes] + (known.usable[after] - known.usable[before]).sum(axis=1)
        free = hosting.free[nodes] + (known.free[after] - known.free[before]).sum(axis=1)
        hosts = hosting.hosts_with(room, capacity.cpu_milli[nodes] - request.cpu_milli)
        makeup = hosting.makeup[nodes]
        useful = hosting.useful_with(hosts, usable, makeup)
        less_useless = (hosting.free[nodes] - hosting.useful[nodes]) - (free - useful)
        base = weights.useless / (1 + np.exp(-less_useless / CARD_MILLI))
        base -= weights.worth * row.steps.loss[before].sum(axis=1) + weights.free * free / CARD_MILLI
        spent = hosting.hosts[nodes] - hosts
        spent *= np.float32(weights.scarcity)
        row.base[nodes], row.spent[nodes], row.cards[nodes] = base, spent, cards
        row.total[nodes] = self._rounded(base - np.einsum("nc,nc->n", spent, self._prices[makeup]), nodes)

    def _choose(self, steps: Steps, states: Ints, number: int) -> tuple[Ints, Bools]:
        """Return the cards of each node that lose least worth, the fullest of equal ones, and whether they all fit."""
        if not number:
            return np.zeros((len(states), 0), dtype=np.int64), np.ones(len(states), dtype=np.bool_)
        if number > states.shape[1]:
            return np.zeros((len(states), number), dtype=np.int64), np.zeros(len(states), dtype=np.bool_)
        rank = self._hosting.cards.known(steps, states)
        cards = rank.argmin(axis=1)[:, np.newaxis] if number == 1 else np.argsort(rank, axis=1, kind="stable")[:, :number]
        worst = np.take_along_axis(rank, cards[:, -1:], axis=1)[:, 0]
        return cards, worst < REFUSED

    def _rounded(self, points: Floats, nodes: Ints | slice) -> Floats:
        step = self._weights.step
        if step:
            points = np.rint(points / step) * step
        # Between nodes without cards the one in use wins, so that an empty one can be given back.
        total: Floats = points + _USED * ((self._hosting.makeup[nodes] == 0) & self._capacity.used[nodes])
        return total
