"""Machines that somebody else chooses, keeps and takes away: what Karpenter does to the records, without Karpenter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.facts import BATCH, L4, NOW_S, POOL, T4, cluster, demand, kinds, machine, node, only, request
from tfscale.decide import Supply, decide
from tfscale.lifecycle import State
from tfscale.model import BoundPod, Cluster, Machine, NodeRequest, Request
from tfscale.plan import Advance, Assign, Drop, Forget, Launch, Nominate, Plan, Release, Reserve, Terminate
from tfscale.pool import Limits

ORDERED = replace(BATCH, offers=(T4.id, L4.id))
CLAIM = request("a", state=State.LAUNCHED, offer="", node="", nominated=("uid-p",))
UNCHOSEN = machine("a", offer="", provider_id="")


def plan_for(observed: Cluster) -> Plan:
    """Decide for a mode whose machines are objects of the cluster."""
    return decide(observed, {"inference": Supply(offers=(T4, L4), in_cluster=True)})


def seen(claim: NodeRequest = CLAIM, *machines: Machine, **parts: Any) -> Cluster:  # noqa: ANN401 - any field of a cluster
    """Return a cluster with one pod, one request and its batch."""
    usual: dict[str, Any] = {"demands": (demand("p"),), "requests": (claim,), "batches": (ORDERED,)}
    return cluster(machines=machines, **usual | parts)


def test_until_somebody_has_chosen_the_best_offer_is_expected() -> None:
    """A second half fits beside the first on the cheapest card, so nothing more is bought."""
    observed = seen(CLAIM, UNCHOSEN, demands=(demand("p"), demand("q")))

    assert [Nominate] == kinds(plan_for(observed))
    assert ("uid-p", "uid-q") == only(plan_for(observed), Nominate).uids


def test_what_was_chosen_is_recorded() -> None:
    """The record says what the machine is as soon as the listing does."""
    plan = plan_for(seen(CLAIM, replace(UNCHOSEN, offer=L4.id)))

    assert (State.LAUNCHED, L4.id) == (only(plan, Advance).request.state, only(plan, Advance).request.offer)


def test_a_node_that_is_ready_before_anything_was_recorded_is_used_at_once() -> None:
    """Choice and readiness may be seen in one look."""
    plan = plan_for(seen(CLAIM, replace(UNCHOSEN, offer=T4.id), nodes=(node("a"),)))

    assert (State.READY, T4.id) == (only(plan, Advance).request.state, only(plan, Advance).request.offer)
    assert "a" == only(plan, Assign).node


@pytest.mark.parametrize(
    ("listed", "offer", "aside"),
    [
        ((), "", (T4.id, L4.id)),
        ((replace(UNCHOSEN, stopping=True),), "", (T4.id, L4.id)),
        ((), L4.id, (L4.id,)),
        ((machine("a", offer=L4.id, stopping=True),), L4.id, (L4.id,)),
    ],
    ids=["gone, nothing chosen", "going, nothing chosen", "gone after the choice", "going after the choice"],
)
def test_what_went_before_its_node_joined_is_not_bought_again_at_once(
    listed: tuple[Machine, ...], offer: str, aside: tuple[str, ...]
) -> None:
    """Karpenter deletes a claim for which no offering has capacity: all that the call could give is left out for a while."""
    plan = plan_for(seen(replace(CLAIM, offer=offer), *listed))
    ended = next(action for action in plan.actions if isinstance(action, Forget | Terminate))

    assert aside == ended.disappointing
    assert [] == [one.id for action in plan.actions if isinstance(action, Launch) for one in action.offers if one.id in aside]
    assert plan.retry_s is not None or offer


def test_a_claim_that_is_missing_is_gone_at_once() -> None:
    """The API server is consistent: there is no time in which a new claim may be missing."""
    assert [Forget, Drop] == kinds(plan_for(seen(CLAIM)))


def test_a_node_that_somebody_reclaimed_later_is_no_reason_to_avoid_its_offer() -> None:
    """It was there and served."""
    plan = plan_for(seen(request("a"), demands=()))

    assert () == only(plan, Forget).disappointing


def test_limits_count_the_most_that_a_call_may_give() -> None:
    """While nothing is chosen the dearest counts, and nothing more is bought."""
    pool = replace(POOL, limits=Limits(micro_usd=T4.price_micro_usd or 0))
    observed = seen(CLAIM, UNCHOSEN, pools=(pool,), demands=(demand("p"), demand("q"), demand("r")))
    roomy = replace(
        observed, pools=(replace(pool, limits=Limits(micro_usd=(L4.price_micro_usd or 0) + (T4.price_micro_usd or 0))),)
    )

    assert ["default/r"] == [unmet.pod for unmet in plan_for(observed).unmet]
    assert [T4.id] == [offer.id for offer in only(plan_for(roomy), Launch).offers]


KEPT = machine("a", protected_until_s=NOW_S + 300)
POD = BoundPod(id="default/x", uid="x", request=Request(cpu_milli=1))


@pytest.mark.parametrize(
    ("pods", "waiting", "now_s", "released"),
    [
        ((), 0, NOW_S, []),
        ((replace(POD, daemon=True),), 0, NOW_S, []),
        ((POD,), 0, NOW_S, [False]),
        ((), 1, NOW_S, [False]),
        ((), 0, NOW_S + 300, [True]),
        ((POD,), 0, NOW_S + 300, [False]),
    ],
    ids=["empty", "a daemon", "its first pod", "its first pod in this plan", "nobody came", "late but used"],
)
def test_a_node_is_kept_until_its_first_pod_or_its_time_is_over(
    pods: tuple[BoundPod, ...], waiting: int, now_s: int, released: list[bool]
) -> None:
    """Released in the very plan that binds its first pod, so that the next plan is empty."""
    demands = tuple(demand(f"p{number}") for number in range(waiting))
    observed = seen(request("a"), KEPT, nodes=(node("a", pods=pods),), demands=demands, now_s=now_s)
    plan = decide(observed, {"inference": Supply(offers=(T4,), reclaims_idle=True, in_cluster=True)})

    assert released == [action.overdue for action in plan.actions if isinstance(action, Release)]
    assert plan.recheck_s == (None if released else NOW_S + 300)


@pytest.mark.parametrize(
    ("before", "there", "changes", "then"),
    [
        (False, (), {}, [True]),
        (True, (), {}, []),
        (False, (replace(POD, daemon=True),), {}, [True]),
        (True, (POD,), {}, [False]),
        (False, (POD,), {}, []),
        (True, (), {"now_s": NOW_S + 300}, [False]),
        (True, (), {"machine": replace(KEPT, protected_until_s=None, held=True)}, [False]),
        (True, (), {"machine": replace(KEPT, protected_until_s=None)}, [False]),
        (False, (), {"machine": replace(KEPT, stays=True)}, []),
    ],
    ids=["empty", "done", "a daemon", "a pod", "used", "nobody came", "held", "released", "static"],
)
def test_an_empty_node_is_reserved_for_as_long_as_it_is_kept_for_its_first_pod(
    *, before: bool, there: tuple[BoundPod, ...], changes: dict[str, Any], then: list[bool]
) -> None:
    """Pods of others are kept off it, and are let again when it is a node like any other."""
    kept = changes.get("machine", KEPT)
    nodes = (node("a", pods=there, reserved=before),)
    observed = seen(request("a"), kept, nodes=nodes, demands=(), now_s=changes.get("now_s", NOW_S))
    plan = decide(observed, {"inference": Supply(offers=(T4,), reclaims_idle=True, in_cluster=True)})

    assert then == [action.on for action in plan.actions if isinstance(action, Reserve)]


def test_a_node_that_is_not_ready_yet_is_not_reserved() -> None:
    """The DaemonSets that make its cards usable must come first."""
    observed = seen(request("a", state=State.REGISTERED), KEPT, nodes=(node("a", gpus=()),), demands=())

    assert [] == [action for action in plan_for(observed).actions if isinstance(action, Reserve)]


def test_a_machine_that_is_on_its_way_out_is_not_released() -> None:
    """Nobody has anything to take away any more."""
    observed = seen(request("a", state=State.TERMINATING), replace(KEPT, stopping=True), demands=(), now_s=NOW_S + 300)

    assert [] == [action for action in plan_for(observed).actions if isinstance(action, Release)]
