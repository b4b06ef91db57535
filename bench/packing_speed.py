"""How fast the packer decides and how much memory it takes, on clusters of 1,213 to 19,408 nodes.

    python bench/packing_speed.py [--case NAME ...] [--runs 3] [--fill-pct 100] [-o json]

Each run is a process of its own with one thread; the best of the runs counts, and beside it stands the time of a fixed loop,
so that figures of a busy machine can be read against it. Clusters and pods:

* ``openb-N``: the 1,213 nodes of the openb trace (see openb_scenario.py), 8 and 16 times over, and pods drawn from one of its
  lists with replacement until as much of the GPUs was asked as ``--fill-pct`` says. Without the trace: a stand-in with its
  main shapes of nodes and its most frequent requests.
* ``tensor-fusion``: what the scheduler benchmark of TensorFusion places: 500 nodes of 6 cards, the four models node by node,
  and 10,000 pods that cycle through five shapes. Its comments claim 2,346 pods/s, 0.43 ms each, on a Mac M4 Pro; run on two
  quiet cores of a server it took 26.2 ms each.

Only calls of ``Packer.place`` are timed. Then pods are removed at random until 90% of the GPUs are allocated, and pairs of one
removal and one placement are timed: ``churn_per_s``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfscale.model import CARD_MILLI, Demand, Gpu, Node, Request
from tfscale.slicing import Packer, Placed, typical_of

Result = dict[str, Any]
Work = tuple[list[Node], list[Request], Iterator[Request]]

DATA = Path(__file__).parents[2] / "shared" / "data" / "openb"
NODES = "openb_node_list_gpu_node.csv"
COPIES = {"openb-1213": 1, "openb-9704": 8, "openb-19408": 16}
TENSOR_FUSION = "tensor-fusion"
GOALS = {"openb-1213": 10_000, "openb-9704": 5_000, "openb-19408": 3_000, TENSOR_FUSION: 2_346}
"""Decisions per second: our own, and what TensorFusion claims."""
CLAIMED_MS, MEASURED_MS = 0.43, 26.2
POOL, PODS_MAX, CHURN_PCT = "bench", 1_001, 90
SHOWN = ("decisions_per_s", "per_cpu_s", "p50_ms", "p99_ms", "max_ms", "churn_per_s", "setup_s", "peak_rss_mib", "allocated_pct")

# Model, cards, CPUs, GiB, nodes: the shapes of the trace. Millicores, GiB, cards, thousandths of each, pods: near its list.
STAND_IN_NODES = (
    *(("G2", 8, 96, 384, 549), ("T4", 2, 104, 512, 387), ("P100", 2, 16, 120, 107), ("G3", 8, 128, 768, 39)),
    *(("V100M16", 4, 32, 128, 28), ("P100", 2, 64, 256, 22), ("V100M32", 8, 96, 768, 21), ("V100M16", 1, 8, 32, 19)),
    *(("T4", 4, 96, 384, 17), ("V100M32", 4, 48, 368, 9), ("V100M16", 8, 64, 256, 7), ("P100", 1, 8, 60, 3)),
    *(("P100", 2, 8, 60, 2), ("A10", 1, 128, 1024, 2), ("V100M16", 8, 82, 336, 1)),
)
STAND_IN_PODS = (
    *((12_500, 56, 0, 0, 544), (32_000, 48, 0, 0, 300), (8_000, 30, 0, 0, 244)),
    *((3_152, 6, 1, 810, 1_150), (11_908, 46, 1, 470, 430), (8_000, 30, 1, 470, 400), (11_908, 46, 1, 650, 400)),
    *((4_000, 22, 1, 320, 300), (6_000, 12, 1, 460, 200), (4_000, 30, 1, 230, 198)),
    *((11_300, 48, 1, 1000, 1_100), (11_400, 47, 1, 1000, 700), (3_152, 6, 1, 1000, 650), (18_708, 63, 1, 1000, 400)),
    *((15_700, 57, 1, 1000, 400), (9_810, 40, 1, 1000, 361), (12_000, 24, 1, 1000, 300)),
    *((16_000, 64, 2, 1000, 16), (32_000, 128, 4, 1000, 15), (64_000, 256, 8, 1000, 44)),
)
# Model, GiB, TFLOPs; and TFLOPs, GiB, cards.
TENSOR_FUSION_CARDS = (("B200", 141, 2250), ("H100", 80, 989), ("L40S", 48, 450), ("A100", 40, 312))
TENSOR_FUSION_PODS = ((20, 4, 1), (40, 8, 1), (100, 16, 1), (30, 4, 2), (200, 32, 2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the figures and return 0; 2 where a flag or the trace is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name, most in (("runs", None), ("seed", None), ("copies", None), ("decisions", None), ("fill_pct", 1_000)):
        value = getattr(options, name)
        if value is not None and (value < 1 or (most and value > most)):
            parser.error(f"--{name.replace('_', '-')} is {value}; want {f'1..{most}' if most else '1 or more'}")
    if options.measure:
        try:
            print(json.dumps(measure(options.measure, options)))
        except (OSError, KeyError, ValueError, csv.Error) as error:
            print(f"packing_speed: {options.data} is not the openb trace as it was published: {error}", file=sys.stderr)
            return 2
        return 0
    given = list(arguments) if arguments is not None else sys.argv[1:]
    results: list[Result] = []
    for case in options.case or [*COPIES, TENSOR_FUSION]:
        runs = [_apart(case, given) for _ in range(options.runs)]
        if not all(runs):
            return 2
        results.append(_best([run for run in runs if run]))
        if options.output == "text":
            _say(results[-1])
    if options.output == "json":
        print(json.dumps(results, indent=2))
    return 0


def _apart(case: str, given: Sequence[str]) -> Result | None:
    """Measure one case in a process of its own; None where it said why it could not."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, *given, "--measure", case]
    done = subprocess.run(command, env={**os.environ, **one_thread}, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - itself
    if done.returncode:
        return None
    result: Result = json.loads(done.stdout)
    return result


def _best(runs: Sequence[Result]) -> Result:
    """Return the run that decided fastest, with the least memory and the quickest start of all, and what the others did."""
    best = max(runs, key=lambda run: run["decisions_per_s"])
    lowest = {key: min(run[key] for run in runs) for key in ("setup_s", "peak_rss_mib") if best[key] is not None}
    return {**best, **lowest, "all_decisions_per_s": [run["decisions_per_s"] for run in runs]}


def _say(result: Result) -> None:
    print(f"{result['case']}: {result['nodes']} nodes, {result['gpus']} GPUs, {result['decisions']} pods ({result['pods_of']})")
    print("  ", "  ".join(f"{key} {result[key]}" for key in SHOWN))
    print(f"   goal {result['goal_per_s']}/s, runs {result['all_decisions_per_s']}, calibration {result['calibration_s']} s")
    if result["case"] == TENSOR_FUSION:
        print(f"   {result['mean_ms']} ms per pod; TensorFusion claims {CLAIMED_MS} and took {MEASURED_MS} on two quiet cores")


def measure(case: str, options: argparse.Namespace) -> Result:
    """Place the pods of a case in this process and return the figures."""
    nodes, asked, arrivals = _work(case, options)
    demands = [_demand(number, request) for number, request in enumerate(arrivals)][: options.decisions]
    calibration_s = calibrate()
    began = time.perf_counter()
    packer = Packer(nodes, typical=typical_of(asked))
    setup_s = time.perf_counter() - began
    took_s, cpu_s, held = _place(packer, demands)
    peak_rss_mib = _peak_rss_mib()
    calibration_s = (calibration_s + calibrate()) / 2
    total = sum(len(node.gpus) for node in nodes) * CARD_MILLI
    allocated = sum(map(_milli, held))
    churn_per_s = _churn(packer, held, allocated - total * CHURN_PCT // 100, options)
    return {
        "case": case,
        "pods_of": _source(case, options),
        "nodes": len(nodes),
        "gpus": total // CARD_MILLI,
        "decisions": len(demands),
        "placed": len(held),
        "goal_per_s": GOALS[case],
        "decisions_per_s": round(len(demands) / took_s.sum()),
        "per_cpu_s": round(len(demands) / cpu_s),
        **{f"p{part}_ms": round(float(np.percentile(took_s, part)) * 1_000, 3) for part in (50, 99)},
        "mean_ms": round(float(took_s.mean()) * 1_000, 3),
        "max_ms": round(float(took_s.max()) * 1_000, 3),
        "churn_per_s": churn_per_s,
        "setup_s": round(setup_s, 3),
        "peak_rss_mib": peak_rss_mib,
        "allocated_pct": round(100 * allocated / total, 2),
        "calibration_s": round(calibration_s, 3),
    }


def _place(packer: Packer, demands: Sequence[Demand]) -> tuple[npt.NDArray[np.float64], float, list[Placed]]:
    """Return the seconds of each decision, the CPU seconds of all, and what was placed."""
    took_s = np.zeros(len(demands))
    held = []
    began_cpu_s = time.process_time()
    for number, demand in enumerate(demands):
        began = time.perf_counter()
        placed = packer.place(demand)
        took_s[number] = time.perf_counter() - began
        if placed:
            held.append(placed)
    return took_s, time.process_time() - began_cpu_s, held


def _churn(packer: Packer, held: list[Placed], above: int, options: argparse.Namespace) -> int | None:
    """Free what is allocated above the mark, then time pairs of a removal and a placement; None where nothing is held."""
    draw = random.Random(options.seed)  # noqa: S311 - no secret
    draw.shuffle(held)
    while held and above > 0:
        above -= _milli(held[-1])
        packer.remove(held.pop().demand.uid)
    if not held:
        return None
    pairs = min(2_000, len(held))
    again = [replace(held[at].demand, uid=f"again-{at}") for at in draw.sample(range(len(held)), pairs)]
    began = time.perf_counter()
    for leaving, coming in zip(held, again, strict=False):
        packer.remove(leaving.demand.uid)
        packer.place(coming)
    return round(pairs / (time.perf_counter() - began))


def _demand(number: int, request: Request) -> Demand:
    return Demand(id=f"bench/{number}", uid=str(number), pool=POOL, request=request)


def _milli(placed: Placed) -> int:
    return sum(part.compute_milli for part in placed.slices)


def _work(case: str, options: argparse.Namespace) -> Work:
    """Return the nodes, the requests from which the typical ones are found, and those that arrive."""
    if case == TENSOR_FUSION:
        return _tensor_fusion()
    nodes, requests = _openb(options) if options.data.is_dir() else _stand_in()
    copies = options.copies or COPIES[case]
    nodes = [replace(node, name=f"{copy}-{node.name}") for copy in range(copies) for node in nodes]
    # Of alike nodes the first is taken: in the order of the list these would be the large ones.
    random.Random(options.seed).shuffle(nodes)  # noqa: S311 - no secret
    wanted = sum(len(node.gpus) for node in nodes) * CARD_MILLI * options.fill_pct // 100
    return nodes, requests, _drawn(requests, wanted, options.seed)


def _drawn(requests: Sequence[Request], wanted: int, seed: int) -> Iterator[Request]:
    draw, asked = random.Random(seed + 1), 0  # noqa: S311 - no secret
    while asked < wanted:
        request = draw.choice(requests)
        asked += request.gpu_count * (request.compute_milli or 0)
        yield request


def _source(case: str, options: argparse.Namespace) -> str:
    if case == TENSOR_FUSION:
        return "its five shapes"
    return f"openb {options.variant}" if options.data.is_dir() else "a stand-in for openb"


def _openb(options: argparse.Namespace) -> tuple[list[Node], list[Request]]:
    nodes = [
        _node(row["sn"], row["model"], int(row["gpu"]), int(row["cpu_milli"]), int(row["memory_mib"]))
        for row in _rows(options.data / NODES)
    ]
    known: dict[Request, Request] = {}
    requests = [
        _request(int(row["cpu_milli"]), int(row["memory_mib"]), int(row["num_gpu"]), int(row["gpu_milli"]), row.get("gpu_spec"))
        for row in _rows(options.data / f"openb_pod_list_{options.variant}.csv")
    ]
    return nodes, [known.setdefault(request, request) for request in requests]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def _stand_in() -> tuple[list[Node], list[Request]]:
    nodes = [
        _node(f"{model}-{cards}-{cpus}-{number}", model, cards, cpus * 1_000, gib * 1_024)
        for model, cards, cpus, gib, count in STAND_IN_NODES
        for number in range(count)
    ]
    shapes = [
        (_request(cpu_milli, gib * 1_024, cards, milli, ""), count) for cpu_milli, gib, cards, milli, count in STAND_IN_PODS
    ]
    return nodes, [request for request, count in shapes for _ in range(count)]


def _node(name: str, model: str, cards: int, cpu_milli: int, memory_mib: int) -> Node:
    gpus = tuple(Gpu(id=str(at), model=model, vram_mib=16_384, mtflops=100_000) for at in range(cards))
    return Node(name=name, pool=POOL, gpus=gpus, cpu_milli=cpu_milli, memory_mib=memory_mib, pods_max=PODS_MAX)


def _request(cpu_milli: int, memory_mib: int, cards: int, milli: int, models: str | None) -> Request:
    return Request(
        cpu_milli=cpu_milli,
        memory_mib=memory_mib,
        gpu_count=cards,
        compute_milli=milli if cards else None,
        gpu_models=tuple(sorted(models.split("|"))) if models else (),
    )


def _tensor_fusion() -> Work:
    cards = [
        tuple(Gpu(id=str(at), model=model, vram_mib=gib * 1_024, mtflops=tflops * 1_000) for at in range(6))
        for model, gib, tflops in TENSOR_FUSION_CARDS
    ]
    nodes = [
        Node(name=str(at), pool=POOL, gpus=cards[at % len(cards)], cpu_milli=0, memory_mib=0, pods_max=PODS_MAX)
        for at in range(500)
    ]
    shapes = [
        Request(gpu_count=count, vram_mib=gib * 1_024, compute_mtflops=tflops * 1_000)
        for tflops, gib, count in TENSOR_FUSION_PODS
    ]
    return nodes, shapes, (shapes[number % len(shapes)] for number in range(10_000))


def calibrate() -> float:
    """Return the seconds of a loop that is always the same: plain Python, and numpy on small arrays."""
    began = time.perf_counter()
    total, values = 0, np.arange(1_000.0)
    for number in range(400_000):
        total += number * number
        if number % 4 == 0:
            total += int((values * number).argmax())
    return time.perf_counter() - began


def _peak_rss_mib() -> int | None:
    """Return the most memory that this process held; None where the system does not say it as Linux does."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) // 1_024 for line in lines if line.startswith("VmHWM")), None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure how fast the packer decides and how much memory it takes.")
    parser.add_argument("--case", action="append", choices=list(GOALS), help="what to measure (default: all, one after another)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, of which the best counts (default: %(default)s)")
    parser.add_argument("--fill-pct", type=int, default=100, help="pods come until so much was asked (default: %(default)s)")
    parser.add_argument("--variant", default="default", help="pod list of the openb trace (default: %(default)s)")
    parser.add_argument("--copies", type=int, help="how many times openb's nodes, instead of what the case says")
    parser.add_argument("--decisions", type=int, help="at most so many pods")
    parser.add_argument("--seed", type=int, default=42, help="what pods come in which order (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the trace's CSV files (default: %(default)s)")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    parser.add_argument("--measure", choices=list(GOALS), help="measure one case in this process and print one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
