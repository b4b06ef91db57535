"""Observe, decide, apply, report: the only loop. From one tick to the next only open modes and read objects are kept.

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
from tfscale.kube.convert import BoundPods, read_cluster, read_pools
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, NODES, PODS, Kube
from tfscale.model import Cluster, Machine, Pool
from tfscale.modes.base import ModeContext, ScalingMode
from tfscale.modes.guarded import BrokenModeError, guarded
from tfscale.plan import Assign, Plan

__all__ = ["Clock", "Reconciler", "Report", "run"]

log = logging.getLogger(__name__)

MOST_IN_A_ROW = 20
"""Ticks that follow each other without a pause while each of them changed something."""


MOST_FAILURES = 5
"""Rounds with failures and without progress after which a run that has an end gives up."""


class FindMode(Protocol):
    """Finds the class of a mode by its name; `where` and `field` say who names it."""

    def __call__(self, name: str, *, where: str, field: str) -> type[ScalingMode]:
        """Return the class, or raise ``BadInputError``."""
        ...


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
        """Whether a pod got its place. Buying alone is no progress: what was bought may fit nobody."""
        return any(outcome.done and isinstance(outcome.action, Assign) for outcome in self.outcomes)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The actions that could not be carried out."""
        return tuple(outcome for outcome in self.outcomes if outcome.error)


@dataclass(slots=True, kw_only=True)
class Reconciler:
    """Everything a tick needs. `mode_of` finds the class of a mode by its name and raises ``BadInputError``."""

    kube: Kube
    mode_of: FindMode
    open_with: Callable[[Pool], ModeContext]
    gpus: GpuTable
    prefix: str
    policy: Policy = field(default_factory=Policy)
    _open: dict[str, _Opened] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)
    _bound: BoundPods = field(init=False)
    seen_since_s: int = 0
    """Since when the cluster could be read at every tick; whoever ticks sets it anew after a gap."""

    def __post_init__(self) -> None:
        """Begin without memory."""
        self.forget()

    def tick(self, now_s: int, *, dry_run: bool = False) -> Report:
        """Bring the cluster one step nearer to what its pods ask for, or with `dry_run` only say how.

        Raises ``ClusterError`` when the cluster cannot be read. Whatever else fails is in the report and the rest goes on.
        """
        pools, problems = read_pools(self.kube.list(GPU_POOLS).items, gpus=self.gpus)
        opened = self._modes(pools)
        # The cloud is listed before the cluster: a machine bought in between is missing from the first list, never
        # from the second, so nothing that has a record looks gone.
        machines, supplies, errors = _ask(opened)
        self._tell(errors)
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
            bound=self._bound,
        )
        cluster = replace(cluster, seen_since_s=self.seen_since_s)
        plan = decide(cluster, supplies, self.policy)
        modes = {name: one.mode for name, one in opened.items() if one.mode}
        outcomes = () if dry_run else tuple(apply(plan, cluster, self.kube, modes))
        unusable = (problem for one in opened.values() for problem in one.problems)
        failures = (*errors.items(), *((outcome.action.pool, outcome.error) for outcome in outcomes))
        broken = (error.problem for _, error in failures if isinstance(error, BrokenModeError))
        return Report(
            cluster=cluster,
            plan=plan,
            outcomes=outcomes,
            problems=tuple(
                dict.fromkeys(
                    (
                        *problems,
                        *unusable,
                        *broken,
                        *cluster.problems,
                        *plan.problems,
                    )
                )
            ),
            unreachable=tuple(dict.fromkeys(name for name, error in failures if isinstance(error, CloudUnreachableError))),
        )

    def forget(self) -> None:
        """Forget what is kept between ticks: open modes, what was told, pods as they were read. A new process begins so."""
        self._open, self._told = {}, {}
        self._bound = BoundPods(self.gpus, self.prefix)

    def _tell(self, errors: Mapping[str, ModeError]) -> None:
        """Log each trouble once, not at every tick that it lasts."""
        told = {name: str(error) for name, error in errors.items()}
        for name in told.keys() - {name for name, text in self._told.items() if told.get(name) == text}:
            log.warning("pool %s: %s", name, told[name])
        self._told = told

    def _modes(self, pools: Sequence[Pool]) -> dict[str, _Opened]:
        """Return an open mode for each pool, or what is wrong with it. It is opened again when the pool's rules changed."""
        opened: dict[str, _Opened] = {}
        for pool in pools:
            rules = replace(pool, set_aside=(), deleting=False, guarded=False)
            known = self._open.get(pool.name)
            opened[pool.name] = known if known and known.rules == rules and not known.problems else self._opened(pool, rules)
        self._open = opened
        return opened

    def _opened(self, pool: Pool, rules: Pool) -> _Opened:
        mode: ScalingMode | None = None
        problems: tuple[Problem, ...] = ()
        try:
            found = self.mode_of(pool.mode, where=f"gpupool {pool.name}", field="spec.mode")
            mode = guarded(found).open(self.open_with(pool))
            problems = tuple(mode.check())
        except BadInputError as error:
            problems = error.problems
        except ModeError as error:
            log.warning("pool %s: mode %s: %s", pool.name, pool.mode, error)
        return _Opened(rules=rules, mode=mode, problems=problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A mode that was opened for a pool. With problems it is asked what it launched, but buys nothing."""

    rules: Pool
    mode: ScalingMode | None
    problems: tuple[Problem, ...]


def run(
    reconciler: Reconciler,
    clock: Clock,
    *,
    until_idle: bool,
    on_report: Callable[[Report], None],
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Tick until `stopped`, or with `until_idle` until nothing is left to do and nothing is on its way.

    With `until_idle` a cluster that cannot be read raises ``ClusterError``, and actions that keep failing end the run;
    without, both are tried again.
    """
    in_a_row = failures = 0
    hopeful = True
    while not stopped():
        try:
            report = reconciler.tick(clock.now_s())
        except ClusterError as error:
            if until_idle:
                raise
            log.warning("the cluster could not be read, trying again: %s", error)
            clock.wait(None)
            reconciler.seen_since_s = clock.now_s()
            continue
        on_report(report)
        hopeful = hopeful or report.progressed
        failures = failures + 1 if report.failed and not report.progressed else 0
        in_a_row = in_a_row + 1 if report.changed else 0
        if 0 < in_a_row < MOST_IN_A_ROW:
            continue
        in_a_row = 0
        plan = report.plan
        if until_idle and failures >= MOST_FAILURES:
            return
        if until_idle and not failures and plan.recheck_s is None and not clock.pending():
            # Only what is set aside is left to hope for: try it once more after each progress, then give up.
            if plan.retry_s is None or not hopeful:
                return
            hopeful = False
        clock.wait(min((t for t in (plan.recheck_s, plan.retry_s) if t is not None), default=None))


def _ask(opened: Mapping[str, _Opened]) -> tuple[dict[str, Sequence[Machine]], dict[str, Supply], dict[str, ModeError]]:
    """Return machines and offers by pool, and the errors; a pool whose mode gives no answer has only its error."""
    machines: dict[str, Sequence[Machine]] = {}
    supplies: dict[str, Supply] = {}
    errors: dict[str, ModeError] = {}
    for name, one in opened.items():
        if one.mode is None:
            continue
        try:
            machines[name] = one.mode.observe()
            offers = () if one.problems else one.mode.offers()
            supplies[name] = Supply(offers=offers, reclaims_idle=one.mode.reclaims_idle, in_cluster=one.mode.in_cluster)
        except ModeError as error:
            errors[name] = error
    return machines, supplies, errors
