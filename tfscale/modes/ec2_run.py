"""One RunInstances call into a capacity reservation: its exact parameters, and what a refusal of it is about. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfscale.model import Offer
from tfscale.modes.ec2_fleet import RESERVATION_TAG, tag_specifications, token

__all__ = ["is_run", "run_offer", "run_parameters"]


def run_parameters(
    offer: Offer,
    *,
    count: int,
    template: Mapping[str, str],
    block: bool,
    tags: Mapping[str, str],
    token_of: Sequence[object],
) -> dict[str, Any]:
    """Return the parameters of a RunInstances for up to `count` machines of one reserved offer.

    `template` is a LaunchTemplateSpecification, `block` tells that it is a capacity block. A fleet would need one launch
    template for each reservation. The client token is a hash over everything here and `token_of`.
    """
    most = count if offer.count_max is None else min(count, max(offer.count_max, 1))
    parameters = {
        "LaunchTemplate": dict(template),
        "InstanceType": offer.instance_type,
        "Placement": {"AvailabilityZone": offer.zone},
        **({"SubnetId": offer.subnets[0]} if offer.subnets else {}),
        "MinCount": 1,
        "MaxCount": most,
        "CapacityReservationSpecification": {"CapacityReservationTarget": {"CapacityReservationId": offer.reservation}},
        **({"InstanceMarketOptions": {"MarketType": "capacity-block"}} if block else {}),
        "TagSpecifications": tag_specifications({**tags, RESERVATION_TAG: offer.reservation}, "instance", "volume"),
    }
    return {**parameters, "ClientToken": token([*token_of, parameters])}


def is_run(parameters: Mapping[str, Any]) -> bool:
    """Return whether a recorded call is a RunInstances; else it is a CreateFleet."""
    return "CapacityReservationSpecification" in parameters


def run_offer(parameters: Mapping[str, Any]) -> str:
    """Return the id of the offer that a recorded call is for."""
    target: Mapping[str, str] = parameters["CapacityReservationSpecification"]["CapacityReservationTarget"]
    zone = parameters["Placement"]["AvailabilityZone"]
    return f"{parameters['InstanceType']}/{zone}/reserved/{target['CapacityReservationId']}"
