"""Instances and networks in plain dictionaries."""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tfscale.testing.fake_ec2.faults import no_such
from tfscale.testing.fake_ec2.ground import Subnet, network_of
from tfscale.testing.fake_ec2.pages import chosen, page, tag_values, tags_for, tags_of

__all__ = ["MemoryGround"]

_KEPT_BY_EC2 = 5
"""Addresses of each subnet that no instance gets."""
_FIRST = 4
_OWNER = "123456789012"
_VPC = "vpc-00000000000000001"
_Instance = dict[str, Any]


class MemoryGround:
    """Keeps instances as EC2 describes them. Ids follow from the seed and the order of launches."""

    def __init__(self, zones: Sequence[str], seed: int) -> None:
        self._seed = str(seed)
        self._made = 0
        self._instances: dict[str, _Instance] = {}
        self._group_of: dict[str, str] = {}
        """Reservation by instance: so EC2 calls the instances of one call."""
        self._subnets: dict[str, dict[str, Any]] = {}
        self._addresses: Counter[str] = Counter()
        """How many addresses were ever given, by subnet."""
        self.subnets: Mapping[str, str] = {zone: self.add_subnet(zone) for zone in zones}

    def add_subnet(self, zone: str, cidr: str | None = None) -> str:
        """Make one more subnet."""
        subnet_id = self._id("subnet")
        self._subnets[subnet_id] = {
            "SubnetId": subnet_id,
            "VpcId": _VPC,
            "AvailabilityZone": zone,
            "CidrBlock": cidr or network_of(len(self._subnets)),
            "State": "available",
            "Tags": [],
        }
        return subnet_id

    def subnet(self, subnet_id: str) -> Subnet:
        """Return one subnet."""
        if subnet_id not in self._subnets:
            raise no_such("InvalidSubnetID.NotFound", "subnet ID", subnet_id)
        found = self._subnets[subnet_id]
        size = 1 << 32 - int(found["CidrBlock"].partition("/")[2])
        return Subnet(id=subnet_id, zone=found["AvailabilityZone"], free=size - _KEPT_BY_EC2 - self._addresses[subnet_id])

    def describe_subnets(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a DescribeSubnets."""
        asked = [self.subnet(one).id for one in parameters.get("SubnetIds", ())] or list(self._subnets)
        found = chosen([self._subnets[one] for one in asked], parameters, _subnet_values)
        return page(found, "Subnets", parameters)

    def run(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make instances."""
        group = self._id("r")
        made = [self._instance(parameters) for _ in range(parameters["MaxCount"])]
        self._instances |= {instance["InstanceId"]: instance for instance in made}
        self._group_of |= {instance["InstanceId"]: group for instance in made}
        return {"ReservationId": group, "OwnerId": _OWNER, "Groups": [], "Instances": made}

    def show(self, machine_id: str, state: str, launched_s: int) -> None:  # noqa: ARG002 - whoever lists it says when it was launched
        """Set what filters go by."""
        self._instances[machine_id]["State"] = {"Name": state}

    def end(self, machine_id: str) -> None:
        """Terminate an instance for good."""
        self.show(machine_id, "terminated", 0)

    def tag(self, resource_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Add tags to instances and subnets."""
        for one in resource_ids:
            found = self._instances.get(one) or self._subnets[one]
            kept = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
            found["Tags"] = tags_of({**kept, **tags})

    def untag(self, resource_ids: Sequence[str], keys: Sequence[str]) -> None:
        """Take tags off."""
        for one in resource_ids:
            found = self._instances.get(one) or self._subnets[one]
            found["Tags"] = [tag for tag in found["Tags"] if tag["Key"] not in keys]

    def describe_instances(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a DescribeInstances. Pages are counted in reservations."""
        asked = parameters.get("InstanceIds")
        named = [self._instances[one] for one in asked] if asked else self._instances.values()
        groups: dict[str, dict[str, Any]] = {}
        for one in chosen(named, parameters, _values):
            name = self._group_of[one["InstanceId"]]
            group = groups.setdefault(name, {"ReservationId": name, "OwnerId": _OWNER, "Groups": [], "Instances": []})
            group["Instances"].append(one)
        return page(groups.values(), "Reservations", parameters)

    def _instance(self, parameters: Mapping[str, Any]) -> _Instance:
        subnet = self._subnets[parameters["SubnetId"]]
        address = str(ipaddress.ip_network(subnet["CidrBlock"])[_FIRST + self._addresses[subnet["SubnetId"]]])
        self._addresses[subnet["SubnetId"]] += 1
        market = parameters.get("InstanceMarketOptions", {}).get("MarketType")
        return {
            "InstanceId": self._id("i"),
            "ImageId": parameters["ImageId"],
            "InstanceType": parameters["InstanceType"],
            **({"InstanceLifecycle": market} if market else {}),
            "State": {"Name": "pending"},
            "Placement": {"AvailabilityZone": subnet["AvailabilityZone"], "GroupName": "", "Tenancy": "default"},
            "SubnetId": subnet["SubnetId"],
            "VpcId": _VPC,
            "PrivateIpAddress": address,
            "PrivateDnsName": f"ip-{address.replace('.', '-')}.ec2.internal",
            "Tags": tags_of(tags_for("instance", parameters)),
        }

    def _id(self, kind: str) -> str:
        self._made += 1
        return f"{kind}-{hashlib.blake2b(f'{self._seed}/{self._made}'.encode()).hexdigest()[:17]}"


_SUBNET_FIELDS = {"subnet-id": "SubnetId", "availability-zone": "AvailabilityZone", "vpc-id": "VpcId", "state": "State"}
_FIELDS = {
    "image-id": "ImageId",
    "instance-id": "InstanceId",
    "instance-type": "InstanceType",
    "private-dns-name": "PrivateDnsName",
    "subnet-id": "SubnetId",
    "vpc-id": "VpcId",
}


def _values(instance: _Instance, name: str) -> list[str] | None:
    if name == "instance-state-name":
        return [instance["State"]["Name"]]
    if name == "availability-zone":
        return [instance["Placement"]["AvailabilityZone"]]
    if name in _FIELDS:
        return [instance[_FIELDS[name]]]
    return tag_values(instance["Tags"], name)


def _subnet_values(subnet: Mapping[str, Any], name: str) -> list[str] | None:
    return [subnet[_SUBNET_FIELDS[name]]] if name in _SUBNET_FIELDS else tag_values(subnet["Tags"], name)
