"""Labels and annotations of NodeClaims: which of them Karpenter writes itself, and what it will write for a type and a zone.

Source: the API of karpenter.sh/v1; the labels of instance types of Karpenter's AWS provider.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tfscale.model import INSTANCE_TYPE

__all__ = [
    "ARCH",
    "AWS",
    "CAPACITY_TYPE",
    "DO_NOT_DISRUPT",
    "HASHES",
    "NODE_POOL",
    "OS",
    "PLACE",
    "REGION",
    "ZONE",
    "aws_labels",
    "aws_region",
    "is_aws_label",
    "is_fact",
    "is_karpenters",
]

ARCH = "kubernetes.io/arch"
OS = "kubernetes.io/os"
REGION = "topology.kubernetes.io/region"
ZONE = "topology.kubernetes.io/zone"
CAPACITY_TYPE = "karpenter.sh/capacity-type"
NODE_POOL = "karpenter.sh/nodepool"
DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"
HASHES = ("karpenter.sh/nodepool-hash", "karpenter.sh/nodepool-hash-version")
"""What Karpenter compares to know whether a node still is what its NodePool says."""

AWS = "karpenter.k8s.aws"
_ZONE_ID = "topology.k8s.aws/zone-id"
PLACE = (REGION, _ZONE_ID)
"""What a zone says beside its own name."""

_FACTS = frozenset({INSTANCE_TYPE, ZONE, ARCH, OS, "kubernetes.io/hostname", "node.kubernetes.io/windows-build", *PLACE})
_OLD_FACTS = ("beta.kubernetes.io", "failure-domain.beta.kubernetes.io", "topology.k8s.aws")
_AWS_NAME = re.compile(r"(?P<category>[a-z]+)(?:-[0-9]+tb)?(?P<generation>[0-9]+)[^.]*\.(?P<size>.+)")
_AWS_REGION = re.compile(r"[a-z]+(?:-[a-z]+)+?-[0-9]+")
_AWS_TYPE = ("category", "generation", "family", "size", "cpu", "memory")
_AWS_CARDS = ("gpu-name", "gpu-manufacturer", "gpu-count", "gpu-memory")
_AWS_LABELS = frozenset(f"{AWS}/instance-{name}" for name in (*_AWS_TYPE, *_AWS_CARDS))


def is_karpenters(key: str) -> bool:
    """Return whether a label or annotation is in a domain of Karpenter or of one of its providers.

    >>> [is_karpenters(key) for key in ("karpenter.sh/initialized", "compatibility.karpenter.k8s.aws/x", "example.com/karpenter")]
    [True, True, False]
    """
    domain, slash, _ = key.partition("/")
    return bool(slash) and "karpenter" in domain.split(".")


def is_fact(key: str, provider: str) -> bool:
    """Return whether a label says what was launched. A claim that carries it itself would hide the truth: its labels win.

    `provider` is the group of the node class.

    >>> [is_fact(key, "example.com") for key in ("topology.kubernetes.io/zone", "example.com/size", "team")]
    [True, True, False]
    """
    domain, slash, _ = key.partition("/")
    return key in _FACTS or is_karpenters(key) or (bool(slash) and domain in {provider, *_OLD_FACTS})


def aws_labels(name: str, *, cpu_milli: int, memory_mib: int, gpu_model: str, gpu_count: int, vram_mib: int) -> Mapping[str, str]:
    """Return what Karpenter's AWS provider writes on nodes of this type, as far as it follows from the type itself.

    >>> labels = aws_labels("g6.2xlarge", cpu_milli=8_000, memory_mib=32_768, gpu_model="L4", gpu_count=1, vram_mib=22_888)
    >>> labels["karpenter.k8s.aws/instance-family"], labels["karpenter.k8s.aws/instance-gpu-name"]
    ('g6', 'l4')
    """
    parts = _AWS_NAME.fullmatch(name)
    labels = {"family": name.partition(".")[0], **parts.groupdict()} if parts else {}
    labels |= {"cpu": str(cpu_milli // 1_000), "memory": str(memory_mib)}
    if gpu_count:
        labels |= {"gpu-manufacturer": "nvidia", "gpu-count": str(gpu_count), "gpu-memory": str(vram_mib)}
    if gpu_count and "-" not in gpu_model:
        # The table's longer names are not those of EC2.
        labels["gpu-name"] = gpu_model.lower()
    return {f"{AWS}/instance-{key}": value for key, value in labels.items()}


def is_aws_label(key: str, *, gpu_model: str) -> bool:
    """Return whether ``aws_labels`` knows of this label, so that one which is missing there is missing on the node too."""
    return key in _AWS_LABELS and not (key.endswith("-gpu-name") and "-" in gpu_model)


def aws_region(zone: str) -> str:
    """Return the region of a zone of AWS, empty for what is none.

    >>> aws_region("us-east-1a"), aws_region("us-west-2-lax-1a"), aws_region("eastus-1")
    ('us-east-1', 'us-west-2', '')
    """
    found = _AWS_REGION.match(zone)
    return found[0] if found else ""
