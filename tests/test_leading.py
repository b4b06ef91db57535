"""The loop and the lead: rounds only while leading, nothing kept from before, and no plan carried out further than allowed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.test_reconcile import scenario, share, workload
from tfscale.errors import ClusterError, NotLeadingError
from tfscale.kube.fenced import Fenced
from tfscale.kube.port import LAUNCH_BATCHES, NODE_REQUESTS, PODS
from tfscale.reconcile import Reconciler, Report, run
from tfscale.simulate import World, open_world


@pytest.fixture
def world() -> Iterator[World]:
    """Yield a simulated cluster in which three pods need two nodes."""
    with open_world(scenario(workload("half", share("6Gi", "50"), replicas=3))) as made:
        yield made


class Turns:
    """Says in which epoch each round may begin, then that the run is over."""

    def __init__(self, *epochs: int | None) -> None:
        self._left = [*epochs]
        self.waited = 0

    def begin(self) -> int | None:
        """Return the next one."""
        return self._left.pop(0)

    def wait(self) -> None:
        """Count."""
        self.waited += 1

    def over(self) -> bool:
        """Return whether none is left."""
        return not self._left


def told(reconciler: Reconciler) -> list[str]:
    """Let a reconciler tell what it does when."""
    story: list[str] = []
    reconciler.on_lead = lambda: story.append("lead")
    return story


def test_rounds_are_made_only_while_leading_and_a_new_epoch_begins_without_memory(world: World) -> None:
    """A pause in the same epoch is none: nobody else wrote meanwhile."""
    story, turns = told(world.reconciler), Turns(None, 1, 1, None, 1, None, None, 3, 3)

    def on_report(_: Report) -> None:
        story.append("round")

    run(world.reconciler, world, until_idle=False, on_report=on_report, stopped=turns.over, leader=turns)

    assert (["lead", "round", "round", "round", "lead", "round", "round"], 4) == (story, turns.waited)


def test_a_hook_that_fails_is_called_again_before_anything_is_done(world: World) -> None:
    """What was kept while standing by could not be brought up to date."""
    turns, failures = Turns(1, 1, 1), [ClusterError("no"), ClusterError("no")]
    reports: list[Report] = []

    def resync() -> None:
        if failures:
            raise failures.pop()

    world.reconciler.on_lead = resync
    run(world.reconciler, world, until_idle=False, on_report=reports.append, stopped=turns.over, leader=turns)

    assert (1, []) == (len(reports), failures)


def test_a_run_with_an_end_ends_where_the_lead_is_lost(world: World) -> None:
    """Whoever leads now goes on with it."""
    with pytest.raises(NotLeadingError):
        run(world.reconciler, world, until_idle=True, on_report=lambda _: None, leader=Turns(1, None))


def test_what_happened_before_the_lead_was_taken_may_just_not_have_been_seen(world: World) -> None:
    """Nodes get their time anew."""
    world.reconciler.lead(1, world.now_s() + 70)

    assert world.now_s() + 70 == world.reconciler.tick(world.now_s() + 70, dry_run=True).cluster.seen_since_s


def test_batches_carry_the_epoch(world: World) -> None:
    """The one in which they were ordered."""
    world.reconciler.epoch = lambda: 7
    report = world.reconciler.tick(world.now_s())

    assert [7] == [batch["spec"]["epoch"] for batch in world.kube.list(LAUNCH_BATCHES).items]
    assert all(outcome.done for outcome in report.outcomes)


@pytest.mark.parametrize("allowed", range(8))
def test_a_plan_is_dropped_where_the_lead_is_lost(world: World, allowed: int) -> None:
    """At whichever question: the outcome that says so is the last, and the next leader buys what is missing, once."""
    left = [1] * allowed

    def epoch() -> int:
        if not left:
            raise NotLeadingError("another one leads")
        return left.pop()

    before = world.reconciler.kube
    world.reconciler.kube, world.reconciler.epoch = Fenced(before, epoch), epoch
    report = world.reconciler.tick(world.now_s())
    errors = [outcome.error for outcome in report.outcomes]
    world.reconciler.kube, world.reconciler.epoch = before, lambda: 2
    world.reconciler.lead(2, world.now_s())
    run(world.reconciler, world, until_idle=True, on_report=lambda _: None)

    assert all(error is None for error in errors[:-1])
    assert errors[-1] is None or isinstance(errors[-1], NotLeadingError)
    assert all(pod["status"].get("phase") == "Succeeded" for pod in world.kube.list(PODS).items)
    assert [] == world.kube.list(NODE_REQUESTS).items
    assert 2 == sum(1 for machine in world.cloud.machines)
