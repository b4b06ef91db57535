"""How much may still be bought: limits of a pool and of all pools together, less what is there, on its way or planned already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tfscale.errors import Problem
from tfscale.lifecycle import Event, State
from tfscale.model import Cluster
from tfscale.plan import Action, Launch, Plan, Replay, Terminate, some
from tfscale.pool import STOP_BUYING, TERMINATE_ALL, Limits, Policy, Pool
from tfscale.records import Book

__all__ = ["MINUTE_S", "Room", "Used", "guarded", "limited", "planned", "stopped", "used", "within", "without_replays"]

MINUTE_S = 60
GUARD_FROM = 10
"""So many idle nodes are given back at once whatever share of all nodes they are."""
GUARD_S = 3_600
"""How long a node must have been idle to be given back with too many others: what is misread is not misread for an hour."""
_IN_FLIGHT = {State.REQUESTED, State.LAUNCHED, State.REGISTERED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What counts against limits. Terminating nodes count until they are gone: they are paid for, and hold quota."""

    nodes: int = 0
    gpus: int = 0
    micro_usd: int = 0
    in_flight: int = 0
    """Nodes that were bought and are not ready."""
    launches_s: tuple[int, ...] = ()
    """When nodes were bought, of the last minute."""
    unknown: tuple[str, ...] = ()
    """Requests of which nobody knows what they will be: their offers are no more."""

    def __add__(self, other: Used) -> Used:
        """Return both together."""
        return Used(
            nodes=self.nodes + other.nodes,
            gpus=self.gpus + other.gpus,
            micro_usd=self.micro_usd + other.micro_usd,
            in_flight=self.in_flight + other.in_flight,
            launches_s=(*self.launches_s, *other.launches_s),
            unknown=(*self.unknown, *other.unknown),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What the limits leave; None is no limit."""

    nodes: int | None
    gpus: int | None
    micro_usd: int | None
    called: tuple[str, str, str]
    """What each of these is called: the limit that leaves least."""
    reason: str
    """Why nothing at all may be bought under these limits now, or empty."""
    retry_s: int | None
    """When time alone leaves more; None where it does not."""


def limited(limits: Limits) -> bool:
    """Return whether anything is limited."""
    return limits != Limits()


def used(cluster: Cluster, pool: Pool, book: Book) -> Used:
    """Return what a pool holds: every node that exists or is on its way.

    While nobody has chosen among the offers of a call, the most that it may give counts.
    """
    requested = {node.name for node in book.nodes.values()}
    others = [node for node in cluster.nodes if node.pool == pool.name and node.name not in requested]
    bought = [offers for offers in book.expected.values() if offers]
    recent = [b for b in cluster.batches if b.pool == pool.name and b.created_s > cluster.now_s - MINUTE_S]
    return Used(
        nodes=len(book.expected) + len(others),
        gpus=sum(max(offer.gpu_count for offer in offers) for offers in bought) + sum(len(node.gpus) for node in others),
        micro_usd=sum(max(offer.price_micro_usd or 0 for offer in offers) for offers in bought),
        in_flight=sum(request.state in _IN_FLIGHT for request in book.requests),
        launches_s=tuple(batch.created_s for batch in recent for _ in batch.requests),
        unknown=tuple(name for name, offers in book.expected.items() if not offers),
    )


def planned(actions: Iterable[Action], now_s: int) -> Used:
    """Return what launches will hold, whichever of their offers is taken."""
    total = Used()
    for action in actions:
        if isinstance(action, Launch):
            count = len(action.requests)
            total += Used(
                nodes=count,
                gpus=count * max(offer.gpu_count for offer in action.offers),
                micro_usd=count * max(offer.price_micro_usd or 0 for offer in action.offers),
                in_flight=count,
                launches_s=(now_s,) * count,
            )
    return total


def within(pool: Limits, held: Used, total: Limits, held_in_all: Used) -> Room:
    """Return what may still be bought in a pool.

    What a request whose offers are no more will cost is not known: under a limit of GPUs or of money nothing is bought beside it.
    """
    scopes = ((pool, held, ""), (total, held_in_all, " in all pools"))
    nodes, gpus, money, due_s = [], [], [], []
    unknown: tuple[str, ...] = ()
    for limits, has, where in scopes:
        nodes.append((_less(limits.nodes, has.nodes), f"nodes{where}"))
        nodes.append((_less(limits.in_flight, has.in_flight), f"nodes in flight{where}"))
        nodes.append((_less(limits.launches_per_minute, len(has.launches_s)), f"launches this minute{where}"))
        gpus.append((_less(limits.gpus, has.gpus), f"GPUs{where}"))
        money.append((_less(limits.micro_usd, has.micro_usd), f"USD per hour{where}"))
        if limits.gpus is not None or limits.micro_usd is not None:
            unknown = (*unknown, *has.unknown)
        if limits.launches_per_minute is not None:
            due_s += [time_s + MINUTE_S for time_s in has.launches_s]
    least = [min(found, key=lambda one: (one[0] is None, one[0] or 0)) for found in (nodes, gpus, money)]
    names = tuple(dict.fromkeys(unknown))
    return Room(
        nodes=least[0][0],
        gpus=least[1][0],
        micro_usd=least[2][0],
        called=(least[0][1], least[1][1], least[2][1]),
        reason=f"limits cannot be kept while it is not known what {some(names)} costs" if names else "",
        retry_s=min(due_s, default=None),
    )


def _less(limit: int | None, has: int) -> int | None:
    return None if limit is None else max(limit - has, 0)


# --- switches and guards ---


def stopped(pool: Pool, policy: Policy) -> list[Problem]:
    """Return what says that nothing is bought, if anybody said so: for this pool, or for all."""
    where, found = f"gpupool {pool.name}", []
    if pool.stop_buying:
        want = "no such annotation: until it is taken off nothing is bought for this pool"
        found.append(Problem(where=where, field=f"metadata.annotations.{STOP_BUYING}", value=pool.stop_buying, want=want))
    if policy.stop_buying:
        want = "no such setting: until it is taken back nothing is bought for any pool"
        found.append(Problem(where=where, field="--stop-buying", value=policy.stop_buying, want=want))
    return found


def without_replays(actions: Sequence[Action]) -> list[Action]:
    """Return the actions without calls that are made again: one that never reached its cloud would buy now."""
    return [action for action in actions if not isinstance(action, Replay)]


def guarded(cluster: Cluster, pools: Mapping[str, Pool], plan: Plan, policy: Policy) -> Plan:
    """Return the plan; without the return of idle nodes where it is of too many at once, and with a problem that says so.

    Counted are nodes that would be given back because they are idle, with those that are on their way out. What somebody asked
    for passes: a pool that is deleted, one whose annotation allows it, and nodes that have been idle for an hour.
    """
    idle_since_s = {node.name: node.idle_since_s for node in cluster.nodes}
    doubtful = [
        action
        for action in plan.actions
        if isinstance(action, Terminate)
        and action.event is Event.IDLE
        and not (pools[action.pool].deleting or pools[action.pool].terminates_all)
        and cluster.now_s - (idle_since_s.get(action.node) or cluster.now_s) < GUARD_S
    ]
    going = sum(request.state is State.TERMINATING for request in cluster.requests)
    count, fleet = len(doubtful) + going, len(cluster.requests)
    if not doubtful or count <= max(GUARD_FROM, fleet * policy.terminate_share_pct // 100):
        return plan
    want = (
        f"at most {policy.terminate_share_pct}% of {fleet} nodes at once; they are given back when idle for an hour, or with"
        f"  annotation {TERMINATE_ALL}=true"
    )
    problems = [
        Problem(where=f"gpupool {name}", field="nodes to give back", value=str(count), want=want)
        for name in sorted({action.pool for action in doubtful})
    ]
    held = {id(action) for action in doubtful}
    due_s = [(idle_since_s.get(action.node) or cluster.now_s) + GUARD_S for action in doubtful]
    recheck_s = min([*due_s, *([plan.recheck_s] if plan.recheck_s is not None else [])])
    return replace(
        plan,
        actions=tuple(action for action in plan.actions if id(action) not in held),
        problems=(*plan.problems, *problems),
        recheck_s=recheck_s,
    )
