"""What is to be done, as data. Every action says why; a plan prints itself, and a dry run is a plan that is not applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from tfscale.errors import Problem
from tfscale.lifecycle import Event, State
from tfscale.model import GpuSlice, Guest, LaunchBatch, Machine, NodeRequest, Offer
from tfscale.node_actions import Admit, Advertise, Hold, MarkIdle, Release, Reserve
from tfscale.quantity import usd_text

__all__ = [
    "Action",
    "Admit",
    "Adopt",
    "Advance",
    "Advertise",
    "Assign",
    "Avoid",
    "Drain",
    "Drop",
    "Forget",
    "Hold",
    "Launch",
    "MarkIdle",
    "Nominate",
    "Plan",
    "Recover",
    "Release",
    "Replay",
    "Reserve",
    "Terminate",
    "Unguard",
    "Unmet",
    "some",
    "usd",
]


def usd(micro_usd: int | None) -> str:
    """Return a price per hour in words.

    >>> usd(526_000), usd(None)
    ('0.526 USD/h', 'price unknown')
    """
    return "price unknown" if micro_usd is None else f"{usd_text(micro_usd)} USD/h"


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names and how many more there are.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """Write a new state of a node request that was observed."""

    pool: str
    before: State
    request: NodeRequest
    """In its new state."""
    reason: str = ""
    """What keeps its machine from running, in one word; ``why`` says more."""
    why: str

    def __str__(self) -> str:
        """Return one line."""
        if self.before is self.request.state:
            return f"record  {self.request.name}: {self.why}"
        return f"record  {self.request.name}: {self.before} -> {self.request.state} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """Take the machines that an unsettled batch was seen to have launched, without calling the cloud again."""

    pool: str
    batch: LaunchBatch
    machines: tuple[Machine, ...]
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"adopt   {self.batch.name}: {', '.join(machine.id for machine in self.machines)} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Make the recorded call of a batch again, word for word, because its outcome is not known."""

    pool: str
    batch: LaunchBatch
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"replay  {self.batch.name}: {len(self.batch.requests)} nodes ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """Bind a pod to a node together with its slices."""

    pool: str
    pod: str
    uid: str
    node: str
    slices: tuple[GpuSlice, ...]
    why: str

    def __str__(self) -> str:
        """Return one line: every card with its VRAM and the share of its compute."""
        held = "; ".join(f"GPU {part.gpu_id}: {part.vram_mib} MiB, {part.compute_milli / 10:g}% compute" for part in self.slices)
        return f"place   {self.pod} -> {self.node} ({held or 'no GPU'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nominate:
    """Write which waiting pods a node on its way is kept for."""

    pool: str
    request: NodeRequest
    uids: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"keep    {self.request.name} for {len(self.uids)} pods ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Buy one node for each request with one call: any of the offers, best first."""

    pool: str
    batch: str
    """Name of the batch that will record the call."""
    requests: tuple[NodeRequest, ...]
    pods: tuple[tuple[str, ...], ...]
    """For each request, the pods that it is bought for."""
    offers: tuple[Offer, ...]
    why: str

    def __str__(self) -> str:
        """Return one line."""
        first = self.offers[0]
        pods = sorted(pod for pods in self.pods for pod in pods)
        return f"buy     {len(self.requests)} x {first.id} at {usd(first.price_micro_usd)} for {some(pods)} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recover:
    """Write the record of a machine that carries our tags but that no record names, so that it is used or given back."""

    pool: str
    request: NodeRequest
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"recover {self.request.machine_id} {self.request.offer} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Avoid:
    """Buy no node of an offer for these pods for a while: the node that was bought for them does not fit them."""

    pool: str
    request: NodeRequest
    uids: tuple[str, ...]
    pods: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"avoid   {self.request.offer} for {some(self.pods)} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Take a node out of service, write that down, and ask pods to leave. Repeated until they are gone or time is over."""

    pool: str
    request: NodeRequest
    """In its new state."""
    node: str
    pods: tuple[Guest, ...]
    """Those that can go now: they have a place elsewhere, or there is no time left to wait for one."""
    disappointing: tuple[str, ...] = ()
    """What is set aside: offers that the cloud takes back."""
    why: str

    def __str__(self) -> str:
        """Return one line."""
        going = some([pod.id for pod in self.pods]) or "no pod yet"
        return f"drain   {self.request.machine_id} {self.node}: {going} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate:
    """Give a machine back: cordon its node, write the intention, terminate. Repeated until the machine is gone."""

    pool: str
    request: NodeRequest
    node: str
    """Empty where no node joined."""
    event: Event | None
    """Why it is given back. IDLE: a pod that has arrived meanwhile calls it off. None: it was asked for before."""
    disappointing: tuple[str, ...] = ()
    """What is set aside: an instance type of which no node became ready, or the offers of a machine that never joined."""
    reason: str = ""
    why: str

    def __str__(self) -> str:
        """Return one line."""
        place = " ".join(part for part in (self.request.machine_id, self.request.offer, self.node) if part)
        return f"return  {place} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Delete the record of a node request whose machine is gone or was never asked for, and what is left of its node."""

    pool: str
    request: NodeRequest
    node: str
    """The node object that is still there, or empty."""
    disappointing: tuple[str, ...] = ()
    """Offers that are set aside because the machine went before its node joined."""
    reason: str = ""
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"forget  {self.request.name} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unguard:
    """Let a pool that is being deleted go: nothing is left that was bought for it."""

    pool: str
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"release {self.pool} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Delete the record of a settled batch of which nothing is left."""

    pool: str
    batch: str
    why: str

    def __str__(self) -> str:
        """Return one line."""
        return f"drop    {self.batch} ({self.why})"


Action = (
    Advance
    | Adopt
    | Replay
    | Recover
    | Admit
    | Advertise
    | Assign
    | Nominate
    | Avoid
    | MarkIdle
    | Reserve
    | Launch
    | Drain
    | Terminate
    | Hold
    | Release
    | Forget
    | Drop
    | Unguard
)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Unmet:
    """A pod for which there is no place and none is on its way."""

    pool: str
    pod: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line."""
        return f"unmet   {self.pod}: {'; '.join(self.reasons)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The actions of one tick, in the order in which they are applied, and what no action could help."""

    actions: tuple[Action, ...] = ()
    unmet: tuple[Unmet, ...] = ()
    waiting: tuple[str, ...] = field(default=())
    """Pods whose node is on its way."""
    problems: tuple[Problem, ...] = ()
    """What somebody has to put right because no action of ours can."""
    recheck_s: int | None = None
    """When time alone could change the plan: a timeout, a node long enough idle. None: only a change in the world."""
    retry_s: int | None = None
    """When an offer that is set aside now may be tried again for an unmet pod."""

    def lines(self) -> Iterator[str]:
        """Yield the plan for a reader, one line each.

        >>> list(Plan().lines())
        ['nothing to do']
        """
        if not self.actions and not self.unmet:
            yield "nothing to do"
        yield from map(str, chain(self.actions, self.unmet))
