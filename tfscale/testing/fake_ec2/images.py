"""Images, and the parameters by which AWS names the newest one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from tfscale.testing.fake_ec2.faults import ApiError, no_such
from tfscale.testing.fake_ec2.pages import Answer, chosen, page, tag_values, tags_of

__all__ = ["Images"]

_PUBLIC = (
    (re.compile(r"/aws/service/eks/optimized-ami/1\.\d+/amazon-linux-2023/(x86_64|arm64)/\w+/[\w.-]+/image_id"), "al2023"),
    (re.compile(r"/aws/service/bottlerocket/aws-k8s-1\.\d+(?:-nvidia)?/(x86_64|arm64)/[\w.-]+/image_id"), "bottlerocket"),
)  # fmt: skip
"""The parameters under which AWS publishes images for EKS. Sources: the pages of EKS on optimized AMIs and of Bottlerocket."""


class Images:
    """The images of a region. `clock` gives seconds.

    There from the start are one image of Amazon's for each of AL2023 and Bottlerocket on each architecture, which the public
    parameters name, whatever version of Kubernetes is asked for.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._all: dict[str, dict[str, Any]] = {}
        self.parameters: dict[str, str] = {}
        """SSM parameters by name, beside the public ones."""
        self._public = {
            (family, architecture): self.add(f"{family}-{architecture}", architecture=architecture, owner="amazon", tags={})
            for _, family in _PUBLIC
            for architecture in ("x86_64", "arm64")
        }

    def answers(self) -> Mapping[str, Answer]:
        """Return the operations that are answered here."""
        return {"DescribeImages": self._describe, "GetParameter": self._get_parameter}

    def add(self, name: str, *, architecture: str, owner: str, tags: Mapping[str, str]) -> str:
        """Register an image as of now and return its id, which follows from its name."""
        image_id = "ami-" + hashlib.sha256(name.encode()).hexdigest()[:17]
        created = datetime.fromtimestamp(self._clock(), UTC)
        self._all[image_id] = {
            "ImageId": image_id,
            "Name": name,
            "Architecture": architecture,
            "OwnerId": {"self": "123456789012", "amazon": "602401143452"}.get(owner, owner),
            "ImageOwnerAlias": owner,
            "State": "available",
            "CreationDate": created.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "RootDeviceName": "/dev/xvda",
            "Tags": tags_of(tags),
        }
        return image_id

    def remove(self, image_id: str) -> None:
        """Deregister an image."""
        del self._all[image_id]

    def _describe(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        asked, owners = parameters.get("ImageIds", []), parameters.get("Owners", [])
        for image_id in asked:
            if image_id not in self._all:
                raise no_such("InvalidAMIID.NotFound", "image id", image_id)
        found = [
            image
            for image in self._all.values()
            if (not asked or image["ImageId"] in asked)
            and (not owners or {image["OwnerId"], image["ImageOwnerAlias"]} & set(owners))
        ]
        return page(chosen(found, parameters, _values), "Images", parameters)

    def _get_parameter(self, parameters: dict[str, Any]) -> Mapping[str, Any] | None:
        name = parameters["Name"]
        value = self.parameters.get(name) or self._public_image(name)
        if value is None:
            raise ApiError("ParameterNotFound", f"There is no parameter '{name}'")
        return {"Parameter": {"Name": name, "Type": "String", "Value": value, "Version": 1}}

    def _public_image(self, name: str) -> str | None:
        for pattern, family in _PUBLIC:
            if match := pattern.fullmatch(name):
                return self._public[family, match[1]]
        return None


_FIELDS = {
    "architecture": "Architecture",
    "image-id": "ImageId",
    "name": "Name",
    "owner-alias": "ImageOwnerAlias",
    "owner-id": "OwnerId",
    "state": "State",
}


def _values(image: Mapping[str, Any], name: str) -> list[str] | None:
    return [image[_FIELDS[name]]] if name in _FIELDS else tag_values(image["Tags"], name)
