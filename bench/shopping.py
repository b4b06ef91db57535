"""What the nodes cost that host all 8,152 pods of the openb trace, beside a bound and a plain way to buy.

    python bench/shopping.py [--placements FILE.csv] [-o json]

Two problems: EC2's g4dn, g5 and g6 types for the least USD per hour (a GPU counts as a GPU, whatever its model), and openb's
own 15 kinds of server with the fewest GPUs; of each kind as many as are wanted. The bounds are linear programs over sums per
kind of node with cuts for GPUs (the second may be up to 2.9% loose): no purchase can cost less. Beside them first fit
decreasing runs on the same input: the largest pod first, onto the first node that has room, or onto a new one of the kind with
the least price for its part; at the end each node becomes the cheapest kind that holds its load.

``incremental_seconds`` is the longest of five rounds of 500 pods, drawn at random with a fixed seed, with both kinds of offers.
`--placements` writes where every pod went, for ``bench/shopping_check.py``.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it is run by its path, too

from bench.openb_library import request_of
from bench.openb_trace import Pod
from bench.shopping_data import Kind, ec2_kinds, openb_kinds, pods
from bench.shopping_first_fit import first_fit_micro
from tfscale.errors import BadInputError, Problem
from tfscale.model import Demand, Offer
from tfscale.slicing import Shopping, shop

__all__ = ["GPU_BOUND", "USD_BOUND", "main", "measure"]

USD_BOUND = 6538.57
GPU_BOUND = 6294.5
_ROUND = 500
_ROUNDS = 5
_PODS_MAX = 1_001


def measure(wanted: Sequence[Pod]) -> tuple[dict[str, float], dict[str, Shopping]]:
    """Buy for all pods twice; return the figures and what was bought."""
    demands = [_demand(number, pod) for number, pod in enumerate(wanted)]
    kinds = {"usd": ec2_kinds(), "gpus": openb_kinds()}
    started = time.perf_counter()
    bought = {name: shop(demands, _offers(some), pool="openb") for name, some in kinds.items()}
    seconds = time.perf_counter() - started
    costs = {name: _micro(shopping) / 1_000_000 for name, shopping in bought.items()}
    plain = {name: first_fit_micro(wanted, some) / 1_000_000 for name, some in kinds.items()}
    figures = {
        "usd_per_hour": round(costs["usd"], 3),
        "usd_bound": USD_BOUND,
        "usd_ratio_to_bound": round(costs["usd"] / USD_BOUND, 4),
        "usd_ratio_first_fit": round(plain["usd"] / USD_BOUND, 4),
        "gpus": costs["gpus"],
        "gpu_bound": GPU_BOUND,
        "gpu_ratio_to_bound": round(costs["gpus"] / GPU_BOUND, 4),
        "gpu_ratio_first_fit": round(plain["gpus"] / GPU_BOUND, 4),
        "nodes": len(bought["usd"].purchases),
        "nodes_fewest_gpus": len(bought["gpus"].purchases),
        "pods_left": sum(len(shopping.left) for shopping in bought.values()),
        "seconds": round(seconds, 2),
        "incremental_seconds": round(max(_rounds_s(demands, [_offers(some) for some in kinds.values()])), 2),
    }
    return figures, bought


def _demand(number: int, pod: Pod) -> Demand:
    return Demand(id=f"openb/{number}", uid=f"{number:05}", pool="openb", request=request_of(pod))


def _offers(kinds: Sequence[Kind]) -> list[Offer]:
    return [
        Offer(
            instance_type=kind.name,
            zone="any",
            capacity_type="on-demand",
            gpu_model="any",
            gpu_count=kind.gpus,
            vram_mib=16_384,
            mtflops=100_000,
            cpu_milli=kind.cpu_milli,
            memory_mib=kind.memory_mib,
            pods_max=_PODS_MAX,
            price_micro_usd=kind.price_micro,
        )
        for kind in kinds
    ]


def _micro(shopping: Shopping) -> int:
    return sum(purchase.offer.price_micro_usd or 0 for purchase in shopping.purchases)


def _rounds_s(demands: Sequence[Demand], offers: Sequence[Sequence[Offer]]) -> list[float]:
    drawn = random.Random(42)  # noqa: S311 - a draw that can be repeated
    found = []
    for number in range(_ROUNDS):
        some = drawn.sample(demands, min(_ROUND, len(demands)))
        started = time.perf_counter()
        shop(some, offers[number % len(offers)], pool="openb")
        found.append(time.perf_counter() - started)
    return found


def _write(path: Path, bought: dict[str, Shopping]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as out:
            lines = csv.writer(out, lineterminator="\n")
            lines.writerow(["run", "node", "kind", "pod", "gpus"])
            for name, shopping in bought.items():
                for number, purchase in enumerate(shopping.purchases):
                    for placed in purchase.placed:
                        gpus = "|".join(part.gpu_id for part in placed.slices)
                        lines.writerow([name, number, purchase.offer.instance_type, int(placed.demand.uid), gpus])
    except OSError as error:
        problem = Problem(where="shopping", field="--placements", value=str(path), want=f"a file to write ({error.strerror})")
        raise BadInputError(problem) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the figures, and return 0; 2 where an argument or a file is wrong."""
    parser = argparse.ArgumentParser(description="Buy the cheapest nodes for all pods of the openb trace.")
    parser.add_argument("--placements", type=Path, help="CSV file to write: where every pod went")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    options = parser.parse_args(arguments)
    try:
        figures, bought = measure(pods())
        if options.placements:
            _write(options.placements, bought)
    except BadInputError as error:
        print(f"shopping: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures) if options.output == "json" else "\n".join(f"{name:22} {value}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
