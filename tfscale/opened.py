"""The modes of all pools: opened, kept open from round to round, and asked what there is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tfscale.decide import Supply
from tfscale.errors import BadInputError, CredentialsError, ModeError, NotLeadingError, Problem
from tfscale.lifecycle import State
from tfscale.model import Cluster, Machine, Notice, Trouble
from tfscale.modes.base import ModeContext, ScalingMode
from tfscale.modes.guarded import guarded
from tfscale.pool import Pool

__all__ = ["REJECTED_FOR_S", "Answers", "FindMode", "OpenModes", "Opened", "acknowledge", "ask", "explained"]

REJECTED_FOR_S = 60
"""How long a cloud that rejected our credentials is left alone. Each round would be refused again."""


class FindMode(Protocol):
    """Finds the class of a mode by its name; `where` and `field` say who names it."""

    def __call__(self, name: str, *, where: str, field: str) -> type[ScalingMode]:
        """Return the class, or raise ``BadInputError``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A mode that was opened for a pool. With problems it is asked what it launched, but buys nothing."""

    rules: Pool
    mode: ScalingMode | None
    problems: tuple[Problem, ...] = ()
    failure: ModeError | None = None
    """Why it could not be opened, could not tell its problems, or is left alone."""
    rejected_s: int | None = None
    """When its cloud rejected our credentials."""
    doubted: bool = False
    """It offered nothing, and what it hangs on may have changed since it was checked."""

    @property
    def usable(self) -> ScalingMode | None:
        """The mode, unless its cloud is left alone."""
        return None if isinstance(self.failure, CredentialsError) else self.mode

    def keeps(self, rules: Pool, now_s: int) -> bool:
        """Return whether it need not be opened again, or not yet."""
        if self.rules != rules:
            return False
        if self.rejected_s is None:
            return not self.problems and self.failure is None and not self.doubted
        # A clock that was set back must not make it long.
        return 0 <= now_s - self.rejected_s < REJECTED_FOR_S


class OpenModes:
    """The modes of one process. `find` finds the class of a mode, `context_of` makes what it is opened with."""

    def __init__(self, find: FindMode, context_of: Callable[[Pool], ModeContext]) -> None:
        self._find = find
        self._context_of = context_of
        self._open: dict[str, Opened] = {}

    def of(self, pools: Iterable[Pool], now_s: int) -> dict[str, Opened]:
        """Return an open mode for each pool, or what is wrong with it. It is opened again when the pool's rules changed."""
        opened: dict[str, Opened] = {}
        for pool in pools:
            rules = replace(pool, set_aside=(), deleting=False, guarded=False)
            known = self._open.get(pool.name)
            opened[pool.name] = known if known and known.keeps(rules, now_s) else self._opened(pool, rules)
        self._open = opened
        return opened

    def usable(self) -> dict[str, ScalingMode]:
        """Return those that may be asked and told something."""
        return {name: mode for name, one in self._open.items() if (mode := one.usable)}

    def close_moved(self, pools: Iterable[Pool]) -> set[str]:
        """Close the modes of pools that somebody moved to another one since they were opened. Return these pools."""
        moved = {pool.name for pool in pools if pool.name in self._open and self._open[pool.name].rules.mode != pool.mode}
        self._open = {name: one for name, one in self._open.items() if name not in moved}
        return moved

    def doubt(self, supplies: Mapping[str, Supply]) -> None:
        """Check those again in the next round that offer nothing of a cluster where they could: a NodePool may have gone."""
        for name in [name for name, supply in supplies.items() if supply.in_cluster and not supply.offers]:
            self._open[name] = replace(self._open[name], doubted=True)

    def leave_alone(self, failures: Mapping[str, ModeError], now_s: int) -> None:
        """Ask no cloud that rejected our credentials for a while. Then its mode is opened anew, and they are read anew."""
        for name, error in failures.items():
            known = self._open.get(name)
            if isinstance(error, CredentialsError) and known and known.rejected_s is None:
                self._open[name] = replace(known, failure=error, rejected_s=now_s)

    def _opened(self, pool: Pool, rules: Pool) -> Opened:
        mode: ScalingMode | None = None
        try:
            found = self._find(pool.mode, where=f"gpupool {pool.name}", field="spec.mode")
            mode = guarded(found).open(self._context_of(pool))
            return Opened(rules=rules, mode=mode, problems=tuple(mode.check()))
        except BadInputError as error:
            return Opened(rules=rules, mode=mode, problems=error.problems)
        except ModeError as error:
            return Opened(rules=rules, mode=mode, failure=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the modes said, by pool. One that gave no answer is only in ``errors``; one may be elsewhere, too."""

    machines: Mapping[str, Sequence[Machine]]
    supplies: Mapping[str, Supply]
    notices: Mapping[str, Sequence[Notice]]
    errors: dict[str, ModeError]

    def without(self, pools: Collection[str]) -> Answers:
        """Return them as if the modes of these pools had given none."""
        machines = {name: given for name, given in self.machines.items() if name not in pools}
        return replace(self, machines=machines, supplies={name: self.supplies[name] for name in self.supplies.keys() - pools})


def ask(opened: Mapping[str, Opened], *, listen: bool) -> Answers:
    """Ask each mode what it launched and what it offers, and to `listen` also what it was told ahead of time.

    What one process was told, a queue may keep from the others for a while.
    """
    machines: dict[str, Sequence[Machine]] = {}
    supplies: dict[str, Supply] = {}
    notices: dict[str, Sequence[Notice]] = {}
    errors: dict[str, ModeError] = {}
    for name, one in opened.items():
        if one.failure is not None:
            errors[name] = one.failure
        mode = one.usable
        if mode is None:
            continue
        try:
            notices[name] = mode.notices() if listen else ()
        except ModeError as error:
            errors[name] = error
        try:
            machines[name] = mode.observe()
            offers = () if one.problems else mode.offers()
            guard: Any = mode
            supplies[name] = Supply(
                offers=offers,
                withheld=() if one.problems or offers else guard.withheld(),
                reclaims_idle=mode.reclaims_idle,
                in_cluster=mode.in_cluster,
            )
        except ModeError as error:
            errors[name] = error
    return Answers(machines=machines, supplies=supplies, notices=notices, errors=errors)


def explained(modes: Mapping[str, ScalingMode], cluster: Cluster) -> tuple[dict[str, Trouble], dict[str, ModeError]]:
    """Ask why machines went, or go, whose nodes never joined. Return what is known by machine, and the errors by pool."""
    troubles: dict[str, Trouble] = {}
    errors: dict[str, ModeError] = {}
    for name, mode in modes.items():
        lost = _lost(name, cluster)
        try:
            guard: Any = mode
            troubles |= guard.explain(lost) if lost else {}
        except ModeError as error:
            errors[name] = error
    return troubles, errors


def _lost(pool: str, cluster: Cluster) -> list[str]:
    """Return the machines of a pool that are gone or going before their nodes joined; none where they were not told."""
    if pool not in cluster.machines:
        return []
    stays = {machine.id for machine in cluster.machines[pool] if not machine.stopping}
    waiting = [one for one in cluster.requests if one.pool == pool and one.state is State.LAUNCHED]
    return sorted(one.machine_id for one in waiting if one.machine_id not in stays)


def settle(modes: Mapping[str, ScalingMode]) -> dict[str, ModeError]:
    """Let each mode put in order what no machine stands for. Return the errors by pool; it is done again in the next round."""
    errors: dict[str, ModeError] = {}
    for name, mode in modes.items():
        guard: Any = mode
        try:
            guard.settle()
        except NotLeadingError:
            break
        except ModeError as error:
            errors[name] = error
    return errors


def acknowledge(
    modes: Mapping[str, ScalingMode], notices: Mapping[str, Sequence[Notice]], heard: Collection[str]
) -> dict[str, ModeError]:
    """Tell each mode which of its notices need not be said again; return the errors by pool. They are said again then."""
    errors: dict[str, ModeError] = {}
    for name, given in notices.items():
        known = [notice for notice in given if notice.id in heard]
        if known and name in modes:
            try:
                modes[name].acknowledge(known)
            except NotLeadingError:
                break
            except ModeError as error:
                errors[name] = error
    return errors
