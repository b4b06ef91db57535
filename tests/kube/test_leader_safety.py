"""Leader election among replicas, each with clocks of its own, under every fault that a network and people can make."""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.kube.election import TERMS, Fate, Replica, World
from tfscale.lease import Terms

FACTOR = int(os.environ.get("TFSCALE_FUZZ", "1"))
"""How many times more examples than by default."""
SPEEDS = st.sampled_from([0.95, 1.0, 1.05])
"""Clocks that drift apart by a tenth, a thousand times more than real ones."""
KINDS = st.tuples(SPEEDS, st.sampled_from([TERMS, Terms(lease_s=40, renew_s=30, margin_s=6)]))
"""For replicas with different terms."""
NUMBERS = st.integers(0, 2)
SPANS = st.sampled_from([0.1, 1.0, 2.5, 8.0, 12.9, 15.0, 60.0])
FATES = st.lists(
    st.builds(Fate, SPANS, SPANS, st.sampled_from(["", "", "request", "answer", "patience"])), min_size=1, max_size=3
)
EDITS = st.sampled_from(
    [
        {"holderIdentity": ""},
        {"holderIdentity": "somebody"},
        {"leaseDurationSeconds": 3},
        {"leaseDurationSeconds": 60},
        {"renewTime": None},
        {"leaseTransitions": 1_000},
    ]
)


class Election(RuleBasedStateMachine):
    """Three replicas. At no moment two of them believe to lead, and no epoch is given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.deleted = False

        self.mixed = False

    @initialize(mixed=st.booleans(), kinds=st.tuples(KINDS, KINDS, KINDS))
    def start(self, kinds: tuple[tuple[float, Terms], ...], *, mixed: bool) -> None:
        """Begin without a Lease. Replicas of different terms can rely on the Lease alone, which nobody may shorten then."""
        self.mixed = mixed
        for number, kind in enumerate(kinds):
            self._start(number, kind)
        self.world.advance(TERMS.lease_s)

    @rule(by_s=SPANS)
    def pass_time(self, by_s: float) -> None:
        """Time passes, with all that goes wrong meanwhile."""
        self.world.advance(by_s)

    @rule(number=NUMBERS, fates=FATES)
    def trouble(self, number: int, fates: list[Fate]) -> None:
        """The next calls of one replica hang, are lost, or are carried out without an answer."""
        self._replica(number).fates.extend(fates)
        self.world.advance(TERMS.retry_s)

    @rule(number=NUMBERS, for_s=SPANS)
    def pause(self, number: int, for_s: float) -> None:
        """One process stands still, or its thread does, which is worse."""
        self._replica(number).due_s = self.world.now_s + for_s
        self.world.advance(min(for_s, TERMS.lease_s))

    @rule(for_s=SPANS)
    def outage(self, for_s: float) -> None:
        """The API server does not answer."""
        self.world.down = True
        self.world.advance(for_s)
        self.world.down = False

    @rule(number=NUMBERS, by_s=st.sampled_from([-86_400.0, -15.0, 15.0, 86_400.0]))
    def set_wall_clock(self, number: int, by_s: float) -> None:
        """One wall clock is set."""
        self._replica(number).wall_s += by_s

    @rule(spec=EDITS, number=NUMBERS, for_s=SPANS)
    def edit(self, spec: dict[str, object], number: int, for_s: float) -> None:
        """Somebody writes into the Lease, and one who could mend that does not see it for a while."""
        if self.mixed and "leaseDurationSeconds" in spec:
            return
        if "leaseTransitions" in spec and self.world.terms:
            spec = {"leaseTransitions": self.world.terms[-1][1] + 70}
        self.world.edit(spec)
        self.pause(number, for_s)

    @rule(number=NUMBERS, for_s=SPANS)
    def long_round(self, number: int, for_s: float) -> None:
        """The loop of one replica is busy with one round, whatever happens to its Lease."""
        self._replica(number).round_over_s = self.world.now_s + for_s

    @precondition(lambda self: not self.mixed)
    @rule()
    def delete(self) -> None:
        """Somebody deletes the Lease. Its count is lost where nobody who saw it is left."""
        self.world.delete()
        self.deleted = True

    @rule(number=NUMBERS, kind=KINDS)
    def crash(self, number: int, kind: tuple[float, Terms]) -> None:
        """One process ends without a word, perhaps with a write on its way, and a new one starts."""
        self._replica(number).alive = False
        self._start(number, kind)

    @rule(number=NUMBERS, kind=KINDS)
    def stop(self, number: int, kind: tuple[float, Terms]) -> None:
        """One process ends in good order, and a new one starts."""
        self._replica(number).elector.stop(release=True)
        self.crash(number, kind)

    @invariant()
    def no_two_lead(self) -> None:
        """Also looked at after every step of every replica."""
        self.world.look()

    def teardown(self) -> None:
        """Once the faults are over somebody leads soon, and every holder had a higher epoch than the one before."""
        replicas, world = self.world.replicas, self.world
        durations_s = [replica.terms.lease_s for replica in replicas] + [(world.lease() or {}).get("leaseDurationSeconds") or 0]
        for replica in replicas:
            replica.fates.clear()
            replica.due_s = replica.round_over_s = world.now_s
        # A look to see the Lease as it is now, the whole span, and a look to see that it is over.
        world.advance((max(durations_s) + 2 * TERMS.retry_s) / 0.95)
        world.look()

        assert (1 if replicas else 0) == len([replica for replica in replicas if replica.believes() is not None])
        epochs = [epoch for _, epoch in world.terms]
        assert self.deleted or sorted(set(epochs)) == epochs

    def _start(self, number: int, kind: tuple[float, Terms]) -> None:
        speed, terms = kind
        self.world.start(number, speed, terms if self.mixed else TERMS)

    def _replica(self, number: int) -> Replica:
        return next(replica for replica in self.world.replicas if replica.number == number)


Election.TestCase.settings = settings(max_examples=100 * FACTOR, stateful_step_count=30)
TestElection = Election.TestCase
