"""The command against a cluster behind a kubeconfig: fixed nodes, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfscale.cli import Exit, main
from tfscale.kube.port import GPU_POOLS, LEASES, NODES, PODS, Json
from tfscale.testing import FakeKube, KubeServer

POOL = {
    "apiVersion": "tfscale.io/v1alpha1",
    "kind": "GPUPool",
    "metadata": {"name": "floor"},
    "spec": {"mode": "static"},
}
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {
        "name": "rack-1",
        "labels": {"tfscale.io/pool": "floor", "nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"},
    },
    "status": {
        "capacity": {"nvidia.com/gpu": "2"},
        "allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "2"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}

RELEASED = {
    "metadata": {"name": "tfscale", "namespace": "default"},
    "spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 6},
}
"""The Lease as the last leader left it, so that the next one need not wait."""


def pod(name: str, vram: str) -> Json:
    """Return a pod that asks for half of the compute of a card."""
    annotations = {"tfscale.io/vram-request": vram, "tfscale.io/compute-percent-request": "50"}
    spec = {"schedulerName": "tfscale", "containers": [{"name": "main", "image": "example/main"}]}
    return {"metadata": {"name": name, "namespace": "default", "annotations": annotations}, "spec": spec}


@pytest.fixture
def kube() -> FakeKube:
    """Return a cluster with one pool of one node that is there already, and two pods."""
    cluster = FakeKube()
    cluster.create(GPU_POOLS, POOL)
    cluster.create(NODES, NODE)
    cluster.create(LEASES, RELEASED)
    for name in ("asr-0", "asr-1"):
        cluster.create(PODS, pod(name, "10Gi"))
    return cluster


@pytest.fixture
def kubeconfig(kube: FakeKube, tmp_path: Path) -> Iterator[str]:
    """Yield a kubeconfig that leads to the cluster."""
    with KubeServer(kube) as server:
        path = tmp_path / "config"
        path.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
            f"clusters: [{{name: c, cluster: {{server: '{server.url}'}}}}]\n"
            "contexts: [{name: x, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n"
        )
        yield str(path)


def bound(kube: FakeKube) -> dict[str, str | None]:
    """Return the node of each pod."""
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in kube.list(PODS).items}


def test_pods_are_placed_on_nodes_that_are_there_already(
    kube: FakeKube, kubeconfig: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One round binds both and writes what each holds."""
    code = main(["reconcile", "--kubeconfig", kubeconfig, "--once", "-o", "json"])
    result = json.loads(capsys.readouterr().out)["pools"]["floor"]
    held = [json.loads(pod["metadata"]["annotations"]["tfscale.io/allocation"]) for pod in kube.list(PODS).items]

    assert Exit.DONE == code
    assert {"launched": 0, "bound": 2, "unmet": [], "terminated": 0, "machines_left": 0} == result
    assert {"asr-0": "rack-1", "asr-1": "rack-1"} == bound(kube)
    assert [(10_240, 500)] * 2 == [(card["vramMib"], card["computeMilli"]) for cards in held for card in cards]


def test_until_idle_ends_with_what_has_no_place(kube: FakeKube, kubeconfig: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A pod that no card can hold is named with its reason; the others are placed."""
    kube.create(PODS, pod("huge", "40Gi"))
    code = main(["reconcile", "--kubeconfig", kubeconfig, "--until-idle"])

    assert Exit.PARTIAL == code
    assert "default/huge: " in capsys.readouterr().out.splitlines()[-1]
    assert {"asr-0": "rack-1", "asr-1": "rack-1", "huge": None} == bound(kube)


def test_a_dry_run_places_nothing(kube: FakeKube, kubeconfig: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is printed and the cluster stays at the same version."""
    before = kube.list(PODS).resource_version

    assert Exit.DONE == main(["reconcile", "--kubeconfig", kubeconfig, "--dry-run"])
    assert 2 == len([line for line in capsys.readouterr().out.splitlines() if line.startswith("place ")])
    assert before == kube.list(PODS).resource_version


def test_a_cluster_without_our_resources_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is named; there is no traceback."""
    with KubeServer(FakeKube()) as server:
        path = tmp_path / "config"
        path.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
            f"clusters: [{{name: c, cluster: {{server: '{server.url}/nowhere'}}}}]\n"
            "contexts: [{name: x, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n"
        )
        code = main(["reconcile", "--kubeconfig", str(path), "--once", "--no-leader-elect"])

    said = (
        "tfscale: the cluster does not serve gpupools of tfscale.io/v1alpha1: is its definition installed? "
        "If not: tfscale manifests crds | kubectl apply --server-side -f -\n"
    )
    assert (Exit.FAILED, said) == (code, capsys.readouterr().err)
