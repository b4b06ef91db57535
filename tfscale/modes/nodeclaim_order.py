"""NodeClaims as objects: what may be asked of Karpenter with one claim, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from tfscale.kube.fields import Field
from tfscale.kube.nodes import POOL_LABEL
from tfscale.kube.port import NODE_CLAIMS, Json
from tfscale.kube.requests import GPU_RESOURCE, OWN_PREFIX
from tfscale.model import INSTANCE_TYPE, NodeRequest, Offer, Trouble
from tfscale.modes.nodeclaim_labels import CAPACITY_TYPE, DO_NOT_DISRUPT, ZONE
from tfscale.modes.nodeclaim_options import NodeClassRef
from tfscale.selectors import Taint

__all__ = [
    "BATCH",
    "EPOCH",
    "HELD",
    "MODE",
    "MOST_TOLD",
    "PROTECTED",
    "claim",
    "class_label",
    "covered",
    "foreign_taints",
    "gpu_requests",
    "selection",
    "sorted_names",
    "taint_json",
    "trouble",
]

MODE = f"{OWN_PREFIX}/mode"
BATCH = f"{OWN_PREFIX}/batch"
EPOCH = f"{OWN_PREFIX}/epoch"
PROTECTED = f"{OWN_PREFIX}/protected"
"""Says that ``do-not-disrupt`` is ours to take off."""
HELD = f"{OWN_PREFIX}/held"
"""Says of a node that it is to stay: ``true`` where ``do-not-disrupt`` is ours to take off, ``kept`` where it was there."""

MOST_TOLD = 300
"""Characters of a message that are kept: it is written once for each offer. Karpenter cuts those of its events there, too."""
_NO_TROUBLE = ("", "AwaitingReconciliation", "Launched")
"""Reasons of the condition ``Launched`` of a claim with which nothing went wrong. Source: Karpenter 1.14."""
MOST_TYPES = 60
"""Karpenter's own limit on the types of one launch."""


def covered(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """Return the offers, best first, that one claim can ask for without asking for anything that is not offered.

    A claim names types and zones apart, and Karpenter takes any pair of them: so each of the types must be on offer in
    each of the zones. The best offer is always among them; others join in their order where all pairs are still offered.

    >>> from tfscale.model import Offer
    >>> at = lambda name, zone: Offer(
    ...     instance_type=name, zone=zone, capacity_type="spot", cpu_milli=1, memory_mib=1, price_micro_usd=1)
    >>> [offer.id for offer in covered([at("small", "a"), at("small", "b"), at("large", "a")])]
    ['small/a/spot', 'small/b/spot']
    """
    pairs = {(offer.instance_type, offer.zone) for offer in offers}
    types: set[str] = set()
    zones: set[str] = set()
    for offer in offers:
        more_types, more_zones = types | {offer.instance_type}, zones | {offer.zone}
        if len(more_types) <= MOST_TYPES and pairs.issuperset(product(more_types, more_zones)):
            types, zones = more_types, more_zones
    return tuple(offer for offer in offers if offer.instance_type in types and offer.zone in zones)


def selection(offers: Sequence[Offer]) -> list[Json]:
    """Return the requirements that choose these offers, which ``covered`` gave. Values are in the order of the offers."""
    chosen = {
        INSTANCE_TYPE: (offer.instance_type for offer in offers),
        ZONE: (offer.zone for offer in offers),
        CAPACITY_TYPE: (offer.capacity_type for offer in offers),
    }
    return [{"key": key, "operator": "In", "values": list(dict.fromkeys(values))} for key, values in chosen.items()]


def gpu_requests(offers: Sequence[Offer]) -> Json:
    """Return the resources that a claim asks for: the GPUs that all of the types have.

    Karpenter calls a node initialized only when it shows all that was asked for, so nothing is asked that a type may lack.
    """
    least = min(offer.gpu_count for offer in offers)
    return {"requests": {GPU_RESOURCE: str(least)}} if least else {}


def claim(
    name: str,
    *,
    pool: str,
    mode: str,
    batch: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    spec: Mapping[str, Any],
    owners: Sequence[Json] = (),
) -> Json:
    """Return the claim called `name`. It is protected from disruption: Karpenter copies the annotation to the node, once."""
    own = {MODE: mode, BATCH: batch, DO_NOT_DISRUPT: "true"}
    metadata: Json = {"name": name, "labels": {**labels, POOL_LABEL: pool}, "annotations": {**annotations, **own}}
    if owners:
        metadata["ownerReferences"] = [*owners]
    # What is empty is left out, as Karpenter does.
    given = {key: value for key, value in spec.items() if value not in (None, [], {})}
    return {"apiVersion": NODE_CLAIMS.api_version, "kind": NODE_CLAIMS.kind, "metadata": metadata, "spec": given}


def class_label(ref: NodeClassRef) -> Mapping[str, str]:
    """Return the label by which Karpenter names the node class of a node."""
    return {f"{ref.group}/{ref.kind.lower()}": ref.name}


def taint_json(taint: Taint) -> Json:
    """Return the taint as an object's spec says it."""
    return {"key": taint.key, "effect": taint.effect} | ({"value": taint.value} if taint.value else {})


def foreign_taints(taints: Sequence[Taint], pool: str) -> tuple[Taint, ...]:
    """Return the taints that the pool's own pods must tolerate: all but the pool's own."""
    return tuple(taint for taint in taints if (taint.key, taint.value) != (POOL_LABEL, pool))


def sorted_names(batch: str, requests: Sequence[NodeRequest], offers: Sequence[Offer]) -> list[str]:
    """Return the names of the requests. Raises ``ValueError`` for a call that a caller must not ask for."""
    if not requests or len({offer.capacity_type for offer in offers}) != 1:
        raise ValueError(f"batch {batch}: want at least one request, and offers of one capacity type")
    return sorted(request.name for request in requests)


def condition(obj: Field, name: str) -> Field:
    """Return one condition of an object's status; without value where it has none of this name."""
    conditions = obj.at("status", "conditions")
    found = (item for item in conditions.items() if item.at("type").text() == name)
    return next(found, Field(obj.where, f"{conditions.path}[{name}]", None))


def trouble(claim: Field) -> Trouble | None:
    """Return why Karpenter has not launched a claim, or None: it has not tried yet."""
    launched = condition(claim, "Launched")
    reason, message = launched.at("reason").text(), launched.at("message").text()
    return None if reason in _NO_TROUBLE else Trouble(reason=reason, message=message[:MOST_TOLD])
