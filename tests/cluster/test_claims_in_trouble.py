"""Claims that come to nothing on the real Karpenter: withdrawn or given up, explained, and replaced by the next offer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.cluster.conftest import eventually
from tests.cluster.karpenter import KWOK_CLASS, all_run, create_pods, node_class
from tests.cluster.test_karpenter import loop, nothing_is_left, reconciler_of
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODES, PODS, Json, Kind, Kube
from tfscale.reconcile import Reconciler, Report
from tfscale.records import Policy

UNKNOWN_TYPE = {"name": "toy.unknown", "cpu": 4, "memory": "16Gi", "gpuModel": "L4", "usdPerHour": "0.1"}
"""One that the pool believes in, cheaper than the others, and that Karpenter does not know."""

STUCK_S = Policy().withdraw_s + 30
"""The time until a stuck claim is withdrawn, and what rounds and Karpenter need after it."""


def managed(kube: Kube, *, types: tuple[str, ...] = ("g6.xlarge",), **options: Any) -> Reconciler:  # noqa: ANN401 - any option
    """Return the loop for one managed pool of these types."""
    reconciler = reconciler_of(kube, "managed-nodeclaim")
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"offers": {"instanceTypes": [*types]}, "options": options}})
    return reconciler


def tick(reconciler: Reconciler) -> Report:
    """Make one round now."""
    return reconciler.tick(int(time.time()))


def class_ready(kube: Kube, status: str) -> None:
    """Let the node class say whether it can be used."""
    ready = {
        "type": "Ready",
        "status": status,
        "reason": "Test",
        "message": "no image",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    kube.patch_status(KWOK_CLASS, "default", {"status": {"conditions": [ready]}})


def foreign_pod(name: str) -> Json:
    """Return a pod for which Karpenter itself is to buy, marked as the scheduler marks one that fits nowhere."""
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}}
    return {
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "example/main", "resources": resources}],
        },
    }


def names(kube: Kube, labels: Mapping[str, str]) -> list[str]:
    """Return the names of the claims with these labels."""
    return [
        one["metadata"]["name"] for one in kube.list(NODE_CLAIMS).items if labels.items() <= one["metadata"]["labels"].items()
    ]


def test_a_claim_that_cannot_be_launched_is_withdrawn_and_holds_up_nobody_for_long(karpenter: KubeClient) -> None:
    """Karpenter's own provisioning waits while it is stuck, and no longer; a pool that is put right gets its node."""
    reconciler = managed(karpenter, types=("toy.unknown",), instanceTypes=[UNKNOWN_TYPE])
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"setAsideFor": "10m"}})
    create_pods(karpenter, 1)
    tick(reconciler)
    began_s = time.monotonic()
    eventually(lambda: "LaunchFailed" in reasons(karpenter), "Karpenter meets trouble with it")
    karpenter.create(PODS, foreign_pod("other"), namespace="default")
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    karpenter.patch_status(PODS, "other", {"status": {"conditions": [unschedulable]}}, namespace="default")
    loop(reconciler, lambda: names(karpenter, {"karpenter.sh/nodepool": "gpu"}), "Karpenter buys for another pod", within_s=120)
    waited_s = time.monotonic() - began_s
    print(f"held up Karpenter for {waited_s:.0f} s")  # noqa: T201 - the figure that is promised
    (why,) = {one["reason"] for one in aside(reconciler)}
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"offers": {"instanceTypes": ["g6.xlarge"]}}})
    loop(reconciler, lambda: running(karpenter, "pod-0"), "the pod runs on what can be had")

    assert why.startswith("the cloud did not run it within 30 s: LaunchFailed: ")
    assert waited_s < STUCK_S


def reasons(kube: Kube) -> list[str]:
    """Return why claims are not launched."""
    found = [one.get("status", {}).get("conditions", []) for one in kube.list(NODE_CLAIMS).items]
    return [one["reason"] for conditions in found for one in conditions if one["type"] == "Launched"]


def running(kube: Kube, pod: str) -> bool:
    """Return whether a pod runs."""
    return bool(kube.get(PODS, pod, namespace="default")["status"].get("phase") == "Running")


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_no_claim_is_written_while_the_node_class_is_not_ready(karpenter: KubeClient, status: str) -> None:
    """The pool says why, and the pod runs once the class can be used."""
    reconciler = managed(karpenter)
    create_pods(karpenter, 1)
    class_ready(karpenter, status)
    problems = [str(problem) for problem in tick(reconciler).problems]

    assert any("KWOKNodeClass default is not Ready: no image" in problem for problem in problems)
    assert [] == karpenter.list(NODE_CLAIMS).items

    class_ready(karpenter, "True")
    eventually(lambda: runs_after_tick(karpenter, reconciler), "the pod runs", within_s=150)


def runs_after_tick(kube: Kube, reconciler: Reconciler) -> bool:
    """Make one round a second, whatever it says, and return whether all pods run."""
    tick(reconciler)
    time.sleep(1)
    return all_run(kube)


class ClassGoes:
    """A cluster whose node class is deleted right before the first claim is made."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self.gone = False

    def create(self, kind: Kind, obj: Json, *, namespace: str | None = None) -> Json:
        """Create, too late where it is a claim."""
        if kind == NODE_CLAIMS and not self.gone:
            self.gone = True
            self._kube.delete(KWOK_CLASS, "default")
        return self._kube.create(kind, obj, namespace=namespace)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any other verb
        return getattr(self._kube, name)


def test_a_claim_without_capacity_is_given_up_by_karpenter_and_its_offers_set_aside(karpenter: KubeClient) -> None:
    """For Karpenter a missing class is a lack of capacity: no record is left of the claim, and a later one gives the node."""
    kube: Any = ClassGoes(karpenter)
    reconciler = managed(kube)
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"setAsideFor": "10s"}})
    create_pods(karpenter, 1)
    tick(reconciler)
    (first,) = names(karpenter, {})
    loop(reconciler, lambda: aside(reconciler), "its offers are set aside")

    assert {"g6.xlarge/us-east-1a/on-demand", "g6.xlarge/us-east-1b/on-demand"} == {one["offer"] for one in aside(reconciler)}
    # Karpenter takes its finalizer off a moment after it gave the claim up.
    assert {one["reason"] for one in aside(reconciler)} <= {
        f"machine {first} went before its node joined",
        f"machine {first} is being stopped by somebody else",
    }
    assert kube.gone

    karpenter.create(KWOK_CLASS, node_class())
    loop(reconciler, lambda: all_run(karpenter), "the pod runs")

    assert 1 == len(karpenter.list(NODES).items)


def aside(reconciler: Reconciler) -> list[Json]:
    """Return what the pool sets aside."""
    return list(reconciler.kube.get(GPU_POOLS, "pool").get("status", {}).get("setAside", []))


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
    loop(reconciler, lambda: nothing_is_left(reconciler), "nothing is left", within_s=180)

    assert 1 == most
