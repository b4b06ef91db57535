"""Nodes from Karpenter as NodeClaims of our own, without a NodePool: Karpenter launches them, nobody but us gives them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Self

from tfscale.errors import BadInputError, LaunchRefusedError, Problem
from tfscale.kube.nodes import POOL_LABEL
from tfscale.kube.port import NODE_CLAIMS, NODES, Json
from tfscale.model import LaunchBatch, Machine, NodeRequest, Notice, Offer, Trouble
from tfscale.modes.base import LaunchResult, ModeContext, Order, ScalingMode
from tfscale.modes.nodeclaim_calls import Claims, class_of, class_refusal, missing_kinds, translated
from tfscale.modes.nodeclaim_drift import class_drift, template_drift, unwanted
from tfscale.modes.nodeclaim_labels import OS
from tfscale.modes.nodeclaim_options import ManagedOptions, canonical, catalogue_of, options_of
from tfscale.modes.nodeclaim_order import (
    EPOCH,
    claim,
    class_label,
    covered,
    foreign_taints,
    gpu_requests,
    selection,
    sorted_names,
    taint_json,
)
from tfscale.modes.nodeclaim_providers import provider_of
from tfscale.modes.nodeclaim_types import Living, NodeType, known_types, living, offer_of, type_problems, wanted_types
from tfscale.selectors import Taint

__all__ = ["ManagedNodeClaimMode"]


class ManagedNodeClaimMode:
    """Standalone NodeClaims for one pool.

    Karpenter neither consolidates nor expires them. The nodes carry the taint ``tfscale.io/pool=POOL:NoSchedule`` unless
    the pool sets taints of its own: Karpenter counts every untainted node as room for any pod. DaemonSets of the GPU
    Operator must tolerate it.
    """

    name: ClassVar[str] = "managed-nodeclaim"
    reclaims_idle: ClassVar[bool] = False
    in_cluster: ClassVar[bool] = True

    def __init__(self, context: ModeContext, options: ManagedOptions) -> None:
        pool = context.pool
        self._kube = context.kube
        self._epoch = context.epoch
        self._gpus = context.gpus
        self._pool = pool.name
        self._options = options
        self._wanted = canonical(pool, context.gpus)
        self._known = known_types(catalogue_of(context, options), context.gpus)
        self._claims = Claims(context.kube, pool=pool.name, mode=self.name)
        own = [Taint(key=POOL_LABEL, value=pool.name)]
        self._taints = own if options.taints is None else [taint.taint() for taint in options.taints]

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Return the mode for one pool. Raises ``BadInputError`` for options that are wrong. Calls nobody."""
        options = options_of(ManagedOptions, context.pool)
        if not context.pool.wanted.zones:
            want = "at least one zone: a NodeClaim without a NodePool says itself where its node may be"
            raise BadInputError(Problem(where=f"gpupool {context.pool.name}", field="spec.offers.zones", value="", want=want))
        return cls(context, options)

    def check(self) -> Sequence[Problem]:
        """Return what is missing in the cluster, and what leaves nothing to launch."""
        with translated("check"):
            if problems := missing_kinds(self._kube, self._pool, self.name):
                return problems
            where, ref = f"gpupool {self._pool}", self._options.node_class_ref
            problems = type_problems(self._types(self._living()), self._wanted, where)
            if refusal := class_refusal(self._kube, ref):
                want = f"a node class that can be used ({refusal})"
                problems.append(Problem(where=where, field="spec.options.nodeClassRef.name", value=ref.name, want=want))
        return [*problems, *self._taint_problems(where)]

    def offers(self) -> Sequence[Offer]:
        """Return every wanted type, zone and capacity type. Whether the zone has the type, only Karpenter knows."""
        with translated("offers"):
            seen = self._living()
        kinds = wanted_types(self._types(seen).values(), self._wanted)
        return [
            self._offer(kind, seen, zone, capacity_type)
            for kind in kinds
            for zone in self._wanted.zones
            for capacity_type in self._wanted.capacity_types
        ]

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:  # noqa: ARG002 - a claim's name is its token
        """Return the claims to create, by request. Offers are left out that one claim cannot ask for together with the best.

        There are fewer claims than requests where too many wait for their machines already.
        """
        names, chosen = sorted_names(name, requests, offers), covered(offers)
        with translated(f"prepare {name}"):
            refusal = class_refusal(self._kube, self._options.node_class_ref)
        if refusal:
            raise LaunchRefusedError(f"batch {name}: {refusal}")
        epoch = self._epoch()
        admitted = self._claims.admitted(name, names, most=self._options.in_flight)
        claims = {request: self._claim(request, name, epoch, chosen) for request in admitted}
        return Order(parameters={"claims": claims}, offers=tuple(offer.id for offer in chosen))

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Create the recorded claims. Their names make a replay harmless."""
        return self._claims.launch(batch)

    def observe(self) -> Sequence[Machine]:
        """Return this pool's claims, each with how it differs from what would be made now."""
        with translated("observe"):
            claims = self._claims.all()
            node_class = class_of(self._kube, self._options.node_class_ref) if claims else None
            return [
                replace(machine, outdated=self._outdated(claim, machine, node_class))
                for claim in claims
                for machine in (self._claims.machine(claim),)
            ]

    def explain(self, machine_ids: Sequence[str]) -> Mapping[str, Trouble]:
        """Return why these claims are gone or going: without a usable class Karpenter gives them up and says nothing."""
        with translated("explain"):
            refusal = class_refusal(self._kube, self._options.node_class_ref)
        if refusal:
            return dict.fromkeys(machine_ids, Trouble(reason="NodeClassNotReady", message=refusal))
        return self._claims.explain(machine_ids)

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Delete those of the claims that are this pool's."""
        self._claims.delete(machine_ids)

    def hold(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nobody but us removes these nodes."""

    def release(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nobody but us removes these nodes."""

    def notices(self) -> Sequence[Notice]:
        """Return nothing: Karpenter itself acts on what its cloud says."""
        return ()

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Do nothing: there are no notices."""

    def _living(self) -> Living:
        objects = [*self._kube.list(NODE_CLAIMS).items, *self._kube.list(NODES).items]
        return living(objects, self._gpus, self._known)

    def _types(self, seen: Living) -> dict[str, NodeType]:
        return seen.beside(self._known)

    def _offer(self, kind: NodeType, seen: Living, zone: str, capacity_type: str) -> Offer:
        ref = self._options.node_class_ref
        labels = {**self._options.labels, **kind.labels(ref.group), **seen.place(zone, ref.group), **class_label(ref)}
        return offer_of(kind, zone, capacity_type, labels=labels, taints=foreign_taints(self._taints, self._pool))

    def _taint_problems(self, where: str) -> Iterator[Problem]:
        """Yield a taint that is missing, without which the provider gives claims no types with GPUs."""
        ref = self._options.node_class_ref
        key = provider_of(ref.group).gpu_taint
        if key and (key, "NoSchedule") not in {(taint.key, taint.effect) for taint in self._taints}:
            want = f"among them {key}:NoSchedule, without which {ref.kind} gives no types with GPUs"
            names = ", ".join(taint.key for taint in self._taints)
            yield Problem(where=where, field="spec.options.taints", value=names, want=want)

    def _outdated(self, claim: Json, machine: Machine, node_class: Json | None) -> str:
        drift = template_drift(claim, labels=self._options.labels, spec=self._template())
        of_class = class_drift(claim, self._options.node_class_ref, node_class) if node_class else ""
        return drift or of_class or unwanted(machine, self._wanted)

    def _template(self) -> Json:
        """Return what the options say of every claim."""
        options = self._options
        return {
            "nodeClassRef": options.node_class_ref.model_dump(),
            "taints": [taint_json(taint) for taint in self._taints],
            "startupTaints": [taint_json(taint.taint()) for taint in options.startup_taints],
            "terminationGracePeriod": options.termination_grace_period,
        }

    def _claim(self, request: str, batch: str, epoch: int, offers: Sequence[Offer]) -> Json:
        spec = {
            **self._template(),
            "requirements": [*selection(offers), {"key": OS, "operator": "In", "values": ["linux"]}],
            "resources": gpu_requests(offers),
            # Karpenter's default ends nodes after 30 days, whatever runs there.
            "expireAfter": "Never",
        }
        stamp, labels = {EPOCH: str(epoch)}, self._options.labels
        return claim(request, pool=self._pool, mode=self.name, batch=batch, labels=labels, annotations=stamp, spec=spec)


_: type[ScalingMode] = ManagedNodeClaimMode
