"""What every node can still host of the typical workload, kept up to date while pods come and go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tfscale.model import CARD_MILLI, Request
from tfscale.slicing.capacity import Bools, Capacity, Ints
from tfscale.slicing.cards import NO_CARD, CardStates
from tfscale.slicing.typical import Targets
from tfscale.slicing.worth import Floats

__all__ = ["Hosting", "Singles"]

Singles = npt.NDArray[np.float32]
_NO_CARDS: frozenset[int] = frozenset()
_CHUNK = 2_048
"""How many nodes are worked out at once, which bounds the memory."""


class Hosting:
    """Arrays by node and column of the targets, derived from the capacity; ``refresh`` is the only change."""

    def __init__(self, capacity: Capacity, typical: Mapping[Request, int], closed: Bools) -> None:
        self._capacity = capacity
        self._closed = closed
        """Nodes that take nobody, whatever they have free: their room is no supply."""
        makeups = [_makeup(kinds) for kinds in capacity.kind.tolist()]
        distinct = list(dict.fromkeys([_NO_CARDS, *makeups]))
        self._makeups = {makeup: index for index, makeup in enumerate(distinct)}
        self.makeup: Ints = np.array([self._makeups[makeup] for makeup in makeups], dtype=np.int64)
        """By node: which kinds of card it has, an index into the makeups of the targets; 0 where it has no cards."""
        self.targets = Targets(typical, capacity.kinds, distinct)
        self.cards = CardStates(capacity.kinds, self.targets)
        nodes, columns = len(makeups), self.targets.cards.size
        self.states: Ints = np.zeros(capacity.kind.shape, dtype=np.int64)
        self.room: Singles = np.zeros((nodes, columns), dtype=np.float32)
        """How many parts of a target all cards of the node have room for."""
        self.usable: Singles = np.zeros((nodes, columns), dtype=np.float32)
        """Thousandths of cards that are free where a part of the target fits."""
        self.free: Floats = np.zeros(nodes)
        """Thousandths of cards that are free."""
        self.hosts: Singles = np.zeros((nodes, columns), dtype=np.float32)
        """How many pods of a target the node can host, CPU considered."""
        self.useful: Floats = np.zeros(nodes)
        """Thousandths of cards that are free and that a typical pod can use, on the average of the typical pods."""
        self.supply: Floats = np.zeros((len(distinct), columns))
        """By makeup: the sum of ``hosts`` over the nodes that are not closed."""
        self.supply_free_milli = 0.0
        for start in range(0, nodes, _CHUNK):
            self.refresh(np.arange(start, min(start + _CHUNK, nodes)))

    def knows(self, kinds: Iterable[int]) -> bool:
        """Return whether some node has cards of just these kinds."""
        return _makeup(kinds) in self._makeups

    @cached_property
    def _cards_asked(self) -> Singles:
        return np.maximum(self.targets.cards, 1).astype(np.float32)

    @cached_property
    def _per_cpu(self) -> Singles:
        cpu = self.targets.cpu_milli
        return np.where(cpu > 0, 1 / np.maximum(cpu, 1), np.float32(1e9)).astype(np.float32)

    @cached_property
    def _share(self) -> Singles:
        return self.targets.share.astype(np.float32)

    def refresh(self, rows: Ints) -> None:
        """Read these rows of the capacity again."""
        self._count(rows, -1)
        capacity = self._capacity
        for row in rows.tolist():
            self.makeup[row] = self._makeups[_makeup(capacity.kind[row].tolist())]
            cards = zip(
                capacity.kind[row].tolist(),
                capacity.vram_mib[row].tolist(),
                capacity.compute_milli[row].tolist(),
                capacity.holders[row].tolist(),
                strict=True,
            )
            for column, (kind, vram, compute, holders) in enumerate(cards):
                self.states[row, column] = self.cards.id_of(kind, vram, compute, empty=not holders) if kind else NO_CARD
        states = self.states[rows]
        self.room[rows] = room = self.cards.room[states].sum(axis=1)
        self.usable[rows] = usable = self.cards.usable[states].sum(axis=1)
        self.free[rows] = self.cards.free[states].sum(axis=1)
        self.hosts[rows] = hosts = self.hosts_with(room, capacity.cpu_milli[rows])
        self.useful[rows] = self.useful_with(hosts, usable, self.makeup[rows])
        self._count(rows, 1)

    def moved(self, row: int, cards: Ints, states: Ints) -> None:
        """Take over the new states of some cards of a node; what else is free there was changed before."""
        one = slice(row, row + 1)
        closed, makeup = self._closed[row], self.makeup[row]
        before, was_free = self.hosts[row].copy(), self.free[row]
        self.states[row, cards] = states
        now = self.states[row]
        self.room[row] = self.cards.room[now].sum(axis=0)
        self.usable[row] = self.cards.usable[now].sum(axis=0)
        self.free[row] = self.cards.free[now].sum()
        self.hosts[one] = hosts = self.hosts_with(self.room[one], self._capacity.cpu_milli[one])
        self.useful[one] = self.useful_with(hosts, self.usable[one], self.makeup[one])
        if not closed:
            self.supply[makeup] += hosts[0] - before
            self.supply_free_milli += float(self.free[row] - was_free)

    def _count(self, rows: Ints, sign: int) -> None:
        rows = rows[~self._closed[rows]]
        np.add.at(self.supply, self.makeup[rows], sign * self.hosts[rows].astype(np.float64))
        self.supply_free_milli += sign * float(self.free[rows].sum())

    def close(self, row: int, *, closed: bool) -> None:
        """Count the node as supply no longer, or again."""
        rows = np.array([row])
        self._count(rows, -1)
        self._closed[row] = closed
        self._count(rows, 1)

    def hosts_with(self, room: Singles, cpu_milli: Ints) -> Singles:
        """Return how many pods of each target nodes with this room and CPU can host: whole in cards, fractional in CPU.

        A node that hosts two and a half by its CPU is worth more than one that hosts two: the half is kept by whoever
        asks for less.
        """
        by_cpu = cpu_milli.astype(np.float32)[:, np.newaxis] * self._per_cpu
        hosts: Singles = np.minimum(np.floor(room / self._cards_asked), by_cpu)
        hosts[by_cpu < 1] = 0
        return hosts

    def useful_with(self, hosts: Singles, usable: Singles, makeup: Ints) -> Floats:
        """Return how many thousandths of cards typical pods can use: all pods for which the node is no host use none."""
        useful: Floats = np.einsum("nc,nc->n", usable * (hosts > 0), self._share[makeup]).astype(np.float64)
        return useful

    def prices(self) -> Singles:
        """Return by makeup and column what a place for one more pod costs: how many such pods come for each place there is.

        Of each target as many pods come as if the free cards were filled by the typical mix.
        """
        targets = self.targets
        places = (targets.accepts * self.supply[:, targets.column].T).sum(axis=1)
        coming = self.supply_free_milli / CARD_MILLI * targets.per_card
        price = coming / np.maximum(places, 1)
        prices = np.zeros((targets.cards.size, self.supply.shape[0]))
        np.add.at(prices, targets.column, targets.accepts * price[:, np.newaxis])
        return np.ascontiguousarray(prices.T, dtype=np.float32)


def _makeup(kinds: Iterable[int]) -> frozenset[int]:
    return frozenset(kind for kind in kinds if kind)
