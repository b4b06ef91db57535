"""Random stories: launches, replays, lost replies, restarts and returns in any order, held against a simple count."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tfscale.errors import LaunchRefusedError, ModeError
from tfscale.model import LaunchBatch
from tfscale.testing.contracts.modes.buyer import Buyer
from tfscale.testing.contracts.modes.ground import Ground

__all__ = ["StoryContract"]

_NUMBERS = itertools.count(1)
_VERBS = ("launch", "launch", "lose", "replay", "replay", "restart", "settle", "terminate", "release")
STEPS = st.lists(st.tuples(st.sampled_from(_VERBS), st.integers(0, 5)), max_size=10)


class StoryContract:
    """Whatever happens in whatever order."""

    # The world is shared by all stories: each is about a pool of its own and gives back what it bought.
    @settings(
        max_examples=15,
        deadline=None,
        # A world may be slow: one failing story is enough, and it is not explained by trying many more.
        report_multiple_bugs=False,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(steps=STEPS)
    def test_any_story_ends_well(self, ground: Ground, steps: list[tuple[str, int]]) -> None:
        """At most one machine for each request, nothing forgotten, nothing foreign touched, and nothing left in the end."""
        if not ground.buys:
            pytest.skip("buys nothing")
        story = _Story(ground)
        for verb, number in steps:
            getattr(story, verb)(number)
            story.check()
        story.end()


class _Story:
    """One pool and the calls that were recorded for it."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.buyer = Buyer(ground, f"story-{next(_NUMBERS)}")
        self.neighbour = Buyer(ground, f"{self.buyer.pool}-2")
        self.at_first = set(ground.really_there())
        self.calls: list[LaunchBatch] = []
        self.given: dict[str, str] = {}
        """The machine of each request that was told of."""
        self.foreign = ground.foreign()
        self.neighbours = [machine.id for machine in self.neighbour.bought()]
        self.others = {*self.at_first, self.foreign, *self.neighbours}

    def launch(self, number: int) -> None:
        """Buy one to three machines."""
        with suppress(LaunchRefusedError):
            self.calls.append(self.buyer.batch(1 + number % 3))
            self._call(self.calls[-1])

    def lose(self, number: int) -> None:
        """Buy machines and get no reply."""
        with suppress(LaunchRefusedError):
            self.calls.append(self.buyer.batch(1 + number % 3))
            if self.ground.lose_reply():
                with suppress(ModeError):
                    self._call(self.calls[-1])

    def replay(self, number: int) -> None:
        """Make a call again that was made before, or only recorded, none of whose machines was given back."""
        if self.calls:
            with suppress(LaunchRefusedError):
                self._call(self.calls[number % len(self.calls)])

    def restart(self, _: int) -> None:
        """Begin a new process."""
        self.buyer.restart()

    def settle(self, _: int) -> None:
        """Let time pass: then all that exists is seen."""
        self.ground.settle()

        assert set(self.ground.really_there()) - self.others == self.buyer.seen()

    def terminate(self, number: int) -> None:
        """Give back all machines of one call, and try to give back those of others too."""
        self.ground.settle()
        if self.calls:
            call = self.calls.pop(number % len(self.calls))
            ids = [machine.id for machine in self.buyer.mode.observe() if machine.batch == call.name]
            self.given = {name: machine for name, machine in self.given.items() if name not in call.requests}
            self.buyer.mode.terminate([*ids, self.foreign, *self.neighbours])
            self.buyer.give_back(ids)

    def release(self, _: int) -> None:
        """Protect nothing any more."""
        self.buyer.mode.release([*self.given.values(), self.foreign, *self.neighbours])

    def check(self) -> None:
        """Count what is there and what is seen."""
        ordered = {call.name: len(call.requests) for call in self.calls}
        there = set(self.ground.really_there())
        seen = self.buyer.mode.observe()
        by_call = Counter(machine.batch for machine in seen)

        assert self.others <= there
        assert len(there - self.others) <= sum(ordered.values())
        assert len(seen) == len({machine.id for machine in seen})
        assert not [name for name, count in by_call.items() if count > ordered.get(name, 0)]
        assert not {machine.id for machine in seen} & self.others

    def end(self) -> None:
        """Give everything back."""
        self.settle(0)
        self.buyer.give_back(sorted(self.buyer.seen()))
        self.neighbour.give_back(self.neighbours)

        assert {*self.at_first, self.foreign} == set(self.ground.really_there())

    def _call(self, batch: LaunchBatch) -> None:
        for result in self.buyer.launch(batch):
            if result.machine:
                told = self.given.setdefault(result.request, result.machine.id)
                assert told == result.machine.id
        assert len(self.given) == len({*self.given.values()} - self.others)
