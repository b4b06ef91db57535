"""What every node can still host of the typical workload, kept up to date while pods come and go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from tfscale.model import CARD_MILLI, Request
from tfscale.slicing.alike import Alike, Singles
from tfscale.slicing.capacity import GONE, Bools, Capacity, Ints
from tfscale.slicing.cards import NO_CARD, CardStates
from tfscale.slicing.typical import Targets
from tfscale.slicing.worth import Floats

__all__ = ["Hosting"]

_NO_CARDS: frozenset[int] = frozenset()
_CHUNK = 2_048
"""How many groups are worked out at once, which bounds the memory."""


class Hosting:
    """What the nodes can host, derived from the capacity; ``refresh``, ``moved`` and ``close`` are the only changes."""

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
        numbers = np.bincount(capacity.kind.ravel(), minlength=len(capacity.kinds)).tolist()
        self.cards = CardStates(capacity.kinds, self.targets, numbers)
        nodes, columns = len(makeups), self.targets.cards.size
        self.states: Ints = np.zeros(capacity.kind.shape, dtype=np.int64)
        self.alike = Alike(nodes, capacity.kind.shape[1], columns)
        self.changes = 0
        self.changed_at: Ints = np.zeros(nodes, dtype=np.int64)
        """By node: its last change, by their number."""
        self.supply: Floats = np.zeros((len(distinct), columns))
        """By makeup and column: the sum of ``hosts`` over the nodes that are not closed."""
        self.supply_free_milli = 0.0
        self.refresh(range(nodes))

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

    def refresh(self, rows: Sequence[int]) -> None:
        """Read these rows of the capacity again."""
        self.changes += 1
        self.changed_at[rows] = self.changes
        self._count(rows, -1)
        self._learn([fresh for row in rows if (fresh := self._read(row)) is not None])
        self._count(rows, 1)

    def _read(self, row: int) -> int | None:
        capacity, kinds = self._capacity, self._capacity.kind[row].tolist()
        cards = zip(
            kinds,
            capacity.vram_mib[row].tolist(),
            capacity.compute_milli[row].tolist(),
            capacity.holders[row].tolist(),
            strict=True,
        )
        self.makeup[row] = self._makeups[_makeup(kinds)]
        self.states[row] = [
            self.cards.id_of(kind, vram, compute, empty=not holders) if kind else NO_CARD
            for kind, vram, compute, holders in cards
        ]
        return self._join(row)

    def _join(self, row: int) -> int | None:
        capacity, makeup = self._capacity, int(self.makeup[row])
        memory_mib = int(capacity.memory_mib[row]) if capacity.pods[row] > 0 else GONE
        preferred = not makeup and bool(capacity.used[row])
        rest = (int(capacity.cpu_milli[row]), memory_mib, makeup, preferred)
        return self.alike.join(row, self.states[row], rest, self.changes)

    def _learn(self, groups: Sequence[int]) -> None:
        """Work out what new groups can host."""
        alike, columns = self.alike, self.targets.cards.size
        for start in range(0, len(groups), _CHUNK):
            some = groups[start : start + _CHUNK] if len(groups) > 1 else slice(groups[0], groups[0] + 1)
            alike.traits[some] = traits = np.add.reduce(self.cards.traits[alike.states[some]], axis=1)
            alike.free[some] = free = traits[:, -1]
            alike.hosts[some] = hosts = self.hosts_with(traits[:, :columns], alike.cpu_milli[some])
            alike.useless[some] = free - self.useful_with(hosts, traits[:, columns:-1], alike.makeup[some])

    def moved(self, row: int, cards: Ints, states: Ints) -> None:
        """Take over the new states of some cards of a node; what else is free there was changed before."""
        self.changes += 1
        self.changed_at[row] = self.changes
        alike, makeup, old = self.alike, self.makeup[row], self.alike.of[row]
        before, was_free = alike.hosts[old].copy(), alike.free[old]
        self.states[row, cards] = states
        fresh = self._join(row)
        self._learn([] if fresh is None else [fresh])
        if not self._closed[row]:
            self.supply[makeup] += alike.hosts[alike.of[row]] - before
            self.supply_free_milli += float(alike.free[alike.of[row]] - was_free)

    def _count(self, rows: Sequence[int], sign: int) -> None:
        counted = np.array([row for row in rows if not self._closed[row]], dtype=np.int64)
        groups = self.alike.of[counted]
        np.add.at(self.supply, self.makeup[counted], sign * self.alike.hosts[groups].astype(np.float64))
        self.supply_free_milli += sign * float(self.alike.free[groups].sum())

    def close(self, row: int, *, closed: bool) -> None:
        """Count the node as supply no longer, or again."""
        self._count([row], -1)
        self._closed[row] = closed
        self._count([row], 1)

    def hosts_with(self, room: Singles, cpu_milli: Ints) -> Singles:
        """Return how many pods of each target nodes with this room and CPU can host: whole in cards, fractional in CPU.

        A node that hosts two and a half by its CPU is worth more than one that hosts two: the half is kept by whoever
        asks for less.
        """
        by_cpu = cpu_milli.astype(np.float32)[:, np.newaxis] * self._per_cpu
        hosts: Singles = room / self._cards_asked
        np.floor(hosts, out=hosts)
        np.minimum(hosts, by_cpu, out=hosts)
        hosts *= by_cpu >= 1
        return hosts

    def useful_with(self, hosts: Singles, usable: Singles, makeup: Ints) -> Floats:
        """Return how many thousandths of cards typical pods can use: all pods for which the node is no host use none."""
        useful: Floats = np.vecdot(usable * (hosts > 0), self._share[makeup]).astype(np.float64)
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
