"""Launching and terminating in the simulated cloud: client tokens, finite capacity, fleets, and the states of machines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from tfscale.testing.fake_ec2.market import PAGE, Market
from tfscale.testing.fake_ec2.wire import Answer, ApiError

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["Capacity", "Ground", "Machines", "SimulatedMachine"]

Capacity = Mapping[tuple[str, str] | tuple[str, str, str], int]
"""How many machines there are of (type, zone), or of (type, zone, capacity type); what is absent is unlimited."""

_LONGEST_TOKEN = 64
_CODES = {"pending": 0, "running": 16, "shutting-down": 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the cloud was set up with in moto."""

    ec2: EC2Client
    """Talks to moto alone, uncounted and without faults."""
    instances: Any
    """moto's own store of instances; their states are set there, so that moto's answers show them."""
    subnets: Mapping[str, str]
    """The cloud's own subnet by zone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedMachine:
    """One instance that was ever launched. Times are in seconds; None has not come yet."""

    id: str
    instance_type: str
    zone: str
    capacity_type: str
    launched_s: int
    node: str
    """Name of the node that it becomes."""
    tags: Mapping[str, str] = field(default_factory=dict)
    state: str = "pending"
    terminate_asked_s: int | None = None

    @property
    def provider_id(self) -> str:
        """Return what its node carries in ``spec.providerID``."""
        return f"aws:///{self.zone}/{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a call wants machines: one override of a fleet, or the whole of a RunInstances."""

    instance_type: str
    zone: str
    capacity_type: str
    subnet: str
    override: Mapping[str, Any] = field(default_factory=dict)


