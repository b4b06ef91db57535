"""The elector: what it does at the usual turns, what it says, and its thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.kube.election import WHERE, Fate, World
from tfscale.errors import ClusterUnreachableError, ForbiddenError, NotLeadingError
from tfscale.kube.leader import Elector, elapsed_s
from tfscale.kube.port import LEASES, Json, Kind
from tfscale.lease import Terms
from tfscale.testing import FakeKube

QUICK = Terms(lease_s=2, renew_s=0.8, retry_s=0.2, margin_s=0.5)


@pytest.fixture
def world() -> World:
    """Return two replicas of which the first leads."""
    made = World()
    made.start(0)
    made.advance(16)
    made.start(1)
    made.advance(3)
    return made


def leaders(world: World) -> dict[int, int]:
    """Return the epoch of each replica that leads."""
    return {one.number: epoch for one in world.replicas if (epoch := one.believes()) is not None}


def test_who_is_first_leads_after_the_span_in_which_an_earlier_leader_had_to_notice() -> None:
    """Without a Lease nobody knows whether there was one a moment ago."""
    world = World()
    world.start(0)
    world.advance(14.9)
    assert {} == leaders(world)
    world.advance(0.3)

    assert {0: 1} == leaders(world)
    spec = world.lease() or {}
    assert (1, 15, True) == (spec["leaseTransitions"], spec["leaseDurationSeconds"], spec["holderIdentity"].startswith("r0_"))


def test_a_leader_that_stops_is_followed_at_once(world: World) -> None:
    """It gives the Lease up; the next one looks every two seconds."""
    world.replicas[0].elector.stop(release=True)
    world.replicas[0].alive = False
    world.advance(2.1)

    assert {1: 2} == leaders(world)


def test_one_who_stands_by_and_stops_leaves_the_lease_alone(world: World) -> None:
    """It is not its own to give up."""
    before = world.lease()
    world.replicas[1].elector.stop(release=True)

    assert before == world.lease()


def test_a_leader_that_dies_is_followed_when_its_lease_has_run_out(world: World) -> None:
    """Within the lease and one look."""
    world.replicas[0].alive = False
    world.advance(12)
    assert {} == leaders(world)
    world.advance(5.1)

    assert {1: 2} == leaders(world)


def test_a_leader_that_stood_still_may_not_write_before_it_knows(world: World) -> None:
    """Neither its thread nor its loop moves for a minute; its clock does."""
    world.replicas[0].due_s = world.now_s + 60
    world.advance(59)

    assert {1: 2} == leaders(world)
    with pytest.raises(NotLeadingError, match="does not lead any more"):
        world.replicas[0].elector.epoch()


def test_a_round_that_another_leader_came_between_is_over(world: World) -> None:
    """Also when the process leads again by then: its plan is of before."""
    first, second = world.replicas
    first.round_over_s = float("inf")
    first.due_s = world.now_s + 20
    world.advance(19)
    second.elector.stop(release=True)
    second.alive = False
    world.advance(3)

    with pytest.raises(NotLeadingError, match="the round began in epoch 1, and now it is 3"):
        first.elector.epoch()
    assert (3, 3) == (first.elector.begin(), first.elector.epoch())


def test_an_outage_shorter_than_the_lease_changes_nothing(world: World) -> None:
    """The same leader in the same epoch; while it could not renew no new round began."""
    world.down = True
    world.advance(11.9)
    assert world.replicas[0].elector.begin() is None
    world.down = False
    world.advance(2.5)

    assert {0: 1} == leaders(world)


def test_a_lease_that_is_deleted_stops_its_leader_and_somebody_leads_again(world: World) -> None:
    """Nobody before the old leader must have noticed, and in a higher epoch."""
    world.delete()
    world.advance(4.1)
    assert {} == leaders(world)
    world.advance(15)

    assert [2] == [*leaders(world).values()]


def test_an_answer_that_comes_late_gives_no_time(world: World) -> None:
    """A renewal hung until the lease was over, and was carried out at its start."""
    world.replicas[0].fates.append(Fate(0.01, 14))
    world.advance(14.5)

    assert {} == leaders(world)


def test_few_lines_tell_what_happens(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Who leads since which epoch and after whom, who stands by, who stopped and why; an outage is told once."""
    caplog.clear()
    first, second = (one.elector.identity for one in world.replicas)
    world.down = True
    world.advance(12)
    world.down = False
    world.replicas[0].due_s = world.now_s + 20
    world.advance(25)
    said = [line.removeprefix("lease default/tfscale: ") for line in caplog.messages]

    assert [
        f"{second} stands by, trying again: get: no answer",
        f"{first} leads no longer, it could not renew for 10 s: get: no answer",
        f"{second} stands by behind {first}",
        f"{second} leads in epoch 2, after {first}",
        f"{first} stands by behind {second}",
    ] == said


