"""How well slices of VRAM and compute are packed: one policy, one cluster, one seed.

    python bench/slices2d.py [--cluster aws] [--seed 1] [--policy tfscale] [--placements OUT.csv] [-o json]

The openb trace shares a GPU in one dimension. Here pods ask for VRAM and compute, and there are cards of several models; the
workload is synthetic, see ``slices2d_work`` and ``slices2d_cases`` for what is assumed. Demands arrive one by one and stay; what
fits somewhere must be placed. Arrivals end when they ask 130% of the cluster in the dimension that is asked more.

The figure is the value placed, in percent of what a linear program says can be placed at most of what has arrived, by
somebody who knows it all (``slices2d_bound``). A pod is worth the larger of its parts of all VRAM and of all compute
of the cluster, on the accepted card where that is least: its dominant share, which does not depend on where it is put.

Every run is checked by a second, independent account: exit 1 where it finds a fault. Bad input: one line, exit 2.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.slices2d_cases import case_of
from bench.slices2d_check import faults
from bench.slices2d_policies import POLICIES
from bench.slices2d_runs import Figures, Run, bounds_of, run
from bench.slices2d_work import Case
from tfscale.errors import BadInputError, Problem

WHERE = "slices2d"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the figures and return the exit code: 0, 1 where the check finds a fault, 2 for bad input."""
    options = _parser().parse_args(arguments)
    wrong = _wrong(options)
    if wrong is not None:
        return _say(str(wrong), 2)
    try:
        case = case_of(options.cluster, options.seed)
        done = run(case, options.policy, bounds_of(case))
        if options.placements is not None:
            _write(options.placements, case, done)
    except BadInputError as error:
        return _say(str(error), 2)
    except OSError as error:
        return _say(f"{options.placements} cannot be written: {error.strerror}", 2)
    found = faults(case, done.places)
    try:
        _print(case, options.policy, done, options.output)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has enough; the interpreter must find nothing to flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for fault in found:
        _say(fault, 1)
    return 1 if found else 0


def _print(case: Case, policy: str, done: Run, form: str) -> None:
    if form == "json":
        head = {"cluster": case.cluster, "seed": case.seed, "policy": policy, "nodes": len(case.nodes)}
        figures = {"at_100": asdict(done.at_100), "at_130": asdict(done.at_130)}
        print(json.dumps(head | figures | {"decisions_per_s": round(done.decisions_per_s)}, indent=2))
        return
    print(f"{case.cluster}, seed {case.seed}, {policy}: {len(case.nodes)} nodes, {round(done.decisions_per_s)} decisions/s")
    for name, one in (("100%", done.at_100), ("130%", done.at_130)):
        print(f"{name} arrived: {_line(one)}")


def _line(one: Figures) -> str:
    return (
        f"{one.placed} of {one.arrived} placed, {one.of_bound_pct:.2f}% of the bound"
        f" ({one.value_pct:.2f} of {one.bound_pct:.2f}); {one.vram_pct:.2f}% of VRAM, {one.compute_pct:.2f}% of compute"
    )


def _write(path: Path, case: Case, done: Run) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["arrival", "kind", "node", "gpus"])
        for at, (kind, place) in enumerate(zip(case.arrivals, done.places, strict=True)):
            where = ["", ""] if place is None else [case.nodes[place.node].name, "|".join(map(str, place.cards))]
            rows.writerow([at, case.kinds[kind].name, *where])


def _wrong(options: argparse.Namespace) -> Problem | None:
    if options.policy not in POLICIES:
        return Problem(where=WHERE, field="--policy", value=options.policy, want="one of " + ", ".join(POLICIES))
    if options.seed < 0:
        return Problem(where=WHERE, field="--seed", value=str(options.seed), want="0 or more")
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Pack slices of VRAM and compute with one policy.")
    parser.add_argument("--cluster", default="aws", help="aws, or random-N (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals and the order of nodes (default: %(default)s)")
    parser.add_argument("--policy", default="tfscale", help=f"{', '.join(POLICIES)} (default: %(default)s)")
    parser.add_argument("--placements", type=Path, metavar="OUT.csv", help="write where each arrival went")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    return parser


def _say(line: str, code: int) -> int:
    print(f"slices2d: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
