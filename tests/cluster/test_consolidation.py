"""Replicas and Karpenter's consolidation: with mirrored resources it moves slices where they fit, and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tests.cluster.karpenter import all_run
from tests.cluster.running import names
from tests.cluster.test_karpenter import loop, notes, reconciler_of
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.kube.port import NODES, PODS, Json, Kube
from tfscale.mirror import mirror_of
from tfscale.model import Request
from tfscale.reconcile import Reconciler

WATCHED_S = 45
"""Longer than Karpenter takes: it consolidates 5 s after the last pod event, looks every 10 s and thinks for 15 s."""
CARD_MIB = 22_888


class Owners:
    """Owners of one pod each, which make it again when it is lost. The pods ask for the mirrored resources."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._pods: dict[str, Json] = {}
        self._made = 0

    def want(self, name: str, percent: int, selector: Mapping[str, str] | None = None) -> None:
        """Ask for a pod that takes so much of an L4, in VRAM and in compute."""
        asked = Request(gpu_count=1, vram_mib=CARD_MIB * percent // 100, compute_milli=percent * 10, gpu_models=("L4",))
        sums = mirror_of(asked, GpuTable())
        amounts = {"tfscale.io/vram-mib": str(sums.vram_mib), "tfscale.io/compute-mtflops": str(sums.mtflops)}
        resources = {"requests": {"cpu": "300m", "memory": "1Gi", **amounts}, "limits": amounts}
        annotations = {
            "tfscale.io/vram-request": f"{asked.vram_mib}Mi",
            "tfscale.io/compute-percent-request": str(percent),
            "tfscale.io/gpu-model": "L4",
        }
        container = {"name": "main", "image": "example/main", "resources": resources}
        spec = {"schedulerName": "tfscale", "terminationGracePeriodSeconds": 0, "containers": [container]}
        if selector:
            spec["nodeSelector"] = dict(selector)
        self._pods[name] = {"metadata": {"labels": {"app": name}, "annotations": annotations}, "spec": spec}

    def drop(self, name: str) -> None:
        """Want this pod no more."""
        del self._pods[name]
        for pod in self._kube.list(PODS, label_selector=f"app={name}").items:
            self._kube.delete(PODS, pod["metadata"]["name"], namespace="default", grace_period_s=0)

    def look(self) -> bool:
        """Make what is missing; return whether all pods run."""
        there = {pod["metadata"]["labels"]["app"] for pod in self._kube.list(PODS).items}
        for name in self._pods.keys() - there:
            self._made += 1
            pod = self._pods[name]
            metadata = {**pod["metadata"], "name": f"{name}-{self._made}"}
            self._kube.create(PODS, {**pod, "metadata": metadata}, namespace="default")
        return there == self._pods.keys() and all_run(self._kube)

    def one_on(self, node: str) -> str:
        """Return the first of those that run on a node."""
        return next(name for name in sorted(self._pods) if self.node_of(name) == node)

    def node_of(self, name: str) -> str:
        """Return where a pod runs."""
        (pod,) = self._kube.list(PODS, label_selector=f"app={name}").items
        return str(pod["spec"]["nodeName"])


def test_two_half_full_nodes_become_one_where_the_slices_fit(karpenter: KubeClient) -> None:
    """Karpenter knows the sums, deletes one node, and its pod runs on the other one."""
    reconciler, owners = reconciler_of(karpenter, "reuse-nodeclaim"), Owners(karpenter)
    for name in "abcd":
        owners.want(name, 45)
    loop(reconciler, owners.look, "four pods run on two nodes")
    (first, second) = sorted({owners.node_of(name) for name in "abcd"})
    for node in (first, second):
        owners.drop(owners.one_on(node))
    loop(reconciler, lambda: owners.look() and len(names(karpenter)) == 1, "one node is left")
    loop(reconciler, owners.look, "both pods run")

    assert 1 == len(karpenter.list(NODES).items)


def test_two_nodes_stay_where_the_slices_do_not_fit_on_one(karpenter: KubeClient) -> None:
    """More than a half of each is taken, and a pending slice makes Karpenter launch nothing."""
    reconciler, owners = reconciler_of(karpenter, "reuse-nodeclaim"), Owners(karpenter)
    owners.want("a", 60)
    owners.want("b", 60)
    loop(reconciler, owners.look, "both pods run")
    before = names(karpenter)
    places = {name: owners.node_of(name) for name in "ab"}
    watched(reconciler, owners)

    assert before == names(karpenter)
    assert places == {name: owners.node_of(name) for name in "ab"}


def test_a_node_whose_slice_fits_in_sums_but_on_no_card_stays(karpenter: KubeClient) -> None:
    """Four cards have 40% free each: in sums there is room for 60%, on no card is there. The node is held, so it stays."""
    reconciler, owners = reconciler_of(karpenter, "reuse-nodeclaim"), Owners(karpenter)
    for name in "abcd":
        owners.want(name, 60, {"node.kubernetes.io/instance-type": "g6.12xlarge"})
    loop(reconciler, owners.look, "four pods run on one node")
    owners.want("e", 60)
    loop(reconciler, owners.look, "the fifth one runs on another")
    alone = owners.node_of("e")
    loop(reconciler, lambda: "tfscale.io/held" in notes(karpenter.get(NODES, alone)), "its node is held")
    before = names(karpenter)
    watched(reconciler, owners)

    assert (before, alone) == (names(karpenter), owners.node_of("e"))
    owners.drop("e")
    loop(reconciler, lambda: len(names(karpenter)) == 1, "without its pod it is released, and goes")


def watched(reconciler: Reconciler, owners: Owners) -> None:
    """Let everybody do what he does for longer than a consolidation takes."""
    end_s = time.monotonic() + WATCHED_S
    loop(reconciler, lambda: owners.look() and time.monotonic() > end_s, "time is over", within_s=WATCHED_S + 30)
