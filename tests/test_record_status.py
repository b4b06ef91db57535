"""What is written in the statuses of records, and what is left there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.facts import BATCH, NOW_S, cluster, machine, request
from tfscale.apply import Outcome, apply
from tfscale.errors import NotFoundError
from tfscale.kube.configmaps import InConfigMaps
from tfscale.kube.crds import OUR_KINDS, definition
from tfscale.kube.port import CRDS, LAUNCH_BATCHES, NODE_REQUESTS, Json, Kind, Kube
from tfscale.kube.records import read_node_request, write_batch, write_request
from tfscale.lifecycle import State
from tfscale.model import Trouble
from tfscale.plan import Action, Adopt, Advance, Forget, Plan
from tfscale.testing import FakeKube

THEIRS = {
    "type": "Approved",
    "status": "True",
    "reason": "Policy",
    "message": "m",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
"""A condition of a policy engine."""
LAUNCHED = replace(request("a"), state=State.LAUNCHED, node="")


def recorded() -> FakeKube:
    """Return a cluster that knows our kinds, with a request and its unsettled batch."""
    kube = FakeKube()
    for kind in OUR_KINDS:
        kube.create(CRDS, definition(kind))
    kube.create(NODE_REQUESTS, write_request(LAUNCHED))
    kube.create(LAUNCH_BATCHES, write_batch(BATCH))
    return kube


def carried_out(kube: Kube, action: Action) -> Outcome:
    """Carry out one action."""
    (outcome,) = apply(Plan(actions=(action,)), cluster(requests=(LAUNCHED,)), kube, {})
    return outcome


def advance(state: State, node: str = "") -> Advance:
    """Return that the request has come so far."""
    return Advance(pool="inference", before=State.LAUNCHED, request=replace(LAUNCHED, state=state, node=node), why="it has")


ADOPT = Adopt(pool="inference", batch=BATCH, machines=(machine("a"),), why="it exists")


def conditions(obj: Json) -> dict[str, str]:
    """Return the status of each condition."""
    return {one["type"]: one["status"] for one in obj["status"]["conditions"]}


@pytest.mark.parametrize(
    ("kind", "name", "action", "ours"),
    [(NODE_REQUESTS, "r-a", advance(State.REGISTERED, "a"), "Registered"), (LAUNCH_BATCHES, "b", ADOPT, "Settled")],
    ids=["request", "batch"],
)
def test_what_others_say_about_a_record_stays(kind: Kind, name: str, action: Action, ours: str) -> None:
    """Each writes conditions of its own, and takes away none of another's."""
    kube = recorded()
    theirs = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, "status": {"conditions": [THEIRS]}}
    kube.apply(kind, theirs, subresource="status", manager="policy")
    carried_out(kube, action)
    found = conditions(kube.get(kind, name))

    assert ("True", "True") == (found["Approved"], found[ours])


@pytest.mark.parametrize("in_config_maps", [False, True])
def test_what_is_not_so_any_more_is_taken_back(*, in_config_maps: bool) -> None:
    """A request that lost its node names none."""
    kube: Kube = recorded()
    if in_config_maps:
        kube = InConfigMaps(FakeKube(), namespace="default")
        kube.create(NODE_REQUESTS, write_request(LAUNCHED))
    for action in (advance(State.REGISTERED, "a"), advance(State.LAUNCHED)):
        carried_out(kube, action)
    found = kube.get(NODE_REQUESTS, "r-a")

    assert "nodeName" not in found["status"]
    assert (State.LAUNCHED, "", NOW_S) == (
        read_node_request(found).state,
        read_node_request(found).node,
        read_node_request(found).launched_s,
    )
    assert {"Launched": "True", "Registered": "Unknown", "Initialized": "Unknown", "Ready": "Unknown"} == conditions(found)


def test_a_record_that_was_deleted_is_not_made_again_by_its_status() -> None:
    """Its deletion means something; the next tick sees it."""
    kube = recorded()
    kube.delete(NODE_REQUESTS, "r-a")
    outcome = carried_out(kube, advance(State.REGISTERED, "a"))

    assert isinstance(outcome.error, NotFoundError)
    assert [] == kube.list(NODE_REQUESTS).items


STUCK = Trouble(reason="LaunchFailed", message="no subnet")


def test_a_machine_that_is_only_tried_is_not_launched_and_its_record_says_why() -> None:
    """Once it runs, the record takes that back."""
    kube = recorded()
    carried_out(kube, replace(advance(State.LAUNCHED), reason=STUCK.reason, why=str(STUCK)))
    launched = condition(kube, "Launched")
    carried_out(kube, advance(State.LAUNCHED))

    assert ("Unknown", "LaunchFailed", "LaunchFailed: no subnet") == (launched["status"], launched["reason"], launched["message"])
    assert ("True", "Launched", "") == tuple(condition(kube, "Launched")[key] for key in ("status", "reason", "message"))


def test_a_record_that_goes_says_why_to_whoever_watches() -> None:
    """Its last words are those of whoever gave its machine up; it stays in its state, and goes again after a crash."""
    kube = recorded()
    version = kube.list(NODE_REQUESTS).resource_version
    trouble = Trouble(reason="InsufficientCapacityError", message="no g6.xlarge")
    carried_out(kube, Forget(pool="inference", request=LAUNCHED, node="", reason=trouble.reason, why=f"it went: {trouble}"))
    words, gone, *_ = kube.watch(NODE_REQUESTS, resource_version=version, timeout_s=0)
    (ready,) = (one for one in words.object["status"]["conditions"] if one["type"] == "Ready")

    assert ("False", trouble.reason, f"it went: {trouble}") == (ready["status"], ready["reason"], ready["message"])
    assert (State.LAUNCHED, "DELETED") == (words.object["status"]["state"], gone.type)


def condition(kube: Kube, name: str) -> Json:
    """Return one condition of the record."""
    found = kube.get(NODE_REQUESTS, LAUNCHED.name)["status"]["conditions"]
    return next(one for one in found if one["type"] == name)
