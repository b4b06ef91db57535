"""An API server that goes away while ``tfscale reconcile`` runs: nothing is bought twice, and it catches up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cluster.conftest import eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.karpenter import POOLS, all_run, create_pods, pool_of
from tests.cluster.running import names, reconciling
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, NODES

AWAY_S = 60
MOST_LINES = 14
"""On standard error, of the start and of one outage."""


@pytest.mark.parametrize("mode", POOLS)
def test_a_minute_without_api_server_buys_nothing(
    control_plane: ControlPlane, cluster: KubeClient, mode: str, tmp_path: Path
) -> None:
    """Nodes stop reporting, too, and a pod waits that fits beside another. The log tells of it in a few lines."""
    control_plane.start_controllers("node-lifecycle")
    cluster.create(GPU_POOLS, pool_of(mode, idle_after_s=600))
    log = tmp_path / "tfscale.log"
    with reconciling(control_plane.kubeconfig, log) as process:
        create_pods(cluster, 3)
        eventually(lambda: all_run(cluster), "three pods run")
        before = names(cluster)
        create_pods(cluster, 1, first=3)
        control_plane.stop("kube-apiserver")
        time.sleep(AWAY_S)
        control_plane.start_api_server()
        eventually(lambda: all_run(cluster), "the fourth pod runs")
        time.sleep(10)
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if " WARNING " in line or " ERROR " in line]

        assert before == names(cluster)
        assert 2 == len(cluster.list(NODES).items) == len(before)
        assert process.poll() is None
        assert len(lines) <= MOST_LINES, lines
        assert "Traceback" not in log.read_text(encoding="utf-8")
