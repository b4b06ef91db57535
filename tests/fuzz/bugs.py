"""Modes with a planted bug each, which the schedules must find: else they would prove nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from tfscale.errors import LaunchRefusedError, ModeError, NotLeadingError
from tfscale.kube.port import NODE_REQUESTS, Json
from tfscale.model import LaunchBatch, Machine
from tfscale.modes.base import LaunchResult, ModeContext, ScalingMode
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.managed_nodeclaim import ManagedNodeClaimMode
from tfscale.modes.nodeclaim_calls import Claims
from tfscale.modes.reuse_nodeclaim import ReuseNodeClaimMode
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


class ClaimRenamed(ManagedNodeClaimMode):
    """Gives the claims of each call names of their own instead of the recorded ones."""

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Create claims that nobody has seen."""
        claims: dict[str, Json] = {}
        for claim in batch.parameters["claims"].values():
            name = f"{claim['metadata']['name']}-{next(_PROCESSES)}"
            claims[name] = {**claim, "metadata": {**claim["metadata"], "name": name}}
        made = super().launch(replace(batch, requests=tuple(claims), parameters={"claims": claims}))
        return [replace(result, request=request) for result, request in zip(made, batch.requests, strict=True)]


class ClaimsOfOthers(ReuseNodeClaimMode):
    """Takes every claim with the pool's label for its own."""

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Trust the label alone."""
        mode = super().open(context)
        mode._claims = _Trusting(context.kube, pool=context.pool.name, mode=cls.name)  # noqa: SLF001 - its own
        return mode


class _Trusting(Claims):
    def _is_ours(self, claim: Json) -> bool:
        return bool(claim["metadata"].get("labels"))


BUGS: Mapping[str, type[ScalingMode]] = {
    "token recomputed": TokenRecomputed,
    "collector off": CollectorOff,
    "new batch after a timeout": NewBatchAfterTimeout,
    "claim renamed": ClaimRenamed,
    "claims of others": ClaimsOfOthers,
}


def planted(bug: str) -> FindMode:
    """Return what finds the mode with this bug, whatever mode is asked for."""

    def find(name: str, *, where: str, field: str) -> type[ScalingMode]:  # noqa: ARG001 - as FindMode has it
        return BUGS[bug]

    return find
