"""An API server that goes away at any moment of a purchase: nothing is bought twice."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from tests.cluster.conftest import eventually
from tests.cluster.control_plane import ControlPlane
from tests.cluster.karpenter import all_run, create_pods, pool_of
from tests.cluster.running import names, reconciling
from tfscale.kube.client import KubeClient
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODES, PODS

CUTS = int(os.environ.get("TFSCALE_FUZZ", "1")) * 4


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
