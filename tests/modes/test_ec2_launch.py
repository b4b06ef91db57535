"""What becomes of a call on the simulated cloud: how far a refusal reaches, and what a refused replay does not prove."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.modes.fleets import A, B, batch_of, bootstrap, live, machine_ids, mode_of, offer, taken
from tfscale.errors import CloudUnreachableError, LaunchRefusedError, ModeError
from tfscale.model import LaunchBatch
from tfscale.modes.base import LaunchResult
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.ec2_fleet import fleet_parameters, offer_ids
from tfscale.pool import OfferFilter
from tfscale.testing.fake_ec2 import ACCESS_DENIED, LOST_REPLY, SERVER_ERROR, ApiError, Fault, SimulatedCloud

BOTH = OfferFilter(instance_types=("g6.xlarge", "g4dn.xlarge"), capacity_types=("on-demand", "spot"))


@pytest.fixture
def cloud(cloud: SimulatedCloud) -> SimulatedCloud:
    """Return the cloud as it is listed at once, without quotas."""
    cloud.set_describe_lag(0)
    for kind in ("on-demand", "spot"):
        cloud.set_quota(kind, None)
    return cloud


def refused(results: list[LaunchResult] | tuple[LaunchResult, ...]) -> dict[str, str]:
    """Return the code of every offer, or more, that gave nothing."""
    return {refusal.offer: refusal.code for result in results for refusal in result.refusals}


def lost(cloud: SimulatedCloud, mode: Ec2Mode, count: int = 1) -> LaunchBatch:
    """Return the record of a call that was carried out and whose reply was lost."""
    batch = batch_of(mode, [offer()], count)
    cloud.fail_next("CreateFleet", LOST_REPLY)
    with pytest.raises(CloudUnreachableError):
        mode.launch(batch)
    return batch


@given(zones=st.lists(st.integers(0, 4), min_size=1, max_size=120), subnets=st.integers(0, 4))
def test_a_call_names_no_more_than_a_fleet_takes_and_the_best_first(zones: list[int], subnets: int) -> None:
    """Each offer in each subnet, cut at the end of our order, with a rank of its own; no offer is invented."""
    offers = [
        replace(offer(f"t{number}.large", f"z{zone}"), subnets=tuple(f"subnet-{zone}-{one}" for one in range(subnets)))
        for number, zone in enumerate(zones)
    ]
    halves = [({"LaunchTemplateId": "lt-1"}, offers[::2]), ({"LaunchTemplateId": "lt-2"}, offers[1::2])]
    parameters = fleet_parameters(halves, offers, count=1, tags={}, token_of=[])
    overrides = [one for config in parameters["LaunchTemplateConfigs"] for one in config["Overrides"]]

    assert min(len(offers) * max(subnets, 1), 300) == len(overrides)
    assert [*range(len(overrides))] == sorted(one["Priority"] for one in overrides)
    named = offer_ids(parameters)
    assert tuple(one.id for one in offers)[: len(named)] == named
    assert all(config["Overrides"] for config in parameters["LaunchTemplateConfigs"])


def test_a_full_subnet_is_to_blame_itself_and_the_next_is_taken(cloud: SimulatedCloud) -> None:
    """The one with the most room comes first; an offer goes without the subnets that are set aside."""
    small = cloud.add_subnet(A, machines=1)
    large = cloud.add_subnet(A, machines=2)
    mode = mode_of(cloud, wanted=BOTH, subnetIds=[small, large])
    (found,) = [one for one in mode.offers() if one.id == f"g6.xlarge/{A}/on-demand"]
    results = mode.launch(batch_of(mode, [found], 3))
    again = mode.launch(batch_of(mode, [replace(found, subnets=(small,))]))

    assert (large, small) == found.subnets
    assert 3 == len(taken(results))
    assert {large: "InsufficientFreeAddressesInSubnet"} == refused([*results])
    assert {small: "InsufficientFreeAddressesInSubnet"} == refused([*again])


def test_a_spot_quota_is_about_the_types_that_it_refuses(cloud: SimulatedCloud) -> None:
    """Each family has its own; on-demand goes on."""
    mode = mode_of(cloud, wanted=BOTH)
    cloud.set_quota("spot", 0)
    results = mode.launch(batch_of(mode, [offer(capacity_type="spot"), offer("g4dn.xlarge", B, "spot")]))

    spot = {f"g6.xlarge/{A}/spot", f"g4dn.xlarge/{B}/spot"}
    assert dict.fromkeys(spot, "MaxSpotInstanceCountExceeded") == refused([*results])
    assert [f"g6.xlarge/{A}/on-demand"] == taken(mode.launch(batch_of(mode, [offer()])))


def test_a_missing_role_for_spot_sets_all_of_spot_aside(cloud: SimulatedCloud) -> None:
    """It is raised and not listed."""
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer(capacity_type="spot")])
    code = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
    cloud.fail_next("CreateFleet", Fault(error=ApiError(code, "no role", status=403)))

    assert {"*/*/spot": code} == refused([*mode.launch(batch)])


def test_a_quota_is_the_same_in_every_zone_and_apart_for_spot(cloud: SimulatedCloud) -> None:
    """A type that one zone refuses for it is not tried in the next, but it may be bought as spot."""
    mode = mode_of(cloud, wanted=BOTH)
    cloud.set_quota("on-demand", 0)
    results = mode.launch(batch_of(mode, [offer(zone=A), offer(zone=B)]))

    assert {f"g6.xlarge/{zone}/on-demand": "VcpuLimitExceeded" for zone in (A, B)} == refused([*results])
    assert [f"g6.xlarge/{A}/spot"] == taken(mode.launch(batch_of(mode, [offer(capacity_type="spot")])))


def test_machines_win_over_errors(cloud: SimulatedCloud) -> None:
    """A partial fleet is a success with fewer machines, and says what had no more."""
    cloud.set_capacity({("g6.xlarge", A): 1, ("g4dn.xlarge", B): 1})
    mode = mode_of(cloud, wanted=BOTH)
    results = mode.launch(batch_of(mode, [offer(), offer("g4dn.xlarge", B)], 3))

    assert [f"g4dn.xlarge/{B}/on-demand", f"g6.xlarge/{A}/on-demand"] == taken(results)
    assert {f"g6.xlarge/{A}/on-demand", f"g4dn.xlarge/{B}/on-demand"} == refused([*results]).keys()


@pytest.mark.parametrize("fault", [ACCESS_DENIED, Fault(error=ApiError("VcpuLimitExceeded", "limit"))])
def test_a_refused_replay_waits_until_an_earlier_call_would_be_listed(cloud: SimulatedCloud, fault: Fault) -> None:
    """Its machines exist and are not described yet: neither are they given up, nor others bought."""
    mode = mode_of(cloud)
    cloud.set_describe_lag(50)
    batch = lost(cloud, mode, 2)
    cloud.fail_next("CreateFleet", fault, times=2)
    with pytest.raises(ModeError, match="may not be listed yet") as caught:
        mode.launch(batch)
    cloud.advance(cloud.now_s + 55)

    assert not isinstance(caught.value, LaunchRefusedError)
    assert live(cloud) == machine_ids(mode.launch(batch))


def test_another_process_does_not_trust_a_refusal_either(cloud: SimulatedCloud) -> None:
    """It knows only that somebody may have made the call; a minute later it knows more."""
    batch = batch_of(mode_of(cloud), [offer()])
    mode = mode_of(cloud)
    cloud.fail_next("CreateFleet", ACCESS_DENIED, times=2)
    with pytest.raises(ModeError, match="may not be listed yet") as caught:
        mode.launch(batch)
    cloud.advance(cloud.now_s + 61)

    assert not isinstance(caught.value, LaunchRefusedError)
    with pytest.raises(LaunchRefusedError, match="UnauthorizedOperation"):
        mode.launch(batch)


def test_a_first_call_that_is_refused_is_believed_at_once(cloud: SimulatedCloud) -> None:
    """And so is the reply of a fleet that gave nothing, whoever asks: the next offers have their turn."""
    cloud.set_capacity({("g6.xlarge", A): 0})
    mode = mode_of(cloud)
    denied, empty = batch_of(mode, [offer()]), batch_of(mode, [offer()])
    cloud.fail_next("CreateFleet", ACCESS_DENIED)

    with pytest.raises(LaunchRefusedError):
        mode.launch(denied)
    expected = {f"g6.xlarge/{A}/on-demand": "InsufficientInstanceCapacity"}
    assert expected == refused([*mode.launch(empty)]) == refused([*mode_of(cloud).launch(empty)])


def test_every_unknown_outcome_renews_the_wait(cloud: SimulatedCloud) -> None:
    """The last call may have been carried out as well as the first."""
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer()])
    cloud.fail_next("CreateFleet", SERVER_ERROR)
    with pytest.raises(ModeError):
        mode.launch(batch)
    cloud.advance(cloud.now_s + 50)
    for fault in (SERVER_ERROR, ACCESS_DENIED):
        cloud.fail_next("CreateFleet", fault)
        with pytest.raises(ModeError):
            mode.launch(batch)
    cloud.advance(cloud.now_s + 50)
    cloud.fail_next("CreateFleet", ACCESS_DENIED)

    with pytest.raises(ModeError, match="may not be listed yet"):
        mode.launch(batch)


@settings(deadline=None, max_examples=25)
@given(
    faults=st.lists(st.sampled_from([LOST_REPLY, SERVER_ERROR, ACCESS_DENIED]), max_size=5),
    lag_s=st.sampled_from([0, 30, 55]),
    steps=st.lists(st.sampled_from([0, 20, 70]), min_size=6, max_size=6),
    restart=st.booleans(),
)
def test_a_call_is_never_given_up_while_it_has_machines(
    shared_cloud: SimulatedCloud, *, faults: list[Fault], lag_s: int, steps: list[int], restart: bool
) -> None:
    """Through lost replies, refusals, lists that lag and restarts: where it is refused for good, nothing was made."""
    cloud = shared_cloud
    cloud.set_capacity({})
    cloud.set_describe_lag(lag_s)
    before = {machine.id for machine in cloud.machines}
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer()], 2)
    results: list[str | None] | None = None
    for fault, step_s in zip([*faults, None], steps, strict=False):
        if fault:
            cloud.fail_next("CreateFleet", fault)
        try:
            results = machine_ids(mode.launch(batch))
        except LaunchRefusedError:
            results = []
        except ModeError:
            cloud.advance(cloud.now_s + step_s)
            mode = mode_of(cloud) if restart else mode
            continue
        break
    made = sorted({machine.id for machine in cloud.machines} - before)

    assert made == (results or [])


def test_an_error_without_a_code_proves_nothing(cloud: SimulatedCloud) -> None:
    """A proxy in between may answer with anything."""
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer()])
    cloud.fail_next("CreateFleet", Fault(error=ApiError("Unknown", "")))

    with pytest.raises(ModeError) as caught:
        mode.launch(batch)
    assert not isinstance(caught.value, LaunchRefusedError)


def test_a_changed_record_is_a_loud_problem_and_no_new_token(cloud: SimulatedCloud) -> None:
    """Machines may stand behind the first call, so it is neither refused nor made with another token."""
    mode = mode_of(cloud)
    batch = batch_of(mode, [offer()])
    mode.launch(batch)
    target = {**batch.parameters["TargetCapacitySpecification"], "TotalTargetCapacity": 2}
    changed = replace(batch, parameters={**batch.parameters, "TargetCapacitySpecification": target})

    with pytest.raises(ModeError, match="somebody changed the record of a call that was made: IdempotentParam") as caught:
        mode.launch(changed)
    assert not isinstance(caught.value, LaunchRefusedError)
    assert 1 == len(live(cloud))


def test_a_machine_that_boots_has_not_started(cloud: SimulatedCloud) -> None:
    """EC2 calls it pending; one that runs has started."""
    mode = mode_of(cloud, bootstrap=bootstrap(), wanted=BOTH)
    (result,) = mode.launch(batch_of(mode, [one for one in mode.offers() if one.capacity_type == "spot"]))
    before = mode.observe()
    cloud.advance(cloud.now_s + 100)

    assert [False] == [machine.started for machine in before]
    assert [True] == [machine.started for machine in mode.observe()]
    assert result.machine is not None
    assert not result.machine.started
