"""Claims that Karpenter does not launch: what is known of the reason, while they are there and when they are gone."""

from __future__ import annotations

from itertools import count

import pytest

from tests.modes.nodeclaims import NOW_S, batch_of, cluster, condition, launched, managed
from tfscale.errors import ForbiddenError, ModeError
from tfscale.kube.port import EVENTS, NODE_CLAIMS, NODE_CLASSES, Kube
from tfscale.model import Trouble
from tfscale.testing import FakeKube


@pytest.mark.parametrize("reason", ["LaunchFailed", "Unauthorized", "AwaitingReconciliation"])
def test_a_claim_says_why_it_has_no_machine(reason: str) -> None:
    """Until Karpenter has tried, nothing is wrong."""
    kube = cluster()
    mode = managed(kube)
    mode.launch(batch_of(mode, mode.offers()))
    (fresh,) = mode.observe()
    failing = condition("Launched", "Unknown") | {"reason": reason, "message": "it cannot"}
    kube.patch_status(NODE_CLAIMS, "batch-0", {"status": {"conditions": [failing]}})
    (stuck,) = mode.observe()
    launched(kube, "batch-0")
    (running,) = mode.observe()
    trouble = None if reason == "AwaitingReconciliation" else Trouble(reason=reason, message="it cannot")

    assert (False, trouble) == (stuck.started, stuck.trouble)
    assert (True, None) == (running.started, running.trouble)
    assert [False, True, True] == [one.noticed for one in (fresh, stuck, running)]


def gave_up(kube: Kube, name: str, message: str) -> None:
    """Say what Karpenter says of a claim that it gives up."""
    about = {"kind": "NodeClaim", "name": name}
    event = {"metadata": {"generateName": "e."}, "involvedObject": about, "reason": "InsufficientCapacityError"}
    kube.create(EVENTS, {**event, "message": f"NodeClaim {name} event: {message}"}, namespace="default")


def test_why_claims_are_gone_is_what_karpenters_events_say() -> None:
    """Those of other claims are not asked for, and of some nothing is known."""
    kube = cluster()
    gave_up(kube, "a", "no g6.xlarge")
    gave_up(kube, "other", "no g5.xlarge")

    assert {"a": Trouble(reason="InsufficientCapacityError", message="no g6.xlarge")} == managed(kube).explain(["a", "b"])


def test_the_last_word_about_a_name_counts() -> None:
    """Names are used again, and events live for an hour."""
    kube = FakeKube(now=count(NOW_S).__next__)
    kube.create(NODE_CLASSES[0], {"metadata": {"name": "gpu"}})
    for message in ("no g6.xlarge", "no g5.xlarge"):
        gave_up(kube, "a", message)

    assert "no g5.xlarge" == managed(kube).explain(["a"])["a"].message


def test_a_class_that_is_not_ready_explains_what_karpenter_does_not() -> None:
    """It gives such claims up without an event."""
    kube = cluster()
    ready = condition("Ready", "False") | {"message": "no image"}
    kube.patch_status(NODE_CLASSES[0], "gpu", {"status": {"conditions": [ready]}})
    why = Trouble(reason="NodeClassNotReady", message="EC2NodeClass gpu is not Ready: no image")

    assert {"a": why} == managed(kube).explain(["a"])


def test_events_that_may_not_be_read_are_an_error_of_the_mode() -> None:
    """The loop tells it, and goes on with what it knows."""
    kube = cluster()
    kube.list_errors["events"] = ForbiddenError("events is forbidden")

    with pytest.raises(ModeError, match="explain: events is forbidden"):
        managed(kube).explain(["a"])
