"""An API server that goes away while ``tfscale reconcile`` runs: nothing is bought twice, and it catches up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.conftest import define, eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.karpenter import POOLS, all_run, create_pods, pool_of
from tfscale.cli import Exit
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_CLAIMS, NODES, PODS, Kube

ROOT = Path(__file__).parents[2]
AWAY_S = 60
CUTS = int(os.environ.get("TFSCALE_FUZZ", "1")) * 4
MOST_LINES = 12
"""Of one outage, on standard error."""


@contextmanager
def reconciling(kubeconfig: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``tfscale reconcile`` meanwhile, and stop it as an operator does."""
    command = [sys.executable, "-m", "tfscale", "reconcile", "--kubeconfig", str(kubeconfig), "--interval", "2"]
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as process:  # noqa: S603 - our own interpreter
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert Exit.DONE == process.wait(60)
        finally:
            process.kill()


def names(kube: Kube) -> set[str]:
    """Return the names of all NodeClaims."""
    return {claim["metadata"]["name"] for claim in kube.list(NODE_CLAIMS).items}


@pytest.fixture
def cluster(karpenter: KubeClient) -> KubeClient:
    """Give a cluster with Karpenter and tfscale's own definitions."""
    define(karpenter, *sorted((ROOT / "tfscale" / "crds").glob("*.yaml")))
    return karpenter


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
        before, told = names(cluster), len(log.read_text(encoding="utf-8").splitlines())
        create_pods(cluster, 1, first=3)
        control_plane.stop("kube-apiserver")
        time.sleep(AWAY_S)
        control_plane.start_api_server()
        eventually(lambda: all_run(cluster), "the fourth pod runs")
        time.sleep(10)
        lines = log.read_text(encoding="utf-8").splitlines()[told:]

        assert before == names(cluster)
        assert 2 == len(cluster.list(NODES).items) == len(before)
        assert process.poll() is None
        assert len(lines) <= MOST_LINES, lines
        assert not [line for line in lines if "Traceback" in line]


def test_an_api_server_that_goes_away_at_any_moment_of_a_purchase_doubles_nothing(
    control_plane: ControlPlane, cluster: KubeClient, tmp_path: Path
) -> None:
    """One claim and one pod for each purchase, wherever it was cut.

    No controllers here: that for taint evictions deletes pods from new nodes whose startup taints are gone, while its own
    copy of the node is from before the cut.
    """
    cluster.create(GPU_POOLS, pool_of("managed-nodeclaim", idle_after_s=600))
    draw = random.Random(1)  # noqa: S311 - moments, no secrets
    with reconciling(control_plane.kubeconfig, tmp_path / "tfscale.log"):
        for number in range(CUTS):
            create_pods(cluster, 1, first=number, whole=True)
            time.sleep(draw.uniform(0, 3))
            control_plane.stop("kube-apiserver")
            control_plane.start_api_server()
            # kwok and Karpenter wait longer and longer before they connect again.
            eventually(lambda: all_run(cluster), f"pod {number} runs", within_s=150)

        assert CUTS == len(names(cluster)) == len(cluster.list(NODES).items)
        assert CUTS == len({pod["spec"]["nodeName"] for pod in cluster.list(PODS).items})
        assert {True} == {batch["status"]["settled"] for batch in cluster.list(LAUNCH_BATCHES).items}
