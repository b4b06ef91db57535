"""Turn the first pods of the openb production trace into a scenario for ``tfscale reconcile --local``.

The trace (Alibaba, 2023; Weng et al., "Beware of Fragmentation", USENIX ATC 2023) names for each pod its CPU, memory, number
of GPUs, the share of one GPU and sometimes card models, and for each node its shape. What it does not say is assumed here:

* VRAM. The trace shares a GPU in one dimension, so a share asks for the same part of compute and of VRAM. VRAM is an absolute
  amount, and cards differ: it is that share of the smallest card that the pod accepts (16 GiB where it names no model).
  So a share fits on every card that the trace allows, and compute alone decides how many fit.
* The cards G2 and G3 are anonymised. They are taken as like an A10 (24 GiB, 125 TFLOPs) and like an A100 (40 GiB, 312 TFLOPs).
  V100M16 and V100M32 are V100 with 16 and 32 GiB.
* Prices. The trace has none. A node costs the sum of its vCPUs and GiB at the rate of EC2's general-purpose types
  (0.0336 USD per vCPU and 0.0036 USD per GiB, an hour) and its GPUs at about what EC2 takes for such a card above that.

A whole GPU, one or several, is asked for as ``nvidia.com/gpu``. All pods are there at the start; arrival times are left out.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

PODS = "openb_pod_list_default.csv"
NODES = "openb_node_list_all_node.csv"
POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec")
NODE_COLUMNS = ("model", "gpu", "cpu_milli", "memory_mib")
DATA = Path(__file__).parents[2] / "shared" / "data" / "openb"
REGION, ZONE, TEMPLATE, POOL = "us-east-1", "us-east-1a", "tfscale-node", "openb"

VRAM_MIB = {"P100": 16384, "T4": 16384, "V100M16": 16384, "A10": 24576, "G2": 24576, "V100M32": 32768, "G3": 40960}
TFLOPS = {"P100": "18.7", "T4": "65", "V100M16": "125", "A10": "125", "G2": "125", "V100M32": "125", "G3": "312"}
GPU_USD = {"P100": 1.3, "T4": 0.33, "V100M16": 2.7, "A10": 0.8, "G2": 0.8, "V100M32": 3.3, "G3": 2.2}
USD_PER_CPU, USD_PER_GIB = 0.0336, 0.0036

Row = dict[str, str]
Json = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the scenario and return the exit code: 0, or 2 where the data is missing or the number of pods is wrong."""
    options = _parser().parse_args(arguments)
    if options.pods < 1:
        return _say(f"-n is {options.pods}; want 1 or more")
    missing = [path for path in (options.data / PODS, options.data / NODES) if not path.is_file()]
    if missing:
        return _say(f"{missing[0]} is not there; want the openb trace, name its folder with --data")
    try:
        pods, nodes = _rows(options.data / PODS, POD_COLUMNS), _rows(options.data / NODES, NODE_COLUMNS)
        documents = list(scenario(pods[: options.pods], nodes, mode=options.mode))
        if options.output is None:
            _write(documents, sys.stdout)
            sys.stdout.flush()
        else:
            with options.output.open("w", encoding="utf-8") as out:
                _write(documents, out)
    except BrokenPipeError:
        # The reader (`| head`) has enough; the interpreter must find nothing to flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _say(f"{error.filename or options.output or 'standard output'} cannot be used: {error.strerror}")
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        return _say(f"{options.data} is not the openb trace as it was published: {error}")
    return 0


def scenario(pods: Iterable[Row], nodes: Iterable[Row], *, mode: str = "ec2") -> Iterator[Json]:
    """Yield the documents: the cloud with the trace's node shapes, one pool of a mode, what the mode needs, and the pods."""
    shapes = Counter((row["model"], int(row["gpu"]), int(row["cpu_milli"]), int(row["memory_mib"])) for row in nodes)
    yield {
        "apiVersion": "sim.tfscale.io/v1alpha1",
        "kind": "Scenario",
        "metadata": {"name": "openb"},
        "spec": {
            "gpuModels": [
                {"name": name, "vramMib": vram_mib, "tflops": TFLOPS[name], "source": "assumed, see bench/openb_scenario.py"}
                for name, vram_mib in VRAM_MIB.items()
            ],
            "cloud": {
                "region": REGION,
                "zones": [ZONE],
                "launchTemplate": TEMPLATE,
                "instanceTypes": [_instance_type(*shape) for shape in sorted(shapes)],
                "capacity": [
                    {"instanceType": _type_name(*shape), "zone": ZONE, "machines": count}
                    for shape, count in sorted(shapes.items())
                ],
            },
        },
    }
    yield from _KARPENTER if mode != "ec2" else ()
    yield {
        "apiVersion": "tfscale.io/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": POOL},
        "spec": {
            "mode": mode,
            "options": _OPTIONS[mode],
            # Modes on NodeClaims take types without GPU only where they are named.
            "offers": {"instanceTypes": [_type_name(*shape) for shape in sorted(shapes)], "zones": [ZONE]},
            "default": True,
        },
    }
    yield from map(_pod, pods)


