"""Nodes that nobody uses, and what is done about them: marked, left to others, or given back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tfscale.lifecycle import Event, State
from tfscale.market import Supply
from tfscale.model import Cluster, Machine, Node, NodeRequest
from tfscale.plan import Action, Hold, MarkIdle, Release, Reserve, Terminate, Unguard
from tfscale.pool import Pool
from tfscale.records import Book

__all__ = ["Timed", "free", "idle", "release"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Actions, and when time alone asks for more."""

    actions: tuple[Action, ...] = ()
    recheck_s: int | None = None


def free(cluster: Cluster, pool: Pool, book: Book, chosen: Collection[str], kept: Mapping[str, str]) -> Timed:
    """Leave nodes that were kept to whoever removes idle nodes, and keep others from him.

    `chosen` get a pod in this plan; `kept` are the nodes that he must not remove, with the reason.
    """
    machines = {machine.id: machine for machine in cluster.machines.get(pool.name, ())}
    actions: list[Action] = []
    due: list[int] = []
    waiting: set[str] = set()
    for request in book.requests:
        machine, node = machines.get(request.machine_id), book.nodes.get(request.name)
        if machine is None or machine.stopping or machine.stays:
            continue
        if machine.held or (node is not None and node.name in kept):
            actions += _held(request, machine, node, kept)
            continue
        used = node is not None and (node.name in chosen or any(not pod.daemon for pod in node.pods))
        until_s = machine.protected_until_s
        if until_s is not None and not used and cluster.now_s < until_s:
            due.append(until_s)
            waiting |= {node.name} if node is not None and node.ready and request.state is State.READY else set()
        elif until_s is not None:
            why = "it has its first pod" if used else "no pod came for it in time"
            actions.append(_released(request, node, overdue=not used, why=why))
    actions += _reserved(cluster, pool, waiting) if pool.name in cluster.machines else []
    return Timed(actions=tuple(actions), recheck_s=min(due, default=None))


def _held(request: NodeRequest, machine: Machine, node: Node | None, kept: Mapping[str, str]) -> list[Action]:
    """Hold a node that must not be removed, or release one that may."""
    if node is not None and node.name in kept:
        return [] if machine.held else [Hold(pool=request.pool, request=request, node=node.name, why=kept[node.name])]
    if node is not None and (node.fenced or not node.ready):
        # What it is needed for is not known while it is away.
        return []
    return [_released(request, node, overdue=True, why="it is not needed whatever becomes of the others")]


def _reserved(cluster: Cluster, pool: Pool, waiting: Collection[str]) -> list[Action]:
    """Keep pods of others off nodes that wait for their first pod: one that is empty invites Karpenter to move them there.

    Before a node is ready they are not kept off: the DaemonSets that make its cards usable come first.
    """
    return [
        Reserve(
            pool=pool.name,
            node=node.name,
            on=node.name in waiting,
            why="it waits for its first pod" if node.name in waiting else "it does not wait for its first pod any more",
        )
        for node in cluster.nodes
        if node.pool == pool.name and node.reserved != (node.name in waiting)
    ]


def _released(request: NodeRequest, node: Node | None, *, overdue: bool, why: str) -> Release:
    return Release(pool=request.pool, request=request, node=node.name if node else "", overdue=overdue, why=why)


def idle(cluster: Cluster, pool: Pool, supply: Supply | None, book: Book, chosen: Collection[str]) -> Timed:
    """Mark nodes that nobody uses, and give back those that were marked long enough ago. `chosen` get a pod in this plan."""
    actions: list[Action] = []
    due: list[int] = []
    ready = [r for r in book.requests if r.state is State.READY and r.name in book.nodes and r.name not in book.problems]
    for request in _returnable(cluster, pool, supply, ready):
        node = book.nodes[request.name]
        busy = node.name in chosen or any(not pod.daemon for pod in node.pods)
        if busy:
            if node.idle_since_s is not None:
                actions.append(MarkIdle(pool=pool.name, node=node.name, since_s=None, why="it has work again"))
            continue
        since_s = cluster.now_s if node.idle_since_s is None else node.idle_since_s
        if cluster.now_s - since_s >= pool.idle_after_s or pool.deleting:
            actions.append(
                Terminate(
                    pool=pool.name,
                    request=request,
                    node=node.name,
                    event=Event.IDLE,
                    why=f"idle for {cluster.now_s - since_s} s",
                )
            )
            continue
        due.append(since_s + pool.idle_after_s)
        if node.idle_since_s is None:
            actions.append(MarkIdle(pool=pool.name, node=node.name, since_s=since_s, why="no pod is left on it"))
    return Timed(actions=tuple(actions), recheck_s=min(due, default=None))


def _returnable(cluster: Cluster, pool: Pool, supply: Supply | None, requests: Sequence[NodeRequest]) -> Sequence[NodeRequest]:
    """Return those of the requests whose nodes are ours to give back when they are idle."""
    if supply is None:
        return []
    if pool.deleting or not supply.reclaims_idle:
        return requests
    staying = {machine.id for machine in cluster.machines.get(pool.name, ()) if machine.stays}
    return [request for request in requests if request.machine_id in staying]


def release(cluster: Cluster, pool: Pool) -> list[Action]:
    """Let a pool that is being deleted go once nothing is recorded or listed that was bought for it."""
    owners = {*(request.pool for request in cluster.requests), *(batch.pool for batch in cluster.batches)}
    machines = cluster.machines.get(pool.name)
    if not pool.deleting or not pool.guarded or pool.name in owners or machines is None or machines:
        return []
    return [Unguard(pool=pool.name, why="nothing is left that was bought for it")]
