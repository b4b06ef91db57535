"""Making the call that a launch batch records, and finding out what became of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from tfscale.errors import LaunchRefusedError, ModeError
from tfscale.model import LaunchBatch, Machine
from tfscale.modes.base import LaunchResult, Refusal, results_of
from tfscale.modes.ec2_calls import THROTTLED, Ec2Calls, code_of, message_of, translated
from tfscale.modes.ec2_fleet import machines_of_fleet, offer_ids, refusals_of_fleet
from tfscale.modes.ec2_machines import machine_of
from tfscale.modes.ec2_refusals import GONE, MISMATCH, UNFULFILLABLE, refusals_about
from tfscale.modes.ec2_run import is_run, run_offer

__all__ = ["Launches"]

log = logging.getLogger(__name__)

LISTED_WITHIN_S = 60
"""How long a machine may be missing from DescribeInstances, which is eventually consistent."""
PAUSE_S = 5
"""How long to wait where nothing was launched and no offer is to blame: the next order may ask for the same at once."""


class Launches:
    """The launches of one pool.

    `observe` lists its machines. `on_gone` is told that a launch template or its image is not there, and returns whether
    another one will be made. `clock` gives seconds, `sleep` waits for so many.
    """

    def __init__(
        self,
        calls: Ec2Calls,
        *,
        observe: Callable[[], Sequence[Machine]],
        on_gone: Callable[[], bool],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._calls = calls
        self._observe = observe
        self._on_gone = on_gone
        self._clock = clock
        self._sleep = sleep
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
        """Return what a settled call means. Errors beside machines are only offers without capacity."""
        capacity = [refusal for refusal in refusals if refusal.code in UNFULFILLABLE]
        reasons = _reasons(refusals)
        log.info(
            "launch %s: %d of %d machines; refused: %s", batch.name, len(machines), len(batch.requests), reasons or "nothing"
        )
        if not machines and not capacity:
            codes = {refusal.code for refusal in refusals}
            blameless, gone = codes <= THROTTLED, not codes.isdisjoint(GONE)
            raise _RefusedError(f"launch {batch.name}: {reasons}", settled=True, blameless=blameless, gone=gone)
        return results_of(batch, machines, capacity)

    def _read_back(self, fleet_id: str, batch: LaunchBatch) -> Mapping[str, Any]:
        # Not DescribeFleetInstances: EC2 refuses it for instant fleets.
        fleets = self._calls.read("DescribeFleets", lambda: self._calls.ec2.describe_fleets(FleetIds=[fleet_id])["Fleets"])
        found = [fleet for fleet in fleets if fleet.get("Instances") or fleet.get("Errors")]
        if not found:
            # It may be described before its machines are. They are listed in time, if there are any.
            self._unlisted_since_s.setdefault(batch.name, self._clock())
            raise _RefusedError(f"launch {batch.name}: fleet {fleet_id} does not say what became of it", blameless=True)
        return found[0]

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
        elif not refused.blameless:
            raise refused
        self._sleep(PAUSE_S)
        return results_of(batch, ())

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
        blameless: bool = False,
        gone: bool = False,
        refusals: Sequence[Refusal] = (),
    ) -> None:
        super().__init__(message)
        self.settled = settled
        self.blameless = blameless
        """Whether no other offer would have fared better."""
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


def _reasons(refusals: Iterable[Refusal]) -> str:
    return "; ".join(f"{refusal.offer}: {refusal.code}: {refusal.message}" for refusal in refusals)
