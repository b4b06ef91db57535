"""The harness itself: programs that stand still, end, come back and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import eventually
from tests.cluster.control_plane import ControlPlane
from tfscale.errors import ClusterUnreachableError
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import CONFIG_MAPS, NODES, PODS, Json, Kind

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment", namespaced=True)
NODE: Json = {
    "metadata": {"name": "n"},
    "status": {
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Test"}],
    },
}


def deployment(replicas: int) -> Json:
    """Return a Deployment of pods that any scheduler could place."""
    labels = {"app": "web"}
    spec = {"containers": [{"name": "main", "image": "example/main", "resources": {"requests": {"cpu": "1"}}}]}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def test_a_deployment_gets_pods_and_the_pods_a_node(control_plane: ControlPlane, kube: KubeClient) -> None:
    """The real controllers and the real scheduler are at work."""
    control_plane.start_controllers()
    control_plane.start_scheduler()
    kube.create(NODES, NODE)
    kube.create(DEPLOYMENTS, deployment(2), namespace="default")

    eventually(lambda: ["n", "n"] == [pod["spec"].get("nodeName") for pod in kube.list(PODS).items], "both pods are bound")


def test_the_api_server_stands_still_ends_and_comes_back_with_its_data(control_plane: ControlPlane) -> None:
    """On the same address, so that clients go on by themselves."""
    kube = KubeClient.connect(kubeconfig=str(control_plane.kubeconfig), timing=Timing(call_s=1, read_s=2))
    kube.create(CONFIG_MAPS, {"metadata": {"name": "kept"}}, namespace="default")
    control_plane.pause("kube-apiserver")
    with pytest.raises(ClusterUnreachableError):
        kube.get(CONFIG_MAPS, "kept", namespace="default")
    control_plane.resume("kube-apiserver")
    eventually(lambda: kube.get(CONFIG_MAPS, "kept", namespace="default"), "it answers again")
    control_plane.stop("kube-apiserver")
    with pytest.raises(ClusterUnreachableError):
        kube.get(CONFIG_MAPS, "kept", namespace="default")
    control_plane.start_api_server()

    assert "kept" == kube.get(CONFIG_MAPS, "kept", namespace="default")["metadata"]["name"]


def test_the_audit_log_tells_who_wrote_what(tmp_path: Path) -> None:
    """Writes alone, each with its user."""
    with ControlPlane(tmp_path, audit=True, users=["ann"]) as running:
        kube = KubeClient.connect(kubeconfig=str(running.kubeconfig_of("ann")))
        kube.create(CONFIG_MAPS, {"metadata": {"name": "hers"}}, namespace="default")
        kube.get(CONFIG_MAPS, "hers", namespace="default")
        eventually(lambda: [one for one in running.audit() if one["user"]["username"] == "ann"], "it is logged")
        (event,) = [one for one in running.audit() if one["user"]["username"] == "ann"]

    assert ("create", "configmaps", "hers") == (event["verb"], event["objectRef"]["resource"], event["objectRef"]["name"])


def test_a_test_that_is_killed_leaves_no_program_behind(tmp_path: Path) -> None:
    """Nobody is left to clean up, and yet all of them end."""
    script = (
        "import pathlib, time\n"
        "from tests.cluster.control_plane import ControlPlane\n"
        f"with ControlPlane(pathlib.Path({str(tmp_path)!r})):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own interpreter
        assert process.stdout
        assert b"up\n" == process.stdout.readline()
        pids = [int((tmp_path / f"{name}.pid").read_text(encoding="ascii")) for name in ("etcd", "kube-apiserver")]
        assert all(_runs(pid) for pid in pids)
        process.kill()
    end_s = time.monotonic() + 30
    while any(map(_runs, pids)) and time.monotonic() < end_s:
        time.sleep(0.1)

    assert [] == [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    """Return whether a process is there and is not only waiting to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"
