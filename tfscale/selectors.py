"""Which labels and taints a pod accepts: the operators of node affinity, and tolerations.

Source: Kubernetes API reference, NodeSelectorRequirement and Toleration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Operator", "Requirement", "Taint", "Toleration", "matches_any", "untolerated"]


class Operator(StrEnum):
    """How a requirement compares a label with its values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One condition on the labels of a node.

    >>> zone = Requirement(key="topology.kubernetes.io/zone", operator=Operator.IN, values=("us-east-1a",))
    >>> zone.matches({"topology.kubernetes.io/zone": "us-east-1a"}), zone.matches({})
    (True, False)
    """

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether these labels satisfy the condition. A missing label satisfies ``NotIn``, as in Kubernetes."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None
            case Operator.GT | Operator.LT:
                return self._compares(value)

    def _compares(self, value: str | None) -> bool:
        try:
            have, bound = int(value or ""), int(self.values[0])
        except (ValueError, IndexError):
            return False
        return have > bound if self.operator is Operator.GT else have < bound

    def __str__(self) -> str:
        """Return the condition in words."""
        return " ".join(part for part in (self.key, str(self.operator), ",".join(self.values)) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A mark on a node that keeps pods away unless they tolerate it."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"

    def __str__(self) -> str:
        """Return the taint as ``kubectl taint`` writes it."""
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """What a pod accepts: an empty key with ``Exists`` tolerates everything, an empty effect every effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """Return whether this toleration covers the taint."""
        if self.effect and self.effect != taint.effect:
            return False
        if not self.key:
            return self.operator == "Exists"
        return self.key == taint.key and (self.operator == "Exists" or self.value == taint.value)


def matches_any(terms: Iterable[tuple[Requirement, ...]], labels: Mapping[str, str]) -> bool:
    """Return whether at least one term has all its requirements met; no terms at all accept every node."""
    listed = tuple(terms)
    return not listed or any(all(requirement.matches(labels) for requirement in term) for term in listed)


def untolerated(taints: Iterable[Taint], tolerations: Iterable[Toleration]) -> Taint | None:
    """Return the first taint that keeps the pod away, or None. ``PreferNoSchedule`` never does."""
    accepted = tuple(tolerations)
    for taint in taints:
        if taint.effect != "PreferNoSchedule" and not any(toleration.tolerates(taint) for toleration in accepted):
            return taint
    return None
