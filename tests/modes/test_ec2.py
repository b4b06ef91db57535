"""The EC2 mode against the simulated cloud: what it sends, and what it makes of every kind of answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.modes.fleets import A, B, batch_of, live, machine_ids, mode_of, offer, taken
from tfscale.errors import CloudUnreachableError, LaunchRefusedError, ModeError
from tfscale.model import NodeRequest
from tfscale.modes.base import Refusal
from tfscale.modes.ec2_calls import MOST_TRIES
from tfscale.testing.fake_ec2 import (
    ACCESS_DENIED,
    LOST_REPLY,
    SERVER_ERROR,
    THROTTLED,
    UNREACHABLE,
    ApiError,
    Fault,
    SimulatedCloud,
)


@settings(max_examples=40, deadline=None)
@given(
    here=st.integers(0, 3),
    there=st.integers(0, 3),
    count=st.integers(1, 5),
    faults=st.lists(st.sampled_from([LOST_REPLY, THROTTLED, SERVER_ERROR, UNREACHABLE]), max_size=4),
    short=st.booleans(),
    later=st.integers(0, 5),
)
def test_a_replay_launches_nothing_twice(
    shared_cloud: SimulatedCloud, *, here: int, there: int, count: int, faults: list[Fault], short: bool, later: int
) -> None:
    """Through any faults, one batch makes what fits and no more, and every replay reports the same machines."""
    cloud, mode = shared_cloud, mode_of(shared_cloud)
    cloud.answer_replays_with_id_only(on=short)
    before = {machine.id for machine in cloud.machines}
    used = [(machine.instance_type, machine.zone) for machine in cloud.machines if machine.state != "terminated"]
    cloud.set_capacity({("g6.xlarge", zone): used.count(("g6.xlarge", zone)) + room for zone, room in ((A, here), (B, there))})
    batch = batch_of(mode, [offer(zone=A), offer(zone=B)], count)
    for fault in faults:
        cloud.fail_next("CreateFleet", fault)
        with pytest.raises(ModeError):
            mode.launch(batch)

    results = mode.launch(batch)
    cloud.set_capacity({("g6.xlarge", A): len(used) + later})
    again = mode.launch(batch)

    made = [machine for machine in cloud.machines if machine.id not in before]
    expected = [*sorted(machine.id for machine in made), *[None] * (count - len(made))]
    assert min(count, here + there) == len(made)
    assert expected == machine_ids(results)
    assert expected == machine_ids(again)
    assert min(count, here) == sum(machine.zone == A for machine in made)


def test_the_call_is_sent_as_it_was_recorded(cloud: SimulatedCloud) -> None:
    """Every parameter is in the record, and nothing is added on the way."""
    subnets = [cloud.subnets[A], cloud.subnets[B]]
    mode = mode_of(cloud, subnetIds=subnets, tags={"team": "speech"})
    batch = batch_of(mode, [offer(zone=B), offer("g4dn.xlarge", zone=B)], 2)
    mode.launch(batch)

    sent = cloud.requests("CreateFleet")[-1]
    token = sent.pop("ClientToken")
    template = sent["LaunchTemplateConfigs"][0].pop("LaunchTemplateSpecification")
    tags = [
        {"Key": "Name", "Value": "test-gpus"},
        {"Key": "team", "Value": "speech"},
        {"Key": "tfscale.io/batch", "Value": batch.name},
        {"Key": "tfscale.io/cluster", "Value": "test"},
        {"Key": "tfscale.io/epoch", "Value": "0"},
        {"Key": "tfscale.io/pool", "Value": "gpus"},
    ]
    expected = {
        "Type": "instant",
        "LaunchTemplateConfigs": [
            {
                "Overrides": [
                    {"InstanceType": "g6.xlarge", "AvailabilityZone": B, "Priority": 0, "SubnetId": cloud.subnets[B]},
                    {"InstanceType": "g4dn.xlarge", "AvailabilityZone": B, "Priority": 1, "SubnetId": cloud.subnets[B]},
                ]
            }
        ],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 2, "DefaultTargetCapacityType": "on-demand"},
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "fleet")],
        "OnDemandOptions": {"AllocationStrategy": "prioritized"},
    }
    assert expected == sent
    assert batch.parameters["ClientToken"] == token
    assert len(token) <= 64
    assert token.isascii()
    assert template["Version"] == "1"
    assert template["LaunchTemplateId"].startswith("lt-")


def test_a_spot_batch_asks_for_spot(cloud: SimulatedCloud) -> None:
    """Spot has its own strategy, and its machines are seen as spot."""
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer(capacity_type="spot"), offer("g4dn.xlarge", B, "spot")])
    results = mode.launch(batch)

    assert batch.parameters["SpotOptions"] == {"AllocationStrategy": "price-capacity-optimized"}
    assert "OnDemandOptions" not in batch.parameters
    assert taken(results) == [f"g4dn.xlarge/{B}/spot"]
    assert [machine.offer for machine in mode.observe()] == [f"g4dn.xlarge/{B}/spot"]


@settings(deadline=None)
@given(field=st.sampled_from(["name", "now", "offers", "count", "cluster"]))
def test_other_parameters_never_share_a_token(shared_cloud: SimulatedCloud, field: str) -> None:
    """The token is a hash over all that makes the call, so it is never refused for a mismatch."""
    mode = mode_of(shared_cloud, cluster="other" if field == "cluster" else "test")
    base = mode_of(shared_cloud)
    request = NodeRequest(name="r", pool="gpus", mode="ec2")
    first = base.prepare("b", [request], [offer()], now_s=1)
    second = mode.prepare(
        "c" if field == "name" else "b",
        [request] * (2 if field == "count" else 1),
        [offer(zone=B if field == "offers" else A)],
        now_s=2 if field == "now" else 1,
    )

    assert first.parameters["ClientToken"] != second.parameters["ClientToken"]
    assert first == base.prepare("b", [request], [offer()], now_s=1)


def test_no_machine_goes_where_the_pool_has_no_subnet(cloud: SimulatedCloud) -> None:
    """EC2 would put it into a default subnet; such offers are left out, and a batch of nothing else is refused."""
    mode = mode_of(cloud, subnetIds=[cloud.subnets[B]])

    assert taken(mode.launch(batch_of(mode, [offer(zone=A), offer(zone=B)]))) == [f"g6.xlarge/{B}/on-demand"]
    with pytest.raises(LaunchRefusedError, match="no subnet of pool gpus is in the zones of its offers"):
        batch_of(mode, [offer(zone=A)])


def test_the_next_offer_is_taken_in_the_same_call(cloud: SimulatedCloud) -> None:
    """An offer without capacity is reported beside the machines that another offer gave."""
    cloud.set_capacity({("g6.xlarge", A): 0, ("g6.xlarge", B): 1})
    mode = mode_of(cloud)
    results = mode.launch(batch_of(mode, [offer(zone=A), offer(zone=B), offer("toy.2x", A)], 3))

    assert taken(results) == [f"g6.xlarge/{B}/on-demand", f"toy.2x/{A}/on-demand", f"toy.2x/{A}/on-demand"]
    refused = {refusal.offer: refusal.code for result in results for refusal in result.refusals}
    expected = {f"g6.xlarge/{zone}/on-demand": "InsufficientInstanceCapacity" for zone in (A, B)}
    assert expected == refused


def test_no_capacity_anywhere_is_an_answer(cloud: SimulatedCloud) -> None:
    """Every request comes back without a machine and with every offer that was tried."""
    cloud.set_capacity({("g6.xlarge", A): 0, ("g6.xlarge", B): 0})
    mode = mode_of(cloud)
    results = mode.launch(batch_of(mode, [offer(zone=A), offer(zone=B)], 2))

    assert machine_ids(results) == [None, None]
    assert [refusal.offer for refusal in results[0].refusals] == [f"g6.xlarge/{A}/on-demand", f"g6.xlarge/{B}/on-demand"]
    assert not live(cloud)


def test_a_type_that_a_zone_lacks_is_an_offer_refused(cloud: SimulatedCloud) -> None:
    """The offer is set aside; the batch is not refused as a whole."""
    mode = mode_of(cloud)
    (result,) = mode.launch(batch_of(mode, [offer("g4dn.xlarge", A)]))

    assert result.machine is None
    assert [refusal.code for refusal in result.refusals] == ["InvalidFleetConfiguration"]


def test_no_capacity_said_as_an_error_is_the_same_answer(cloud: SimulatedCloud) -> None:
    """An account-wide limit is raised and not listed: it is about every offer of the call."""
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer(zone=A), offer(zone=B)])
    cloud.fail_next("CreateFleet", Fault(error=ApiError("VcpuLimitExceeded", "You have requested more vCPU capacity")))
    (result,) = mode.launch(batch)

    message = "You have requested more vCPU capacity"
    expected = tuple(Refusal(offer=offer(zone=zone).id, code="VcpuLimitExceeded", message=message) for zone in (A, B))
    assert expected == result.refusals


@pytest.mark.parametrize(
    "code", ["UnauthorizedOperation", "InvalidParameterValue", "InvalidLaunchTemplateId.NotFound", "MissingInput"]
)
def test_a_definite_refusal_says_so(cloud: SimulatedCloud, code: str) -> None:
    """Nothing was launched, and asking again would not help."""
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer()])
    cloud.fail_next("CreateFleet", Fault(error=ApiError(code, "no")))

    with pytest.raises(LaunchRefusedError, match=f"launch {batch.name}: {code}: no"):
        mode.launch(batch)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (THROTTLED, ModeError),
        (SERVER_ERROR, ModeError),
        (LOST_REPLY, CloudUnreachableError),
        (UNREACHABLE, CloudUnreachableError),
        (Fault(error=ApiError("ExpiredToken", "expired")), CloudUnreachableError),
    ],
)
def test_an_unknown_outcome_is_never_a_refusal(cloud: SimulatedCloud, fault: Fault, error: type[ModeError]) -> None:
    """The call is made once, not repeated underneath, and the caller learns that it does not know."""
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer()])
    cloud.fail_next("CreateFleet", fault)
    calls = cloud.calls["CreateFleet"]

    with pytest.raises(error) as caught:
        mode.launch(batch)
    assert not isinstance(caught.value, LaunchRefusedError)
    assert calls + 1 == cloud.calls["CreateFleet"]


def test_a_refused_replay_still_finds_what_the_first_call_launched(cloud: SimulatedCloud) -> None:
    """The reply was lost, then the permission was withdrawn: the machine exists and is not forgotten."""
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer()])
    for fault in (LOST_REPLY, ACCESS_DENIED):
        cloud.fail_next("CreateFleet", fault)
    with pytest.raises(CloudUnreachableError):
        mode.launch(batch)

    assert live(cloud) == machine_ids(mode.launch(batch))


def test_a_replay_without_capacity_still_finds_what_the_first_call_launched(cloud: SimulatedCloud) -> None:
    """The reply was lost, then the account's limit was reached, by these very machines perhaps: they are not forgotten."""
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer()], 2)
    for fault in (LOST_REPLY, Fault(error=ApiError("VcpuLimitExceeded", "You have requested more vCPU capacity"))):
        cloud.fail_next("CreateFleet", fault)
    with pytest.raises(CloudUnreachableError):
        mode.launch(batch)

    results = mode.launch(batch)
    assert live(cloud) == machine_ids(results)
    assert len(results) == 2
    assert not any(result.refusals for result in results)


