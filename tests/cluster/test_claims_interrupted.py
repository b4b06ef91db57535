"""Claims on the real Karpenter whose node, or claim, or Karpenter itself is taken away."""

from __future__ import annotations

import pytest

from tests.cluster.claims import aside, managed, ticking
from tests.cluster.control_plane import ControlPlane
from tests.cluster.karpenter import all_run, create_pods
from tests.cluster.test_karpenter import loop, nothing_is_left
from tfscale.kube.client import KubeClient
from tfscale.kube.port import NODE_CLAIMS, NODES, PODS, Kind


@pytest.mark.parametrize("kind", [NODES, NODE_CLAIMS])
def test_what_somebody_deletes_is_bought_again_once(karpenter: KubeClient, kind: Kind) -> None:
    """With the node or the claim its machine goes; the pod of its owner gets another one, and there are never two."""
    reconciler = managed(karpenter)
    create_pods(karpenter, 1)
    loop(reconciler, lambda: all_run(karpenter), "the pod runs")
    (old,) = (one["metadata"]["name"] for one in karpenter.list(kind).items)
    karpenter.delete(PODS, "pod-0", namespace="default", grace_period_s=0)
    karpenter.delete(kind, old)
    create_pods(karpenter, 1, first=1)
    most = 0

    def runs_elsewhere() -> bool:
        nonlocal most
        most = max(most, sum("deletionTimestamp" not in one["metadata"] for one in karpenter.list(NODE_CLAIMS).items))
        return old not in {one["metadata"]["name"] for one in karpenter.list(kind).items} and all_run(karpenter)

    loop(reconciler, runs_elsewhere, "the next pod runs")
    karpenter.delete(PODS, "pod-1", namespace="default", grace_period_s=0)
    loop(reconciler, lambda: nothing_is_left(reconciler), "nothing is left")

    assert 1 == most


def test_while_karpenter_is_away_no_offer_is_blamed(control_plane: ControlPlane, karpenter: KubeClient) -> None:
    """Its claim is withdrawn and made again, and is launched soon after Karpenter is back."""
    reconciler = managed(karpenter, launchWithin="10s")
    control_plane.pause("karpenter")
    create_pods(karpenter, 1)
    ticking(reconciler, lambda: aside(reconciler), "the claim is withdrawn")
    control_plane.resume("karpenter")
    ticking(reconciler, lambda: all_run(karpenter), "the pod runs")

    assert {"*": "the cloud did not run it within 10 s; nobody has looked at it"} == aside(reconciler)
