"""A mode as the loop sees it: whatever a plug-in does wrong is a ``ModeError`` of its own pool, and the others go on.

What a mode answers is held to its types and to what the loop relies on; an answer that is not what it should be counts as
none. ``KeyboardInterrupt``, ``SystemExit`` and ``MemoryError`` are nobody's fault and pass.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tfscale.errors import (
    BadInputError,
    CloudUnreachableError,
    ClusterUnreachableError,
    ModeError,
    NotLeadingError,
    Problem,
    TfscaleError,
)
from tfscale.finding import Finding, of_check
from tfscale.kube.nodes import MOST_CARDS
from tfscale.model import LaunchBatch, Machine, NodeRequest, Notice, Offer, Trouble
from tfscale.modes.base import LaunchResult, ModeContext, Order, ScalingMode
from tfscale.pool import Pool

__all__ = ["BrokenModeError", "guarded"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_REASON = re.compile("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_STRICT = ConfigDict(strict=True, revalidate_instances="always")
_FLAGS = TypeAdapter(tuple[bool, ...], config=_STRICT)
_PROBLEMS = TypeAdapter(tuple[Problem, ...], config=_STRICT)
_OFFERS = TypeAdapter(tuple[Offer, ...], config=_STRICT)
_ORDERS = TypeAdapter(tuple[Order, ...], config=_STRICT)
_RESULTS = TypeAdapter(tuple[LaunchResult, ...], config=_STRICT)
_MACHINES = TypeAdapter(tuple[Machine, ...], config=_STRICT)
_NOTICES = TypeAdapter(tuple[Notice, ...], config=_STRICT)
_TROUBLES = TypeAdapter(tuple[Trouble, ...], config=_STRICT)
_FINDINGS = TypeAdapter(tuple[Finding, ...], config=_STRICT)


class BrokenModeError(ModeError):
    """A mode broke a promise of :class:`~tfscale.modes.base.ScalingMode`: a fault of its author, which waiting does not mend.

    The loop reports ``problem`` with the pool; of a launch the outcome is unknown.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _WrongAnswerError(Exception):
    """What is wrong with an answer, in words."""


def guarded(mode: type[ScalingMode]) -> type[ScalingMode]:
    """Return this mode with its faults contained. It is opened, asked and told like any other."""

    class Guarded(_Guard):
        name: ClassVar[str] = str(getattr(mode, "name", mode))
        reclaims_idle: ClassVar[bool] = getattr(mode, "reclaims_idle", False)
        in_cluster: ClassVar[bool] = getattr(mode, "in_cluster", False)
        guards: ClassVar[type[ScalingMode]] = mode

    return Guarded


class _Guard:
    name: ClassVar[str]
    reclaims_idle: ClassVar[bool]
    in_cluster: ClassVar[bool]
    guards: ClassVar[type[ScalingMode]]

    def __init__(self, mode: ScalingMode, pool: Pool) -> None:
        self._mode = mode
        self._pool = pool

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Open the mode. Raises ``BadInputError`` also where it cannot be opened for any other reason."""
        try:
            with _contained("open", context.pool, BadInputError):
                _typed(_FLAGS, (cls.guards.reclaims_idle, cls.guards.in_cluster))
                return cls(cls.guards.open(context), context.pool)
        except BrokenModeError as error:
            raise BadInputError(error.problem) from error

    def check(self) -> Sequence[Problem]:
        """Return the mode's problems, or that it cannot tell them."""
        try:
            with _contained("check", self._pool, BadInputError):
                return _typed(_PROBLEMS, self._mode.check())
        except BrokenModeError as error:
            return [error.problem]

    def offers(self) -> Sequence[Offer]:
        """Return the mode's offers."""
        with _contained("offers", self._pool):
            offers = _typed(_OFFERS, self._mode.offers())
            _expect_once("offer", [offer.id for offer in offers])
            for offer in offers:
                _expect(_is_sane(offer), f"the amounts of offer {offer.id}, one of which is below zero or beyond belief")
                _expect(offer.price_micro_usd != 0, f"the price of offer {offer.id}, which is zero: an unknown one is None")
            return offers

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:
        """Return the mode's order."""
        with _contained("prepare", self._pool):
            (order,) = _typed(_ORDERS, [self._mode.prepare(name, requests, offers, now_s=now_s)])
            _expect(_as_stored(order.parameters) == order.parameters, "the parameters, which are not plain JSON")
            _expect(bool(order.offers), "an order without offers")
            _expect_once("offer", order.offers)
            _expect_among({offer.id for offer in offers}, "offer", order.offers)
            return order

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Return the mode's results."""
        with _contained("launch", self._pool):
            results = _typed(_RESULTS, self._mode.launch(batch))
            _expect([*batch.requests] == [result.request for result in results], "results that are not one for each request")
            machines = [result.machine for result in results if result.machine]
            self._expect_ours(machines)
            _expect_among({batch.name}, "batch", [machine.batch for machine in machines])
            return results

    def observe(self) -> Sequence[Machine]:
        """Return the mode's machines."""
        with _contained("observe", self._pool):
            machines = _typed(_MACHINES, self._mode.observe())
            self._expect_ours(machines)
            _expect_words([machine.trouble for machine in machines if machine.trouble])
            return machines

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Give machines back."""
        with _contained("terminate", self._pool):
            self._mode.terminate(machine_ids)

    def hold(self, machine_ids: Sequence[str]) -> None:
        """Hold machines."""
        with _contained("hold", self._pool):
            self._mode.hold(machine_ids)

    def release(self, machine_ids: Sequence[str]) -> None:
        """Release machines."""
        with _contained("release", self._pool):
            self._mode.release(machine_ids)

    def notices(self) -> Sequence[Notice]:
        """Return what was said about machines."""
        with _contained("notices", self._pool):
            notices = _typed(_NOTICES, self._mode.notices())
            _expect_once("notice", [notice.id for notice in notices])
            return notices

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Forget notices."""
        with _contained("acknowledge", self._pool):
            self._mode.acknowledge(notices)

    def explain(self, machine_ids: Sequence[str]) -> Mapping[str, Trouble]:
        """Return what the mode knows about the end of machines; nothing where it does not say."""
        look = getattr(self._mode, "explain", None)
        if look is None:
            return {}
        with _contained("explain", self._pool):
            said = dict(look(machine_ids))
            _typed(_TROUBLES, said.values())
            _expect_among({*machine_ids}, "machine", [*said])
            _expect_words(said.values())
            return said

    def withheld(self) -> Sequence[str]:
        """Return what the mode knows of why it offers nothing; nothing where it does not say."""
        look = getattr(self._mode, "withheld", None)
        if look is None:
            return ()
        with _contained("withheld", self._pool):
            said = tuple(look())
            _expect(all(isinstance(one, str) for one in said), "reasons that are not all texts")
            return said

    def settle(self) -> None:
        """Let the mode put in order what no machine stands for; nothing where it has nothing of that kind."""
        put = getattr(self._mode, "settle", None)
        if put is not None:
            with _contained("settle", self._pool):
                put()

    def examine(self) -> Sequence[Finding]:
        """Return what the mode's own doctor finds, or where it has none, its check."""
        look = getattr(self._mode, "examine", None)
        if look is None:
            return of_check(self._pool.name, self.name, self.check())
        with _contained("examine", self._pool):
            return _typed(_FINDINGS, look())

    def _expect_ours(self, machines: Sequence[Machine]) -> None:
        _expect(all(machine.id for machine in machines), "a machine without id")
        _expect_once("machine", [machine.id for machine in machines])
        _expect_among({self._pool.name}, "pool", [machine.pool for machine in machines])


