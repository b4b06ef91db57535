"""What a machine that never became a node tells about the offers that it was bought from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import BATCH, L4, NOW_S, POOL, T4, cluster, demand, kinds, machine, only, request
from tfscale.conditions import of_request, says
from tfscale.decide import Policy, Supply, decide
from tfscale.failures import OTHERS_FIRST, blamed, left_out
from tfscale.lifecycle import TIMEOUTS, Event, State
from tfscale.model import Cluster, Machine, Trouble
from tfscale.plan import Advance, Forget, Launch, Plan, Terminate

TYPES, ZONES = ("g5.xlarge", "g6.xlarge", "g6.12xlarge"), ("us-east-1a", "us-east-1b")
ASKED = tuple(f"{kind}/{zone}/on-demand" for kind, zone in product(TYPES, ZONES))
CLAIM = request("a", state=State.LAUNCHED, offer="", node="", nominated=("uid-p",), launched_s=NOW_S - Policy().withdraw_s)
NOT_CHOSEN = machine("a", offer="", provider_id="", started=False)
SHORT = Trouble(reason="InsufficientCapacityError", message="there is none")
STUCK = Trouble(reason="LaunchFailed", message="no subnet")

asked_for = st.lists(st.sampled_from(ASKED), min_size=1, unique=True).map(tuple)
messages = st.lists(st.sampled_from((*TYPES, *ZONES, "of", "too", "few")), max_size=6).map(" ".join)


@given(asked_for, messages)
def test_a_failure_blames_some_of_what_was_asked_and_nothing_else(asked: tuple[str, ...], message: str) -> None:
    """Never nothing: what failed would be asked again at once, for ever."""
    found = blamed(asked, Trouble(reason="LaunchFailed", message=message))

    assert found
    assert {*found} <= {*asked}
    assert [offer for offer in asked if offer in found] == [*found]


@given(asked_for, st.data())
def test_an_offer_that_is_named_is_blamed_alone(asked: tuple[str, ...], data: st.DataObject) -> None:
    """Type and zone name it, whatever stands around them."""
    guilty = data.draw(st.sampled_from(asked))
    kind, zone, _ = guilty.split("/")
    around = data.draw(st.sampled_from(["no {}, in ({})", "type={}: {}.", '"{}"/"{}"...', "{}; zone:{}"]))

    assert (guilty,) == blamed(asked, Trouble(reason="LaunchFailed", message=around.format(kind, zone)))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", ASKED),
        ("all requested instance types were unavailable during launch", ASKED),
        ("unable to find instance type (instance-type=g5.xlarge)", ASKED[:2]),
        ("nothing is left in us-east-1b", ASKED[1::2]),
        ("no g6.12xl", ASKED),
    ],
)
def test_what_is_not_named_is_not_told_apart(message: str, expected: Sequence[str]) -> None:
    """A part of a name, cut off where a message was too long, names nothing."""
    assert tuple(expected) == blamed(ASKED, Trouble(reason="LaunchFailed", message=message))


@given(st.sampled_from(State), st.sampled_from(Event), st.booleans())
def test_only_a_machine_that_never_became_a_node_is_held_against_an_offer(state: State, event: Event, chosen: bool) -> None:  # noqa: FBT001 - drawn
    """One that was a node has served, and what ends it says nothing about the next one."""
    known = request("a", state=state, offer=T4.id if chosen else "")
    failed = event in TIMEOUTS or (state is State.LAUNCHED and event in {Event.MACHINE_GONE, Event.STOPPED})

    assert bool(left_out(known, event, ASKED, None, None)) == failed


def seen(*machines: Machine, **parts: Any) -> Cluster:  # noqa: ANN401 - any field of a cluster
    """Return a cluster in which a pod waits for a claim that may become either of two types."""
    batch = replace(BATCH, offers=(T4.id, L4.id))
    return cluster(machines=machines, **{"demands": (demand("p"),), "requests": (CLAIM,), "batches": (batch,), **parts})


def plan_for(observed: Cluster) -> Plan:
    """Decide for a mode whose machines are objects of the cluster."""
    return decide(observed, {"inference": Supply(offers=(T4, L4), in_cluster=True)})


def test_a_claim_that_is_gone_says_why() -> None:
    """In the words of whoever gave it up; what they name is left out, and the next purchase is of the rest."""
    named = replace(SHORT, message=f"no {T4.instance_type} here")
    plan = plan_for(seen(troubles={CLAIM.machine_id: named}))
    forget = only(plan, Forget)

    assert (named.reason, (T4.id,)) == (forget.reason, forget.disappointing)
    assert f"machine {CLAIM.machine_id} went before its node joined: {named}" == forget.why
    assert [L4.id] == [offer.id for offer in only(plan, Launch).offers]


def test_after_a_claim_that_was_stuck_others_have_their_turn() -> None:
    """It is withdrawn, and nothing is bought in the same round: Karpenter would be held up once more."""
    plan = plan_for(seen(replace(NOT_CHOSEN, trouble=STUCK)))
    ended = only(plan, Terminate)

    assert ((T4.id, L4.id, OTHERS_FIRST), STUCK.reason) == (ended.disappointing, ended.reason)
    assert Launch not in kinds(plan)
    assert NOW_S + 30 == plan.retry_s


def test_what_nobody_has_looked_at_says_nothing_about_its_offers() -> None:
    """Karpenter may be down for an hour: all that it could have launched is asked for again soon after."""
    pool = replace(POOL, launch_within_s=300)
    old = replace(CLAIM, launched_s=NOW_S - 300)
    plan = plan_for(seen(replace(NOT_CHOSEN, noticed=False), requests=(old,), pools=(pool,)))
    ended = only(plan, Terminate)

    assert "the cloud did not run it within 300 s; nobody has looked at it" == ended.why
    assert ((OTHERS_FIRST,), NOW_S + 30) == (ended.disappointing, plan.retry_s)


def test_a_record_says_what_keeps_its_machine_from_running_once() -> None:
    """While it lasts nothing more is written; when it is over the record says so."""
    fresh = replace(CLAIM, launched_s=NOW_S)
    plan = plan_for(seen(replace(NOT_CHOSEN, trouble=STUCK), requests=(fresh,)))
    written = replace(fresh, conditions=of_request(State.LAUNCHED, reason=STUCK.reason, why=STUCK.message))
    over = plan_for(seen(NOT_CHOSEN, requests=(written,)))

    assert (STUCK.reason, str(STUCK)) == (only(plan, Advance).reason, only(plan, Advance).why)
    assert Advance not in kinds(plan_for(seen(replace(NOT_CHOSEN, trouble=STUCK), requests=(written,))))
    assert "" == only(over, Advance).reason
    assert Advance not in kinds(plan_for(replace(seen(requests=(written,)), machines={})))


@given(st.sampled_from(["", "LaunchFailed"]))
def test_what_was_written_is_known_as_written(reason: str) -> None:
    """Else it would be written at every round."""
    assert says(of_request(State.LAUNCHED, reason=reason), reason)
