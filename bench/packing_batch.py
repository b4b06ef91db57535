"""What is gained on openb where pods are packed in batches, beside placing them one by one as they come.

    python bench/packing_batch.py [--batch 500] [--variants default,...] [--seeds 47,...] [-o json]

One by one: ``Packer.place`` in order of arrival. In batches: so many arrivals wait, then ``pack`` places them together, on the
nodes as the batches before left them; ``by age`` keeps the order of arrival, ``dense`` is ``by_age=False``. All know the list of
pods as the typical workload. Figures are GPU allocation in percent of all GPUs after the batch with which 100% have arrived: in
the midst of a batch there would be something to choose from for one of the ways alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it is run by its path, too

from bench.openb_library import library_policy, node_of, request_of
from bench.openb_trace import Trace
from bench.packing_runs import DATA, VARIANTS, trace_of
from tfscale.model import Demand, Node
from tfscale.slicing import Placed, pack, typical_of

__all__ = ["in_batches", "main"]

WAYS = ("by_age", "dense")
Row = dict[str, Any]


def in_batches(trace: Trace, size: int, *, by_age: bool) -> list[bool]:
    """Return for each arrival whether it was placed."""
    requests = [request_of(pod) for pod in trace.pods]
    typical = typical_of(requests)
    nodes = {server.name: node_of(server) for server in trace.servers}
    # Of equal nodes the first by name is taken; the trace has its own order.
    order = {name: f"{rank:05}" for rank, name in enumerate(nodes)}
    known = [replace(node, name=order[name]) for name, node in nodes.items()]
    flags: list[bool] = []
    for start in range(0, len(trace.arrivals), size):
        demands = [
            Demand(id=f"openb/{start + at:06}", uid=str(start + at), pool="openb", request=requests[index], created_s=start + at)
            for at, index in enumerate(trace.arrivals[start : start + size])
        ]
        placed = {item.demand.uid: item for item in pack(demands, known, by_age=by_age, typical=typical).placed}
        flags += [demand.uid in placed for demand in demands]
        known = _bound(known, placed.values())
    return flags


def _bound(nodes: Sequence[Node], placed: Iterable[Placed]) -> list[Node]:
    new: dict[str, list[Placed]] = {}
    for item in placed:
        new.setdefault(item.node, []).append(item)
    return [replace(node, pods=(*node.pods, *(item.pod() for item in new.get(node.name, ())))) for node in nodes]


def measure(variant: str, seed: int, size: int) -> Row:
    """Return one row: one by one, and in batches."""
    trace = _cut(trace_of(variant, seed), size)
    alone = library_policy(trace)
    row: Row = {
        "variant": variant,
        "seed": seed,
        "one_by_one": _allocated_pct(trace, [alone(at) is not None for at in trace.arrivals]),
    }
    for way in WAYS:
        row[way] = _allocated_pct(trace, in_batches(trace, size, by_age=way == "by_age"))
    return row


def _cut(trace: Trace, size: int) -> Trace:
    """Return the trace up to the batch with which 100% have arrived."""
    arrived = 0
    for number, index in enumerate(trace.arrivals):
        arrived += trace.pods[index].asked_milli
        if arrived >= trace.capacity_milli and (number + 1) % size == 0:
            return replace(trace, arrivals=trace.arrivals[: number + 1])
    return trace


def _allocated_pct(trace: Trace, placed: Sequence[bool]) -> float:
    held = sum(trace.pods[index].asked_milli for index, there in zip(trace.arrivals, placed, strict=True) if there)
    return 100 * held / trace.capacity_milli


def means(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each variant and one of all, with the gain of dense batches on one by one."""
    names = [*dict.fromkeys(row["variant"] for row in rows), ""]
    found = []
    for name in names:
        mine = [row for row in rows if name in ("", row["variant"])]
        mean = {way: fmean(row[way] for row in mine) for way in ("one_by_one", *WAYS)}
        gains = [row["dense"] - row["one_by_one"] for row in mine]
        found.append({"variant": name or "mean", **mean, "gain": fmean(gains), "least_gain": min(gains)})
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure what batches gain on the openb trace.")
    parser.add_argument("--batch", type=int, default=500, help="pods that wait before they are packed (default: %(default)s)")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="(default: %(default)s)")
    parser.add_argument("--seeds", default="47,48,49", help="(default: %(default)s)")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the figures and return 0; 2 where an argument is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    variants, seeds = options.variants.split(","), options.seeds.split(",")
    if not set(variants) <= set(VARIANTS):
        parser.error(f"--variants is {options.variants}; want some of {','.join(VARIANTS)}")
    if options.batch < 1 or not all(seed.isdigit() for seed in seeds):
        parser.error(f"--batch is {options.batch} and --seeds {options.seeds}; want 1 or more, and 42 to 51")
    if not DATA.is_dir():
        print("nothing is measured: the public data is not beside the repository")
        return 0
    jobs = [(variant, int(seed), options.batch) for variant in variants for seed in seeds]
    with ProcessPoolExecutor(2) as pool:
        rows = means(list(pool.map(measure, *zip(*jobs, strict=True))))
    print(json.dumps(rows) if options.output == "json" else "\n".join(map(_line, rows)))
    return 0


def _line(row: Row) -> str:
    ways = "  ".join(f"{way} {row[way]:.2f}" for way in ("one_by_one", *WAYS))
    return f"{row['variant']:12} {ways}  gain {row['gain']:+.2f}  least {row['least_gain']:+.2f}"


if __name__ == "__main__":
    sys.exit(main())
