"""What tfscale would do in a cluster of which there is only a dump: one dry round of the real loop on a copy in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tfscale import modes
from tfscale.catalogue import snapshot
from tfscale.dump import Dump
from tfscale.errors import BadInputError, Problem, RefusedObjectError
from tfscale.gpus import GpuTable
from tfscale.kube.fields import named
from tfscale.kube.port import GPU_POOLS, NODE_CLASSES, NODE_REQUESTS, Json, Kind
from tfscale.modes.base import ModeContext, ScalingMode
from tfscale.modes.offline import offline
from tfscale.plan import (
    Action,
    Adopt,
    Advertise,
    Assign,
    Drain,
    Drop,
    Launch,
    MarkIdle,
    Plan,
    Recover,
    Replay,
    Reserve,
    Unguard,
    usd,
)
from tfscale.quantity import time_text, usd_text
from tfscale.reconcile import Reconciler, Report
from tfscale.testing import FakeKube

__all__ = ["Preview", "preview"]

SNAPSHOT = "us-east-1, 2026-07-20"
"""Of what the catalogue's prices are: see ``catalogue.snapshot``."""

_VERB = 7
"""Every action begins with its verb in a column of this width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The plan for one moment of a cluster."""

    now_s: int
    plan: Plan
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    """What a reader has to know of how the plan was made, a line each."""

    @property
    def complete(self) -> bool:
        """Whether every pod has a place, or a node on its way, and nothing is wrong."""
        return not (self.plan.unmet or self.problems)

    def lines(self) -> Iterator[str]:
        """Yield the plan for a reader, then what it comes to."""
        plan = self.plan
        yield from plan.lines()
        verbs = Counter(map(_verb, plan.actions))
        kinds = ", ".join(f"{verb} {count}" for verb, count in sorted(verbs.items()))
        yield (
            f"as of {time_text(self.now_s)}: actions: {len(plan.actions)}{f' ({kinds})' * bool(kinds)}; {_purchases(plan)}; "
            f"pods that wait for a node: {len(plan.waiting)}; pods without a place: {len(plan.unmet)}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the same for a program."""
        return {
            "now": time_text(self.now_s),
            "changes": bool(self.plan.actions),
            "actions": [_action(action) for action in self.plan.actions],
            "unmet": [{"pool": one.pool, "pod": one.pod, "reasons": list(one.reasons)} for one in self.plan.unmet],
            "waiting": list(self.plan.waiting),
            "problems": [str(problem) for problem in self.problems],
        }


def preview(dump: Dump, *, now_s: int, cluster: str, prefix: str) -> Preview:
    """Return what the loop would do in the dump's cluster at `now_s`. No cluster and no cloud is called.

    `cluster` is the name that machines are tagged with, `prefix` that of TensorFusion's annotations. Modes that live in
    the cluster are asked as they are; for another one, offers are those of the catalogue. Raises ``BadInputError`` where
    the dump has no GPUPool.
    """
    if not dump.has(GPU_POOLS):
        want = "a file with a GPUPool: there is none in the dump"
        raise BadInputError(Problem(where="tfscale", field="--pool", value="", want=want))
    kube, gpus = _Restored(now_s), GpuTable()
    unasked: dict[str, str] = {}

    def find(name: str, *, where: str, field: str) -> type[ScalingMode]:
        found = modes.load(name, where=where, field=field)
        if getattr(found, "in_cluster", False):
            return found
        unasked[where] = name
        return offline(found)

    refused = tuple(_restore(dump, kube))
    reconciler = Reconciler(
        kube=kube,
        mode_of=find,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster=cluster, catalogue=snapshot()),
        gpus=gpus,
        prefix=prefix,
    )
    report = reconciler.tick(now_s, dry_run=True)
    return Preview(
        now_s=now_s,
        plan=report.plan,
        problems=tuple(dict.fromkeys((*dump.problems, *refused, *report.problems, *_silent(report)))),
        notes=tuple(_notes(dump, report.plan, unasked, kube.assumed)),
    )


