"""Random schedules of the launch protocol: ``python -m tests.fuzz.launch --schedules 10000``.

Each schedule is a small cluster and cloud in which processes crash, answers are lost and people interfere, followed by calm.
The last line counts what happened and what must not: machines beyond what was ordered, machines that nobody gives back, and
demand that is neither served nor explained.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fuzz.bugs import BUGS, planted
from tests.fuzz.claims import ManagedSchedule, ReuseSchedule, find_managed, find_reuse
from tests.fuzz.machine import LaunchSchedule, Schedule
from tests.fuzz.objects import TYPES, ZONES, Cloud
from tests.fuzz.process import find_ec2
from tests.fuzz.world import Tally, ViolationError
from tfscale.reconcile import FindMode
from tfscale.testing.fake_ec2 import MemoryCloud, SimulatedCloud

__all__ = ["Share", "main", "run_share"]

STEPS = 60
CHUNK = 50
"""About how many schedules have one seed. Always as many: they follow from seed and number together."""
_SEEDS_EACH = 100_000
_FOLDER = Path("fuzz-failures")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one process runs. It ends at the first failure."""

    schedules: int
    first_seed: int
    seed_step: int = 1
    mode: str = "ec2"
    cloud: str = "memory"
    bug: str = ""
    shrink: bool = False
    chunk: int = CHUNK


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A schedule in which something happened that must not."""

    what: str
    seed: int
    text: str


def run_share(share: Share) -> tuple[Tally, list[Failure]]:
    """Run schedules, chunk by chunk, each under a seed of its own."""
    tally, number = Tally(), share.first_seed
    while tally.schedules < share.schedules:
        if failure := _run_chunk(share, tally, number):
            return tally, [failure]
        number += share.seed_step
    return tally, []


def _run_chunk(share: Share, tally: Tally, number: int) -> Failure | None:
    schedule, finder = _MODES[share.mode]
    found = planted(share.bug) if share.bug else finder
    about = {"tally": tally, "find_mode": staticmethod(found), "open_cloud": staticmethod(_CLOUDS[share.cloud])}
    chosen_schedule = type(schedule.__name__, (schedule,), about)
    phases = (Phase.generate, Phase.shrink) if share.shrink else (Phase.generate,)
    chosen = settings(
        max_examples=share.chunk, stateful_step_count=STEPS, deadline=None, database=None, derandomize=False, phases=phases,
        report_multiple_bugs=False, print_blob=False, suppress_health_check=list(HealthCheck), verbosity=Verbosity.normal,
    )  # fmt: skip
    try:
        run_state_machine_as_test(seed(number)(chosen_schedule), settings=chosen)
    except ViolationError as error:
        return Failure(what=error.what, seed=number, text=_told(error))
    except Exception as error:  # noqa: BLE001 - whatever a schedule ends with is a failure to be told
        return Failure(what="not_converged", seed=number, text=_told(error))
    return None


def _told(error: Exception) -> str:
    return "".join(traceback.format_exception(error)) + "\n".join(getattr(error, "__notes__", ()))


def _moto() -> tuple[Cloud, Callable[[], None]]:
    cloud = SimulatedCloud(zones=ZONES, instance_types=TYPES, launch_template="nodes")
    cloud.__enter__()
    return cloud, lambda: cloud.__exit__(None, None, None)


def _memory() -> tuple[Cloud, Callable[[], None]]:
    return MemoryCloud(zones=ZONES, instance_types=TYPES, launch_template="nodes"), lambda: None


_MODES: dict[str, tuple[type[Schedule], FindMode]] = {
    "ec2": (LaunchSchedule, find_ec2),
    "managed": (ManagedSchedule, find_managed),
    "reuse": (ReuseSchedule, find_reuse),
}
_CLOUDS: dict[str, Callable[[], tuple[Cloud, Callable[[], None]]]] = {"memory": _memory, "moto": _moto}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the schedules, print the figures, write what failed, and return 1 if anything did."""
    asked = _parser().parse_args(arguments)
    began = time.monotonic()
    shares = [
        Share(
            schedules=len(range(number, asked.schedules, asked.jobs)), first_seed=asked.seed * _SEEDS_EACH + number,
            seed_step=asked.jobs, mode=asked.mode, cloud=asked.cloud, bug=asked.bug,
        )
        for number in range(asked.jobs)
    ]  # fmt: skip
    if asked.repeat is not None:
        again = Share(schedules=CHUNK, first_seed=asked.repeat, mode=asked.mode, cloud=asked.cloud, bug=asked.bug, shrink=True)
        shares = [again]
    with ProcessPoolExecutor(max_workers=len(shares)) as workers:
        results = list(workers.map(run_share, shares))
    tally = sum_of([one for one, _ in results])
    failures = [failure for _, failed in results for failure in failed]
    for failure in failures:
        _write(failure, asked)
    _print(tally, failures, seconds=round(time.monotonic() - began), output=asked.output)
    return 1 if failures else 0


def sum_of(tallies: Sequence[Tally]) -> Tally:
    """Return what happened in all processes together."""
    total = Tally()
    for tally in tallies:
        total.schedules += tally.schedules
        total.steps += tally.steps
        total.rounds += tally.rounds
        total.happened.update(tally.happened)
    return total


def _write(failure: Failure, asked: argparse.Namespace) -> None:
    _FOLDER.mkdir(exist_ok=True)
    path = _FOLDER / f"launch-{asked.mode}-{asked.cloud}-{failure.seed}.txt"
    again = f"python -m tests.fuzz.launch --mode {asked.mode} --cloud {asked.cloud} --repeat {failure.seed}"
    path.write_text(f"{again}\n\n{failure.text}\n", encoding="utf-8")
    print(f"{failure.what}: seed {failure.seed}, written to {path}; again: {again}", file=sys.stderr)


def _print(tally: Tally, failures: Sequence[Failure], *, seconds: int, output: str) -> None:
    counted = {what: sum(failure.what == what for failure in failures) for what in ("duplicates", "leaks", "not_converged")}
    others = sum(failure.what not in counted for failure in failures)
    figures = {
        "schedules": tally.schedules,
        "steps": tally.steps,
        "crashes": tally.happened["crashes"],
        "lost_replies": tally.happened["lost replies"],
        **counted,
    }
    if output == "json":
        print(json.dumps({**figures, "other_violations": others, "seconds": seconds, "happened": dict(tally.happened)}))
        return
    for what, count in sorted(tally.happened.items()):
        print(f"{what:<32}{count:>8}")
    print(f"{'rounds of the loop':<32}{tally.rounds:>8}")
    print(f"{'seconds':<32}{seconds:>8}")
    if others:
        print(f"{'other violations':<32}{others:>8}")
    print(" ".join(f"{name}={figure}" for name, figure in figures.items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.launch", description=__doc__.partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=200, metavar="N", help="how many schedules (200)")
    parser.add_argument("--seed", type=int, default=0, help="other schedules for another number (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (2)")
    parser.add_argument("--mode", choices=sorted(_MODES), default="ec2", help="what buys the machines (ec2)")
    parser.add_argument("--cloud", choices=sorted(_CLOUDS), default="memory", help="the simulated EC2")
    parser.add_argument("--bug", choices=sorted(BUGS), default="", help="plant a bug")
    parser.add_argument("--repeat", type=int, metavar="SEED", help="run the schedules of one failing seed again")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
