"""Which NodePool an offer stands for: what each of them allows and has room for, and which comes first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tfscale.kube.fields import named
from tfscale.kube.port import Json
from tfscale.model import INSTANCE_TYPE, Offer
from tfscale.modes.nodeclaim_labels import CAPACITY_TYPE, NODE_POOL, ZONE
from tfscale.modes.nodeclaim_limits import Limits, read_limits
from tfscale.modes.nodeclaim_order import condition, foreign_taints, trouble
from tfscale.modes.nodeclaim_pools import NodePool
from tfscale.modes.nodeclaim_types import Living, NodeType, offer_of, wanted_types
from tfscale.pool import OfferFilter
from tfscale.selectors import Operator

__all__ = ["Candidate", "Source", "beyond", "candidate", "sources_of"]

_CAPACITY_TYPES = ("on-demand", "spot", "reserved")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A NodePool that replicas can be made of."""

    pool: NodePool
    limits: Limits
    proven_s: Mapping[str, int]
    """When the youngest healthy claim was made, by offer id and by instance type: what works there demonstrably."""
    troubled: bool
    """One of its claims cannot be launched: what is asked for there next would not fare better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What an offer stands for."""

    candidate: Candidate
    offer: Offer

    @property
    def pool(self) -> NodePool:
        """The NodePool that a machine of this offer is a replica of."""
        return self.candidate.pool

    @property
    def room(self) -> int | None:
        """How many of such nodes its limits leave room for; None is no limit."""
        return self.candidate.limits.room(self.offer)

    def holds(self, count: int) -> bool:
        """Return whether there is room for so many nodes."""
        return self.room is None or self.room >= count

    def rank(self) -> tuple[bool, bool, int, int, int, str]:
        """Return the sort key: with room, without trouble, the largest weight, the latest success with it, and the name."""
        here_s, anywhere_s = (self.candidate.proven_s.get(key, 0) for key in (self.offer.id, self.offer.instance_type))
        return (not self.holds(1), self.candidate.troubled, -self.pool.weight, -here_s, -anywhere_s, self.pool.name)


def candidate(pool: NodePool, obj: Json, claims: Iterable[Json], types: Mapping[str, NodeType]) -> Candidate:
    """Return the NodePool `obj` with what its own of the `claims` say. Raises ``BadInputError``."""
    own = [claim for claim in claims if (claim["metadata"].get("labels") or {}).get(NODE_POOL) == pool.name]
    troubled = any(trouble(named("nodeclaim", one)) for one in own if _is_living(one))
    return Candidate(pool=pool, limits=read_limits(obj, own, types), proven_s=_proven_s(own), troubled=troubled)


def sources_of(
    candidates: Iterable[Candidate], kinds: Sequence[NodeType], seen: Living, wanted: OfferFilter, *, gpu_pool: str
) -> dict[str, Source]:
    """Return by offer id what each offer stands for. `gpu_pool` is the GPUPool whose own taint its pods need not tolerate."""
    found: dict[str, Source] = {}
    for one in candidates:
        for offer in _offers(one.pool, kinds, seen, wanted, gpu_pool):
            source = Source(candidate=one, offer=offer)
            if offer.id not in found or source.rank() < found[offer.id].rank():
                found[offer.id] = source
    return found


def beyond(pool: NodePool, types: Mapping[str, NodeType], wanted: OfferFilter) -> str:
    """Return what a static NodePool allows that is not wanted, or nothing: what it launches, Karpenter alone chooses."""
    kinds = {kind.name for kind in wanted_types(types.values(), wanted)}
    allowed = {
        "instance type": (_named(pool, INSTANCE_TYPE), kinds),
        "zone": (_named(pool, ZONE), set(wanted.zones) or set(_named(pool, ZONE))),
        "capacity type": (_allowed_capacity_types(pool), set(wanted.capacity_types)),
    }
    for what, (names, good) in allowed.items():
        if not names and (what != "zone" or wanted.zones):
            return f"it is static, and its template names no {what}: Karpenter alone would choose"
        if more := sorted(set(names) - good):
            return f"it is static, and allows the {what} {more[0]}, which the pool does not want"
    return ""


def _named(pool: NodePool, key: str) -> list[str]:
    """Return the values of a label that the template names, those left out that it excludes elsewhere."""
    alike = [one for one in pool.conditions if one.key == key]
    values = [value for one in alike if one.operator is Operator.IN for value in one.values]
    return [value for value in dict.fromkeys(values) if all(one.matches({key: value}) for one in alike)]


def _allowed_capacity_types(pool: NodePool) -> list[str]:
    conditions = [one for one in pool.conditions if one.key == CAPACITY_TYPE]
    return [name for name in _CAPACITY_TYPES if all(one.matches({CAPACITY_TYPE: name}) for one in conditions)]


def _offers(pool: NodePool, kinds: Sequence[NodeType], seen: Living, wanted: OfferFilter, gpu_pool: str) -> Iterator[Offer]:
    provider = pool.class_ref.group
    taints = foreign_taints(pool.taints, gpu_pool)
    zones = wanted.zones or pool.zones() or sorted(seen.zones)
    places = [(zone, one, seen.place(zone, provider)) for zone in zones for one in wanted.capacity_types]
    allowed = [(zone, one, place) for zone, one, place in places if pool.permits({**place, CAPACITY_TYPE: one})]
    for kind in kinds:
        if pool.obstacle(kind) is None:
            labels = {**pool.labels, **kind.labels(provider)}
            for zone, capacity_type, place in allowed:
                yield offer_of(kind, zone, capacity_type, labels={**labels, **place}, taints=taints)


def _proven_s(claims: Sequence[Json]) -> dict[str, int]:
    proven: dict[str, int] = {}
    for claim in filter(_is_healthy, claims):
        root = named("nodeclaim", claim)
        facts = [root.at("metadata", "labels", key).text() for key in (INSTANCE_TYPE, ZONE, CAPACITY_TYPE)]
        for key in (facts[0], "/".join(facts)):
            proven[key] = max(proven.get(key, 0), root.at("metadata", "creationTimestamp").seconds())
    return proven


def _is_living(claim: Json) -> bool:
    return "deletionTimestamp" not in claim["metadata"]


def _is_healthy(claim: Json) -> bool:
    root = named("nodeclaim", claim)
    if not _is_living(claim):
        return False
    return condition(root, "Ready").at("status").text() == "True" and condition(root, "Drifted").at("status").text() != "True"