def test_the_template_version_is_fixed_when_the_batch_is_prepared(cloud: SimulatedCloud) -> None:
    """A new version between the record and the call changes nothing: the replay is word for word."""
    ec2 = cloud.session.client("ec2")
    mode = mode_of(cloud, launchTemplate={"name": cloud.launch_template, "version": "$Latest"})
    latest = ec2.describe_launch_templates()["LaunchTemplates"][0]["LatestVersionNumber"]
    batch = batch_of(mode, [offer()])
    ec2.create_launch_template_version(LaunchTemplateName=cloud.launch_template, LaunchTemplateData={"ImageId": "ami-12345678"})
    first, second = mode.launch(batch), mode.launch(batch)

    assert batch.parameters["LaunchTemplateConfigs"][0]["LaunchTemplateSpecification"]["Version"] == str(latest)
    assert machine_ids(first) == machine_ids(second)
    assert batch_of(mode, [offer()]).parameters["LaunchTemplateConfigs"][0]["LaunchTemplateSpecification"]["Version"] == str(
        latest + 1
    )


def test_machines_of_others_are_neither_seen_nor_terminated(cloud: SimulatedCloud) -> None:
    """Another pool, another cluster, a name that matches as a wildcard, and no tags at all."""
    ours = mode_of(cloud, cluster="te*t")
    others = [mode_of(cloud, pool="other", cluster="te*t"), mode_of(cloud, cluster="test")]
    foreign = [machine_ids(other.launch(batch_of(other, [offer()])))[0] or "" for other in others]
    untagged = cloud.session.client("ec2").run_instances(InstanceType="m5.large", ImageId="ami-1", MinCount=1, MaxCount=1)
    foreign.append(untagged["Instances"][0]["InstanceId"])
    ours.terminate(foreign)

    assert ours.observe() == []
    assert sorted(foreign) == live(cloud)


