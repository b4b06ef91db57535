"""Modes with a planted bug each, which the schedules must find: else they would prove nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from tfscale.errors import LaunchRefusedError, ModeError, NotLeadingError
from tfscale.kube.port import NODE_REQUESTS
from tfscale.model import LaunchBatch, Machine
from tfscale.modes.base import LaunchResult, ModeContext, ScalingMode
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.managed_nodeclaim import ManagedNodeClaimMode
from tfscale.reconcile import FindMode

__all__ = ["BUGS", "planted"]

_PROCESSES = itertools.count()


class TokenRecomputed(Ec2Mode):
    """Makes a token of its own for each call instead of sending the recorded one."""

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Send the recorded call under a token that nobody has seen."""
        token = f"{batch.parameters['ClientToken'][:40]}-{next(_PROCESSES)}"
        return super().launch(replace(batch, parameters={**batch.parameters, "ClientToken": token}))


class CollectorOff(Ec2Mode):
    """Sees only machines that a record names."""

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Remember where the records are."""
        mode = super().open(context)
        mode._kube = context.kube  # noqa: SLF001 - its own
        return mode

    def observe(self) -> Sequence[Machine]:
        """Leave out what no request and no batch names."""
        records = self._kube.list(NODE_REQUESTS).items
        named = {record.get("status", {}).get("machineId") for record in records}
        return [machine for machine in super().observe() if machine.id in named]


class NewBatchAfterTimeout(Ec2Mode):
    """Takes a call without answer for one that launched nothing."""

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Conclude too much."""
        try:
            return super().launch(batch)
        except (LaunchRefusedError, NotLeadingError):
            raise
        except ModeError as error:
            raise LaunchRefusedError(str(error)) from error


class ClaimsNamedAnew(ManagedNodeClaimMode):
    """Gives claims other names each time, instead of those that the record has."""

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Create the recorded claims under names that nobody has seen."""
        claims = {
            request: {**claim, "metadata": {**claim["metadata"], "name": f"{request}-{next(_PROCESSES)}"}}
            for request, claim in batch.parameters["claims"].items()
        }
        return super().launch(replace(batch, parameters={"claims": claims}))


BUGS: Mapping[str, type[ScalingMode]] = {
    "token recomputed": TokenRecomputed,
    "collector off": CollectorOff,
    "new batch after a timeout": NewBatchAfterTimeout,
    "claims named anew": ClaimsNamedAnew,
}


def planted(bug: str) -> FindMode:
    """Return what finds the mode with this bug, whatever mode is asked for."""

    def find(name: str, *, where: str, field: str) -> type[ScalingMode]:  # noqa: ARG001 - as FindMode has it
        return BUGS[bug]

    return find
