"""Managed claims on the real Karpenter from their launch to their end: which machine they are, and none without pods."""

from __future__ import annotations

from tests.cluster.claims import INSTANCE_TYPE, managed, nodes, ticking
from tests.cluster.karpenter import all_run, create_pods
from tests.cluster.test_karpenter import nothing_is_left
from tfscale.kube.client import KubeClient
from tfscale.kube.port import NODE_CLAIMS, NODE_REQUESTS, PODS


def test_karpenter_chooses_among_types_and_the_record_says_which(karpenter: KubeClient) -> None:
    """It takes the one that it knows to be cheap, whatever the pool believes."""
    dear = {"name": "g6.xlarge", "cpu": 4, "memory": "16Gi", "gpuModel": "L4", "usdPerHour": "9"}
    reconciler = managed(karpenter, types=("g6.12xlarge", "g6.xlarge"), options={"instanceTypes": [dear]})
    create_pods(karpenter, 1)
    ticking(reconciler, lambda: all_run(karpenter), "the pod runs")
    (claim,) = karpenter.list(NODE_CLAIMS).items
    asked = {one["key"]: one["values"] for one in claim["spec"]["requirements"]}
    (record,) = reconciler.kube.list(NODE_REQUESTS).items

    assert ["g6.12xlarge", "g6.xlarge"] == asked[INSTANCE_TYPE]
    assert ["g6.xlarge"] == nodes(karpenter, INSTANCE_TYPE)
    assert "g6.xlarge" == record["status"]["offer"].partition("/")[0]


def test_without_pods_a_pool_shrinks_to_nothing_and_grows_again(karpenter: KubeClient) -> None:
    """Karpenter ends the machines that tfscale gives back; the next pod gets a new one."""
    reconciler = managed(karpenter, idleAfter="5s")
    for number in range(2):
        create_pods(karpenter, 1, first=number)
        ticking(reconciler, lambda: all_run(karpenter), "the pod runs")
        karpenter.delete(PODS, f"pod-{number}", namespace="default", grace_period_s=0)
        ticking(reconciler, lambda: nothing_is_left(reconciler), "nothing is left")
