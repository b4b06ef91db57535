"""An independent check of placements on the openb trace: capacity, order, and that nobody was refused who fits.

    python bench/openb_check.py --nodes NODES.csv --pods PODS.csv --arrivals ARRIVALS.txt.gz --seed 42 PLACEMENTS.csv

It replays the placements one by one on books of its own and shares nothing with the policies but how the files are read. Exit 1
where something is wrong; the first faults are printed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it is run by its path, too

from bench.openb_trace import CARD_MILLI, Pod, Server, Trace, read_trace
from tfscale.errors import BadInputError

__all__ = ["faults", "main"]

_PODS_MAX = 1001
_MOST_PRINTED = 20


@dataclass(slots=True)
class _Book:
    """What is left on one server."""

    server: Server
    cpu_milli: int
    memory_mib: int
    pods: int
    free_milli: list[int]

    def can_take(self, pod: Pod) -> bool:
        """Return whether the pod fits, on any of the GPUs."""
        if pod.cpu_milli > self.cpu_milli or pod.memory_mib > self.memory_mib or not self.pods:
            return False
        if pod.models and self.server.model not in pod.models:
            return False
        return sum(free >= pod.gpu_milli for free in self.free_milli) >= pod.gpus

    def refusal(self, pod: Pod, gpus: Sequence[int]) -> str:
        """Return why the pod cannot be on these GPUs; empty where it can."""
        if len(gpus) != pod.gpus or len(set(gpus)) != len(gpus):
            return f"has GPUs {list(gpus)}; want {pod.gpus} different ones"
        if not all(0 <= gpu < len(self.free_milli) for gpu in gpus):
            return f"has GPUs {list(gpus)}; the node has {len(self.free_milli)}"
        small = [gpu for gpu in gpus if self.free_milli[gpu] < pod.gpu_milli]
        if small:
            return f"asks {pod.gpu_milli} of GPU {small[0]}, which has {self.free_milli[small[0]]} left"
        return "" if self.can_take(pod) else "does not fit by CPU, memory, number of pods or model"

    def take(self, pod: Pod, gpus: Sequence[int]) -> None:
        """Book the pod."""
        self.cpu_milli -= pod.cpu_milli
        self.memory_mib -= pod.memory_mib
        self.pods -= 1
        for gpu in gpus:
            self.free_milli[gpu] -= pod.gpu_milli


def faults(trace: Trace, rows: Sequence[dict[str, str]]) -> Iterator[str]:
    """Give everything that is wrong with placements, in the order of arrival; after a wrong place the pod counts as dropped."""
    if len(rows) != len(trace.arrivals):
        yield f"{len(rows)} placements; want {len(trace.arrivals)}"
    books = {
        server.name: _Book(server, server.cpu_milli, server.memory_mib, _PODS_MAX, [CARD_MILLI] * server.gpus)
        for server in trace.servers
    }
    for arrival, (index, row) in enumerate(zip(trace.arrivals, rows, strict=False)):
        pod, where = trace.pods[index], f"arrival {arrival}"
        if (row["arrival"], row["row"]) != (str(arrival), str(index)):
            yield f"{where}: is arrival {row['arrival']} of row {row['row']}; want row {index}"
        elif not row["node"]:
            fitting = next((name for name, book in books.items() if book.can_take(pod)), "")
            if fitting:
                yield f"{where}: was refused and fits on {fitting}"
        elif row["node"] not in books:
            yield f"{where}: is on {row['node']}, which is no node"
        else:
            yield from _booked(where, books[row["node"]], pod, row["gpus"])


def _booked(where: str, book: _Book, pod: Pod, text: str) -> Iterator[str]:
    gpus = text.split("|") if text else []
    if not all(gpu.isdigit() for gpu in gpus):
        yield f"{where}: has GPUs {text}; want numbers joined by |"
        return
    numbers = [int(gpu) for gpu in gpus]
    refused = book.refusal(pod, numbers)
    if refused:
        yield f"{where}: on {book.server.name} {refused}"
    else:
        book.take(pod, numbers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check one file and return 0, 1 where placements are wrong, 2 where an argument or a file is."""
    parser = argparse.ArgumentParser(description="Check placements on the openb trace.")
    parser.add_argument("--nodes", type=Path, required=True, help="CSV file of nodes")
    parser.add_argument("--pods", type=Path, required=True, help="CSV file of pods")
    parser.add_argument("--arrivals", type=Path, required=True, help="order of arrival and of nodes")
    parser.add_argument("--seed", type=int, required=True, help="which line of the arrivals: 42 is the first")
    parser.add_argument("placements", type=Path, help="CSV file with arrival, row, node, gpus")
    options = parser.parse_args(arguments)
    try:
        trace = read_trace(options.nodes, options.pods, options.arrivals, options.seed)
        with options.placements.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (BadInputError, OSError, UnicodeDecodeError) as error:
        print(f"openb_check: {error}", file=sys.stderr)
        return 2
    missing = [name for name in ("arrival", "row", "node", "gpus") if not rows or rows[0].get(name) is None]
    if missing:
        print(f"openb_check: {options.placements.name} has no column {', '.join(missing)}", file=sys.stderr)
        return 2
    found = list(faults(trace, rows))
    print("\n".join(found[:_MOST_PRINTED]) or f"{len(rows)} placements, no fault")
    if len(found) > _MOST_PRINTED:
        print(f"and {len(found) - _MOST_PRINTED} more")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
