"""Observe, decide, apply, report: the only loop. From one tick to the next only open modes and read objects are kept.

What must outlive a tick is written on an object and observed again, so that a crash anywhere is only a late tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Protocol

from tfscale.apply import Outcome, apply
from tfscale.conditions import Condition, of_pool
from tfscale.decide import Policy, decide
from tfscale.disruption import heard
from tfscale.errors import (
    CloudUnreachableError,
    ClusterError,
    CredentialsError,
    ModeError,
    NotFoundError,
    NotLeadingError,
    Problem,
)
from tfscale.gpus import GpuTable
from tfscale.kube.convert import BoundPods, read_cluster, read_pools, status_patch
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, NODES, PODS, Json, Kind, Kube
from tfscale.model import Cluster
from tfscale.modes.base import ModeContext
from tfscale.modes.guarded import BrokenModeError
from tfscale.opened import FindMode, OpenModes, acknowledge, ask, explained, settle
from tfscale.plan import Action, Assign, Plan
from tfscale.pool import Pool
from tfscale.status import PoolStatus, pool_statuses

__all__ = ["ALONE", "Clock", "FindMode", "Leader", "Reconciler", "Report", "run"]

log = logging.getLogger(__name__)

MOST_IN_A_ROW = 20
"""Ticks that follow each other without a pause while each of them changed something."""

CLOCK_STEP_S = 10
"""How far a clock must be put forward or back to count; it may be set right a little at a time."""
MOST_FAILURES = 5
"""Rounds with failures and without progress after which a run that has an end gives up."""


class Clock(Protocol):
    """The only source of time: the wall clock, or simulated time that jumps to the next event."""

    def now_s(self) -> int:
        """Return the seconds since the epoch."""
        ...

    def steady_s(self) -> float:
        """Return seconds of a clock that nobody puts forward or back; only differences mean something."""
        ...

    def pending(self) -> bool:
        """Return whether something will happen by itself: never for the wall clock, which cannot know."""
        ...

    def wait(self, until_s: int | None) -> None:
        """Return at `until_s`, or earlier when something may have happened."""
        ...


class Leader(Protocol):
    """Says whether this process is the one that acts."""

    def begin(self) -> int | None:
        """Return the epoch in which a round may begin now, or None; it is another one whenever others led in between."""
        ...

    def wait(self) -> None:
        """Wait a moment for the lead."""
        ...


class _Alone:
    def begin(self) -> int:
        return 0

    def wait(self) -> None: ...


ALONE: Leader = _Alone()
"""For a process beside which there is no other: it always leads, in epoch 0."""


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
    epoch: Callable[[], int] = lambda: 0
    """What is written on all that is launched; raises ``NotLeadingError`` where another process acts by now."""
    on_lead: Callable[[], None] = lambda: None
    """Called before the first tick of each leadership, to bring up to date what was kept while standing by.

    It may raise ``ClusterError``; then it is called again, and nothing is done before."""
    _modes: OpenModes = field(init=False)
    _told: dict[str, str] = field(default_factory=dict)
    _failing: frozenset[str] = frozenset()
    """Why actions of the last round failed."""
    _bound: BoundPods = field(init=False)
    identity: str = ""
    """Tells this process from others: with it, no two orders have one name. Empty where there are no others."""
    _ticks: int = 0
    _led: int = 0
    """The epoch of the last round."""
    _apart_s: float | None = None
    """How far the clock was from the steady one."""
    seen_since_s: int = 0
    """Since when the cluster could be read at every tick; whoever ticks sets it anew after a gap."""

    def __post_init__(self) -> None:
        """Begin without memory."""
        self.forget()

    def lead(self, epoch: int) -> None:
        """Note that a round begins in this epoch. In another one than before nothing that is remembered counts."""
        if epoch != self._led:
            self.forget()
            self.on_lead()
            self._led = epoch

    def note_clocks(self, now_s: int, steady_s: float) -> None:
        """Compare the clocks. Where one was put forward or back, times that were written down before say little for a while.

        So it is at the start: nobody knows what was done to the clock before.
        """
        step_s = now_s - steady_s - (self._apart_s or 0)
        if self._apart_s is not None and abs(step_s) < CLOCK_STEP_S:
            return
        if self._apart_s is not None:
            log.warning("the clock was put %+d s; nothing counts as gone or late for a while", step_s)
        self.seen_since_s, self._apart_s = now_s, now_s - steady_s

    def tick(self, now_s: int, *, dry_run: bool = False) -> Report:
        """Bring the cluster one step nearer to what its pods ask for, or with `dry_run` only say how.

        Raises ``ClusterError`` when the cluster cannot be read. Whatever else fails is in the report and the rest goes on.
        """
        asked = self._records(GPU_POOLS)
        pools, problems = read_pools(asked, gpus=self.gpus)
        opened = self._modes.of(pools, now_s)
        # The cloud is listed before the cluster: a machine bought in between is missing from the first list, never
        # from the second, so nothing that has a record looks gone.
        answers = ask(opened, listen=not dry_run)
        errors = answers.errors
        self._modes.doubt(answers.supplies)
        self._modes.leave_alone(errors, now_s)
        cluster = read_cluster(
            pods=self.kube.list(PODS).items,
            nodes=self.kube.list(NODES).items,
            pools=self._records(GPU_POOLS),
            requests=self._records(NODE_REQUESTS),
            batches=self._records(LAUNCH_BATCHES),
            machines=answers.machines,
            now_s=now_s,
            gpus=self.gpus,
            prefix=self.prefix,
            bound=self._bound,
            notices=tuple(dict.fromkeys(chain.from_iterable(answers.notices.values()))),
        )
        self._ticks += 1
        # What one mode launched must not be entered as another's: a pool that was moved since its mode was asked waits a round.
        answers = answers.without(self._modes.close_moved(cluster.pools))
        cluster = replace(cluster, machines=answers.machines)
        troubles, unexplained = explained(self._modes.usable(), cluster)
        cluster = replace(cluster, seen_since_s=self.seen_since_s, moment=f"{self.identity}{self._ticks}", troubles=troubles)
        plan = decide(cluster, answers.supplies, self.policy)
        outcomes = () if dry_run else tuple(apply(plan, cluster, self.kube, self._modes.usable(), epoch=self.epoch))
        unusable = (problem for one in opened.values() for problem in one.problems)
        failures = (*errors.items(), *((outcome.action.pool, outcome.error) for outcome in outcomes))
        rejected = {name: error for name, error in failures if isinstance(error, CredentialsError)}
        self._modes.leave_alone(rejected, now_s)
        broken = (error.problem for _, error in failures if isinstance(error, BrokenModeError))
        report = Report(
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
        unsaid: dict[str, ModeError] = {}
        if not dry_run:
            self._write_statuses(asked, report, errors | rejected)
            # By what was written before this round began, so that nothing that was said is lost with it.
            known = heard(cluster, complete=len(answers.machines) == len(asked) == len(cluster.pools))
            unsaid = settle(self._modes.usable()) | acknowledge(self._modes.usable(), answers.notices, known)
        self._tell(unexplained | unsaid | errors | rejected)
        self._tell_failures(outcomes)
        return report

    def forget(self) -> None:
        """Forget what is kept between ticks: open modes, what was told, pods as they were read. A new process begins so."""
        self._told = {}
        self._failing = frozenset()
        self._modes = OpenModes(self.mode_of, self.open_with)
        self._bound = BoundPods(self.gpus, self.prefix)

    def _records(self, kind: Kind) -> Sequence[Json]:
        """Return the objects of one of our own kinds. Raises ``NotFoundError`` with what to do where they are not defined."""
        try:
            return self.kube.list(kind).items
        except NotFoundError as error:
            raise NotFoundError(f"{error} If not: tfscale manifests crds | kubectl apply --server-side -f -") from error

    def _write_statuses(self, asked: Sequence[Json], report: Report, errors: Mapping[str, ModeError]) -> None:
        """Write on each pool what was seen, where that is not written there already. The next tick makes good what fails.

        `asked` are the pools as they were when their modes were asked: a spec that is newer was not looked at.
        """
        objects = {obj["metadata"]["name"]: obj for obj in asked}
        verdicts = {name: verdict for name, obj in objects.items() if (verdict := _verdict(name, obj, report, errors))}
        for name, status in pool_statuses(report.cluster, report.plan, verdicts).items():
            if status_patch(objects[name], status, now_s=report.cluster.now_s):
                try:
                    self._write_status(name, status, now_s=report.cluster.now_s)
                except NotLeadingError:
                    return
                except ClusterError as error:
                    log.info("status of pool %s: %s", name, error)

    def _write_status(self, name: str, status: PoolStatus, *, now_s: int) -> None:
        # Read again and guarded: the conditions are one list, and others may have written theirs meanwhile.
        obj = self.kube.get(GPU_POOLS, name)
        if patch := status_patch(obj, status, now_s=now_s):
            guard = {"metadata": {"resourceVersion": obj["metadata"]["resourceVersion"]}}
            self.kube.patch_status(GPU_POOLS, name, patch | guard)

    def _tell(self, errors: Mapping[str, ModeError]) -> None:
        """Log each trouble once, not at every tick that it lasts."""
        told = {name: _trouble(error) for name, error in errors.items()}
        for name in told.keys() - {name for name, text in self._told.items() if told.get(name) == text}:
            log.warning("pool %s: %s", name, errors[name])
        self._told = told

    def _tell_failures(self, outcomes: Sequence[Outcome]) -> None:
        """Log what could not be done, each error once for as long as it lasts, with the first action that met it."""
        failed: dict[str, list[Action]] = {}
        for outcome in outcomes:
            if outcome.trouble:
                failed.setdefault(outcome.trouble, []).append(outcome.action)
        for error, (first, *more) in failed.items():
            if error not in self._failing:
                log.warning("%s%s: %s", first, f" and {len(more)} more" if more else "", error)
        self._failing = frozenset(failed)


def run(
    reconciler: Reconciler,
    clock: Clock,
    *,
    until_idle: bool,
    on_report: Callable[[Report], None],
    stopped: Callable[[], bool] = lambda: False,
    leader: Leader = ALONE,
) -> None:
    """Tick until `stopped`, or with `until_idle` until nothing is left to do and nothing is on its way.

    With `until_idle` a cluster that cannot be read and the loss of the lead raise ``ClusterError``, and actions that keep
    failing end the run; without, all of these are waited for and tried again.
    """
    in_a_row = failures = 0
    hopeful, told = True, ""
    while not stopped():
        epoch = leader.begin()
        if epoch is None:
            _stand_by(leader, until_idle=until_idle)
            # Nobody looked meanwhile. When the API server is away it is the same lead that goes on later.
            reconciler.seen_since_s = clock.now_s()
            continue
        reconciler.note_clocks(clock.now_s(), clock.steady_s())
        try:
            reconciler.lead(epoch)
            report = reconciler.tick(clock.now_s())
        except ClusterError as error:
            if until_idle:
                raise
            if str(error) != told:
                log.warning("the cluster could not be read, trying again: %s", error)
            told = str(error)
            clock.wait(None)
            reconciler.seen_since_s = clock.now_s()
            continue
        told = ""
        on_report(report)
        hopeful = hopeful or report.progressed
        # A cloud that is left alone since a failure has not recovered by that.
        stuck = report.failed or (failures and report.unreachable)
        failures = failures + 1 if stuck and not report.progressed else 0
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


def _trouble(error: ModeError) -> str:
    """Return what makes an error another one: who rejects our credentials does so whatever we ask first."""
    text = str(error)
    return text.partition(": ")[2] if isinstance(error, CredentialsError) else text


def _stand_by(leader: Leader, *, until_idle: bool) -> None:
    if until_idle:
        raise NotLeadingError("another process leads by now, or may do so soon: the run ends here")
    leader.wait()


def _verdict(name: str, obj: Json, report: Report, errors: Mapping[str, ModeError]) -> Condition | None:
    """Return whether a pool works; None for one that was made after the modes were asked."""
    # What is wrong with its status is of our own making, and mended by writing it anew.
    problems = [one for one in report.problems if one.where == f"gpupool {name}" and not one.field.startswith("status")]
    if not problems and name not in {*errors, *report.cluster.machines}:
        return None
    verdict = of_pool(
        problems,
        errors.get(name),
        readable=any(pool.name == name for pool in report.cluster.pools),
        deleting="deletionTimestamp" in obj["metadata"],
    )
    return replace(verdict, generation=obj["metadata"].get("generation"))
