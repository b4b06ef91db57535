"""The whole decision on one page: what is observed goes in, a plan comes out.

::

    records  ->  who holds what  ->  place on nodes  ->  keep for nodes on their way  ->  buy  ->  give idle nodes back

Nothing is read, written or timed here. The same input gives the same plan, in whatever order its parts come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from tfscale.lifecycle import State
from tfscale.market import Supply, usable, within
from tfscale.model import Cluster, Demand, Node, NodeRequest, Offer, Pool
from tfscale.plan import Action, Assign, Forget, Launch, MarkIdle, Nominate, Plan, Terminate, Unmet, usd
from tfscale.records import Book, Policy, keep_book
from tfscale.slicing import Packing, Placed, Purchase, imagine, pack, shop

__all__ = ["Policy", "Supply", "decide"]


def decide(cluster: Cluster, supplies: Mapping[str, Supply], policy: Policy | None = None) -> Plan:
    """Return what to do now. `supplies` says by pool what can be launched there.

    A pool without an entry (its mode gave no answer) still has its pods placed, but nothing is bought or given back.
    """
    pools = sorted(cluster.pools, key=lambda pool: pool.name)
    parts = [_decide_pool(cluster, pool, supplies.get(pool.name), policy or Policy()) for pool in pools]
    return Plan(
        actions=tuple(chain.from_iterable(part.actions for part in parts)),
        unmet=tuple(sorted(chain.from_iterable(part.unmet for part in parts))),
        waiting=tuple(sorted(chain.from_iterable(part.waiting for part in parts))),
        recheck_s=_earliest(part.recheck_s for part in parts),
        retry_s=_earliest(part.retry_s for part in parts),
    )


def _decide_pool(cluster: Cluster, pool: Pool, supply: Supply | None, policy: Policy) -> Plan:
    demands = [demand for demand in cluster.demands if demand.pool == pool.name]
    offers = {offer.id: offer for offer in supply.offers} if supply else {}
    book = keep_book(cluster, pool, offers, policy)
    nodes = _usable_nodes(cluster, pool, book)

    on_nodes = pack(demands, nodes, pinned=_nominations(book, {name: node.name for name, node in book.nodes.items()}))
    coming = _coming(book, offers, pool)
    promised = _promised(book, coming, on_nodes)
    waiting = [left.demand for left in on_nodes.left if left.demand.uid not in promised]
    on_the_way = pack(waiting, coming, pinned=_nominations(book, {node.name: node.name for node in coming}))
    unserved = [left.demand for left in on_the_way.left]

    bought = _buy(cluster, pool, book, supply, unserved) if supply else _Bought(left={d.uid: () for d in unserved})
    idle = _idle(cluster, pool, book, {placed.node for placed in on_nodes.placed}) if _returns(pool, supply) else _Idle()
    missing = {left.demand.uid: left.reasons for left in on_nodes.left}
    return Plan(
        actions=(
            *book.actions,
            *(_assign(placed, pool) for placed in on_nodes.placed),
            *idle.actions,
            *_nominate(book, coming, on_the_way),
            *bought.actions,
        ),
        unmet=tuple(
            Unmet(pool=pool.name, pod=demand.id, reasons=tuple(dict.fromkeys((*bought.left[demand.uid], *missing[demand.uid]))))
            for demand in unserved
            if demand.uid in bought.left
        ),
        waiting=tuple(left.demand.id for left in on_nodes.left if left.demand.uid not in bought.left),
        recheck_s=_earliest((book.recheck_s, idle.recheck_s)),
        retry_s=bought.retry_s,
    )


# --- who holds what -------------------------------------------------------------------------------------------------


def _usable_nodes(cluster: Cluster, pool: Pool, book: Book) -> list[Node]:
    """Return the pool's nodes; one whose machine is on its way out takes no pod any more."""
    leaving = {r.machine_id for r in book.requests if r.state is State.TERMINATING}
    leaving |= {action.request.machine_id for action in book.actions if isinstance(action, Forget)}
    return [
        replace(node, pool=pool.name, fenced="its machine is being given back") if node.machine_id in leaving else node
        for node in cluster.nodes
        if node.pool == pool.name
    ]


def _nominations(book: Book, names: Mapping[str, str]) -> dict[str, str]:
    """Return the node by demand uid for which a node was bought, under the node names that stand for the requests."""
    return {uid: names[request.name] for request in book.requests if request.name in names for uid in request.nominated}


def _coming(book: Book, offers: Mapping[str, Offer], pool: Pool) -> list[Node]:
    """Return the nodes on their way as they will look, named like their requests."""
    return [
        imagine(offers[request.offer], name=request.name, pool=pool.name)
        for request in book.requests
        if request.state in {State.LAUNCHED, State.REGISTERED} and request.offer in offers
    ]


def _promised(book: Book, coming: Sequence[Node], on_nodes: Packing) -> set[str]:
    """Return the uids that wait for a node of which only the promise is known: its call has no outcome yet."""
    shaped = {node.name for node in coming}
    blind = (r for r in book.requests if r.state in {State.REQUESTED, State.LAUNCHED, State.REGISTERED} and r.name not in shaped)
    return {uid for request in blind for uid in request.nominated} & {left.demand.uid for left in on_nodes.left}


def _assign(placed: Placed, pool: Pool) -> Assign:
    demand = placed.demand
    return Assign(
        pool=pool.name, pod=demand.id, uid=demand.uid, node=placed.node, slices=placed.slices, why=f"it fits on {placed.node}"
    )


