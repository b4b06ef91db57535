"""Nodes on the real Karpenter that join late, or never, or without their cards."""

from __future__ import annotations

from tests.cluster.claims import INSTANCE_TYPE, aside, managed, nodes, ticking
from tests.cluster.karpenter import KWOK_CLASS, all_run, create_pods, label_cards
from tfscale.kube.client import KubeClient
from tfscale.kube.port import NODE_CLAIMS, Kube


def delay(kube: Kube, duration: str) -> None:
    """Let nodes join so long after their launch."""
    kube.patch(KWOK_CLASS, "default", {"spec": {"nodeRegistrationDelay": duration}})


def test_a_node_that_joins_late_but_in_time_is_waited_for(karpenter: KubeClient) -> None:
    """Nothing else is bought meanwhile."""
    delay(karpenter, "20s")
    reconciler = managed(karpenter, registerWithin="2m")
    create_pods(karpenter, 1)
    ticking(reconciler, lambda: all_run(karpenter), "the pod runs")

    assert ([], 1) == ([*aside(reconciler)], len(karpenter.list(NODE_CLAIMS).items))


def test_a_node_that_does_not_join_in_time_is_replaced_by_another_type(karpenter: KubeClient) -> None:
    """Its machine was paid for, so its type is left out for long."""
    delay(karpenter, "10m")
    reconciler = managed(karpenter, types=("g6.xlarge", "g6.12xlarge"), registerWithin="15s")
    create_pods(karpenter, 1)
    ticking(reconciler, lambda: karpenter.list(NODE_CLAIMS).items, "a claim is made")
    delay(karpenter, "1s")
    # The API server may not have shown Karpenter the other delay when it launched.
    ticking(reconciler, lambda: all_run(karpenter), "the pod runs")

    assert {"g6.xlarge": "its node did not join within 15 s"} == aside(reconciler)
    assert ["g6.12xlarge"] == nodes(karpenter, INSTANCE_TYPE)


def test_a_node_whose_cards_never_appear_is_replaced(karpenter: KubeClient) -> None:
    """Karpenter would wait for ever; no pod saw it."""
    # No label says here what the cards are: feature discovery does where it works.
    unlabelled = {"labels": {"nvidia.com/gpu.product": None, "nvidia.com/gpu.memory": None}}
    reconciler = managed(karpenter, types=("g6.xlarge", "g6.12xlarge"), options=unlabelled, initialiseWithin="15s")
    create_pods(karpenter, 1)

    def driver_works_on_large_ones() -> bool:
        if nodes(karpenter, INSTANCE_TYPE) == ["g6.12xlarge"]:
            label_cards(karpenter)
        return all_run(karpenter)

    ticking(reconciler, driver_works_on_large_ones, "the pod runs")

    assert {"g6.xlarge": "its node shows 0 of 1 GPUs 15 s after it joined"} == aside(reconciler)
    assert ["g6.12xlarge"] == nodes(karpenter, INSTANCE_TYPE)
