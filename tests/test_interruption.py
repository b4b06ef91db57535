"""A cloud that takes machines back, on the simulated cluster and cloud: pods move, and nothing is bought twice."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from tests.test_reconcile import POOL, scenario, share, workload
from tfscale.kube.port import DISRUPTION_BUDGETS, GPU_POOLS, NODE_REQUESTS, NODES, PODS, Json
from tfscale.model import Notice
from tfscale.modes.base import ScalingMode
from tfscale.modes.ec2 import Ec2Mode
from tfscale.plan import Drain, Launch
from tfscale.reconcile import Report, run
from tfscale.scenario import Workload
from tfscale.simulate import Ways, World, open_world

WARNED_S = 200
"""So long after the start something is said about a machine; then all pods run."""
OTHERS = tuple(workload(f"other-{after_s}", {}, arrive_after_s=WARNED_S + after_s) for after_s in (0, 1))
"""Pods that others place: the loop looks up when they arrive."""
for other in OTHERS:
    other.template["spec"]["schedulerName"] = "default-scheduler"


@dataclass
class Board:
    """What a cloud said and nobody acknowledged yet."""

    notices: dict[str, Notice] = field(default_factory=dict)
    said: int = 0

    def say(self, machine: str, *, ends_s: int | None, scarce: bool = False) -> None:
        """Give notice of one machine."""
        self.said += 1
        name = f"n-{self.said}"
        event = "SpotInterruption" if ends_s else "Rebalance"
        self.notices[name] = Notice(id=name, machine_id=machine, event=event, ends_s=ends_s, scarce=scarce, why="it is wanted")

    def mode(self) -> type[ScalingMode]:
        """Return the EC2 mode that reads this board."""
        board = self

        class Warned(Ec2Mode):
            def notices(self) -> Sequence[Notice]:
                return tuple(board.notices.values())

            def acknowledge(self, notices: Sequence[Notice]) -> None:
                for notice in notices:
                    board.notices.pop(notice.id, None)

        return Warned


@dataclass
class Run:
    """A world with a board, and what was seen of it."""

    world: World
    board: Board = field(default_factory=Board)
    warned: dict[str, int | None] = field(default_factory=dict)
    """When machines end, by id."""
    reports: list[Report] = field(default_factory=list)

    def until_idle(self, *, in_s: int | None, scarce: bool = False) -> None:
        """Warn of one machine when its pods run, take it away when its time is over, and run until nothing is left to do."""

        def on_report(report: Report) -> None:
            self.reports.append(report)
            now_s = self.world.now_s()
            if not self.warned and now_s >= self.world.start_s + WARNED_S:
                ends_s = None if in_s is None else now_s + in_s
                machine = report.cluster.nodes[0].machine_id
                self.warned[machine] = ends_s
                self.board.say(machine, ends_s=ends_s, scarce=scarce)
            over = [machine for machine, ends_s in self.warned.items() if ends_s is not None and now_s >= ends_s]
            alive = {machine.id for machine in self.world.cloud.machines if machine.state == "running"}
            if alive.intersection(over):
                self.world.cloud.take_away(sorted(alive.intersection(over)))
            assert len(self.reports) < 1_000

        run(self.world.reconciler, self.world, until_idle=True, on_report=on_report)

    @property
    def launched(self) -> int:
        """How many machines the cloud ever gave."""
        return len(self.world.cloud.machines)

    def actions(self, kind: type[Drain | Launch]) -> list[tuple[int, Drain | Launch]]:
        """Return the actions of one kind that were carried out, with their times."""
        return [
            (report.cluster.now_s, outcome.action)
            for report in self.reports
            for outcome in report.outcomes
            if isinstance(outcome.action, kind)
        ]


@contextmanager
def running(*workloads: Workload) -> Iterator[Run]:
    """Yield a run of a world with these workloads."""
    with open_world(scenario(*workloads, *OTHERS), Ways(keep_ended=False)) as world:
        found = Run(world)
        world.reconciler.mode_of = lambda name, *, where, field: found.board.mode()  # noqa: ARG005 - there is one mode
        world.reconciler.forget()
        yield found


HALVES = workload("chat", share("6Gi", "40"), replicas=2, run_for_s=1_800)


@pytest.mark.parametrize("in_s", [120, 2_400, None], ids=["spot", "in 40 minutes", "no end"])
def test_an_interruption_costs_one_replacement(in_s: int | None) -> None:
    """The pods of the machine run on one new machine, bought once, and nothing is left in the end."""
    with running(HALVES) as found:
        found.until_idle(in_s=in_s)

        assert 2 == found.launched
        assert {} == found.board.notices
        assert [] == found.world.kube.list(NODE_REQUESTS).items
        assert {"terminated"} == {machine.state for machine in found.world.cloud.machines}


def test_a_replacement_is_bought_before_any_pod_is_asked_to_leave() -> None:
    """In the same round where time is short: first the purchase, then the evictions."""
    with running(HALVES) as found:
        found.until_idle(in_s=120)
        drains = [(at_s, action) for at_s, action in found.actions(Drain) if isinstance(action, Drain) and action.pods]
        bought_s = found.actions(Launch)[-1][0]

        assert {bought_s} == {at_s for at_s, _ in drains}
        assert ["default/chat-0", "default/chat-1"] == [pod.id for _, action in drains for pod in action.pods]
        (round_of,) = [r for r in found.reports if any(isinstance(o.action, Drain) and o.action.pods for o in r.outcomes)]
        assert [Launch, Drain] == [type(o.action) for o in round_of.outcomes if isinstance(o.action, Drain | Launch)]


def test_without_haste_pods_leave_when_their_next_node_is_ready() -> None:
    """The node boots for 90 s; until then the pods keep running where they are."""
    with running(HALVES) as found:
        found.until_idle(in_s=None)
        bought_s = found.actions(Launch)[-1][0]
        left_s = [at_s for at_s, action in found.actions(Drain) if isinstance(action, Drain) and action.pods]

        assert [True] == [bought_s + 90 <= at_s <= bought_s + 110 for at_s in left_s]


def test_what_is_wanted_back_is_not_bought_again_at_once() -> None:
    """A scarce offer is left out, so that the replacement is another one."""
    with running(HALVES) as found:
        found.until_idle(in_s=120, scarce=True)
        first, second = sorted(found.world.cloud.machines, key=lambda machine: machine.launched_s)

        assert (first.instance_type, first.zone) != (second.instance_type, second.zone)


def test_room_elsewhere_is_taken_before_anything_is_bought() -> None:
    """The node that is left has room for both pods."""
    wide = workload("wide", share("12Gi", "90"), replicas=4, run_for_s=1_800)
    late = workload("late", share("1Gi", "1"), run_for_s=1_000)
    with running(wide, late) as found:
        found.until_idle(in_s=None)
        before = [at_s for at_s, _ in found.actions(Launch)]

        assert len(before) <= 3
        assert {} == found.board.notices


def test_a_budget_is_respected_until_the_machine_goes() -> None:
    """No pod is evicted against its budget; with the machine it goes all the same, and its successor runs elsewhere."""
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "all", "namespace": "default"},
        "spec": {"minAvailable": 3, "selector": {}},
    }
    with running(HALVES) as found:
        found.world.kube.create(DISRUPTION_BUDGETS, budget)
        found.until_idle(in_s=600)
        notes = {o.note for r in found.reports for o in r.outcomes if isinstance(o.action, Drain) and o.note}

        assert {"not allowed to go yet: default/chat-0, default/chat-1"} == notes
        assert 2 == found.launched


def test_a_pool_that_is_deleted_gives_its_nodes_back_with_pods_on_them() -> None:
    """As a deleted NodePool does: its pods are asked to leave, and wait for another pool."""
    with running(HALVES) as found:
        world = found.world
        for number in range(60):
            if number == 20:
                assert any(pod["spec"].get("nodeName") for pod in world.kube.list(PODS).items)
                world.kube.delete(GPU_POOLS, "inference")
            world.reconciler.tick(world.now_s())
            world.wait(world.now_s() + 10)

        assert [] == world.kube.list(GPU_POOLS).items
        assert [] == world.kube.list(NODES).items
        assert {"terminated"} == {machine.state for machine in world.cloud.machines}
        assert {None} == {pod["spec"].get("nodeName") for pod in world.kube.list(PODS).items}


def test_messages_of_ec2_lead_to_one_replacement_and_are_deleted() -> None:
    """The whole way on the simulated cloud: a recommendation, later the warning, through a queue of SQS."""
    pool: Json = copy.deepcopy(POOL)
    pool["spec"]["options"]["interruptionQueue"] = "warnings"
    with open_world(replace(scenario(HALVES, *OTHERS), objects=((GPU_POOLS, pool),)), Ways(keep_ended=False)) as world:
        sqs = world.cloud.session.client("sqs", region_name="us-east-1")
        url = sqs.create_queue(QueueName="warnings")["QueueUrl"]
        world.cloud.events.send_to(url)
        events: list[str] = []

        def on_report(report: Report) -> None:
            passed_s, first = world.now_s() - world.start_s, world.cloud.machines[0].id
            drains = [outcome.action for outcome in report.outcomes if isinstance(outcome.action, Drain)]
            events.extend(drain.request.drain.event for drain in drains if drain.request.drain)
            if passed_s == WARNED_S:
                world.cloud.events.recommend_rebalance(first)
            if passed_s == WARNED_S + 21:
                world.cloud.events.interrupt(first)

        run(world.reconciler, world, until_idle=True, on_report=on_report)
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        left = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=counts)["Attributes"]

        assert ["RebalanceRecommendation", "SpotInterruption"] == [*dict.fromkeys(events)]
        assert 2 == len(world.cloud.machines)
        assert {"0"} == set(left.values())
