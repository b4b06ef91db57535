"""Observe, decide, apply, report: the only loop. Nothing is remembered from one tick to the next but open modes.

What must outlive a tick is written on an object and observed again, so that a crash anywhere is only a late tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tfscale.apply import Outcome, apply
from tfscale.decide import Policy, Supply, decide
from tfscale.errors import BadInputError, CloudUnreachableError, ClusterError, ModeError, Problem
from tfscale.gpus import GpuTable
from tfscale.kube.convert import read_cluster, read_pools
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, NODES, PODS, Kube
from tfscale.model import Cluster, Machine, Pool
from tfscale.modes.base import ModeContext, ScalingMode
from tfscale.plan import Assign, Plan, Terminate

__all__ = ["Clock", "Reconciler", "Report", "run"]

log = logging.getLogger(__name__)

MOST_IN_A_ROW = 20
"""Ticks that follow each other without a pause while each of them changed something."""


class Clock(Protocol):
    """The only source of time: the wall clock, or simulated time that jumps to the next event."""

    def now_s(self) -> int:
        """Return the seconds since the epoch."""
        ...

    def pending(self) -> bool:
        """Return whether something will happen by itself: never for the wall clock, which cannot know."""
        ...

    def wait(self, until_s: int | None) -> None:
        """Return at `until_s`, or earlier when something may have happened."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one tick saw, decided and did."""

    cluster: Cluster
    plan: Plan
    outcomes: tuple[Outcome, ...]
    problems: tuple[Problem, ...]
    unreachable: tuple[str, ...]
    """Pools whose cloud gave no answer."""

    @property
    def changed(self) -> bool:
        """Whether anything in the world is different now, so that looking again at once may show more to do."""
        return any(outcome.done for outcome in self.outcomes)

    @property
    def progressed(self) -> bool:
        """Whether a pod or a machine came nearer to its place; keeping records is no progress."""
        return any(
            outcome.done and (bool(outcome.machines) or isinstance(outcome.action, Assign | Terminate))
            for outcome in self.outcomes
        )

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The actions that could not be carried out."""
        return tuple(outcome for outcome in self.outcomes if outcome.error)


@dataclass(slots=True, kw_only=True)
class Reconciler:
    """Everything a tick needs. `mode_of` finds the class of a mode by its name and raises ``BadInputError``."""

    kube: Kube
    mode_of: Callable[[str], type[ScalingMode]]
    open_with: Callable[[Pool], ModeContext]
    gpus: GpuTable
    prefix: str
    policy: Policy = field(default_factory=Policy)
    _open: dict[str, tuple[Pool, ScalingMode]] = field(default_factory=dict)

    def tick(self, now_s: int, *, dry_run: bool = False) -> Report:
        """Bring the cluster one step nearer to what its pods ask for, or with `dry_run` only say how.

        Raises ``ClusterError`` when the cluster cannot be read. Whatever else fails is in the report and the rest goes on.
        """
        pools, problems = read_pools(self.kube.list(GPU_POOLS).items, gpus=self.gpus)
        modes, mode_problems = self._modes(pools)
        # The cloud is listed before the cluster: a machine bought in between is missing from the first list, never
        # from the second, so nothing that has a record looks gone.
        machines, supplies, unreachable = _ask(modes)
        cluster = read_cluster(
            pods=self.kube.list(PODS).items,
            nodes=self.kube.list(NODES).items,
            pools=self.kube.list(GPU_POOLS).items,
            requests=self.kube.list(NODE_REQUESTS).items,
            batches=self.kube.list(LAUNCH_BATCHES).items,
            machines=machines,
            now_s=now_s,
            gpus=self.gpus,
            prefix=self.prefix,
        )
        plan = decide(cluster, supplies, self.policy)
        outcomes = () if dry_run else tuple(apply(plan, cluster, self.kube, modes))
        return Report(
            cluster=cluster,
            plan=plan,
            outcomes=outcomes,
            problems=tuple(dict.fromkeys((*problems, *mode_problems, *cluster.problems))),
            unreachable=unreachable,
        )

    def _modes(self, pools: Sequence[Pool]) -> tuple[dict[str, ScalingMode], list[Problem]]:
        """Return an open mode for each pool that has a good one. A mode is opened again when its pool's rules changed."""
        problems: list[Problem] = []
        modes: dict[str, ScalingMode] = {}
        for pool in pools:
            rules = replace(pool, set_aside=(), deleting=False)
            before, mode = self._open.get(pool.name, (None, None))
            try:
                if mode is None or before != rules:
                    mode = self.mode_of(pool.mode).open(self.open_with(pool))
                    problems += mode.check()
                    self._open[pool.name] = rules, mode
            except BadInputError as error:
                problems += error.problems
            except ModeError as error:
                log.warning("pool %s: mode %s: %s", pool.name, pool.mode, error)
            else:
                modes[pool.name] = mode
        return modes, problems


def run(
    reconciler: Reconciler,
    clock: Clock,
    *,
    until_idle: bool,
    on_report: Callable[[Report], None],
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Tick until `stopped`, or with `until_idle` until nothing is left to do and nothing is on its way.

    With `until_idle` a cluster that cannot be read raises ``ClusterError``; without, it is tried again.
    """
    in_a_row = 0
    hopeful = True
    while not stopped():
        try:
            report = reconciler.tick(clock.now_s())
        except ClusterError as error:
            if until_idle:
                raise
            log.warning("the cluster could not be read, trying again: %s", error)
            clock.wait(None)
            continue
        on_report(report)
        hopeful = hopeful or report.progressed
        in_a_row = in_a_row + 1 if report.changed else 0
        if 0 < in_a_row < MOST_IN_A_ROW:
            continue
        in_a_row = 0
        plan = report.plan
        if until_idle and not report.failed and plan.recheck_s is None and not clock.pending():
            # Only offers without capacity are left to hope for: try them once more after each progress, then give up.
            if plan.retry_s is None or not hopeful:
                return
            hopeful = False
        clock.wait(min((t for t in (plan.recheck_s, plan.retry_s) if t is not None), default=None))


def _ask(
    modes: Mapping[str, ScalingMode],
) -> tuple[dict[str, Sequence[Machine]], dict[str, Supply], tuple[str, ...]]:
    """Return machines and offers by pool; a pool whose mode gives no answer is missing from both."""
    machines: dict[str, Sequence[Machine]] = {}
    supplies: dict[str, Supply] = {}
    unreachable: list[str] = []
    for name, mode in modes.items():
        try:
            machines[name] = mode.observe()
            supplies[name] = Supply(offers=mode.offers(), reclaims_idle=mode.reclaims_idle)
        except ModeError as error:
            log.warning("pool %s: %s", name, error)
            if isinstance(error, CloudUnreachableError):
                unreachable.append(name)
    return machines, supplies, tuple(unreachable)
