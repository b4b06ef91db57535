"""How values are merged: which lists are maps or sets, and what counts as one value.

Source: the ``x-kubernetes-list-type`` and ``-map-type`` of kube-apiserver 1.35's OpenAPI; of a custom resource those of its
definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfscale.kube.port import CONFIG_MAPS, DISRUPTION_BUDGETS, NODES, PODS, Json, Kind

__all__ = ["Shape", "defined", "of_kind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How one value is merged. By default it is an object whose fields its type declares, or a list that is one value."""

    whole: bool = False
    """One value, though it is an object."""
    is_map: bool = False
    """Its keys are data, not declared fields, apart from those in ``fields``."""
    fields: Mapping[str, Shape] = field(default_factory=dict)
    keys: tuple[str, ...] | None = None
    """What identifies the items of a list; empty for a set, None for a list that is one value."""
    item: Shape | None = None

    def of(self, name: str) -> Shape:
        """Return the shape of one field."""
        return self.fields.get(name) or (MAP if self.is_map else STRUCT)


STRUCT = Shape()
MAP = Shape(is_map=True)
WHOLE = Shape(whole=True)
SET = Shape(keys=(), item=STRUCT)


def _by(*keys: str, item: Shape = STRUCT) -> Shape:
    return Shape(keys=keys, item=item)


def _struct(**fields: Shape) -> Shape:
    return Shape(fields=fields)


_METADATA = _struct(labels=MAP, annotations=MAP, finalizers=SET, ownerReferences=_by("uid", item=WHOLE))
_CONTAINERS = _by(
    "name",
    item=_struct(
        env=_by("name"),
        ports=_by("containerPort", "protocol"),
        resources=_struct(limits=MAP, requests=MAP),
        volumeMounts=_by("mountPath"),
    ),
)
_POD_SPEC = _struct(
    containers=_CONTAINERS,
    initContainers=_CONTAINERS,
    nodeSelector=WHOLE,
    schedulingGates=_by("name"),
    volumes=_by("name"),
)
_CONDITIONS = _struct(conditions=_by("type"))
_NODE_STATUS = _struct(conditions=_by("type"), addresses=_by("type"), capacity=MAP, allocatable=MAP)

_KNOWN: Mapping[Kind, Shape] = {
    PODS: _struct(metadata=_METADATA, spec=_POD_SPEC, status=_CONDITIONS),
    NODES: _struct(metadata=_METADATA, status=_NODE_STATUS),
    CONFIG_MAPS: _struct(metadata=_METADATA, data=MAP, binaryData=MAP),
    DISRUPTION_BUDGETS: _struct(metadata=_METADATA, spec=_struct(selector=WHOLE), status=_CONDITIONS),
}
_USUAL = _struct(metadata=_METADATA, status=_CONDITIONS)


def of_kind(kind: Kind) -> Shape:
    """Return the shape of a kind's objects. Of one that is not known here, conditions are a map by type, as is usual."""
    return _KNOWN.get(kind, _USUAL)


def defined(definition: Json) -> dict[tuple[str, str, str], Shape]:
    """Return the shapes that a CustomResourceDefinition gives, by group, version and plural."""
    spec = definition.get("spec") or {}
    plural = (spec.get("names") or {}).get("plural", "")
    shapes = {}
    for version in spec.get("versions") or ():
        schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
        fields = {**_read(schema).fields, "metadata": _METADATA}
        shapes[spec.get("group", ""), version.get("name", ""), plural] = Shape(fields=fields)
    return shapes


def _read(schema: Mapping[str, Any]) -> Shape:
    if schema.get("type") == "array":
        item = _read(schema.get("items") or {})
        match schema.get("x-kubernetes-list-type"):
            case "map":
                return _by(*schema.get("x-kubernetes-list-map-keys") or (), item=item)
            case "set":
                return SET
            case _:
                return STRUCT
    if schema.get("x-kubernetes-map-type") == "atomic":
        return WHOLE
    fields = {name: _read(part) for name, part in (schema.get("properties") or {}).items()}
    is_map = bool(schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("additionalProperties"))
    return Shape(fields=fields, is_map=is_map)
