"""Modes that break one promise each, under the contract. Collected only by ``test_contract_catches.py``: all but one fail."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import pytest

from tests.modes.shelf import OFFERS, Shelf, ShelfGround, ShelfMode
from tfscale.errors import LaunchRefusedError, ModeError
from tfscale.model import LaunchBatch, Machine, NodeRequest, Offer
from tfscale.modes.base import LaunchResult, ModeContext, Order, ScalingMode
from tfscale.testing import Ground, ScalingModeContract

NUMBERS = itertools.count()


class LaunchesTwice(ShelfMode):
    """Takes every call for a new one."""

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Name machines after the moment."""
        fresh = replace(batch, requests=tuple(f"{request}-{next(NUMBERS):04}" for request in batch.requests))
        made = super().launch(fresh)
        return [replace(result, request=request) for request, result in zip(batch.requests, made, strict=True)]


class LaunchesTwiceAfterARestart(ShelfMode):
    """Keeps the token in memory alone."""

    def __init__(self, context: ModeContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        self.process = next(NUMBERS)

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Name machines after the process."""
        fresh = replace(batch, requests=tuple(f"{request}-{self.process:04}" for request in batch.requests))
        made = super().launch(fresh)
        return [replace(result, request=request) for request, result in zip(batch.requests, made, strict=True)]


class Forgets(ShelfMode):
    """Sees all of its machines but the last."""

    def observe(self) -> Sequence[Machine]:
        """Leave one out."""
        return super().observe()[:-1]


class ForgetsAfterARestart(ShelfMode):
    """Sees what it launched in this process."""

    def __init__(self, context: ModeContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        self.known: set[str] = set()

    def put(self, machine: Machine) -> None:
        """Remember the machine."""
        super().put(machine)
        self.known.add(machine.id)

    def observe(self) -> Sequence[Machine]:
        """Return what is remembered."""
        return [machine for machine in super().observe() if machine.id in self.known]


class TerminatesForeign(ShelfMode):
    """Ends whatever is named."""

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Ask nobody whose machine it is."""
        for machine_id in machine_ids:
            self.shelf.machines.pop(machine_id, None)


class SeesOthers(ShelfMode):
    """Takes every machine for its own."""

    def observe(self) -> Sequence[Machine]:
        """Return the whole shelf."""
        return list(self.shelf.machines.values())


class SeesByPrefix(ShelfMode):
    """Takes a pool whose name begins like its own for its own."""

    def observe(self) -> Sequence[Machine]:
        """Compare too little."""
        return [machine for machine in self.shelf.machines.values() if machine.pool.startswith(self.pool.name)]


class HidesWhatIsStopping(ShelfMode):
    """Takes a machine for gone as soon as it is told to end."""

    def observe(self) -> Sequence[Machine]:
        """Leave out what still exists."""
        return [machine for machine in super().observe() if not machine.stopping]


class CannotTellMachinesApart(ShelfMode):
    """Calls all of its nodes by one name."""

    def observe(self) -> Sequence[Machine]:
        """Give all the same provider id."""
        return [replace(machine, provider_id="shelf://one") for machine in super().observe()]


class BuysWhatIsWantedNow(ShelfMode):
    """Looks at the pool instead of the record."""

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Take today's offers."""
        return super().launch(replace(batch, offers=tuple(offer.id for offer in self.offers())))


class ForgetsWhenFull(ShelfMode):
    """Looks for room before it looks for what it launched."""

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Refuse a replay whose machines took the last room."""
        if self.shelf.room == 0:
            raise LaunchRefusedError("the shelf is full")
        return super().launch(batch)


class SharesMachines(ShelfMode):
    """Gives a request the first machine of the pool that is there."""

    def machine_for(self, batch: LaunchBatch, request: str) -> LaunchResult:
        """Look at the number alone."""
        return replace(super().machine_for(batch, request[-1]), request=request)


class MatchesBackwards(ShelfMode):
    """Gives the first request the last machine."""

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Turn the machines round."""
        results = super().launch(batch)
        pairs = zip(results, reversed(results), strict=True)
        return [replace(result, machine=other.machine) for result, other in pairs]


class BuysWhilePreparing(ShelfMode):
    """Makes the machines before the call is recorded."""

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:
        """Make them at once."""
        for request in requests:
            self.put(Machine(id=f"m-{request.name}", batch=name, pool=self.pool.name, offer=offers[0].id, provider_id=""))
        return super().prepare(name, requests, offers, now_s=now_s)


class SaysRefusedForLost(ShelfMode):
    """Takes a lost reply for a refusal, after which nobody looks for the machines."""

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Mistake the error."""
        try:
            return super().launch(batch)
        except ModeError as error:
            raise LaunchRefusedError(str(error)) from error


class WantsNoRecord(ShelfMode):
    """Prepares a call that cannot be written down."""

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:
        """Use a tuple as a key's value."""
        return replace(super().prepare(name, requests, offers, now_s=now_s), parameters={"token": (name,)})


class OffersTheUnwanted(ShelfMode):
    """Offers all it has to every pool."""

    def offers(self) -> Sequence[Offer]:
        """Filter nothing."""
        return OFFERS


class HeedsNoZone(ShelfMode):
    """Offers machines in zones that the pool does not want."""

    def offers(self) -> Sequence[Offer]:
        """Filter by everything else."""
        self.pool = replace(self.pool, wanted=replace(self.pool.wanted, zones=()))
        return super().offers()


class IsFree(ShelfMode):
    """Takes an unknown price for none."""

    def offers(self) -> Sequence[Offer]:
        """Write zero where nothing is known."""
        return [replace(offer, price_micro_usd=offer.price_micro_usd or 0) for offer in super().offers()]


class IgnoresOptions(ShelfMode):
    """Lets a misspelled option pass."""

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Look at no option."""
        return super().open(replace(context, pool=replace(context.pool, options={})))


class FailsOnWhatIsGone(ShelfMode):
    """Calls it an error to end what is not there."""

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Insist."""
        if {*machine_ids} - {*self.shelf.machines}:
            raise ModeError("no such machine")
        super().terminate(machine_ids)


class StaysProtected(ShelfMode):
    """Releases nothing."""

    def put(self, machine: Machine) -> None:
        """Protect the machine."""
        super().put(replace(machine, protected_until_s=7))


class ReleasesTheUnnamed(StaysProtected):
    """Takes the protection from all of the pool's machines."""

    def release(self, machine_ids: Sequence[str]) -> None:
        """Look at no name."""
        for machine in self.observe() if machine_ids else ():
            self.shelf.machines[machine.id] = replace(machine, protected_until_s=None)


class EndsWhatItReleases(ShelfMode):
    """Takes what nobody protects for what nobody needs."""

    def release(self, machine_ids: Sequence[str]) -> None:
        """End the machines."""
        self.terminate(machine_ids)


class HasNoEnd(ShelfMode):
    """Orders beyond the room there is."""

    def put(self, machine: Machine) -> None:
        """Look at no limit."""
        self.shelf.room = None
        super().put(machine)


class KeepsQuiet(ShelfMode):
    """Does not say why a request got nothing."""

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Leave the reasons out."""
        return [replace(result, refusals=()) for result in super().launch(batch)]


def contract_of(tested: type[ScalingMode]) -> type[ScalingModeContract]:
    """Return the contract of one mode."""

    class OnShelf(ShelfGround):
        mode = tested

    class Contract(ScalingModeContract):
        @pytest.fixture
        def ground(self) -> Ground:
            return OnShelf()

    return Contract


MODES: tuple[type[ScalingMode], ...] = (ShelfMode, *ShelfMode.__subclasses__(), ReleasesTheUnnamed)
globals().update({f"Test{tested.__name__}": contract_of(tested) for tested in MODES})
