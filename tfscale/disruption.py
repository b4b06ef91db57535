"""What has to go although pods are on it, since when and until when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tfscale.lifecycle import State
from tfscale.model import DISRUPTED, Cluster, Disruption, Node, NodeRequest, Notice
from tfscale.pool import Pool

__all__ = ["asked", "deadline_s", "heard", "is_near", "is_voluntary", "joined", "patience_s", "replaceable"]

REPLACED_WITHIN_S = 900
"""How long a pod waits for its next place before it has to leave. A node takes some minutes from its purchase."""
LEAVES_BEFORE_S = 600
"""How long before the end of a machine its pods leave, wherever they go: long enough for most grace periods."""
REPLACED = "Drifted"
"""The one event that nobody hurries: pods leave when their next place is there, however long that takes."""
CANDIDATES_MOST = 10
"""Of how many outdated machines it is looked at in one round whether their pods would have another place."""


def asked(cluster: Cluster, pool: Pool) -> dict[str, Disruption]:
    """Return what has to go, by machine: all of a pool that is deleted, else what its cloud or our taint on its node names."""
    found: defaultdict[str, list[Disruption]] = defaultdict(list)
    for notice in cluster.notices:
        found[notice.machine_id].append(_said(cluster, notice))
    for node in cluster.nodes:
        tainted = any(taint.key == DISRUPTED for taint in node.taints)
        if tainted and node.pool == pool.name and node.machine_id:
            why, event = f"its node carries the taint {DISRUPTED}", REPLACED if _is_replaced(node) else "Tainted"
            found[node.machine_id].append(Disruption(since_s=cluster.now_s, event=event, why=why))
    for request in cluster.requests:
        if pool.deleting and request.pool == pool.name and request.machine_id:
            why = f"pool {pool.name} is being deleted"
            found[request.machine_id].append(Disruption(since_s=cluster.now_s, event="PoolDeleted", why=why))
    return {machine: both for machine, reasons in found.items() if (both := joined(None, reasons))}


def _said(cluster: Cluster, notice: Notice) -> Disruption:
    return Disruption(since_s=cluster.now_s, ends_s=notice.ends_s, event=notice.event, why=notice.why)


def replaceable(cluster: Cluster, pool: Pool) -> list[Notice]:
    """Return what may be replaced by its like because it is outdated, oldest first: a notice for each, as if a cloud gave it.

    Nodes are replaced one by one, as Karpenter does: there is none while another one is on its way out. One that takes longer
    than the pool gives a drain holds up the others no more. A pod that is not to be disturbed keeps its node.
    """
    seen = {machine.id: machine for machine in cluster.machines.get(pool.name, ())}
    nodes = {node.machine_id: node for node in cluster.nodes if node.machine_id}
    requests = [request for request in cluster.requests if request.pool == pool.name]
    if pool.deleting or _replacing(cluster, pool, requests):
        return []
    ready = [request for request in requests if request.state is State.READY and request.machine_id in nodes]
    outdated = [seen[request.machine_id] for request in ready if request.machine_id in seen]
    free = [
        machine
        for machine in sorted(outdated, key=lambda one: (one.launched_s or 0, one.id))
        if machine.outdated and not any(guest.held for guest in cluster.guests.get(nodes[machine.id].name, ()))
    ]
    return [
        Notice(id=f"{machine.id} is outdated", machine_id=machine.id, event=REPLACED, why=machine.outdated)
        for machine in free[:CANDIDATES_MOST]
    ]


def _replacing(cluster: Cluster, pool: Pool, requests: Sequence[NodeRequest]) -> bool:
    """Return whether a node is being replaced. A record can be lost, or not be written yet, when the taint already is."""
    drains = {one.machine_id: one.drain for one in requests if one.drain and one.state in {State.DRAINING, State.TERMINATING}}
    tainted = {node.machine_id for node in cluster.nodes if node.pool == pool.name and _is_replaced(node)}
    fresh_s = cluster.now_s - pool.drain_within_s
    return bool(tainted - drains.keys()) or any(is_voluntary(drain) and drain.since_s > fresh_s for drain in drains.values())


def _is_replaced(node: Node) -> bool:
    return any((taint.key, taint.value) == (DISRUPTED, REPLACED) for taint in node.taints)


def is_voluntary(disruption: Disruption) -> bool:
    """Return whether nothing but an outdated machine is the reason, so that it may take as long as it needs."""
    return disruption.event == REPLACED


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
    urgent = min(every, key=lambda one: (one.ends_s is None, is_voluntary(one), one.ends_s or 0))
    # Whatever is urgent now was not before.
    alike = [one.since_s for one in every if is_voluntary(one) == is_voluntary(urgent)]
    return replace(urgent, since_s=min(alike))


def deadline_s(disruption: Disruption, pool: Pool) -> int | None:
    """Return when the machine is given back, whatever is left on its node; None: not before it is empty."""
    if is_voluntary(disruption):
        return None
    return disruption.since_s + pool.drain_within_s if disruption.ends_s is None else disruption.ends_s


def patience_s(disruption: Disruption, pool: Pool) -> int | None:
    """Return until when a pod waits for its next place before it is asked to leave; None: until it has one.

    A pool that is deleted buys none.
    """
    if is_voluntary(disruption):
        return None
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
