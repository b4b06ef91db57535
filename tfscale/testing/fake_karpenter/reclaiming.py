"""When Karpenter gives up a claim by itself: its time is over, what it stands on is gone, or its node is empty.

Source: Karpenter 1.14, the controllers of liveness, expiration, garbage collection and emptiness.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction

from tfscale.kube.port import NODE_CLAIMS, NODE_POOLS, Json, Kube
from tfscale.quantity import time_text
from tfscale.testing.fake_karpenter.conditions import CONSOLIDATABLE, LAUNCHED, REGISTERED, Condition, write_status
from tfscale.testing.fake_karpenter.ending import earliest
from tfscale.testing.fake_karpenter.objects import Claim, Node, Pool

__all__ = ["count", "ends_s", "is_lost", "reclaim_empty"]

_LAUNCH_WITHIN_S = 300
_REGISTER_WITHIN_S = 900
_DISRUPT_S = 25
"""From a node that may be reclaimed to its end: a poll of 10 s and 15 s in which nothing may change."""


def ends_s(claim: Claim) -> int | None:
    """Return when the time of the claim is over: to be launched, to be registered, to live."""
    after_s = claim.wish.expire_after_s
    return earliest(
        None if after_s is None else claim.created_s + after_s,
        _late_s(claim, LAUNCHED, _LAUNCH_WITHIN_S),
        _late_s(claim, REGISTERED, _REGISTER_WITHIN_S),
    )


def is_lost(claim: Claim, node: Node | None, *, has_machine: bool, pools: Collection[str]) -> bool:
    """Return whether something that the claim stands on is gone: all NodePools that own it, its node, or its machine.

    `pools` are the uids of those that are there. A machine that is lost before its node has joined is not noticed.
    """
    if claim.pools and claim.pools.isdisjoint(pools):
        return True
    if not claim.true(REGISTERED):
        return False
    return node is None or node.deleting or not (has_machine or node.ready)


def reclaim_empty(kube: Kube, claim: Claim, node: Node, pool: Pool, now_s: int, *, busy: bool) -> int | None:
    """Delete the claim when its node was empty for long enough, and return when that may be; None where it is not in sight.

    Since when it is empty is in ``status.lastPodEventTime``, which the real Karpenter also has while pods run. Whether
    disruption is forbidden, the node alone says.
    """
    if pool.consolidate_after_s is None or busy:
        _forget_empty(kube, claim, now_s)
        return None
    if claim.pod_event_s is None:
        write_status(kube, claim, now_s, lastPodEventTime=time_text(now_s))
        return None
    allowed_s = claim.pod_event_s + pool.consolidate_after_s
    if node.held or now_s < allowed_s:
        if CONSOLIDATABLE in claim.conditions:
            write_status(kube, claim, now_s, Condition(type=CONSOLIDATABLE, status=""))
        return None if node.held else allowed_s
    if not claim.true(CONSOLIDATABLE):
        write_status(kube, claim, now_s, Condition(type=CONSOLIDATABLE, status="True"))
        return None
    end_s = claim.since_s(CONSOLIDATABLE) + _DISRUPT_S
    if end_s <= now_s:
        kube.delete(NODE_CLAIMS, claim.name, uid=claim.uid)
    return end_s


def count(kube: Kube, pool: Pool, claims: Iterable[Claim]) -> None:
    """Write in the status of the NodePool how many nodes its claims are and what they have. Nothing there enforces limits."""
    mine = [claim for claim in claims if claim.pool == pool.name]
    total: dict[str, Fraction] = {}
    for claim in mine:
        for name, amount in claim.capacity.items():
            total[name] = total.get(name, Fraction(0)) + amount
    resources = {**_texts(total), "nodes": str(len(mine))}
    gone = dict.fromkeys(pool.status.get("resources", {}).keys() - resources.keys())
    status: Json = {"nodes": len(mine), "resources": resources}
    if gone or not status.items() <= pool.status.items():
        kube.patch_status(NODE_POOLS, pool.name, {"status": {**status, "resources": {**resources, **gone}}})


def _late_s(claim: Claim, condition: str, within_s: int) -> int | None:
    """Return when a condition is too late to become true. Nothing is counted before the claim was first looked at."""
    waits = condition in claim.conditions and not claim.true(condition)
    return claim.since_s(condition) + within_s if waits else None


def _forget_empty(kube: Kube, claim: Claim, now_s: int) -> None:
    if claim.pod_event_s is not None or CONSOLIDATABLE in claim.conditions:
        write_status(kube, claim, now_s, Condition(type=CONSOLIDATABLE, status=""), lastPodEventTime=None)


def _texts(amounts: Mapping[str, Fraction]) -> dict[str, str]:
    """Return amounts as quantities: whole ones as they are, others in thousandths."""
    return {
        name: str(amount.numerator) if amount.denominator == 1 else f"{amount * 1_000 // 1}m"
        for name, amount in sorted(amounts.items())
    }
