"""One CreateFleet call: its exact parameters, and what its reply says about machines and offers. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfscale.model import LaunchBatch, Machine, Offer
from tfscale.modes.base import Refusal
from tfscale.modes.ec2_refusals import refusals_about

__all__ = [
    "BATCH_TAG",
    "CLUSTER_TAG",
    "EPOCH_TAG",
    "POOL_TAG",
    "RESERVATION_TAG",
    "fleet_parameters",
    "machines_of_fleet",
    "offer_ids",
    "provider_id",
    "refusals_of_fleet",
    "tag_specifications",
    "token",
]

CLUSTER_TAG = "tfscale.io/cluster"
POOL_TAG = "tfscale.io/pool"
BATCH_TAG = "tfscale.io/batch"
EPOCH_TAG = "tfscale.io/epoch"
RESERVATION_TAG = "tfscale.io/reservation"
"""Only on machines that were launched into a reservation. EC2 also shows one where an on-demand machine happened to fit it."""

MOST_OVERRIDES = 300
"""EC2's limit on type and subnet combinations of one fleet request."""


def fleet_parameters(
    templates: Sequence[tuple[Mapping[str, str], Sequence[Offer]]],
    offers: Sequence[Offer],
    *,
    count: int,
    tags: Mapping[str, str],
    token_of: Sequence[object],
) -> dict[str, Any]:
    """Return the parameters of a CreateFleet for `count` machines of any of the offers, which are best first.

    `templates` are LaunchTemplateSpecifications with the offers that each is for. The client token is a hash over
    everything here and `token_of`, so that different parameters never share a token.
    """
    overrides = _overrides(offers)
    parameters = {
        "Type": "instant",
        "LaunchTemplateConfigs": [
            {"LaunchTemplateSpecification": dict(template), "Overrides": [one for offer in group for one in overrides[offer.id]]}
            for template, group in templates
            if any(overrides[offer.id] for offer in group)
        ],
        "TargetCapacitySpecification": {"TotalTargetCapacity": count, "DefaultTargetCapacityType": offers[0].capacity_type},
        # No tag for spot-instances-request: EC2 refuses it on an on-demand fleet.
        "TagSpecifications": tag_specifications(tags, "instance", "volume", "fleet"),
        **_strategy(offers[0].capacity_type),
    }
    return {**parameters, "ClientToken": token([*token_of, parameters])}


def _overrides(offers: Sequence[Offer]) -> dict[str, list[dict[str, Any]]]:
    """Return what each offer is in the call, by its id: itself once for every subnet, as many of all as EC2 takes."""
    places = [(offer, subnet) for offer in offers for subnet in offer.subnets or ("",)]
    overrides: dict[str, list[dict[str, Any]]] = {offer.id: [] for offer in offers}
    for rank, (offer, subnet) in enumerate(places[:MOST_OVERRIDES]):
        overrides[offer.id].append(_override(offer, rank, subnet))
    return overrides


def _override(offer: Offer, rank: int, subnet: str) -> dict[str, Any]:
    # The zone is named beside the subnet, so that an error tells which offer it is about.
    place = {"AvailabilityZone": offer.zone, **({"SubnetId": subnet} if subnet else {})}
    # A whole number: 0.0 would come back from Kubernetes as 0, and another parameter is refused under the same token.
    return {"InstanceType": offer.instance_type, **place, "Priority": rank}


def _strategy(capacity_type: str) -> dict[str, Any]:
    if capacity_type == "spot":
        return {"SpotOptions": {"AllocationStrategy": "price-capacity-optimized"}}
    # Our order, not EC2's lowest price: a contract's prices and what pods need beyond the machine are known to us alone.
    return {"OnDemandOptions": {"AllocationStrategy": "prioritized"}}


def tag_specifications(tags: Mapping[str, str], *kinds: str) -> list[dict[str, Any]]:
    """Return these tags for each kind of thing that a call makes."""
    listed = [{"Key": key, "Value": tags[key]} for key in sorted(tags)]
    return [{"ResourceType": kind, "Tags": listed} for kind in kinds]


def token(parts: Sequence[object]) -> str:
    """Return a client token that follows from these parts: 52 characters of base32; EC2 takes 64 of ASCII."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def offer_ids(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ids of the offers that a recorded call names, best first."""
    capacity_type = parameters["TargetCapacitySpecification"]["DefaultTargetCapacityType"]
    overrides = [override for config in parameters["LaunchTemplateConfigs"] for override in config["Overrides"]]
    return tuple(dict.fromkeys(_offer_id(override, capacity_type) for override in sorted(overrides, key=_rank)))


def _rank(override: Mapping[str, Any]) -> int:
    rank: int = override["Priority"]
    return rank


def machines_of_fleet(fleet: Mapping[str, Any], batch: LaunchBatch) -> list[Machine]:
    """Return the machines in the reply of a CreateFleet, or in its description. Whether they run, it does not say."""
    return [
        Machine(
            id=machine_id,
            batch=batch.name,
            pool=batch.pool,
            offer=_offer_id(override, str(group.get("Lifecycle", "on-demand")), group.get("InstanceType", "")),
            provider_id=provider_id(override.get("AvailabilityZone", ""), machine_id),
            started=False,
        )
        for group in fleet.get("Instances", ())
        for override in [_override_of(group)]
        for machine_id in group.get("InstanceIds", ())
    ]


def refusals_of_fleet(fleet: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Refusal]:
    """Return the errors of a fleet, each with what it is about; one that names no offer is about all of them."""
    capacity_type, offers = parameters["TargetCapacitySpecification"]["DefaultTargetCapacityType"], offer_ids(parameters)
    refusals = []
    for error in fleet.get("Errors", ()):
        override = _override_of(error)
        named = "InstanceType" in override and "AvailabilityZone" in override
        about = [_offer_id(override, error.get("Lifecycle", capacity_type))] if named else offers
        code, message = error.get("ErrorCode", "Unknown"), error.get("ErrorMessage", "")
        subnet = override.get("SubnetId", "")
        refusals += refusals_about(code, message, about=about, subnet=subnet, among=offers)
    return list(dict.fromkeys(refusals))


def provider_id(zone: str, machine_id: str) -> str:
    """Return what the node of a machine carries in ``spec.providerID``."""
    return f"aws:///{zone}/{machine_id}"


def _override_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = entry.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
    return found


def _offer_id(override: Mapping[str, Any], capacity_type: str, instance_type: str = "") -> str:
    return f"{instance_type or override.get('InstanceType', '')}/{override.get('AvailabilityZone', '')}/{capacity_type}"
