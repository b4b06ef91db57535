"""One demand after another onto nodes that come, go and change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tfscale.errors import BadInputError, Problem
from tfscale.model import BoundPod, Demand, GpuSlice, Node, Request
from tfscale.slicing.capacity import Capacity
from tfscale.slicing.hosting import Hosting
from tfscale.slicing.places import Places
from tfscale.slicing.reasons import flaw
from tfscale.slicing.scores import Scores, Weights
from tfscale.slicing.vacancy import Vacancy

__all__ = ["Packer", "Placed"]

_SPARE_PART = 16
"""One row in so many is kept free for nodes that are added."""
_MOST_STATES = 20_000
"""After so many states of cards, most of them of the past, everything is worked out anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A demand with its place. ``slices`` is empty for a pod that asks for CPU and memory alone."""

    demand: Demand
    node: str
    slices: tuple[GpuSlice, ...]

    def pod(self) -> BoundPod:
        """Return the pod as it is bound there."""
        demand = self.demand
        return BoundPod(
            id=demand.id,
            uid=demand.uid,
            request=demand.request,
            slices=self.slices,
            mirror=demand.mirror,
            apart=demand.apart,
        )


class Packer:
    """Places demands one at a time, each where it destroys least; a demand that fits somewhere is never refused.

    `typical` says what kinds of pod are to be expected, with their counts (``typical_of`` makes it from known ones): for
    them room is kept. Of equal nodes the first one is taken, so the order of `nodes` decides. Raises ``BadInputError`` if
    two nodes have one name.

    >>> from tfscale.model import Gpu, Request
    >>> t4 = Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000)
    >>> packer = Packer([Node(name="a", pool="p", gpus=(t4,), cpu_milli=4_000, memory_mib=8_192)], typical={})
    >>> pod = Demand(id="default/asr", uid="1", pool="p", request=Request(gpu_count=1, vram_mib=10_000, compute_milli=500))
    >>> packer.place(pod).slices
    (GpuSlice(gpu_id='0', vram_mib=10000, compute_milli=500),)
    >>> packer.explain(replace(pod, uid="2"))
    ('1 x T4: 1 node: needs 10000 MiB VRAM on one card, at most 6384 free, 3616 too few',)
    """

    def __init__(self, nodes: Sequence[Node], *, typical: Mapping[Request, int], weights: Weights | None = None) -> None:
        self._typical = dict(typical)
        self._weights = weights or Weights()
        self._build(nodes, [])

    def _build(self, nodes: Sequence[Node], placed: Iterable[Placed]) -> None:
        """Start anew on these nodes, whose pods are bound, with what was placed on them."""
        self._rows: dict[str, int] = {}
        self._bound: dict[str, int] = {}
        for row, node in enumerate(nodes):
            _refuse_namesake(node, self._rows)
            self._rows[node.name] = row
            self._bound.update((pod.uid, row) for pod in node.pods)
        self._placed = {item.demand.uid: item for item in placed}
        self._by_row: dict[int, dict[str, Placed]] = {}
        for uid, item in self._placed.items():
            self._by_row.setdefault(self._rows[item.node], {})[uid] = item
        self._spare = list(range(len(nodes), len(nodes) + len(nodes) // _SPARE_PART))
        now = [*(self._now_of(row, node) for row, node in enumerate(nodes)), *([None] * len(self._spare))]
        vacancies = [Vacancy(node) if node else None for node in now]
        self._capacity = Capacity(vacancies)
        strays = [vacancy.stray if vacancy else "" for vacancy in vacancies]
        self._places = Places([*nodes, *([None] * len(self._spare))], strays)
        for item in self._placed.values():
            self._places.seat(self._rows[item.node], item.demand.apart)
        self._hosting = Hosting(self._capacity, self._typical, self._places.closed())
        self._scores = Scores(self._capacity, self._hosting, self._weights)
        self._states_max = max(_MOST_STATES, 2 * len(self._hosting.cards))

    def _rebuild(self, *more: Node) -> None:
        self._build([*(self._node(row) for row in sorted(self._rows.values())), *more], list(self._placed.values()))

    def place(self, demand: Demand, *, moving: bool = False) -> Placed | None:
        """Give the demand its part of the best node and return it, or None where it fits on no node that may take it.

        `moving` says that the pod already holds a place and is to get a second one, for a move. Raises ``BadInputError`` for
        a uid that has a place already, and for a request that contradicts itself.
        """
        self._check(demand, moving=moving)
        if demand.blocked:
            return None
        if len(self._hosting.cards) > self._states_max:
            self._rebuild()
        row = self._scores.best(demand.request, self._places.open_to(demand))
        if row is None:
            return None
        cards = self._scores.take(row)
        node = self._node(row)
        parts = [demand.request.slice_of(node.gpus[card]) for card in cards.tolist()]
        slices = tuple(sorted(part for part in parts if part))
        return self._note(row, Placed(demand=demand, node=node.name, slices=slices))

    def pin(self, demand: Demand, name: str) -> Placed | None:
        """Place the demand on this node, on its tightest cards; None where it may not go there or does not fit."""
        self._check(demand, moving=True)
        row = self._rows.get(name)
        if row is None or demand.blocked or not self._places.open_to(demand)[row]:
            return None
        vacancy = Vacancy(self._now(row))
        slices = vacancy.place(demand.request)
        if slices is None:
            return None
        self._capacity.read(row, vacancy)
        self._scores.changed(row)
        return self._note(row, Placed(demand=demand, node=name, slices=slices))

    def _check(self, demand: Demand, *, moving: bool) -> None:
        wrong = flaw(demand.request)
        if wrong:
            raise BadInputError(Problem(where=f"pod {demand.id}", field=wrong.field, value=wrong.value, want=wrong.want))
        if demand.uid in self._placed or (demand.uid in self._bound and not moving):
            raise BadInputError(Problem(where=f"pod {demand.id}", field="uid", value=demand.uid, want="a pod without a place"))

    def _note(self, row: int, placed: Placed) -> Placed:
        self._placed[placed.demand.uid] = placed
        self._by_row.setdefault(row, {})[placed.demand.uid] = placed
        self._places.seat(row, placed.demand.apart)
        return placed

    def remove(self, uid: str) -> bool:
        """Free the place of a pod, one that was placed here before one that was bound; False where it has none."""
        placed = self._placed.pop(uid, None)
        if placed is not None:
            row = self._rows[placed.node]
            del self._by_row[row][uid]
        else:
            known = self._bound.pop(uid, None)
            if known is None:
                return False
            row, node = known, self._node(known)
            self._places.nodes[row] = replace(node, pods=tuple(pod for pod in node.pods if pod.uid != uid))
        self._read(row)
        return True

    def add(self, node: Node) -> None:
        """Take a node into account from now on. Raises ``BadInputError`` if there is one of its name."""
        _refuse_namesake(node, self._rows)
        vacancy = Vacancy(node)
        kinds = self._capacity.kinds_of(vacancy)
        if not self._spare or kinds is None or not self._hosting.knows(kinds):
            self._rebuild(node)
            return
        row = self._spare.pop(0)
        self._rows[node.name] = row
        self._bound.update((pod.uid, row) for pod in node.pods)
        self._put(row, node, vacancy)

    def drop(self, name: str) -> None:
        """Forget a node with all pods on it. Raises ``BadInputError`` if there is no node of this name."""
        row = self._row(name)
        for uid in self._by_row.pop(row, {}):
            del self._placed[uid]
        self._bound = {uid: at for uid, at in self._bound.items() if at != row}
        del self._rows[name]
        self._put(row, None, None)
        self._spare.append(row)

    def fence(self, name: str, why: str) -> None:
        """Place nobody on a node from now on, for this reason; empty: the fence is taken away.

        Its pods stay. Raises ``BadInputError`` if there is no node of this name.
        """
        row = self._row(name)
        self._put(row, replace(self._node(row), fenced=why), Vacancy(self._now(row)))

    def snapshot(self) -> tuple[Node, ...]:
        """Return all nodes as they are now, the placed demands bound to them."""
        return tuple(self._now(row) for row in sorted(self._rows.values()))

    def explain(self, demand: Demand) -> tuple[str, ...]:
        """Return for each class of nodes that refuse the demand now what is missing, and by how much.

        A class is a type of node with the cards it has. Nodes that could take the demand are not spoken of.
        """
        wrong = flaw(demand.request) or demand.blocked
        return (str(wrong),) if wrong else self._places.by_class(demand, self._capacity) or self.reasons(demand)

    def reasons(self, demand: Demand) -> tuple[str, ...]:
        """Return why nodes refuse the demand now, all classes together, the most frequent reason first."""
        return self._places.reasons(demand, self._capacity)

    def _put(self, row: int, node: Node | None, vacancy: Vacancy | None) -> None:
        apart = {pod.apart for pod in self._now_of(row, node).pods if pod.apart} if node else set()
        self._places.put(row, node, vacancy.stray if vacancy else "", apart)
        self._hosting.close(row, closed=self._places.is_closed(row))
        self._capacity.read(row, vacancy)
        self._scores.changed(row)

    def _read(self, row: int) -> None:
        self._put(row, self._node(row), Vacancy(self._now(row)))

    def _node(self, row: int) -> Node:
        node = self._places.nodes[row]
        if node is None:
            raise AssertionError(f"row {row} has no node")
        return node

    def _now(self, row: int) -> Node:
        """Return the node with the pods that were placed on it."""
        return self._now_of(row, self._node(row))

    def _now_of(self, row: int, node: Node) -> Node:
        return replace(node, pods=(*node.pods, *(placed.pod() for placed in self._by_row.get(row, {}).values())))

    def _row(self, name: str) -> int:
        if name not in self._rows:
            raise BadInputError(Problem(where="packer", field="node", value=name, want="a node that is there"))
        return self._rows[name]


def _refuse_namesake(node: Node, names: Mapping[str, int]) -> None:
    if node.name in names:
        raise BadInputError(Problem(where=f"node {node.name}", field="metadata.name", value=node.name, want="a unique name"))
