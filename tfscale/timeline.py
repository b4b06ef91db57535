"""What a run cost and how full it was, moment by moment: the reports of the loop as one state per pool and tick.

Between two ticks nothing changes, for whatever happens is followed by a tick. So costs are exact, and any moment can be shown.
While a cloud gives no answer its machines are taken to be those that were seen last.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from tfscale.model import CARD_MILLI, Cluster, Node
from tfscale.plan import Assign
from tfscale.quantity import usd_text
from tfscale.reconcile import Report

__all__ = ["PoolState", "Timeline"]

_STEPS_S = (10, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200)
_HOUR_S = 3_600
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """One pool at one moment. Cards are counted on nodes that are Ready; compute in thousandths of a card."""

    nodes: int = 0
    machines: int = 0
    """Everything that is paid for, also what boots or is being given back."""
    micro_usd: int = 0
    """Per hour, of machines whose price is known."""
    unpriced: int = 0
    """Machines whose price is not known. One whose type is not known yet is not counted: it may never be launched."""
    pods: int = 0
    """On the nodes, daemons apart."""
    waiting: int = 0
    compute_milli: int = 0
    compute_held_milli: int = 0
    vram_mib: int = 0
    vram_held_mib: int = 0

    @property
    def compute_pct(self) -> float | None:
        """Return how much of the compute is held; None without cards."""
        return _pct(self.compute_held_milli, self.compute_milli)

    @property
    def vram_pct(self) -> float | None:
        """Return how much of the VRAM is held; None without cards."""
        return _pct(self.vram_held_mib, self.vram_mib)

    @property
    def headroom_pct(self) -> float | None:
        """Return how much is free of what there is less of, compute or VRAM; None without cards."""
        held = [pct for pct in (self.compute_pct, self.vram_pct) if pct is not None]
        return round(100 - max(held), 1) if held else None

    def as_json(self) -> dict[str, Any]:
        """Return the moment as it is printed."""
        return {
            "nodes": self.nodes,
            "machines": self.machines,
            "usd_per_hour": usd_text(self.micro_usd),
            "pods": self.pods,
            "waiting": self.waiting,
            "compute_pct": self.compute_pct,
            "vram_pct": self.vram_pct,
            "headroom_pct": self.headroom_pct,
        }


@dataclass(slots=True)
class Timeline:
    """The story of a run in numbers. Give it every report. `prices` are micro-USD per hour by instance type and capacity type."""

    start_s: int
    prices: Mapping[tuple[str, str], int]
    _times_s: list[int] = field(default_factory=list)
    _states: list[dict[str, PoolState]] = field(default_factory=list)
    _waits_s: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    _asked_s: dict[str, int] = field(default_factory=dict)
    _placed_s: dict[str, int] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        """Enter what a tick saw and did."""
        cluster = report.cluster
        states = {pool.name: self._state(cluster, pool.name) for pool in cluster.pools}
        if self._times_s and self._times_s[-1] == cluster.now_s:
            self._states[-1] = states
        else:
            self._times_s.append(cluster.now_s)
            self._states.append(states)
        created_s = {demand.uid: demand.created_s for demand in cluster.demands}
        for demand in cluster.demands:
            self._asked_s[demand.pool] = min(self._asked_s.get(demand.pool, demand.created_s), demand.created_s)
        for outcome in report.outcomes:
            if outcome.done and isinstance(outcome.action, Assign):
                self._waits_s[outcome.action.pool].append(cluster.now_s - created_s[outcome.action.uid])
                self._placed_s.setdefault(outcome.action.pool, cluster.now_s)

    def samples(self, end_s: int, *, most: int) -> Iterator[tuple[int, Mapping[str, PoolState]]]:
        """Yield moments at equal distances and what was then, from the start on, not more than `most`."""
        length_s = end_s - self.start_s
        whole_days = length_s // (most * _DAY_S) + 1
        step_s = next((step for step in _STEPS_S if length_s // step < most), whole_days * _DAY_S)
        for time_s in range(self.start_s, end_s + 1, step_s):
            at = bisect_right(self._times_s, time_s)
            if at:
                yield time_s, self._states[at - 1]

    def totals(self, pool: str, end_s: int) -> dict[str, Any]:
        """Return what the run cost a pool and how long its pods waited."""
        waits_s = sorted(self._waits_s[pool])
        return {
            "cost_usd": usd_text(self.cost_micro_usd(pool, end_s)),
            "unpriced_machines": self.unpriced_machines(pool),
            "nodes_peak": max((states[pool].nodes for states in self._states if pool in states), default=0),
            "first_pod_after_s": self._placed_s[pool] - self._asked_s[pool] if pool in self._placed_s else None,
            "wait_p50_s": _percentile(waits_s, 50),
            "wait_p95_s": _percentile(waits_s, 95),
        }

    def cost_micro_usd(self, pool: str, end_s: int) -> int:
        """Return what the machines of a pool cost from the start to `end_s`, by the second, rounded up."""
        total = 0
        ends_s = [*self._times_s[1:], end_s]
        for time_s, until_s, states in zip(self._times_s, ends_s, self._states, strict=True):
            if pool in states:
                total += states[pool].micro_usd * max(until_s - time_s, 0)
        return -(-total // _HOUR_S)

    def unpriced_machines(self, pool: str) -> int:
        """Return how many machines there were at most at once whose price is not known, so that the cost lacks them."""
        return max((states[pool].unpriced for states in self._states if pool in states), default=0)

    def _state(self, cluster: Cluster, pool: str) -> PoolState:
        nodes = [node for node in cluster.nodes if node.pool == pool and node.ready]
        cards = [gpu for node in nodes for gpu in node.gpus]
        held = [_held(node) for node in nodes]
        return PoolState(
            nodes=len(nodes),
            **self._paid(cluster, pool),
            pods=sum(not pod.daemon for node in nodes for pod in node.pods),
            waiting=sum(demand.pool == pool for demand in cluster.demands),
            compute_milli=len(cards) * CARD_MILLI,
            compute_held_milli=sum(milli for milli, _ in held),
            vram_mib=sum(gpu.vram_mib for gpu in cards),
            vram_held_mib=sum(mib for _, mib in held),
        )

    def _paid(self, cluster: Cluster, pool: str) -> dict[str, int]:
        """Return the fields about machines: as last seen where the cloud gave no answer, for they are still paid for."""
        if pool not in cluster.machines:
            before = self._states[-1].get(pool, PoolState()) if self._states else PoolState()
            return {"machines": before.machines, "micro_usd": before.micro_usd, "unpriced": before.unpriced}
        machines = cluster.machines[pool]
        prices = [self._price(machine.offer) for machine in machines if machine.offer]
        known = [price for price in prices if price is not None]
        return {"machines": len(machines), "micro_usd": sum(known), "unpriced": len(prices) - len(known)}

    def _price(self, offer: str) -> int | None:
        instance_type, _, rest = offer.partition("/")
        return self.prices.get((instance_type, rest.rpartition("/")[2]))


def _held(node: Node) -> tuple[int, int]:
    """Return the compute and the VRAM that is held on a node. Cards that the device plugin gave away are held whole."""
    parts = [part for pod in node.pods for part in pod.slices]
    given_away = sum(pod.request.gpu_count for pod in node.pods if pod.request.whole and not pod.slices)
    largest_mib = max((gpu.vram_mib for gpu in node.gpus), default=0)
    return (
        sum(part.compute_milli for part in parts) + given_away * CARD_MILLI,
        sum(part.vram_mib for part in parts) + given_away * largest_mib,
    )


def _pct(held: int, total: int) -> float | None:
    return round(100 * held / total, 1) if total else None


def _percentile(values: list[int], percent: int) -> int | None:
    """Return the percentile of sorted whole seconds, rounded."""
    if len(values) < 2:  # noqa: PLR2004 - of one value there is nothing to cut
        return values[0] if values else None
    return round(quantiles(values, n=100, method="inclusive")[percent - 1])
