"""What instance types are: from the catalogue, from the pool's options, and from the nodes that live."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from tfscale.catalogue import InstanceType
from tfscale.errors import Problem
from tfscale.gpus import GpuTable
from tfscale.kube.fields import named, tried
from tfscale.kube.nodes import POOL_LABEL, read_node
from tfscale.kube.pods import BoundPods
from tfscale.kube.port import Json
from tfscale.kube.requests import OWN_PREFIX
from tfscale.model import INSTANCE_TYPE, Node, Offer
from tfscale.modes.nodeclaim_labels import ARCH, OS, PLACE, REGION, ZONE
from tfscale.modes.nodeclaim_providers import TypeFacts, provider_of
from tfscale.pool import OfferFilter
from tfscale.selectors import Taint

__all__ = ["Living", "NodeType", "known_types", "living", "offer_of", "type_problems", "wanted_types"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """An instance type as Karpenter would launch it. CPU and memory are the machine's, or what a living node allocates."""

    name: str
    arch: str
    gpu_model: str = ""
    """Canonical name in the GPU table."""
    gpu_count: int = 0
    vram_mib: int = 0
    """Of one card."""
    mtflops: int = 0
    """Of one card."""
    cpu_milli: int
    memory_mib: int
    learned: bool = False
    """Whether only a living node tells of it. Then the machine's totals are not known."""
    prices: Mapping[str, int | None] = field(default_factory=dict)
    """Micro-USD per hour by capacity type."""
    seen: Mapping[str, str] = field(default_factory=dict)
    """The labels of a living node of this type; empty where none lives."""

    def labels(self, provider: str) -> Mapping[str, str]:
        """Return the labels that the provider, the group of a node class, writes on every node of this type."""
        derived = provider_of(provider).labels(self._facts())
        return {ARCH: self.arch, OS: "linux", **derived, **self._seen_of(provider)}

    def tells(self, key: str, provider: str) -> bool:
        """Return whether a label of the provider that is missing from ``labels`` is missing on the nodes too."""
        return provider_of(provider).tells(key, self._facts()) or (_is_of_type(key, provider) and bool(self._seen_of(provider)))

    def _seen_of(self, provider: str) -> Mapping[str, str]:
        return {key: value for key, value in self.seen.items() if _is_of_type(key, provider)}

    def _facts(self) -> TypeFacts:
        return TypeFacts(
            name=self.name,
            cpu_milli=None if self.learned else self.cpu_milli,
            memory_mib=None if self.learned else self.memory_mib,
            gpu_model=self.gpu_model,
            gpu_count=self.gpu_count,
            vram_mib=self.vram_mib,
        )


