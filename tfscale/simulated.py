"""A simulation from start to end, and what it showed, for people and programs: totals of each pool and a timeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tfscale.account import Account, PoolTotals
from tfscale.quantity import time_text
from tfscale.reconcile import Report, run
from tfscale.simulate import World
from tfscale.timeline import PoolState, Timeline

__all__ = ["Simulated", "simulated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a simulation showed."""

    world: World
    account: Account
    timeline: Timeline
    modes: Mapping[str, str]
    """By pool."""
    end_s: int

    def as_json(self) -> dict[str, Any]:
        """Return everything. The same scenario and seed give the same, byte for byte."""
        result = self.account.as_json()
        return {
            "seed": self.world.seed,
            "start": time_text(self.world.start_s),
            "end": time_text(self.end_s),
            **result,
            "pools": {name: self._pool(name, totals) for name, totals in result["pools"].items()},
            "timeline": [
                {
                    "after_s": time_s - self.world.start_s,
                    "pools": {name: state.as_json() for name, state in sorted(states.items())},
                }
                for time_s, states in self.timeline.samples(self.end_s, most=_MOST_IN_JSON)
            ],
        }

    def lines(self) -> Iterator[str]:
        """Yield the result for a reader: the timeline of each pool, then all pools side by side, then what is left to say."""
        for name in sorted(self.account.pools):
            yield f"pool {name}"
            yield from _table(_MOMENT, [self._moment(time_s, states[name]) for time_s, states in self._samples(name)])
            yield ""
        yield f"{self.world.stamp(self.end_s)} simulated, {self.account.ticks} rounds"
        yield from _table(_POOL, [self._row(name, totals) for name, totals in sorted(self.account.pools.items())])
        for name, totals in sorted(self.account.pools.items()):
            yield from (f"  {pod}: {'; '.join(reasons)}" for pod, reasons in sorted(totals.unmet.items()))
            if unpriced := self.timeline.unpriced_machines(name):
                yield f"  the cost lacks machines whose price is not known, up to {unpriced} at once"
        yield from (f"problem {problem}" for problem in self.account.problems)
        yield from self.account.failed

    def _samples(self, name: str) -> Iterator[tuple[int, Mapping[str, PoolState]]]:
        return ((time_s, states) for time_s, states in self.timeline.samples(self.end_s, most=_MOST_IN_TEXT) if name in states)

    def _pool(self, name: str, totals: dict[str, Any]) -> dict[str, Any]:
        counted = self.account.pools[name]
        others = {"chosen_by_others": counted.chosen_by_others, "removed_by_others": counted.removed_by_others}
        return {"mode": self.modes[name], **totals, **others, **self.timeline.totals(name, self.end_s)}

    def _moment(self, time_s: int, state: PoolState) -> Sequence[str]:
        shown = state.as_json()
        return [self.world.stamp(time_s), *(_cell(key, shown[key]) for key in list(_MOMENT.values())[1:])]

    def _row(self, name: str, totals: PoolTotals) -> Sequence[str]:
        shown = self._pool(name, totals.as_json()) | {"pool": name, "unmet": len(totals.unmet), "karpenter": _left(totals)}
        return [_cell(key, shown[key]) for key in _POOL.values()]


_MOST_IN_JSON = 300
_MOST_IN_TEXT = 25
"""A day by the hour."""

_MOMENT = {
    "time": "time",
    "nodes": "nodes",
    "machines": "machines",
    "USD/h": "usd_per_hour",
    "pods": "pods",
    "waiting": "waiting",
    "compute %": "compute_pct",
    "VRAM %": "vram_pct",
    "headroom %": "headroom_pct",
}
_POOL = {
    "pool": "pool",
    "mode": "mode",
    "nodes bought": "launched",
    "pods placed": "bound",
    "no place": "unmet",
    "cost USD": "cost_usd",
    "first pod s": "first_pod_after_s",
    "wait p95 s": "wait_p95_s",
    "left to Karpenter": "karpenter",
    "machines left": "machines_left",
}


def simulated(world: World, *, on_report: Callable[[Report], None], stopped: Callable[[], bool]) -> Simulated:
    """Run a world to its end, or until `stopped`.

    Where the scenario does not say when that is, it is when nothing is left to happen, or actions keep failing.
    """
    account = Account()
    timeline = Timeline(start_s=world.start_s, prices=world.prices)
    pools: dict[str, str] = {}

    def tell(report: Report) -> None:
        timeline.add(report)
        pools.update((pool.name, pool.mode) for pool in report.cluster.pools)
        account.add(report)
        on_report(report)

    run(world.reconciler, world, until_idle=not world.has_end, on_report=tell, stopped=lambda: stopped() or world.over())
    return Simulated(world=world, account=account, timeline=timeline, modes=pools, end_s=world.now_s())


def _left(totals: PoolTotals) -> str:
    """Return what others did of buying and giving back."""
    parts = {"choice": totals.chosen_by_others, "return": totals.removed_by_others}
    return ", ".join(f"{what} of {count}" for what, count in parts.items() if count) or "nothing"


def _cell(key: str, value: object) -> str:
    if value is None:
        return "-"
    return f"{Decimal(str(value)):.2f}" if "usd" in key else str(value)


def _table(columns: Mapping[str, str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the rows under their heads: texts to the left, numbers to the right."""
    lines = [list(columns), *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    right = [all(_is_number(row[index]) for row in rows) for index in range(len(columns))]
    for line in lines:
        cells = (cell.rjust(width) if to else cell.ljust(width) for cell, width, to in zip(line, widths, right, strict=True))
        yield "  ".join(cells).rstrip()


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).isdigit()
