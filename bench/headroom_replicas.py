"""Does headroom hold on the real Karpenter? ``python -m bench.headroom_replicas [--minutes 30] [-o json]``.

A pool of replicas with 40% headroom, on a NodePool that consolidates what is empty or underutilized after 5 s: Karpenter and
kwok are real, built by ``make tools``. Pods come, and once nothing changes any more the cluster is looked at each second.
Printed are the launches and the nodes lost since, and the least that was free, in VRAM and in compute. A pool without headroom
runs first for a minute, for comparison: there Karpenter takes what is not used.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.conftest import karpenter_on
from tests.cluster.control_plane import PROGRAMS, TOOLS, ControlPlane
from tests.cluster.karpenter import all_run, create_pods, pool_of
from tfscale import modes
from tfscale.catalogue import snapshot
from tfscale.gpus import GpuTable
from tfscale.headroom import free_pct
from tfscale.kube.client import KubeClient
from tfscale.kube.configmaps import InConfigMaps
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler, Report

__all__ = ["main"]

PERCENT = 40
PODS = 5
STEADY_S = 60
"""How long nothing may have changed for the state to count as steady."""


@dataclass(slots=True)
class Watch:
    """What was seen of the claims since the state was steady."""

    seconds: int = 0
    launches: int = 0
    lost: int = 0
    least_free_pct: float = 100.0
    seen: set[str] = field(default_factory=set)

    def look(self, claims: set[str], report: Report) -> None:
        """Count what came and went, and note what is free."""
        self.launches += len(claims - self.seen)
        self.lost += len(self.seen - claims)
        self.seen = claims
        self.seconds += 1
        self.least_free_pct = min(self.least_free_pct, free_pct(report.cluster.nodes))


@contextmanager
def a_pool(percent: int) -> Iterator[tuple[KubeClient, Reconciler]]:
    """Give a cluster with Karpenter, a pool of replicas with headroom, and its loop."""
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder)) as plane:
        kube = KubeClient.connect(kubeconfig=str(plane.kubeconfig), context=None)
        karpenter_on(plane, kube)
        records, gpus = InConfigMaps(kube, namespace="default"), GpuTable()
        pool = pool_of("reuse-nodeclaim")
        pool["spec"]["headroom"] = {"percent": percent}
        records.create(GPU_POOLS, pool)
        yield (
            kube,
            Reconciler(
                kube=records,
                mode_of=modes.load,
                open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=records, cluster="bench", catalogue=snapshot()),
                gpus=gpus,
                prefix="tfscale.io",
            ),
        )


def claims_of(kube: KubeClient) -> set[str]:
    """Return the names of the claims that are not on their way out."""
    return {one["metadata"]["name"] for one in kube.list(NODE_CLAIMS).items if "deletionTimestamp" not in one["metadata"]}


def run(percent: int, *, seconds: int) -> Watch:
    """Let pods come, wait for a steady state, and watch it for so long."""
    with a_pool(percent) as (kube, reconciler):
        create_pods(kube, PODS, mirrored=True)
        steady_since_s, before = time.monotonic(), set[str]()
        while time.monotonic() - steady_since_s < STEADY_S:
            reconciler.tick(int(time.time()))
            claims = claims_of(kube)
            if claims != before or not all_run(kube):
                steady_since_s, before = time.monotonic(), claims
            time.sleep(1)
        watch, began_s = Watch(seen=before), time.monotonic()
        while time.monotonic() - began_s < seconds:
            next_s = began_s + watch.seconds + 1
            report = reconciler.tick(int(time.time()))
            watch.look(claims_of(kube), report)
            time.sleep(max(next_s - time.monotonic(), 0))
        return watch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both, print the figures, and return 1 where headroom did not hold."""
    asked = _parser().parse_args(arguments)
    if missing := [name for name in PROGRAMS if not (TOOLS / name).is_file()]:
        print(f"tools/bin has no {missing[0]}: make tools builds it, which needs Go", file=sys.stderr)
        return 2
    without = run(0, seconds=asked.seconds_without)
    held = run(PERCENT, seconds=asked.minutes * 60)
    figures = {
        "headroom_pct": PERCENT,
        "seconds": held.seconds,
        "nodes": len(held.seen),
        "launches": held.launches,
        "nodes_lost": held.lost,
        "least_free_pct": round(held.least_free_pct, 1),
        "least_free_pct_without_headroom": round(without.least_free_pct, 1),
        "nodes_without_headroom": len(without.seen),
    }
    if asked.output == "json":
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:<34}{figure:>10}" for name, figure in figures.items()))
    return int(held.launches > 0 or held.lost > 0 or held.least_free_pct < PERCENT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.headroom_replicas", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=30, help="how long to watch the steady state (30)")
    parser.add_argument("--seconds-without", type=int, default=60, help="how long to watch a pool without headroom (60)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
