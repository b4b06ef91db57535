"""Launch templates: the one that a pool names, or those that tfscale makes from what the pool says of its nodes.

One of ours is named after all that it says, so that it is never changed: other content is another template. Whoever finds
the name finds the content, and a lost reply or a second process costs nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from tfscale.errors import CloudUnreachableError, LaunchRefusedError, ModeError, Problem
from tfscale.model import Offer
from tfscale.modes.ec2_bootstrap import user_data
from tfscale.modes.ec2_bootstrap_options import Bootstrap
from tfscale.modes.ec2_calls import Ec2Calls, code_of
from tfscale.modes.ec2_fleet import CLUSTER_TAG, POOL_TAG
from tfscale.modes.ec2_images import Image, Images
from tfscale.modes.ec2_options import LaunchTemplate
from tfscale.modes.ec2_unused_templates import PREFIX, UnusedTemplates

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import FilterTypeDef, LaunchTemplateTypeDef

__all__ = ["ARCH", "GivenTemplate", "OwnTemplates", "TemplateSource", "template_data"]

log = logging.getLogger(__name__)

ARCH = "kubernetes.io/arch"
_DATA_DEVICE = "/dev/xvdb"
"""Where Bottlerocket keeps images and pods; its root is small and never written."""
_LONGEST_CLUSTER = 60


class TemplateSource(Protocol):
    """Where the launch templates of one pool come from."""

    def boots(self, arch: str) -> bool:
        """Return whether machines of this architecture can be launched."""
        ...

    def specifications(self, offers: Sequence[Offer]) -> list[tuple[dict[str, str], list[Offer]]]:
        """Return LaunchTemplateSpecifications with the offers that each is for, in their order."""
        ...

    def find(self, offer: Offer) -> dict[str, str] | None:
        """Return the LaunchTemplateSpecification for an offer, or None where it is not made yet. None is made."""
        ...

    def forget(self) -> bool:
        """Remember nothing, because a template or its image is gone. Return whether another one is made."""
        ...

    def problems(self, where: str, archs: Iterable[str]) -> list[Problem]:
        """Return what is wrong with them."""
        ...


class GivenTemplate:
    """The launch template that a pool names. Its version is fixed when a call is prepared."""

    def __init__(self, calls: Ec2Calls, named: LaunchTemplate) -> None:
        self._calls = calls
        self._named = named

    def boots(self, arch: str) -> bool:  # noqa: ARG002 - as the protocol has it
        """Return True: which image it names is not looked at."""
        return True

    def specifications(self, offers: Sequence[Offer]) -> list[tuple[dict[str, str], list[Offer]]]:
        """Return one specification for all offers. Raises ``LaunchRefusedError`` for a version that is not there."""
        return [(self._specification(), [*offers])]

    def find(self, offer: Offer) -> dict[str, str] | None:  # noqa: ARG002 - as the protocol has it
        """Return the one specification."""
        return self._specification()

    def forget(self) -> bool:
        """Return False: nobody but its author can make it again."""
        return False

    def problems(self, where: str, archs: Iterable[str]) -> list[Problem]:  # noqa: ARG002 - as the protocol has it
        """Return whether the template is missing, or its version."""
        try:
            self._specification()
        except CloudUnreachableError:
            raise
        except ModeError as error:
            value, want = self._named.id or self._named.name or "", f"a launch template of the account ({error})"
            return [Problem(where=where, field="spec.options.launchTemplate", value=value, want=want)]
        return []

    def _specification(self) -> dict[str, str]:
        found, version = self._template(), self._named.version
        latest = found["LatestVersionNumber"]
        number = {"$Default": found["DefaultVersionNumber"], "$Latest": latest}.get(version) or int(version)
        if number > latest:
            raise LaunchRefusedError(f"launch template {found['LaunchTemplateId']} has versions up to {latest}, not {number}")
        return {"LaunchTemplateId": found["LaunchTemplateId"], "Version": str(number)}

    def _template(self) -> LaunchTemplateTypeDef:
        named = self._named
        wanted: dict[str, Any] = {"LaunchTemplateIds": [named.id]} if named.id else {"LaunchTemplateNames": [named.name]}
        found = self._calls.read("DescribeLaunchTemplates", lambda: self._calls.ec2.describe_launch_templates(**wanted))
        return found["LaunchTemplates"][0]


class OwnTemplates:
    """Launch templates that are made for one pool, one for each architecture and capacity type.

    `clock` gives seconds. `unused` takes away what is left of earlier ones.
    """

    def __init__(
        self,
        calls: Ec2Calls,
        bootstrap: Bootstrap,
        *,
        cluster: str,
        pool: str,
        unused: UnusedTemplates,
        clock: Callable[[], float],
    ) -> None:
        self._calls = calls
        self._bootstrap = bootstrap
        self._cluster = cluster
        self._pool = pool
        self._tags = {CLUSTER_TAG: cluster, POOL_TAG: pool}
        self._unused = unused
        self._images = Images(calls, bootstrap, clock=clock)
        self._ids: dict[str, str] = {}
        """By name: those that were named in a call not long ago."""

    def boots(self, arch: str) -> bool:
        """Return whether there is an image for this architecture. Raises ``ModeError`` where nobody tells."""
        return self._images.find(arch) is not None

    def specifications(self, offers: Sequence[Offer]) -> list[tuple[dict[str, str], list[Offer]]]:
        """Return one specification for each architecture that has an image; templates that are missing are made.

        The offers are of one capacity type.
        """
        by_arch: dict[str, list[Offer]] = {}
        for offer in offers:
            by_arch.setdefault(offer.labels.get(ARCH, ""), []).append(offer)
        found = [
            ({"LaunchTemplateId": self._id(image, group[0].capacity_type), "Version": "1"}, group)
            for arch, group in by_arch.items()
            if (image := self._images.find(arch))
        ]
        if self._unused.delete(needed=frozenset(self._ids.values())):
            self._ids.clear()
        return found

    def find(self, offer: Offer) -> dict[str, str] | None:
        """Return the specification for an offer, or None where it is not made yet, or no image boots there. None is made."""
        image = self._images.find(offer.labels.get(ARCH, ""))
        found = self._found(self._named_after(image, offer.capacity_type)[0]) if image else ""
        return {"LaunchTemplateId": found, "Version": "1"} if found else None

    def forget(self) -> bool:
        """Look everything up anew before it is named again, and make what is missing."""
        self._ids.clear()
        self._images.forget()
        return True

    def problems(self, where: str, archs: Iterable[str]) -> list[Problem]:
        """Return each architecture of the pool's types for which there is no image, unless another one has one."""
        wanted = sorted(set(archs))
        if not wanted or any(self.boots(arch) for arch in wanted):
            return []
        ami = self._bootstrap.ami
        value = ami.id or ami.ssm_parameter or ami.alias or ", ".join(f"{key}={ami.tags[key]}" for key in ami.tags)
        want = f"an image that is there and boots on {' or '.join(wanted)}"
        return [Problem(where=where, field="spec.options.bootstrap.ami", value=value, want=want)]

    def _id(self, image: Image, capacity_type: str) -> str:
        name, data = self._named_after(image, capacity_type)
        if name not in self._ids:
            self._ids[name] = self._found(name) or self._made(name, data)
        return self._ids[name]

    def _named_after(self, image: Image, capacity_type: str) -> tuple[str, dict[str, Any]]:
        """Return the name of the template for an image, and all that it says."""
        data = template_data(self._bootstrap, image, pool=self._pool, capacity_type=capacity_type)
        return _name(self._cluster, self._tags, data), data

    def _found(self, name: str) -> str:
        # By filter: by name, one that is missing would be an error.
        filters: list[FilterTypeDef] = [{"Name": "launch-template-name", "Values": [name]}]
        found = self._calls.read(
            "DescribeLaunchTemplates", lambda: self._calls.ec2.describe_launch_templates(Filters=filters)["LaunchTemplates"]
        )
        return next((template["LaunchTemplateId"] for template in found), "")

    def _made(self, name: str, data: dict[str, Any]) -> str:
        tags = [{"Key": key, "Value": self._tags[key]} for key in sorted(self._tags)]
        # The name makes it happen once. A client token of ours could bring back a template that was deleted meanwhile.
        parameters: dict[str, Any] = {
            "LaunchTemplateName": name,
            "LaunchTemplateData": data,
            "TagSpecifications": [{"ResourceType": "launch-template", "Tags": tags}],
        }
        try:
            reply = self._calls.read("CreateLaunchTemplate", lambda: self._calls.ec2.create_launch_template(**parameters))
        except ModeError as error:
            if not isinstance(error.__cause__, ClientError) or "AlreadyExists" not in code_of(error.__cause__):
                raise
            return self._named(name)
        log.info("launch template %s was made for pool %s", name, self._pool)
        return reply["LaunchTemplate"]["LaunchTemplateId"]

    def _named(self, name: str) -> str:
        """Return the template that another process, or a call whose reply was lost, has just made: filters may lag behind."""
        found = self._calls.read(
            "DescribeLaunchTemplates", lambda: self._calls.ec2.describe_launch_templates(LaunchTemplateNames=[name])
        )
        return found["LaunchTemplates"][0]["LaunchTemplateId"]