class Machines:
    """All machines of the cloud and the calls that make and end them."""

    def __init__(self, ground: Ground, market: Market, capacity: Capacity, *, boot_delay_s: int, shutdown_delay_s: int) -> None:
        self._ground = ground
        self._market = market
        self.capacity = capacity
        self._boot_delay_s = boot_delay_s
        self._shutdown_delay_s = shutdown_delay_s
        self._tokens: dict[tuple[str, str], tuple[str, Mapping[str, Any]]] = {}
        self._fleets: dict[str, dict[str, Any]] = {}
        self._described: dict[str, Mapping[str, Any]] = {}
        """Pages of DescribeInstances, until something changes."""
        self.now_s = 0
        self.short_replays = False
        self.all: dict[str, SimulatedMachine] = {}

    def answers(self) -> Mapping[str, Answer]:
        """Return the operations that are answered here."""
        return {
            "CreateFleet": lambda parameters: self._once("CreateFleet", parameters),
            "RunInstances": lambda parameters: self._once("RunInstances", parameters),
            "TerminateInstances": self._terminate,
            "DescribeInstances": self._describe_instances,
            "DescribeFleets": self._describe_fleets,
            "DescribeFleetInstances": _refuse_fleet_instances,
            "CreateTags": self._tag,
            "DeleteTags": self._tag,
        }

    def advance(self, now_s: int) -> None:
        """Let machines boot and end until this moment."""
        self.now_s = now_s
        for machine in list(self.all.values()):
            if machine.state == "pending" and now_s >= machine.launched_s + self._boot_delay_s:
                self._set_state(machine.id, "running")
            if machine.terminate_asked_s is not None and now_s >= machine.terminate_asked_s + self._shutdown_delay_s:
                self._end(machine)

    def _once(self, operation: str, parameters: dict[str, Any]) -> Mapping[str, Any]:
        """Carry out a launch unless its token was seen: then the first reply is given again, for the same parameters only."""
        token = parameters.get("ClientToken", "")
        if len(token) > _LONGEST_TOKEN or not token.isascii():
            raise ApiError("InvalidParameterValue", f"ClientToken: want at most {_LONGEST_TOKEN} ASCII characters")
        asked = json.dumps(parameters, sort_keys=True, default=str)
        if (operation, token) in self._tokens:
            first, reply = self._tokens[operation, token]
            if first != asked:
                raise ApiError("IdempotentParameterMismatch", f"ClientToken {token} was used with other parameters")
            return {"FleetId": reply["FleetId"]} if self.short_replays and "FleetId" in reply else reply
        reply = self._create_fleet(parameters) if operation == "CreateFleet" else self._run_instances(parameters)
        self._tokens[operation, token] = (asked, reply)
        return reply

    def _create_fleet(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        _check_fleet(parameters)
        target = parameters["TargetCapacitySpecification"]
        left = target["TotalTargetCapacity"]
        instances: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for template, place in self._ranked(parameters):
            if not left:
                break
            about = _about(template, place)
            if not self._market.sells(place.instance_type, place.zone):
                message = f"Your requested instance type ({place.instance_type}) is not supported in {place.zone}."
                errors.append({**about, "ErrorCode": "InvalidFleetConfiguration", "ErrorMessage": message})
                continue
            count, lack = self._available(place, left)
            if count < left:
                errors.append({**about, "ErrorCode": lack.code, "ErrorMessage": str(lack)})
            if count:
                made = self._make(place, count, {"LaunchTemplate": template, "TagSpecifications": _instance_tags(parameters)})
                ids = [instance["InstanceId"] for instance in made["Instances"]]
                instances.append({**about, "InstanceIds": ids, "InstanceType": place.instance_type})
                left -= count
        return self._settled(parameters, instances, errors)

    def _settled(self, parameters: Mapping[str, Any], instances: list[Any], errors: list[Any]) -> Mapping[str, Any]:
        fleet_id = "fleet-" + hashlib.sha256(str(len(self._fleets)).encode()).hexdigest()[:17]
        reply = {"FleetId": fleet_id, "Instances": instances, "Errors": errors}
        self._fleets[fleet_id] = {
            **reply,
            "Type": "instant",
            "FleetState": "active",
            "ClientToken": parameters.get("ClientToken", ""),
            "Tags": _tags_for("fleet", parameters),
        }
        return reply

    def _ranked(self, parameters: Mapping[str, Any]) -> list[tuple[dict[str, Any], _Place]]:
        """Return the overrides in the order in which EC2 tries them: by Priority, spot by price."""
        kind = parameters["TargetCapacitySpecification"].get("DefaultTargetCapacityType", "on-demand")
        places = [
            (config["LaunchTemplateSpecification"], self._place(override, kind))
            for config in parameters["LaunchTemplateConfigs"]
            for override in config["Overrides"]
        ]
        if kind == "spot":
            return sorted(places, key=lambda pair: self._spot_price(pair[1]))
        return sorted(places, key=lambda pair: pair[1].override.get("Priority", float("inf")))

    def _spot_price(self, place: _Place) -> float:
        price = self._market.price_micro_usd(place.instance_type, "spot")
        return float("inf") if price is None else price

    def _place(self, override: Mapping[str, Any], capacity_type: str) -> _Place:
        name, zone, subnet = override["InstanceType"], override.get("AvailabilityZone"), override.get("SubnetId")
        if subnet:
            found = _moto(lambda: self._ground.ec2.describe_subnets(SubnetIds=[subnet]))["Subnets"][0]["AvailabilityZone"]
            if zone not in (None, found):
                raise ApiError("InvalidParameterValue", f"Subnet {subnet} is in {found}, not in {zone}")
            zone = found
        zone = zone or self._market.zones[0]
        self._check_place(name, zone)
        return _Place(
            instance_type=name,
            zone=zone,
            capacity_type=capacity_type,
            subnet=subnet or self._ground.subnets[zone],
            override=override,
        )

    def _check_place(self, name: str, zone: str) -> None:
        if name not in self._market.facts:
            raise ApiError("InvalidParameterValue", f"Invalid value '{name}' for InstanceType.")
        if zone not in self._market.zones:
            raise ApiError("InvalidParameterValue", f"Invalid availability zone: [{zone}]")

    def _available(self, place: _Place, most: int) -> tuple[int, ApiError]:
        """Return how many machines this place can still give, at most `most`, and the error of the others.

        A machine that is gone keeps its address, so that no two machines of a run share a node name.
        """
        room = self._room(place, most)
        free = self._ground.instances.get_subnet(place.subnet).available_ip_address_count
        if free < room:
            message = f"There are not enough free addresses in subnet '{place.subnet}' for the requested number of instances."
            return free, ApiError("InsufficientFreeAddressesInSubnet", message)
        return room, ApiError("InsufficientInstanceCapacity", _no_capacity(place), status=500)

    def _room(self, place: _Place, most: int) -> int:
        """Return how many more of this place there are, at most `most`."""
        of_zone = (place.instance_type, place.zone)
        of_kind = (*of_zone, place.capacity_type)
        live = [machine for machine in self.all.values() if machine.state != "terminated"]
        held = [(m.instance_type, m.zone, m.capacity_type) for m in live]
        room = most
        if of_zone in self.capacity:
            room = min(room, self.capacity[of_zone] - sum(key[:2] == of_zone for key in held))
        if of_kind in self.capacity:
            room = min(room, self.capacity[of_kind] - sum(key == of_kind for key in held))
        return max(room, 0)

    def _run_instances(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        spot = parameters.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        wanted = {
            "InstanceType": parameters.get("InstanceType", "m1.small"),
            "SubnetId": parameters.get("SubnetId"),
            "AvailabilityZone": parameters.get("Placement", {}).get("AvailabilityZone"),
        }
        place = self._place(wanted, "spot" if spot else "on-demand")
        count, lack = self._available(place, parameters["MaxCount"])
        if not self._market.sells(place.instance_type, place.zone):
            raise ApiError("Unsupported", f"{place.instance_type} is not supported in {place.zone}.")
        if count < parameters["MinCount"]:
            raise lack
        rest: dict[str, Any] = {
            key: parameters[key] for key in ("LaunchTemplate", "ImageId", "TagSpecifications") if key in parameters
        }
        return self._make(place, count, rest)

    def _make(self, place: _Place, count: int, rest: Mapping[str, Any]) -> Mapping[str, Any]:
        market = {"InstanceMarketOptions": {"MarketType": "spot"}} if place.capacity_type == "spot" else {}
        wanted: dict[str, Any] = {
            "InstanceType": place.instance_type,
            "SubnetId": place.subnet,
            "MinCount": count,
            "MaxCount": count,
            **market,
            **rest,
        }
        reply = _moto(lambda: self._ground.ec2.run_instances(**wanted))
        for instance in reply["Instances"]:
            self._begin(instance, place)
        return {key: value for key, value in reply.items() if key != "ResponseMetadata"}

    def _begin(self, instance: Mapping[str, Any], place: _Place) -> None:
        machine = SimulatedMachine(
            id=instance["InstanceId"],
            instance_type=place.instance_type,
            zone=place.zone,
            capacity_type=place.capacity_type,
            launched_s=self.now_s,
            node=instance["PrivateDnsName"],
            tags={tag["Key"]: tag["Value"] for tag in instance.get("Tags", ())},
        )
        self.all[machine.id] = machine
        # moto stamps the wall clock and calls a machine running at once.
        self._ground.instances.get_instance(machine.id).launch_time = datetime.fromtimestamp(self.now_s, UTC).replace(tzinfo=None)
        self._set_state(machine.id, "running" if not self._boot_delay_s else "pending")

    def _set_state(self, machine_id: str, state: str) -> None:
        self._described.clear()
        self.all[machine_id] = replace(self.all[machine_id], state=state)
        shown = self._ground.instances.get_instance(machine_id).instance_state
        shown.name, shown.code = state, _CODES[state]

    def _terminate(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        ids: Sequence[str] = parameters["InstanceIds"]
        missing = [machine_id for machine_id in ids if machine_id not in self.all]
        if missing:
            raise ApiError("InvalidInstanceID.NotFound", f"The instance IDs '{', '.join(missing)}' do not exist")
        before = {machine_id: self.all[machine_id].state for machine_id in ids}
        self.take_away(ids)
        changes = [
            {
                "InstanceId": machine_id,
                "CurrentState": {"Name": self.all[machine_id].state},
                "PreviousState": {"Name": before[machine_id]},
            }
            for machine_id in ids
        ]
        return {"TerminatingInstances": changes}

    def take_away(self, ids: Sequence[str]) -> None:
        """Begin to terminate machines that are there."""
        for machine_id in ids:
            if self.all[machine_id].terminate_asked_s is None:
                self._set_state(machine_id, "shutting-down")
                self.all[machine_id] = replace(self.all[machine_id], terminate_asked_s=self.now_s)
        self.advance(self.now_s)

    def _end(self, machine: SimulatedMachine) -> None:
        if machine.state != "terminated":
            self._described.clear()
            self._ground.ec2.terminate_instances(InstanceIds=[machine.id])
            self.all[machine.id] = replace(machine, state="terminated")

    def _describe_instances(self, parameters: dict[str, Any]) -> Mapping[str, Any] | None:
        if "InstanceIds" in parameters:
            return None
        # EC2 may give fewer than MaxResults, so that a careless reader misses the second page.
        page: dict[str, Any] = {**parameters, "MaxResults": min(parameters.get("MaxResults", PAGE), PAGE)}
        # moto takes tens of milliseconds for a page; a loop asks again and again while nothing happens.
        asked = json.dumps(page, sort_keys=True)
        if asked not in self._described:
            reply = _moto(lambda: self._ground.ec2.describe_instances(**page))
            self._described[asked] = {key: value for key, value in reply.items() if key != "ResponseMetadata"}
        return self._described[asked]

    def _tag(self, _: dict[str, Any]) -> None:
        """Let moto do it, and forget what was read before."""
        self._described.clear()

    def _describe_fleets(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        for fleet_id in parameters.get("FleetIds", []):
            if fleet_id not in self._fleets:
                raise ApiError("InvalidFleetId.NotFound", f"The fleet ID '{fleet_id}' does not exist")
        return {"Fleets": [self._fleets[fleet_id] for fleet_id in parameters.get("FleetIds", self._fleets)]}


def _refuse_fleet_instances(_: dict[str, Any]) -> Mapping[str, Any]:
    raise ApiError("UnsupportedOperation", "DescribeFleetInstances does not know instant fleets: use DescribeFleets")


def _check_fleet(parameters: Mapping[str, Any]) -> None:
    if parameters.get("Type") != "instant":
        raise ApiError("InvalidParameterValue", "Type: only instant fleets are simulated")
    target = parameters["TargetCapacitySpecification"]
    if target["TotalTargetCapacity"] < 1:
        raise ApiError("InvalidParameterValue", "TotalTargetCapacity: want at least 1")
    if _tags_for("spot-instances-request", parameters) and target.get("DefaultTargetCapacityType") != "spot":
        raise ApiError("InvalidParameterValue", "'spot-instances-request' is not a taggable resource of an on-demand fleet")


def _instance_tags(parameters: Mapping[str, Any]) -> list[Any]:
    return [entry for entry in parameters.get("TagSpecifications", []) if entry["ResourceType"] in ("instance", "volume")]


def _tags_for(kind: str, parameters: Mapping[str, Any]) -> list[Any]:
    specifications = parameters.get("TagSpecifications", [])
    return [tag for entry in specifications if entry["ResourceType"] == kind for tag in entry["Tags"]]


def _about(template: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    return {
        "LaunchTemplateAndOverrides": {"LaunchTemplateSpecification": template, "Overrides": place.override},
        "Lifecycle": place.capacity_type,
    }


def _no_capacity(place: _Place) -> str:
    return f"We currently do not have sufficient {place.instance_type} capacity in the zone you requested ({place.zone})."


def _moto(call: Any) -> Any:  # noqa: ANN401 - any call and what it returns
    """Make a call to moto itself; what moto refuses, the cloud refuses."""
    try:
        return call()
    except ClientError as error:
        raise ApiError(error.response["Error"]["Code"], error.response["Error"]["Message"]) from error
