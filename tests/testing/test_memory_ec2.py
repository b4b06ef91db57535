"""The cloud in memory gives the answers of the cloud on moto, and has no need of moto."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from tfscale.testing.contracts.ec2 import WORLD, calm
from tfscale.testing.contracts.ec2.world import fleet, ids_in
from tfscale.testing.fake_ec2 import LOST_REPLY, SERVER_ERROR, UNREACHABLE, MemoryCloud, Region, SimulatedCloud

_ID = re.compile(r"\b(?:ami|fleet|i|lt|r|subnet|vpc)-[0-9a-f]{17}\b")
_NOISE = frozenset({"ClientToken", "NextToken", "ResponseMetadata"})
_ZONES, _TYPES = ("us-east-1a", "us-east-1b"), ("toy.small", "toy.big", "toy.here")
Step = Callable[["Twin"], Any]


class Twin:
    """One of two clouds that are asked the same."""

    def __init__(self, cloud: Region) -> None:
        calm(cloud)
        self.cloud = cloud
        self.ec2: Any = cloud.session.client("ec2", config=Config(retries={"total_max_attempts": 1}))
        self.start_s = cloud.now_s
        self._began = len(cloud.machines)

    def told(self, step: Step) -> Any:  # noqa: ANN401 - any reply
        """Return what a step gave, or how it failed."""
        try:
            return step(self)
        except ClientError as error:
            return error.response["Error"]
        except BotoCoreError as error:
            return type(error).__name__

    def ids(self, number: int) -> list[str]:
        """Return one machine of this example, or one that never was."""
        made = [machine.id for machine in self.cloud.machines[self._began :]]
        return [made[number % len(made)]] if made else ["i-00000000000000000"]

    def machines(self) -> list[list[object]]:
        """Return all machines of this example, whatever is listed."""
        return [
            [one.id, one.instance_type, one.zone, one.capacity_type, one.state, one.reservation, one.node, dict(one.tags)]
            for one in self.cloud.machines[self._began :]
        ]


class Pairs:
    """Which id of one cloud stands for which of the other."""

    def __init__(self) -> None:
        self._there: dict[str, str] = {}
        self._here: dict[str, str] = {}

    def agree(self, one: Any, two: Any) -> bool:  # noqa: ANN401 - any reply
        """Return whether a reply of moto has all that the reply of memory has."""
        if isinstance(two, Mapping) and isinstance(one, Mapping):
            return all(
                key in one and self.agree(_sorted(key, one[key]), _sorted(key, two[key])) for key in two if key not in _NOISE
            )
        if isinstance(two, list) and isinstance(one, list):
            return len(one) == len(two) and all(self.agree(*pair) for pair in zip(one, two, strict=True))
        if isinstance(two, str) and isinstance(one, str):
            pairs = zip(_ID.findall(one), _ID.findall(two), strict=False)
            return _ID.sub("", one) == _ID.sub("", two) and all(self._paired(*pair) for pair in pairs)
        return bool(one == two)

    def _paired(self, one: str, two: str) -> bool:
        return self._there.setdefault(one, two) == two and self._here.setdefault(two, one) == one


def _sorted(key: str, value: Any) -> Any:  # noqa: ANN401 - any part of a reply
    """Return tags by key: EC2 promises no order."""
    return sorted(value, key=lambda tag: str(tag["Key"])) if key == "Tags" else value


@pytest.fixture(scope="module")
def on_moto() -> Iterator[SimulatedCloud]:
    """Yield the cloud on moto, as the examples before have left it."""
    with SimulatedCloud(**WORLD) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def in_memory() -> MemoryCloud:
    """Return the cloud in memory, as the examples before have left it."""
    return MemoryCloud(**WORLD)


zones, types = st.sampled_from(_ZONES), st.sampled_from(_TYPES)
numbers, kinds = st.integers(0, 5), st.sampled_from(["on-demand", "spot"])


@st.composite
def fleets(draw: st.DrawFn) -> Step:
    """Draw a CreateFleet; its few tokens make replays."""
    places = draw(st.lists(st.tuples(types, zones), min_size=1, max_size=4, unique=True))
    wanted = {
        "Type": "instant",
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": draw(st.integers(1, 4)),
            "DefaultTargetCapacityType": draw(kinds),
        },
        "OnDemandOptions": {"AllocationStrategy": draw(st.sampled_from(["prioritized", "lowest-price"]))},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": draw(st.sampled_from("ab"))}]}],
    }
    token = draw(st.sampled_from(["", "", "x", "y"]))
    overrides = [{"InstanceType": name, "AvailabilityZone": zone, "Priority": rank} for rank, (name, zone) in enumerate(places)]

    def make(twin: Twin) -> object:
        template = {"LaunchTemplateName": twin.cloud.launch_template, "Version": "$Latest"}
        configs = [{"LaunchTemplateSpecification": template, "Overrides": overrides}]
        # A token lives as long as the cloud: each example has its own.
        once = {"ClientToken": f"{token}-{twin.start_s}"} if token else {}
        return twin.ec2.create_fleet(**wanted, **once, LaunchTemplateConfigs=configs)

    return make


@st.composite
def singles(draw: st.DrawFn) -> Step:
    """Draw a RunInstances, perhaps from a reservation."""
    name, zone = draw(types), draw(zones)
    reservation = draw(st.sampled_from(["", *(one.id for one in WORLD["reservations"])]))
    target = {"CapacityReservationTarget": {"CapacityReservationId": reservation}}
    market = draw(st.sampled_from(["", "spot", "capacity-block"]))
    wanted: dict[str, Any] = {
        "InstanceType": name,
        "Placement": {"AvailabilityZone": zone},
        "MinCount": draw(st.integers(1, 2)),
        "MaxCount": draw(st.integers(2, 3)),
        **({"CapacityReservationSpecification": target} if reservation else {}),
        **({"InstanceMarketOptions": {"MarketType": market}} if market else {}),
    }
    return lambda twin: twin.ec2.run_instances(**wanted, LaunchTemplate={"LaunchTemplateName": twin.cloud.launch_template})


@st.composite
def lists(draw: st.DrawFn) -> Step:
    """Draw a DescribeInstances."""
    filters: dict[str, list[str]] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "tag:team": st.lists(st.sampled_from(["a", "b", "?", "c*"]), min_size=1, max_size=2),
                "instance-state-name": st.lists(
                    st.sampled_from(["pending", "running", "shutting-down", "terminated"]), min_size=1, max_size=3
                ),
                "instance-type": st.lists(types, min_size=1, max_size=2),
                "availability-zone": st.lists(zones, min_size=1, max_size=1),
            },
        )
    )
    wanted: Any = [{"Name": name, "Values": values} for name, values in filters.items()]

    def ask(twin: Twin) -> list[Any]:
        pages = twin.ec2.get_paginator("describe_instances").paginate(Filters=wanted)
        return [group for page in pages for group in page["Reservations"]]

    return ask


def _limits(capacity: dict[tuple[str, str], int]) -> Step:
    limits: Any = capacity  # a key of two is one of the keys that are taken
    return lambda twin: twin.cloud.set_capacity(limits)


steps: st.SearchStrategy[Step] = st.one_of(
    fleets(),
    fleets(),
    singles(),
    lists(),
    numbers.map(lambda number: lambda twin: twin.ec2.describe_instances(InstanceIds=twin.ids(number))),
    numbers.map(lambda number: lambda twin: twin.ec2.terminate_instances(InstanceIds=twin.ids(number))),
    numbers.map(
        lambda number: lambda twin: twin.ec2.create_tags(Resources=twin.ids(number), Tags=[{"Key": "team", "Value": "c1"}])
    ),
    st.sampled_from([1, 30, 60, 3_600]).map(lambda wait_s: lambda twin: twin.cloud.advance(twin.cloud.now_s + wait_s)),
    st.sampled_from([0, 0, 60]).map(lambda lag_s: lambda twin: twin.cloud.set_describe_lag(lag_s)),
    st.dictionaries(st.tuples(types, zones), st.integers(0, 2), max_size=3).map(_limits),
    st.tuples(kinds, st.sampled_from([None, 4, 60])).map(lambda quota: lambda twin: twin.cloud.set_quota(*quota)),
    st.tuples(
        st.sampled_from(["CreateFleet", "TerminateInstances"]), st.sampled_from([UNREACHABLE, LOST_REPLY, SERVER_ERROR])
    ).map(lambda pair: lambda twin: twin.cloud.fail_next(*pair)),
    st.just(lambda twin: twin.ec2.describe_capacity_reservations()),
    st.just(lambda twin: twin.ec2.describe_subnets(SubnetIds=[*twin.cloud.subnets.values()])),
    st.just(lambda twin: twin.ec2.describe_instance_types()),
    st.just(lambda twin: twin.ec2.describe_spot_price_history()),
    st.just(lambda twin: twin.cloud.answer_replays_with_id_only()),
)


@settings(max_examples=40, deadline=None)
@given(story=st.lists(steps, min_size=2, max_size=14))
def test_both_clouds_tell_the_same_story(on_moto: SimulatedCloud, in_memory: MemoryCloud, story: list[Step]) -> None:
    """Whatever is asked in whatever order: equal replies and errors, and equal machines in the end."""
    one, two, pairs = Twin(on_moto), Twin(in_memory), Pairs()
    for step in story:
        told = one.told(step), two.told(step)
        assert pairs.agree(*told), f"moto: {told[0]}\nmemory: {told[1]}"

    assert pairs.agree(one.machines(), two.machines())
    assert on_moto.now_s == in_memory.now_s


@pytest.mark.parametrize("other", [0, 7])
def test_the_same_seed_gives_the_same_machines(other: int) -> None:
    """So that a failing schedule can be run again."""

    def ids_of(seed: int) -> list[tuple[str, str]]:
        cloud = MemoryCloud(**WORLD, seed=seed)
        made = {"InstanceType": "toy.small", "MinCount": 3, "MaxCount": 3}
        Twin(cloud).ec2.run_instances(**made, LaunchTemplate={"LaunchTemplateName": cloud.launch_template})
        return [(machine.id, machine.node) for machine in cloud.machines]

    assert (other == 0) == (ids_of(0) == ids_of(other))


def test_a_reset_forgets_everything() -> None:
    """Also the clock, the limits and what was called; a cloud beside it is not touched."""
    cloud, beside = MemoryCloud(**WORLD), MemoryCloud(**WORLD)
    for one in (cloud, beside):
        Twin(one).ec2.describe_instances()
    cloud.set_capacity({("toy.small", "us-east-1a"): 0})
    cloud.reset()

    assert (0, {}) == (cloud.now_s, cloud.calls)
    assert (10_000, {"DescribeInstances": 1}) == (beside.now_s, beside.calls)


def test_nothing_of_moto_is_needed() -> None:
    """Types of your own bring all that is asked."""
    code = (
        "import sys; sys.modules['moto'] = None\n"
        "from tfscale.testing import MemoryCloud\n"
        "from tfscale.testing.fake_ec2 import SimulatedType\n"
        "cloud = MemoryCloud(instance_types=[SimulatedType(name='toy', vcpu=2, memory_mib=4096)])\n"
        "made = dict(InstanceType='toy', MinCount=1, MaxCount=1, LaunchTemplate={'LaunchTemplateName': cloud.launch_template})\n"
        "cloud.session.client('ec2').run_instances(**made)\n"
        "print(len(cloud.machines))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own code

    assert "1\n" == done.stdout


def test_a_capacity_block_ends_its_machines_half_an_hour_before_it_ends() -> None:
    """Whoever has not drained them by then loses what runs there; other machines stay."""
    cloud = MemoryCloud(**WORLD)
    ec2: Any = cloud.session.client("ec2")
    wanted = {
        "InstanceType": "toy.big",
        "LaunchTemplate": {"LaunchTemplateName": cloud.launch_template},
        "MinCount": 1,
        "MaxCount": 1,
    }
    block = {"CapacityReservationTarget": {"CapacityReservationId": "cr-00000000000000002"}}
    ec2.run_instances(**wanted)
    market = {"MarketType": "capacity-block"}
    ec2.run_instances(**wanted, CapacityReservationSpecification=block, InstanceMarketOptions=market)
    seen = []
    for now_s in (9_998_199, 9_998_200, 9_998_230, 10_000_000):
        cloud.advance(now_s)
        seen.append([machine.state for machine in cloud.machines])

    assert [("running", state) for state in ("running", "shutting-down", "terminated", "terminated")] == [*map(tuple, seen)]
    (found,) = ec2.describe_capacity_reservations(CapacityReservationIds=["cr-00000000000000002"])["CapacityReservations"]
    assert ("expired", 0) == (found["State"], found["AvailableInstanceCount"])


def test_what_was_due_while_nobody_looked_happened_in_time() -> None:
    """The end of a block, and the end of a notice, however far the clock is moved."""
    cloud = MemoryCloud(**WORLD)
    ec2: Any = cloud.session.client("ec2")
    wanted = {"InstanceType": "toy.big", "LaunchTemplate": {"LaunchTemplateName": cloud.launch_template}, "MinCount": 1}
    block = {"CapacityReservationTarget": {"CapacityReservationId": "cr-00000000000000002"}}
    market = {"MarketType": "capacity-block"}
    ec2.run_instances(**wanted, MaxCount=1, CapacityReservationSpecification=block, InstanceMarketOptions=market)
    ec2.run_instances(**wanted, MaxCount=2, InstanceMarketOptions={"MarketType": "spot"})
    cloud.events.interrupt(cloud.machines[1].id)
    cloud.advance(20_000_000)

    assert [9_998_230, 150, None] == [machine.ended_s for machine in cloud.machines]


def test_a_page_is_short_whatever_is_asked_for() -> None:
    """So that a careless reader misses the rest."""
    cloud = MemoryCloud(**WORLD)
    ec2: Any = cloud.session.client("ec2")
    for _ in range(101):
        ec2.run_instances(
            InstanceType="toy.small", LaunchTemplate={"LaunchTemplateName": cloud.launch_template}, MinCount=1, MaxCount=1
        )
    first = ec2.describe_instances(MaxResults=1_000)
    rest = ec2.describe_instances(MaxResults=1_000, NextToken=first["NextToken"])

    assert [100, 1] == [len(page["Reservations"]) for page in (first, rest)]


def test_a_hidden_message_comes_back_by_the_clock() -> None:
    """With another receipt: the old one deletes nothing any more."""
    cloud = MemoryCloud(**WORLD)
    sqs = cloud.session.client("sqs")
    url = sqs.create_queue(QueueName="news", Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="spot")
    (first,) = sqs.receive_message(QueueUrl=url)["Messages"]
    cloud.advance(59)
    early = sqs.receive_message(QueueUrl=url).get("Messages")
    cloud.advance(60)
    (again,) = sqs.receive_message(QueueUrl=url)["Messages"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
    cloud.advance(120)

    assert early is None
    assert first["MessageId"] == again["MessageId"]
    assert 1 == len(sqs.receive_message(QueueUrl=url)["Messages"])


@given(rooms=st.lists(st.integers(0, 3), min_size=3, max_size=3), count=st.integers(1, 7))
def test_a_fleet_takes_what_is_there_in_order(rooms: list[int], count: int) -> None:
    """Machines are never more than ordered or than there are; an earlier place is emptied first; every lack is an error."""
    cloud = MemoryCloud(**WORLD)
    places = [("toy.big", _ZONES[0]), ("toy.small", _ZONES[1]), ("toy.small", _ZONES[0])]
    cloud.set_capacity(dict(zip(places, rooms, strict=True)))
    reply = cloud.session.client("ec2").create_fleet(**fleet(cloud, *places, count=count))

    left, taken, refused = count, [], []
    for place, room in zip(places, rooms, strict=True):
        taken += [place] * min(room, left)
        refused += [place] if room < left else []
        left -= min(room, left)
    assert taken == [(machine.instance_type, machine.zone) for machine in cloud.machines]
    assert len(taken) == len(ids_in({**reply}))
    errors = [error["LaunchTemplateAndOverrides"]["Overrides"] for error in reply["Errors"]]
    assert refused == [(override["InstanceType"], override["AvailabilityZone"]) for override in errors]
