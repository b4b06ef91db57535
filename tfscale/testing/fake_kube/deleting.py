"""How an object goes away: at once, after its grace period, or when its last finalizer is removed.

Source: kube-apiserver 1.35, graceful deletion of the generic registry and of pods.
"""

from __future__ import annotations

from datetime import datetime

from tfscale.kube.port import PODS, Json, Kind
from tfscale.testing.fake_kube.rules import timestamp

__all__ = ["deleting", "grace_is_over", "nothing_keeps"]

_SETTLED_PHASES = ("Succeeded", "Failed")


def deleting(kind: Kind, current: Json, asked_s: int | None, now_s: float) -> Json:
    """Return the object marked as being deleted.

    ``asked_s`` is the grace period of the request. A second delete can only shorten what the first one granted.
    """
    meta = dict(current["metadata"])
    granted_s = meta.get("deletionGracePeriodSeconds")
    if asked_s is not None and asked_s < 0:
        asked_s = 1
    if granted_s is None:
        start_s, grace_s = now_s, _first_grace_s(kind, current, asked_s)
        if "generation" in meta:
            meta["generation"] += 1
    elif asked_s is None or asked_s >= granted_s:
        return current
    else:
        start_s, grace_s = _seconds(meta["deletionTimestamp"]) - granted_s, asked_s
    meta["deletionTimestamp"] = timestamp(max(now_s, start_s + grace_s))
    meta["deletionGracePeriodSeconds"] = grace_s
    return {**current, "metadata": meta}


def nothing_keeps(obj: Json) -> bool:
    """Return whether the object is being deleted and neither a finalizer nor a grace period keeps it."""
    meta = obj["metadata"]
    return "deletionTimestamp" in meta and not meta.get("finalizers") and not meta.get("deletionGracePeriodSeconds")


def grace_is_over(obj: Json, now_s: float) -> bool:
    """Return whether a kubelet would have ended this pod by now."""
    meta = obj["metadata"]
    return "deletionTimestamp" in meta and _seconds(meta["deletionTimestamp"]) <= now_s


def _first_grace_s(kind: Kind, current: Json, asked_s: int | None) -> int:
    """Return how long the object may stay: only a pod that runs on a node has something to end."""
    if kind != PODS or not current["spec"].get("nodeName") or current["status"].get("phase") in _SETTLED_PHASES:
        return 0
    return int(current["spec"]["terminationGracePeriodSeconds"] if asked_s is None else asked_s)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
