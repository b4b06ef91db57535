"""What a pool says of nodes whose launch templates tfscale makes: image, cluster, kubelet, disk."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, model_validator

from tfscale.quantity import quantity
from tfscale.selectors import Taint
from tfscale.spec import Spec

__all__ = ["UNREGISTERED", "Ami", "Bootstrap", "ClusterAccess", "Kubelet", "NodeTaint", "Volume", "contradictions", "shaped"]

UNREGISTERED = Taint(key="tfscale.io/unregistered", effect="NoExecute")
"""On every node of ours from its first moment; the loop takes it off when the node is complete."""

_NAME = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_NAME}")
# Kubelets may set no other label of these domains. Source: Kubernetes, admission plugin NodeRestriction.
_KUBERNETES = re.compile(r"([^/]*\.)?(kubernetes|k8s)\.io/.*")
_ALLOWED = re.compile(r"([^/]*\.)?(kubelet|node)\.kubernetes\.io/.*")
_RESERVED = ("tfscale.io/", "karpenter.sh/", "karpenter.k8s.aws/", "eks:")
# nodeadm puts flags into a file for systemd, separated by spaces.
_FLAG = r"--[a-z0-9-]+(=[^\s\"'\\`$]*)?"
_OUR_FLAGS = ("--node-labels", "--register-with-taints", "--max-pods")
_GIB = 2**30
_MOST_GIB = 65_536
"""Source: EBS, page on volume types (io2 Block Express)."""


def shaped(pattern: str, want: str) -> AfterValidator:
    """Return a check that a text is of this shape; `want` says in words what is wanted."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(want)
        return value

    return AfterValidator(check)


def _key(value: str) -> str:
    if not _KEY.fullmatch(value):
        raise ValueError("a label key such as example.com/team")
    if value.startswith(_RESERVED):
        raise ValueError(f"a key of your own, not one that starts with {', '.join(_RESERVED)}")
    return value


def _label_key(value: str) -> str:
    if _KUBERNETES.fullmatch(value) and (not _ALLOWED.fullmatch(value) or "node-restriction" in value):
        raise ValueError("a label that a kubelet may set: of these domains only node.kubernetes.io/ and kubelet.kubernetes.io/")
    return _key(value)


def _gib(value: object) -> int:
    want = "whole GiB from 1Gi to 64Ti, such as 100Gi"
    try:
        size_gib = quantity(value) / _GIB
    except ValueError:
        raise ValueError(want) from None
    # A number without a unit is bytes, which nobody means.
    if not 1 <= size_gib <= _MOST_GIB or size_gib.denominator != 1:
        raise ValueError(want)
    return int(size_gib)


def _certificates(value: str) -> str:
    try:
        text = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        text = b""
    if b"BEGIN CERTIFICATE" not in text:
        raise ValueError("certificates in PEM, in base64, as a kubeconfig has them")
    if b"PRIVATE KEY" in text:
        raise ValueError("certificates alone: user data is no place for a private key")
    return value


def _network(value: str) -> str:
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        network = None
    if network is None or network.num_addresses <= 10:  # noqa: PLR2004 - the tenth is that of the DNS service
        raise ValueError("the addresses of services, such as 10.100.0.0/16")
    return value


_LabelValue = Annotated[str, shaped(f"({_NAME})?", "a label value: at most 63 letters, digits, '-', '_' and '.'")]
_Flag = Annotated[str, shaped(_FLAG, "a flag such as --v=2, without spaces, quotes and $")]


class NodeTaint(Spec):
    """A taint that nodes are born with."""

    key: Annotated[str, AfterValidator(_key)]
    value: _LabelValue = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]

    def taint(self) -> Taint:
        """Return it as the core knows it."""
        return Taint(key=self.key, value=self.value, effect=self.effect)


class Kubelet(Spec):
    """What kubelets are told beside what every node of the pool is told."""

    max_pods: Annotated[int, AfterValidator(lambda value: _within(value, 1, 1_000))] | None = None
    labels: dict[Annotated[str, AfterValidator(_label_key)], _LabelValue] = {}
    taints: list[NodeTaint] = []
    flags: list[_Flag] = []

    @model_validator(mode="after")
    def _own_flags(self) -> Kubelet:
        for flag in self.flags:
            if flag.partition("=")[0] in _OUR_FLAGS:
                raise ValueError(f"labels, taints and maxPods in fields of their own, not {flag.partition('=')[0]}")
        return self


