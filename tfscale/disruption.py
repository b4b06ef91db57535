"""What has to go although pods are on it, since when and until when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from tfscale.lifecycle import State
from tfscale.model import DISRUPTED, Cluster, Disruption, NodeRequest, Notice
from tfscale.pool import Pool

__all__ = ["asked", "deadline_s", "heard", "is_near", "joined", "patience_s"]

REPLACED_WITHIN_S = 900
"""How long a pod waits for its next place before it has to leave. A node takes some minutes from its purchase."""
LEAVES_BEFORE_S = 600
"""How long before the end of a machine its pods leave, wherever they go: long enough for most grace periods."""


def asked(cluster: Cluster, pool: Pool) -> dict[str, Disruption]:
    """Return what has to go, by machine: all of a pool that is deleted, else what its cloud or our taint on its node names."""
    found: defaultdict[str, list[Disruption]] = defaultdict(list)
    for notice in cluster.notices:
        found[notice.machine_id].append(_said(cluster, notice))
    for node in cluster.nodes:
        if node.pool == pool.name and node.machine_id and any(taint.key == DISRUPTED for taint in node.taints):
            why = f"its node carries the taint {DISRUPTED}"
            found[node.machine_id].append(Disruption(since_s=cluster.now_s, event="Tainted", why=why))
    for request in cluster.requests:
        if pool.deleting and request.pool == pool.name and request.machine_id:
            why = f"pool {pool.name} is being deleted"
            found[request.machine_id].append(Disruption(since_s=cluster.now_s, event="PoolDeleted", why=why))
    return {machine: both for machine, reasons in found.items() if (both := joined(None, reasons))}


def _said(cluster: Cluster, notice: Notice) -> Disruption:
    return Disruption(since_s=cluster.now_s, ends_s=notice.ends_s, event=notice.event, why=notice.why)


def joined(before: Disruption | None, reasons: Iterable[Disruption]) -> Disruption | None:
    """Return the most urgent of all reasons, since the first of them; what was known `before` goes first.

    >>> rebalance = Disruption(since_s=5, event="Rebalance", why="")
    >>> end = Disruption(since_s=9, ends_s=120, event="SpotInterruption", why="")
    >>> found = joined(rebalance, [end])
    >>> (found.event, found.since_s, found.ends_s)
    ('SpotInterruption', 5, 120)
    """
    every = [*([before] if before else []), *sorted(reasons, key=lambda one: (one.event, one.why, one.since_s))]
    if not every:
        return None
    # Of equal ends the first: what is written already is not written again.
    urgent = min(every, key=lambda one: (one.ends_s is None, one.ends_s or 0))
    return replace(urgent, since_s=min(one.since_s for one in every))


def deadline_s(disruption: Disruption, pool: Pool) -> int:
    """Return when the machine is given back, whatever is left on its node."""
    return disruption.since_s + pool.drain_within_s if disruption.ends_s is None else disruption.ends_s


def patience_s(disruption: Disruption, pool: Pool) -> int:
    """Return until when a pod waits for its next place before it is asked to leave. A pool that is deleted buys none."""
    if pool.deleting:
        return disruption.since_s
    until_s = disruption.since_s + REPLACED_WITHIN_S
    return until_s if disruption.ends_s is None else min(until_s, disruption.ends_s - LEAVES_BEFORE_S)


def is_near(disruption: Disruption, now_s: int) -> bool:
    """Return whether the machine goes so soon that a place for all of its pods is needed now."""
    return disruption.ends_s is not None and disruption.ends_s - now_s <= REPLACED_WITHIN_S


def heard(cluster: Cluster, *, complete: bool) -> frozenset[str]:
    """Return the ids of the notices that need not be said again: what follows from them is written, or there is nobody.

    `complete` says that every pool could be read and told all of its machines: without, a machine that nobody knows may be
    one of ours.
    """
    records = {request.machine_id: request for request in cluster.requests if request.machine_id}
    stopping = {machine.id: machine.stopping for seen in cluster.machines.values() for machine in seen}
    # A call without outcome may have given machines that no listing shows yet.
    strangers = complete and all(batch.settled for batch in cluster.batches)
    return frozenset(
        notice.id for notice in cluster.notices if _is_heard(notice, records, stopping, strangers_are_nobodys=strangers)
    )


def _is_heard(
    notice: Notice, records: Mapping[str, NodeRequest], stopping: Mapping[str, bool], *, strangers_are_nobodys: bool
) -> bool:
    record = records.get(notice.machine_id)
    if record is None:
        return stopping.get(notice.machine_id, strangers_are_nobodys)
    if record.state is not State.DRAINING or record.drain is None:
        return record.state in {State.TERMINATING, State.GONE}
    known_s, said_s = record.drain.ends_s, notice.ends_s
    return said_s is None or (known_s is not None and known_s <= said_s)
