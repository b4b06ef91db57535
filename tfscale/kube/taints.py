"""Our taints on nodes. Every write is guarded: others may change a node's taints at the same moment."""

from __future__ import annotations

from tfscale.errors import NotFoundError
from tfscale.kube.port import NODES, Json, Kube
from tfscale.model import DISRUPTED

__all__ = ["set_taint", "take_out_of_service"]


def set_taint(kube: Kube, node: str, key: str, *, on: bool) -> None:
    """Put a taint of ours with the effect ``NoSchedule`` on a node, or take it off. Raises ``ClusterError``."""
    obj = kube.get(NODES, node)
    taints = _taints(obj)
    others = [taint for taint in taints if taint.get("key") != key]
    if on != (len(others) < len(taints)):
        _write(kube, obj, [*others, {"key": key, "effect": "NoSchedule"}] if on else others)


def take_out_of_service(kube: Kube, node: str, *, value: str = "") -> None:
    """Cordon a node and put our taint on it, once. One that is gone needs neither.

    The taint tells everybody why, and outlives our records; `value` is what it says.
    """
    try:
        obj = kube.get(NODES, node)
    except NotFoundError:
        return
    taints = _taints(obj)
    marked = any(taint.get("key") == DISRUPTED for taint in taints)
    if marked and obj["spec"].get("unschedulable"):
        return
    taints = taints if marked else [*taints, {"key": DISRUPTED, "effect": "NoSchedule"} | ({"value": value} if value else {})]
    _write(kube, obj, taints, unschedulable=True)


def _taints(node: Json) -> list[Json]:
    return node["spec"].get("taints") or []


def _write(kube: Kube, node: Json, taints: list[Json], **spec: object) -> None:
    guard = {"resourceVersion": node["metadata"]["resourceVersion"]}
    kube.patch(NODES, node["metadata"]["name"], {"metadata": guard, "spec": {"taints": taints or None, **spec}})