class Ami(Spec):
    """The image of nodes: named in one of four ways."""

    id: Annotated[str, shaped("ami-[0-9a-f]+", "an id such as ami-0123456789abcdef0")] | None = None
    ssm_parameter: (
        Annotated[str, shaped("/[a-zA-Z0-9_.:/-]+", "the full path of a parameter that holds an image's id")] | None
    ) = None
    alias: (
        Annotated[
            str,
            shaped(
                r"(al2023|bottlerocket)@(latest|v[0-9][0-9.]{0,30})",
                "al2023@latest, bottlerocket@latest, or one of these with a version such as al2023@v20260501",
            ),
        ]
        | None
    ) = None
    tags: dict[str, str] = {}
    """The newest image of your account or of Amazon that carries all of these."""

    @model_validator(mode="after")
    def _one_way(self) -> Ami:
        if sum(map(bool, (self.id, self.ssm_parameter, self.alias, self.tags))) != 1:
            raise ValueError("one of id, ssmParameter, alias and tags")
        return self


class ClusterAccess(Spec):
    """Where nodes join. None of it is secret."""

    name: Annotated[str, shaped("[a-zA-Z0-9][a-zA-Z0-9_-]{0,99}", "the name of the EKS cluster")]
    endpoint: Annotated[str, shaped(r"https://[a-zA-Z0-9.:\[\]-]+/?", "the URL of the API server, such as https://example.com")]
    certificate_authority: Annotated[str, AfterValidator(_certificates)]
    service_cidr: Annotated[str, AfterValidator(_network)]
    version: Annotated[str, shaped("1[.][0-9]{1,3}", "a version of Kubernetes such as '1.33'")] | None = None
    """Of which aliases name the images."""

    @property
    def dns(self) -> str:
        """Return the address of the DNS service, which EKS puts at the tenth place."""
        return str(ipaddress.ip_network(self.service_cidr)[10])


class Volume(Spec):
    """The disk of a node: always encrypted, and gone with its machine."""

    size: Annotated[int, BeforeValidator(_gib)] = 100
    """GiB. Images for GPUs are large, and so are those of models."""
    type: Literal["gp3", "gp2", "io1", "io2"] = "gp3"
    iops: Annotated[int, AfterValidator(lambda value: _within(value, 100, 256_000))] | None = None
    kms_key_id: Annotated[str, shaped("[a-zA-Z0-9:/_-]{1,2048}", "the id, alias or ARN of a KMS key")] | None = None
    """None: the account's own key for volumes."""

    @model_validator(mode="after")
    def _fast(self) -> Volume:
        if self.type.startswith("io") and self.iops is None:
            raise ValueError(f"iops for a volume of type {self.type}")
        if self.type == "gp2" and self.iops is not None:
            raise ValueError("no iops for a volume of type gp2")
        return self


class Bootstrap(Spec):
    """How a node comes to be: all that a launch template of ours says."""

    family: Literal["al2023", "bottlerocket", "custom"]
    ami: Ami
    instance_profile: Annotated[
        str,
        shaped(
            r"[a-zA-Z0-9+=,.@_-]{1,128}|arn:aws[a-z-]*:iam::[0-9]{12}:instance-profile/[!-~]{1,600}",
            "the name or ARN of an instance profile",
        ),
    ]
    security_group_ids: list[Annotated[str, shaped("sg-[0-9a-f]+", "an id such as sg-0123456789abcdef0")]] = []
    """Empty leaves the default group of the network."""
    cluster: ClusterAccess | None = None
    kubelet: Kubelet = Kubelet()
    volume: Volume = Volume()
    user_data: str | None = None
    """For the family ``custom``: the text itself, with placeholders."""


def contradictions(bootstrap: Bootstrap) -> list[tuple[str, str, str]]:
    """Return field, value and what is wanted, for fields that are right alone and wrong together."""
    family, cluster, alias, text = bootstrap.family, bootstrap.cluster, bootstrap.ami.alias, bootstrap.user_data
    found = []
    if family == "custom" and text is None:
        found.append(("userData", "", "the user data of the family custom"))
    if family != "custom" and text is not None:
        found.append(("userData", text, f"none for the family {family}, whose user data is made; or the family custom"))
    if family != "custom" and cluster is None:
        found.append(("cluster", "", f"the cluster that nodes of the family {family} join"))
    if family != "al2023" and bootstrap.kubelet.flags:
        found.append(
            ("kubelet.flags", " ".join(bootstrap.kubelet.flags), f"none for the family {family}: nobody would read them")
        )
    if alias and family not in {"custom", alias.partition("@")[0]}:
        found.append(("ami.alias", alias, f"an image of the family {family}"))
    if alias and not (cluster and cluster.version) and (cluster or family == "custom"):
        found.append(("cluster.version", "", "the version of Kubernetes, without which ami.alias names no image"))
    return found


def _within(value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ValueError(f"a number from {least} to {most}")
    return value
