"""What a pool may buy right now: offers with capacity, as the nodes that came of them really are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tfscale.failures import OTHERS_FIRST
from tfscale.model import INSTANCE_TYPE, Cluster, Demand, Node, Offer
from tfscale.plan import some
from tfscale.pool import Pool, SetAside
from tfscale.selectors import Operator, Requirement

__all__ = ["EVERYTHING", "Stock", "Supply", "remembered", "set_aside", "usable"]

PAID_FOR_S = 3_600
"""How long an offer is left out the first time when its node was no good."""
MOST_DOUBLINGS = 3
EVERYTHING = "*/*/*"
"""What is set aside where the cloud wants a pause: no offer is to blame, and none would fare better."""
PAUSE_S = 5
"""How long such a pause is at first."""
OTHERS_S = 30
"""How long a pool buys nothing after a launch that was stuck, at first. Karpenter, which it held up, looks for each waiting pod
every 10 s whether it may buy: a shorter time could pass in between. Source: Karpenter 1.14, its provisioning controller."""
_PAUSES = {EVERYTHING: PAUSE_S, OTHERS_FIRST: OTHERS_S}


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What the mode of one pool can do."""

    offers: Sequence[Offer] = ()
    withheld: Sequence[str] = ()
    """Why there are no offers, as far as the mode says so."""
    reclaims_idle: bool = False
    """True: somebody else removes idle nodes."""
    in_cluster: bool = False
    """True: a machine is listed as soon as it was launched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """The offers of a pool and what keeps some of them away."""

    offers: tuple[Offer, ...]
    """Those that may be bought now."""
    all_offers: tuple[Offer, ...]
    """The same with those that are set aside."""
    out: tuple[SetAside, ...]
    """What is set aside now, for all pods or for one."""

    def wish(self, demand: Demand) -> Demand:
        """Return the demand without the instance types whose nodes turned out not to fit it."""
        types = tuple(sorted({entry.offer.partition("/")[0] for entry in self.out if entry.pod == demand.uid}))
        if not types:
            return demand
        other = Requirement(key=INSTANCE_TYPE, operator=Operator.NOT_IN, values=types)
        return replace(demand, terms=tuple((*term, other) for term in demand.terms or ((),)))

    def obstacles(self, demand: Demand) -> tuple[tuple[str, ...], int | None]:
        """Return what is set aside for this pod, in words, and when the first of it is tried again."""
        entries = [entry for entry in self.out if entry.pod in {"", demand.uid}]
        words = (
            ("its cloud wants a pause", [entry for entry in entries if entry.offer == EVERYTHING]),
            ("a launch was stuck, and others are to have their turn", [e for e in entries if e.offer == OTHERS_FIRST]),
            ("out of capacity or never ready", [e for e in entries if not e.pod and e.offer not in _PAUSES]),
            ("its nodes turned out not to fit", [entry for entry in entries if entry.pod]),
        )
        lines = tuple(
            f"{why}: {some([entry.offer for entry in group])}; tried again at {_clock(min(e.until_s for e in group))}"
            for why, group in words
            if group
        )
        return lines, min((entry.until_s for entry in entries), default=None)


def usable(cluster: Cluster, pool: Pool, supply: Supply) -> Stock:
    """Return the offers that have not been set aside, with the capacity that living nodes of the same type really show."""
    out = tuple(sorted((e for e in pool.set_aside if e.until_s > cluster.now_s), key=lambda e: (e.offer, e.pod)))
    names = {entry.offer for entry in out if not entry.pod}
    there = [node for node in cluster.nodes if node.pool == pool.name and node.ready]
    offers = tuple(_as_seen(offer, cluster.nodes, there) for offer in sorted(supply.offers, key=lambda offer: offer.id))
    good = tuple(kept for offer in offers if (kept := _without(offer, names)))
    return Stock(offers=good, all_offers=offers, out=out)


def _without(offer: Offer, names: Collection[str]) -> Offer | None:
    """Return the offer without the subnets that are set aside, or None where it is set aside itself or no subnet is left."""
    if not {offer.id, offer.instance_type, f"*/*/{offer.capacity_type}", *_PAUSES}.isdisjoint(names):
        return None
    subnets = tuple(subnet for subnet in offer.subnets if subnet not in names)
    return None if offer.subnets and not subnets else replace(offer, subnets=subnets)


def set_aside(pool: Pool, now_s: int, offer: str, reason: str, *, pod: str = "") -> SetAside:
    """Return the entry that leaves an offer out, for twice as long as before if it disappointed not long ago.

    While it is out nothing of it is bought: what fails then was bought before, and is the same disappointment.
    An offer without capacity costs nothing but a call. A node that never became ready, or that fits none of the pods it was
    bought for, was paid for: it is tried again much later. For the former, `offer` is an instance type alone.
    """
    before = next((entry for entry in pool.set_aside if (entry.offer, entry.pod) == (offer, pod)), None)
    times = 1
    if before and now_s < _forget_at_s(pool, before):
        times = before.times + (now_s >= before.until_s)
    length_s = _shortest_s(pool, offer, pod) << min(times - 1, MOST_DOUBLINGS)
    return SetAside(offer=offer, pod=pod, until_s=now_s + length_s, times=times, reason=reason)


def remembered(pool: Pool, now_s: int) -> tuple[SetAside, ...]:
    """Return the entries that still hold, or still count when their offer disappoints again."""
    return tuple(entry for entry in pool.set_aside if now_s < _forget_at_s(pool, entry))


def _shortest_s(pool: Pool, offer: str, pod: str) -> int:
    if offer in _PAUSES:
        return _PAUSES[offer]
    # An instance type alone is what never became a node.
    unpaid = "/" in offer or offer.startswith("subnet-")
    return pool.set_aside_s if unpaid and not pod else PAID_FOR_S


def _forget_at_s(pool: Pool, entry: SetAside) -> int:
    return entry.until_s + (_shortest_s(pool, entry.offer, entry.pod) << MOST_DOUBLINGS)


def _as_seen(offer: Offer, nodes: Sequence[Node], pool_nodes: Sequence[Node]) -> Offer:
    """Return the offer with what its living nodes can allocate at most, less their daemons.

    A node allocates less than its machine has. Without this, a pod that fits the machine but not the node would be bought
    one node after the other, none of which can take it. Of a type that has no node yet only the daemons are known, if the
    pool has nodes: as many as are on the one with the fewest.
    """
    alike = [node for node in nodes if node.ready and node.labels.get(INSTANCE_TYPE) == offer.instance_type]
    if not alike:
        return _less_daemons(offer, min((_daemons(node) for node in pool_nodes), default=(0, 0, 0)))
    return replace(
        offer,
        cpu_milli=min(offer.cpu_milli, *(node.cpu_milli - _daemons(node)[0] for node in alike)),
        memory_mib=min(offer.memory_mib, *(node.memory_mib - _daemons(node)[1] for node in alike)),
        pods_max=min(offer.pods_max, *(node.pods_max - _daemons(node)[2] for node in alike)),
    )


def _daemons(node: Node) -> tuple[int, int, int]:
    """Return the millicores, the MiB and the number of a node's daemons."""
    asked = [pod.request for pod in node.pods if pod.daemon]
    return sum(request.cpu_milli for request in asked), sum(request.memory_mib for request in asked), len(asked)


def _less_daemons(offer: Offer, daemons: tuple[int, int, int]) -> Offer:
    cpu_milli, memory_mib, number = daemons
    return replace(
        offer,
        cpu_milli=max(offer.cpu_milli - cpu_milli, 0),
        memory_mib=max(offer.memory_mib - memory_mib, 0),
        pods_max=max(offer.pods_max - number, 0),
    )


def _clock(time_s: int) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%H:%M:%S} UTC"
