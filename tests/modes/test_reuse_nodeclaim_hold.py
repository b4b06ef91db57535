"""Replicas that are held: on their nodes, beside the protection of others, and until they are released."""

from __future__ import annotations

from typing import Any

import pytest

from tests.modes.nodeclaims import DO_NOT_DISRUPT, batch_of, cluster, launched, node_pool, reuse
from tfscale.kube.port import NODE_CLAIMS, NODES, Json
from tfscale.modes.reuse_nodeclaim import ReuseNodeClaimMode
from tfscale.testing import FakeKube

HELD = "tfscale.io/held"
PROTECTED = "tfscale.io/protected"


def one_replica(**template: Any) -> tuple[FakeKube, ReuseNodeClaimMode, str]:  # noqa: ANN401 - metadata
    """Return a cluster with one replica whose node is there, and its name."""
    kube = cluster(node_pool(template=template))
    mode = reuse(kube)
    mode.launch(batch_of(mode, mode.offers()[:1]))
    (claim,) = kube.list(NODE_CLAIMS).items
    launched(kube, claim["metadata"]["name"])
    return kube, mode, claim["metadata"]["name"]


def marks(kube: FakeKube, name: str) -> Json:
    """Return what a node's annotations say of disruption."""
    notes = kube.get(NODES, f"node-{name}")["metadata"].get("annotations", {})
    return {key: value for key, value in notes.items() if key in {DO_NOT_DISRUPT, HELD, PROTECTED}}


@pytest.mark.parametrize("released_before", [True, False])
def test_a_held_node_is_kept_until_it_is_released(released_before: bool) -> None:  # noqa: FBT001 - a parameter
    """During its warm-up or later, once or twice."""
    kube, mode, name = one_replica()
    if released_before:
        mode.release([name])
    for _ in range(2):
        mode.hold([name])
    held, (machine,) = marks(kube, name), mode.observe()
    mode.release([name])

    assert ({DO_NOT_DISRUPT: "true", HELD: "true"}, True) == (held, machine.held)
    assert ({}, [(False, None)]) == (marks(kube, name), [(one.held, one.protected_until_s) for one in mode.observe()])


def test_what_others_keep_stays_kept_when_it_is_released() -> None:
    """Somebody wrote do-not-disrupt before; the hold is noted beside it and goes again."""
    kube, mode, name = one_replica()
    mode.release([name])
    kube.patch(NODES, f"node-{name}", {"metadata": {"annotations": {DO_NOT_DISRUPT: "true"}}})
    mode.hold([name])
    held, (machine,) = marks(kube, name), mode.observe()
    mode.release([name])

    assert ({DO_NOT_DISRUPT: "true", HELD: "kept"}, True) == (held, machine.held)
    assert {DO_NOT_DISRUPT: "true"} == marks(kube, name)


def test_a_hold_that_somebody_took_away_is_no_hold() -> None:
    """It is held again by whoever asks."""
    kube, mode, name = one_replica()
    mode.hold([name])
    kube.patch(NODES, f"node-{name}", {"metadata": {"annotations": {DO_NOT_DISRUPT: None}}})
    (before,) = mode.observe()
    mode.hold([name])

    assert ([False], [True]) == ([before.held], [machine.held for machine in mode.observe()])


def test_other_nodes_are_not_held() -> None:
    """Nor a claim without a node, which is protected anyway."""
    kube, mode, name = one_replica()
    mode.hold(["another"])

    assert HELD not in marks(kube, name)
    kube.delete(NODES, f"node-{name}")
    mode.hold([name])
    assert [False] == [machine.held for machine in mode.observe()]
