"""The mode of another package: the example in ``examples/metal3-mode``, installed as pip would install it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tfscale.gpus import GpuTable
from tfscale.kube.port import GPU_POOLS, NODES, PODS, Json, Kind
from tfscale.modes import load, names
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler
from tfscale.testing import FakeKube

HOSTS = Kind("metal3.io", "v1alpha1", "baremetalhosts", "BareMetalHost", namespaced=True)
EXAMPLE = Path(__file__).parents[2] / "examples" / "metal3-mode"


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """Write the metadata that pip would write, from the package's own ``pyproject.toml``, and return what goes on the path."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    return [str(tmp_path), str(EXAMPLE)]


def test_it_is_found_by_its_entry_point(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in its metadata is all that tfscale knows of it."""
    for path in installed:
        monkeypatch.syspath_prepend(path)

    assert "metal3" in names()
    assert ("metal3", "tfscale_metal3") == (load("metal3").name, load("metal3").__module__)


def test_it_passes_the_contract(installed: list[str]) -> None:
    """Its own tests, as its author runs them: nothing fails and nothing is left out but the test of modes that buy nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_tfscale_metal3.py"],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(installed)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stdout
    assert "1 skipped" in done.stdout


def metal() -> FakeKube:
    """Return a cluster with a pool, a pod that waits, and a host that is off."""
    kube = FakeKube()
    types = {"rack-l4": {"gpuModel": "L4", "gpus": 1}}
    spec = {"mode": "metal3", "options": {"namespace": "metal", "types": types}, "idleAfter": "1m"}
    kube.create(GPU_POOLS, {"metadata": {"name": "floor"}, "spec": spec})
    annotations = {"tfscale.io/vram-request": "8Gi", "tfscale.io/compute-percent-request": "50"}
    containers = [{"name": "main", "image": "example/main"}]
    pod = {
        "metadata": {"name": "asr-0", "annotations": annotations},
        "spec": {"schedulerName": "tfscale", "containers": containers},
    }
    kube.create(PODS, pod, namespace="default")
    meta = {"name": "host-0", "labels": {"node.kubernetes.io/instance-type": "rack-l4"}}
    kube.create(HOSTS, {"metadata": meta, "spec": {"online": False}}, namespace="metal")
    hardware = {"cpu": {"count": 32}, "ramMebibytes": 131_072}
    status = {"operationalStatus": "OK", "provisioning": {"state": "provisioned"}, "hardware": hardware}
    kube.patch_status(HOSTS, "host-0", {"status": status}, namespace="metal")
    return kube


def joined(kube: FakeKube) -> None:
    """Let the node of the host join, whose kubelet was told its provider id."""
    amounts = {"cpu": "32", "memory": "128Gi", "pods": "110", "nvidia.com/gpu": "1"}
    node = {
        "metadata": {"name": "node-0", "labels": {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}},
        "spec": {"providerID": "metal3://metal/host-0"},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    kube.create(NODES, node)


def test_the_loop_switches_a_host_on_and_off(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod waits, a host boots, the pod runs there and ends, and the host is free again."""
    for path in installed:
        monkeypatch.syspath_prepend(path)
    kube, gpus = metal(), GpuTable()
    loop = Reconciler(
        kube=kube,
        mode_of=load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="test"),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )

    def host_at(now_s: int) -> Json:
        assert not loop.tick(now_s).problems
        spec: Json = kube.get(HOSTS, "host-0", namespace="metal")["spec"]
        return spec

    assert host_at(0)["online"]
    joined(kube)
    host_at(60)
    assert host_at(61)["online"]
    assert kube.get(PODS, "asr-0", namespace="default")["spec"]["nodeName"] == "node-0"
    kube.delete(PODS, "asr-0", namespace="default", grace_period_s=0)
    host_at(100)
    assert {"online": False} == host_at(200)
