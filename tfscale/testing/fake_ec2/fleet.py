"""Launching in the simulated region: fleets and single calls, partial success, fleets read back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from tfscale.testing.fake_ec2.desk import DRY_RUN
from tfscale.testing.fake_ec2.faults import ApiError, no_such
from tfscale.testing.fake_ec2.ground import Ground
from tfscale.testing.fake_ec2.listing import Listing
from tfscale.testing.fake_ec2.machines import SimulatedMachine
from tfscale.testing.fake_ec2.market import Market
from tfscale.testing.fake_ec2.pages import Answer, tags_for, tags_of
from tfscale.testing.fake_ec2.places import Places
from tfscale.testing.fake_ec2.room import Place, Room
from tfscale.testing.fake_ec2.throttle import Throttle
from tfscale.testing.fake_ec2.tokens import Tokens

__all__ = ["Launches"]

_Parameters = dict[str, Any]
_Reply = Mapping[str, Any]


class Launches:
    """The calls that make machines. `throttle` counts what is launched."""

    def __init__(
        self,
        ground: Ground,
        market: Market,
        listing: Listing,
        room: Room,
        places: Places,
        throttle: Throttle,
    ) -> None:
        self._ground = ground
        self._market = market
        self._listing = listing
        self._machines = listing.machines
        self._room = room
        self._places = places
        self._throttle = throttle
        self._fleets: dict[str, dict[str, Any]] = {}
        self._listed_s: dict[str, int] = {}
        """From when on a fleet is described."""
        self.short_replays = False
        """Whether a repeated token is answered with the fleet's id alone."""

    def answers(self, tokens: Tokens) -> Mapping[str, Answer]:
        """Return the operations that are answered here."""
        return {
            "CreateFleet": tokens.once("CreateFleet", self._create_fleet, again=self._replayed),
            "RunInstances": tokens.once("RunInstances", self._run_instances),
            "DescribeFleets": self._describe_fleets,
            "DescribeFleetInstances": _refuse_fleet_instances,
        }

    def _replayed(self, reply: _Reply) -> _Reply:
        return {"FleetId": reply["FleetId"]} if self.short_replays else reply

    def _create_fleet(self, parameters: _Parameters) -> _Reply:
        places = self._places.of_fleet(parameters)
        if parameters.get("DryRun"):
            raise DRY_RUN
        left: int = parameters["TargetCapacitySpecification"]["TotalTargetCapacity"]
        instances: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for place in places:
            if not left:
                break
            count, lack = self._given(place, left)
            if lack:
                errors.append({**_about(place), "ErrorCode": lack.code, "ErrorMessage": str(lack)})
            if count:
                made = self._make(place, count, parameters)
                ids = [instance["InstanceId"] for instance in made["Instances"]]
                instances.append({**_about(place), "InstanceIds": ids, "InstanceType": place.instance_type})
                left -= count
        return self._settled(parameters, instances, errors)

    def _given(self, place: Place, left: int) -> tuple[int, ApiError | None]:
        if not self._market.sells(place.instance_type, place.zone):
            message = f"Your requested instance type ({place.instance_type}) is not supported in {place.zone}."
            return 0, ApiError("InvalidFleetConfiguration", message)
        return self._room.available(place, left)

    def _settled(self, parameters: _Parameters, instances: list[Any], errors: list[Any]) -> _Reply:
        fleet_id = "fleet-" + hashlib.sha256(str(len(self._fleets)).encode()).hexdigest()[:17]
        reply = {"FleetId": fleet_id, "Instances": instances, "Errors": errors}
        self._fleets[fleet_id] = {
            **reply,
            "Type": "instant",
            "FleetState": "active",
            "ClientToken": parameters.get("ClientToken", ""),
            "Tags": tags_of(tags_for("fleet", parameters)),
        }
        self._listed_s[fleet_id] = self._machines.now_s + self._machines.describe_lag_s
        return reply

    def _run_instances(self, parameters: _Parameters) -> _Reply:
        place = self._places.of_call(parameters)
        if not self._market.sells(place.instance_type, place.zone):
            raise ApiError("Unsupported", f"{place.instance_type} is not supported in {place.zone}.")
        if parameters.get("DryRun"):
            raise DRY_RUN
        count, lack = self._room.available(place, parameters["MaxCount"])
        if lack and count < parameters["MinCount"]:
            raise lack
        return self._make(place, count, parameters)

    def _make(self, place: Place, count: int, parameters: _Parameters) -> _Reply:
        rest = self._places.launched_with(place, parameters)
        reply = self._ground.run({**rest, "MinCount": count, "MaxCount": count})
        self._throttle.launched(count)
        for instance in reply["Instances"]:
            self._machines.begin(_machine(instance, place))
        return {**reply, "Instances": [self._listing.shown(instance) for instance in reply["Instances"]]}

    def _describe_fleets(self, parameters: _Parameters) -> _Reply:
        for fleet_id in parameters.get("FleetIds", []):
            if not self._is_listed(fleet_id):
                raise no_such("InvalidFleetId.NotFound", "fleet ID", fleet_id)
        asked = parameters.get("FleetIds", self._fleets)
        return {"Fleets": [self._fleets[fleet_id] for fleet_id in asked if self._is_listed(fleet_id)]}

    def _is_listed(self, fleet_id: str) -> bool:
        return self._listed_s.get(fleet_id, self._machines.now_s + 1) <= self._machines.now_s


def _refuse_fleet_instances(_: _Parameters) -> _Reply:
    raise ApiError("UnsupportedOperation", "DescribeFleetInstances does not know instant fleets: use DescribeFleets")


def _machine(instance: Mapping[str, Any], place: Place) -> SimulatedMachine:
    return SimulatedMachine(
        id=instance["InstanceId"],
        instance_type=place.instance_type,
        zone=place.zone,
        capacity_type=place.capacity_type,
        launched_s=0,
        node=instance["PrivateDnsName"],
        subnet=place.subnet,
        reservation=place.reservation,
        tags={tag["Key"]: tag["Value"] for tag in instance.get("Tags", ())},
    )


def _about(place: Place) -> dict[str, Any]:
    return {
        "LaunchTemplateAndOverrides": {"LaunchTemplateSpecification": place.template, "Overrides": place.override},
        "Lifecycle": place.capacity_type,
    }
