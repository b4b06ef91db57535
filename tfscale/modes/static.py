"""Fixed nodes, for example on premises: there is nothing to buy and nothing to give back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from tfscale.errors import BadInputError, LaunchRefusedError, Problem
from tfscale.model import LaunchBatch, Machine, NodeRequest, Notice, Offer
from tfscale.modes.base import LaunchResult, ModeContext, Order, ScalingMode

__all__ = ["StaticMode"]


class StaticMode:
    """Pods are placed on the nodes that are there; demand that fits nowhere is only reported."""

    name: ClassVar[str] = "static"
    # The nodes are somebody else's: an idle one stays.
    reclaims_idle: ClassVar[bool] = True
    in_cluster: ClassVar[bool] = True

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Return the mode. It has no options."""
        for key, value in context.pool.options.items():
            where = f"gpupool {context.pool.name}"
            raise BadInputError(
                Problem(where=where, field=f"spec.options.{key}", value=str(value), want="no options for mode static")
            )
        return cls()

    def check(self) -> Sequence[Problem]:
        """Return nothing: there is nothing that could be missing."""
        return ()

    def offers(self) -> Sequence[Offer]:
        """Return nothing: there is nothing to buy."""
        return ()

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:
        """Raise ``LaunchRefusedError``."""
        raise LaunchRefusedError(f"mode static buys no nodes: {name} asks for {len(requests)} of {len(offers)} offers at {now_s}")

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Raise ``LaunchRefusedError``."""
        raise LaunchRefusedError(f"mode static buys no nodes: {batch.name} asks for {len(batch.requests)}")

    def observe(self) -> Sequence[Machine]:
        """Return nothing: no node here was launched by tfscale."""
        return ()

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: no machine here was launched by tfscale."""

    def hold(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nobody removes these nodes."""

    def release(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nothing here is protected."""

    def notices(self) -> Sequence[Notice]:
        """Return nothing: nobody takes these nodes away."""
        return ()

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Do nothing: there are no notices."""


_: type[ScalingMode] = StaticMode
