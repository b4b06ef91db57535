"""The limits of a NodePool. Only Karpenter's own provisioner keeps them, so whoever creates a claim must look himself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

from tfscale.kube.fields import Field, named
from tfscale.kube.port import Json
from tfscale.kube.requests import GPU_RESOURCE
from tfscale.model import INSTANCE_TYPE, Offer
from tfscale.modes.nodeclaim_types import NodeType

__all__ = ["Limits", "read_limits"]

_NODES = "nodes"
_NOTHING = Fraction(0)
Amounts = Mapping[str, Fraction]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a NodePool may hold and what it holds, by resource."""

    most: Amounts
    used: Amounts

    def room(self, offer: Offer) -> int | None:
        """Return how many nodes of this offer may still be added; None is no limit."""
        asked = _of_offer(offer)
        if any(self._exceeds(name, asked) for name in self.most):
            return 0
        return min((self._left(name) // asked[name] for name in self.most if asked.get(name)), default=None)

    def refusal(self, offer: Offer) -> str:
        """Return in words which limits leave no room for a node of this offer."""
        asked = _of_offer(offer)
        full = [
            f"{name} {_text(self.used.get(name, _NOTHING))} + {_text(asked.get(name, _NOTHING))} of {_text(self.most[name])}"
            for name in sorted(self.most)
            if self._exceeds(name, asked)
        ]
        return f"its limits leave no room for {offer.instance_type}: {', '.join(full)}"

    def _left(self, name: str) -> Fraction:
        return self.most[name] - self.used.get(name, _NOTHING)

    def _exceeds(self, name: str, asked: Amounts) -> bool:
        return asked.get(name, _NOTHING) > self._left(name)


def read_limits(node_pool: Json, claims: Iterable[Json], types: Mapping[str, NodeType]) -> Limits:
    """Return the limits of a NodePool with what is used of them by its claims. Raises ``BadInputError``.

    Karpenter writes the pool's status some seconds late, so that the claims are counted as well: by their capacity, and
    as long as they have none, by the largest type that they ask for.
    """
    root = named("nodepool", node_pool)
    held = [_held(named("nodeclaim", claim), types) for claim in claims]
    # A static one keeps as many as it is asked for, also while they are not there.
    nodes: Amounts = {_NODES: Fraction(max(len(held), root.at("spec", "replicas").whole()))}
    counted = reduce(_sum, held, nodes)
    told = _amounts(root.at("status", "resources"))
    return Limits(most=_amounts(root.at("spec", "limits")), used=_largest([counted, told]))


def _held(claim: Field, types: Mapping[str, NodeType]) -> Amounts:
    capacity = _amounts(claim.at("status", "capacity"))
    if capacity:
        return {name: amount for name, amount in capacity.items() if name != _NODES}
    asked = [item for item in claim.at("spec", "requirements").items() if item.at("key").text() == INSTANCE_TYPE]
    names = [value.text() for item in asked if item.at("operator").text() == "In" for value in item.at("values").items()]
    return _largest([_of_type(types[name]) for name in names if name in types])


def _of_type(kind: NodeType) -> Amounts:
    return _by_resource(kind.cpu_milli, kind.memory_mib, kind.gpu_count)


def _of_offer(offer: Offer) -> Amounts:
    return {_NODES: Fraction(1), **_by_resource(offer.cpu_milli, offer.memory_mib, offer.gpu_count)}


def _by_resource(cpu_milli: int, memory_mib: int, gpus: int) -> Amounts:
    return {"cpu": Fraction(cpu_milli, 1_000), "memory": Fraction(memory_mib * 2**20), GPU_RESOURCE: Fraction(gpus)}


def _amounts(field: Field) -> Amounts:
    return {name: amount.amount() for name, amount in field.entries().items()}


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return {name: one.get(name, _NOTHING) + other.get(name, _NOTHING) for name in {**one, **other}}


def _largest(several: Sequence[Amounts]) -> Amounts:
    names = {name for amounts in several for name in amounts}
    return {name: max(amounts.get(name, _NOTHING) for amounts in several) for name in names}


def _text(amount: Fraction) -> str:
    """Return an amount as people write it: whole, or in thousandths."""
    gib = amount / 2**30
    if amount >= 2**30:
        return f"{float(gib):g}Gi"
    return str(int(amount)) if amount.denominator == 1 else f"{int(amount * 1_000)}m"
