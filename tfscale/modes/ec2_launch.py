"""Making the call that a launch batch records, and finding out what became of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

from tfscale.errors import LaunchRefusedError, ModeError
from tfscale.market import EVERYTHING
from tfscale.model import LaunchBatch, Machine
from tfscale.modes.base import LaunchResult, Refusal, results_of
from tfscale.modes.ec2_calls import THROTTLED, Ec2Calls, code_of, message_of, shortened, translated
from tfscale.modes.ec2_fleet import machines_of_fleet, offer_ids, refusals_of_fleet
from tfscale.modes.ec2_machines import machine_of
from tfscale.modes.ec2_refusals import GONE, MISMATCH, UNFULFILLABLE, refusals_about
from tfscale.modes.ec2_run import is_run, run_offer
from tfscale.plan import some

__all__ = ["Launches"]

log = logging.getLogger(__name__)

LISTED_WITHIN_S = 60
"""How long a machine may be missing from DescribeInstances, which is eventually consistent."""


class Launches:
    """The launches of one pool.

    `observe` lists its machines. `on_gone` is told that a launch template or its image is not there, and returns whether
    another one will be made. `clock` gives seconds.
    """

    def __init__(
        self,
        calls: Ec2Calls,
        *,
        observe: Callable[[], Sequence[Machine]],
        on_gone: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._calls = calls
        self._observe = observe
        self._on_gone = on_gone
        self._clock = clock
        self._unsent: set[str] = set()
        """Batches that were prepared here, and that nobody has sent."""
        self._unlisted_since_s: dict[str, float] = {}
        """Batches of which an earlier call may have made machines that are not listed yet, and since when at the latest."""

    def expect(self, batch: str) -> None:
        """Remember that a call was prepared and not made: a refusal of it is the whole truth."""
        self._unsent.add(batch)
        self._unlisted_since_s.pop(batch, None)

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Make the recorded call, or find what it made before.

        Raises ``LaunchRefusedError`` where nothing was made for sure, ``ModeError`` where that is not known.
        """
        first = batch.name in self._unsent
        self._unsent.discard(batch.name)
        if not first:
            self._unlisted_since_s.setdefault(batch.name, self._clock())
        try:
            results = self._call(batch)
        except _RefusedError as refused:
            results = self._after(refused, batch)
        except ModeError:
            self._unlisted_since_s[batch.name] = self._clock()
            raise
        self._unlisted_since_s.pop(batch.name, None)
        return results

    def _call(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        reply = self._send(batch)
        if is_run(batch.parameters):
            return self._told(batch, [_machine(instance, batch) for instance in reply["Instances"]], [])
        if not reply.get("Instances") and not reply.get("Errors"):
            # The replay of a settled fleet may answer with its id alone.
            reply = self._read_back(str(reply["FleetId"]), batch)
        return self._told(batch, machines_of_fleet(reply, batch), refusals_of_fleet(reply, batch.parameters))

    def _send(self, batch: LaunchBatch) -> Mapping[str, Any]:
        ec2 = self._calls.ec2
        try:
            with translated(f"launch {batch.name}", refusal=LaunchRefusedError):
                reply: Mapping[str, Any] = (
                    ec2.run_instances(**batch.parameters) if is_run(batch.parameters) else ec2.create_fleet(**batch.parameters)
                )
        except ModeError as error:
            raise _meaning(error, batch) from error
        return reply

    def _told(self, batch: LaunchBatch, machines: Sequence[Machine], refusals: Sequence[Refusal]) -> Sequence[LaunchResult]:
        """Return what a settled call means. Errors beside machines are only offers without capacity, or a wish for a pause."""
        refusals = [replace(refusal, message=shortened(refusal.code, refusal.message)) for refusal in refusals]
        reasons = _reasons(refusals)
        log.info(
            "launch %s: %d of %d machines; refused: %s", batch.name, len(machines), len(batch.requests), reasons or "nothing"
        )
        passing = [refusal for refusal in refusals if refusal.code in UNFULFILLABLE]
        # EC2 counts the machines of a fleet, too: the offers that it names at random are not to blame.
        passing += [_pause(refusal.code, refusal.message) for refusal in refusals if refusal.code in THROTTLED]
        if not machines and not passing:
            gone = any(refusal.code in GONE for refusal in refusals)
            raise _RefusedError(f"launch {batch.name}: {reasons or 'nothing was launched'}", settled=True, gone=gone)
        return results_of(batch, machines, tuple(dict.fromkeys(passing)))

    def _read_back(self, fleet_id: str, batch: LaunchBatch) -> Mapping[str, Any]:
        found = [fleet for fleet in self._described(fleet_id) if fleet.get("Instances") or fleet.get("Errors")]
        if not found:
            # It may be described before its machines are. They are listed in time, if there are any.
            self._unlisted_since_s.setdefault(batch.name, self._clock())
            why = f"fleet {fleet_id} does not say what became of it"
            raise _RefusedError(f"launch {batch.name}: {why}", refusals=[_pause("NothingDescribed", why)])
        return found[0]

    def _described(self, fleet_id: str) -> Sequence[Mapping[str, Any]]:
        """Return the fleet, or none where EC2 does not know it, yet or any more."""
        # Not DescribeFleetInstances: EC2 refuses it for instant fleets.
        try:
            return self._calls.read("DescribeFleets", lambda: self._calls.ec2.describe_fleets(FleetIds=[fleet_id])["Fleets"])
        except ModeError as error:
            if not isinstance(error.__cause__, ClientError) or not code_of(error.__cause__).startswith("InvalidFleetId"):
                raise
            return []

    def _after(self, refused: _RefusedError, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Return what is there although this call was refused: an earlier one, whose reply was lost, may have been carried out.

        Capacity or a permission may be gone since, by these very machines perhaps.
        """
        earlier = [] if refused.settled else [machine for machine in self._observe() if machine.batch == batch.name]
        if len(earlier) < len(batch.requests) and not refused.settled:
            self._wait_for_listing(refused, batch)
        if earlier:
            return results_of(batch, earlier)
        if refused.refusals:
            log.info("launch %s: refused: %s", batch.name, _reasons(refused.refusals))
            return results_of(batch, (), refused.refusals)
        if refused.gone and self._on_gone():
            log.warning("%s; another one is made", refused)
            return results_of(batch, (), [_pause("Gone", str(refused))])
        raise refused

    def _wait_for_listing(self, refused: _RefusedError, batch: LaunchBatch) -> None:
        since_s = self._unlisted_since_s.get(batch.name)
        if since_s is not None and self._clock() - since_s < LISTED_WITHIN_S:
            raise ModeError(f"{refused}; but machines of an earlier call may not be listed yet") from refused


class _RefusedError(LaunchRefusedError):
    """EC2 refused this very call; `settled` where that is also what became of every earlier one with its token."""

    def __init__(
        self,
        message: str,
        *,
        settled: bool = False,
        gone: bool = False,
        refusals: Sequence[Refusal] = (),
    ) -> None:
        super().__init__(message)
        self.settled = settled
        self.gone = gone
        """Whether a launch template is not there, or its image."""
        self.refusals = refusals


def _meaning(error: ModeError, batch: LaunchBatch) -> ModeError:
    """Return what an error of the call itself means for its batch."""
    cause = error.__cause__
    code = code_of(cause) if isinstance(cause, ClientError) else ""
    if isinstance(cause, ClientError) and code in UNFULFILLABLE:
        return _RefusedError(str(error), refusals=_refusals(code, message_of(cause), batch.parameters))
    if code == MISMATCH:
        # Neither a refusal nor a reason for another token: machines may stand behind the first call.
        want = f"its parameters as they were written; look for machines with the tag tfscale.io/batch={batch.name}"
        return ModeError(f"launch {batch.name}: somebody changed the record of a call that was made: {code}; want {want}")
    if isinstance(error, LaunchRefusedError):
        return _RefusedError(str(error), gone=code in GONE)
    return error


def _machine(instance: Mapping[str, Any], batch: LaunchBatch) -> Machine:
    """Return a machine of the reply, with the tags of the call: that the reply repeats them is nowhere promised."""
    tagged: Any = {**instance, "Tags": batch.parameters["TagSpecifications"][0]["Tags"]}
    return machine_of(tagged)


def _refusals(code: str, message: str, parameters: Mapping[str, Any]) -> list[Refusal]:
    """Return what an error is about that was raised and not listed: all that the call names."""
    if is_run(parameters):
        offer = run_offer(parameters)
        return refusals_about(code, message, about=[offer], subnet=parameters.get("SubnetId", ""), among=[offer])
    offers = offer_ids(parameters)
    return refusals_about(code, message, about=offers, subnet="", among=offers)


def _pause(code: str, message: str) -> Refusal:
    return Refusal(offer=EVERYTHING, code=code, message=message)


def _reasons(refusals: Iterable[Refusal]) -> str:
    """Return each code once, with its first message: a fleet says nearly the same of each of its 300 places."""
    by_code: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        by_code.setdefault(refusal.code, []).append(refusal)
    return "; ".join(f"{some([one.offer for one in alike])}: {code}: {alike[0].message}" for code, alike in by_code.items())
