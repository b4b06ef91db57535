"""What a pool may buy right now: offers with capacity, as the nodes that came of them really are, within the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tfscale.model import Cluster, Node, Offer, Pool
from tfscale.plan import some
from tfscale.records import Book

__all__ = ["Room", "Stock", "Supply", "usable", "within"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What the mode of one pool can do."""

    offers: Sequence[Offer] = ()
    reclaims_idle: bool = False
    """True: somebody else removes idle nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """The offers of a pool."""

    offers: tuple[Offer, ...]
    """Those that may be bought now."""
    all_offers: tuple[Offer, ...]
    """The same with those that are set aside."""
    retry_s: int | None
    """When the first offer that is set aside comes back."""
    reason: str
    """What to tell a pod that waits for an offer that is set aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the limits of a pool leave; None is no limit."""

    nodes: int | None
    gpus: int | None
    micro_usd: int | None


def usable(cluster: Cluster, pool: Pool, supply: Supply) -> Stock:
    """Return the offers that have not been set aside, with the capacity that living nodes of the same type really show."""
    out = [entry for entry in pool.set_aside if entry.until_s > cluster.now_s]
    names = {entry.offer for entry in out}
    offers = tuple(_as_seen(offer, cluster.nodes) for offer in sorted(supply.offers, key=lambda offer: offer.id))
    retry_s = min((entry.until_s for entry in out), default=None)
    return Stock(
        offers=tuple(offer for offer in offers if offer.id not in names),
        all_offers=offers,
        retry_s=retry_s,
        reason="" if retry_s is None else _out_of_capacity(sorted(names), retry_s),
    )


def within(cluster: Cluster, pool: Pool, book: Book, supply: Supply) -> Room:
    """Return what may still be bought: the limits less every node that exists or is on its way, terminating ones too."""
    prices = {offer.id: offer for offer in supply.offers}
    bought = [prices.get(request.offer) for request in book.requests]
    requested = {node.name for node in book.nodes.values()}
    others = [node for node in cluster.nodes if node.pool == pool.name and node.name not in requested]
    counts = {request.name: len(book.nodes[request.name].gpus) for request in book.requests if request.name in book.nodes}
    gpus = sum(
        max(counts.get(request.name, 0), offer.gpu_count if offer else 0)
        for request, offer in zip(book.requests, bought, strict=True)
    )
    return Room(
        nodes=_less(pool.limits.nodes, len(book.requests) + len(others)),
        gpus=_less(pool.limits.gpus, gpus + sum(len(node.gpus) for node in others)),
        micro_usd=_less(pool.limits.micro_usd, sum(offer.price_micro_usd or 0 for offer in bought if offer)),
    )


def _less(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(limit - used, 0)


def _as_seen(offer: Offer, nodes: Sequence[Node]) -> Offer:
    """Return the offer with what its living nodes can allocate at most, less their daemons.

    A node allocates less than its machine has. Without this, a pod that fits the machine but not the node would be bought
    one node after the other, none of which can take it.
    """
    alike = [n for n in nodes if n.ready and n.labels.get("node.kubernetes.io/instance-type") == offer.instance_type]
    if not alike:
        return offer
    daemons = [[pod.request for pod in node.pods if pod.daemon] for node in alike]
    pairs = list(zip(alike, daemons, strict=True))
    return replace(
        offer,
        cpu_milli=min(offer.cpu_milli, *(node.cpu_milli - sum(r.cpu_milli for r in taken) for node, taken in pairs)),
        memory_mib=min(offer.memory_mib, *(node.memory_mib - sum(r.memory_mib for r in taken) for node, taken in pairs)),
        pods_max=min(offer.pods_max, *(node.pods_max - len(taken) for node, taken in pairs)),
    )


def _out_of_capacity(offers: Sequence[str], until_s: int) -> str:
    return f"out of capacity until {datetime.fromtimestamp(until_s, UTC):%H:%M:%S} UTC: {some(offers)}"
