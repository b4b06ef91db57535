"""Purchases on the simulated EC2 from the pods that wait to the nodes that take them: the whole loop, one fault each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.modes.fleets import A, B, bootstrap
from tfscale.errors import NotFoundError
from tfscale.gpus import GpuTable
from tfscale.kube.port import GPU_POOLS, NODE_REQUESTS, NODES, PODS, Json
from tfscale.modes.base import ModeContext
from tfscale.modes.ec2 import Ec2Mode
from tfscale.plan import Launch
from tfscale.reconcile import Reconciler, Report
from tfscale.testing import FakeKube
from tfscale.testing.fake_ec2 import (
    ACCESS_DENIED,
    LOST_REPLY,
    SERVER_ERROR,
    THROTTLED,
    UNREACHABLE,
    ApiError,
    Fault,
    MemoryCloud,
    Region,
    SimulatedCloud,
    SimulatedReservation,
    SimulatedType,
)

TYPES = (
    SimulatedType(name="g6.xlarge", usd_per_hour="0.8", spot_usd_per_hour="0.3"),
    SimulatedType(name="g5.xlarge", usd_per_hour="1.0", spot_usd_per_hour="0.4"),
)
OPEN = SimulatedReservation(id="cr-00000000000000001", instance_type="g6.xlarge", zone=A, count=1)
BLOCK = SimulatedReservation(id="cr-00000000000000002", instance_type="g6.xlarge", zone=B, count=1, block=True, end_s=400_000)
HALF_A_MINUTE_S = 30


@pytest.fixture(scope="module")
def shared_cloud() -> Iterator[SimulatedCloud]:
    """Yield a cloud with two types and two reservations."""
    with SimulatedCloud(instance_types=TYPES, zones=(A, B), reservations=(OPEN, BLOCK)) as cloud:
        cloud.set_describe_lag(0)
        yield cloud


@dataclass
class Loop:
    """A cluster whose pods want a whole L4 or A10G each, its loop, and time."""

    cloud: Region
    spec: Json
    change_node: Callable[[Json], Json] = lambda node: node
    kube: FakeKube = field(init=False)

    def __post_init__(self) -> None:
        """Make pool and loop."""
        self.kube = FakeKube(now=lambda: float(self.cloud.now_s))
        own = self.spec.get("options", {})
        template = {} if "bootstrap" in own else {"launchTemplate": {"name": self.cloud.launch_template}}
        spec = {"mode": "ec2", "default": True, **self.spec, "options": {"region": self.cloud.region, **template, **own}}
        self.kube.create(GPU_POOLS, {"metadata": {"name": "gpus"}, "spec": spec})
        gpus = GpuTable()
        self._reconciler = Reconciler(
            kube=self.kube,
            mode_of=lambda name, *, where, field: Ec2Mode,  # noqa: ARG005 - there is one mode
            open_with=lambda pool: ModeContext(
                pool=pool,
                gpus=gpus,
                kube=self.kube,
                cluster=f"loop-{id(self)}",
                aws=self.cloud.session,
                sleep=lambda _: None,
                clock=lambda: self.cloud.now_s,
            ),
            gpus=gpus,
            prefix="tfscale.io",
        )
        self._before = len(self.cloud.machines)

    @property
    def machines(self) -> list[tuple[str, str, str]]:
        """Type, lifecycle and state of each machine that was launched here."""
        return [(one.instance_type, one.capacity_type, one.state) for one in self.cloud.machines[self._before :]]

    def add_pods(self, count: int, *, first: int = 0) -> None:
        """Let pods wait."""
        for number in range(first, first + count):
            self.kube.create(PODS, pod(f"asr-{number}"), namespace="default")

    def tick(self) -> Report:
        """Make one round, now."""
        return self._reconciler.tick(self.cloud.now_s)

    def rounds(self, count: int) -> None:
        """Make rounds, half a minute apart; machines boot and nodes join meanwhile."""
        for _ in range(count):
            self.tick()
            self.cloud.advance(self.cloud.now_s + HALF_A_MINUTE_S)
            for node in self.cloud.nodes():
                if node["metadata"]["name"] not in {one["metadata"]["name"] for one in self.kube.list(NODES).items}:
                    self.kube.create(NODES, self.change_node(node))
            for name in self.cloud.gone_nodes():
                with suppress(NotFoundError):
                    self.kube.delete(NODES, name)

    @property
    def placed(self) -> int:
        """How many pods have a node."""
        return sum(bool(one["spec"].get("nodeName")) for one in self.kube.list(PODS).items)


def pod(name: str) -> Json:
    """Return a pod that wants a whole card."""
    annotations = {"tfscale.io/vram-request": "20Gi", "tfscale.io/compute-percent-request": "100"}
    return {
        "metadata": {"name": name, "namespace": "default", "labels": {"tfscale.io/enabled": "true"}, "annotations": annotations},
        "spec": {"schedulerName": "tfscale", "containers": [{"name": "main", "image": "example/main"}]},
    }


@pytest.fixture
def loop_of(shared_cloud: SimulatedCloud) -> Iterator[Callable[..., Loop]]:
    """Return what begins a loop on the cloud of this module, which has everything again afterwards."""
    yield lambda **spec: Loop(shared_cloud, spec)
    clear(shared_cloud)


def clear(cloud: SimulatedCloud) -> None:
    """Let the cloud have everything again, and no machine."""
    cloud.set_capacity({})
    cloud.set_describe_lag(0)
    cloud.answer_replays_with_id_only(on=False)
    cloud.forget_faults()
    cloud.forget_calls()
    live = [one.id for one in cloud.machines if one.state != "terminated"]
    if live:
        cloud.session.client("ec2").terminate_instances(InstanceIds=live)
        cloud.advance(cloud.now_s + 1_000)


def offers(types: Sequence[str] = ("g6.xlarge", "g5.xlarge"), capacity_types: Sequence[str] = ("spot", "on-demand")) -> Json:
    """Return what a pool wants."""
    return {"instanceTypes": [*types], "capacityTypes": [*capacity_types]}


def full(*places: tuple[str, str]) -> dict[Any, int]:
    """Return the capacity of a cloud that has nothing of these types and capacity types."""
    return {(name, zone, capacity_type): 0 for name, capacity_type in places for zone in (A, B)}


FAULTS = st.tuples(
    st.sampled_from(["CreateFleet", "RunInstances", "CreateLaunchTemplate", "DescribeFleets", "DescribeInstances"]),
    st.sampled_from([LOST_REPLY, SERVER_ERROR, THROTTLED, UNREACHABLE, ACCESS_DENIED]),
    st.integers(1, 2),
)


@settings(deadline=None, max_examples=10)
@given(faults=st.lists(FAULTS, max_size=4), lag_s=st.sampled_from([0, 50]), id_only=st.booleans(), pods=st.integers(1, 4))
def test_whatever_fails_each_pod_gets_one_machine(
    shared_cloud: SimulatedCloud, *, faults: list[tuple[str, Fault, int]], lag_s: int, id_only: bool, pods: int
) -> None:
    """From reservations and the market, with templates of our own: nothing is bought twice, and nothing is waited for in vain."""
    reservations = [{"id": OPEN.id}, {"id": BLOCK.id}]
    options = {"reservations": reservations, "bootstrap": bootstrap(), "subnetIds": [*shared_cloud.subnets.values()]}
    loop = Loop(shared_cloud, {"offers": offers(capacity_types=["reserved", "on-demand"]), "options": options})
    shared_cloud.set_describe_lag(lag_s)
    shared_cloud.answer_replays_with_id_only(on=id_only)
    for operation, fault, times in faults:
        shared_cloud.fail_next(operation, fault, times=times)
    loop.add_pods(pods)
    loop.rounds(40)
    found = (loop.placed, len(loop.machines))
    clear(shared_cloud)

    assert (pods, pods) == found


def test_a_subnet_that_is_full_gives_way_to_the_next(loop_of: Callable[..., Loop], shared_cloud: SimulatedCloud) -> None:
    """Of the same zone first; a pod for which none is left is told so, and gets its machine when there is room again."""
    small, large = (shared_cloud.add_subnet(A, machines=count) for count in (1, 2))
    loop = loop_of(offers=offers(["g6.xlarge"], ["on-demand"]), options={"subnetIds": [small, large]})
    loop.add_pods(4)
    loop.rounds(6)
    status = loop.kube.get(GPU_POOLS, "gpus")["status"]

    assert (3, 3) == (loop.placed, len(loop.machines))
    assert {small, large} == {one["offer"] for one in status["setAside"]}
    shared_cloud.set_addresses(small, 2)
    loop.rounds(20)
    assert (4, 4) == (loop.placed, len(loop.machines))


@pytest.mark.parametrize("code", ["InvalidLaunchTemplateId.NotFound", "InvalidAMIID.NotFound"])
def test_a_template_that_is_gone_costs_a_moment(loop_of: Callable[..., Loop], code: str) -> None:
    """Another one is made; no offer is to blame."""
    loop = loop_of(offers=offers(capacity_types=["on-demand"]), options={"bootstrap": bootstrap()})
    loop.cloud.fail_next("CreateFleet", Fault(error=ApiError(code, "it does not exist")))
    loop.add_pods(1)
    loop.tick()
    (entry,) = loop.kube.get(GPU_POOLS, "gpus")["status"]["setAside"]
    loop.cloud.advance(loop.cloud.now_s + 5)
    loop.rounds(6)

    assert ("*/*/*", [("g6.xlarge", "on-demand", "running")]) == (entry["offer"], loop.machines)
    assert 1 == loop.placed


def test_a_reservation_that_is_cancelled_meanwhile_gives_way(loop_of: Callable[..., Loop]) -> None:
    """EC2 refuses the call; the market has its turn in the next round, which follows at once."""
    loop = loop_of(offers=offers(capacity_types=["reserved", "on-demand"]), options={"reservations": [{"id": OPEN.id}]})
    loop.cloud.fail_next("RunInstances", Fault(error=ApiError("InvalidCapacityReservationState", "it is not active")), times=9)
    loop.add_pods(1)
    for _ in range(3):
        loop.tick()

    assert [("g6.xlarge", "on-demand")] == [one[:2] for one in loop.machines]
    loop.rounds(6)
    assert (1, 1) == (loop.placed, len(loop.machines))


def test_without_spot_the_pods_get_machines_on_demand_at_the_same_moment(loop_of: Callable[..., Loop]) -> None:
    """The refused offers are set aside, and the next round, which follows at once, buys the next best."""
    loop = loop_of(offers=offers())
    loop.cloud.set_capacity(full(("g6.xlarge", "spot"), ("g5.xlarge", "spot")))
    loop.add_pods(2)
    for _ in range(3):
        loop.tick()
    status = loop.kube.get(GPU_POOLS, "gpus")["status"]

    assert [("g6.xlarge", "on-demand")] * 2 == [one[:2] for one in loop.machines]
    assert {"spot"} == {one["offer"].rpartition("/")[2] for one in status["setAside"]}
    loop.rounds(8)
    assert (2, 2) == (loop.placed, len(loop.machines))


def test_a_partial_fleet_is_completed_with_another_type(loop_of: Callable[..., Loop]) -> None:
    """What came is kept, and what is missing is bought elsewhere, once; a lost reply changes nothing of it."""
    loop = loop_of(offers=offers(capacity_types=["on-demand"]))
    loop.cloud.set_capacity({("g6.xlarge", A): 1, ("g6.xlarge", B): 1})
    loop.cloud.fail_next("CreateFleet", LOST_REPLY)
    loop.add_pods(3)
    loop.rounds(10)

    assert {("g6.xlarge", "on-demand"): 2, ("g5.xlarge", "on-demand"): 1} == Counter(one[:2] for one in loop.machines)
    assert (3, 3) == (loop.placed, len(loop.machines))


def test_reservations_are_taken_first_and_then_the_market(loop_of: Callable[..., Loop]) -> None:
    """An open reservation and a capacity block, by their ids, one machine each."""
    reservations = [{"id": OPEN.id}, {"id": BLOCK.id}]
    loop = loop_of(offers=offers(capacity_types=["reserved", "on-demand"]), options={"reservations": reservations})
    loop.add_pods(3)
    loop.rounds(10)
    into = Counter(
        (one.get("CapacityReservationSpecification") or {}).get("CapacityReservationTarget", {}).get("CapacityReservationId")
        for one in loop.cloud.requests("RunInstances")
    )

    assert {OPEN.id: 1, BLOCK.id: 1} == {one: count for one, count in into.items() if one}
    assert (3, 3) == (loop.placed, len(loop.machines))


def test_a_reservation_that_fills_up_meanwhile_gives_way(loop_of: Callable[..., Loop]) -> None:
    """Somebody else takes its last machine between the look and the call."""
    loop = loop_of(offers=offers(capacity_types=["reserved", "on-demand"]), options={"reservations": [{"id": OPEN.id}]})
    loop.tick()
    taken = {"CapacityReservationTarget": {"CapacityReservationId": OPEN.id}}
    ec2: Any = loop.cloud.session.client("ec2")
    ec2.run_instances(
        InstanceType="g6.xlarge",
        LaunchTemplate={"LaunchTemplateName": loop.cloud.launch_template},
        MinCount=1,
        MaxCount=1,
        CapacityReservationSpecification=taken,
        Placement={"AvailabilityZone": A},
    )
    loop.add_pods(1)
    loop.rounds(8)

    assert (1, 2) == (loop.placed, len(loop.machines))


def test_a_node_whose_cards_never_appear_is_replaced_by_another_type(loop_of: Callable[..., Loop]) -> None:
    """Its driver does not come up: after the time for it the machine is given back, and its offer is set aside."""
    loop = loop_of(offers=offers(capacity_types=["on-demand"]), initialiseWithin="5m")

    def without_cards(node: Json) -> Json:
        if node["metadata"]["labels"]["node.kubernetes.io/instance-type"] != "g6.xlarge":
            return node
        labels, amounts = (
            {key: value for key, value in values.items() if not key.startswith("nvidia.com/")}
            for values in (node["metadata"]["labels"], node["status"]["capacity"])
        )
        meta = {**node["metadata"], "labels": labels}
        return {**node, "metadata": meta, "status": {**node["status"], "capacity": amounts, "allocatable": amounts}}

    loop.change_node = without_cards
    loop.add_pods(1)
    loop.rounds(5)
    assert (0, [("g6.xlarge", "on-demand", "running")]) == (loop.placed, loop.machines)
    loop.rounds(20)

    assert {("g6.xlarge", "on-demand", "terminated"), ("g5.xlarge", "on-demand", "running")} == {*loop.machines}
    assert (1, 2) == (loop.placed, len(loop.machines))
    assert 1 == len(loop.kube.list(NODE_REQUESTS).items)


def test_a_call_that_keeps_failing_is_told_once_and_made_until_it_is_answered(
    loop_of: Callable[..., Loop], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody reads the same line ten times; the same words later are news again."""
    loop = loop_of(offers=offers(capacity_types=["on-demand"]))
    told: list[list[str]] = []
    for _ in range(2):
        loop.cloud.fail_next("CreateFleet", SERVER_ERROR, times=1_000)
        loop.add_pods(2, first=len(told) * 2)
        loop.rounds(5)
        told.append([record.message for record in caplog.records if record.name == "tfscale.reconcile"])
        loop.cloud.forget_faults()
        loop.rounds(8)
        caplog.clear()

    assert [1, 1] == [len(lines) for lines in told]
    assert all("InternalError" in lines[0] for lines in told)
    assert (4, 4) == (loop.placed, len(loop.machines))


