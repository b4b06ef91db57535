"""Demands onto the cards of nodes that exist, each where it destroys least of what typical pods need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tfscale.errors import BadInputError, Problem
from tfscale.model import CARD_MILLI, Demand, Node, Request
from tfscale.slicing.order import competing_order, dense_order, filling_order
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


def pack(
    demands: Sequence[Demand],
    nodes: Sequence[Node],
    *,
    pinned: Mapping[str, str] | None = None,
    by_age: bool = True,
    typical: Mapping[Request, int] | None = None,
) -> Packing:
    """Place demands on nodes of their pool, and say of every other one why it was left.

    By priority, then age, then size, a demand goes where it destroys least of what pods typically need: `typical` says with
    counts what that is, else the demands and the pods that are bound do. Of equal nodes without cards it goes to one in use,
    so that empty ones can be given back, else to the first by name. Without `by_age`, where not all find a place, demands of
    one priority may come in another order, if that fills more of the cards. A gang comes with its first member, wholly or
    not at all. `pinned` maps the uid of a demand to the name of a node on which it is placed before all others if it fits;
    otherwise it competes like any other. Nothing is ever over-committed, and the order of the arguments makes no
    difference. Raises ``BadInputError`` if two nodes have one name.

    >>> node = Node(name="cpu-0", pool="small", cpu_milli=4_000, memory_mib=8_192)
    >>> pod = Demand(id="default/web-0", uid="1", pool="small", request=Request(cpu_milli=5_000))
    >>> pack([pod], [node]).left[0].reasons
    ('1 node: needs 5000m CPU, at most 4000 free',)
    """
    wanted, left = whole_gangs(*unpackable(sorted(demands, key=competing_order)))
    _refuse_namesakes(nodes)
    placed: list[Placed] = []
    for pool in sorted({demand.pool for demand in wanted}):
        of_pool = [demand for demand in wanted if demand.pool == pool]
        ordered = sorted((node for node in nodes if node.pool == pool), key=lambda node: node.name)
        expected = typical or _typical(of_pool, ordered)
        found = _one_by_one(of_pool, Packer(ordered, typical=expected), pinned or {})
        if found[1] and not by_age:
            other = _one_by_one(sorted(of_pool, key=dense_order), Packer(ordered, typical=expected), pinned or {})
            found = max(found, other, key=lambda tried: _filled_milli(tried[0], of_pool, ordered))
        placed += found[0]
        left += found[1]
    return Packing(placed=tuple(placed), left=tuple(sorted(left, key=lambda item: competing_order(item.demand))))


_Found = tuple[list[Placed], list[Left]]


def _typical(demands: Iterable[Demand], nodes: Iterable[Node]) -> dict[Request, int]:
    bound = [pod.request for node in nodes for pod in node.pods if not pod.daemon]
    return typical_of([*(demand.request for demand in demands), *bound])


def _one_by_one(demands: Sequence[Demand], packer: Packer, pinned: Mapping[str, str]) -> _Found:
    pins = [packer.pin(demand, pinned[demand.uid]) for demand in sorted(demands, key=filling_order) if demand.uid in pinned]
    placed = {found.demand.uid: found for found in pins if found}
    gangs: dict[str, list[Demand]] = {}
    for demand in demands:
        if demand.gang:
            gangs.setdefault(demand.gang, []).append(demand)
    left: list[Left] = []
    refused: list[Demand] = []
    for demand in demands:
        # A gang comes when its first member does.
        members = gangs.pop(demand.gang, []) if demand.gang else [demand]
        missing = _place(members, packer, placed)
        if missing and demand.gang:
            left += _disbanded(members, missing, packer, placed)
        else:
            refused += missing
    return list(placed.values()), [*left, *_explained(refused, packer)]


def _place(members: Iterable[Demand], packer: Packer, placed: dict[str, Placed]) -> list[Demand]:
    """Place those that have no place yet and return those that find none."""
    missing = []
    for demand in members:
        # A pod that is to leave its node is bound there still.
        found = placed.get(demand.uid) or packer.place(demand, moving=True)
        if found:
            placed[demand.uid] = found
        else:
            missing.append(demand)
    return missing


def _disbanded(members: Sequence[Demand], missing: Sequence[Demand], packer: Packer, placed: dict[str, Placed]) -> list[Left]:
    """Take the places of a gang away again, and say which member found none, and why, with the others in their places."""
    why = "; ".join(packer.reasons(missing[0]))
    for member in members:
        if placed.pop(member.uid, None):
            packer.remove(member.uid)
    reason = f"gang {members[0].gang}: {len(missing)} of {len(members)} without a place, {missing[0].id}: {why}"
    return [Left(demand=member, reasons=(reason,)) for member in members]


def _filled_milli(placed: Iterable[Placed], demands: Iterable[Demand], nodes: Iterable[Node]) -> tuple[int, ...]:
    """Return how much of the cards is taken, in thousandths, by priority from the highest: the larger of VRAM and compute."""
    cards = {(node.name, gpu.id): gpu for node in nodes for gpu in node.gpus}
    taken = dict.fromkeys(sorted((demand.priority for demand in demands), reverse=True), 0)
    for item in placed:
        for part in item.slices:
            vram = part.vram_mib * CARD_MILLI // max(cards[item.node, part.gpu_id].vram_mib, 1)
            taken[item.demand.priority] += max(vram, part.compute_milli)
    return tuple(taken.values())


def whole_gangs(good: Sequence[Demand], left: Sequence[Left]) -> tuple[list[Demand], list[Left]]:
    """Set aside the gangs of which a member was set aside, with its reason."""
    broken = {(item.demand.pool, item.demand.gang): item for item in reversed(left) if item.demand.gang}
    more = [
        Left(demand=demand, reasons=(f"gang {demand.gang}: {item.demand.id}: {item.reasons[0]}",))
        for demand in good
        if (item := broken.get((demand.pool, demand.gang)))
    ]
    return [demand for demand in good if (demand.pool, demand.gang) not in broken], [*left, *more]


def _explained(refused: Iterable[Demand], packer: Packer) -> list[Left]:
    """Say why for each; alike ones have one reason, which is looked for once."""
    known: dict[tuple[object, ...], tuple[str, ...]] = {}
    left = []
    for demand in refused:
        key = (demand.request, demand.terms, demand.tolerations, demand.apart)
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
            left.append(Left(demand=demand, reasons=(str(reason),)))
        else:
            good.append(demand)
        seen.add(demand.uid)
    return good, left
