"""Instances as EC2 describes them, as machines. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfscale.model import Machine
from tfscale.modes.ec2_fleet import BATCH_TAG, POOL_TAG, RESERVATION_TAG, provider_id

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import InstanceTypeDef

__all__ = ["LIVE", "machine_of", "tags_of"]

LIVE = ("pending", "running", "stopping", "stopped", "shutting-down")
"""The states of a machine that still exists."""
_STOPPING = frozenset({"stopping", "stopped", "shutting-down"})


def machine_of(instance: InstanceTypeDef) -> Machine:
    """Return the machine of an instance that carries our tags."""
    tags, zone, state = tags_of(instance), instance["Placement"]["AvailabilityZone"], instance["State"]["Name"]
    return Machine(
        id=instance["InstanceId"],
        batch=tags.get(BATCH_TAG, ""),
        pool=tags[POOL_TAG],
        offer=f"{instance['InstanceType']}/{zone}/{_capacity_of(instance, tags)}",
        provider_id=provider_id(zone, instance["InstanceId"]),
        stopping=state in _STOPPING,
        started=state != "pending",
        launched_s=int(instance["LaunchTime"].timestamp()),
    )


def _capacity_of(instance: InstanceTypeDef, tags: Mapping[str, str]) -> str:
    """Return how it is paid for, with its reservation where it was launched into one."""
    if reservation := tags.get(RESERVATION_TAG):
        return f"reserved/{reservation}"
    return "spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand"


def tags_of(thing: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of anything that EC2 describes."""
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags", ())}
