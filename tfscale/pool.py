"""What people say about a group of nodes: which offers are wanted, how much may be bought, how long things may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RECOVER", "STOP_BUYING", "TERMINATE_ALL", "Limits", "OfferFilter", "Policy", "Pool", "SetAside"]

RECOVER = "tfscale.io/recover-orphans"
"""The annotation of a pool by which somebody says that machines without a record are its own: ``true``."""
STOP_BUYING = "tfscale.io/stop-buying"
"""The annotation of a pool by which somebody stops all buying for it at once: ``true``, or why."""
TERMINATE_ALL = "tfscale.io/terminate-all"
"""The annotation of a pool by which somebody says that its idle nodes may go, however many there are: ``true``."""


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
    """How much a pool, or all pools together, may hold, in-flight nodes included; None is no limit."""

    nodes: int | None = None
    gpus: int | None = None
    micro_usd: int | None = None
    """Per hour. Nodes of unknown price cannot be bought under this limit."""
    in_flight: int | None = None
    """Nodes that were bought and are not ready yet."""
    launches_per_minute: int | None = None
    """Nodes that are bought within any minute, as far as there are records of them."""


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
    stop_buying: str = ""
    """Why nothing may be bought, as somebody said; empty: it may."""
    terminates_all: bool = False
    """Somebody says that idle nodes may be given back, however many there are."""
    recovers_all: bool = False
    """Somebody looked and says that machines without a record are this cluster's, however many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules that hold for every pool. Times are seconds."""

    token_s: int = 23 * 3_600
    """How long after its first call a batch may be sent again. EC2 remembers a client token for at least 24 h after the machine
    has ended; later the same call could launch once more."""
    orphan_s: int = 120
    """How old a machine without a record must be to be taken for lost: longer than a listing lags and a call takes."""
    machine_lag_s: int = 60
    """How long a machine may be missing from a listing after its launch; EC2's DescribeInstances is eventually consistent."""
    settle_s: int = 60
    """How long a cluster must have been observed without a gap before a node that did not join counts as late: while the API
    server is away no node can join."""
    silent_s: int = 300
    """How long a node that stopped reporting counts as a place to wait for. Kubernetes lets pods stay on it for as long."""
    withdraw_s: int = 30
    """How long a machine is waited for whose launch meets trouble. Karpenter buys for nobody while one of its claims is stuck."""
    poll_s: int = 10
    """How soon to look again after a machine that is shutting down."""
    total: Limits = field(default_factory=Limits)
    """How much all pools together may hold."""
    stop_buying: str = ""
    """Why nothing may be bought for any pool; empty: it may."""
    terminate_share_pct: int = 50
    """Of all nodes that were bought, how many per cent may be given back at once because they are idle."""
