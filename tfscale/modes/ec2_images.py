"""Which image a node boots: by id, by a parameter of SSM, by the alias of a family, or the newest one with some tags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from tfscale.errors import ModeError
from tfscale.modes.ec2_bootstrap_options import Ami, Bootstrap
from tfscale.modes.ec2_calls import Ec2Calls, code_of
from tfscale.modes.ec2_prices import Remembered

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import FilterTypeDef, ImageTypeDef

__all__ = ["Image", "Images", "parameter_of"]

REMEMBER_S = 3_600
"""How long an image is taken for the newest."""
_OWNERS = ("self", "amazon")
"""Anybody may publish an image under any tags."""
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image that is there."""

    id: str
    arch: str
    """As in the label ``kubernetes.io/arch``."""
    root_device: str
    """Name of the device that it boots from, such as ``/dev/xvda``."""


def parameter_of(alias: str, *, version: str, arch: str) -> str:
    """Return the path of the SSM parameter with the id of the image for NVIDIA GPUs that an alias means.

    `version` is that of Kubernetes. Sources: EKS, page "Retrieve recommended Amazon Linux AMI IDs"; Bottlerocket, page on
    its variants; the paths of pinned versions: the AWS provider of Karpenter, ``pkg/providers/amifamily``.

    >>> parameter_of("al2023@latest", version="1.33", arch="amd64")
    '/aws/service/eks/optimized-ami/1.33/amazon-linux-2023/x86_64/nvidia/recommended/image_id'
    >>> parameter_of("bottlerocket@v1.40.0", version="1.33", arch="arm64")
    '/aws/service/bottlerocket/aws-k8s-1.33-nvidia/arm64/1.40.0/image_id'
    """
    family, _, release = alias.partition("@")
    machine = _ARCHITECTURES[arch]
    if family == "bottlerocket":
        return f"/aws/service/bottlerocket/aws-k8s-{version}-nvidia/{machine}/{release.removeprefix('v')}/image_id"
    name = "recommended" if release == "latest" else f"amazon-eks-node-al2023-{machine}-nvidia-{version}-{release}"
    return f"/aws/service/eks/optimized-ami/{version}/amazon-linux-2023/{machine}/nvidia/{name}/image_id"


class Images:
    """The image of one pool for each architecture. `clock` gives seconds."""

    def __init__(self, calls: Ec2Calls, bootstrap: Bootstrap, *, clock: Callable[[], float]) -> None:
        self._calls = calls
        self._ami = bootstrap.ami
        self._version = (bootstrap.cluster and bootstrap.cluster.version) or ""
        self._found: dict[str, Remembered[Image | None]] = {arch: Remembered(clock) for arch in _ARCHITECTURES}

    def find(self, arch: str) -> Image | None:
        """Return the image for an architecture, or None where there is none. Raises ``ModeError`` where nobody tells."""
        return self._found[arch].get(lambda: (self._ask(arch), REMEMBER_S)) if arch in self._found else None

    def forget(self) -> None:
        """Look for images anew: one is gone."""
        for found in self._found.values():
            found.forget()

    def _ask(self, arch: str) -> Image | None:
        ami = self._ami
        wanted = {"state": "available", "architecture": _ARCHITECTURES[arch]}
        if ami.tags:
            found = self._describe({**wanted, **{f"tag:{key}": ami.tags[key] for key in ami.tags}}, Owners=_OWNERS)
        else:
            image_id = self._id(ami, arch)
            found = self._describe({**wanted, "image-id": image_id}) if image_id else []
        newest = max(found, key=lambda image: (image["CreationDate"], image["ImageId"]), default=None)
        return Image(id=newest["ImageId"], arch=arch, root_device=newest["RootDeviceName"]) if newest else None

    def _id(self, ami: Ami, arch: str) -> str:
        """Return the id that is written or meant, or nothing where the parameter does not exist."""
        if ami.id:
            return ami.id
        path = ami.ssm_parameter or parameter_of(ami.alias or "", version=self._version, arch=arch)
        try:
            answer = self._calls.read(f"GetParameter {path}", lambda: self._calls.client("ssm").get_parameter(Name=path))
        except ModeError as error:
            if not isinstance(error.__cause__, ClientError) or code_of(error.__cause__) != "ParameterNotFound":
                raise
            return ""
        return str(answer["Parameter"]["Value"])

    def _describe(self, wanted: dict[str, str], **more: Any) -> list[ImageTypeDef]:  # noqa: ANN401 - parameters of a call
        filters: list[FilterTypeDef] = [{"Name": name, "Values": [wanted[name]]} for name in wanted]

        def ask() -> list[ImageTypeDef]:
            pages = self._calls.ec2.get_paginator("describe_images").paginate(Filters=filters, **more)
            return [image for page in pages for image in page["Images"]]

        return self._calls.read("DescribeImages", ask)
