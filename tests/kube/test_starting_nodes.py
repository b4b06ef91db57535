"""Nodes that start: a kubelet that is Ready does not make a node that can take pods."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kube.test_convert import node, the_node
from tfscale.kube.port import Json

CLAIM = {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": "inference-1", "uid": "u"}
PASSING = (
    "karpenter.sh/disrupted",
    "karpenter.sh/unregistered",
    "node.cloudprovider.kubernetes.io/uninitialized",
    "readiness.k8s.io/network",
)


def tainted(*keys: str, **parts: Any) -> Json:  # noqa: ANN401 - labels or metadata
    """Return a Ready node with these taints."""
    return node(spec={"taints": [{"key": key, "effect": "NoSchedule"} for key in keys]}, **parts)


@given(st.lists(st.sampled_from(("example.com/a", "nvidia.com/gpu", *PASSING)), unique=True))
def test_taints_that_go_by_themselves_fence_the_node_until_they_have_gone(keys: list[str]) -> None:
    """Whatever else it carries. Taints that stay fence nothing: pods may tolerate them."""
    seen, lines = the_node(of=tainted(*keys))
    passing = [key for key in keys if key in PASSING]

    assert [] == lines
    assert (f"its taint {passing[0]} is only for now" if passing else "") == seen.fenced


@pytest.mark.parametrize(
    ("labels", "fence"),
    [
        ({}, "Karpenter has not initialized it yet"),
        ({"karpenter.sh/registered": "true"}, "Karpenter has not initialized it yet"),
        ({"karpenter.sh/initialized": "true"}, ""),
    ],
)
def test_a_node_of_karpenter_is_closed_until_it_is_initialized(labels: dict[str, str], fence: str) -> None:
    """Only Karpenter knows which of its taints are startup taints; it counts with its cards all the same."""
    seen, lines = the_node(of=tainted("example.com/agent", labels=labels, metadata={"ownerReferences": [CLAIM]}))

    assert (fence, 2, []) == (seen.fenced, len(seen.gpus), lines)
