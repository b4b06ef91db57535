"""The whole decision on one page: what is observed goes in, a plan comes out.

::

    records  ->  who holds what  ->  place on nodes  ->  keep for nodes on their way  ->  buy  ->  empty  ->  give back

Nothing is read, written or timed here. The same input gives the same plan, in whatever order its parts come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import chain

from tfscale.buying import buy, held
from tfscale.disruption import replaceable
from tfscale.draining import displaced, drains, filled, reserved, taken_back
from tfscale.giving_back import free, idle, release
from tfscale.headroom import held_back, kept_nodes, without_headroom
from tfscale.lifecycle import State
from tfscale.limits import Used, guarded, limited, planned, stopped, used, within, without_replays
from tfscale.market import Supply, set_aside, usable
from tfscale.mirror import advertised
from tfscale.model import Cluster, Node
from tfscale.plan import (
    Action,
    Admit,
    Assign,
    Avoid,
    Forget,
    Nominate,
    Plan,
    Terminate,
    Unmet,
)
from tfscale.pool import Policy, Pool, SetAside
from tfscale.records import Book, keep_book
from tfscale.slicing import Left, Packing, Placed, imagine, pack

__all__ = ["Policy", "Supply", "decide"]

DOUBT_FROM = 10
"""One node of so many may fall silent without doubt about the others."""
STARTS_S = 30
"""How long after its creation a node may say for the first time that it is not Ready."""


def decide(cluster: Cluster, supplies: Mapping[str, Supply], policy: Policy | None = None) -> Plan:
    """Return what to do now. `supplies` says by pool what can be launched there.

    A pool without an entry (its mode gave no answer) still has its pods placed, but nothing is bought or given back.
    """
    policy = policy or Policy()
    pools = {pool.name: pool for pool in sorted(cluster.pools, key=lambda pool: pool.name)}
    shares = _shares(cluster, pools.values(), supplies, policy)
    found: dict[str, Plan] = {}
    # Whoever holds least is served first where all have one limit.
    for name in sorted(pools, key=lambda name: (shares[name].nodes, name)):
        beside = sum((share for other, share in shares.items() if other != name), Used())
        beside += planned(chain.from_iterable(part.actions for part in found.values()), cluster.now_s)
        found[name] = _decide_pool(cluster, pools[name], supplies.get(name), policy, beside)
    return guarded(cluster, pools, _together([found[name] for name in pools]), policy)


def _together(parts: Sequence[Plan]) -> Plan:
    return Plan(
        actions=tuple(chain.from_iterable(part.actions for part in parts)),
        unmet=tuple(sorted(chain.from_iterable(part.unmet for part in parts))),
        problems=tuple(chain.from_iterable(part.problems for part in parts)),
        waiting=tuple(sorted(chain.from_iterable(part.waiting for part in parts))),
        recheck_s=_earliest(part.recheck_s for part in parts),
        retry_s=_earliest(part.retry_s for part in parts),
    )


def _shares(cluster: Cluster, pools: Iterable[Pool], supplies: Mapping[str, Supply], policy: Policy) -> dict[str, Used]:
    """Return what each pool holds, where that counts for the others."""
    if not limited(policy.total):
        return {pool.name: Used() for pool in pools}
    return {pool.name: used(cluster, pool, _book(cluster, pool, supplies.get(pool.name), policy)) for pool in pools}


def _book(cluster: Cluster, pool: Pool, supply: Supply | None, policy: Policy) -> Book:
    offers = {offer.id: offer for offer in supply.offers} if supply else None
    # What is launched into the cluster itself is listed at once.
    quick = replace(policy, machine_lag_s=0, orphan_s=0) if supply and supply.in_cluster else policy
    return keep_book(cluster, pool, offers, quick)


def _decide_pool(cluster: Cluster, pool: Pool, supply: Supply | None, policy: Policy, beside: Used) -> Plan:
    """Return what to do in one pool, `beside` what others hold.

    An outdated node is replaced where each of its pods has another place, there or bought.
    """
    for notice in replaceable(cluster, pool):
        plan, stranded = _drafted(replace(cluster, notices=(*cluster.notices, notice)), pool, supply, policy, beside)
        if not stranded:
            return plan
    return _drafted(cluster, pool, supply, policy, beside)[0]


def _drafted(cluster: Cluster, pool: Pool, supply: Supply | None, policy: Policy, beside: Used) -> tuple[Plan, bool]:
    """Return what to do in one pool, and whether a pod that has to leave its node has no other place."""
    demands = [demand for demand in cluster.demands if demand.pool == pool.name]
    book, halted = _book(cluster, pool, supply, policy), stopped(pool, policy)

    nodes, lost = _usable_nodes(cluster, pool, book), taken_back(cluster, book)
    bought_for = _nominations(book, {name: node.name for name, node in book.nodes.items()})
    moves = reserved(displaced(cluster, book), nodes, bought_for)
    on_nodes = pack(demands, moves.nodes, pinned=bought_for)
    moves = moves.beside(on_nodes)
    chosen = {placed.node for placed in on_nodes.placed}
    homeless = (*on_nodes.left, *moves.left)
    missing = {left.demand.uid: left.reasons for left in homeless}
    avoid = _misfits(cluster, pool, book, homeless, chosen | {*moves.housed.values()})
    out = (*pool.set_aside, *avoid.entries, *_late(cluster, pool, book, lost))
    stock = usable(cluster, replace(pool, set_aside=out), supply or Supply())

    coming, silent = _coming(book, pool), _silent(cluster.now_s, nodes, policy)
    promised = _promised(book, coming, missing.keys())
    waiting = [stock.wish(left.demand) for left in homeless if left.demand.uid not in promised]
    on_the_way = pack(waiting, [*coming, *silent], pinned=_nominations(book, {node.name: node.name for node in coming}))
    unserved = [left.demand for left in on_the_way.left]

    there = [node for node in filled(moves.nodes, on_nodes.placed) if node.ready and not node.fenced]
    kept = kept_nodes(cluster, pool, [*there, *silent], reclaimed=supply.reclaims_idle) if supply else {}
    freed = free(cluster, pool, book, chosen, kept if supply and supply.reclaims_idle else {})
    running = {demand.uid for demand in moves.demands}
    doubt = _doubt(nodes, silent)
    spare = held_back(pool, book, [*there, *filled(_ordered(book, pool, coming), on_the_way.placed), *silent])
    wanted = [*unserved, *spare]
    why_not = "buying is stopped" if halted else doubt
    has = used(cluster, pool, book)
    room = within(pool.limits, has, policy.total, has + beside)
    bought = held(wanted, why_not) if why_not else buy(cluster, pool, room, stock, supply, wanted)
    awaited = chosen | kept.keys() | moves.nodes_awaited(cluster, bought_for)
    unused = idle(cluster, pool, supply, book, awaited)
    plan = Plan(
        actions=(
            *(without_replays(book.actions) if halted else book.actions),
            *advertised(cluster, pool),
            *(_assign(placed, pool) for placed in on_nodes.placed),
            *avoid.actions,
            *freed.actions,
            *unused.actions,
            *_nominate(book, coming, on_the_way),
            *bought.actions,
            *drains(cluster, pool, book, housed=moves.housed, lost=lost),
            *release(cluster, pool),
        ),
        unmet=tuple(
            Unmet(pool=pool.name, pod=demand.id, reasons=tuple(dict.fromkeys((*bought.left[demand.uid], *missing[demand.uid]))))
            for demand in unserved
            if demand.uid in bought.left and demand.uid not in running
        ),
        waiting=tuple(left.demand.id for left in on_nodes.left if left.demand.uid not in bought.left),
        problems=(*halted, *book.problems.values(), *book.doubts, *without_headroom(pool, there, spare, bought.left)),
        recheck_s=_earliest((book.recheck_s, unused.recheck_s, freed.recheck_s, *_ends_s(silent, policy))),
        retry_s=bought.retry_s,
    )
    return plan, any(demand.uid in bought.left for demand in unserved if demand.uid in running)


# --- who holds what -------------------------------------------------------------------------------------------------


def _usable_nodes(cluster: Cluster, pool: Pool, book: Book) -> list[Node]:
    """Return the pool's nodes; one that is not complete yet, or whose machine is on its way out, takes no pod."""
    fences = {r.machine_id: "not all of it is there yet" for r in book.requests if r.state in {State.LAUNCHED, State.REGISTERED}}
    fences |= {r.machine_id: "its machine is being given back" for r in book.requests if r.state is State.TERMINATING}
    fences |= {r.machine_id: "it is being emptied" for r in book.requests if r.state is State.DRAINING}
    fences |= {action.request.machine_id: "it was not admitted yet" for action in book.actions if isinstance(action, Admit)}
    fences |= {
        action.request.machine_id: "its machine is gone" for action in book.actions if isinstance(action, Forget) and action.node
    }
    return [
        replace(node, fenced=node.fenced or fences[node.machine_id]) if node.machine_id in fences else node
        for node in cluster.nodes
        if node.pool == pool.name
    ]