class _Restored(FakeKube):
    """A cluster that has every node class: kubectl prints them only when asked by their name, so most dumps have none."""

    def __init__(self, now_s: int) -> None:
        super().__init__(now=lambda: float(now_s), seed=0)
        self.assumed: set[str] = set()

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Return one object; a node class is taken to exist where the dump has none of its kind."""
        if kind in NODE_CLASSES and not self.list(kind).items:
            self.assumed.add(f"{kind.kind} {name}")
            return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}}
        return super().get(kind, name, namespace=namespace)


def _restore(dump: Dump, kube: FakeKube) -> Iterator[Problem]:
    """Put all objects into the cluster; yield what no cluster would have stored."""
    for (kind, _, _), obj in dump.objects.items():
        try:
            kube.restore(kind, obj)
        except RefusedObjectError as error:
            where = named(kind.kind.lower(), obj).where
            yield Problem(where=where, field="object", value=str(error), want="an object that an API server accepts")


def _silent(report: Report) -> Iterator[Problem]:
    """Yield a problem for each pool whose mode gave no answer; why is in the log."""
    blamed = {problem.where for problem in report.problems}
    for pool in report.cluster.pools:
        where = f"gpupool {pool.name}"
        if pool.name not in report.cluster.machines and where not in blamed:
            want = "a mode that can read the dump: nothing is bought or given back for this pool"
            yield Problem(where=where, field="spec.mode", value=pool.mode, want=want)


def _notes(dump: Dump, plan: Plan, unasked: Mapping[str, str], assumed: Collection[str]) -> Iterator[str]:
    if dump.not_read:
        yield f"not read: {', '.join(f'{count} {kind}' for kind, count in sorted(dump.not_read.items()))}"
    for pool, mode in unasked.items():
        yield f"{pool}: mode {mode} is not asked; machines are those of the noderequests, offers and prices EC2's ({SNAPSHOT})"
    if assumed:
        yield f"taken to exist, as the dump has no node classes: {', '.join(sorted(assumed))}"
    if any(isinstance(action, Recover) for action in plan.actions) and not dump.has(NODE_REQUESTS):
        yield "there are machines of tfscale but no records of them; dump noderequests and launchbatches, too"


# --- the plan, counted and as JSON ------------------------------------------------------------------------------------


def _verb(action: Action) -> str:
    return str(action)[:_VERB].strip()


def _purchases(plan: Plan) -> str:
    """Say how many nodes are bought and what they cost, each at the price of its best offer."""
    bought = [(len(action.requests), action.offers[0].price_micro_usd) for action in plan.actions if isinstance(action, Launch)]
    known = [(count, price) for count, price in bought if price is not None]
    unknown = sum(count for count, price in bought if price is None)
    costs = [usd(sum(count * price for count, price in known))] * bool(known) + [f"{unknown} of unknown price"] * bool(unknown)
    return f"nodes to buy: {sum(count for count, _ in bought)}" + f" ({', '.join(costs)})" * bool(costs)


def _action(action: Action) -> dict[str, Any]:
    return {"action": _verb(action), "pool": action.pool, **_target(action), "why": action.why}


def _target(action: Action) -> dict[str, Any]:
    """Return what an action is about."""
    found: dict[str, Any]
    match action:
        case Assign():
            found = {"pod": action.pod, "node": action.node, "gpus": [asdict(part) for part in action.slices]}
        case Launch():
            price = action.offers[0].price_micro_usd
            found = {
                "batch": action.batch,
                "nodes": len(action.requests),
                "offers": [offer.id for offer in action.offers],
                "usd_per_hour_each": None if price is None else usd_text(price),
                "pods": sorted(pod for pods in action.pods for pod in pods),
            }
        case Advertise():
            found = {"node": action.node, "vramMib": action.mirror.vram_mib, "mtflops": action.mirror.mtflops}
        case Reserve():
            found = {"node": action.node}
        case MarkIdle():
            found = {"node": action.node, "since": None if action.since_s is None else time_text(action.since_s)}
        case Adopt() | Replay():
            found = {"batch": action.batch.name}
        case Drop():
            found = {"batch": action.batch}
        case Unguard():
            found = {}
        case _:
            request = action.request
            found = {"request": request.name, "machine": request.machine_id, "offer": request.offer, "node": request.node}
            if isinstance(action, Drain):
                found["pods"] = [pod.id for pod in action.pods]
    return found
