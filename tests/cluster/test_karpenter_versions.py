"""Clusters without the Karpenter that is needed: which it is is said in words, and nothing hangs."""

from __future__ import annotations

import time

import pytest

from tests.cluster.conftest import define, eventually
from tests.cluster.control_plane import TOOLS
from tests.cluster.karpenter import KWOK_CLASS, POOLS, create_pods, node_class
from tests.cluster.running import names
from tests.cluster.test_karpenter import reconciler_of
from tfscale import doctor, modes
from tfscale.catalogue import snapshot
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.kube.port import CRDS, NODE_REQUESTS, Json
from tfscale.manifests import read_manifests
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler


def problems(kube: KubeClient, mode: str) -> str:
    """Return what a round of the loop says is wrong."""
    return "; ".join(map(str, reconciler_of(kube, mode).tick(int(time.time())).problems))


def examined(reconciler: Reconciler, now_s: int) -> list[str]:
    """Return what the doctor says of Karpenter."""
    gpus, kube = GpuTable(), reconciler.kube
    found = doctor.findings(
        kube,
        gpus=gpus,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="test", catalogue=snapshot()),
        now_s=now_s,
    )
    return [one.says for one in found if one.check == "karpenter"]


@pytest.mark.parametrize("mode", POOLS)
def test_a_cluster_without_karpenter_says_so(kube: KubeClient, mode: str) -> None:
    """In the pool's condition and in what the loop tells."""
    assert "this one serves no nodeclaims.karpenter.sh" in problems(kube, mode)


def test_an_api_from_before_version_one_is_named(kube: KubeClient) -> None:
    """Karpenter 1.0 serves v1; what was before it is not used."""
    path = TOOLS / "crds" / "karpenter.sh_nodeclaims.yaml"
    (manifest,) = read_manifests(path.read_text(encoding="utf-8"), name=path.name)
    crd: Json = manifest.value
    crd["spec"]["versions"][0]["name"] = "v1beta1"
    kube.create(CRDS, crd)

    assert "this one serves nodeclaims.karpenter.sh in v1beta1 only, not in v1" in problems(kube, "managed-nodeclaim")


def test_definitions_without_a_controller_are_waited_for_no_longer_than_a_launch_may_take(kube: KubeClient) -> None:
    """Nobody acts on the claim: it is withdrawn, the record says why, and nothing is left in the end."""
    define(kube, *sorted((TOOLS / "crds").glob("*.yaml")))
    kube.create(KWOK_CLASS, node_class())
    reconciler = reconciler_of(kube, "managed-nodeclaim")
    create_pods(kube, 1)
    reconciler.tick(int(time.time()))
    assert 1 == len(names(kube))
    later_s = int(time.time()) + 301
    assert ["nobody looks at 1 of its NodeClaims, such as " + min(names(kube))] == examined(reconciler, later_s)

    def withdrawn() -> bool:
        reconciler.tick(later_s)
        return not names(kube)

    reconciler.seen_since_s = 0
    eventually(withdrawn, "the claim is withdrawn")

    def forgotten() -> bool:
        reconciler.tick(later_s)
        return not reconciler.kube.list(NODE_REQUESTS).items

    eventually(forgotten, "its record goes")