def test_terminated_machines_fade(cloud: SimulatedCloud) -> None:
    """They are seen as stopping until they are gone, and to ask again is no error."""
    mode = mode_of(cloud)
    ids = [found or "" for found in machine_ids(mode.launch(batch_of(mode, [offer()], 3)))]
    mode.terminate([*ids[:2], "i-00000000000000000"])
    stopping = {machine.id: machine.stopping for machine in mode.observe()}
    mode.terminate(ids[:2])
    cloud.advance(cloud.now_s + 100)
    mode.terminate(ids[:2])

    expected = {ids[0]: True, ids[1]: True, ids[2]: False}
    assert expected == stopping
    assert [ids[2]] == [machine.id for machine in mode.observe()]


def test_a_machine_that_goes_between_looking_and_asking_is_success(cloud: SimulatedCloud) -> None:
    """EC2 fails the whole call for one unknown id; the others are asked for again, one by one."""
    mode = mode_of(cloud)
    ids = [found or "" for found in machine_ids(mode.launch(batch_of(mode, [offer()], 3)))]
    cloud.fail_next("TerminateInstances", Fault(error=ApiError("InvalidInstanceID.NotFound", "gone")), times=2)
    mode.terminate(ids)

    assert sorted(ids)[:1] == live(cloud)


