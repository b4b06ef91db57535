"""An independent check of what ``bench/shopping.py`` bought: every pod is hosted once, and no node holds more than it has.

    python bench/shopping_check.py PLACEMENTS.csv [-o json]

It reads the trace's and the price list's own files, and shares no code with the library or with the bench. It prints what the
nodes cost by the lists. Exit 1 where something is wrong; the first faults are printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["faults", "main"]

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_RUNS = ("usd", "gpus")
_MOST_PRINTED = 20
_CARD = 1_000

Row = dict[str, str]
Kind = tuple[int, int, int, float]
"""Millicores, MiB, GPUs, and what it costs."""
_NONE: Kind = (0, 0, 0, 0.0)


def _rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _kinds(run: str) -> dict[str, Kind]:
    if run == "usd":
        rows = _rows(_DATA / "prices" / "aws_gpu_on_demand_2026-07-20.csv")
        return {
            row["instance_type"]: (int(row["vcpu"]) * 1_000, int(row["memory_mib"]), int(row["gpus"]), float(row["usd_per_hour"]))
            for row in rows
        }
    rows = _rows(_DATA / "openb" / "openb_node_list_gpu_node.csv")
    # Of servers with one name the least is taken, should there be two.
    found: dict[str, Kind] = {}
    for row in rows:
        name = f"{row['model']}-{row['gpu']}-{int(row['cpu_milli']) // 1_000}"
        kind = (int(row["cpu_milli"]), int(row["memory_mib"]), int(row["gpu"]), float(row["gpu"]))
        found[name] = min(found.get(name, kind), kind)
    return found


def faults(run: str, rows: Sequence[Row]) -> Iterator[str]:
    """Yield what is wrong with one run."""
    pods = _rows(_DATA / "openb" / "openb_pod_list_default.csv")
    kinds = _kinds(run)
    hosted = Counter(int(row["pod"]) for row in rows)
    for number in range(len(pods)):
        if hosted[number] != 1:
            yield f"{run}: pod {number} is hosted {hosted[number]} times; want once"
    nodes: dict[str, list[Row]] = {}
    for row in rows:
        nodes.setdefault(row["node"], []).append(row)
    for name, members in nodes.items():
        if len({row["kind"] for row in members}) != 1 or members[0]["kind"] not in kinds:
            yield f"{run}: node {name} is of kinds {sorted({row['kind'] for row in members})}; want one that is listed"
        else:
            yield from _over(f"{run}: node {name}", kinds[members[0]["kind"]], [(row, pods[int(row["pod"])]) for row in members])


def _over(where: str, kind: Kind, members: Sequence[tuple[Row, Row]]) -> Iterator[str]:
    cards = [0] * kind[2]
    for row, pod in members:
        gpus = [int(part) for part in row["gpus"].split("|") if part]
        if len(gpus) != int(pod["num_gpu"]) or len(set(gpus)) != len(gpus) or any(gpu >= kind[2] for gpu in gpus):
            yield f"{where}: pod {row['pod']} is on GPUs {gpus}; want {pod['num_gpu']} different ones of {kind[2]}"
            continue
        for gpu in gpus:
            cards[gpu] += int(pod["gpu_milli"])
    cpu, memory = (sum(int(pod[column]) for _, pod in members) for column in ("cpu_milli", "memory_mib"))
    if cpu > kind[0] or memory > kind[1] or any(card > _CARD for card in cards):
        yield f"{where}: its pods ask {cpu}m CPU, {memory} MiB and {cards} of its GPUs; it has {kind[:3]}"


def _cost(kinds: Mapping[str, Kind], nodes: Iterable[tuple[str, str]]) -> float:
    return round(sum(kinds.get(kind, _NONE)[3] for _, kind in nodes), 3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check both runs and print what they cost; return 0, or 1 where something is wrong."""
    parser = argparse.ArgumentParser(description="Check what was bought, on books of its own.")
    parser.add_argument("placements", type=Path)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    options = parser.parse_args(arguments)
    try:
        rows = _rows(options.placements)
        found = [fault for run in _RUNS for fault in faults(run, [row for row in rows if row["run"] == run])]
        bought = {run: {(row["node"], row["kind"]) for row in rows if row["run"] == run} for run in _RUNS}
        costs = {run: _cost(_kinds(run), nodes) for run, nodes in bought.items()}
    except (OSError, KeyError, ValueError) as error:
        print(f"shopping_check: {options.placements}: {error}; want a file that bench/shopping.py wrote", file=sys.stderr)
        return 2
    for fault in found[:_MOST_PRINTED]:
        print(fault, file=sys.stderr)
    figures = {"faults": len(found), **costs}
    print(json.dumps(figures) if options.output == "json" else "\n".join(f"{name:8} {value}" for name, value in figures.items()))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