@contextmanager
def _contained(method: str, pool: Pool, *known: type[TfscaleError]) -> Iterator[None]:
    try:
        yield
    except known:
        raise
    except (MemoryError, ModeError, NotLeadingError):
        raise
    except ClusterUnreachableError as error:
        raise CloudUnreachableError(f"{method}: {error}") from error
    except TfscaleError as error:
        # The cluster refused something, or an object there is wrong: no fault of the mode, but nothing that others wait for.
        raise ModeError(f"{method}: {error}") from error
    except Exception as error:
        log.debug("pool %s: mode %s: %s failed", pool.name, pool.mode, method, exc_info=True)
        want = f"a mode that keeps its promises, which its method {method} does not: {_told(error)}"
        raise BrokenModeError(Problem(where=f"gpupool {pool.name}", field="spec.mode", value=pool.mode, want=want)) from error


def _told(error: Exception) -> str:
    """Return the error in one line; its own ``__str__`` may fail too."""
    match error:
        case _WrongAnswerError():
            return f"it answers with {error}"
        case ValidationError():
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            return f"it answers with a wrong type at {place}: {first['msg']}"
        case _:
            return " ".join("".join(traceback.format_exception_only(error)).split())


def _typed(adapter: TypeAdapter[tuple[T, ...]], answer: Iterable[object]) -> tuple[T, ...]:
    """Return the answer, read once. What is validated is only looked at: the mode's own objects are passed on."""
    items: tuple[Any, ...] = tuple(answer)
    adapter.validate_python(items)
    return items


def _as_stored(parameters: Mapping[str, Any]) -> object:
    return json.loads(json.dumps(dict(parameters), allow_nan=False))


def _is_sane(offer: Offer) -> bool:
    amounts = (offer.price_micro_usd or 0, offer.vram_mib, offer.mtflops, offer.cpu_milli, offer.memory_mib, offer.pods_max)
    return min(amounts) >= 0 and 0 <= offer.gpu_count <= MOST_CARDS


def _expect(holds: bool, wrong: str) -> None:  # noqa: FBT001 - as an assertion has it
    if not holds:
        raise _WrongAnswerError(wrong)


def _expect_words(troubles: Iterable[Trouble]) -> None:
    """The API server refuses a condition with another reason, and all of the status with it."""
    wrong = [trouble.reason for trouble in troubles if not _REASON.fullmatch(trouble.reason)]
    _expect(not wrong, f"a reason that is no word in CamelCase: {', '.join(map(repr, wrong[:3]))}")


def _expect_once(what: str, ids: Sequence[str]) -> None:
    twice = sorted(one for one, count in Counter(ids).items() if count > 1)
    _expect(not twice, f"the {what} {', '.join(map(repr, twice[:3]))} more than once")


def _expect_among(allowed: Collection[str], what: str, named: Sequence[str]) -> None:
    others = sorted({*named} - {*allowed})
    _expect(not others, f"the {what} {', '.join(map(repr, others[:3]))}, which was not asked for")
