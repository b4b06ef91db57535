"""The real control plane, for tests that need one: built by ``make tools``, which needs Go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.control_plane import PROGRAMS, TOOLS, ControlPlane
from tests.cluster.karpenter import (
    CAPACITY_TYPES,
    CARDS,
    CLASS_REF,
    KWOK_CLASS,
    ON_DEMAND,
    TYPES,
    ZONES,
    condition,
    instance_type,
    node_class,
)
from tfscale.errors import AlreadyExistsError, NotFoundError
from tfscale.kube.client import KubeClient
from tfscale.kube.port import CRDS, NODE_POOLS, Kind
from tfscale.manifests import read_manifests


@pytest.fixture(scope="session", autouse=True)
def _tools() -> None:
    missing = [name for name in PROGRAMS if not (TOOLS / name).is_file()]
    if missing:
        pytest.skip(f"tools/bin has no {missing[0]}: `make tools` builds it, which needs Go")


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give an API server of its own to one test."""
    with ControlPlane(tmp_path) as running:
        yield running


@pytest.fixture
def kube(control_plane: ControlPlane) -> KubeClient:
    """Give a client of it."""
    return KubeClient.connect(kubeconfig=str(control_plane.kubeconfig), context=None)


@pytest.fixture
def karpenter(control_plane: ControlPlane, kube: KubeClient) -> KubeClient:
    """Give a cluster with Karpenter, kwok, a node class and a NodePool."""
    karpenter_on(control_plane, kube)
    return kube


def karpenter_on(control_plane: ControlPlane, kube: KubeClient) -> None:
    """Start Karpenter and kwok in a cluster, and make a node class and a NodePool."""
    define(kube, *sorted((TOOLS / "crds").glob("*.yaml")))
    control_plane.start_karpenter([instance_type(name, ZONES, CAPACITY_TYPES) for name in TYPES])
    control_plane.start_kwok()
    kube.create(KWOK_CLASS, node_class())
    template = {"metadata": {"labels": CARDS}, "spec": {"nodeClassRef": CLASS_REF, "requirements": [ON_DEMAND]}}
    disruption = {"consolidationPolicy": "WhenEmptyOrUnderutilized", "consolidateAfter": "5s"}
    pool = {"metadata": {"name": "gpu"}, "spec": {"template": template, "disruption": disruption}}
    kube.create(NODE_POOLS, {"apiVersion": NODE_POOLS.api_version, "kind": NODE_POOLS.kind, **pool})
    eventually(lambda: condition(kube.get(NODE_POOLS, "gpu"), "Ready"), "the NodePool is Ready")


@pytest.fixture
def cluster(karpenter: KubeClient) -> KubeClient:
    """Give a cluster with Karpenter and tfscale's own definitions."""
    define(karpenter, *sorted((TOOLS.parents[1] / "tfscale" / "crds").glob("*.yaml")))
    return karpenter


def define(kube: KubeClient, *files: Path) -> None:
    """Install custom resource definitions and wait until they are served."""
    for path in files:
        for manifest in read_manifests(path.read_text(encoding="utf-8"), name=path.name):
            with suppress(AlreadyExistsError):
                kube.create(CRDS, manifest.value)
            spec = manifest.value["spec"]
            names, version = spec["names"], spec["versions"][0]["name"]
            served = Kind(spec["group"], version, names["plural"], names["kind"], namespaced=spec["scope"] == "Namespaced")
            eventually(partial(is_served, kube, served), f"{served.plural} are served")


def is_served(kube: KubeClient, kind: Kind) -> bool:
    """Return whether objects of a kind can be listed."""
    try:
        kube.list(kind)
    except NotFoundError:
        return False
    return True


KARPENTER_S = 420
"""The longest that Karpenter may take to empty or to reclaim a node. A change of taints, labels or annotations does not wake
its consolidation: if it looked between the last change of pods and ours, it looks again after five minutes."""


def eventually(holds: Callable[[], object], what: str, *, within_s: float = 60) -> None:
    """Wait until something holds, or fail with what was waited for."""
    end_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end_s:
            pytest.fail(f"not within {within_s:g} s: {what}")
        time.sleep(0.2)
