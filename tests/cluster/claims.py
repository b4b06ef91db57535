"""Pools for tests with the real Karpenter, and ways to let their claims come to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.cluster.conftest import KARPENTER_S, eventually
from tests.cluster.karpenter import KWOK_CLASS, node_class
from tests.cluster.test_karpenter import reconciler_of
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODES, PODS, Json, Kind, Kube
from tfscale.reconcile import Reconciler, Report

INSTANCE_TYPE, CAPACITY_TYPE = "node.kubernetes.io/instance-type", "karpenter.sh/capacity-type"
UNKNOWN_TYPE = {
    "name": "toy.unknown",
    "cpu": 4,
    "memory": "16Gi",
    "gpuModel": "L4",
    "usdPerHour": "0.1",
    "spotUsdPerHour": "0.05",
}
"""One that the pool believes in, cheaper than the others, and that Karpenter does not know."""


def managed(kube: Kube, **options: Any) -> Reconciler:  # noqa: ANN401 - as of `pooled`
    """Return the loop for one managed pool."""
    return pooled(kube, "managed-nodeclaim", **options)


def pooled(
    kube: Kube,
    mode: str,
    *,
    types: tuple[str, ...] = ("g6.xlarge",),
    options: Json | None = None,
    **spec: Any,  # noqa: ANN401 - any field
) -> Reconciler:
    """Return the loop for one pool of these types in a mode, with more options and other fields of its spec."""
    reconciler = reconciler_of(kube, mode)
    offers = {"instanceTypes": [*types], **spec.pop("offers", {})}
    reconciler.kube.patch(GPU_POOLS, "pool", {"spec": {"offers": offers, "options": options or {}, **spec}})
    return reconciler


def tick(reconciler: Reconciler) -> Report:
    """Make one round now."""
    return reconciler.tick(int(time.time()))


def ticking(reconciler: Reconciler, until: Callable[[], object], what: str, *, within_s: float = KARPENTER_S) -> None:
    """Make a round each second, whatever it says, until something holds."""

    def holds() -> bool:
        tick(reconciler)
        time.sleep(1)
        return bool(until())

    eventually(holds, what, within_s=within_s)


def aside(reconciler: Reconciler) -> dict[str, str]:
    """Return what the pool sets aside, and why."""
    entries = reconciler.kube.get(GPU_POOLS, "pool").get("status", {}).get("setAside", [])
    return {one["offer"]: one["reason"] for one in entries}


def claims(kube: Kube, labels: Mapping[str, str] | None = None) -> list[str]:
    """Return the names of the claims with these labels."""
    wanted = (labels or {}).items()
    return [one["metadata"]["name"] for one in kube.list(NODE_CLAIMS).items if wanted <= one["metadata"]["labels"].items()]


def nodes(kube: Kube, label: str) -> list[str]:
    """Return the values of one label of the nodes that are there to stay."""
    found = [node["metadata"] for node in kube.list(NODES).items]
    return [meta["labels"][label] for meta in found if "deletionTimestamp" not in meta]


def reasons(kube: Kube) -> list[str]:
    """Return why claims are not launched."""
    found = [one.get("status", {}).get("conditions", []) for one in kube.list(NODE_CLAIMS).items]
    return [one["reason"] for conditions in found for one in conditions if one["type"] == "Launched"]


def running(kube: Kube, pod: str) -> bool:
    """Return whether a pod runs."""
    return bool(kube.get(PODS, pod, namespace="default")["status"].get("phase") == "Running")


class ClassGoes:
    """A cluster whose node class is not there when the first claim is made, as if somebody made it anew at that moment.

    For Karpenter a missing class is a lack of capacity.
    """

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self.gone = False

    def create(self, kind: Kind, obj: Json, *, namespace: str | None = None) -> Json:
        """Create, too late where it is the first claim."""
        if kind == NODE_CLAIMS and not self.gone:
            self.gone = True
            self._kube.delete(KWOK_CLASS, "default")
        return self._kube.create(kind, obj, namespace=namespace)

    def come_back(self) -> None:
        """Let the claim be given up, and make the class again."""
        eventually(lambda: not claims(self._kube), "Karpenter gives the claim up")
        self._kube.create(KWOK_CLASS, node_class())

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any other verb
        return getattr(self._kube, name)
