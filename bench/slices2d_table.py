"""Slices in two dimensions: all policies on all clusters and seeds, as a table.

    python bench/slices2d_table.py [--seeds 10] [--random 50] [--random-seeds 3] [--write FILE.md] [-o json]

The cluster ``aws`` with seeds 1 to 10, and ``random-1`` to ``random-50`` with seeds 1 to 3. Every run is checked as in
``slices2d``, and no policy may place more than the bound: exit 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.slices2d_cases import case_of, dimensions_of
from bench.slices2d_check import faults
from bench.slices2d_policies import BASELINES
from bench.slices2d_runs import bounds_of, run

OURS, PEER = "tfscale", "fgd"
POLICIES = (OURS, *BASELINES)
RESULT = Path(__file__).parent / "results" / "slices2d.md"
_SLACK_PCT = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One cluster: percent of the bound by policy, each the mean over the seeds."""

    cluster: str
    dimensions: str
    seeds: int
    nodes: int
    cards: int
    bound_pct: float
    """The value that can be placed at most when 100% have arrived, percent of the cluster."""
    at_100: Mapping[str, float]
    at_130: Mapping[str, float]
    worst: float
    """Ours less FGD at 100%, on the seed where that is least."""
    worst_130: float
    decisions_per_s: Mapping[str, float]

    def gain(self, peer: str, *, at_130: bool = False) -> float:
        """Return ours less a peer, in points."""
        means = self.at_130 if at_130 else self.at_100
        return means[OURS] - means[peer]

    def best(self, *, at_130: bool = False) -> str:
        """Return the best baseline of this cluster, known only afterwards."""
        means = self.at_130 if at_130 else self.at_100
        return max(BASELINES, key=lambda policy: means[policy])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print or write the table, and return 0, 1 where a run has a fault, 2 for bad input."""
    options = _parser().parse_args(arguments)
    for flag, number in (("seeds", options.seeds), ("random", options.random), ("random-seeds", options.random_seeds)):
        if number < (flag != "random"):
            return _say(f"--{flag} is {number}; want {int(flag != 'random')} or more", 2)
    plan = [("aws", options.seeds), *((f"random-{number}", options.random_seeds) for number in range(1, options.random + 1))]
    rows, found = [], list[str]()
    for cluster, seeds in plan:
        row, wrong = measure(cluster, seeds)
        rows.append(row)
        found += wrong
        print(f"{cluster}: {row.gain(PEER):+.2f} at 100%, {row.gain(PEER, at_130=True):+.2f} at 130%", file=sys.stderr)
    text = "\n".join(table(rows)) + "\n"
    if options.write is not None:
        try:
            options.write.parent.mkdir(parents=True, exist_ok=True)
            options.write.write_text(text, encoding="utf-8")
        except OSError as error:
            return _say(f"{options.write} cannot be written: {error.strerror}", 2)
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.output == "json" else text, end="")
    for fault in found:
        _say(fault, 1)
    return 1 if found else 0


def measure(cluster: str, seeds: int) -> tuple[Row, list[str]]:
    """Return the row of a cluster over the seeds from 1, and what is wrong with its runs."""
    found: list[str] = []
    at_100: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    at_130: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    speed: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    most: list[float] = []
    for seed in range(1, seeds + 1):
        case = case_of(cluster, seed)
        bounds = bounds_of(case)
        most.append(100 * bounds[0])
        for policy in POLICIES:
            done = run(case, policy, bounds)
            at_100[policy].append(done.at_100.of_bound_pct)
            at_130[policy].append(done.at_130.of_bound_pct)
            speed[policy].append(done.decisions_per_s)
            wrong = faults(case, done.places)
            if max(done.at_100.of_bound_pct, done.at_130.of_bound_pct) > 100 + _SLACK_PCT:
                wrong.append("more is placed than the bound allows")
            found += [f"{cluster}, seed {seed}, {policy}: {fault}" for fault in wrong]
    row = Row(
        cluster=cluster,
        dimensions=dimensions_of(case),
        seeds=seeds,
        nodes=len(case.nodes),
        cards=sum(len(node.gpus) for node in case.nodes),
        bound_pct=fmean(most),
        at_100={policy: fmean(values) for policy, values in at_100.items()},
        at_130={policy: fmean(values) for policy, values in at_130.items()},
        worst=min(ours - peer for ours, peer in zip(at_100[OURS], at_100[PEER], strict=True)),
        worst_130=min(ours - peer for ours, peer in zip(at_130[OURS], at_130[PEER], strict=True)),
        decisions_per_s={policy: fmean(values) for policy, values in speed.items()},
    )
    return row, found


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the report, in Markdown."""
    yield "# Slices in two dimensions"
    yield ""
    yield "Made by `make bench-slices2d`. Value placed, in percent of the bound (what could be placed at most of it);"
    yield "means over the seeds. `bound` is that value in percent of the cluster. What is measured, and on what:"
    yield "`bench/slices2d.py`, `bench/slices2d_work.py`, `bench/slices2d_cases.py`; the baselines: `bench/slices2d_policies.py`."
    for at_130 in (False, True):
        yield ""
        yield f"## When {130 if at_130 else 100}% of the cluster are asked"
        yield ""
        yield from _means(rows, at_130=at_130)
        yield ""
        yield from _family([row for row in rows if row.cluster != "aws"], at_130=at_130)


def _means(rows: Sequence[Row], *, at_130: bool) -> Iterator[str]:
    names = ["cluster", "slices of", "seeds", "nodes", "cards", *([] if at_130 else ["bound"]), *POLICIES]
    names += ["ours - fgd", "worst seed", "ours - best"]
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)
    for row in rows:
        means = row.at_130 if at_130 else row.at_100
        cells = [row.cluster, row.dimensions, str(row.seeds), str(row.nodes), str(row.cards)]
        cells += [] if at_130 else [f"{row.bound_pct:.1f}"]
        cells += [f"{means[policy]:.2f}" for policy in POLICIES]
        cells += [f"{row.gain(PEER, at_130=at_130):+.2f}", f"{row.worst_130 if at_130 else row.worst:+.2f}"]
        best = row.best(at_130=at_130)
        yield "| " + " | ".join([*cells, f"{row.gain(best, at_130=at_130):+.2f} ({best})"]) + " |"


def _family(rows: Sequence[Row], *, at_130: bool) -> Iterator[str]:
    """Yield how ours fares on the random clusters against each baseline."""
    if not rows:
        return
    yield "Random clusters:"
    yield ""
    for peer in (*BASELINES, ""):
        gains = [row.gain(peer or row.best(at_130=at_130), at_130=at_130) for row in rows]
        name = f"`{peer}`" if peer else "the best baseline of each cluster, known only afterwards"
        least = min(range(len(rows)), key=gains.__getitem__)
        better = sum(gain >= 0 for gain in gains)
        worst = f"{gains[least]:+.2f} ({rows[least].cluster})"
        yield f"- at least as good as {name} on {better} of {len(rows)}; mean {fmean(gains):+.2f}, worst {worst}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare all policies on slices of VRAM and compute.")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of the cluster aws (default: %(default)s)")
    parser.add_argument("--random", type=int, default=50, help="how many random clusters (default: %(default)s)")
    parser.add_argument("--random-seeds", type=int, default=3, help="seeds of each of them (default: %(default)s)")
    parser.add_argument(
        "--write", type=Path, metavar="FILE.md", nargs="?", const=RESULT, help="write it (default: bench/results)"
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    return parser


def _say(line: str, code: int) -> int:
    print(f"slices2d_table: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
