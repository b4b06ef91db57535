"""How long a simulated day takes: 1,000 pods with a peak in the afternoon, two kinds of faults, in each mode.

    python bench/day.py [--pods N] [--mode MODE ...] [-o json]

Each day runs in a process of its own, one after the other; the first mode is the baseline of the ratios. `--scenario MODE` prints
the day's scenario instead, for `tfscale simulate`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]
TYPES = {"g4dn.xlarge": ("T4", 1, 4, 16, 0.526), "g6.xlarge": ("L4", 1, 4, 16, 0.8048), "g6.12xlarge": ("L4", 4, 48, 192, 4.6016)}
"""Model, cards, vCPUs, GiB, USD per hour: on-demand, Linux, us-east-1, 2026-07-20."""
ZONES = ["us-east-1a", "us-east-1b"]
_CLASS = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
MODES: dict[str, Json] = {
    "ec2": {"region": "us-east-1", "launchTemplate": {"name": "tfscale"}},
    "managed-nodeclaim": {"nodeClassRef": _CLASS},
    "reuse-nodeclaim": {"nodePools": ["gpu"]},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the days, print their figures, and return 0, or 1 where one of them failed."""
    parser = argparse.ArgumentParser(description="Measure how long a simulated day takes in each mode.")
    parser.add_argument("--pods", type=int, default=1_000, help="pods of the day (default: %(default)s)")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="a mode to run; default: all")
    parser.add_argument("--scenario", choices=list(MODES), help="print the scenario of a mode and end")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    options = parser.parse_args(arguments)
    if options.pods < 2:  # noqa: PLR2004 - one of each workload
        parser.error(f"--pods is {options.pods}; want 2 or more")
    if options.scenario:
        print(scenario(options.scenario, options.pods), end="")
        return 0
    days = [_day(mode, options.pods) for mode in options.mode or MODES]
    for day in days:
        day["ratio"] = round(day["wall_s"] / days[0]["wall_s"], 2)
    if options.output == "json":
        print(json.dumps({"pods": options.pods, "days": days}, indent=2))
    else:
        for day in days:
            print("  ".join(f"{key} {value}" for key, value in day.items()))
    return 0


def scenario(mode: str, pods: int) -> str:
    """Return the scenario file of a day in one mode."""
    documents: list[Json] = [
        {"apiVersion": "sim.tfscale.io/v1alpha1", "kind": "Scenario", "metadata": {"name": "day"}, "spec": _day_spec(pods)},
        {"apiVersion": "karpenter.k8s.aws/v1", "kind": "EC2NodeClass", "metadata": {"name": "gpu"}, "spec": {}},
        {
            "apiVersion": "karpenter.sh/v1",
            "kind": "NodePool",
            "metadata": {"name": "gpu"},
            "spec": {
                "template": {"spec": {"nodeClassRef": _CLASS, "requirements": []}},
                "disruption": {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "5m"},
            },
        },
        {
            "apiVersion": "tfscale.io/v1alpha1",
            "kind": "GPUPool",
            "metadata": {"name": "inference"},
            "spec": {"mode": mode, "options": MODES[mode], "offers": {"instanceTypes": list(TYPES), "zones": ZONES}},
        },
    ]
    return "---\n".join(json.dumps(document) + "\n" for document in documents if mode != "ec2" or "arpenter" not in str(document))


def _day_spec(pods: int) -> Json:
    types = [
        {"name": name, "gpuModel": model, "gpus": gpus, "cpu": cpu, "memory": f"{gib}Gi", "usdPerHour": usd}
        for name, (model, gpus, cpu, gib, usd) in TYPES.items()
    ]
    scarce = [{"instanceType": "g4dn.xlarge", "zone": zone, "machines": 5} for zone in ZONES]
    return {
        "duration": "24h",
        "cloud": {"zones": ZONES, "instanceTypes": types, "capacity": scarce, "launchTemplate": "tfscale"},
        "workloads": [
            _load("chat", pods * 6 // 10, {"pattern": "diurnal", "peakAt": "14h"}, "50m", ("6Gi", "30")),
            _load("batch", pods - pods * 6 // 10, {"pattern": "random"}, "30m", ("3Gi", "20")),
        ],
        "faults": [{"at": "12h", "machinesStop": 2}, {"at": "15h", "restart": True}],
    }


def _load(name: str, replicas: int, arrivals: Json, run_for: str, share: tuple[str, str]) -> Json:
    annotations = {"tfscale.io/vram-request": share[0], "tfscale.io/compute-percent-request": share[1]}
    container = {"name": "main", "image": "example/main", "resources": {"requests": {"cpu": "400m", "memory": "1Gi"}}}
    template = {"metadata": {"annotations": annotations}, "spec": {"schedulerName": "tfscale", "containers": [container]}}
    return {"name": name, "replicas": replicas, "arrivals": {"over": "24h", **arrivals}, "runFor": run_for, "template": template}


def _day(mode: str, pods: int) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "day.yaml"
        path.write_text(scenario(mode, pods), encoding="utf-8")
        began_s = time.perf_counter()
        command = [sys.executable, "-m", "tfscale", "simulate", str(path), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
        wall_s = time.perf_counter() - began_s
    if done.returncode:
        raise SystemExit(f"day: mode {mode} ended with {done.returncode}: {done.stderr}")
    result = json.loads(done.stdout)
    pool = result["pools"]["inference"]
    kept = ("launched", "bound", "cost_usd", "wait_p95_s", "nodes_peak")
    return {"mode": mode, "wall_s": round(wall_s, 1), "rounds": result["ticks"], **{key: pool[key] for key in kept}}


if __name__ == "__main__":
    sys.exit(main())
