"""The loop and the lead: rounds only while leading, nothing kept from before, and no plan carried out further than allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from tests.test_reconcile import scenario, share, workload
from tfscale.errors import ClusterError, NotLeadingError
from tfscale.kube.port import LAUNCH_BATCHES, NODE_REQUESTS, PODS, Kube
from tfscale.plan import Terminate
from tfscale.reconcile import Reconciler, Report, run
from tfscale.simulate import World, open_world


@pytest.fixture
def world() -> Iterator[World]:
    """Yield a simulated cluster in which three pods need two nodes."""
    with open_world(scenario(workload("half", share("6Gi", "50"), replicas=3))) as made:
        yield made


class Asking:
    """A cluster that asks before each write, as the client of a real one does."""

    def __init__(self, kube: Kube, before_write: Callable[[], object]) -> None:
        self._kube = kube
        self._before_write = before_write

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any verb
        """Return a verb."""
        if name not in {"list", "get", "watch"}:
            self._before_write()
        return getattr(self._kube, name)


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


def test_a_single_round_concludes_from_the_records_as_they_are(world: World) -> None:
    """It leads at once, and there is no later one: else who runs one now and then would give no machine up, ever."""
    world.reconciler.lead(1)

    assert 0 == world.reconciler.tick(world.now_s(), dry_run=True).cluster.seen_since_s


def test_batches_carry_the_epoch(world: World) -> None:
    """The one in which they were ordered."""
    world.reconciler.epoch = lambda: 7
    report = world.reconciler.tick(world.now_s())

    assert [7] == [batch["spec"]["epoch"] for batch in world.kube.list(LAUNCH_BATCHES).items]
    assert all(outcome.done for outcome in report.outcomes)


def led_only_so_far(world: World, allowed: int) -> Report:
    """Make one round in which the lead is lost after so many questions, and leave it to the next leader to go on."""
    left = [1] * allowed

    def epoch() -> int:
        if not left:
            raise NotLeadingError("another one leads")
        return left.pop()

    before = world.reconciler.kube
    world.reconciler.kube, world.reconciler.epoch = cast("Kube", Asking(before, epoch)), epoch
    report = world.reconciler.tick(world.now_s())
    world.reconciler.kube, world.reconciler.epoch = before, lambda: 2
    world.reconciler.lead(2)
    return report


@pytest.mark.parametrize("allowed", range(8))
def test_a_plan_is_dropped_where_the_lead_is_lost(world: World, allowed: int) -> None:
    """At whichever question: the outcome that says so is the last, and the next leader buys what is missing, once."""
    errors = [outcome.error for outcome in led_only_so_far(world, allowed).outcomes]
    run(world.reconciler, world, until_idle=True, on_report=lambda _: None)

    assert all(error is None for error in errors[:-1])
    assert errors[-1] is None or isinstance(errors[-1], NotLeadingError)
    assert all(pod["status"].get("phase") == "Succeeded" for pod in world.kube.list(PODS).items)
    assert [] == world.kube.list(NODE_REQUESTS).items
    assert 2 == sum(1 for machine in world.cloud.machines)


@pytest.mark.parametrize("allowed", range(4))
def test_giving_back_ends_where_the_lead_is_lost(world: World, allowed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Two nodes were to go: one line tells why neither does, and the next leader gives them back."""

    def two_are_idle() -> bool:
        actions = world.reconciler.tick(world.now_s(), dry_run=True).plan.actions
        return [Terminate, Terminate] == [type(action) for action in actions]

    run(world.reconciler, world, until_idle=False, on_report=lambda _: None, stopped=two_are_idle)
    caplog.clear()
    *done, last = led_only_so_far(world, allowed).outcomes
    returned = world.cloud.calls["TerminateInstances"]
    told = list(caplog.messages)
    run(world.reconciler, world, until_idle=True, on_report=lambda _: None)

    assert ([], NotLeadingError, 0, 1) == (done, type(last.error), returned, len(told))
    assert [] == world.kube.list(NODE_REQUESTS).items
