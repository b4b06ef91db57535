"""Machines that have to go, in any order of what else may happen: their pods move, and each costs one replacement."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.fuzz.draining_world import DrainingWorld
from tests.fuzz.yard import SHAPES

CALM_ROUNDS = 120
ANY = st.integers(0, 9)
WRITE = st.integers(1, 12)
"""Which write of a round: a purchase of two nodes makes seven, an eviction one."""


class Draining(RuleBasedStateMachine):
    """One schedule; in the end it is quiet, and then everything is where it belongs."""

    def __init__(self) -> None:
        super().__init__()
        self.world = DrainingWorld()

    @initialize(shapes=st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=4))
    def begin(self, shapes: list[str]) -> None:
        """Let some pods run."""
        for shape in shapes:
            self.world.add_pod(shape)
        for _ in range(4):
            self.world.round()
            self.world.pass_time(30)

    @rule()
    def round(self) -> None:
        """One round."""
        self.world.round()

    @rule(at=WRITE, after=st.booleans())
    def round_with_crash(self, at: int, *, after: bool) -> None:
        """The process dies at one of its writes; another one begins without memory."""
        self.world.round(dies_at=at, after=after)

    @rule(seconds=st.sampled_from([1, 10, 60, 60, 200, 800]))
    def time_passes(self, seconds: int) -> None:
        """Machines boot and end."""
        self.world.pass_time(seconds)

    @rule()
    def grace_ends(self) -> None:
        """Pods that were asked to leave are gone."""
        self.world.kube.end_terminations()
        self.world.play()

    @rule(number=ANY, in_s=st.sampled_from([120, 120, 2_400, None]), scarce=st.booleans())
    def cloud_warns(self, number: int, in_s: int | None, *, scarce: bool) -> None:
        """A machine is to go: soon, later, or some time."""
        self.world.warn(number, in_s, scarce=scarce)

    @rule(number=ANY)
    def machine_outdated(self, number: int) -> None:
        """Another image is wanted than that of a machine."""
        self.world.outdate(number)

    @rule(number=ANY)
    def machine_ends(self, number: int) -> None:
        """A machine ends without a word."""
        self.world.take(number)

    @rule(number=ANY)
    def node_deleted(self, number: int) -> None:
        """Somebody deletes a node."""
        self.world.delete_node(number)

    @rule(number=ANY)
    def record_deleted(self, number: int) -> None:
        """Somebody deletes a record."""
        self.world.delete_record(number)

    @rule(least=st.sampled_from([0, 1, 2, 9, None]))
    def budget(self, least: int | None) -> None:
        """A budget comes, changes or goes."""
        self.world.set_budget(least)

    @rule(number=ANY, on=st.booleans())
    def hold(self, number: int, *, on: bool) -> None:
        """A pod is not to be disturbed, or may be again."""
        self.world.hold(number, on=on)

    @rule(shape=st.sampled_from(sorted(SHAPES)))
    def pod_comes(self, shape: str) -> None:
        """One more pod."""
        self.world.add_pod(shape)

    @rule(number=ANY)
    def pod_ends(self, number: int) -> None:
        """One pod less."""
        self.world.end_pod(number)

    @invariant()
    def nothing_is_bought_twice(self) -> None:
        """Each pod, and each loss, costs one machine at most."""
        self.world.check()

    def teardown(self) -> None:
        """Let nothing more happen: all pods have a place, what was to go or is outdated is gone, then all others too."""
        self._until(self.world.unserved)
        self.world.lift_restraints()
        self._until(self.world.outdated)
        while self.world.wants_pods:
            self.world.end_pod(0)
        self._until(self.world.left)

    def _until(self, trouble: Callable[[], str]) -> None:
        """Make rounds until there is no trouble left."""
        for _ in range(CALM_ROUNDS):
            self.world.round()
            self.world.kube.end_terminations()
            self.world.pass_time(40)
            self.world.check()
            if not trouble():
                return
        raise AssertionError(f"after {CALM_ROUNDS} quiet rounds: {trouble()}")


Draining.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestDraining = Draining.TestCase
