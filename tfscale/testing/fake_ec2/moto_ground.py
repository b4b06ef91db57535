"""Instances and networks in moto, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from tfscale.testing.fake_ec2.faults import ApiError
from tfscale.testing.fake_ec2.ground import Subnet, network_of
from tfscale.testing.fake_ec2.pages import tags_of

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["MotoGround"]

_CODES = {"pending": 0, "running": 16, "shutting-down": 32}


class MotoGround:
    """What lies in moto. `ec2` talks to moto alone, uncounted and without faults; `backend` is moto's own store."""

    def __init__(self, ec2: EC2Client, backend: Any, zones: Sequence[str]) -> None:  # noqa: ANN401 - moto is not typed
        self._ec2 = ec2
        self._backend = backend
        self._vpc = ec2.create_vpc(CidrBlock=network_of(0))["Vpc"]["VpcId"]
        self._networks = 0
        self._zones: dict[str, str] = {}
        """Zone by subnet, which never changes."""
        self._described: dict[str, Mapping[str, Any]] = {}
        """Pages of DescribeInstances, until something changes."""
        self.subnets: Mapping[str, str] = {zone: self.add_subnet(zone) for zone in zones}

    def add_subnet(self, zone: str, cidr: str | None = None) -> str:
        """Make one more subnet."""
        network = cidr or network_of(self._networks)
        if self._networks:
            self._ec2.associate_vpc_cidr_block(VpcId=self._vpc, CidrBlock=network)
        self._networks += 1
        made = self._ec2.create_subnet(VpcId=self._vpc, CidrBlock=network, AvailabilityZone=zone)
        return made["Subnet"]["SubnetId"]

    def subnet(self, subnet_id: str) -> Subnet:
        """Return one subnet."""
        if subnet_id not in self._zones:
            found = _asked(lambda: self._ec2.describe_subnets(SubnetIds=[subnet_id]))["Subnets"][0]
            self._zones[subnet_id] = found["AvailabilityZone"]
        free = self._backend.get_subnet(subnet_id).available_ip_address_count
        return Subnet(id=subnet_id, zone=self._zones[subnet_id], free=free)

    def describe_subnets(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a DescribeSubnets."""
        return _asked(lambda: self._ec2.describe_subnets(**parameters))

    def run(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make instances."""
        self._described.clear()
        return _asked(lambda: self._ec2.run_instances(**parameters))

    def show(self, machine_id: str, state: str, launched_s: int) -> None:
        """Set what moto's answers and filters say: it stamps the wall clock and calls an instance running at once."""
        self._described.clear()
        instance = self._backend.get_instance(machine_id)
        instance.launch_time = datetime.fromtimestamp(launched_s, UTC).replace(tzinfo=None)
        instance.instance_state.name, instance.instance_state.code = state, _CODES[state]

    def end(self, machine_id: str) -> None:
        """Terminate an instance for good."""
        self._described.clear()
        self._backend.terminate_instances([machine_id])

    def tag(self, resource_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Add tags."""
        self._described.clear()
        if resource_ids:
            wanted: Any = tags_of(tags)
            _asked(lambda: self._ec2.create_tags(Resources=resource_ids, Tags=wanted))

    def untag(self, resource_ids: Sequence[str], keys: Sequence[str]) -> None:
        """Take tags off."""
        self._described.clear()
        if resource_ids:
            _asked(lambda: self._ec2.delete_tags(Resources=resource_ids, Tags=[{"Key": key} for key in keys]))

    def describe_instances(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a DescribeInstances."""
        # moto takes tens of milliseconds for a page; a loop asks again and again while nothing happens.
        asked = json.dumps(parameters, sort_keys=True)
        if asked not in self._described:
            self._described[asked] = _asked(lambda: self._ec2.describe_instances(**parameters))
        return self._described[asked]


def _asked(call: Callable[[], Any]) -> dict[str, Any]:
    """Make a call to moto itself; what moto refuses, the cloud refuses."""
    try:
        return {key: value for key, value in call().items() if key != "ResponseMetadata"}
    except ClientError as error:
        raise ApiError(error.response["Error"]["Code"], error.response["Error"]["Message"]) from error
    except NotImplementedError as error:
        raise ApiError("InvalidParameterValue", str(error)) from error
