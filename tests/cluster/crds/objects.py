"""Objects of our kinds, each with a name of its own."""

from __future__ import annotations

from itertools import count
from typing import Any

from tfscale.kube.port import Json, Kind, Kube

__all__ = ["BATCH", "CONDITION", "NUMBERS", "REQUEST", "fresh", "pool", "put"]

NUMBERS = count()
"""No two objects have the same name."""
REQUEST: Json = {"pool": "p", "mode": "ec2", "nominated": ["uid"]}
BATCH: Json = {"pool": "p", "mode": "ec2", "requests": ["r"], "offers": ["o"], "parameters": "{}"}
CONDITION: Json = {
    "type": "Ready", "status": "True", "reason": "ModeAnswers", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
}  # fmt: skip


def fresh(kind: Kind, spec: Json) -> Json:
    """Return an object to create."""
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": f"n{next(NUMBERS)}"}, "spec": spec}


def put(kube: Kube, kind: Kind, spec: Json) -> str:
    """Create an object and return its name."""
    return str(kube.create(kind, fresh(kind, spec))["metadata"]["name"])


def pool(**spec: Any) -> Json:  # noqa: ANN401 - any JSON
    """Return the spec of a pool."""
    return {"mode": "ec2", **spec}
