"""Our taints on nodes: put and taken off once, beside those of others, and never a reason to keep our own pods away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.errors import ConflictError
from tfscale.gpus import GpuTable
from tfscale.kube.fields import named
from tfscale.kube.nodes import read_node
from tfscale.kube.pods import BoundPods
from tfscale.kube.port import NODES, Json, Kind
from tfscale.kube.taints import set_taint
from tfscale.model import RESERVED
from tfscale.testing import FakeKube

OURS = {"key": RESERVED, "effect": "NoSchedule"}
OTHERS = [{"key": key, "effect": effect} for key in ("gpu", "team") for effect in ("NoSchedule", "NoExecute")]


class Racing(FakeKube):
    """An API server where somebody writes a node right before each of our patches."""

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Patch, too late."""
        super().patch(kind, name, {"metadata": {"labels": {"somebody": "was-here"}}})
        return super().patch(kind, name, patch, namespace=namespace)


def tainted(kube: FakeKube, *taints: dict[str, str]) -> FakeKube:
    """Return the cluster with a node of these taints."""
    kube.create(NODES, {"metadata": {"name": "n", "labels": {"tfscale.io/pool": "p"}}, "spec": {"taints": [*taints]}})
    return kube


def taints(kube: FakeKube) -> list[dict[str, Any]]:
    """Return the taints of the node."""
    return list(kube.get(NODES, "n")["spec"].get("taints") or [])


@given(others=st.lists(st.sampled_from(OTHERS), unique_by=str), steps=st.lists(st.booleans(), max_size=4))
def test_what_others_put_there_stays(others: list[dict[str, str]], steps: list[bool]) -> None:
    """Whatever is asked for in which order, ours is there once or not at all."""
    kube = tainted(FakeKube(), *others)
    for on in steps:
        set_taint(kube, "n", RESERVED, on=on)

    assert [*others, *([OURS] if steps and steps[-1] else [])] == taints(kube)


def test_nothing_is_written_where_nothing_changes() -> None:
    """The node is as it was, its version too."""
    kube = tainted(FakeKube(), OURS)
    before = kube.get(NODES, "n")
    set_taint(kube, "n", RESERVED, on=True)

    assert before == kube.get(NODES, "n")


def test_a_node_that_was_written_meanwhile_is_left_for_the_next_round() -> None:
    """Its taints are one list: what was read may not be all of it any more."""
    kube = tainted(Racing())
    with pytest.raises(ConflictError):
        set_taint(kube, "n", RESERVED, on=True)

    assert [] == taints(kube)


def test_a_reserved_node_takes_our_pods() -> None:
    """The taint is noted, and is none that they would have to tolerate."""
    kube = tainted(FakeKube(), OURS, OTHERS[0])
    gpus = GpuTable()
    node = named("node", kube.get(NODES, "n"))
    read = read_node(node, (), machine=("p", "m"), gpus=gpus, bound=BoundPods(gpus, "tensor-fusion.ai"), problems=[])

    assert read
    assert (True, ["gpu"]) == (read.reserved, [taint.key for taint in read.taints])
