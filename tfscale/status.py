"""The status of each pool: what was seen and planned, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tfscale.conditions import Condition
from tfscale.model import Cluster
from tfscale.plan import Plan

__all__ = ["PoolStatus", "pool_statuses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """What people see of a pool."""

    nodes: int
    """Nodes that are there."""
    gpus: int
    """Their cards."""
    bought: int
    """Nodes that were bought and are not given back yet, those on their way included."""
    bound: int
    """Pods that hold room on its nodes, DaemonSets left out."""
    waiting: int
    """Pods whose node is on its way."""
    unmet: int
    """Pods for which there is no place and none is on its way."""
    ready: Condition


def pool_statuses(cluster: Cluster, plan: Plan, ready: Mapping[str, Condition]) -> dict[str, PoolStatus]:
    """Return the status of every pool of which `ready` says whether it works, also of those that `cluster` leaves out."""
    gpus: Counter[str] = Counter()
    bound: Counter[str] = Counter()
    for node in cluster.nodes:
        gpus[node.pool] += len(node.gpus)
        bound[node.pool] += sum(not pod.daemon for pod in node.pods)
    nodes = Counter(node.pool for node in cluster.nodes)
    bought = Counter(request.pool for request in cluster.requests)
    pool_of = {demand.id: demand.pool for demand in cluster.demands}
    waiting = Counter(pool_of[pod] for pod in plan.waiting)
    unmet = Counter(unmet.pool for unmet in plan.unmet)
    return {
        name: PoolStatus(
            nodes=nodes[name],
            gpus=gpus[name],
            bought=bought[name],
            bound=bound[name],
            waiting=waiting[name],
            unmet=unmet[name],
            ready=condition,
        )
        for name, condition in ready.items()
    }
