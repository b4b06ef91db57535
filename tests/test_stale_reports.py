"""What is not decided while reports are stale: nobody buys, and nobody is given up, because nothing was heard."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import HALF, NOW_S, POOL, T4, cluster, demand, kinds, machine, node, only, plan_for, request
from tfscale import modes
from tfscale.errors import ClusterUnreachableError
from tfscale.gpus import GpuTable
from tfscale.kube.port import Kind, Listing
from tfscale.lifecycle import State
from tfscale.model import BoundPod, Cluster, GpuSlice, Node
from tfscale.modes.base import ModeContext
from tfscale.plan import Launch, Plan, Terminate
from tfscale.pool import Policy
from tfscale.reconcile import ALONE, Leader, Reconciler, Report, run
from tfscale.testing import FakeKube

SILENT_S = Policy().silent_s


def pool_of(total: int, silent: int, *, for_s: int = 10, waiting: int = 1, **changes: Any) -> Cluster:  # noqa: ANN401 - of a node
    """Return a cluster with nodes of one card, the last `silent` of them not heard of for a while, and pods that wait.

    Nodes that report are full, silent ones are empty.
    """
    card = GpuSlice(gpu_id="0", vram_mib=16_384, compute_milli=1_000)
    full = (BoundPod(id="default/x", uid="x", request=HALF, slices=(card,)),)

    def one(index: int) -> Node:
        heard = index < total - silent
        return node(f"n{index}", ready=heard, pods=full if heard else (), **({} if heard else _gone(for_s) | changes))

    names = [f"n{index}" for index in range(total)]
    return cluster(
        machines=[machine(name) for name in names],
        nodes=tuple(map(one, range(total))),
        requests=tuple(request(name) for name in names),
        demands=tuple(demand(f"p{index}") for index in range(waiting)),
    )


def _gone(for_s: int) -> dict[str, Any]:
    return {"silent_since_s": NOW_S - for_s, "created_s": NOW_S - 86_400}


def test_a_pod_waits_for_a_node_that_fell_silent_a_moment_ago() -> None:
    """It would fit there, and most such nodes come back."""
    plan = plan_for(pool_of(12, 1), T4)

    assert (("default/p0",), ()) == (plan.waiting, plan.unmet)
    assert Launch not in kinds(plan)
    assert NOW_S - 10 + SILENT_S == plan.recheck_s


@pytest.mark.parametrize("since", ["too long ago", "unknown", "cordoned", "removed"])
def test_a_node_that_will_not_come_back_is_not_waited_for(since: str) -> None:
    """Silent for too long or for nobody knows how long, cordoned, or its machine is gone."""
    odd: dict[str, dict[str, Any]] = {"unknown": {"silent_since_s": None}, "cordoned": {"fenced": "it is cordoned"}}
    changes = odd.get(since, {})
    seen = pool_of(12, 1, for_s=SILENT_S if since == "too long ago" else 10, **changes)
    if since == "removed":
        seen = replace(seen, machines={"inference": seen.machines["inference"][:-1]})

    assert [("uid-p0",)] == [wanted.nominated for wanted in only(plan_for(seen, T4), Launch).requests]


def test_what_would_not_fit_there_anyway_is_bought() -> None:
    """One silent card takes two halves; the third pod gets a node."""
    plan = plan_for(pool_of(12, 1, waiting=3), T4)

    assert 1 == len(only(plan, Launch).requests)
    assert 1 == len(only(plan, Launch).requests[0].nominated)


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 2 * SILENT_S))
def test_nothing_is_bought_while_more_than_a_tenth_is_silent(total: int, silent: int, for_s: int) -> None:
    """Two at least; one node alone is just broken. After five minutes silence is no doubt any more but a loss."""
    silent = min(silent, total)
    plan = plan_for(pool_of(total, silent, for_s=for_s, waiting=2 * silent + 2), T4)
    held = silent > 1 and silent * 10 > total and for_s < SILENT_S

    assert held == (Launch not in kinds(plan))
    if held:
        why = f"{silent} of {total} nodes stopped reporting together: until that is clear nothing is bought"
        assert {(why,)} == {unmet.reasons[:1] for unmet in plan.unmet}


def test_nodes_that_start_are_not_nodes_that_stopped() -> None:
    """They say at once that they are not Ready yet."""
    plan = plan_for(pool_of(3, 3, created_s=NOW_S - 12, waiting=7), T4)

    assert 1 == len(only(plan, Launch).requests)


def late(seen_since_s: int) -> Plan:
    """Return the plan for a machine that was launched long ago and whose node has not joined."""
    launched = request("a", state=State.LAUNCHED, node="", launched_s=NOW_S - POOL.register_within_s - 1)
    return plan_for(replace(cluster(machines=[machine("a")], requests=(launched,)), seen_since_s=seen_since_s), T4)


def test_no_machine_is_late_while_nothing_could_join() -> None:
    """The API server was away until a moment ago: nodes get a minute to join."""
    settle_s = Policy().settle_s

    assert Terminate in kinds(late(0))
    assert Terminate in kinds(late(NOW_S - settle_s))
    assert ([], NOW_S - 1 + settle_s) == (kinds(late(NOW_S - 1)), late(NOW_S - 1).recheck_s)


class AwayKube(FakeKube):
    """A cluster that does not answer in the second and the third round."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = count(1)

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """Return all objects that match, mostly."""
        if next(self._calls) in {7, 8}:
            raise ClusterUnreachableError("list: no answer")
        return super().list(kind, namespace=namespace, label_selector=label_selector, field_selector=field_selector)


