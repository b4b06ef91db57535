"""What a run did, for people and for programs: one line for each thing that happened, and totals for each pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tfscale.apply import Outcome
from tfscale.errors import Problem
from tfscale.lifecycle import Event, State
from tfscale.plan import Adopt, Advance, Assign, Avoid, Forget, Launch, MarkIdle, Recover, Release, Replay, Terminate, some, usd
from tfscale.reconcile import Report

__all__ = ["Account", "PoolTotals"]


@dataclass(slots=True, kw_only=True)
class PoolTotals:
    """What happened to one pool in a run: machines that calls gave, pods bound, machines that are gone for good."""

    launched: int = 0
    bound: int = 0
    terminated: int = 0
    chosen_by_others: int = 0
    """Machines of which somebody else (Karpenter) chose type and zone."""
    removed_by_others: int = 0
    """Machines that somebody else took away or gave back."""
    machines: set[str] = field(default_factory=set)
    """Ids of the machines that are left."""
    unmet: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By pod: why it has no place at the end."""

    def as_json(self) -> dict[str, Any]:
        """Return the totals as they are printed with ``-o json``."""
        return {
            "launched": self.launched,
            "bound": self.bound,
            "unmet": [{"pod": pod, "reasons": list(reasons)} for pod, reasons in sorted(self.unmet.items())],
            "terminated": self.terminated,
            "machines_left": len(self.machines),
        }


@dataclass(slots=True)
class Account:
    """The story of a run. Give it every report; it returns the new lines."""

    pools: dict[str, PoolTotals] = field(default_factory=dict)
    problems: dict[Problem, None] = field(default_factory=dict)
    """Every problem that was seen, each once."""
    unreachable: tuple[str, ...] = ()
    """Pools whose cloud gave no answer at the last tick."""
    failed: tuple[str, ...] = ()
    """The actions of the last tick that could not be carried out, and why."""
    ticks: int = 0
    planned: list[str] = field(default_factory=list)
    """The plan of the last tick, a line each."""

    def add(self, report: Report) -> list[str]:
        """Count a report and return a line for each thing that happened in it."""
        return [*self._add(report)]

    def _add(self, report: Report) -> Iterator[str]:
        self.ticks += 1
        self.unreachable = report.unreachable
        self.planned = [*report.plan.lines()]
        self.failed = tuple(line for outcome in report.failed for line in _lines(outcome))
        for problem in report.problems:
            if problem not in self.problems:
                self.problems[problem] = None
                yield f"problem {problem}"
        for pool in report.cluster.pools:
            totals = self._pool(pool.name)
            machines = report.cluster.machines.get(pool.name)
            if machines is not None:
                totals.machines = {machine.id for machine in machines}
            totals.unmet = {}
        for unmet in report.plan.unmet:
            self._pool(unmet.pool).unmet[unmet.pod] = unmet.reasons
        for outcome in report.outcomes:
            self._count(outcome)
            yield from _lines(outcome)

    def _count(self, outcome: Outcome) -> None:
        if not outcome.done:
            return
        totals = self._pool(outcome.action.pool)
        totals.launched += len(outcome.machines)
        totals.chosen_by_others += sum(not machine.offer for machine in outcome.machines)
        # What was bought in this tick was not in the listing that the tick began with.
        totals.machines |= {machine.id for machine in outcome.machines}
        match outcome.action:
            case Assign():
                totals.bound += 1
            case Terminate(event=Event.STOPPED):
                totals.removed_by_others += 1
            case Forget(request=request) if request.machine_id:
                totals.terminated += 1
                totals.removed_by_others += request.state is not State.TERMINATING

    def _pool(self, name: str) -> PoolTotals:
        return self.pools.setdefault(name, PoolTotals())

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for was done."""
        return not (self.problems or self.unreachable or self.failed or any(totals.unmet for totals in self.pools.values()))

    def summary(self) -> Iterator[str]:
        """Yield the totals for a reader, then what was left and why."""
        for name, totals in sorted(self.pools.items()):
            yield (
                f"pool {name}: {totals.launched} nodes bought, {totals.bound} pods placed, {totals.terminated} nodes returned, "
                f"{len(totals.machines)} machines left, {len(totals.unmet)} pods without a place"
            )
            for pod, reasons in sorted(totals.unmet.items()):
                yield f"  {pod}: {'; '.join(reasons)}"
        if self.problems:
            yield f"problems: {len(self.problems)}"
            yield from (f"  {problem}" for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """Return the totals of all pools, the problems, what failed at last, and the number of ticks."""
        return {
            "pools": {name: totals.as_json() for name, totals in sorted(self.pools.items())},
            "problems": [str(problem) for problem in self.problems],
            "failed": list(self.failed),
            "complete": self.complete,
            "ticks": self.ticks,
        }


def _lines(outcome: Outcome) -> Iterator[str]:
    action = outcome.action
    if outcome.error is not None:
        yield f"failed  {action}: {outcome.error}"
        return
    if not outcome.done:
        yield f"skip    {action}: {outcome.note}"
        return
    match action:
        case Launch() | Replay() | Adopt():
            yield from _purchase(outcome)
        case Advance(request=request, before=before) if request.state is State.READY and before is not State.READY:
            yield f"ready   {request.node} ({request.offer})"
        case Assign() | Avoid() | MarkIdle() | Recover() | Release() | Terminate():
            yield str(action)
        case Forget(request=request) if request.machine_id:
            yield f"gone    {request.machine_id} {request.offer}"


def _purchase(outcome: Outcome) -> Iterator[str]:
    """Tell which offers had no capacity, which were taken instead, for whom and why."""
    action = outcome.action
    if not isinstance(action, Launch):
        yield from (f"buy     {machine.id} {machine.offer} ({action.why})" for machine in outcome.machines)
        yield from _refusals(outcome)
        return
    pods = dict(zip((request.name for request in action.requests), action.pods, strict=True))
    offers = {offer.id: offer for offer in action.offers}
    refused = {refusal.offer for refusal in outcome.refusals}
    for result in outcome.results:
        if result.machine is not None:
            offer = offers.get(result.machine.offer, action.offers[0])
            better = [wanted.id for wanted in action.offers[: action.offers.index(offer)] if wanted.id in refused]
            why = f"no capacity left for {some(better)}" if better else action.why
            what = f"{offer.id} at {usd(offer.price_micro_usd)}"
            if not result.machine.offer:
                what = f"of {len(action.offers)} offers, the best {what}," if len(action.offers) > 1 else what
            yield f"buy     {result.machine.id} {what} for {some(pods[result.request])} ({why})"
    yield from _refusals(outcome)


def _refusals(outcome: Outcome) -> Iterator[str]:
    then = "the next offer was tried" if outcome.machines else "no other offer was left in this call"
    yield from (f"refused {refusal.offer}: {refusal.code}; {then}" for refusal in outcome.refusals)