def template_data(bootstrap: Bootstrap, image: Image, *, pool: str, capacity_type: str) -> dict[str, Any]:
    """Return the LaunchTemplateData of a pool's nodes: metadata only with a token and not from pods, all disks encrypted."""
    profile = bootstrap.instance_profile
    text = user_data(bootstrap, pool=pool, capacity_type=capacity_type)
    return {
        "ImageId": image.id,
        "IamInstanceProfile": {"Arn" if profile.startswith("arn:") else "Name": profile},
        "BlockDeviceMappings": _disks(bootstrap, image),
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "UserData": base64.b64encode(text.encode()).decode(),
        **({"SecurityGroupIds": bootstrap.security_group_ids} if bootstrap.security_group_ids else {}),
    }


def _disks(bootstrap: Bootstrap, image: Image) -> list[dict[str, Any]]:
    volume = bootstrap.volume
    key = {"KmsKeyId": volume.kms_key_id} if volume.kms_key_id else {}
    safe = {"Encrypted": True, "DeleteOnTermination": True, **key}
    iops = {} if volume.iops is None else {"Iops": volume.iops}
    large = {"VolumeSize": volume.size, "VolumeType": volume.type, **iops, **safe}
    if bootstrap.family != "bottlerocket":
        return [{"DeviceName": image.root_device, "Ebs": large}]
    return [
        {"DeviceName": image.root_device, "Ebs": {"VolumeType": "gp3", **safe}},
        {"DeviceName": _DATA_DEVICE, "Ebs": large},
    ]


def _name(cluster: str, tags: dict[str, str], data: dict[str, Any]) -> str:
    text = json.dumps([tags, data], sort_keys=True, separators=(",", ":"))
    readable = re.sub(r"[^a-zA-Z0-9-]", "-", cluster)[:_LONGEST_CLUSTER]
    return f"{PREFIX}{readable}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