def _nominate(book: Book, coming: Sequence[Node], on_the_way: Packing) -> list[Action]:
    kept: dict[str, list[str]] = {node.name: [] for node in coming}
    for placed in on_the_way.placed:
        kept[placed.node].append(placed.demand.uid)
    return [
        Nominate(pool=request.pool, request=request, uids=uids, why="the pods that wait for it changed")
        for request in book.requests
        if request.name in kept and (uids := tuple(sorted(kept[request.name]))) != request.nominated
    ]


# --- buying ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bought:
    actions: tuple[Action, ...] = ()
    left: Mapping[str, tuple[str, ...]]
    """Reasons by demand uid."""
    retry_s: int | None = None


def _buy(cluster: Cluster, pool: Pool, book: Book, supply: Supply, demands: Sequence[Demand]) -> _Bought:
    """Shop for what is left, within the pool's limits; requests without a call are filled anew before new ones are made."""
    if pool.deleting:
        return _Bought(
            actions=tuple(_cancel(pool, request) for request in book.void),
            left={demand.uid: (f"pool {pool.name} is being deleted",) for demand in demands},
        )
    stock = usable(cluster, pool, supply)
    room = within(cluster, pool, book, supply)
    shopping = shop(demands, stock.offers, pool=pool.name, nodes_max=room.nodes, gpus_max=room.gpus, micro_usd_max=room.micro_usd)
    left = {item.demand.uid: item.reasons for item in shopping.left}
    delayed: set[str] = set()
    if left and stock.retry_s is not None:
        without = shop([item.demand for item in shopping.left], stock.all_offers, pool=pool.name)
        delayed = {placed.demand.uid for purchase in without.purchases for placed in purchase.placed}
    requests = _requests(cluster, pool, book, shopping.purchases)
    used = {request.name for request in requests}
    return _Bought(
        actions=(
            *_launches(cluster, pool, shopping.purchases, requests),
            *(_cancel(pool, request) for request in book.void if request.name not in used),
        ),
        left={uid: (stock.reason, *reasons) if uid in delayed else reasons for uid, reasons in left.items()},
        retry_s=stock.retry_s if delayed else None,
    )


def _requests(cluster: Cluster, pool: Pool, book: Book, purchases: Sequence[Purchase]) -> list[NodeRequest]:
    """Return one node request for each purchase, named after the pods it is bought for.

    The name makes a second process that decides the same collide on creation instead of buying twice.
    """
    void = {request.name: request for request in book.void}
    taken = {request.name for request in cluster.requests} - set(void)
    requests = []
    for purchase in purchases:
        uids = tuple(sorted(placed.demand.uid for placed in purchase.placed))
        base = f"{pool.name}-{_digest(pool.name, *uids)}"
        name = next(n for i in range(1, len(taken) + 2) if (n := base if i == 1 else f"{base}-{i}") not in taken)
        taken.add(name)
        again = void.get(name)
        requests.append(
            NodeRequest(
                name=name,
                pool=pool.name,
                nominated=uids,
                attempt=again.attempt + 1 if again else 1,
                created_s=again.created_s if again else cluster.now_s,
                changed_s=cluster.now_s,
            )
        )
    return requests


def _launches(cluster: Cluster, pool: Pool, purchases: Sequence[Purchase], requests: Sequence[NodeRequest]) -> list[Launch]:
    """Return one call for all purchases that accept the same offers."""
    groups: dict[tuple[str, ...], list[tuple[NodeRequest, Purchase]]] = {}
    for purchase, request in zip(purchases, requests, strict=True):
        groups.setdefault(tuple(offer.id for offer in purchase.alternatives), []).append((request, purchase))
    return [_launch(cluster, pool, sorted(members, key=lambda member: member[0].name)) for members in groups.values()]


def _launch(cluster: Cluster, pool: Pool, members: Sequence[tuple[NodeRequest, Purchase]]) -> Launch:
    offers = members[0][1].alternatives
    dearer = next((offer for offer in offers if offer.instance_type != offers[0].instance_type), None)
    best = f"next best {dearer.instance_type} at {usd(dearer.price_micro_usd)}" if dearer else "no other type that is wanted fits"
    return Launch(
        pool=pool.name,
        batch=f"{pool.name}-{_digest(str(cluster.now_s), *(f'{request.name}/{request.attempt}' for request, _ in members))}",
        requests=tuple(request for request, _ in members),
        pods=tuple(tuple(sorted(placed.demand.id for placed in purchase.placed)) for _, purchase in members),
        offers=offers,
        why=f"cheapest that fits; {best}",
    )


def _cancel(pool: Pool, request: NodeRequest) -> Forget:
    return Forget(pool=pool.name, request=request, node="", why="no call was made for it and nobody needs it now")


# --- giving back ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Idle:
    actions: tuple[Action, ...] = ()
    recheck_s: int | None = None


def _returns(pool: Pool, supply: Supply | None) -> bool:
    return supply is not None and (pool.deleting or not supply.reclaims_idle)


def _idle(cluster: Cluster, pool: Pool, book: Book, chosen: set[str]) -> _Idle:
    """Mark nodes that nobody uses, and give back those that were marked long enough ago. `chosen` get a pod in this plan."""
    actions: list[Action] = []
    due: list[int] = []
    ready = [request for request in book.requests if request.state is State.READY and request.name in book.nodes]
    for request in ready:
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
                    must_be_empty=True,
                    set_aside=False,
                    why=f"idle for {cluster.now_s - since_s} s",
                )
            )
            continue
        due.append(since_s + pool.idle_after_s)
        if node.idle_since_s is None:
            actions.append(MarkIdle(pool=pool.name, node=node.name, since_s=since_s, why="no pod is left on it"))
    return _Idle(actions=tuple(actions), recheck_s=min(due, default=None))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


def _earliest(times_s: Iterable[int | None]) -> int | None:
    return min((time_s for time_s in times_s if time_s is not None), default=None)