def _is_of_type(key: str, provider: str) -> bool:
    """Return whether a label is the provider's and is the same on all nodes of a type, whatever class or reservation they use."""
    its_own = key.startswith(f"{provider}/") or key in provider_of(provider).rules
    return its_own and not ("nodeclass" in key or "reservation" in key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Living:
    """What nodes and claims that live tell about types and zones."""

    types: Mapping[str, NodeType]
    """Those whose labels and status tell everything. Their prices are not known."""
    labels: Mapping[str, Mapping[str, str]]
    """By instance type."""
    zones: Mapping[str, Mapping[str, str]]
    """What a zone says beside its own name, by zone."""

    def beside(self, known: Mapping[str, NodeType]) -> dict[str, NodeType]:
        """Return the known types and those that only living nodes tell, each with the labels of a living node."""
        both = {**self.types, **known}
        return {name: replace(kind, seen=self.labels.get(name, {})) for name, kind in both.items()}

    def place(self, zone: str, provider: str) -> Mapping[str, str]:
        """Return the labels of a node in this zone, as far as they are known."""
        region = provider_of(provider).region_of(zone)
        return {ZONE: zone, **({REGION: region} if region else {}), **self.zones.get(zone, {})}


def living(objects: Iterable[Json], gpus: GpuTable, known: Mapping[str, NodeType]) -> Living:
    """Return what nodes and claims tell. Types that are `known` are read no further than their labels."""
    types: dict[str, NodeType] = {}
    labels: dict[str, Mapping[str, str]] = {}
    zones: dict[str, Mapping[str, str]] = {}
    for obj in objects:
        here = obj["metadata"].get("labels") or {}
        name = here.get(INSTANCE_TYPE, "")
        if zone := here.get(ZONE):
            zones[zone] = {**zones.get(zone, {}), **{key: here[key] for key in PLACE if key in here}}
        if not name:
            continue
        # A claim and its node carry the same; the node of a group that others run carries less.
        labels[name] = max(labels.get(name, {}), here, key=len)
        learned = None if name in known else _learned(obj, here, gpus)
        if learned and learned.gpu_count >= (types[name].gpu_count if name in types else 0):
            types[name] = learned
    return Living(types=types, labels=labels, zones=zones)


def _learned(obj: Json, labels: Mapping[str, str], gpus: GpuTable) -> NodeType | None:
    """Return the type of a node, or None where it does not tell everything: cards without a model, or not yet there."""
    # Read as if it were of the pool that it names: what matters here is what it has, not whose it is.
    machine = (labels.get(POOL_LABEL) or "any", "")
    read = partial(read_node, named("node", obj), (), machine=machine, gpus=gpus, bound=BoundPods(gpus, OWN_PREFIX), problems=[])
    node: Node | None = tried([], read, None)
    if node is None or node.fenced or not (node.cpu_milli and node.memory_mib and ARCH in labels):
        return None
    card = node.gpus[0] if node.gpus else None
    return NodeType(
        name=labels[INSTANCE_TYPE],
        arch=labels[ARCH],
        gpu_model=card.model if card else "",
        gpu_count=len(node.gpus),
        vram_mib=card.vram_mib if card else 0,
        mtflops=card.mtflops if card else 0,
        cpu_milli=node.cpu_milli,
        memory_mib=node.memory_mib,
        learned=True,
    )


def known_types(catalogue: Mapping[str, InstanceType], gpus: GpuTable) -> dict[str, NodeType]:
    """Return the types of the catalogue by name. One whose card is in no table is left out."""
    found = ((name, tried([], partial(_of_catalogue, one, gpus), None)) for name, one in catalogue.items())
    return {name: kind for name, kind in found if kind}


def _of_catalogue(one: InstanceType, gpus: GpuTable) -> NodeType:
    card = gpus.card(one.gpu_model, vram_mib=one.vram_mib, where=f"instance type {one.name}") if one.gpu_count else None
    return NodeType(
        name=one.name,
        arch=one.arch,
        gpu_model=card.name if card else "",
        gpu_count=one.gpu_count,
        vram_mib=card.vram_mib if card else 0,
        mtflops=card.mtflops if card else 0,
        cpu_milli=one.cpu_milli,
        memory_mib=one.memory_mib,
        # What a reservation costs is paid whether it is used or not, and nobody says how much it is.
        prices={"on-demand": one.price_micro_usd, "spot": one.spot_price_micro_usd},
    )


def wanted_types(types: Iterable[NodeType], wanted: OfferFilter) -> Iterator[NodeType]:
    """Yield the types that the pool wants, by name.

    Types without GPU, or of another architecture than amd64, for which images may not be built, are wanted only by name.
    """
    for kind in sorted(types, key=lambda kind: kind.name):
        usual = bool(kind.gpu_count) and kind.arch == "amd64"
        by_name = kind.name in wanted.instance_types if wanted.instance_types else usual
        if by_name and not (kind.gpu_count and wanted.gpu_models and kind.gpu_model not in wanted.gpu_models):
            yield kind


def type_problems(types: Mapping[str, NodeType], wanted: OfferFilter, where: str) -> list[Problem]:
    """Return each type that the pool names and nobody knows, or what leaves no type at all."""
    want = "a type of the catalogue, of spec.options.instanceTypes or of a living node"
    unknown = [
        Problem(where=where, field=f"spec.offers.instanceTypes[{number}]", value=name, want=want)
        for number, name in enumerate(wanted.instance_types)
        if name not in types
    ]
    if unknown or any(wanted_types(types.values(), wanted)):
        return unknown
    field_name = "gpuModels" if wanted.gpu_models else "instanceTypes"
    value = ", ".join(wanted.gpu_models or wanted.instance_types)
    return [Problem(where=where, field=f"spec.offers.{field_name}", value=value, want=f"{want} that all filters let through")]


def offer_of(kind: NodeType, zone: str, capacity_type: str, *, labels: Mapping[str, str], taints: tuple[Taint, ...]) -> Offer:
    """Return one offer of a type. A price that nobody tells is None."""
    return Offer(
        instance_type=kind.name,
        zone=zone,
        capacity_type=capacity_type,
        gpu_model=kind.gpu_model,
        gpu_count=kind.gpu_count,
        vram_mib=kind.vram_mib,
        mtflops=kind.mtflops,
        cpu_milli=kind.cpu_milli,
        memory_mib=kind.memory_mib,
        price_micro_usd=kind.prices.get(capacity_type),
        labels=labels,
        taints=taints,
    )
