"""Nodes that somebody else made, taken into a pool by hand, and handed back as they were.

An adopted node is room that was not bought: slices are placed on it, it counts in limits and headroom, and it is never given
back. Each step is one guarded write, and asking again goes on where a step was left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from tfscale.errors import ClusterError, NotFoundError, TooManyRequestsError
from tfscale.gpus import GpuTable
from tfscale.kube.fields import named
from tfscale.kube.nodes import IDLE_SINCE, POOL_LABEL, read_node
from tfscale.kube.pods import SCHEDULER, BoundPods, keeps_busy
from tfscale.kube.port import GPU_POOLS, NODES, PODS, Json, Kube
from tfscale.kube.requests import MIRRORS, OWN_PREFIX
from tfscale.plan import some

__all__ = ["Result", "adopt", "hand_back"]

ADOPTED = f"{OWN_PREFIX}/adopted"
"""The annotation of an adopted node: ``open``; while it is handed back ``closed``, or ``cordoned`` where it was so before."""
PAUSE_S = 2
"""Between two looks at pods that were asked to leave."""

Verdict = Literal["done", "unchanged", "waits", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one node."""

    node: str
    verdict: Verdict
    says: str

    def as_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {"node": self.node, "verdict": self.verdict, "says": self.says}

    def __str__(self) -> str:
        """Return one line."""
        return f"node/{self.node} {self.says}"


def adopt(kube: Kube, nodes: Sequence[str], *, pool: str, gpus: GpuTable, dry_run: bool = False) -> list[Result]:
    """Take nodes into a pool. A node that cannot be taken says why; the others are taken all the same."""
    if refusal := _pool_refusal(kube, pool):
        return [Result(node=name, verdict="refused", says=f"not adopted: {refusal}") for name in nodes]
    return [_attempt(name, partial(_adopt, kube, name, pool, gpus, dry_run=dry_run)) for name in dict.fromkeys(nodes)]


