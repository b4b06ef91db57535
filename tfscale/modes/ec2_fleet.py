"""One CreateFleet call: its exact parameters, and what its reply says about machines and offers. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfscale.model import LaunchBatch, Machine, Offer
from tfscale.modes.base import Refusal

__all__ = [
    "BATCH_TAG",
    "CLUSTER_TAG",
    "EPOCH_TAG",
    "POOL_TAG",
    "UNFULFILLABLE",
    "fleet_parameters",
    "machines_of_fleet",
    "offer_ids",
    "provider_id",
    "refusals_of_fleet",
]

CLUSTER_TAG = "tfscale.io/cluster"
POOL_TAG = "tfscale.io/pool"
BATCH_TAG = "tfscale.io/batch"
EPOCH_TAG = "tfscale.io/epoch"

MOST_OVERRIDES = 300
"""EC2's limit on type and zone combinations of one fleet request."""

UNFULFILLABLE = frozenset({
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted", "InsufficientFreeAddressesInSubnet", "InsufficientInstanceCapacity",
    "InvalidFleetConfiguration", "MaxFleetCountExceeded", "MaxSpotInstanceCountExceeded", "ReservationCapacityExceeded",
    "UnfulfillableCapacity", "Unsupported", "VcpuLimitExceeded",
})  # fmt: skip
"""Codes that mean "not this offer, not now". Source: the AWS provider of Karpenter, ``pkg/errors``; with
``InvalidFleetConfiguration``, which a fleet reports for a type that its zone does not have."""


def fleet_parameters(
    offers: Sequence[Offer],
    *,
    count: int,
    template: Mapping[str, str],
    subnets: Mapping[str, str],
    tags: Mapping[str, str],
    token_of: Sequence[object],
) -> dict[str, Any]:
    """Return the parameters of a CreateFleet for `count` machines of any of the offers, which are best first.

    `template` is the LaunchTemplateSpecification, `subnets` gives the subnet by zone where one is known. The client token
    is a hash over everything here and `token_of`, so that different parameters never share a token.
    """
    parameters = {
        "Type": "instant",
        "LaunchTemplateConfigs": [{
            "LaunchTemplateSpecification": dict(template),
            "Overrides": [_override(offer, rank, subnets) for rank, offer in enumerate(offers[:MOST_OVERRIDES])],
        }],
        "TargetCapacitySpecification": {"TotalTargetCapacity": count, "DefaultTargetCapacityType": offers[0].capacity_type},
        "TagSpecifications": [
            # No tag for spot-instances-request: EC2 refuses it on an on-demand fleet.
            {"ResourceType": kind, "Tags": [{"Key": key, "Value": tags[key]} for key in sorted(tags)]}
            for kind in ("instance", "volume", "fleet")
        ],
        **_strategy(offers[0].capacity_type),
    }  # fmt: skip
    return {**parameters, "ClientToken": _token([*token_of, parameters])}


def _override(offer: Offer, rank: int, subnets: Mapping[str, str]) -> dict[str, Any]:
    # The zone is named beside the subnet, so that an error tells which offer it is about.
    subnet = {"SubnetId": subnets[offer.zone]} if offer.zone in subnets else {}
    # A whole number: 0.0 would come back from Kubernetes as 0, and another parameter is refused under the same token.
    return {"InstanceType": offer.instance_type, "AvailabilityZone": offer.zone, "Priority": rank, **subnet}


def _strategy(capacity_type: str) -> dict[str, Any]:
    if capacity_type == "spot":
        return {"SpotOptions": {"AllocationStrategy": "price-capacity-optimized"}}
    return {"OnDemandOptions": {"AllocationStrategy": "prioritized"}}


def _token(parts: Sequence[object]) -> str:
    """Return 52 characters of base32; EC2 takes 64 of ASCII."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def offer_ids(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ids of the offers that a recorded call names, best first."""
    capacity_type = parameters["TargetCapacitySpecification"]["DefaultTargetCapacityType"]
    return tuple(
        _offer_id(override, capacity_type) for config in parameters["LaunchTemplateConfigs"] for override in config["Overrides"]
    )


def machines_of_fleet(fleet: Mapping[str, Any], batch: LaunchBatch) -> list[Machine]:
    """Return the machines in the reply of a CreateFleet, or in its description."""
    return [
        Machine(
            id=machine_id,
            batch=batch.name,
            pool=batch.pool,
            offer=_offer_id(override, str(group.get("Lifecycle", "on-demand")), group.get("InstanceType", "")),
            provider_id=provider_id(override.get("AvailabilityZone", ""), machine_id),
        )
        for group in fleet.get("Instances", ())
        for override in [_override_of(group)]
        for machine_id in group.get("InstanceIds", ())
    ]


def refusals_of_fleet(fleet: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Refusal]:
    """Return the errors of a fleet, each with the offer that it is about.

    An error that names no offer is about all of them.
    """
    capacity_type = parameters["TargetCapacitySpecification"]["DefaultTargetCapacityType"]
    refusals = []
    for error in fleet.get("Errors", ()):
        override = _override_of(error)
        named = "InstanceType" in override and "AvailabilityZone" in override
        about = [_offer_id(override, error.get("Lifecycle", capacity_type))] if named else offer_ids(parameters)
        code, message = error.get("ErrorCode", "Unknown"), error.get("ErrorMessage", "")
        refusals += [Refusal(offer=offer, code=code, message=message) for offer in about]
    return refusals


def provider_id(zone: str, machine_id: str) -> str:
    """Return what the node of a machine carries in ``spec.providerID``."""
    return f"aws:///{zone}/{machine_id}"


def _override_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = entry.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
    return found


def _offer_id(override: Mapping[str, Any], capacity_type: str, instance_type: str = "") -> str:
    return f"{instance_type or override.get('InstanceType', '')}/{override.get('AvailabilityZone', '')}/{capacity_type}"
