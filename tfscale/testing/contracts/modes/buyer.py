"""Who buys in the tests of the contract: a pool's loop, as far as its mode can tell."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest

from tfscale.errors import ModeError
from tfscale.kube.records import read_batch, write_batch
from tfscale.model import LaunchBatch, Machine, NodeRequest, Offer
from tfscale.modes.base import LaunchResult, Order, ScalingMode
from tfscale.testing.contracts.modes.ground import Ground

__all__ = ["NOW_S", "Buyer", "recorded"]

NOW_S = 1_800_000_000
_MOST_ROUNDS = 5
_NUMBERS = itertools.count(1)
"""Of batches: no name is used twice in a world that several tests share."""


@dataclass(slots=True)
class Buyer:
    """Prepares calls, records them as the loop does, and makes them."""

    ground: Ground
    pool: str
    mode: ScalingMode = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything, as a new process does."""
        self.mode = self.ground.mode.open(self.ground.context(self.pool))

    def wants(self, instance_type: str) -> None:
        """Let the pool want one instance type alone from now on, as if somebody had edited it."""
        context = self.ground.context(self.pool)
        wanted = replace(context.pool.wanted, instance_types=(instance_type,))
        self.mode = self.ground.mode.open(replace(context, pool=replace(context.pool, wanted=wanted)))

    def offers(self) -> list[Offer]:
        """Return what one call may name: offers of one capacity type, the best first."""
        offers = sorted(self.mode.offers(), key=_rank)
        return [offer for offer in offers if offer.capacity_type == offers[0].capacity_type]

    def order(self, name: str, count: int) -> tuple[Order, list[NodeRequest]]:
        """Prepare a call for so many machines."""
        requests = [NodeRequest(name=f"{name}-{number}", pool=self.pool, mode=self.mode.name) for number in range(count)]
        return self.mode.prepare(name, requests, self.offers(), now_s=NOW_S), requests

    def batch(self, count: int = 1) -> LaunchBatch:
        """Return the record of a call that was prepared, as it comes back from Kubernetes."""
        if not self.ground.buys:
            pytest.skip("buys nothing")
        name = f"{self.pool}-{next(_NUMBERS)}"
        order, requests = self.order(name, count)
        return recorded(
            LaunchBatch(
                name=name,
                pool=self.pool,
                mode=self.mode.name,
                requests=tuple(sorted(request.name for request in requests)),
                parameters=order.parameters,
                offers=order.offers,
                created_s=NOW_S,
            )
        )

    def launch(self, batch: LaunchBatch) -> list[LaunchResult]:
        """Make the call, from a record that was read once more, and return one result for each request in the batch's order."""
        results = list(self.mode.launch(recorded(batch)))
        assert list(batch.requests) == [result.request for result in results]
        return results

    def bought(self, count: int = 1) -> list[Machine]:
        """Return so many machines, launched with one call, after the world has settled."""
        results = self.launch(self.batch(count))
        self.ground.settle()
        machines = [result.machine for result in results if result.machine]
        assert count == len(machines)
        return machines

    def give_back(self, machine_ids: Sequence[str]) -> None:
        """Terminate as the loop does: again and again until the machines are no longer seen."""
        for _ in range(_MOST_ROUNDS):
            with suppress(ModeError):
                self.mode.terminate(machine_ids)
            self.ground.settle()
            if not self.seen() & {*machine_ids}:
                return
        pytest.fail(f"still seen after {_MOST_ROUNDS} calls of terminate: {sorted(self.seen() & {*machine_ids})}")

    def seen(self) -> set[str]:
        """Return the ids of what the mode observes."""
        return {machine.id for machine in self.mode.observe()}


def recorded(batch: LaunchBatch) -> LaunchBatch:
    """Return the batch after it was written to Kubernetes and read again."""
    return read_batch(json.loads(json.dumps(write_batch(batch))))


def _rank(offer: Offer) -> tuple[bool, int, str]:
    """Order offers as the loop does: by price, unknown prices last."""
    return (offer.price_micro_usd is None, offer.price_micro_usd or 0, offer.id)
