"""Demands onto the cards of nodes that exist, each where the least GPU capacity becomes useless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tfscale.errors import BadInputError, Problem
from tfscale.model import Demand, GpuSlice, Node, Request
from tfscale.selectors import Requirement, Toleration
from tfscale.slicing.capacity import Bools, Capacity
from tfscale.slicing.fragmentation import targets_of
from tfscale.slicing.order import competing_order, filling_order
from tfscale.slicing.packer import Packer
from tfscale.slicing.reasons import counted, refusal, shortages
from tfscale.slicing.vacancy import Vacancy

__all__ = ["Left", "Packing", "Placed", "pack", "unpackable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A demand with its place. ``slices`` is empty for a pod that asks for CPU and memory alone."""

    demand: Demand
    node: str
    slices: tuple[GpuSlice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A demand without a place, with what is in the way; the most frequent cause comes first."""

    demand: Demand
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where every demand goes: each is in one of the two, once."""

    placed: tuple[Placed, ...]
    left: tuple[Left, ...]


def pack(demands: Sequence[Demand], nodes: Sequence[Node], *, pinned: Mapping[str, str] | None = None) -> Packing:
    """Place demands on nodes of their pool, and say of every other one why it was left.

    By priority, then age, then size, a demand goes where it adds least fragmentation; of equal nodes to one in use, so
    that empty ones can be given back. `pinned` maps the uid of a demand to the name of a node on which it is placed before
    all others if it fits; otherwise it competes like any other. Nothing is ever over-committed, and the order of the
    arguments makes no difference. Raises ``BadInputError`` if two nodes have one name.

    >>> node = Node(name="cpu-0", pool="small", cpu_milli=4_000, memory_mib=8_192)
    >>> pod = Demand(id="default/web-0", uid="1", pool="small", request=Request(cpu_milli=5_000))
    >>> pack([pod], [node]).left[0].reasons
    ('1 node: needs 5000m CPU, at most 4000 free',)
    """
    ordered = sorted(nodes, key=lambda node: node.name)
    _refuse_namesakes(ordered)
    wanted, left = unpackable(sorted(demands, key=competing_order))
    places = _Places(ordered)
    placed = places.pin(wanted, pinned or {})
    done = {item.demand.uid for item in placed}
    waiting = [demand for demand in wanted if demand.uid not in done]
    bound = [pod.request for node in nodes for pod in node.pods if not pod.daemon]
    packer = Packer(ordered, places.vacancies, targets_of([*(demand.request for demand in wanted), *bound]))
    refused = []
    for demand in waiting:
        found = packer.place(demand.request, places.open_to(demand))
        if found is None:
            refused.append(demand)
        else:
            placed.append(Placed(demand=demand, node=ordered[found[0]].name, slices=found[1]))
    left += [Left(demand=demand, reasons=places.reasons(demand, packer.capacity)) for demand in refused]
    return Packing(placed=tuple(placed), left=tuple(sorted(left, key=lambda item: competing_order(item.demand))))


def _refuse_namesakes(ordered: Sequence[Node]) -> None:
    for node, following in pairwise(ordered):
        if node.name == following.name:
            raise BadInputError(Problem(where=f"node {node.name}", field="metadata.name", value=node.name, want="a unique name"))


def unpackable(demands: Iterable[Demand]) -> tuple[list[Demand], list[Left]]:
    """Set aside, with the reason, what must not be placed: blocked demands, and a second demand of one uid."""
    good: list[Demand] = []
    left: list[Left] = []
    seen: set[str] = set()
    for demand in demands:
        if demand.uid in seen:
            left.append(Left(demand=demand, reasons=(f"another demand has the same uid {demand.uid}",)))
        elif demand.blocked:
            left.append(Left(demand=demand, reasons=(demand.blocked,)))
        else:
            good.append(demand)
        seen.add(demand.uid)
    return good, left


_Constraints = tuple[str, tuple[tuple[Requirement, ...], ...], tuple[Toleration, ...]]


class _Places:
    """Which nodes may take which demand, whatever they have free."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.vacancies = [Vacancy(node) for node in nodes]
        self._refusals: dict[_Constraints, list[str | None]] = {}
        self._open: dict[_Constraints, Bools] = {}
        self._reasons: dict[tuple[_Constraints, Request], tuple[str, ...]] = {}

    def pin(self, demands: Iterable[Demand], pinned: Mapping[str, str]) -> list[Placed]:
        """Place the pinned demands that fit on the node each was given."""
        rows = {node.name: row for row, node in enumerate(self.nodes)}
        placed = []
        for demand in sorted(demands, key=filling_order):
            row = rows.get(pinned.get(demand.uid, ""))
            if row is None or not self.open_to(demand)[row]:
                continue
            slices = self.vacancies[row].place(demand.request)
            if slices is not None:
                placed.append(Placed(demand=demand, node=self.nodes[row].name, slices=slices))
        return placed

    def open_to(self, demand: Demand) -> Bools:
        """Return for every node whether the demand may go there."""
        key = _constraints(demand)
        if key not in self._open:
            self._refusals[key] = [self._refusal(demand, row) for row in range(len(self.nodes))]
            self._open[key] = np.array([refused == "" for refused in self._refusals[key]], dtype=np.bool_)
        return self._open[key]

    def _refusal(self, demand: Demand, row: int) -> str | None:
        """Return why the node must not take the demand, empty if it may, None if it is of another pool."""
        node, vacancy = self.nodes[row], self.vacancies[row]
        if node.pool != demand.pool:
            return None
        if vacancy.stray:
            return f"a pod holds card {vacancy.stray}, which the node does not have"
        return refusal(demand, node)

    def reasons(self, demand: Demand, capacity: Capacity) -> tuple[str, ...]:
        """Return why no node takes the demand, by what is free now."""
        key = (_constraints(demand), demand.request)
        if key not in self._reasons:
            rows = np.flatnonzero(self.open_to(demand))
            causes = Counter(refused for refused in self._refusals[key[0]] if refused)
            for short in shortages(capacity, capacity.shape(demand.request), rows):
                most = f", at most {short.best} {short.noun}" if short.noun else ""
                causes[f"needs {short.need}{most}"] += short.nodes
            self._reasons[key] = counted(causes, "node") or (f"no node of pool {demand.pool}",)
        return self._reasons[key]


def _constraints(demand: Demand) -> _Constraints:
    return (demand.pool, demand.terms, demand.tolerations)
