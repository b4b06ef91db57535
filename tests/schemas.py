"""Walks through the schemas of our custom resource definitions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfscale.kube.crds import definition
from tfscale.kube.port import Json, Kind

__all__ = ["defaulted", "leaves", "schema_of"]


def schema_of(kind: Kind) -> Json:
    """Return the schema of spec and status."""
    (version,) = definition(kind)["spec"]["versions"]
    properties: Json = version["schema"]["openAPIV3Schema"]["properties"]
    return {"type": "object", "properties": {part: properties[part] for part in ("spec", "status")}}


def leaves(schema: Json, path: str = "") -> Iterator[str]:
    """Yield the paths of all fields that hold no further fields, list items as ``[]``."""
    if "properties" in schema:
        for name, below in schema["properties"].items():
            yield from leaves(below, f"{path}.{name}".removeprefix("."))
    elif "items" in schema:
        yield from leaves(schema["items"], f"{path}[]")
    else:
        yield path


def defaulted(schema: Json, value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a value with the defaults that the API server fills in."""
    if isinstance(value, dict) and "properties" in schema:
        below = schema["properties"]
        filled = {name: one["default"] for name, one in below.items() if "default" in one} | value
        return {name: defaulted(below.get(name, {}), one) for name, one in filled.items()}
    return value
