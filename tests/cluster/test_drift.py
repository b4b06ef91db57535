"""Outdated nodes on the real Karpenter: a replica whose NodePool has changed, and a node whose pool says otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.karpenter import CARDS, POOLS, all_run, condition, create_pods
from tests.cluster.running import names
from tests.cluster.test_karpenter import loop, reconciler_of
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODE_POOLS, NODES, PODS, Kube
from tfscale.reconcile import Reconciler

CHANGES: dict[str, Callable[[Reconciler], object]] = {
    "managed-nodeclaim": lambda reconciler: reconciler.kube.patch(
        GPU_POOLS, "pool", {"spec": {"options": {"labels": {**CARDS, "image": "new"}}}}
    ),
    "reuse-nodeclaim": lambda reconciler: reconciler.kube.patch(
        NODE_POOLS, "gpu", {"spec": {"template": {"metadata": {"labels": {**CARDS, "image": "new"}}}}}
    ),
}
"""What makes the nodes of a mode outdated."""


@pytest.mark.parametrize("mode", POOLS)
def test_outdated_nodes_are_replaced_one_by_one_and_no_pod_goes_without_a_place(karpenter: KubeClient, mode: str) -> None:
    """Two nodes with a whole card taken each: the next place is Ready before a pod is asked to leave."""
    reconciler = reconciler_of(karpenter, mode)
    create_pods(karpenter, 2, whole=True)
    loop(reconciler, lambda: all_run(karpenter), "all pods run")
    before = names(karpenter)
    CHANGES[mode](reconciler)
    watcher = Owner(karpenter)
    loop(reconciler, lambda: watcher.look() and not before & names(karpenter), "both nodes are others", within_s=300)
    loop(reconciler, lambda: watcher.look() and all_run(karpenter), "all pods run again")

    assert 2 == len(names(karpenter))
    assert {"new"} == {node["metadata"]["labels"].get("image") for node in karpenter.list(NODES).items}
    assert not any(condition(claim, "Drifted") for claim in karpenter.list(NODE_CLAIMS).items)
    assert 3 >= watcher.most_nodes
    assert [] == watcher.without_place


class Owner:
    """Makes a pod again when it is lost, as a ReplicaSet does, and notes whether an empty Ready node was there for it."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._made = 2
        self.most_nodes = 0
        self.without_place: list[str] = []

    def look(self) -> bool:
        """Look once; return True."""
        nodes, pods = self._kube.list(NODES).items, self._kube.list(PODS).items
        self.most_nodes = max(self.most_nodes, len(nodes))
        taken = {pod["spec"].get("nodeName") for pod in pods}
        free = [node for node in nodes if node["metadata"]["name"] not in taken and not node["spec"].get("unschedulable")]
        for _ in range(2 - len(pods)):
            if not any(condition(node, "Ready") for node in free):
                self.without_place.append(f"pod-{self._made}")
            create_pods(self._kube, 1, first=self._made, whole=True)
            self._made += 1
        return True
