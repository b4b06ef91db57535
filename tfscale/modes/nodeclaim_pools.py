"""NodePools of Karpenter as far as a replica of their nodes needs them: what they allow, and why one cannot be used.

A replica is built from the template of the live pool, never from another claim: what a claim says of itself is stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tfscale.kube.fields import Field, named
from tfscale.kube.nodes import POOL_LABEL
from tfscale.kube.port import NODE_POOLS, Json
from tfscale.model import INSTANCE_TYPE, Offer
from tfscale.modes.nodeclaim_labels import CAPACITY_TYPE, DO_NOT_DISRUPT, HASHES, NODE_POOL, PLACE, ZONE, is_fact, is_karpenters
from tfscale.modes.nodeclaim_options import NodeClassRef
from tfscale.modes.nodeclaim_order import EPOCH, PROTECTED, claim, class_label, condition, gpu_requests, selection
from tfscale.modes.nodeclaim_types import NodeType
from tfscale.selectors import Operator, Requirement, Taint
from tfscale.spec import parse

__all__ = ["NodePool", "read_node_pool"]

_KEPT = ("nodeClassRef", "taints", "startupTaints", "terminationGracePeriod", "expireAfter")
"""What of the template's spec goes into a claim as it is."""

_MOST_REQUIREMENTS = 96
"""Of a template: the API server takes 100 of a claim, and a replica adds the pool and what was chosen."""

_OPERATORS = {str(operator): operator for operator in Operator}
_INCLUSIVE = {"Gte": (Operator.GT, -1), "Lte": (Operator.LT, 1)}
_PLACES = frozenset({ZONE, CAPACITY_TYPE, *PLACE})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePool:
    """One NodePool."""

    name: str
    uid: str
    weight: int
    class_ref: NodeClassRef
    labels: Mapping[str, str]
    """Of a claim: those of the template, of the requirements that Karpenter knows nothing of, and of pool and class."""
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]
    requirements: tuple[Json, ...]
    """As the template has them, without ``minValues``, and its labels that name facts."""
    conditions: tuple[Requirement, ...]
    """The same, to be held against labels."""
    taints: tuple[Taint, ...]
    static: bool
    """Karpenter makes its nodes, as many as ``spec.replicas`` says."""
    refusal: str = ""
    """Why no replica may be made, or nothing."""

    def zones(self) -> tuple[str, ...]:
        """Return the zones that the pool names; empty where it names none."""
        named_zones = [one.values for one in self.conditions if one.key == ZONE and one.operator is Operator.IN]
        return tuple(dict.fromkeys(zone for zones in named_zones for zone in zones))

    def obstacle(self, kind: NodeType) -> Requirement | None:
        """Return the first requirement that keeps an instance type out, wherever it is; None where there is none.

        A label that nobody can know before the launch keeps the type out, until a node of it lives.
        """
        provider = self.class_ref.group
        labels = {**self.labels, **kind.labels(provider), INSTANCE_TYPE: kind.name}
        for one in self.conditions:
            known = one.key in labels or kind.tells(one.key, provider) or not is_fact(one.key, provider)
            if one.key not in _PLACES and not (known and one.matches(labels)):
                return one
        return None

    def permits(self, place: Mapping[str, str]) -> bool:
        """Return whether the pool allows a place: zone, capacity type and what else is known of the zone."""
        return all(one.key in place and one.matches(place) for one in self.conditions if one.key in _PLACES)

    def replica(self, name: str, *, pool: str, mode: str, batch: str, epoch: int, offers: Sequence[Offer]) -> Json:
        """Return a claim of this NodePool for these offers, kept from disruption until it is released.

        Where the template itself forbids disruption, the protection is not ours to take off.
        """
        chosen = selection(offers)
        kept = [one for one in self.requirements if one["key"] not in {item["key"] for item in chosen}]
        own = {} if self.annotations.get(DO_NOT_DISRUPT) == "true" else {PROTECTED: "true"}
        return claim(
            name,
            pool=pool,
            mode=mode,
            batch=batch,
            labels=self.labels,
            annotations={**self.annotations, **own, EPOCH: str(epoch)},
            spec={**self.spec, "requirements": [*kept, *chosen], "resources": gpu_requests(offers)},
            owners=[self._owner()],
        )

    def _owner(self) -> Json:
        named_kind = {"apiVersion": NODE_POOLS.api_version, "kind": NODE_POOLS.kind}
        return {**named_kind, "name": self.name, "uid": self.uid, "blockOwnerDeletion": True}


