"""The facts tfscale decides on: cards, requests, nodes, offers, machines and the records of what was bought.

All values are immutable. Units are in the names: VRAM in MiB, CPU in millicores, compute in thousandths of one card
(``_milli``) or in thousandths of one FP16 dense TFLOPs (``_mtflops``), money in micro-USD per hour, time in whole
seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfscale.conditions import Condition
from tfscale.errors import Problem
from tfscale.lifecycle import State
from tfscale.pool import Pool
from tfscale.selectors import Requirement, Taint, Toleration

__all__ = [
    "CARD_MILLI",
    "DISRUPTED",
    "INSTANCE_TYPE",
    "RESERVED",
    "UNREGISTERED",
    "BoundPod",
    "Cluster",
    "Demand",
    "Disruption",
    "Gpu",
    "GpuSlice",
    "Guest",
    "LaunchBatch",
    "Machine",
    "Mirror",
    "Node",
    "NodeRequest",
    "Notice",
    "Offer",
    "Request",
    "Trouble",
]

INSTANCE_TYPE = "node.kubernetes.io/instance-type"
"""The well-known label of a node's instance type."""
UNREGISTERED = "tfscale.io/unregistered"
"""The taint that our nodes come with; it is taken off when all of a node is there."""
DISRUPTED = "tfscale.io/disrupted"
"""The taint of a node that is to go. Whoever puts it on a node of ours asks for just that."""
RESERVED = "tfscale.io/reserved"
"""The taint that keeps pods of others off a node until its first pod is there. Ours are bound, whatever it says."""
CARD_MILLI = 1_000
"""The compute of one whole card, in thousandths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card of a node."""

    id: str
    """The card's UUID where an agent reported it, else its index on the node: ``"0"``."""
    model: str
    """Canonical name in the GPU table, for example ``A10G``."""
    vram_mib: int
    mtflops: int
    """What the card computes: FP16 dense, thousandths of a TFLOPs."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class GpuSlice:
    """The part of one card that one pod holds."""

    gpu_id: str
    vram_mib: int
    compute_milli: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Cards in sums: what a node has of them in all, or what a pod asks of them in all."""

    vram_mib: int = 0
    mtflops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one pod asks for. GPU amounts are per card; a pod with ``gpu_count`` 0 asks for CPU and memory alone.

    Compute is given as ``compute_mtflops`` (resolved per card model) or as ``compute_milli`` (a share of whatever card it
    lands on); the other one is None. ``whole`` asks for all of each card.
    """

    cpu_milli: int = 0
    memory_mib: int = 0
    gpu_count: int = 0
    vram_mib: int = 0
    compute_mtflops: int | None = None
    compute_milli: int | None = None
    whole: bool = False
    gpu_models: tuple[str, ...] = ()
    """Card models that are accepted, sorted; empty accepts every model."""

    def slice_of(self, gpu: Gpu) -> GpuSlice | None:
        """Return what this request takes of an empty card, or None where even the empty card is too small or of a wrong model.

        Compute is rounded up, so that a small share is never nothing.

        >>> t4 = Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000)
        >>> Request(gpu_count=1, vram_mib=1_024, compute_mtflops=1_000).slice_of(t4)
        GpuSlice(gpu_id='0', vram_mib=1024, compute_milli=16)
        """
        if self.gpu_models and gpu.model not in self.gpu_models:
            return None
        if self.whole:
            return GpuSlice(gpu_id=gpu.id, vram_mib=gpu.vram_mib, compute_milli=CARD_MILLI)
        milli = self.compute_milli
        if milli is None:
            milli = -(-(self.compute_mtflops or 0) * CARD_MILLI // max(gpu.mtflops, 1))
        if milli > CARD_MILLI or self.vram_mib > gpu.vram_mib:
            return None
        return GpuSlice(gpu_id=gpu.id, vram_mib=self.vram_mib, compute_milli=milli)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A pod that waits for a place."""

    id: str
    """``namespace/name``."""
    uid: str
    pool: str
    request: Request
    mirror: Mirror = Mirror()
    """What its containers ask of the mirrored resources; nothing where they do not."""
    priority: int = 0
    created_s: int = 0
    terms: tuple[tuple[Requirement, ...], ...] = ()
    """Node labels that are accepted: any term, all of its requirements. Empty accepts every node."""
    tolerations: tuple[Toleration, ...] = ()
    blocked: str = ""
    """Why tfscale must not place this pod although it understands its request: a constraint that it cannot honour."""
    gang: str = ""
    """The demands of one pool that name the same gang are placed together or not at all; empty: it stands alone."""
    apart: str = ""
    """Of the pods that name the same thing here no two are on one node; empty: it minds nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundPod:
    """A pod that holds resources of a node, ours or anybody's."""

    id: str
    uid: str
    request: Request
    slices: tuple[GpuSlice, ...] = ()
    mirror: Mirror = Mirror()
    """What its containers ask of the mirrored resources; nothing where they do not."""
    daemon: bool = False
    """Owned by a DaemonSet or by the node itself: it does not keep a node from being idle."""
    apart: str = ""
    """Of the pods that name the same thing here no two are on one node; empty: it minds nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A pod on a node that is to be emptied. Pods that belong to the node are none."""

    id: str
    uid: str
    demand: Demand | None
    """What it will ask for again, as if it waited now; None for a pod that others place, or that cannot be read."""
    leaving: bool = False
    held: bool = False
    """Not to be disturbed while that can be helped: its annotation ``do-not-disrupt`` says so."""
    stays: bool = False
    """Placed by others and tolerating what keeps pods away: asked to go, it might come back here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node with what it can hold and what it holds. The packer also takes nodes that are only imagined."""

    name: str
    pool: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    mirror: Mirror | None = None
    """What it advertises of its cards in sums; None where it does not, or not in one way."""
    cpu_milli: int
    """Allocatable millicores, before any pod."""
    memory_mib: int
    pods_max: int = 110
    pods: tuple[BoundPod, ...] = ()
    ready: bool = True
    reserved: bool = False
    """Carries our taint that keeps pods of others away until its first pod is there."""
    silent_since_s: int | None = None
    """Since when it is not Ready; None where it is, or where nobody wrote it down."""
    fenced: str = ""
    """Why no pod may be placed here although the node counts as capacity: cordoned, or records that contradict it."""
    machine_id: str = ""
    """The machine behind it, from ``spec.providerID``; empty for a node that nobody launched."""
    idle_since_s: int | None = None
    created_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One thing a mode can launch: an instance type in a zone under a capacity type. VRAM and compute are of one card."""

    instance_type: str
    zone: str
    capacity_type: str
    gpu_model: str = ""
    gpu_count: int = 0
    vram_mib: int = 0
    mtflops: int = 0
    cpu_milli: int
    memory_mib: int
    pods_max: int = 110
    price_micro_usd: int | None
    """Per hour. None is unknown, which is never free: such an offer is the last choice."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the node will carry beside the well-known labels that follow from the fields above."""
    taints: tuple[Taint, ...] = ()
    reservation: str = ""
    """Id of the capacity reservation that it is taken from; empty where there is none."""
    count_max: int | None = None
    """How many there are at most, where the cloud says so (a reservation)."""
    subnets: tuple[str, ...] = ()
    """Where it may be launched, best first; empty where the mode leaves that open."""

    @property
    def id(self) -> str:
        """The name under which an offer is set aside and explained: ``g6.xlarge/us-east-1a/on-demand``.

        One of a reservation ends with its id: ``p5.48xlarge/us-east-1a/reserved/cr-0123``.
        """
        place = f"{self.instance_type}/{self.zone}/{self.capacity_type}"
        return f"{place}/{self.reservation}" if self.reservation else place


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why something does not run, in the words of whoever tries."""

    reason: str
    """One word in CamelCase: ``InsufficientCapacityError``."""
    message: str

    def __str__(self) -> str:
        """Return both in one line."""
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a mode launched, tagged with its batch, and still sees."""

    id: str
    batch: str
    pool: str
    offer: str
    """Id of the offer that was really taken; empty while nobody has chosen one."""
    provider_id: str
    """As the node will carry it in ``spec.providerID``; empty while it is not known."""
    stopping: bool = False
    started: bool = True
    """False while the cloud has accepted it and does not run it yet."""
    noticed: bool = True
    """False while whoever is to run it has not even looked at it."""
    trouble: Trouble | None = None
    """Why it does not run yet; None where nothing went wrong so far."""
    outdated: str = ""
    """How it differs from what would be launched now; empty where it does not."""
    launched_s: int | None = None
    protected_until_s: int | None = None
    """Until when it is kept from whoever removes idle nodes, if no pod comes before; None: it is not kept."""
    held: bool = False
    """Kept from whoever removes nodes until it is released, whatever comes."""
    stays: bool = False
    """Nobody but us removes it when it is idle, also where somebody else does so with most machines of its mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a cloud says ahead of time about a machine that it will take away."""

    id: str
    """Names this notice towards the mode that gave it."""
    machine_id: str
    event: str
    """One word in CamelCase: ``SpotInterruption``."""
    ends_s: int | None = None
    """When the machine goes whatever we do; None where that is not said."""
    scarce: bool = False
    """True: what was taken away is wanted by others, so its offer is set aside."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disruption:
    """Since when a node has to go although pods are on it, and why."""

    since_s: int
    ends_s: int | None = None
    """When its machine goes whatever we do; None: its pods have as long as the pool gives them."""
    event: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRequest:
    """The durable record of one node wanted. Written before any cloud is called."""

    name: str
    pool: str
    mode: str
    """The mode that was asked; only it can know what became of the machine."""
    state: State = State.REQUESTED
    batch: str = ""
    """The launch batch that carries it. As it was read: empty where none is there, for then nothing was bought for it."""
    nominated: tuple[str, ...] = ()
    """Sorted uids of the pods it was bought for; their room on it is theirs while they wait."""
    machine_id: str = ""
    offer: str = ""
    """Id of the offer that was taken; empty while nobody has chosen one of its batch's."""
    node: str = ""
    launched_s: int = 0
    """Since when its node is waited for: the launch, or the loss of a node that it had."""
    drain: Disruption | None = None
    conditions: tuple[Condition, ...] = ()
    """What its status says to people. Nothing is decided by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchBatch:
    """The durable record of one cloud call: written before the call, replayed word for word, never recomputed."""

    name: str
    pool: str
    mode: str
    requests: tuple[str, ...]
    """Sorted names of its node requests; one machine is ordered for each."""
    parameters: Mapping[str, Any]
    """The exact parameters, JSON values only, made by the mode's ``prepare``; they include the token."""
    offers: tuple[str, ...] = ()
    """Ids of the offers that the call may give, best first."""
    settled: bool = False
    """True once the outcome is known; then it is never sent again."""
    epoch: int = 0
    """Under which leadership it was written; a replay does not change that. Zero: nobody was elected."""
    created_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Everything that was observed at one moment."""

    now_s: int
    moment: str = ""
    """Tells this observation from all others of the same second, also from those of other processes."""
    seen_since_s: int = 0
    """Since when it could be observed without a gap. What did not happen before may just not have been seen."""
    pools: tuple[Pool, ...] = ()
    nodes: tuple[Node, ...] = ()
    demands: tuple[Demand, ...] = ()
    requests: tuple[NodeRequest, ...] = ()
    batches: tuple[LaunchBatch, ...] = ()
    machines: Mapping[str, Sequence[Machine]] = field(default_factory=dict)
    """By pool. A pool whose mode could not be asked is absent: nothing is concluded from missing machines then."""
    guests: Mapping[str, Sequence[Guest]] = field(default_factory=dict)
    """By node: the pods of those nodes that are to go, in the order of their ids."""
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    """By machine: why it went before its node joined, as far as anybody says so."""
    notices: tuple[Notice, ...] = ()
    """What was said about any machine. Pools may share what tells it, so one may hear of the machines of another."""
    problems: tuple[Problem, ...] = ()