def _nominations(book: Book, names: Mapping[str, str]) -> dict[str, str]:
    """Return the node by demand uid for which a node was bought, under the node names that stand for the requests."""
    return {uid: names[request.name] for request in book.requests if request.name in names for uid in request.nominated}


def _coming(book: Book, pool: Pool) -> list[Node]:
    """Return the nodes on their way as they will look, named like their requests.

    While nobody has chosen among the offers of a call, the best of them is expected: whoever chooses takes the cheapest too.
    """
    admitted = {action.request.name for action in book.actions if isinstance(action, Admit)}
    return [
        imagine(book.expected[request.name][0], name=request.name, pool=pool.name)
        for request in book.requests
        if (request.state in {State.LAUNCHED, State.REGISTERED} or request.name in admitted) and book.expected[request.name]
    ]


def _silent(now_s: int, nodes: Sequence[Node], policy: Policy) -> list[Node]:
    """Return the nodes that stopped reporting a moment ago, as they are when they report again.

    After an outage of the API server or of a network, all of them are there and only their reports are stale: what would fit
    there waits for them and is not bought a second time.
    """
    return [
        replace(node, ready=True)
        for node in nodes
        if not node.ready
        and not node.fenced
        and node.silent_since_s is not None
        and now_s - node.silent_since_s < policy.silent_s
    ]