def hand_back(
    kube: Kube, nodes: Sequence[str], *, wait_s: int, dry_run: bool = False, sleep: Callable[[float], None] = time.sleep
) -> list[Result]:
    """Empty adopted nodes of our pods, within their budgets and for so long at most, and leave them as they were before."""
    names = list(dict.fromkeys(nodes))
    results = {name: _attempt(name, partial(_hand_back, kube, name, dry_run=dry_run)) for name in names}
    for _ in range(wait_s // PAUSE_S):
        waiting = [name for name in names if results[name].verdict == "waits"]
        if not waiting or dry_run:
            break
        sleep(PAUSE_S)
        results |= {name: _attempt(name, partial(_hand_back, kube, name, dry_run=False)) for name in waiting}
    return [results[name] for name in names]


def _attempt(name: str, do: Callable[[], Result]) -> Result:
    try:
        return do()
    except NotFoundError:
        return Result(node=name, verdict="refused", says="does not exist")
    except ClusterError as error:
        return Result(node=name, verdict="refused", says=f"could not be written: {error}")


def _pool_refusal(kube: Kube, pool: str) -> str:
    try:
        found = kube.get(GPU_POOLS, pool)
    except NotFoundError:
        return f"there is no gpupool {pool}"
    return f"gpupool {pool} is being deleted" if "deletionTimestamp" in found["metadata"] else ""


# --- taking ---


def _adopt(kube: Kube, name: str, pool: str, gpus: GpuTable, *, dry_run: bool) -> Result:
    node = kube.get(NODES, name)
    if _label(node) == pool:
        return Result(node=name, verdict="unchanged", says=f"is of pool {pool} already")
    if refusal := _refusal(node, pool, gpus):
        return Result(node=name, verdict="refused", says=f"not adopted: {refusal}")
    if not dry_run:
        change = {"labels": {POOL_LABEL: pool}, "annotations": {ADOPTED: "open"}}
        kube.patch(NODES, name, {"metadata": {**_guard(node), **change}})
    return Result(node=name, verdict="done", says=f"adopted into pool {pool}")


def _refusal(node: Json, pool: str, gpus: GpuTable) -> str:
    """Return why a node cannot be adopted, or nothing."""
    if other := _label(node):
        return f"it is of pool {other}"
    if "deletionTimestamp" in node["metadata"]:
        return "it is being deleted"
    labelled = {**node, "metadata": {**node["metadata"], "labels": {**node["metadata"].get("labels", {}), POOL_LABEL: pool}}}
    read = read_node(named("node", labelled), (), machine=("", ""), gpus=gpus, bound=BoundPods(gpus, OWN_PREFIX), problems=[])
    if read is None or not read.gpus:
        return (read.fenced if read else "") or "it has no GPUs"
    return read.fenced


# --- handing back ---


def _hand_back(kube: Kube, name: str, *, dry_run: bool) -> Result:
    node = kube.get(NODES, name)
    if ADOPTED not in _notes(node):
        return Result(node=name, verdict="refused", says="was not adopted: left alone")
    if dry_run:
        after = f" after {_ids(pods)} left it" if (pods := _ours(kube, name)) else ""
        return Result(node=name, verdict="done", says=f"would be handed back{after}")
    _close(kube, node)
    if pods := _ours(kube, name):
        kept = sum(not _evicted(kube, pod) for pod in pods)
        held = f", {kept} of them held by a budget" if kept else ""
        return Result(node=name, verdict="waits", says=f"waits until {_ids(pods)} left it{held}")
    if _leave(kube, name):
        return Result(node=name, verdict="done", says="handed back")
    return Result(node=name, verdict="waits", says="waits: a pod came to it at the last moment")


def _ours(kube: Kube, node: str) -> list[Json]:
    """Return the pods that were placed by us and hold something of the node."""
    listed = kube.list(PODS, field_selector=f"spec.nodeName={node}").items
    return [pod for pod in listed if pod["spec"].get("schedulerName") == SCHEDULER and keeps_busy(pod)]


def _ids(pods: Sequence[Json]) -> str:
    return some([f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in pods])


def _close(kube: Kube, node: Json) -> None:
    """Cordon a node, and note whether it was so before."""
    if _notes(node)[ADOPTED] == "open":
        mark = "cordoned" if node["spec"].get("unschedulable") else "closed"
        change = {"metadata": {**_guard(node), "annotations": {ADOPTED: mark}}, "spec": {"unschedulable": True}}
        kube.patch(NODES, node["metadata"]["name"], change)


def _evicted(kube: Kube, pod: Json) -> bool:
    meta = pod["metadata"]
    if "deletionTimestamp" in meta:
        return True
    try:
        kube.evict(meta["name"], namespace=meta["namespace"], uid=meta["uid"])
    except TooManyRequestsError:
        return False
    except NotFoundError:
        return True
    return True


def _leave(kube: Kube, name: str) -> bool:
    """Take everything of ours off an empty node: the label first, so that nobody writes the rest again.

    A loop that had not seen that the node was cordoned may have placed a pod meanwhile: then it is ours again.
    """
    node = kube.get(NODES, name)
    if pool := _label(node):
        kube.patch(NODES, name, {"metadata": {**_guard(node), "labels": {POOL_LABEL: None}, "annotations": {IDLE_SINCE: None}}})
        if _ours(kube, name):
            kube.patch(NODES, name, {"metadata": {"uid": node["metadata"]["uid"], "labels": {POOL_LABEL: pool}}})
            return False
    status = kube.get(NODES, name).get("status", {})
    places = [place for place in ("capacity", "allocatable") if not {*MIRRORS}.isdisjoint(status.get(place, {}))]
    told = {place: dict.fromkeys(MIRRORS) for place in places}
    if told:
        kube.patch_status(NODES, name, {"status": told})
    node = kube.get(NODES, name)
    opened = {"spec": {"unschedulable": None}} if _notes(node).get(ADOPTED) == "closed" else {}
    kube.patch(NODES, name, {"metadata": {**_guard(node), "annotations": {ADOPTED: None}}, **opened})
    return True


def _guard(obj: Json) -> Json:
    return {"uid": obj["metadata"]["uid"], "resourceVersion": obj["metadata"]["resourceVersion"]}


def _label(node: Json) -> str:
    return str((node["metadata"].get("labels") or {}).get(POOL_LABEL, ""))


def _notes(obj: Json) -> dict[str, str]:
    return dict(obj["metadata"].get("annotations") or {})
