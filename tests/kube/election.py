"""A world of electors in simulated time. While one waits for an answer the others go on, so their calls overlap in any way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from tfscale.errors import ClusterError, ClusterUnreachableError, NotFoundError, NotLeadingError
from tfscale.kube.leader import Elector
from tfscale.kube.port import LEASES, Json, Kube
from tfscale.lease import Terms
from tfscale.testing import FakeKube

__all__ = ["TERMS", "Fate", "Replica", "World"]

WHERE = ("tfscale", "default")
TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one call."""

    before_s: float = 0.01
    """Until the server carries it out."""
    after_s: float = 0.01
    """From then on until the answer is there."""
    lost: str = ""
    """``request``: it is never carried out. ``answer``: it is, and nobody hears of it.

    ``patience``: the caller gives up first, and may have called again when it is carried out.
    """


class Line:
    """The connection of one replica to the API server."""

    def __init__(self, world: World, replica: Replica) -> None:
        self._world = world
        self._replica = replica

    def __getattr__(self, name: str) -> Callable[..., Json]:
        """Return a verb that takes time and may fail."""
        verb = getattr(self._world.kube, name)

        def call(*args: Any, **options: Any) -> Json:  # noqa: ANN401 - as the verb
            fates = self._replica.fates
            fate = fates.popleft() if fates else Fate()
            self._world.advance(fate.before_s)
            if fate.lost == "request" or self._world.down:
                raise ClusterUnreachableError(f"{name}: no answer")
            if fate.lost == "patience":
                self._world.carry_out(fate.after_s, partial(verb, *args, **options))
                raise ClusterUnreachableError(f"{name}: no answer")
            done: Json = verb(*args, **options)
            self._world.advance(fate.after_s)
            if fate.lost == "answer":
                raise ClusterUnreachableError(f"{name}: no answer")
            return done

        return call


@dataclass(eq=False)
class Replica:
    """One process: an elector, its clocks, and a loop that asks before everything whether it may act."""

    number: int
    speed: float
    """Seconds of its clock for each true second."""
    terms: Terms
    wall_s: float = 1.8e9
    due_s: float = 0.0
    """When its thread looks at the Lease again."""
    round_over_s: float = 0.0
    """Until when the round of its loop lasts at least."""
    begun: int | None = None
    """The epoch in which that round began."""
    busy: bool = False
    alive: bool = True
    fates: deque[Fate] = field(default_factory=deque)
    elector: Elector = field(init=False)

    def believes(self) -> int | None:
        """Return the epoch in which it would write now. A round writes in the epoch in which it began, or not at all."""
        try:
            epoch = self.elector.epoch() if self.alive else None
        except NotLeadingError:
            return None
        assert epoch in (None, self.begun)
        return epoch


class World:
    """The truth: one time, one API server, and what each replica believes."""

    def __init__(self, *kinds: tuple[float, Terms]) -> None:
        self.now_s = 0.0
        self.kube = FakeKube(now=lambda: self.now_s, seed=1)
        self.down = False
        self._on_the_way: list[tuple[float, Callable[[], Json]]] = []
        self.replicas: list[Replica] = []
        self.terms: list[tuple[str, int]] = []
        """Who led, and in which epoch, in order."""
        for number, (speed, terms) in enumerate(kinds):
            self.start(number, speed, terms)

    def start(self, number: int, speed: float = 1.0, terms: Terms = TERMS) -> Replica:
        """Start a replica that knows nothing."""
        replica = Replica(number, speed, terms, due_s=self.now_s)
        line = cast("Kube", Line(self, replica))
        replica.elector = Elector(
            line,
            namespace=WHERE[1],
            name=WHERE[0],
            identity=f"r{number}",
            terms=terms,
            # Clocks that count from different moments.
            clock=lambda: 1_000.0 * number + self.now_s * speed,
            wall=lambda: replica.wall_s + self.now_s,
        )
        self.replicas = [other for other in self.replicas if other.number != number] + [replica]
        return replica

    def advance(self, by_s: float) -> None:
        """Let time pass. Whoever waits for an answer meanwhile gets it afterwards."""
        end_s = self.now_s + by_s
        while ready := [one for one in self.replicas if one.alive and not one.busy and one.due_s <= end_s]:
            first = min(ready, key=lambda one: (one.due_s, one.number))
            self.now_s = max(self.now_s, first.due_s)
            self._step(first)
        self.now_s = max(self.now_s, end_s)

    def carry_out(self, after_s: float, call: Callable[[], Json]) -> None:
        """Carry out a call that nobody waits for any more, at the first look after so long."""
        self._on_the_way.append((self.now_s + after_s, call))

    def _arrive(self) -> None:
        arrived = [call for due_s, call in self._on_the_way if due_s <= self.now_s]
        self._on_the_way = [one for one in self._on_the_way if one[0] > self.now_s]
        for call in arrived:
            with suppress(ClusterError):
                call()

    def _step(self, replica: Replica) -> None:
        self._arrive()
        replica.busy = True
        pause_s = replica.elector.step()
        if self.now_s >= replica.round_over_s:
            replica.begun = replica.elector.begin()
        replica.busy = False
        replica.due_s = max(replica.due_s, self.now_s + max(pause_s, 0.01) / replica.speed)
        self.look()

    def look(self) -> None:
        """Check that at most one believes to lead, and note who."""
        leaders = [(one.elector.identity, epoch) for one in self.replicas if (epoch := one.believes()) is not None]
        assert len(leaders) <= 1, leaders
        if leaders and leaders[0] not in self.terms:
            self.terms += leaders

    def lease(self) -> Json | None:
        """Return what the Lease says, or None where there is none."""
        try:
            spec: Json = self.kube.get(LEASES, WHERE[0], namespace=WHERE[1])["spec"]
        except NotFoundError:
            return None
        return spec

    def edit(self, spec: Json) -> None:
        """Let somebody change the Lease by hand."""
        if self.lease() is not None:
            self.kube.patch(LEASES, WHERE[0], {"spec": spec}, namespace=WHERE[1])

    def delete(self) -> None:
        """Let somebody delete the Lease."""
        if self.lease() is not None:
            self.kube.delete(LEASES, WHERE[0], namespace=WHERE[1])