def _doubt(nodes: Sequence[Node], silent: Sequence[Node]) -> str:
    """Return why the reports are not to be bought by, or nothing: so many nodes do not fail in the same five minutes."""
    # A node that starts has not stopped: its first report says that it is not Ready.
    stopped = sum(node.silent_since_s is not None and node.silent_since_s > node.created_s + STARTS_S for node in silent)
    if stopped < 2 or stopped * DOUBT_FROM <= len(nodes):  # noqa: PLR2004 - one node can always fail by itself
        return ""
    return f"{stopped} of {len(nodes)} nodes stopped reporting together: until that is clear nothing is bought"


def _ends_s(silent: Sequence[Node], policy: Policy) -> list[int]:
    return [node.silent_since_s + policy.silent_s for node in silent if node.silent_since_s is not None]


def _promised(book: Book, coming: Sequence[Node], uids: Collection[str]) -> set[str]:
    """Return the uids that wait for a node of which only the promise is known: its call has no outcome yet."""
    shaped = {node.name for node in coming}
    blind = (r for r in book.requests if r.state in {State.REQUESTED, State.LAUNCHED, State.REGISTERED} and r.name not in shaped)
    return {uid for request in blind for uid in request.nominated if uid in uids}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Misfits:
    actions: tuple[Avoid, ...]
    entries: tuple[SetAside, ...]


def _misfits(cluster: Cluster, pool: Pool, book: Book, homeless: Iterable[Left], placed: AbstractSet[str]) -> _Misfits:
    """Find nodes that are there, empty, and fit none of the waiting pods they were bought for.

    A node can be smaller than its offer, or carry a taint or lack a label that the offer did not tell of. The same would be
    bought again and again.
    """
    left = {item.demand.uid: item for item in homeless}
    chosen = placed | {action.node for action in book.actions if isinstance(action, Admit)}
    actions = []
    for request in book.requests:
        node = book.nodes.get(request.name)
        uids = tuple(uid for uid in request.nominated if uid in left)
        if request.state is not State.READY or node is None or not uids or node.name in chosen:
            continue
        if node.ready and not node.fenced and not any(not pod.daemon for pod in node.pods):
            why = f"node {node.name} is empty and fits none of them: {'; '.join(left[uids[0]].reasons)}"
            pods = tuple(left[uid].demand.id for uid in uids)
            actions.append(Avoid(pool=pool.name, request=request, uids=uids, pods=pods, why=why))
    entries = [
        set_aside(pool, cluster.now_s, action.request.offer, action.why, pod=uid) for action in actions for uid in action.uids
    ]
    return _Misfits(actions=tuple(actions), entries=tuple(entries))


def _late(cluster: Cluster, pool: Pool, book: Book, lost: Mapping[str, Iterable[str]]) -> list[SetAside]:
    """Return what `apply` will set aside: for nodes that never came or never became ready, and what a cloud takes back."""
    ended = (action for action in book.actions if isinstance(action, Terminate | Forget))
    reasons = [(offer, action.why) for action in ended for offer in action.disappointing]
    reasons += [(offer, "its cloud takes it back") for offers in lost.values() for offer in offers]
    return [set_aside(pool, cluster.now_s, offer, why) for offer, why in dict(reasons).items()]


def _assign(placed: Placed, pool: Pool) -> Assign:
    demand = placed.demand
    return Assign(
        pool=pool.name, pod=demand.id, uid=demand.uid, node=placed.node, slices=placed.slices, why=f"it fits on {placed.node}"
    )


def _nominate(book: Book, coming: Sequence[Node], on_the_way: Packing) -> list[Action]:
    kept: dict[str, list[str]] = {node.name: [] for node in coming}
    for placed in on_the_way.placed:
        if placed.node in kept:
            kept[placed.node].append(placed.demand.uid)
    return [
        Nominate(pool=request.pool, request=request, uids=uids, why="the pods that wait for it changed")
        for request in book.requests
        if request.name in kept and (uids := tuple(sorted(kept[request.name]))) != request.nominated
    ]


def _ordered(book: Book, pool: Pool, coming: Sequence[Node]) -> list[Node]:
    """Return the nodes on their way, also those of calls whose outcome is not known yet."""
    known = {node.name for node in coming}
    blind = [r for r in book.requests if r.state is State.REQUESTED and r.name not in known and book.expected[r.name]]
    return [*coming, *(imagine(book.expected[request.name][0], name=request.name, pool=pool.name) for request in blind)]


def _earliest(times_s: Iterable[int | None]) -> int | None:
    return min((time_s for time_s in times_s if time_s is not None), default=None)
