"""Pods of others and an empty replica on the real Karpenter: it is not a place to move them to before its first pod is there."""

from __future__ import annotations

import time

from tests.cluster.conftest import eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.karpenter import create_pods
from tests.cluster.test_karpenter import loop, notes, reconciler_of
from tfscale.kube.client import KubeClient
from tfscale.kube.port import NODES, PODS, Kube
from tfscale.model import RESERVED

WATCHED_S = 45
"""Longer than Karpenter takes: it consolidates 5 s after the last pod event, looks every 10 s and thinks for 15 s."""


class Guest:
    """The owner of one pod of somebody else, which makes it again when it is lost."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._made = 0

    def look(self) -> bool:
        """Make the pod if it is missing; return whether it runs."""
        there = [pod for pod in self._kube.list(PODS).items if pod["metadata"]["name"].startswith("guest-")]
        if not there:
            self._made += 1
            requests = {"cpu": "500m", "memory": "1Gi"}
            container = {"name": "main", "image": "example/main", "resources": {"requests": requests}}
            spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
            self._kube.create(PODS, {"metadata": {"name": f"guest-{self._made}"}, "spec": spec}, namespace="default")
        return [pod["status"].get("phase") for pod in there] == ["Running"]

    def node(self) -> str:
        """Return where it runs."""
        (there,) = (pod for pod in self._kube.list(PODS).items if pod["metadata"]["name"].startswith("guest-"))
        return str(there["spec"].get("nodeName", ""))


def test_pods_of_others_are_not_moved_to_an_empty_replica(control_plane: ControlPlane, karpenter: KubeClient) -> None:
    """Their node would be emptied otherwise, as it is once the replica has its first pod and is a node like any other."""
    control_plane.start_scheduler()
    guest = Guest(karpenter)
    eventually(guest.look, "the pod of others runs on a node that Karpenter made", within_s=90)
    home = guest.node()
    reconciler = reconciler_of(karpenter, "reuse-nodeclaim")
    create_pods(karpenter, 1)
    loop(reconciler, lambda: replicas(karpenter), "a node was bought for ours")
    if karpenter.get(PODS, "pod-0", namespace="default")["spec"].get("nodeName") is None:
        karpenter.delete(PODS, "pod-0", namespace="default", grace_period_s=0)
    loop(reconciler, lambda: reserved(karpenter), "the empty node is reserved")
    end_s = time.monotonic() + WATCHED_S
    loop(reconciler, lambda: guest.look() and time.monotonic() > end_s, "it is watched", within_s=WATCHED_S + 30)

    assert (home, replicas(karpenter)) == (guest.node(), reserved(karpenter))
    create_pods(karpenter, 1, first=1)
    loop(reconciler, lambda: not reserved(karpenter), "its first pod is there")
    loop(reconciler, lambda: guest.look() and guest.node() in replicas(karpenter), "the other pod joins it")
    eventually(lambda: home not in nodes(karpenter), "the node that it left is gone")


def replicas(kube: Kube) -> list[str]:
    """Return the names of our nodes."""
    return [node["metadata"]["name"] for node in kube.list(NODES).items if "tfscale.io/mode" in notes(node)]


def reserved(kube: Kube) -> list[str]:
    """Return the names of the nodes that are reserved."""
    taints = {node["metadata"]["name"]: node["spec"].get("taints") or [] for node in kube.list(NODES).items}
    return [name for name, found in taints.items() if any(taint["key"] == RESERVED for taint in found)]


def nodes(kube: Kube) -> list[str]:
    """Return the names of all nodes."""
    return [node["metadata"]["name"] for node in kube.list(NODES).items]
