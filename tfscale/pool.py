"""What people say about a group of nodes: which offers are wanted, how much may be bought, how long things may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RECOVER", "Limits", "OfferFilter", "Pool", "SetAside"]

RECOVER = "tfscale.io/recover-orphans"
"""The annotation of a pool by which somebody says that machines without a record are its own: ``true``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An offer that disappointed, left out until a time: longer each time it does so again."""

    offer: str
    """Id of the offer, or more: an instance type (all its offers), ``*/*/spot``, ``*/*/*``, ``*``, or a subnet's id."""
    pod: str = ""
    """Uid of the pod for which nodes of the offer's type turned out not to fit; empty leaves the offer out for all."""
    until_s: int
    times: int = 1
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferFilter:
    """Which offers a pool wants; an empty list wants all."""

    instance_types: tuple[str, ...] = ()
    gpu_models: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    capacity_types: tuple[str, ...] = ("on-demand",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a pool may hold, in-flight nodes included; None is no limit."""

    nodes: int | None = None
    gpus: int | None = None
    micro_usd: int | None = None
    """Per hour. Nodes of unknown price cannot be bought under this limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A group of nodes under one mode and one set of rules (a ``GPUPool`` object)."""

    name: str
    mode: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """The mode's own settings, checked by the mode."""
    wanted: OfferFilter = OfferFilter()
    limits: Limits = Limits()
    headroom_pct: int = 0
    """How much of the VRAM and of the compute of its cards is to be free, in per cent of what they have."""
    idle_after_s: int = 300
    launch_within_s: int = 300
    """A machine that the cloud does not run by then is given back. Karpenter's launch timeout is 5 min too."""
    register_within_s: int = 900
    """A machine whose node has not joined by then is given back. Karpenter's registration timeout is 15 min too."""
    initialise_within_s: int = 900
    """A node that is not Ready with all of its cards so long after it joined is given back. Karpenter waits for ever."""
    drain_within_s: int = 3_600
    """How long the pods of a node that is to go may stay, if the cloud leaves it that long."""
    set_aside_s: int = 180
    """How long an offer that disappointed is left out the first time. Karpenter leaves it out for 3 min too."""
    set_aside: tuple[SetAside, ...] = ()
    default: bool = False
    """Takes the pods that name no pool."""
    deleting: bool = False
    guarded: bool = False
    """Carries our finalizer: it stays until all that was bought for it is given back."""
    recovers_all: bool = False
    """Somebody looked and says that machines without a record are this cluster's, however many there are."""
