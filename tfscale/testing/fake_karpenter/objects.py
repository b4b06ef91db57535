"""The objects of the cluster as the stand-in reads them: each once, when it changed.

What Karpenter's schema would refuse of a NodeClaim or a NodePool raises ``BadInputError``. A node or a pod that cannot be
read is somebody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from tfscale.errors import BadInputError
from tfscale.kube.fields import Field, named
from tfscale.kube.pods import keeps_busy
from tfscale.kube.port import NODE_CLASSES, NODE_POOLS, Json, Kind
from tfscale.modes.nodeclaim_labels import DO_NOT_DISRUPT, NODE_POOL
from tfscale.quantity import duration_s
from tfscale.selectors import Operator, Requirement

__all__ = ["TERMINATION", "Claim", "Node", "Pod", "Pool", "Wish", "read_claim", "read_node", "read_pod", "read_pool"]

TERMINATION = "karpenter.sh/termination"
"""Karpenter's finalizer, on claims and on their nodes."""

_NEVER = "Never"
_EXPIRE_AFTER_S = 720 * 3_600
"""The default that the definition of NodeClaims fills in."""
_OPERATORS = {str(operator): (operator, 0) for operator in Operator} | {
    "Gte": (Operator.GT, -1),
    "Lte": (Operator.LT, 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a claim asks for: its spec."""

    class_kind: Kind
    class_name: str
    requirements: tuple[Requirement, ...]
    requests: Mapping[str, Fraction]
    taints: tuple[Json, ...]
    startup_taints: tuple[Json, ...]
    expire_after_s: int | None
    """From the creation of the claim. None is never."""
    grace_s: int | None
    """How long after its deletion its pods may stay. None is for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One NodeClaim."""

    name: str
    uid: str
    obj: Json
    """As it was last seen. Nobody changes it."""
    wish: Wish
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    finalizers: tuple[str, ...]
    pools: frozenset[str]
    """Uids of the NodePools that own it."""
    created_s: int
    deleted_s: int | None
    provider_id: str
    conditions: Mapping[str, tuple[str, int]]
    """The status of each condition, and since when it has it."""
    pod_event_s: int | None
    capacity: Mapping[str, Fraction]

    @property
    def pool(self) -> str:
        """Return the NodePool whose rules apply, empty for a standalone claim."""
        return self.labels.get(NODE_POOL, "")

    def true(self, condition: str) -> bool:
        """Return whether a condition is true."""
        return self.conditions.get(condition, ("", 0))[0] == "True"

    def since_s(self, condition: str) -> int:
        """Return since when a condition, which must be there, is what it is."""
        return self.conditions[condition][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node that stands on a machine."""

    name: str
    obj: Json
    """As it was last seen. Nobody changes it."""
    provider_id: str
    finalizers: tuple[str, ...]
    taints: tuple[Json, ...]
    allocatable: Mapping[str, Fraction]
    ready: bool
    held: bool
    """Whether it is kept from disruption."""
    deleting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod that keeps its node busy."""

    name: str
    namespace: str
    node: str
    held: bool
    """Whether it must not be evicted."""
    ends_s: int | None
    """When its grace period is over. None: it is not being deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One NodePool."""

    name: str
    uid: str
    consolidate_after_s: int | None
    """None is never."""
    replicas: int | None
    """How many nodes a static one has; None: it is not static."""
    nodes_most: int | None
    """Its limit on nodes, where it has one."""
    template: Json
    status: Json


def read_claim(obj: Json) -> Claim | None:
    """Return the claim, or None for one whose node class is of a kind that nobody here provides for."""
    claim = named("nodeclaim", obj)
    ref, meta, status = claim.at("spec", "nodeClassRef"), claim.at("metadata"), claim.at("status")
    wanted = (ref.at("group").needed(), ref.at("kind").needed())
    class_kind = next((kind for kind in NODE_CLASSES if (kind.group, kind.kind) == wanted), None)
    if class_kind is None:
        return None
    pod_event = status.at("lastPodEventTime")
    return Claim(
        name=meta.at("name").needed(),
        uid=meta.at("uid").needed(),
        obj=obj,
        wish=_wish(claim, class_kind),
        labels=meta.at("labels").text_map(),
        annotations=meta.at("annotations").text_map(),
        finalizers=meta.at("finalizers").texts(),
        pools=frozenset(one.at("uid").text() for one in meta.at("ownerReferences").items() if _is_pool(one)),
        created_s=meta.at("creationTimestamp").seconds(),
        deleted_s=_deleted_s(meta),
        provider_id=status.at("providerID").text(),
        conditions=_conditions(claim),
        pod_event_s=pod_event.seconds() if pod_event.given else None,
        capacity=_amounts(status.at("capacity")),
    )


def read_node(obj: Json) -> Node | None:
    """Return the node, or None for one without a machine or one that cannot be read."""
    node = named("node", obj)
    meta, spec = node.at("metadata"), node.at("spec")
    try:
        found = Node(
            name=meta.at("name").needed(),
            obj=obj,
            provider_id=spec.at("providerID").text(),
            finalizers=meta.at("finalizers").texts(),
            taints=_taints(spec.at("taints")),
            allocatable=_amounts(node.at("status", "allocatable")),
            ready=_conditions(node).get("Ready", ("", 0))[0] == "True",
            held=_is_held(meta),
            deleting=meta.at("deletionTimestamp").given,
        )
    except BadInputError:
        return None
    return found if found.provider_id else None


def read_pod(obj: Json) -> Pod | None:
    """Return the pod, or None for one that does not keep a node busy: pending, ended, or of a DaemonSet."""
    if not keeps_busy(obj):
        return None
    pod = named("pod", obj)
    meta = pod.at("metadata")
    try:
        return Pod(
            name=meta.at("name").needed(),
            namespace=meta.at("namespace").needed(),
            node=pod.at("spec", "nodeName").text(),
            held=_is_held(meta),
            ends_s=_deleted_s(meta),
        )
    except BadInputError:
        return None


def read_pool(obj: Json) -> Pool:
    """Return the NodePool."""
    pool = named("nodepool", obj)
    after = pool.at("spec", "disruption", "consolidateAfter")
    return Pool(
        name=pool.at("metadata", "name").needed(),
        uid=pool.at("metadata", "uid").needed(),
        consolidate_after_s=_duration_s(after, otherwise=0),
        replicas=pool.at("spec", "replicas").whole() if pool.at("spec", "replicas").given else None,
        nodes_most=int(limit) if (limit := _amounts(pool.at("spec", "limits")).get("nodes")) is not None else None,
        template=dict(pool.at("spec", "template").mapping()),
        status=obj.get("status") or {},
    )


def _wish(claim: Field, class_kind: Kind) -> Wish:
    spec = claim.at("spec")
    grace = spec.at("terminationGracePeriod")
    return Wish(
        class_kind=class_kind,
        class_name=spec.at("nodeClassRef", "name").needed(),
        requirements=tuple(map(_requirement, spec.at("requirements").items())),
        requests=_amounts(spec.at("resources", "requests")),
        taints=_taints(spec.at("taints")),
        startup_taints=_taints(spec.at("startupTaints")),
        expire_after_s=_duration_s(spec.at("expireAfter"), otherwise=_EXPIRE_AFTER_S),
        grace_s=grace.read(duration_s) if grace.given else None,
    )


def _requirement(item: Field) -> Requirement:
    found = _OPERATORS.get(item.at("operator").text())
    if found is None:
        raise item.at("operator").refused("one of " + ", ".join(_OPERATORS))
    operator, shift = found
    values = tuple(value.text() for value in item.at("values").items())
    if operator in (Operator.GT, Operator.LT):
        if len(values) != 1 or not (values[0].isascii() and values[0].isdigit()):
            raise item.at("values").refused("one whole number as text")
        values = (str(int(values[0]) + shift),)
    return Requirement(key=item.at("key").needed(), operator=operator, values=values)


def _duration_s(field: Field, *, otherwise: int) -> int | None:
    if not field.given:
        return otherwise
    return None if field.value == _NEVER else field.read(duration_s)


def _taints(field: Field) -> tuple[Json, ...]:
    return tuple(dict(item.mapping()) for item in field.items())


def _amounts(field: Field) -> dict[str, Fraction]:
    return {name: amount.amount() for name, amount in field.entries().items()}


def _conditions(obj: Field) -> dict[str, tuple[str, int]]:
    return {
        one.at("type").text(): (one.at("status").text(), one.at("lastTransitionTime").seconds())
        for one in obj.at("status", "conditions").items()
    }


def _deleted_s(meta: Field) -> int | None:
    deleted = meta.at("deletionTimestamp")
    return deleted.seconds() if deleted.given else None


def _is_held(meta: Field) -> bool:
    # Of a node only the exact value counts; a pod may also give a duration, which is not simulated.
    return meta.at("annotations", DO_NOT_DISRUPT).text() == "true"


def _is_pool(owner: Field) -> bool:
    return owner.at("kind").text() == NODE_POOLS.kind and owner.at("apiVersion").text().startswith(f"{NODE_POOLS.group}/")
