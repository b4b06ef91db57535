"""Replicas on the real Karpenter and what they hang on: their first and last pod, and the NodePool that they are made of."""

from __future__ import annotations

import time

from tests.cluster.claims import claims, running, tick, ticking
from tests.cluster.conftest import KARPENTER_S, eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.karpenter import all_run, condition, create_pods
from tests.cluster.test_adoption import a_claim
from tests.cluster.test_karpenter import kept, loop, notes, nothing_is_left, reconciler_of
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODE_POOLS, PODS, Json, Kube
from tfscale.modes.nodeclaim_labels import DO_NOT_DISRUPT
from tfscale.plan import Launch
from tfscale.reconcile import Reconciler

NODE_POOL = "karpenter.sh/nodepool"
RECLAIMED_S = 45
"""Longer than Karpenter takes for an empty node: it waits 5 s here, looks every 10 s and thinks for 15 s."""


def end_pod(kube: Kube, name: str) -> None:
    """Delete a pod."""
    kube.delete(PODS, name, namespace="default", grace_period_s=0)


def test_karpenter_leaves_a_replica_until_its_first_pod_and_takes_it_after_its_last(karpenter: KubeClient) -> None:
    """Nobody binds the pod for longer than an empty node lasts: the node is still there for it, and goes when it has gone."""
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    create_pods(karpenter, 1)
    tick(reconciler)
    (name,) = claims(karpenter)
    eventually(lambda: condition(karpenter.get(NODE_CLAIMS, name), "Initialized"), "the replica is there")
    end_s = time.monotonic() + RECLAIMED_S
    eventually(lambda: time.monotonic() > end_s or not claims(karpenter), "Karpenter has had its time")
    assert ([name], 2) == (claims(karpenter), len(kept(karpenter)))

    loop(reconciler, lambda: all_run(karpenter), "the pod runs")
    loop(reconciler, lambda: not kept(karpenter), "the replica is released")
    end_pod(karpenter, "pod-0")
    # Nobody of ours looks: it is Karpenter that takes it.
    eventually(lambda: not claims(karpenter), "Karpenter reclaims it", within_s=KARPENTER_S)
    loop(reconciler, lambda: nothing_is_left(reconciler), "its record goes, too")


def another(kube: Kube, name: str) -> None:
    """Make another NodePool like the first."""
    spec = kube.get(NODE_POOLS, "gpu")["spec"]
    kube.create(
        NODE_POOLS, {"apiVersion": NODE_POOLS.api_version, "kind": NODE_POOLS.kind, "metadata": {"name": name}, "spec": spec}
    )
    eventually(lambda: condition(kube.get(NODE_POOLS, name), "Ready"), "the other NodePool is Ready")


def made_of(kube: Kube) -> list[str]:
    """Return the NodePools that the claims name, those on their way out left out."""
    found = [claim["metadata"] for claim in kube.list(NODE_CLAIMS).items]
    return [meta["labels"][NODE_POOL] for meta in found if "deletionTimestamp" not in meta]


def why(reconciler: Reconciler) -> str:
    """Return what the pool's condition says."""
    (ready,) = reconciler.kube.get(GPU_POOLS, "pool")["status"]["conditions"]
    return str(ready["message"])


def test_the_replicas_of_a_nodepool_that_is_deleted_go_with_it(control_plane: ControlPlane, karpenter: KubeClient) -> None:
    """A pod that is made again gets a replica of another NodePool; where none is left the pool's condition says why."""
    control_plane.start_controllers()
    another(karpenter, "spare")
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"options": {"nodePools": ["gpu", "spare"]}}})
    create_pods(karpenter, 1)
    ticking(reconciler, lambda: running(karpenter, "pod-0"), "the pod runs")
    assert ["gpu"] == made_of(karpenter)

    karpenter.delete(NODE_POOLS, "gpu")
    ticking(reconciler, lambda: not karpenter.list(PODS).items, "the node goes with its pod")
    create_pods(karpenter, 1, first=1)
    ticking(reconciler, lambda: running(karpenter, "pod-1"), "the pod has another place")
    assert ["spare"] == made_of(karpenter)

    karpenter.delete(NODE_POOLS, "spare")
    ticking(reconciler, lambda: not karpenter.list(PODS).items, "that node goes, too")
    create_pods(karpenter, 1, first=2)
    ticking(reconciler, lambda: nothing_is_left(reconciler) and "there is none" in why(reconciler), "the pool says why")