def read_node_pool(obj: Json, pool: str) -> NodePool:
    """Return the NodePool; ``refusal`` says why it is of no use to the GPUPool `pool`. Raises ``BadInputError``."""
    root = named("nodepool", obj)
    name, template = root.at("metadata", "name").needed(), root.at("spec", "template")
    ref = _class_ref(template.at("spec", "nodeClassRef"))
    labels = template.at("metadata", "labels").text_map()
    given = {key: value for key, value in labels.items() if not is_fact(key, ref.group)}
    facts = {key: value for key, value in labels.items() if key not in given}
    items = (*template.at("spec", "requirements").items(), *_as_requirements(template.at("metadata", "labels"), facts))
    conditions = tuple(map(_condition, items))
    own = {NODE_POOL: name, **class_label(ref), POOL_LABEL: pool}
    return NodePool(
        name=name,
        uid=root.at("metadata", "uid").needed(),
        weight=root.at("spec", "weight").whole(),
        class_ref=ref,
        labels={**_custom(conditions, {**given, **own}, ref.group), **given, **own},
        annotations=_annotations(root),
        spec={key: value for key, value in template.at("spec").mapping().items() if key in _KEPT},
        requirements=tuple({key: value for key, value in item.mapping().items() if key != "minValues"} for item in items),
        conditions=conditions,
        taints=tuple(map(_taint, template.at("spec", "taints").items())),
        static=root.at("spec", "replicas").given,
        refusal=next(_refusals(root, labels.get(POOL_LABEL, ""), pool, len(items)), ""),
    )


def _as_requirements(place: Field, labels: Mapping[str, str]) -> Iterator[Field]:
    """Yield what Karpenter makes of labels that say what is launched. On a claim, they would hide what really was."""
    for key, value in sorted(labels.items()):
        yield Field(place.where, f"{place.path}[{key}]", {"key": key, "operator": "In", "values": [value]})


def _class_ref(place: Field) -> NodeClassRef:
    given = {key: place.at(key).needed() for key in ("group", "kind", "name")}
    return parse(NodeClassRef, given, where=place.where, field=place.path)


def _refusals(root: Field, labelled: str, pool: str, requirements: int) -> Iterator[str]:
    if root.at("metadata", "deletionTimestamp").given:
        yield "it is being deleted"
    if root.at("spec", "replicas").given and not labelled:
        # Karpenter makes the claims of a static pool, and deletes those that are too many.
        yield f"it is static, and its template has no label {POOL_LABEL}={pool} that would make all of its nodes this pool's"
    for name in ("Ready", "NodeRegistrationHealthy"):
        if condition(root, name).at("status").text() == "False":
            yield f"its condition {name} is False"
    if labelled not in {"", pool}:
        yield f"its nodes are labelled as those of gpupool {labelled}"
    if requirements > _MOST_REQUIREMENTS:
        yield f"it has {requirements} requirements, more than {_MOST_REQUIREMENTS}"


def _annotations(root: Field) -> dict[str, str]:
    """Return what a claim of the pool is annotated with: the template's own, and the pool's hashes, so that drift is seen."""
    template = root.at("spec", "template", "metadata", "annotations").text_map()
    hashes = root.at("metadata", "annotations").text_map()
    kept = {key: value for key, value in template.items() if not is_karpenters(key) or key == DO_NOT_DISRUPT}
    return kept | {key: hashes[key] for key in HASHES if key in hashes}


def _custom(conditions: Sequence[Requirement], taken: Mapping[str, str], provider: str) -> dict[str, str]:
    """Return the labels that the requirements ask for and that nobody else writes, as Karpenter sets them.

    Without them Karpenter would call the node drifted. Of several values that are allowed, the first is taken.
    """
    open_ones = (one for one in conditions if one.key not in taken and not is_fact(one.key, provider))
    labels = {}
    for key, group in groupby(sorted(open_ones, key=lambda one: one.key), key=lambda one: one.key):
        alike = list(group)
        values = [value for one in alike if one.operator is Operator.IN for value in sorted(one.values)]
        values += ["true" for one in alike if one.operator is Operator.EXISTS]
        if fitting := [value for value in values if all(one.matches({key: value}) for one in alike)]:
            labels[key] = fitting[0]
    return labels


def _condition(item: Field) -> Requirement:
    name, key = item.at("operator").text(), item.at("key").needed()
    values = tuple(value.text() for value in item.at("values").items())
    if name in _INCLUSIVE and values:
        operator, step = _INCLUSIVE[name]
        bound = Field(item.where, f"{item.path}.values[0]", values[0]).digits(most=2**63 - 1)
        return Requirement(key=key, operator=operator, values=(str(bound + step),))
    if name not in _OPERATORS:
        raise item.at("operator").refused("one of " + ", ".join([*_OPERATORS, *_INCLUSIVE]))
    return Requirement(key=key, operator=_OPERATORS[name], values=values)


def _taint(item: Field) -> Taint:
    return Taint(key=item.at("key").needed(), value=item.at("value").text(), effect=item.at("effect").needed())