def test_reads_survive_throttling(cloud: SimulatedCloud) -> None:
    """Throttling, a server error and a broken connection are tried again; a missing permission is not."""
    mode = mode_of(cloud)
    for fault in (THROTTLED, SERVER_ERROR, LOST_REPLY, UNREACHABLE):
        cloud.fail_next("DescribeInstances", fault)
    assert mode.observe() == []

    cloud.fail_next("DescribeInstances", ACCESS_DENIED)
    with pytest.raises(ModeError, match="DescribeInstances: UnauthorizedOperation"):
        mode.observe()


def test_reads_that_keep_failing_are_given_up_after_a_fixed_number_of_tries(cloud: SimulatedCloud) -> None:
    """Also where nobody really waits in between, as in a simulation."""
    waits_s: list[float] = []
    mode = mode_of(cloud, sleep=waits_s.append)
    cloud.fail_next("DescribeInstances", THROTTLED, times=MOST_TRIES + 1)
    with pytest.raises(ModeError, match="RequestLimitExceeded"):
        mode.observe()

    assert MOST_TRIES - 1 == len(waits_s)
    assert [] == mode.observe()


def test_more_machines_than_one_page_are_all_seen(cloud: SimulatedCloud) -> None:
    """Every page is read."""
    mode = mode_of(cloud)
    mode.launch(batch_of(mode, [offer()], 30))
    for number in range(105):
        mode.launch(batch_of(mode, [offer(zone=A if number % 2 else B)]))

    assert sorted(machine.id for machine in mode.observe()) == live(cloud)
    assert len(live(cloud)) == 135