def refuse(kube: Kube) -> None:
    """Say of the NodePool that its nodes do not register."""
    found = kube.get(NODE_POOLS, "gpu")
    others = [one for one in found["status"]["conditions"] if one["type"] != "NodeRegistrationHealthy"]
    said = {"type": "NodeRegistrationHealthy", "status": "False", "reason": "RegistrationFailed", "message": "none registers"}
    stamp = {"lastTransitionTime": found["metadata"]["creationTimestamp"], "observedGeneration": found["metadata"]["generation"]}
    kube.patch_status(NODE_POOLS, "gpu", {"status": {"conditions": [*others, said | stamp]}})


def test_a_nodepool_that_stops_being_fit_is_refused_and_the_pool_says_why(karpenter: KubeClient) -> None:
    """Also one that was fit when the loop began: its nodes do not register, then it is being deleted."""
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    loop(reconciler, lambda: reconciler.kube.get(GPU_POOLS, "pool")["status"]["conditions"][0]["status"] == "True", "it is fit")
    refuse(karpenter)
    create_pods(karpenter, 1)
    ticking(reconciler, lambda: "its condition NodeRegistrationHealthy is False" in why(reconciler), "the pool says so")
    assert [] == claims(karpenter)

    karpenter.patch(NODE_POOLS, "gpu", {"metadata": {"finalizers": ["example.com/keep"]}})
    karpenter.delete(NODE_POOLS, "gpu")
    ticking(reconciler, lambda: "it is being deleted" in why(reconciler), "the pool says so")
    assert [] == claims(karpenter)


def theirs(kube: Kube) -> Json:
    """Return a claim of the NodePool that somebody else made and keeps."""
    claim = a_claim()
    hashes = {key: value for key, value in notes(kube.get(NODE_POOLS, "gpu")).items() if key.startswith(f"{NODE_POOL}-hash")}
    labels = {**claim["metadata"]["labels"], NODE_POOL: "gpu"}
    return {**claim, "metadata": {"name": "theirs", "labels": labels, "annotations": {**hashes, DO_NOT_DISRUPT: "true"}}}


def first_choice(reconciler: Reconciler) -> str:
    """Return the NodePool that a node would be taken from now."""
    plan = reconciler.tick(int(time.time()), dry_run=True).plan
    (launch,) = (action for action in plan.actions if isinstance(action, Launch))
    return launch.offers[0].labels[NODE_POOL]


def test_a_claim_that_has_drifted_does_not_speak_for_its_nodepool_and_does_not_spoil_it(karpenter: KubeClient) -> None:
    """Of two NodePools the one with a proven claim comes first, until the claim drifts; alone, its live template works."""
    another(karpenter, "a")
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    options = {"nodePools": ["a", "gpu"]}
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"options": options, "offers": {"instanceTypes": ["g6.xlarge"]}}})
    karpenter.create(NODE_CLAIMS, theirs(karpenter))
    eventually(lambda: condition(karpenter.get(NODE_CLAIMS, "theirs"), "Ready"), "somebody's node is there")
    create_pods(karpenter, 1)
    assert "gpu" == first_choice(reconciler)

    karpenter.patch(NODE_CLAIMS, "theirs", {"metadata": {"annotations": {f"{NODE_POOL}-hash": "1"}}})
    eventually(lambda: condition(karpenter.get(NODE_CLAIMS, "theirs"), "Drifted"), "it has drifted")
    assert "a" == first_choice(reconciler)

    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"options": {"nodePools": ["gpu"]}}})
    loop(reconciler, lambda: all_run(karpenter), "the pod runs")
    replica = next(claim for claim in karpenter.list(NODE_CLAIMS).items if claim["metadata"]["name"] != "theirs")
    assert ("gpu", False) == (replica["metadata"]["labels"][NODE_POOL], condition(replica, "Drifted"))
    assert {"theirs", replica["metadata"]["name"]} == set(claims(karpenter))
