"""Which nodes may take which demand, whatever they have free, and why the others may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tfscale.model import INSTANCE_TYPE, Demand, Node
from tfscale.selectors import Requirement, Toleration
from tfscale.slicing.capacity import Bools, Capacity, Ints
from tfscale.slicing.reasons import Shortage, counted, refusal, shortages

__all__ = ["Places"]

_Constraints = tuple[str, tuple[tuple[Requirement, ...], ...], tuple[Toleration, ...], str]


@dataclass(slots=True)
class _Known:
    """One set of constraints against every row."""

    example: Demand
    refusals: list[str | None]
    open_to: Bools


class Places:
    """The nodes by row, None where there is none, with what was worked out for each set of constraints."""

    def __init__(self, nodes: Sequence[Node | None], strays: Sequence[str]) -> None:
        self.nodes = list(nodes)
        self._strays = list(strays)
        self._apart = [frozenset(pod.apart for pod in node.pods) if node else frozenset() for node in nodes]
        self._known: dict[_Constraints, _Known] = {}

    def put(self, row: int, node: Node | None, stray: str, apart: Iterable[str]) -> None:
        """Take over a node that came, went or changed; `apart` is what the pods there want to be alone with."""
        self.nodes[row], self._strays[row], self._apart[row] = node, stray, frozenset(apart)
        self._renew(row, self._known.values())

    def seat(self, row: int, apart: str) -> None:
        """Take over a pod that is on the node from now on."""
        if apart:
            self._apart[row] |= {apart}
            self._renew(row, (known for known in self._known.values() if known.example.apart == apart))

    def _renew(self, row: int, renewed: Iterable[_Known]) -> None:
        for known in renewed:
            known.refusals[row] = self._refusal(known.example, row)
            known.open_to[row] = known.refusals[row] == ""

    def closed(self) -> Bools:
        """Return which rows take nobody at all."""
        return np.array([self.is_closed(row) for row in range(len(self.nodes))], dtype=np.bool_)

    def is_closed(self, row: int) -> bool:
        """Return whether nobody may be placed there."""
        node = self.nodes[row]
        return node is None or not node.ready or bool(node.fenced or self._strays[row])

    def open_to(self, demand: Demand) -> Bools:
        """Return for every row whether the demand may go there."""
        return self._of(demand).open_to

    def _of(self, demand: Demand) -> _Known:
        key = (demand.pool, demand.terms, demand.tolerations, demand.apart)
        known = self._known.get(key)
        if known is None:
            refusals = [self._refusal(demand, row) for row in range(len(self.nodes))]
            open_to = np.array([refused == "" for refused in refusals], dtype=np.bool_)
            known = self._known[key] = _Known(demand, refusals, open_to)
        return known

    def _refusal(self, demand: Demand, row: int) -> str | None:
        """Return why the node must not take the demand, empty if it may, None if it is of another pool or not there."""
        node, stray = self.nodes[row], self._strays[row]
        if node is None or node.pool != demand.pool:
            return None
        if stray:
            return f"a pod holds card {stray}, which the node does not have"
        refused = refusal(demand, node)
        return (
            f"a pod of {demand.apart} is there" if not refused and demand.apart and demand.apart in self._apart[row] else refused
        )

    def reasons(self, demand: Demand, capacity: Capacity) -> tuple[str, ...]:
        """Return why no node takes the demand, by what is free now."""
        rows = np.flatnonzero(self.open_to(demand))
        causes = Counter(refused for refused in self._of(demand).refusals if refused)
        for short in shortages(capacity, capacity.shape(demand.request), rows):
            causes[_missing(short)] += short.nodes
        return counted(causes, "node") or (f"no node of pool {demand.pool}",)

    def by_class(self, demand: Demand, capacity: Capacity) -> tuple[str, ...]:
        """Return for each class of nodes why it refuses the demand: alike are nodes of one type with the same cards."""
        refusals, shape = self._of(demand).refusals, capacity.shape(demand.request)
        lines: list[str] = []
        for name, rows in self._classes(demand.pool).items():
            causes = Counter(refused for row in rows.tolist() if (refused := refusals[row]))
            open_rows = rows[[refusals[row] == "" for row in rows.tolist()]]
            for short in shortages(capacity, shape, open_rows):
                lack = f", {short.want - short.best} too few" if short.noun else ""
                causes[_missing(short) + lack] += short.nodes
            lines += [f"{name}: {line}" for line in counted(causes, "node")]
        return tuple(lines)

    def _classes(self, pool: str) -> dict[str, Ints]:
        rows: dict[str, list[int]] = {}
        for row, node in enumerate(self.nodes):
            if node is not None and node.pool == pool:
                rows.setdefault(_class_of(node), []).append(row)
        return {name: np.array(rows[name], dtype=np.int64) for name in sorted(rows)}


def _missing(short: Shortage) -> str:
    return f"needs {short.need}" + (f", at most {short.best} {short.noun}" if short.noun else "")


def _class_of(node: Node) -> str:
    cards = Counter(gpu.model for gpu in node.gpus)
    words = [node.labels.get(INSTANCE_TYPE, ""), *(f"{count} x {model}" for model, count in sorted(cards.items()))]
    return ", ".join(word for word in words if word) or "no GPU"
