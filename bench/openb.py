"""How much of all GPUs a policy allocates on the openb trace.

    python bench/openb.py --nodes NODES.csv --pods PODS.csv --arrivals ARRIVALS.txt.gz --seed 42 [--policy NAME] [-o json]

Data: Alibaba's openb trace with lists of pods of other mixes, and arrivals by the protocol of Weng et al., "Beware of
Fragmentation" (USENIX ATC 2023). `--placements` writes where every pod went, for `bench/openb_check.py`. Decisions per second are
those of the placing loop alone, on one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it is run by its path, too

from bench.openb_baselines import BASELINES, Place, Policy, policy_of
from bench.openb_library import LIBRARY, PARTS, library_policy
from bench.openb_trace import CARD_MILLI, Trace, allocation_pct, read_trace
from tfscale.errors import BadInputError, Problem

__all__ = ["Outcome", "Result", "main", "run"]

POLICIES = (LIBRARY, *BASELINES, *(f"{LIBRARY}:{part}" for part in PARTS))
_END_PCT = 130


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one run. Allocation is in percent of all GPUs, when the pods that came ask for 100% and 130% of them."""

    variant: str
    policy: str
    seed: int
    arrived: int
    placed: int
    allocation_pct_at_100: float | None
    allocation_pct_at_130: float | None
    unallocated_gpus_at_100: float | None
    decisions_per_s: float
    peak_rss_mib: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures, and where each arrival went."""

    result: Result
    places: list[Place | None]


def run(trace: Trace, policy: str, seed: int) -> Outcome:
    """Let every pod of the trace arrive. Raises ``BadInputError`` for a policy that is not there."""
    place = _policy(trace, policy, seed)
    started = time.perf_counter()
    places = [place(index) for index in trace.arrivals]
    took_s = time.perf_counter() - started
    flags = [found is not None for found in places]
    at_100, at_end = (allocation_pct(trace, flags, pct) for pct in (100, _END_PCT))
    result = Result(
        variant=trace.variant,
        policy=policy,
        seed=seed,
        arrived=len(places),
        placed=sum(flags),
        allocation_pct_at_100=_rounded(at_100, 3),
        allocation_pct_at_130=_rounded(at_end, 3),
        unallocated_gpus_at_100=_rounded(None if at_100 is None else (100 - at_100) / 100 * trace.capacity_milli / CARD_MILLI, 1),
        decisions_per_s=round(len(places) / max(took_s, 1e-9), 1),
        peak_rss_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    )
    return Outcome(result, places)


def _policy(trace: Trace, name: str, seed: int) -> Policy:
    if name not in POLICIES:
        raise BadInputError(Problem(where="openb", field="--policy", value=name, want=f"one of {', '.join(POLICIES)}"))
    library, _, part = name.partition(":")
    return library_policy(trace, part) if library == LIBRARY else policy_of(name, trace, seed)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _write(path: Path, trace: Trace, places: Sequence[Place | None]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as out:
            lines = csv.writer(out, lineterminator="\n")
            lines.writerow(["arrival", "row", "node", "gpus"])
            for arrival, (row, found) in enumerate(zip(trace.arrivals, places, strict=True)):
                node, gpus = (trace.servers[found[0]].name, "|".join(map(str, found[1]))) if found else ("", "")
                lines.writerow([arrival, row, node, gpus])
    except OSError as error:
        problem = Problem(where="openb", field="--placements", value=str(path), want=f"a file to write ({error.strerror})")
        raise BadInputError(problem) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure how much of all GPUs a policy allocates on the openb trace.")
    parser.add_argument("--nodes", type=Path, required=True, help="CSV file of nodes")
    parser.add_argument("--pods", type=Path, required=True, help="CSV file of pods")
    parser.add_argument(
        "--arrivals", type=Path, required=True, help="order of arrival and of nodes, one line for each seed from 42"
    )
    parser.add_argument("--seed", type=int, required=True, help="which line of the arrivals: 42 is the first")
    parser.add_argument("--policy", default=LIBRARY, help=f"{', '.join(POLICIES)} (default: %(default)s)")
    parser.add_argument("--placements", type=Path, help="CSV file to write: where every pod went")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the figures, and return 0; 2 where an argument or a file is wrong."""
    options = _parser().parse_args(arguments)
    try:
        trace = read_trace(options.nodes, options.pods, options.arrivals, options.seed)
        outcome = run(trace, options.policy, options.seed)
        if options.placements:
            _write(options.placements, trace, outcome.places)
    except BadInputError as error:
        print(f"openb: {error}", file=sys.stderr)
        return 2
    figures = asdict(outcome.result)
    text = json.dumps(figures) if options.output == "json" else "\n".join(f"{name:24} {value}" for name, value in figures.items())
    return _say(text)


def _say(text: str) -> int:
    """Print, also to somebody who stops listening."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
