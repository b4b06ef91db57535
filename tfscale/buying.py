"""What is bought for what is left: the cheapest mix within the limits, written down as one record for each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tfscale.limits import Room
from tfscale.market import Stock, Supply
from tfscale.model import Cluster, Demand, NodeRequest
from tfscale.orphans import digest
from tfscale.plan import Action, Launch, usd
from tfscale.pool import Pool
from tfscale.slicing import Purchase, shop

__all__ = ["Bought", "buy", "held"]

CALL_MOST = 200
"""Nodes of one call. Its record has all that is sent, for a NodeClaim above 1 kB, and etcd takes 1.5 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """What is launched, and what is not and why."""

    actions: tuple[Action, ...] = ()
    left: Mapping[str, tuple[str, ...]]
    """Reasons by demand uid."""
    retry_s: int | None = None
    """When the first offer that is set aside now may be tried again."""


def buy(cluster: Cluster, pool: Pool, room: Room, stock: Stock, supply: Supply | None, demands: Sequence[Demand]) -> Bought:
    """Shop for what is left, within what the limits leave."""
    if supply is None:
        return Bought(left={demand.uid: (f"nothing can be bought: mode {pool.mode} cannot be used now",) for demand in demands})
    if pool.deleting:
        return Bought(left={demand.uid: (f"pool {pool.name} is being deleted",) for demand in demands})
    if not supply.offers:
        return Bought(left={demand.uid: tuple(supply.withheld) for demand in demands})
    if room.reason:
        return Bought(left={demand.uid: (room.reason,) for demand in demands})
    shopping = shop(
        demands,
        stock.offers,
        pool=pool.name,
        nodes_max=room.nodes,
        gpus_max=room.gpus,
        micro_usd_max=room.micro_usd,
        called=room.called,
    )
    left = {item.demand.uid: item.reasons for item in shopping.left}
    retries_s = [room.retry_s] if left else []
    if left and stock.out:
        # What would be bought if nothing were set aside waits for that, and is told so.
        asked = {demand.uid: demand for demand in cluster.demands if demand.uid in left}
        without = shop(list(asked.values()), stock.all_offers, pool=pool.name)
        for placed in (placed for purchase in without.purchases for placed in purchase.placed):
            obstacles, retry_s = stock.obstacles(placed.demand)
            left[placed.demand.uid] = (*obstacles, *left[placed.demand.uid])
            retries_s.append(retry_s)
    requests = _requests(cluster, pool, shopping.purchases)
    launches = _launches(cluster, pool, shopping.purchases, requests)
    return Bought(
        actions=tuple(launches), left=left, retry_s=min((time_s for time_s in retries_s if time_s is not None), default=None)
    )


def _requests(cluster: Cluster, pool: Pool, purchases: Sequence[Purchase]) -> list[NodeRequest]:
    """Return one node request for each purchase, named after the pods it is bought for.

    The name makes a second process that decides the same collide on creation instead of buying twice.
    """
    # A NodeClaim has the name of its request, also when that record was lost and another one stands for the claim.
    taken = {name for request in cluster.requests for name in (request.name, request.machine_id)}
    taken |= {machine.id for machine in cluster.machines.get(pool.name, ())}
    requests = []
    for purchase in purchases:
        uids = tuple(sorted(placed.demand.uid for placed in purchase.placed))
        base = f"{pool.name}-{digest(pool.name, *uids)}"
        name = next(n for i in range(1, len(taken) + 2) if (n := base if i == 1 else f"{base}-{i}") not in taken)
        taken.add(name)
        requests.append(NodeRequest(name=name, pool=pool.name, mode=pool.mode, nominated=uids))
    return requests


def _launches(cluster: Cluster, pool: Pool, purchases: Sequence[Purchase], requests: Sequence[NodeRequest]) -> list[Launch]:
    """Return one call for all purchases that accept the same offers, or some where one record could not hold it."""
    groups: dict[tuple[str, ...], list[tuple[NodeRequest, Purchase]]] = {}
    for purchase, request in zip(purchases, requests, strict=True):
        groups.setdefault(tuple(offer.id for offer in purchase.alternatives), []).append((request, purchase))
    lists = [sorted(members, key=lambda member: member[0].name) for members in groups.values()]
    return [_launch(cluster, pool, some[at : at + CALL_MOST]) for some in lists for at in range(0, len(some), CALL_MOST)]


def _launch(cluster: Cluster, pool: Pool, members: Sequence[tuple[NodeRequest, Purchase]]) -> Launch:
    # Another batch where the same pods are bought for again: machines carry its name.
    batch = f"{pool.name}-{digest(str(cluster.now_s), cluster.moment, *(request.name for request, _ in members))}"
    offers = members[0][1].alternatives
    dearer = next((offer for offer in offers if offer.instance_type != offers[0].instance_type), None)
    best = f"next best {dearer.instance_type} at {usd(dearer.price_micro_usd)}" if dearer else "no other type that is wanted fits"
    return Launch(
        pool=pool.name,
        batch=batch,
        requests=tuple(replace(request, batch=batch) for request, _ in members),
        pods=tuple(tuple(sorted(placed.demand.id for placed in purchase.placed)) for _, purchase in members),
        offers=offers,
        why=f"cheapest that fits; {best}",
    )


def held(demands: Sequence[Demand], why: str) -> Bought:
    """Return that nothing is bought for any of them, and why."""
    return Bought(left={demand.uid: (why,) for demand in demands})
