"""What is bought after a failure on the real Karpenter: the reason is written down, and the next offer has its turn."""

from __future__ import annotations

from typing import Any

from tests.cluster.claims import CAPACITY_TYPE, INSTANCE_TYPE, UNKNOWN_TYPE, ClassGoes, aside, managed, nodes, tick, ticking
from tests.cluster.karpenter import ZONES, all_run, create_pods
from tfscale.kube.client import KubeClient
from tfscale.kube.port import NODE_REQUESTS, NODES
from tfscale.reconcile import Reconciler


def words(reconciler: Reconciler, condition: str) -> list[tuple[str, str, str]]:
    """Return what one condition of the records says."""
    found = [one.get("status", {}).get("conditions", []) for one in reconciler.kube.list(NODE_REQUESTS).items]
    kept = [one for conditions in found for one in conditions if one["type"] == condition]
    return [(one["status"], one["reason"], one["message"]) for one in kept]


def test_without_capacity_the_next_offer_is_bought(karpenter: KubeClient) -> None:
    """Karpenter takes the claim away and says why in an event: all that it could give is left out, nothing else is."""
    kube: Any = ClassGoes(karpenter)
    reconciler = managed(kube, offers={"capacityTypes": ["on-demand", "spot"]})
    create_pods(karpenter, 1)
    tick(reconciler)
    kube.come_back()
    ticking(reconciler, lambda: all_run(karpenter), "the pod runs")

    assert {f"g6.xlarge/{zone}/on-demand" for zone in ZONES} == {*aside(reconciler)}
    assert all(
        "InsufficientCapacityError: insufficient capacity, resolving node class" in why for why in aside(reconciler).values()
    )
    assert ["spot"] == nodes(karpenter, CAPACITY_TYPE)


def test_where_there_is_no_other_offer_the_same_is_asked_again_after_a_while(karpenter: KubeClient) -> None:
    """Nothing is given up: the one type that has the card is bought once it is to be had."""
    kube: Any = ClassGoes(karpenter)
    reconciler = managed(kube, setAsideFor="10s")
    create_pods(karpenter, 1)
    tick(reconciler)
    kube.come_back()
    ticking(reconciler, lambda: all_run(karpenter), "the pod runs")

    assert [2, 1] == [len(aside(reconciler)), len(karpenter.list(NODES).items)]


def test_an_offer_that_is_named_is_left_out_alone(karpenter: KubeClient) -> None:
    """One claim asks for two types, and Karpenter does not know one of them: the other is bought next."""
    reconciler = managed(karpenter, types=("toy.unknown", "g6.xlarge"), options={"instanceTypes": [UNKNOWN_TYPE]})
    create_pods(karpenter, 1)
    ticking(reconciler, lambda: words(reconciler, "Launched"), "it is recorded")
    ticking(
        reconciler, lambda: "LaunchFailed" in {reason for _, reason, _ in words(reconciler, "Launched")}, "the record says why"
    )
    ((status, _, message),) = words(reconciler, "Launched")
    ticking(reconciler, lambda: all_run(karpenter), "the pod runs")

    assert "Unknown" == status
    assert "toy.unknown" in message
    assert {"*", *(f"toy.unknown/{zone}/on-demand" for zone in ZONES)} == {*aside(reconciler)}
    assert ["g6.xlarge"] == nodes(karpenter, INSTANCE_TYPE)
