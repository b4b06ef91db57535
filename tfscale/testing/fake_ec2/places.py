"""Where a call wants machines, in the order in which EC2 tries: overrides, templates, subnets and reservations resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfscale.testing.fake_ec2.faults import ApiError
from tfscale.testing.fake_ec2.ground import Ground
from tfscale.testing.fake_ec2.market import Market
from tfscale.testing.fake_ec2.pages import tags_for, tags_of
from tfscale.testing.fake_ec2.reservations import Reservations
from tfscale.testing.fake_ec2.room import Place
from tfscale.testing.fake_ec2.templates import Templates

__all__ = ["Places"]

_BY_PRIORITY = frozenset({"prioritized", "capacity-optimized-prioritized"})
_BLOCK = "capacity-block"


class Places:
    """Reads the parameters of launches. Raises ``ApiError`` with EC2's codes for what is wrong with them."""

    def __init__(self, ground: Ground, market: Market, templates: Templates, reservations: Reservations) -> None:
        self._ground = ground
        self._market = market
        self._templates = templates
        self._reservations = reservations

    def of_fleet(self, parameters: Mapping[str, Any]) -> list[Place]:
        """Return the overrides of a CreateFleet as EC2 tries them: by Priority if it was told to, else by price."""
        _check_fleet(parameters)
        kind = parameters["TargetCapacitySpecification"].get("DefaultTargetCapacityType", "on-demand")
        places = [
            self._of_override(override, config["LaunchTemplateSpecification"], kind)
            for config in parameters["LaunchTemplateConfigs"]
            for override in config.get("Overrides") or [{}]
        ]
        options = parameters.get("SpotOptions" if kind == "spot" else "OnDemandOptions", {})
        if options.get("AllocationStrategy") in _BY_PRIORITY:
            return sorted(places, key=lambda place: place.override.get("Priority", float("inf")))
        return sorted(places, key=self._price)

    def of_call(self, parameters: Mapping[str, Any]) -> Place:
        """Return what a RunInstances wants."""
        market = parameters.get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
        template = parameters.get("LaunchTemplate", {})
        wanted = {
            key: value
            for key, value in (
                ("InstanceType", parameters.get("InstanceType")),
                ("SubnetId", parameters.get("SubnetId")),
                ("AvailabilityZone", parameters.get("Placement", {}).get("AvailabilityZone")),
                ("ImageId", parameters.get("ImageId")),
            )
            if value
        }
        target = parameters.get("CapacityReservationSpecification", {}).get("CapacityReservationTarget", {})
        return self._of_override(wanted, template, market, target.get("CapacityReservationId", ""))

    def launched_with(self, place: Place, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters with which machines of a place are made."""
        data, tags = self._template(place.template)
        tags |= tags_for("instance", data) | tags_for("instance", parameters)
        spot = {"InstanceMarketOptions": {"MarketType": "spot"}} if place.capacity_type == "spot" else {}
        return {
            "InstanceType": place.instance_type,
            "SubnetId": place.subnet,
            "ImageId": place.override.get("ImageId") or data["ImageId"],
            **({"TagSpecifications": [{"ResourceType": "instance", "Tags": tags_of(tags)}]} if tags else {}),
            **spot,
        }

    def _template(self, specification: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, str]]:
        """Return the data of a template, and the tags that tell which it was."""
        if not specification:
            return {}, {}
        template, number, data = self._templates.data(specification)
        return data, {"aws:ec2launchtemplate:id": template.id, "aws:ec2launchtemplate:version": str(number)}

    def _of_override(self, override: Mapping[str, Any], template: Mapping[str, Any], market: str, reservation: str = "") -> Place:
        data, _ = self._template(template)
        wanted = {"InstanceType": data.get("InstanceType"), "ImageId": data.get("ImageId"), **override}
        for key in ("ImageId", "InstanceType"):
            if not wanted[key]:
                raise ApiError("MissingParameter", f"The request must contain the parameter {key}")
        zone, subnet = self._zone(wanted.get("AvailabilityZone"), wanted.get("SubnetId"))
        place = Place(
            instance_type=wanted["InstanceType"],
            zone=zone,
            capacity_type="reserved" if reservation else market,
            subnet=subnet,
            override=override,
            template=template,
            reservation=reservation,
        )
        self._check(place, market)
        return place

    def _zone(self, zone: str | None, subnet: str | None) -> tuple[str, str]:
        """Return zone and subnet: the first subnet of a zone where none is named."""
        if subnet:
            found = self._ground.subnet(subnet).zone
            if zone not in (None, found):
                raise ApiError("InvalidParameterValue", f"Subnet {subnet} is in {found}, not in {zone}")
            return found, subnet
        zone = zone or self._market.zones[0]
        if zone not in self._market.zones:
            raise ApiError("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
        return zone, self._ground.subnets[zone]

    def _check(self, place: Place, market: str) -> None:
        if place.instance_type not in self._market.facts:
            raise ApiError("InvalidParameterValue", f"Invalid value '{place.instance_type}' for InstanceType.")
        if place.reservation:
            self._check_reservation(place, market)
        elif market == _BLOCK:
            raise ApiError("InvalidParameterCombination", "MarketType capacity-block needs a Capacity Block to be targeted.")

    def _check_reservation(self, place: Place, market: str) -> None:
        found = self._reservations.find(place.reservation)
        if (found.instance_type, found.zone) != (place.instance_type, place.zone):
            message = f"{found.id} is of {found.instance_type} in {found.zone}, not of {place.instance_type} in {place.zone}"
            raise ApiError("InvalidParameterValue", message)
        if found.block != (market == _BLOCK):
            want = _BLOCK if found.block else "no market type"
            raise ApiError("InvalidParameterCombination", f"{found.id} wants {want}, not {market}")

    def _price(self, place: Place) -> float:
        price = self._market.price_micro_usd(place.instance_type, place.capacity_type)
        return float("inf") if price is None else price


def _check_fleet(parameters: Mapping[str, Any]) -> None:
    if parameters.get("Type") != "instant":
        raise ApiError("InvalidParameterValue", "Type: only instant fleets are simulated")
    target = parameters["TargetCapacitySpecification"]
    if target["TotalTargetCapacity"] < 1:
        raise ApiError("InvalidParameterValue", "TotalTargetCapacity: want at least 1")
    if _names_spot_requests(parameters.get("TagSpecifications", ())) and target.get("DefaultTargetCapacityType") != "spot":
        raise ApiError("InvalidParameterValue", "'spot-instances-request' is not a taggable resource of an on-demand fleet")


def _names_spot_requests(specifications: Sequence[Mapping[str, Any]]) -> bool:
    return any(entry["ResourceType"] == "spot-instances-request" for entry in specifications)
