"""How nodes that have to go are emptied: first their pods get another place, then they are asked to leave."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from tfscale.disruption import is_near, patience_s
from tfscale.lifecycle import State
from tfscale.model import BoundPod, Cluster, Demand, Disruption, Node, NodeRequest
from tfscale.plan import Drain
from tfscale.pool import Pool
from tfscale.records import Book
from tfscale.slicing import Left, Packing, Placed, pack

__all__ = ["Moves", "displaced", "drains", "filled", "reserved", "taken_back"]


def displaced(cluster: Cluster, book: Book) -> list[Demand]:
    """Return what the pods of nodes that are emptied will ask for again.

    A pod that was asked to leave is not counted: who made it makes another one, which waits by itself. One that is not to be
    disturbed is only when its machine goes soon: its next place would be paid for until then.
    """
    return [
        guest.demand
        for request, drain in _draining(book)
        for guest in cluster.guests.get(request.node, ())
        if guest.demand and not guest.leaving and (is_near(drain, cluster.now_s) or not guest.held)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Where displaced pods can go now, in thought: nothing is written of it."""

    demands: Sequence[Demand]
    nodes: Sequence[Node]
    """Nodes with room taken for displaced pods that a node was bought for."""
    housed: Mapping[str, str]
    """By uid: the node that is there and has room."""
    left: tuple[Left, ...] = ()

    def beside(self, packing: Packing) -> Moves:
        """Return these and the moves of the other displaced pods into what the waiting pods leave."""
        others = [demand for demand in self.demands if demand.uid not in self.housed]
        if not others:
            return self
        found = pack(others, filled(self.nodes, packing.placed), by_age=False)
        housed = {placed.demand.uid: placed.node for placed in found.placed}
        return replace(self, housed={**self.housed, **housed}, left=found.left)

    def nodes_awaited(self, cluster: Cluster, pinned: Mapping[str, str]) -> set[str]:
        """Return the nodes that are not idle although nobody is there: displaced pods, or those that follow them, will come."""
        guests = chain.from_iterable(cluster.guests.values())
        return {*self.housed.values(), *(pinned[guest.uid] for guest in guests if guest.uid in pinned)}


def reserved(demands: Sequence[Demand], nodes: Sequence[Node], pinned: Mapping[str, str]) -> Moves:
    """Return the moves to nodes that were bought for these displaced pods: their room is theirs before pods that came later."""
    bought_for = [demand for demand in demands if demand.uid in pinned]
    packing = pack(bought_for, nodes, pinned=pinned) if bought_for else Packing(placed=(), left=())
    kept = [placed for placed in packing.placed if placed.node == pinned[placed.demand.uid]]
    return Moves(demands=demands, nodes=filled(nodes, kept), housed={placed.demand.uid: placed.node for placed in kept})


def taken_back(cluster: Cluster, book: Book) -> dict[str, tuple[str, ...]]:
    """Return by request the offer that the cloud wants back, where that is news."""
    recorded = {request.name: request for request in cluster.requests}
    scarce = {notice.machine_id for notice in cluster.notices if notice.scarce}
    return {
        request.name: (request.offer,)
        for request, drain in _draining(book)
        if request.offer and request.machine_id in scarce and recorded[request.name].drain != drain
    }


def drains(
    cluster: Cluster, pool: Pool, book: Book, *, housed: Collection[str], lost: Mapping[str, tuple[str, ...]]
) -> list[Drain]:
    """Return what is to be done about nodes that have to go. `housed` are the uids of pods that have another place by now."""
    recorded = {request.name: request for request in cluster.requests}
    found = []
    for request, drain in _draining(book):
        until_s = patience_s(drain, pool)
        late = until_s is not None and cluster.now_s >= until_s
        pods = tuple(
            guest
            for guest in cluster.guests.get(request.node, ())
            if not (guest.leaving or guest.held or guest.stays) and (late or guest.demand is None or guest.uid in housed)
        )
        if pods or recorded[request.name] != request:
            found.append(
                Drain(
                    pool=pool.name,
                    request=request,
                    node=request.node,
                    pods=pods,
                    disappointing=lost.get(request.name, ()),
                    why=f"{drain.event}: {drain.why}",
                )
            )
    return found


def _draining(book: Book) -> list[tuple[NodeRequest, Disruption]]:
    return [
        (request, request.drain)
        for request in book.requests
        if request.state is State.DRAINING and request.drain and request.name not in book.problems
    ]


def filled(nodes: Sequence[Node], placed: Iterable[Placed]) -> list[Node]:
    """Return the nodes as if these pods were there."""
    more: dict[str, list[BoundPod]] = {}
    for one in placed:
        asked = one.demand
        pod = BoundPod(id=asked.id, uid=asked.uid, request=asked.request, slices=one.slices, mirror=asked.mirror)
        more.setdefault(one.node, []).append(pod)
    return [replace(node, pods=(*node.pods, *more[node.name])) if node.name in more else node for node in nodes]
