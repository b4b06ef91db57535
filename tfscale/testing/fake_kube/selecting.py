"""Which objects a list or a watch is about: namespace, label selector and field selector."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from tfscale.errors import RefusedObjectError
from tfscale.kube.port import EVENTS, NODES, PODS, Json, Kind
from tfscale.selectors import Operator, Requirement
from tfscale.testing.fake_kube.syntax import check_key, check_label_value

__all__ = ["Selection", "requirements_of"]

_FIELDS = {
    PODS: {
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    },
    NODES: {"spec.unschedulable"},
    EVENTS: {
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "reason",
        "type",
    },
}
"""What may be selected beside the name and, for namespaced kinds, the namespace; custom resources have no more."""

_BOOLEANS = {"spec.unschedulable", "spec.hostNetwork"}

_OUTSIDE_PARENTHESES = re.compile(r",(?![^()]*\))")
_SET = re.compile(r"(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_COMPARED = re.compile(r"(?P<key>[^\s=!<>]+)\s*(?P<operator>==|=|!=|>|<)\s*(?P<value>[^\s=!<>]*)")
_EXISTS = re.compile(r"(?P<absent>!?)\s*(?P<key>[^\s=!<>()]+)")
_FIELD = re.compile(r"(?P<path>[^\s=!]+)(?P<operator>==|=|!=)(?P<value>[^=!]*)")

_OPERATORS = {
    "in": Operator.IN,
    "notin": Operator.NOT_IN,
    "=": Operator.IN,
    "==": Operator.IN,
    "!=": Operator.NOT_IN,
    ">": Operator.GT,
    "<": Operator.LT,
}


@dataclass(frozen=True, slots=True)
class Selection:
    """A parsed choice of objects of one kind."""

    namespace: str | None
    labels: tuple[Requirement, ...]
    fields: tuple[tuple[str, str, bool], ...]
    """Path, value, and whether they must be equal."""

    @classmethod
    def parse(cls, kind: Kind, *, namespace: str | None, label_selector: str, field_selector: str) -> Self:
        """Return the selection, or raise ``RefusedObjectError`` for what the API server does not understand."""
        return cls(
            namespace=namespace,
            labels=tuple(_label_requirement(part.strip()) for part in _parts(label_selector)),
            fields=tuple(_field_test(kind, part.strip()) for part in _parts(field_selector)),
        )

    def matches(self, obj: Json | None) -> bool:
        """Return whether the object exists and is chosen."""
        if obj is None:
            return False
        meta = obj["metadata"]
        return (
            self.namespace in (None, meta.get("namespace"))
            and all(requirement.matches(meta.get("labels") or {}) for requirement in self.labels)
            and all((_field(obj, path) == value) is equal for path, value, equal in self.fields)
        )


def requirements_of(selector: Json) -> tuple[Requirement, ...]:
    """Return the conditions of a ``LabelSelector`` object."""
    exact = (
        Requirement(key=key, operator=Operator.IN, values=(value,)) for key, value in (selector.get("matchLabels") or {}).items()
    )
    listed = (
        Requirement(key=term["key"], operator=Operator(term["operator"]), values=tuple(term.get("values") or ()))
        for term in selector.get("matchExpressions") or ()
    )
    return (*exact, *listed)


def _parts(selector: str) -> tuple[str, ...]:
    return tuple(_OUTSIDE_PARENTHESES.split(selector)) if selector.strip() else ()


def _label_requirement(part: str) -> Requirement:
    where = f"label selector {part!r}"
    if match := _SET.fullmatch(part):
        values = tuple(value.strip() for value in match["values"].split(","))
    elif match := _COMPARED.fullmatch(part):
        values = (match["value"],)
    elif match := _EXISTS.fullmatch(part):
        check_key(where, "key", match["key"])
        return Requirement(key=match["key"], operator=Operator.DOES_NOT_EXIST if match["absent"] else Operator.EXISTS)
    else:
        raise RefusedObjectError(f"{where} is not understood; want key=value, key in (a,b), key or !key")
    check_key(where, "key", match["key"])
    for value in values:
        check_label_value(where, "value", value)
    return Requirement(key=match["key"], operator=_OPERATORS[match["operator"]], values=values)


def _field_test(kind: Kind, part: str) -> tuple[str, str, bool]:
    match = _FIELD.fullmatch(part)
    if match is None:
        raise RefusedObjectError(f"field selector {part!r} is not understood; want path=value or path!=value")
    always = {"metadata.name", "metadata.namespace"} if kind.namespaced else {"metadata.name"}
    known = always | _FIELDS.get(kind, set())
    if match["path"] not in known:
        raise RefusedObjectError(f"field label not supported: {match['path']}; {kind.plural} have {', '.join(sorted(known))}")
    return match["path"], match["value"], match["operator"] != "!="


def _field(obj: Json, path: str) -> str:
    value: Any = obj
    for step in path.split("."):
        value = (value or {}).get(step)
    if path in _BOOLEANS:
        return "true" if value else "false"
    return "" if value is None else str(value)
