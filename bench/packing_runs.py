"""Runs of the openb benchmark, two at a time, each in a process of its own; figures are kept, so that a series can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.openb import run
from bench.openb_trace import Trace, read_trace

__all__ = ["DATA", "VARIANTS", "Job", "curves", "results", "trace_of"]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "openb"
VARIANTS = (
    "cpu050",
    "cpu200",
    "cpu250",
    "default",
    "gpushare40",
    "gpushare80",
    "gpushare100",
    "gpuspec25",
    "gpuspec33",
    "multigpu20",
    "multigpu40",
    "multigpu50",
)
"""Those that the publication evaluates."""
Figures = dict[str, Any]
_SOURCES = Path(__file__).resolve().parents[1] / "tfscale" / "slicing"


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One run."""

    variant: str
    policy: str
    seed: int


def trace_of(variant: str, seed: int) -> Trace:
    """Read one run of the public data."""
    pods = DATA / f"openb_pod_list_{variant}.csv"
    return read_trace(DATA / "openb_node_list_gpu_node.csv", pods, DATA / "arrivals" / f"{variant}.txt.gz", seed)


def results(jobs: Iterable[Job], kept: Path | None, processes: int = 2) -> list[Figures]:
    """Return the figures of every job, in order; what the file `kept` has of the same code is not run again."""
    wanted = list(dict.fromkeys(jobs))
    code = _digest()
    known = {_job(line): line for line in _read(kept) if line.get("code") == code or not _ours(line["policy"])}
    missing = [job for job in wanted if job not in known]
    with ProcessPoolExecutor(processes) as pool:
        for done in as_completed([pool.submit(_run, job) for job in missing]):
            line = {**done.result(), "code": code}
            known[_job(line)] = line
            if kept:
                with kept.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(line) + "\n")
    return [known[job] for job in wanted]


def curves(jobs: Sequence[Job]) -> dict[Job, tuple[list[float], list[float]]]:
    """Return for each job the load and the allocation after every arrival, in percent of all GPUs."""
    with ProcessPoolExecutor(2) as pool:
        return dict(zip(jobs, pool.map(_curve, jobs), strict=True))


def _run(job: Job) -> Figures:
    return asdict(run(trace_of(job.variant, job.seed), job.policy, job.seed).result)


def _curve(job: Job) -> tuple[list[float], list[float]]:
    trace = trace_of(job.variant, job.seed)
    loads, allocations = [0.0], [0.0]
    arrived = held = 0
    for index, place in zip(trace.arrivals, run(trace, job.policy, job.seed).places, strict=True):
        asked = trace.pods[index].asked_milli
        arrived += asked
        held += asked if place else 0
        loads.append(100 * arrived / trace.capacity_milli)
        allocations.append(100 * held / trace.capacity_milli)
    return loads, allocations


def _ours(policy: str) -> bool:
    return policy.startswith("tfscale")


def _job(line: Figures) -> Job:
    return Job(line["variant"], line["policy"], line["seed"])


def _read(kept: Path | None) -> list[Figures]:
    if kept is None or not kept.exists():
        return []
    return [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]


def _digest() -> str:
    """Return what tells one state of the packer's code from another."""
    digest = hashlib.sha256()
    for path in sorted(_SOURCES.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
