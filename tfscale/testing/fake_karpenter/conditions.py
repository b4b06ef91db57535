"""Writing the conditions of a claim: a time changes only with the value, and the root condition follows from the others."""

from __future__ import annotations

from dataclasses import dataclass

from tfscale.kube.port import NODE_CLAIMS, Json, Kube
from tfscale.quantity import time_text
from tfscale.testing.fake_karpenter.objects import Claim

__all__ = ["CONSOLIDATABLE", "INITIALIZED", "LAUNCHED", "READY", "REGISTERED", "STAGES", "Condition", "write_status"]

LAUNCHED, REGISTERED, INITIALIZED = STAGES = ("Launched", "Registered", "Initialized")
READY = "Ready"
"""True when all stages are."""
CONSOLIDATABLE = "Consolidatable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What one condition is to be. An empty status takes it away."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


def write_status(kube: Kube, claim: Claim, now_s: int, *changes: Condition, **fields: object) -> None:
    """Write conditions, and other fields of the status by name. Nothing is written where nothing changes."""
    conditions = {one["type"]: one for one in claim.obj.get("status", {}).get("conditions", ())}
    for change in changes:
        _set(conditions, change, now_s)
    stages = [conditions[stage]["status"] for stage in STAGES if stage in conditions]
    if stages:
        ready = all(status == "True" for status in stages)
        _set(conditions, Condition(type=READY, status="True" if ready else "Unknown"), now_s)
    kube.patch_status(NODE_CLAIMS, claim.name, {"status": {**fields, "conditions": [*conditions.values()]}})


def _set(conditions: dict[str, Json], change: Condition, now_s: int) -> None:
    if not change.status:
        conditions.pop(change.type, None)
        return
    old = conditions.get(change.type, {})
    since = old.get("lastTransitionTime") if old.get("status") == change.status else None
    conditions[change.type] = {
        "type": change.type,
        "status": change.status,
        "reason": change.reason or change.type,
        "message": change.message,
        "lastTransitionTime": since or time_text(now_s),
    }
