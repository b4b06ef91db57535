"""Demands onto the cards of nodes that exist, each where it destroys least of what typical pods need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tfscale.errors import BadInputError, Problem
from tfscale.model import Demand, Node
from tfscale.slicing.order import competing_order, filling_order
from tfscale.slicing.packer import Packer, Placed
from tfscale.slicing.reasons import flaw
from tfscale.slicing.typical import typical_of

__all__ = ["Left", "Packing", "pack", "unpackable"]


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

    By priority, then age, then size, a demand goes where it destroys least of what the demands and the pods that are bound
    typically need; of equal nodes without cards to one in use, so that empty ones can be given back, else to the first by
    name. `pinned` maps the uid of a demand to the name of a node on which it is placed before
    all others if it fits; otherwise it competes like any other. Nothing is ever over-committed, and the order of the
    arguments makes no difference. Raises ``BadInputError`` if two nodes have one name.

    >>> from tfscale.model import Request
    >>> node = Node(name="cpu-0", pool="small", cpu_milli=4_000, memory_mib=8_192)
    >>> pod = Demand(id="default/web-0", uid="1", pool="small", request=Request(cpu_milli=5_000))
    >>> pack([pod], [node]).left[0].reasons
    ('1 node: needs 5000m CPU, at most 4000 free',)
    """
    wanted, left = unpackable(sorted(demands, key=competing_order))
    _refuse_namesakes(nodes)
    placed: list[Placed] = []
    for pool in sorted({demand.pool for demand in wanted}):
        of_pool = [demand for demand in wanted if demand.pool == pool]
        found, refused = _pack_pool(of_pool, [node for node in nodes if node.pool == pool], pinned or {})
        placed += found
        left += refused
    return Packing(placed=tuple(placed), left=tuple(sorted(left, key=lambda item: competing_order(item.demand))))


def _pack_pool(demands: Sequence[Demand], nodes: Iterable[Node], pinned: Mapping[str, str]) -> tuple[list[Placed], list[Left]]:
    ordered = sorted(nodes, key=lambda node: node.name)
    bound = [pod.request for node in ordered for pod in node.pods if not pod.daemon]
    packer = Packer(ordered, typical=typical_of([*(demand.request for demand in demands), *bound]))
    pins = [packer.pin(demand, pinned[demand.uid]) for demand in sorted(demands, key=filling_order) if demand.uid in pinned]
    placed = [found for found in pins if found]
    done = {item.demand.uid for item in placed}
    refused = []
    for demand in demands:
        # A pod that is to leave its node is bound there still.
        found = None if demand.uid in done else packer.place(demand, moving=True)
        if found:
            placed.append(found)
        elif demand.uid not in done:
            refused.append(demand)
    return placed, _explained(refused, packer)


def _explained(refused: Iterable[Demand], packer: Packer) -> list[Left]:
    """Say why for each; alike ones have one reason, which is looked for once."""
    known: dict[tuple[object, ...], tuple[str, ...]] = {}
    left = []
    for demand in refused:
        key = (demand.request, demand.terms, demand.tolerations)
        if key not in known:
            known[key] = packer.reasons(demand)
        left.append(Left(demand=demand, reasons=known[key]))
    return left


def _refuse_namesakes(nodes: Iterable[Node]) -> None:
    names: set[str] = set()
    for node in nodes:
        if node.name in names:
            raise BadInputError(Problem(where=f"node {node.name}", field="metadata.name", value=node.name, want="a unique name"))
        names.add(node.name)


def unpackable(demands: Iterable[Demand]) -> tuple[list[Demand], list[Left]]:
    """Set aside, with the reason, what must not be placed: blocked or contradictory demands, and a second one of one uid."""
    good: list[Demand] = []
    left: list[Left] = []
    seen: set[str] = set()
    for demand in demands:
        if demand.uid in seen:
            left.append(Left(demand=demand, reasons=(f"another demand has the same uid {demand.uid}",)))
        elif reason := demand.blocked or flaw(demand.request):
            left.append(Left(demand=demand, reasons=(reason,)))
        else:
            good.append(demand)
        seen.add(demand.uid)
    return good, left