def test_an_account_that_may_launch_no_more_is_left_alone_for_a_moment() -> None:
    """No offer is to blame and no action fails: other orders are put off, and all is bought when EC2 lets it be."""
    cloud = MemoryCloud(instance_types=TYPES, zones=(A, B), throttle=True)
    loop = Loop(cloud, {"offers": offers(capacity_types=["on-demand"])})
    ec2: Any = cloud.session.client("ec2")
    template = {"LaunchTemplateName": cloud.launch_template}
    others = ec2.run_instances(LaunchTemplate=template, InstanceType="g6.xlarge", MinCount=1_000, MaxCount=1_000)["Instances"]
    ec2.terminate_instances(InstanceIds=[one["InstanceId"] for one in others])
    loop.add_pods(2)
    for number in (2, 3):
        picky = pod(f"asr-{number}")
        picky["spec"]["nodeSelector"] = {"node.kubernetes.io/instance-type": "g5.xlarge"}
        loop.kube.create(PODS, picky, namespace="default")
    report = loop.tick()
    (entry,) = loop.kube.get(GPU_POOLS, "gpus")["status"]["setAside"]
    again = loop.tick()

    assert 1 == cloud.calls["CreateFleet"]
    assert ([], "*/*/*") == ([*report.failed], entry["offer"])
    assert ["", "put off: the cloud wants a pause"] == [one.note for one in report.outcomes if isinstance(one.action, Launch)]
    assert 4 == sum("its cloud wants a pause" in one.reasons[0] for one in again.plan.unmet)
    assert cloud.now_s + 5 == again.plan.retry_s
    cloud.advance(cloud.now_s + 5)
    loop.rounds(8)
    assert (4, 1_000 + 4) == (loop.placed, len(cloud.machines))
