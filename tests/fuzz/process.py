"""One process of tfscale in a hostile world: what it writes passes a gate where it may die, lose an answer or be overtaken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tfscale.catalogue import InstanceType
from tfscale.errors import ClusterUnreachableError, NotLeadingError
from tfscale.gpus import GpuTable
from tfscale.kube.port import NODE_CLAIMS, NODES, PODS, Json, Kind, Kube, Listing
from tfscale.modes.base import ModeContext, ScalingMode
from tfscale.modes.ec2 import Ec2Mode
from tfscale.pool import Pool
from tfscale.reconcile import FindMode, Reconciler, Report

__all__ = ["CALLS", "ORDER", "CrashError", "Process", "Trap", "find_ec2"]

WRITES = frozenset({"create", "patch", "patch_status", "apply", "delete", "evict", "bind"})
CALLS = frozenset({
    "create_fleet", "run_instances", "terminate_instances", "create_tags", "create_launch_template", "delete_launch_template",
    "delete_message_batch",
})  # fmt: skip
"""What changes something at the cloud, as boto3's clients name it."""
ORDER = "create nodeclaim"
"""The write of the cluster that buys a machine."""
FOLLOWED = (PODS, NODES, NODE_CLAIMS)
"""What a process has a copy of."""


class CrashError(BaseException):
    """The process ends here; nothing may catch it."""


class Trap(Protocol):
    """What befalls one write: it gets the write, which it may carry out now, later or never."""

    def __call__(self, name: str, write: Callable[[], Any], /) -> Any:  # noqa: ANN401 - what the write returns
        """Return what the process is told."""
        ...


@dataclass(slots=True)
class Gate:
    """Numbers the writes and springs a trap at one of them. `leads` says whether this process may write."""

    leads: Callable[[], bool]
    at: int | str = 0
    """The number of the write at which the trap is, or the verb or call; 0 for none."""
    trap: Trap | None = None
    written: int = 0

    def arm(self, at: int | str, trap: Trap | None) -> None:
        """Begin to count anew."""
        self.at, self.trap, self.written = at, trap, 0

    def passes(self, name: str, write: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the write returns
        """Ask for the lead, as the real clients do right before each write, and let the write pass or fall."""
        if not self.leads():
            raise NotLeadingError("another process leads")
        self.written += 1
        if self.trap is not None and self.at in (self.written, name):
            trap, self.trap = self.trap, None
            return trap(name, write)
        return write()


class View:
    """The cluster as one process sees it: writes pass the gate, and lists of pods and nodes may be behind.

    As in the real cache, own writes are seen at once and everything else is only as fresh as the last event.
    """

    def __init__(self, kube: Kube, gate: Gate) -> None:
        self._kube = kube
        self._gate = gate
        self._frozen: dict[Kind, Listing] = {}
        self.unreachable = 0
        """How many of the next lists fail."""

    def freeze(self) -> None:
        """Let no event arrive any more."""
        self._frozen = {kind: self._kube.list(kind) for kind in FOLLOWED}

    def thaw(self) -> None:
        """Catch up."""
        self._frozen = {}

    def list(self, kind: Kind, **selectors: str) -> Listing:
        """Return the objects, of a frozen kind as they were."""
        if self.unreachable:
            self.unreachable -= 1
            raise ClusterUnreachableError("the API server is away")
        if kind in self._frozen and selectors.keys() <= {"label_selector"}:
            return _chosen(self._frozen[kind], selectors.get("label_selector", ""))
        return self._kube.list(kind, **selectors)

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Return one object, as it is."""
        return self._kube.get(kind, name, namespace=namespace)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any verb
        """Return another verb, through the gate where it writes."""
        verb = getattr(self._kube, name)
        if name not in WRITES:
            return verb

        def gated(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as the verb
            step = ORDER if name == "create" and args[0] == NODE_CLAIMS else name
            done = self._gate.passes(step, lambda: verb(*args, **options))
            self._frozen.pop(PODS if name in {"bind", "evict"} else args[0], None)
            return done

        return gated


def _chosen(listing: Listing, selector: str) -> Listing:
    """Return those of the objects that have a label, given as ``key=value``; all without."""
    key, _, value = selector.partition("=")
    chosen = [obj for obj in listing.items if not key or (obj["metadata"].get("labels") or {}).get(key) == value]
    return replace(listing, items=chosen)


class GatedSession:
    """A boto3 session, or what stands for one, whose clients' writes pass the gate."""

    def __init__(self, session: Any, gate: Gate) -> None:  # noqa: ANN401 - real or simulated
        self._session = session
        self._gate = gate

    def client(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as boto3 has it
        """Return a client behind the gate."""
        return _GatedClient(self._session.client(*args, **options), self._gate)


class _GatedClient:
    def __init__(self, client: Any, gate: Gate) -> None:  # noqa: ANN401 - any client
        self._client = client
        self._gate = gate

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any operation
        call = getattr(self._client, name)
        return (lambda **parameters: self._gate.passes(name, lambda: call(**parameters))) if name in CALLS else call


class Process:
    """One process that leads in one epoch. `steady` gives the seconds of a clock that nobody puts forward or back."""

    def __init__(
        self,
        kube: Kube,
        session: Any,  # noqa: ANN401 - of boto3, or what stands for one
        *,
        find_mode: FindMode,
        identity: str,
        epoch: int,
        leads: Callable[[], bool],
        steady: Callable[[], float],
        catalogue: Mapping[str, InstanceType],
    ) -> None:
        self.gate = Gate(leads)
        self._steady = steady
        self.view = View(kube, self.gate)
        # What stands for a cluster and a session has all that is asked of it, and no common type with the real ones.
        view: Any = self.view
        aws: Any = GatedSession(session, self.gate)
        gpus = GpuTable()

        def context(pool: Pool) -> ModeContext:
            return ModeContext(
                pool=pool, gpus=gpus, kube=view, cluster="fuzz", catalogue=catalogue, aws=aws, epoch=lambda: epoch,
                sleep=lambda _: None, clock=steady,
            )  # fmt: skip

        self._reconciler = Reconciler(
            kube=view,
            mode_of=find_mode,
            open_with=context,
            gpus=gpus,
            prefix="tfscale.io",
            epoch=lambda: epoch,
            identity=identity,
        )

    def tick(self, now_s: int) -> Report:
        """Make one round, as ``run`` does."""
        self._reconciler.note_clocks(now_s, self._steady())
        return self._reconciler.tick(now_s)


def find_ec2(name: str, *, where: str, field: str) -> type[ScalingMode]:  # noqa: ARG001 - as FindMode has it
    """Return the mode of every pool here, without a look at what is installed, which takes longer than a round."""
    return Ec2Mode
