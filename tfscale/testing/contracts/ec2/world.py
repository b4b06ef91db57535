"""The region that the contract is about, and the calls that its tests make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tfscale.testing.fake_ec2 import Region, SimulatedReservation, SimulatedType

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["BIG", "HERE", "SMALL", "THERE", "WORLD", "Workplace", "calm", "code_of", "fleet", "ids_in", "single", "tagged"]

HERE, THERE = "us-east-1a", "us-east-1b"
SMALL, BIG = "toy.small", "toy.big"
WORLD: Mapping[str, Any] = {
    "instance_types": (
        SimulatedType(
            name=SMALL, gpu_model="T4", gpu_count=1, vcpu=4, memory_mib=16_384, usd_per_hour="0.5", spot_usd_per_hour="0.2"
        ),
        SimulatedType(
            name=BIG, gpu_model="L4", gpu_count=4, vcpu=48, memory_mib=196_608, usd_per_hour="4.6", spot_usd_per_hour="2"
        ),
        SimulatedType(name="toy.here", vcpu=2, memory_mib=4_096, zones=(HERE,)),
    ),
    "reservations": (
        SimulatedReservation(id="cr-00000000000000001", instance_type=BIG, zone=HERE, count=2),
        SimulatedReservation(id="cr-00000000000000002", instance_type=BIG, zone=HERE, count=1, block=True, end_s=10_000_000),
        SimulatedReservation(id="cr-00000000000000003", instance_type=BIG, zone=THERE, count=1, end_s=0),
    ),
}
"""What a region of the contract is made with."""
_ONCE = Config(retries={"total_max_attempts": 1})


def calm(cloud: Region) -> None:
    """Take all limits and troubles away, and wait until no machine is left or listed."""
    cloud.set_capacity({})
    cloud.set_throttle(on=False)
    cloud.set_describe_lag(0)
    cloud.answer_replays_with_id_only(on=False)
    cloud.deny()
    cloud.forget_faults()
    for kind in ("on-demand", "spot"):
        cloud.set_quota(kind, None)
    cloud.take_away([machine.id for machine in cloud.machines if machine.state != "terminated"])
    cloud.advance(cloud.now_s + 10_000)


class Workplace:
    """What the tests of the contract work with."""

    @pytest.fixture
    def cloud(self, running: Region) -> Region:
        """Return the region, calm."""
        calm(running)
        return running

    @pytest.fixture
    def ec2(self, cloud: Region) -> EC2Client:
        """Return a client that makes one attempt of each call."""
        return cloud.session.client("ec2", config=_ONCE)


def fleet(cloud: Region, *places: tuple[str, str], count: int = 1, kind: str = "on-demand", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any parameters
    """Return the parameters of a CreateFleet, the first place first."""
    overrides = [{"InstanceType": name, "AvailabilityZone": zone, "Priority": rank} for rank, (name, zone) in enumerate(places)]
    template = {"LaunchTemplateName": cloud.launch_template}
    return {
        "Type": "instant",
        # Written in the wrong order: Priority decides.
        "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": template, "Overrides": overrides[::-1]}],
        "TargetCapacitySpecification": {"TotalTargetCapacity": count, "DefaultTargetCapacityType": kind},
        "OnDemandOptions": {"AllocationStrategy": "prioritized"},
        **more,
    }


def single(cloud: Region, name: str = SMALL, *, count: int = 1, least: int = 1, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any parameters
    """Return the parameters of a RunInstances."""
    template = {"LaunchTemplateName": cloud.launch_template}
    return {"InstanceType": name, "LaunchTemplate": template, "MinCount": least, "MaxCount": count, **more}


def tagged(**tags: str) -> dict[str, Any]:
    """Return the parameter that tags instances."""
    entries = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {"TagSpecifications": [{"ResourceType": "instance", "Tags": entries}]}


def ids_in(reply: Mapping[str, Any]) -> list[str]:
    """Return the machines in the reply of a CreateFleet."""
    return [machine_id for group in reply["Instances"] for machine_id in group["InstanceIds"]]


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    """Return the code and the HTTP status of an error."""
    response: Any = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def listed(ec2: EC2Client, **filters: Sequence[str]) -> list[str]:
    """Return the machines that DescribeInstances lists."""
    wanted = [{"Name": name.replace("_", "-"), "Values": [*values]} for name, values in filters.items()]
    pages = ec2.get_paginator("describe_instances").paginate(Filters=wanted)  # type: ignore[arg-type]  # plain dictionaries
    return [one["InstanceId"] for page in pages for group in page["Reservations"] for one in group["Instances"]]
