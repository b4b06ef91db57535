"""What a scaling mode is: how nodes are bought and given back. Planning is not part of it; offers and machines are data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from tfscale.catalogue import InstanceType
from tfscale.errors import Problem
from tfscale.gpus import GpuTable
from tfscale.model import LaunchBatch, Machine, NodeRequest, Notice, Offer
from tfscale.pool import Pool

if TYPE_CHECKING:
    import boto3

    from tfscale.kube.port import Kube

__all__ = ["LaunchResult", "ModeContext", "Order", "Refusal", "ScalingMode", "results_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeContext:
    """What a mode is opened with."""

    pool: Pool
    gpus: GpuTable
    kube: Kube
    cluster: str
    """Name of the cluster, written on every machine: two clusters in one account must not see each other's."""
    catalogue: Mapping[str, InstanceType] = field(default_factory=dict)
    """Instance types by name, for modes whose cluster does not tell what a type is and costs."""
    aws: boto3.Session | None = None
    """The session to use instead of boto3's default chain of credentials."""
    epoch: Callable[[], int] = lambda: 0
    """Asked right before every call that changes something; raises ``NotLeadingError`` where another process acts by now.

    Its value is written on all that is launched. Writes through ``kube`` are guarded already. Zero: nobody was elected."""
    sleep: Callable[[float], None] | None = None
    """Waits so many seconds between two tries of a call; None: really. A simulation has no time to wait."""
    clock: Callable[[], float] | None = None
    """Gives the seconds since the epoch; None: the wall clock. A simulation has a time of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why one offer gave no machine."""

    offer: str
    """What gave none, as in ``SetAside.offer``: an offer's id, or more than one offer."""
    code: str
    """The cloud's own code, for example ``InsufficientInstanceCapacity``."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchResult:
    """What became of one node request of a batch."""

    request: str
    machine: Machine | None
    refusals: tuple[Refusal, ...] = ()
    """Offers that were tried in this call and had no capacity, also where another offer then gave the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A call that is ready to be made."""

    parameters: Mapping[str, Any]
    """Everything that the call will say, its token included. JSON values only."""
    offers: tuple[str, ...]
    """Ids of the offers that the call may give, best first."""


class ScalingMode(Protocol):
    """One way to get nodes. A mode is one file and one entry-point line (group ``tfscale.modes``).

    Every method may raise :class:`~tfscale.errors.ModeError`; none retries for longer than a minute.

    A mode may have four methods more. ``examine() -> Sequence[Finding]`` is its doctor. ``explain(machine_ids) ->
    Mapping[str, Trouble]`` says why machines are gone or going before their nodes joined, as far as that is known.
    ``withheld() -> Sequence[str]`` says why there are no offers. ``settle()`` is called at the end of each round of the process
    that acts, to put in order what no machine stands for.
    """

    name: ClassVar[str]
    reclaims_idle: ClassVar[bool]
    """True: somebody else (Karpenter) removes idle nodes, so no termination is planned for being idle."""
    in_cluster: ClassVar[bool]
    """True: what it launches are objects of the cluster. They are listed at once, and offers follow from the cluster alone."""

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Return the mode for one pool. Raises ``BadInputError`` for options that it does not understand. Calls nobody."""
        ...

    def check(self) -> Sequence[Problem]:
        """Return what would keep this mode from working. No side effect."""
        ...

    def offers(self) -> Sequence[Offer]:
        """Return what can be launched for the pool, already filtered by ``pool.wanted``."""
        ...

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:
        """Return the exact call that ``launch`` is to make.

        One machine for each request, any of ``offers`` (all of one capacity type, best first). No machine is made here.
        The loop writes the result into the batch called ``name`` before it calls ``launch``. Raises ``LaunchRefusedError``
        where such a call cannot be made.
        """
        ...

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Make the recorded call and return one result per request, in the batch's order.

        Replayed with the same batch it launches nothing twice and reports the same machines. Fewer machines than requests
        is a normal answer. Raises ``LaunchRefusedError`` where the cloud refused the call as a whole and nothing was
        launched, ``ModeError`` where the outcome is unknown.
        """
        ...

    def observe(self) -> Sequence[Machine]:
        """Return everything this pool's mode launched that still exists, stopping machines included. Eventually consistent."""
        ...

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Begin to give machines back. Called again until ``observe`` shows them no more; one already gone is success.

        A machine that this pool did not launch is never touched.
        """
        ...

    def hold(self, machine_ids: Sequence[str]) -> None:
        """Protect machines whose nodes are there from whoever removes nodes, until they are released; ``held`` afterwards.

        Where ``reclaims_idle`` is False there is nobody, and nothing is done. A machine that is gone or not of this pool is
        left alone.
        """
        ...

    def release(self, machine_ids: Sequence[str]) -> None:
        """Protect machines no longer from whoever removes nodes; ``protected_until_s`` is None afterwards, ``held`` False.

        A machine that is gone, not protected or not of this pool is left alone. What others protect stays protected.
        """
        ...

    def notices(self) -> Sequence[Notice]:
        """Return what was said about machines, of this pool or not, and not acknowledged; nothing where nobody tells.

        What is not acknowledged is said again, also to another process.
        """
        ...

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Forget these notices: what follows from them is written down, or they concern nobody."""
        ...


def results_of(batch: LaunchBatch, machines: Sequence[Machine], refusals: Sequence[Refusal] = ()) -> tuple[LaunchResult, ...]:
    """Match the machines of one batch to its requests: sorted ids to sorted names, the rest got none.

    The match depends on nothing else, so that a replay after a crash gives every request the same machine. Machines beyond
    the number ordered are not matched.
    """
    ids = sorted(machines, key=lambda machine: machine.id)
    given = dict(zip(sorted(batch.requests), ids, strict=False))
    return tuple(LaunchResult(request=name, machine=given.get(name), refusals=tuple(refusals)) for name in batch.requests)
