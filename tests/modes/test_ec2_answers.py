"""What the answers to a launch mean that no simulated cloud gives: errors of every kind, in any mixture, for every offer."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.stub import ANY
from hypothesis import given
from hypothesis import strategies as st

from tests.modes.fleets import A, offer
from tests.modes.stubs import StubbedSession
from tfscale.errors import LaunchRefusedError, ModeError
from tfscale.market import EVERYTHING
from tfscale.model import LaunchBatch
from tfscale.modes.ec2_calls import THROTTLED, Ec2Calls
from tfscale.modes.ec2_fleet import fleet_parameters
from tfscale.modes.ec2_launch import Launches
from tfscale.modes.ec2_refusals import UNFULFILLABLE

OFFERS = [offer(f"t{number}.large") for number in range(300)]
CODES = ["InsufficientInstanceCapacity", "Unsupported", "RequestLimitExceeded", "UnauthorizedOperation", "InternalError"]
LONGEST = 2_000
"""Characters of a reason: it is written on the pool for each offer, and etcd takes 1.5 MiB of all that."""


@pytest.fixture(scope="module")
def stub() -> StubbedSession:
    """Return clients that answer as the tests of this module say."""
    return StubbedSession()


class Times:
    """A time that a test sets."""

    now_s = 0.0


def launches_of(stub: StubbedSession, times: type[Times] = Times) -> Launches:
    """Return the launches of a pool that has no machine and a launch template of its author's."""
    calls = Ec2Calls(stub.session, "us-east-1", sleep=lambda _: None)
    return Launches(calls, observe=lambda: (), on_gone=lambda: False, clock=lambda: times.now_s)


def batch_of(count: int) -> LaunchBatch:
    """Return the record of a call for any of 300 offers."""
    parameters = fleet_parameters(
        [({"LaunchTemplateId": "lt-0a", "Version": "1"}, OFFERS)], OFFERS, count=count, tags={}, token_of=[]
    )
    names = tuple(f"r{number}" for number in range(count))
    return LaunchBatch(
        name="b", pool="gpus", mode="ec2", requests=names, parameters=parameters, offers=tuple(one.id for one in OFFERS)
    )


def error(number: int, code: str, message: str) -> dict[str, Any]:
    """Return what a fleet says of one of its offers."""
    override = {"InstanceType": f"t{number}.large", "AvailabilityZone": A, "Priority": number}
    about = {"LaunchTemplateAndOverrides": {"Overrides": override}, "Lifecycle": "on-demand"}
    return {**about, "ErrorCode": code, "ErrorMessage": message}


@given(
    codes=st.lists(st.sampled_from(CODES), min_size=1, max_size=300),
    length=st.sampled_from([0, 100, 5_000]),
    machines=st.integers(0, 2),
)
def test_every_mixture_of_errors_and_machines_has_a_meaning(
    stub: StubbedSession, codes: list[str], length: int, machines: int
) -> None:
    """Machines win; throttling asks for a pause and blames no offer; what is left is a refusal, and nothing is told at length."""
    launches, batch = launches_of(stub), batch_of(2)
    launches.expect(batch.name)
    override = {"InstanceType": "t9.large", "AvailabilityZone": A}
    group = {"LaunchTemplateAndOverrides": {"Overrides": override}, "InstanceIds": [f"i-{number}" for number in range(machines)]}
    errors = [error(number, code, f"{number}: {'x' * length}") for number, code in enumerate(codes)]
    reply = {"FleetId": "fleet-1", "Instances": [group] if machines else [], "Errors": errors}
    stub.expect("ec2", "create_fleet", dict.fromkeys(batch.parameters, ANY), reply)
    if not machines and UNFULFILLABLE.isdisjoint(codes) and THROTTLED.isdisjoint(codes):
        with pytest.raises(LaunchRefusedError) as caught:
            launches.launch(batch)
        assert LONGEST > len(str(caught.value))
        return
    results = launches.launch(batch)
    refusals = results[0].refusals

    assert machines == sum(result.machine is not None for result in results)
    expected = {f"t{number}.large/{A}/on-demand" for number, code in enumerate(codes) if code in UNFULFILLABLE}
    assert expected | ({EVERYTHING} if "RequestLimitExceeded" in codes else set()) == {one.offer for one in refusals}
    assert LONGEST > max((len(one.message) for one in refusals), default=0)


def test_what_a_denial_says_anew_each_time_is_left_out(stub: StubbedSession, caplog: pytest.LogCaptureFixture) -> None:
    """Kilobytes for each offer, encoded: neither the log nor the pool's status holds them."""
    launches, batch = launches_of(stub), batch_of(1)
    launches.expect(batch.name)
    text = "You are not authorized to perform this operation. Encoded authorization failure message: "
    errors = [error(number, "UnauthorizedOperation", f"{text}{number}{'x' * 2_000}") for number in range(300)]
    stub.expect("ec2", "create_fleet", dict.fromkeys(batch.parameters, ANY), {"FleetId": "fleet-1", "Errors": errors})
    with caplog.at_level("INFO"), pytest.raises(LaunchRefusedError) as caught:
        launches.launch(batch)

    places = ", ".join(f"t{number}.large/{A}/on-demand" for number in range(3))
    said = "UnauthorizedOperation: You are not authorized to perform this operation."
    assert f"launch b: {places} and 297 more: {said}" == str(caught.value)
    assert "Encoded" not in caplog.text


def test_a_fleet_that_is_known_to_nobody_made_nothing_after_a_minute(stub: StubbedSession) -> None:
    """A replay may give an id alone that cannot be described: machines of it would be listed in time."""

    class Later(Times):
        """Another time."""

    launches, batch = launches_of(stub, Later), batch_of(1)
    for later_s in (0, 59, 61):
        Later.now_s = later_s
        stub.expect("ec2", "create_fleet", dict.fromkeys(batch.parameters, ANY), {"FleetId": "fleet-1"})
        stub.refuse("ec2", "describe_fleets", "InvalidFleetId.NotFound")
        if later_s < 60:
            with pytest.raises(ModeError, match="may not be listed yet"):
                launches.launch(batch)
    (result,) = launches.launch(batch)

    assert (None, [EVERYTHING]) == (result.machine, [refusal.offer for refusal in result.refusals])
    stub.done()
