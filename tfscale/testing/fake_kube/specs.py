"""What the API server takes as the spec of a Lease or of a PodDisruptionBudget.

Source: kube-apiserver 1.35: MicroTime takes exactly six digits after the point, and is stored in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from tfscale.kube.port import DISRUPTION_BUDGETS, LEASES, Json, Kind
from tfscale.testing.fake_kube.syntax import refusal

__all__ = ["stored_spec"]

_MICRO_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}(Z|[+-]\d{2}:\d{2})")
_LEAST = {"leaseDurationSeconds": 1, "leaseTransitions": 0}


def stored_spec(kind: Kind, spec: Json, where: str) -> Json:
    """Return the spec as it is stored, or raise ``RefusedObjectError``."""
    if kind == LEASES:
        return _lease(spec, where)
    if kind == DISRUPTION_BUDGETS:
        _check_budget(spec, where)
    return spec


def _lease(spec: Json, where: str) -> Json:
    for field, least in _LEAST.items():
        value = spec.get(field)
        if value is not None and (type(value) is not int or value < least):
            raise refusal(where, f"spec.{field}", value, f"a whole number of at least {least}")
    given = [field for field in ("acquireTime", "renewTime") if field in spec]
    return spec | {field: _micro_time(spec[field], f"spec.{field}", where) for field in given}


def _micro_time(value: Any, field: str, where: str) -> str:  # noqa: ANN401 - any JSON
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) and _MICRO_TIME.fullmatch(value) else None
    except ValueError:
        moment = None
    if moment is None:
        raise refusal(where, field, value, "a time such as 2026-01-02T03:04:05.000006Z")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _check_budget(spec: Json, where: str) -> None:
    limits = [name for name in ("minAvailable", "maxUnavailable") if spec.get(name) is not None]
    if len(limits) > 1:
        raise refusal(where, "spec", " and ".join(limits), "one of them")
    for name in limits:
        if isinstance(spec[name], int) and spec[name] < 0:
            raise refusal(where, f"spec.{name}", spec[name], "at least 0")