_CLASS = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "openb"}
_OPTIONS: dict[str, Json] = {
    "ec2": {"region": REGION, "launchTemplate": {"name": TEMPLATE}},
    "managed-nodeclaim": {"nodeClassRef": _CLASS},
    "reuse-nodeclaim": {"nodePools": ["openb"]},
}
_KARPENTER: tuple[Json, ...] = (
    {"apiVersion": "karpenter.k8s.aws/v1", "kind": "EC2NodeClass", "metadata": {"name": "openb"}, "spec": {}},
    {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": "openb"},
        "spec": {
            "template": {
                "spec": {
                    "nodeClassRef": _CLASS,
                    "requirements": [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]}],
                }
            },
            "disruption": {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "1m"},
        },
    },
)


def _instance_type(model: str, gpus: int, cpu_milli: int, memory_mib: int) -> Json:
    usd = cpu_milli / 1000 * USD_PER_CPU + memory_mib / 1024 * USD_PER_GIB + gpus * GPU_USD.get(model, 0)
    return {
        "name": _type_name(model, gpus, cpu_milli, memory_mib),
        **({"gpuModel": model, "gpus": gpus} if gpus else {}),
        "cpu": f"{cpu_milli}m",
        "memory": f"{memory_mib}Mi",
        "usdPerHour": f"{usd:.4f}",
    }


def _type_name(model: str, gpus: int, cpu_milli: int, memory_mib: int) -> str:
    """Return a name in the form of EC2's, family and size: ``openb-g2.8gpu-96c-384g``."""
    size = f"{cpu_milli // 1000}c-{memory_mib // 1024}g"
    return f"openb-{model.lower()}.{gpus}gpu-{size}" if gpus else f"openb-cpu.{size}"


def _pod(row: Row) -> Json:
    gpus, share_milli = int(row["num_gpu"]), int(row["gpu_milli"])
    models = [model for model in row["gpu_spec"].split("|") if model]
    whole = gpus > 1 or share_milli >= 1000  # noqa: PLR2004 - thousandths of one GPU
    annotations = {"tfscale.io/gpu-model": ",".join(models)} if models and gpus else {}
    if gpus and not whole:
        vram_mib = -(-share_milli * min(VRAM_MIB[model] for model in models or VRAM_MIB) // 1000)
        annotations["tfscale.io/vram-request"] = f"{vram_mib}Mi"
        annotations["tfscale.io/compute-percent-request"] = f"{share_milli / 10:g}"
    requests = {"cpu": f"{row['cpu_milli']}m", "memory": f"{row['memory_mib']}Mi"}
    limits = {"limits": {"nvidia.com/gpu": gpus}} if gpus and whole else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": row["name"], "annotations": annotations},
        "spec": {
            "schedulerName": "tfscale",
            "containers": [{"name": "main", "image": "openb", "resources": {"requests": requests, **limits}}],
        },
    }


def _rows(path: Path, columns: Sequence[str]) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        if missing := [column for column in columns if column not in (rows.fieldnames or ())]:
            raise ValueError(f"{path.name} has no column {', '.join(missing)}")
        return list(rows)


def _write(documents: Iterable[Json], out: TextIO) -> None:
    yaml.safe_dump_all(documents, out, sort_keys=False, default_flow_style=None, width=130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Turn the first pods of the openb trace into a scenario file.")
    parser.add_argument("-n", "--pods", type=int, default=500, help="how many pods, from the first (default: 500)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the trace's CSV files (default: %(default)s)")
    parser.add_argument("--mode", choices=list(_OPTIONS), default="ec2", help="mode of the pool (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: standard output)")
    return parser


def _say(line: str) -> int:
    print(f"openb_scenario: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
