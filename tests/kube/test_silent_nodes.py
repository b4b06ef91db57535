"""Nodes that stopped reporting: not Ready, and since when."""

from __future__ import annotations

import pytest

from tests.kube.test_convert import node, the_node
from tfscale.kube.port import Json
from tfscale.quantity import time_s

AT, LATER = "2026-11-22T10:00:00Z", "2026-11-22T10:00:05Z"
TAINT = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}


def reported(ready: str, *taints: Json, **condition: str) -> Json:
    """Return a node whose Ready condition has this status."""
    return node(spec={"taints": [*taints]}, status={"conditions": [{"type": "Ready", "status": ready, **condition}]})


@pytest.mark.parametrize(
    ("obj", "since"),
    [
        (reported("Unknown", lastTransitionTime=AT), AT),
        (reported("False", lastTransitionTime=AT), AT),
        (reported("Unknown", TAINT | {"timeAdded": LATER}, lastTransitionTime=AT), LATER),
        # The taint goes a little later than the node is Ready again.
        (reported("True", TAINT | {"timeAdded": LATER}, lastTransitionTime=AT), LATER),
        (reported("Unknown"), None),
    ],
)
def test_a_node_that_does_not_report_is_not_ready_since_then(obj: Json, since: str | None) -> None:
    """That alone is no fence: when it reports again it is as it was."""
    seen, lines = the_node(of=obj)

    assert (False, since and time_s(since), "", []) == (seen.ready, seen.silent_since_s, seen.fenced, lines)
    assert () == seen.taints


def test_a_node_that_reports_is_not_silent() -> None:
    """Whenever it became Ready."""
    seen, _ = the_node(of=reported("True", lastTransitionTime=AT))

    assert (True, None) == (seen.ready, seen.silent_since_s)


def test_a_cordoned_node_stays_fenced_while_it_is_silent() -> None:
    """Nobody waits for it."""
    seen, _ = the_node(of=node(spec={"unschedulable": True}, status={"conditions": [{"type": "Ready", "status": "Unknown"}]}))

    assert (False, "it is cordoned") == (seen.ready, seen.fenced)
