"""Machines that carry our tags and that no record names: someone deleted it, or another process lost it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from tfscale.errors import Problem
from tfscale.lifecycle import State
from tfscale.model import Cluster, Machine, NodeRequest
from tfscale.plan import Recover, some
from tfscale.pool import RECOVER, Pool

__all__ = ["digest", "doubtful", "recovered", "strays"]

ORPHANS_ALWAYS = 2
ORPHANS_OF = 5
"""More than two machines, and more than one in five, are not lost by accident."""


def digest(*parts: str) -> str:
    """Return a short name that follows from these parts alone."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


def strays(cluster: Cluster, pool: Pool, open_calls: Collection[str], age_s: int) -> list[Machine]:
    """Return the pool's machines that no record names, once they are so old. What an open call gave is still to be entered."""
    named = {request.machine_id for request in cluster.requests if request.pool == pool.name}
    return [
        machine
        for machine in sorted(cluster.machines.get(pool.name, ()), key=lambda machine: machine.id)
        if machine.id not in named
        and machine.batch not in open_calls
        and not machine.stopping
        and (machine.launched_s is None or cluster.now_s - machine.launched_s >= age_s)
    ]


def doubtful(cluster: Cluster, pool: Pool, found: Sequence[Machine]) -> Problem | None:
    """Return why the strays are left alone: so many that they may be another cluster's, of the same name.

    One whose node is here is ours.
    """
    here = {node.machine_id for node in cluster.nodes}
    foreign = [machine.id for machine in found if machine.id not in here]
    listed = len(cluster.machines.get(pool.name, ()))
    if len(foreign) <= ORPHANS_ALWAYS or len(foreign) * ORPHANS_OF <= listed or pool.recovers_all:
        return None
    want = f'their NodeRequests, or the annotation {RECOVER} "true" on the pool if they are really this cluster\'s'
    value = f"{len(foreign)} of {listed}, {some(foreign)}"
    return Problem(where=f"gpupool {pool.name}", field="machines without record and node", value=value, want=want)


def recovered(pool: Pool, machine: Machine, now_s: int) -> Recover:
    """Return the recovery of a machine. It is then used or given back like any other."""
    request = NodeRequest(
        name=f"{pool.name}-{digest(machine.id)}",
        pool=pool.name,
        mode=pool.mode,
        state=State.LAUNCHED,
        batch=machine.batch,
        machine_id=machine.id,
        offer=machine.offer,
        launched_s=now_s,
    )
    return Recover(pool=pool.name, request=request, why="no record names it")
