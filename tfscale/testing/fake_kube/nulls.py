"""What becomes of a part of an object that an apply leaves with nothing: null.

Source: tried on kube-apiserver 1.35.
"""

from __future__ import annotations

from typing import Any

from tfscale.kube.port import Json, Kind
from tfscale.testing.fake_kube.shapes import Shape
from tfscale.testing.fake_kube.syntax import refusal

__all__ = ["settled"]


def settled(kind: Kind, obj: Json, shape: Shape, where: str) -> Json:
    """Return the object that is stored. The types of Kubernetes itself have no null.

    In a custom resource nothing that its schema declares can be null: raises ``RefusedObjectError``.
    """
    if "." not in kind.group or kind.group.endswith(".k8s.io"):
        bare: Json = _full(obj)
        return bare
    parts = {name: shape.of(name) for name in ("spec", "status")}
    _check({name: obj[name] for name in parts if name in obj}, Shape(fields=parts), where, "")
    return {**obj, "metadata": _full(obj["metadata"])}


def _check(value: Any, shape: Shape, where: str, path: str) -> None:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        for name, part in value.items():
            if part is None and name in shape.fields:
                raise refusal(where, f"{path}{name}", "null", "an object or a list, or nothing at all")
            _check(part, shape.of(name), where, f"{path}{name}.")
    elif isinstance(value, list):
        for part in value:
            _check(part, shape.item or shape, where, path)


def _full(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _full(part) for key, part in value.items() if part is not None}
    return [_full(part) for part in value] if isinstance(value, list) else value
