"""What EC2's refusals of a launch mean: which are only about capacity, and how far each one reaches. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tfscale.modes.base import Refusal

__all__ = ["GONE", "MISMATCH", "UNFULFILLABLE", "refusals_about"]

UNFULFILLABLE = frozenset({
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted", "InstanceLimitExceeded", "InsufficientCapacityOnHost",
    "InsufficientFreeAddressesInSubnet", "InsufficientHostCapacity", "InsufficientInstanceCapacity",
    "InsufficientReservedInstanceCapacity", "InsufficientVolumeCapacity", "InvalidFleetConfiguration", "MaxFleetCountExceeded",
    "MaxIOPSLimitExceeded", "MaxSpotInstanceCountExceeded", "ReservationCapacityExceeded", "SpotMaxPriceTooLow",
    "UnfulfillableCapacity", "Unsupported", "VcpuLimitExceeded", "VolumeLimitExceeded",
})  # fmt: skip
"""Codes that mean "not this offer, not now". Sources: the AWS provider of Karpenter, ``pkg/errors``; EC2, page on error codes;
with ``InvalidFleetConfiguration``, which a fleet reports for a type that its zone does not have."""

MISMATCH = "IdempotentParameterMismatch"
"""The token was used with other parameters. Ours follow from the parameters, so somebody changed a record."""

GONE = frozenset({
    "InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidLaunchTemplateId.NotFound",
    "InvalidLaunchTemplateId.VersionNotFound", "InvalidLaunchTemplateName.NotFoundException",
})  # fmt: skip
"""What a recorded call names was deleted since: launch template or image."""

_ALL_SPOT = "*/*/spot"
_OF_SPOT = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
"""About the account: no other spot offer fares better."""
_OF_TYPE = frozenset({"InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "VcpuLimitExceeded"})
"""Quotas are per family and region, and apart for spot: a type fares no better in another zone, but perhaps as spot, or a type
of another family. Source: EC2's pages on On-Demand and Spot instance quotas."""
_OF_SUBNET = "InsufficientFreeAddressesInSubnet"


def refusals_about(code: str, message: str, *, about: Sequence[str], subnet: str, among: Sequence[str]) -> list[Refusal]:
    """Return a refusal for everything that an error means is not to be had.

    `about` are the ids of the offers that it names, `subnet` the one it names or nothing, `among` all offers of the call.

    >>> call = ["g6.xlarge/a/spot", "g6.xlarge/b/spot", "p5.48xlarge/a/spot"]
    >>> [one.offer for one in refusals_about("VcpuLimitExceeded", "", about=call[:1], subnet="", among=call)]
    ['g6.xlarge/a/spot', 'g6.xlarge/b/spot']
    """
    if code == _OF_SPOT and all(offer.endswith("/spot") for offer in about):
        wide: Sequence[str] = [_ALL_SPOT]
    elif code == _OF_SUBNET and subnet:
        wide = [subnet]
    elif code in _OF_TYPE:
        types = {offer.partition("/")[0] for offer in about}
        wide = [offer for offer in among if offer.partition("/")[0] in types]
    else:
        wide = about
    return [Refusal(offer=offer, code=code, message=message) for offer in wide]