class SteadyClock:
    """Every wait takes ten seconds."""

    def __init__(self) -> None:
        self.time_s = NOW_S

    def now_s(self) -> int:
        """Return the time."""
        return self.time_s

    def steady_s(self) -> float:
        """Return the same: nobody touches it."""
        return float(self.time_s)

    def pending(self) -> bool:
        """Nothing happens by itself."""
        return False

    def wait(self, until_s: int | None) -> None:
        """Let time pass."""
        del until_s
        self.time_s += 10


class AwayLeader:
    """Leads in one epoch, except at some looks; what keeps it from that lasts ten seconds each time."""

    def __init__(self, clock: SteadyClock, *away: int) -> None:
        self._clock = clock
        self._away = away
        self._looks = count(1)

    def begin(self) -> int | None:
        """Return the epoch, mostly."""
        return None if next(self._looks) in self._away else 1

    def wait(self) -> None:
        """Let time pass."""
        self._clock.wait(None)


def rounds(kube: FakeKube, clock: SteadyClock, leader: Leader) -> list[tuple[int, int]]:
    """Return of three rounds when they were, and since when the loop saw the cluster then."""
    gpus, seen = GpuTable(), list[Report]()
    reconciler = Reconciler(
        kube=kube,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="test"),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )
    run(reconciler, clock, until_idle=False, on_report=seen.append, stopped=lambda: len(seen) > 2, leader=leader)
    return [(report.cluster.now_s - NOW_S, max(report.cluster.seen_since_s - NOW_S, 0)) for report in seen]


def test_the_loop_knows_since_when_it_sees() -> None:
    """After rounds without an answer it begins anew; a loop that just started concludes from the records as they are."""
    assert [(0, 0), (30, 30), (40, 30)] == rounds(AwayKube(), SteadyClock(), ALONE)


@pytest.mark.parametrize(
    ("away", "seen"), [((1, 2), [(20, 20), (30, 20), (40, 20)]), ((2, 3), [(0, 0), (30, 30), (40, 30)])], ids=["first", "later"]
)
def test_a_loop_that_does_not_lead_sees_nothing(away: tuple[int, ...], seen: list[tuple[int, int]]) -> None:
    """Also when it is the same lead that goes on: without an API server it cannot be renewed, and no round fails."""
    clock = SteadyClock()

    assert seen == rounds(FakeKube(), clock, AwayLeader(clock, *away))
