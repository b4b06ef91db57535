"""Nodes as replicas of what Karpenter already runs: NodeClaims of a NodePool that fits, which Karpenter reclaims when empty."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from tfscale.errors import BadInputError, ConflictError, LaunchRefusedError, NotFoundError, Problem
from tfscale.finding import Finding, of_check
from tfscale.kube.fields import named
from tfscale.kube.nodes import POOL_LABEL
from tfscale.kube.port import NODE_CLAIMS, NODE_POOLS, NODES, Json, Kind
from tfscale.model import LaunchBatch, Machine, NodeRequest, Notice, Offer, Trouble
from tfscale.modes.base import LaunchResult, ModeContext, Order, ScalingMode
from tfscale.modes.nodeclaim_calls import Claims, class_refusal, missing_kinds, translated
from tfscale.modes.nodeclaim_drift import karpenters_drift, unwanted
from tfscale.modes.nodeclaim_labels import DO_NOT_DISRUPT, NODE_POOL
from tfscale.modes.nodeclaim_options import ReuseOptions, canonical, catalogue_of, options_of
from tfscale.modes.nodeclaim_order import HELD, PROTECTED, condition, covered, sorted_names
from tfscale.modes.nodeclaim_pools import NodePool, read_node_pool
from tfscale.modes.nodeclaim_sources import Source, beyond, candidate, sources_of
from tfscale.modes.nodeclaim_static import StaticPools
from tfscale.modes.nodeclaim_types import NodeType, known_types, living, type_problems, wanted_types
from tfscale.spec import suggest

__all__ = ["ReuseNodeClaimMode"]

log = logging.getLogger(__name__)

_TRIES = 3
"""How often the protection is taken off again after somebody else wrote in between."""


class ReuseNodeClaimMode:
    """Replicas of the nodes of one or several NodePools.

    A replica is Karpenter's like any other node of its NodePool: it counts against the NodePool's limits, which are kept
    here, it drifts, expires and is consolidated. Only while it is new it is kept from disruption, until its first pod is
    there or ``protectFor`` is over: an empty node would be gone before the pod that it was bought for is bound.
    """

    name: ClassVar[str] = "reuse-nodeclaim"
    reclaims_idle: ClassVar[bool] = True
    in_cluster: ClassVar[bool] = True

    def __init__(self, context: ModeContext, options: ReuseOptions) -> None:
        self._kube = context.kube
        self._epoch = context.epoch
        self._gpus = context.gpus
        self._pool = context.pool
        self._options = options
        self._wanted = canonical(context.pool, context.gpus)
        self._known = known_types(catalogue_of(context, options), context.gpus)
        self._claims = Claims(context.kube, pool=context.pool.name, mode=self.name)
        self._static = StaticPools(context, mode=self.name)

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Return the mode for one pool. Raises ``BadInputError`` for options that are wrong. Calls nobody."""
        return cls(context, options_of(ReuseOptions, context.pool))

    def check(self) -> Sequence[Problem]:
        """Return what is missing in the cluster, why no NodePool can be used, and what leaves nothing to launch."""
        with translated("check"):
            if problems := missing_kinds(self._kube, self._pool.name, self.name):
                return problems
            view = self._view()
        problems = [*self._unknown_names(view), *type_problems(view.types, self._wanted, self._where)]
        if not any(not refusal for refusal in view.refusals.values()):
            problems += self._unusable(view)
        return problems or ([] if view.sources else [self._nothing_left(view)])

    def offers(self) -> Sequence[Offer]:
        """Return what the NodePools allow and have room for. Each offer stands for one of them, and has its labels and taints."""
        with translated("offers"):
            sources = self._view().sources
        return [source.offer for source in sources.values() if source.holds(1)]

    def withheld(self) -> Sequence[str]:
        """Return why NodePools give nothing, one line each."""
        with translated("offers"):
            view = self._view()
        giving = {source.pool.name for source in view.sources.values() if source.holds(1)}
        full = {source.pool.name: source.candidate.limits.refusal(source.offer) for source in view.sources.values()}
        unwanted = "it allows nothing that is wanted, or others come first"
        said = {name: why or full.get(name, unwanted) for name, why in view.refusals.items() if name not in giving}
        return [f"nodepool {name}: {why}" for name, why in sorted(said.items())]

    def examine(self) -> Sequence[Finding]:
        """Return what the check finds, and why some of several NodePools give nothing."""
        problems = self.check()
        found = of_check(self._pool.name, self.name, problems)
        less = [] if problems else self.withheld()
        fix = "see the NodePool, or name in spec.options.nodePools those that are meant"
        return [*found, *(Finding(pool=self._pool.name, check="nodepool", verdict="warn", says=one, fix=fix) for one in less)]

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:  # noqa: ARG002 - a claim's name is its token
        """Return the claims to create, by request: replicas of the NodePool of the best offer that has room.

        Its limits may leave room for fewer machines than requests, and so may claims that still wait for theirs. Offers of
        other NodePools are left out, and those that one claim cannot ask for together with the best.
        """
        names = self._claims.admitted(name, sorted_names(name, requests, offers), most=self._options.in_flight)
        with translated(f"prepare {name}"):
            sources = self._view().sources
        # An offer may stand for another NodePool by now, with taints that the pods do not tolerate.
        asked = [(sources.get(offer.id), offer.labels.get(NODE_POOL)) for offer in offers]
        here = [source for source, node_pool in asked if source and source.pool.name == node_pool]
        if not here:
            raise LaunchRefusedError(f"batch {name}: no NodePool allows {offers[0].id} any more")
        best = next((source for source in here if source.holds(1)), None)
        if best is None:
            refusal = here[0].candidate.limits.refusal(here[0].offer)
            raise LaunchRefusedError(f"batch {name}: nodepool {here[0].pool.name}: {refusal}")
        count = len(names) if best.room is None else min(len(names), best.room)
        if best.pool.static:
            # Which of what its template allows is launched, Karpenter alone chooses.
            asked_for = {"nodePool": best.pool.name, "count": count}
            allowed = tuple(source.offer.id for source in here if source.pool.name == best.pool.name)
            return Order(parameters={"replicas": asked_for}, offers=allowed)
        chosen = covered([source.offer for source in here if source.pool.name == best.pool.name and source.holds(count)])
        epoch = self._epoch()
        claims = {
            request: best.pool.replica(request, pool=self._pool.name, mode=self.name, batch=name, epoch=epoch, offers=chosen)
            for request in names[:count]
        }
        return Order(parameters={"claims": claims}, offers=tuple(offer.id for offer in chosen))

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Create the recorded claims, whose names make a replay harmless, or ask a static NodePool for more replicas."""
        return self._static.launch(batch) if "replicas" in batch.parameters else self._claims.launch(batch)

    def observe(self) -> Sequence[Machine]:
        """Return this pool's claims, with how each differs from what is wanted now, and until when it is kept from disruption."""
        with translated("observe"):
            nodes, static = self._nodes(), self._static.names()
            return [
                self._of_static(claim) if claim["metadata"]["labels"].get(NODE_POOL) in static else self._replica(claim, nodes)
                for claim in self._claims.all()
            ]

    def _replica(self, claim: Json, nodes: Mapping[str, Json]) -> Machine:
        machine = self._claims.machine(claim)
        return replace(
            machine,
            outdated=karpenters_drift(claim) or unwanted(machine, self._wanted),
            protected_until_s=self._protected_until_s(claim, nodes.get(machine.provider_id)),
            held=_is_held(nodes.get(machine.provider_id)),
        )

    def _of_static(self, claim: Json) -> Machine:
        """Return a node of a static NodePool. Karpenter keeps it whether it is used or not, and replaces it when it drifts."""
        machine = self._claims.machine(claim)
        return replace(machine, outdated=unwanted(machine, self._wanted), stays=True)

    def explain(self, machine_ids: Sequence[str]) -> Mapping[str, Trouble]:
        """Return why these claims are gone or going, as far as Karpenter said so."""
        return self._claims.explain(machine_ids)

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Delete those of the claims that are this pool's, or ask their static NodePool for fewer replicas."""
        with translated("terminate"):
            static = self._static.names()
            found = {claim["metadata"]["name"]: claim["metadata"]["labels"].get(NODE_POOL) for claim in self._claims.all()}
        of_static = {name for name in machine_ids if found.get(name) in static}
        self._claims.delete([name for name in machine_ids if name not in of_static])
        if of_static:
            self._static.settle(of_static)

    def settle(self) -> None:
        """Ask static NodePools for no more than there is of ours and on its way: a machine that was lost is not replaced."""
        self._static.settle()

    def hold(self, machine_ids: Sequence[str]) -> None:
        """Keep the nodes of these claims from disruption. One that somebody else keeps is only noted."""
        with translated("hold"):
            nodes = self._nodes()
            for claim in self._claims.all():
                if claim["metadata"]["name"] in machine_ids:
                    self._mark(nodes.get(self._claims.machine(claim).provider_id))

    def release(self, machine_ids: Sequence[str]) -> None:
        """Take the protection off nodes and claims, where it is ours. Karpenter looks at the node alone.

        It may copy the claim's annotations to the node after both were read here: a machine counts as protected as long as
        either of them is marked, so that this is done again.
        """
        with translated("release"):
            nodes = self._nodes()
            for claim in self._claims.all():
                if claim["metadata"]["name"] in machine_ids:
                    self._unmark(NODES, nodes.get(self._claims.machine(claim).provider_id))
                    self._unmark(NODE_CLAIMS, claim)

    def notices(self) -> Sequence[Notice]:
        """Return nothing: Karpenter itself acts on what its cloud says."""
        return ()

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Do nothing: there are no notices."""

    def _mark(self, node: Json | None) -> None:
        if node is None or _is_held(node):
            return
        meta = node["metadata"]
        notes = meta.get("annotations") or {}
        ours = not notes.keys().isdisjoint({PROTECTED, HELD}) or notes.get(DO_NOT_DISRUPT) != "true"
        annotations = {DO_NOT_DISRUPT: "true", HELD: "true" if ours else "kept", PROTECTED: None}
        expected = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        try:
            self._kube.patch(NODES, meta["name"], {"metadata": {**expected, "annotations": annotations}})
        except (ConflictError, NotFoundError):
            log.debug("node %s was written meanwhile: looked at again in the next round", meta["name"])

    def _unmark(self, kind: Kind, obj: Json | None) -> None:
        """Take our protection off an object. Where somebody wrote it since, as Karpenter often does, it is looked at again."""
        for left in reversed(range(_TRIES)):
            if obj is None or not _is_marked(obj):
                return
            meta = obj["metadata"]
            expected = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
            others = meta["annotations"].get(HELD) == "kept"
            annotations = {PROTECTED: None, HELD: None} | ({} if others else {DO_NOT_DISRUPT: None})
            try:
                self._kube.patch(kind, meta["name"], {"metadata": {**expected, "annotations": annotations}})
            except NotFoundError:
                return
            except ConflictError:
                if not left:
                    raise
                obj = self._again(kind, meta["name"], uid=meta["uid"])
            else:
                return

    def _again(self, kind: Kind, name: str, *, uid: str) -> Json | None:
        try:
            found = self._kube.get(kind, name)
        except NotFoundError:
            return None
        return found if found["metadata"]["uid"] == uid else None

    def _nodes(self) -> dict[str, Json]:
        """Return this pool's nodes by provider id. A claim names its node only some time after the node has its annotations."""
        listed = self._kube.list(NODES, label_selector=f"{POOL_LABEL}={self._pool.name}").items
        return {node["spec"]["providerID"]: node for node in listed if node["spec"].get("providerID")}

    def _protected_until_s(self, claim: Json, node: Json | None) -> int | None:
        if not any(PROTECTED in (obj["metadata"].get("annotations") or {}) for obj in (claim, node) if obj):
            return None
        root = named("nodeclaim", claim)
        initialized = condition(root, "Initialized")
        if initialized.at("status").text() == "True":
            return initialized.at("lastTransitionTime").seconds() + self._options.protect_for
        latest_s = root.at("metadata", "creationTimestamp").seconds() + self._pool.register_within_s
        return latest_s + self._options.protect_for

    # --- which NodePool gives what ---

    def _view(self) -> _View:
        claims, nodes = self._kube.list(NODE_CLAIMS).items, self._kube.list(NODES).items
        seen = living([*claims, *nodes], self._gpus, self._known)
        types = seen.beside(self._known)
        kinds = tuple(wanted_types(types.values(), self._wanted))
        listed = {obj["metadata"]["name"]: obj for obj in self._kube.list(NODE_POOLS).items}
        wanted = listed.keys() if self._options.node_pools is None else self._options.node_pools
        read = {name: self._read(listed[name], types) for name in wanted if name in listed}
        usable = [candidate(pool, listed[pool.name], claims, types) for pool, refusal in read.values() if pool and not refusal]
        return _View(
            types=types,
            kinds=kinds,
            node_pools=tuple(listed),
            refusals={name: refusal for name, (_, refusal) in read.items()},
            sources=sources_of(usable, kinds, seen, self._wanted, gpu_pool=self._pool.name),
        )

    def _read(self, obj: Json, types: Mapping[str, NodeType]) -> tuple[NodePool | None, str]:
        """Return the NodePool, and why no replica may be made of it, or nothing."""
        try:
            pool = read_node_pool(obj, self._pool.name)
        except BadInputError as error:
            return None, str(error)
        return pool, pool.refusal or self._beyond(pool, types) or class_refusal(self._kube, pool.class_ref)

    def _beyond(self, pool: NodePool, types: Mapping[str, NodeType]) -> str:
        return beyond(pool, types, self._wanted) if pool.static else ""

    # --- problems ---

    @property
    def _where(self) -> str:
        return f"gpupool {self._pool.name}"

    def _unknown_names(self, view: _View) -> list[Problem]:
        return [
            Problem(where=self._where, field=f"spec.options.nodePools[{number}]", value=name, want=suggest(name, view.node_pools))
            for number, name in enumerate(self._options.node_pools or ())
            if name not in view.node_pools
        ]

    def _unusable(self, view: _View) -> list[Problem]:
        refused = [f"{name}: {refusal}" for name, refusal in sorted(view.refusals.items())]
        want = f"a NodePool that nodes can be taken from ({'; '.join(refused) or 'there is none'})"
        return [Problem(where=self._where, field="spec.options.nodePools", value=", ".join(sorted(view.refusals)), want=want)]

    def _nothing_left(self, view: _View) -> Problem:
        value = ", ".join((*(kind.name for kind in view.kinds[:3]), *self._wanted.zones, *self._wanted.capacity_types))
        return Problem(where=self._where, field="spec.offers", value=value, want="what one of its NodePools allows")


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What the cluster offers at one moment."""

    types: Mapping[str, NodeType]
    kinds: Sequence[NodeType]
    """Those of the types that the pool wants."""
    node_pools: Sequence[str]
    """The names of all."""
    refusals: Mapping[str, str]
    """Why no replica may be made of a NodePool of the options, or nothing, by name."""
    sources: Mapping[str, Source]
    """By offer id."""


def _is_marked(obj: Json) -> bool:
    return not {PROTECTED, HELD}.isdisjoint(obj["metadata"].get("annotations") or {})


def _is_held(node: Json | None) -> bool:
    notes = (node["metadata"].get("annotations") or {}) if node else {}
    return HELD in notes and notes.get(DO_NOT_DISRUPT) == "true"


_: type[ScalingMode] = ReuseNodeClaimMode
