"""Labels and annotations of NodeClaims: which of them Karpenter writes itself, and what it will write for a type and a zone.

Source: the API of karpenter.sh/v1. What a provider writes of its own is in ``nodeclaim_providers``.
"""

from __future__ import annotations

from tfscale.model import INSTANCE_TYPE
from tfscale.modes.nodeclaim_providers import provider_of

__all__ = [
    "ARCH",
    "CAPACITY_TYPE",
    "DO_NOT_DISRUPT",
    "HASHES",
    "NODE_POOL",
    "OS",
    "PLACE",
    "REGION",
    "ZONE",
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

_ZONE_ID = "topology.k8s.aws/zone-id"
PLACE = (REGION, _ZONE_ID)
"""What a zone says beside its own name."""

_FACTS = frozenset({INSTANCE_TYPE, ZONE, ARCH, OS, "kubernetes.io/hostname", "node.kubernetes.io/windows-build", *PLACE})
_OLD_FACTS = ("beta.kubernetes.io", "failure-domain.beta.kubernetes.io", "topology.k8s.aws")


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
    return (
        key in _FACTS
        or key in provider_of(provider).rules
        or is_karpenters(key)
        or (bool(slash) and domain in {provider, *_OLD_FACTS})
    )
