"""EC2's token buckets."""

from __future__ import annotations

from contextlib import suppress
from traceback import walk_tb
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from tfscale.testing.contracts.ec2 import WORLD
from tfscale.testing.fake_ec2 import THROTTLED, ApiError, MemoryCloud
from tfscale.testing.fake_ec2.throttle import Throttle

CALLS = st.sampled_from(["DescribeInstances", "CreateFleet", "RunInstances", "CreateTags"])
SIZES = {"DescribeInstances": (20, 100), "CreateFleet": (5, 50), "RunInstances": (2, 5), "CreateTags": (10, 100)}


@given(operation=CALLS, waits_s=st.lists(st.integers(0, 30), min_size=1, max_size=12), at_once=st.integers(1, 150))
def test_no_more_calls_than_tokens(operation: str, waits_s: list[int], at_once: int) -> None:
    """In any time: what the bucket held, and what ran into it since; and never fewer than one may have."""
    now_s = 0
    throttle = Throttle(lambda: now_s, on=True)
    per_s, size = SIZES[operation]
    tokens = size
    for wait_s in waits_s:
        now_s += wait_s
        tokens = min(tokens + wait_s * per_s, size)
        admitted = sum(_admitted(throttle, operation) for _ in range(at_once))

        assert min(at_once, tokens) == admitted
        tokens -= admitted


def _admitted(throttle: Throttle, operation: str) -> bool:
    try:
        throttle.admit(operation, {})
    except ApiError:
        return False
    return True


def test_a_thousand_machines_at_once_and_two_a_second() -> None:
    """A fleet gets what there are tokens for and says so, and so does a single call."""
    cloud = MemoryCloud(**WORLD, throttle=True)
    ec2: Any = cloud.session.client("ec2")
    template = {"LaunchTemplateName": cloud.launch_template}
    config = {"LaunchTemplateSpecification": template, "Overrides": [{"InstanceType": "toy.small"}]}
    target = {"TotalTargetCapacity": 1_200, "DefaultTargetCapacityType": "on-demand"}
    reply = ec2.create_fleet(Type="instant", LaunchTemplateConfigs=[config], TargetCapacitySpecification=target)
    cloud.advance(cloud.now_s + 10)
    more = ec2.run_instances(InstanceType="toy.small", LaunchTemplate=template, MinCount=1, MaxCount=50)

    assert [1_000] == [len(group["InstanceIds"]) for group in reply["Instances"]]
    assert ["RequestLimitExceeded"] == [error["ErrorCode"] for error in reply["Errors"]]
    assert 20 == len(more["Instances"])
    assert {"RunInstances": 2} == cloud.throttled


def test_a_refusal_keeps_nothing_of_the_calls_that_met_it() -> None:
    """It is a constant: whatever is tied to it, a whole cloud for one, is there for as long as the process."""
    cloud = MemoryCloud(**WORLD, throttle=True)
    ec2: Any = cloud.session.client("ec2")
    for _ in range(200):
        with suppress(ClientError):
            ec2.describe_instances()

    assert {"DescribeInstances": 100} == cloud.throttled
    assert THROTTLED.error
    assert 5 > len([*walk_tb(THROTTLED.error.__traceback__)])


def test_ends_are_counted_too() -> None:
    """A thousand at once, then twenty a second; a call that is refused ends nothing."""
    now_s = 0
    throttle = Throttle(lambda: now_s, on=True)
    throttle.admit("TerminateInstances", {"InstanceIds": ["i"] * 1_000})
    with pytest.raises(ApiError, match="Request limit"):
        throttle.admit("TerminateInstances", {"InstanceIds": ["i"] * 20})
    now_s = 1
    throttle.admit("TerminateInstances", {"InstanceIds": ["i"] * 20})

    assert {"TerminateInstances": 1} == throttle.refused