def test_the_first_one_says_why_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    """It is no error, and lasts as long as it says."""
    world = World()
    first = world.start(0).elector.identity
    world.advance(16)

    assert [
        f"lease default/tfscale: {first} stands by: nobody holds it, which counts once it was seen for 15 s",
        f"lease default/tfscale: {first} leads in epoch 1, after nobody",
    ] == caplog.messages


def test_waiting_for_the_lead_has_an_end(world: World) -> None:
    """Who leads is named; where the Lease cannot be read that is said."""
    waiting = patient(world.kube)
    with pytest.raises(NotLeadingError, match=r"lease default/tfscale is held by r0_.*: only one process acts at a time"):
        waiting.await_lead()
    assert not waiting.await_lead(stopped=lambda: True)
    with pytest.raises(ForbiddenError):
        patient(Refusing()).await_lead()


def patient(kube: FakeKube) -> Elector:
    """Return an elector that has looked once, and for which time passes when it waits."""
    waited_s: list[float] = []
    found = Elector(kube, namespace=WHERE[1], name=WHERE[0], clock=lambda: sum(waited_s), sleep=waited_s.append)
    found.step()
    return found


class Refusing(FakeKube):
    """A server that lets nobody see its Leases."""

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Refuse."""
        raise ForbiddenError(f"get {kind.plural} {namespace}/{name}: 403")


# --- the thread ---


class Hanging(FakeKube):
    """A server that can fall silent: calls give up after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.silent = threading.Event()

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Answer, or not."""
        if self.silent.is_set():
            time.sleep(0.5)
            raise ClusterUnreachableError("patch leases: no answer")
        return super().patch(kind, name, patch, namespace=namespace)


def released(kube: FakeKube) -> FakeKube:
    """Return the server with a Lease that was given up."""
    spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 7}
    kube.create(LEASES, {"metadata": {"name": "tfscale"}, "spec": spec}, namespace="default")
    return kube


def elector(kube: FakeKube) -> Elector:
    """Return an elector with short terms, on real clocks."""
    return Elector(kube, namespace="default", name="tfscale", terms=QUICK)


def eventually(holds: Callable[[], object], *, within_s: float = 5) -> None:
    """Wait until something holds."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def holder(kube: FakeKube) -> str:
    """Return who holds the Lease."""
    found: str = kube.get(LEASES, "tfscale", namespace="default")["spec"]["holderIdentity"]
    return found


def test_two_threads_hand_over_and_end() -> None:
    """One leads, the other follows as soon as the first has stopped; no thread is left."""
    kube, before = released(FakeKube()), threading.active_count()
    with elector(kube) as second:
        with elector(kube) as first:
            eventually(lambda: first.begin() == 8 or second.begin() == 8)
            leader, other = (first, second) if first.begin() else (second, first)
            assert other.begin() is None
        eventually(second.begin)
    assert ("", before) == (holder(kube), threading.active_count())
    with pytest.raises(NotLeadingError):
        leader.epoch()


def test_a_process_that_is_cut_off_does_not_give_the_lease_up() -> None:
    """A write may still be on its way: whoever follows waits until the lease has run out."""
    leading = elector(kube := released(FakeKube()))
    with pytest.raises(KeyboardInterrupt):
        cut_off(leading)

    assert leading.identity == holder(kube)


def cut_off(leading: Elector) -> None:
    """Lead, and be interrupted."""
    with leading:
        eventually(leading.begin)
        raise KeyboardInterrupt


def test_a_server_that_hangs_fences_the_leader_and_does_not_keep_the_thread() -> None:
    """Time alone ends the lead; the block is left within about a second."""
    kube = Hanging()
    with elector(released(kube)) as leading:
        eventually(leading.begin)
        kube.silent.set()
        eventually(lambda: leading.begin() is None)
        eventually(lambda: _is_fenced(leading))
        before_s = elapsed_s()
    assert elapsed_s() - before_s < 1


def _is_fenced(one: Elector) -> bool:
    try:
        one.epoch()
    except NotLeadingError:
        return True
    return False


def test_a_thread_goes_on_after_an_error_that_nobody_expected(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback, and the lead is won later."""
    kube = Broken()
    with elector(released(kube)) as one:
        eventually(lambda: "trying again" in caplog.text)
        kube.broken = False
        eventually(one.begin)


class Broken(FakeKube):
    """A client with a fault."""

    broken = True

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Fail as no client should."""
        if self.broken:
            raise ZeroDivisionError
        return super().get(kind, name, namespace=namespace)
