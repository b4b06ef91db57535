"""Scenario files: what ``tfscale reconcile --local FILE`` runs on the simulated cluster and cloud.

A scenario is several YAML documents: ordinary ``GPUPool``, ``Pod``, ``Node`` and ``List`` objects, which go into the simulated
cluster as they are, and at most one ``Scenario`` (``sim.tfscale.io/v1alpha1``) that describes the cloud, card models of its
own and workloads that arrive and end. Times count from the start of the simulation.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from tfscale.catalogue import InstanceType
from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuModel, GpuTable
from tfscale.kube.fields import Field as Place
from tfscale.kube.fields import tried
from tfscale.kube.port import GPU_POOLS, NODES, PODS, Json, Kind
from tfscale.manifests import Manifest, read_manifests
from tfscale.quantity import mib_up, milli_up, quantity, time_s
from tfscale.spec import Duration, Spec, Usd, parse, suggest

__all__ = ["Capacity", "Cloud", "Scenario", "Workload", "read_scenario"]

SCENARIO = "Scenario"
API_VERSION = "sim.tfscale.io/v1alpha1"
START = "2026-01-01T00:00:00Z"
"""When a simulation begins unless the scenario says otherwise: fixed, so that two runs are alike."""

_KINDS = {kind.kind: kind for kind in (GPU_POOLS, PODS, NODES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How many machines of a type a zone has at once. A type, zone and capacity type that is not listed has no limit."""

    instance_type: str
    zone: str
    capacity_type: str
    machines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """The simulated cloud."""

    region: str
    zones: tuple[str, ...]
    boot_delay_s: int
    """From the launch of a machine until its node is Ready."""
    shutdown_delay_s: int
    """From the call until a machine is terminated."""
    instance_types: tuple[InstanceType, ...]
    capacity: tuple[Capacity, ...]
    launch_template: str
    """Name of the launch template that exists there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Pods that arrive together and each end some time after they were bound."""

    name: str
    namespace: str
    replicas: int
    arrive_after_s: int
    run_for_s: int | None
    """None runs until the end of the simulation."""
    template: Mapping[str, Any]
    """``metadata`` and ``spec`` of each pod."""

    def pods(self) -> Iterator[Json]:
        """Yield the pods, named after the workload and numbered from 0."""
        for index in range(self.replicas):
            pod = copy.deepcopy(dict(self.template))
            pod["metadata"] = pod["metadata"] | {"name": f"{self.name}-{index}", "namespace": self.namespace}
            yield {"apiVersion": PODS.api_version, "kind": PODS.kind} | pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole scenario."""

    objects: tuple[tuple[Kind, Json], ...] = ()
    """What the cluster holds at the start, in the order of the file."""
    gpu_models: tuple[GpuModel, ...] = ()
    """Card models beside the built-in ones."""
    cloud: Cloud | None = None
    """None where nothing can be bought: fixed nodes only."""
    workloads: tuple[Workload, ...] = ()
    seed: int = 0
    start_s: int = time_s(START)


def _thousandths(value: object) -> int:
    return milli_up(quantity(value))


def _mib(value: object) -> int:
    return mib_up(quantity(value))


def _start_s(value: object) -> int:
    start_s = time_s(value)
    if not time_s("2000-01-01T00:00:00Z") <= start_s < time_s("2100-01-01T00:00:00Z"):
        raise ValueError("an RFC 3339 time of this century, such as 2026-07-20T13:44:30Z")
    return start_s


def _in_quotes(value: object) -> object:
    """Refuse what YAML takes for a number or a truth value where Kubernetes wants text, as every API server would."""
    if isinstance(value, bool | int | float):
        raise ValueError(f'a string: write "{json.dumps(value)}" in quotes')  # noqa: TRY004 - a TypeError is not reported
    if not (value is None or isinstance(value, str)):
        raise ValueError("a string")
    return value


def _vcpus_milli(value: object) -> int:
    vcpus = quantity(value)
    if vcpus < 1 or vcpus.denominator != 1:
        raise ValueError("a whole number of vCPUs, such as 4")
    return int(vcpus) * 1_000


_Thousandths = Annotated[int, BeforeValidator(_thousandths), Field(ge=1)]
_Mib = Annotated[int, BeforeValidator(_mib), Field(ge=1)]
# Zero is what a price list says where it does not know; TensorFusion bought such types first.
_Price = Annotated[Usd, Field(gt=0)]
_Text = Annotated[str, BeforeValidator(_in_quotes)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _GpuModel(Spec):
    name: _Name
    vram_mib: Annotated[int, Field(ge=1, le=2**31)]
    tflops: _Thousandths
    source: str = "scenario"


class _InstanceType(Spec):
    name: _Name
    gpu_model: str | None = None
    gpus: Annotated[int, Field(ge=1, le=128)] | None = None
    cpu: Annotated[int, BeforeValidator(_vcpus_milli)]
    memory: _Mib
    usd_per_hour: _Price | None = None
    spot_usd_per_hour: _Price | None = None


class _Capacity(Spec):
    instance_type: str
    zone: str
    capacity_type: Literal["on-demand", "spot"] = "on-demand"
    machines: Annotated[int, Field(ge=0, le=10**6)]


class _Cloud(Spec):
    region: _Name = "us-east-1"
    zones: Annotated[list[_Name], Field(min_length=1)]
    boot_delay: Duration = 90
    shutdown_delay: Duration = 30
    instance_types: Annotated[list[_InstanceType], Field(min_length=1)]
    capacity: list[_Capacity] = Field(default_factory=list)
    launch_template: _Name = "tfscale"


class _Metadata(Spec):
    labels: dict[str, _Text] = Field(default_factory=dict)
    annotations: dict[str, _Text] = Field(default_factory=dict)


class _Template(Spec):
    metadata: _Metadata = _Metadata()
    spec: dict[str, JsonValue]


class _Workload(Spec):
    name: _Name
    namespace: _Name = "default"
    replicas: Annotated[int, Field(ge=1, le=10**6)] = 1
    arrive_after: Duration = 0
    run_for: Annotated[Duration, Field(ge=1)] | None = None
    template: _Template


class _Scenario(Spec):
    gpu_models: list[_GpuModel] = Field(default_factory=list)
    cloud: _Cloud | None = None
    workloads: list[_Workload] = Field(default_factory=list)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    start: Annotated[int, BeforeValidator(_start_s)] = time_s(START)


class _Document(Spec):
    api_version: str
    kind: str
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    spec: _Scenario = _Scenario()


def read_scenario(text: str, *, name: str) -> Scenario:
    """Return the scenario in `text`; `name` is the file's, for messages.

    Raises ``BadInputError`` with every problem of the file itself: its YAML, its kinds and names, its ``Scenario``. What a
    ``GPUPool``, ``Pod`` or ``Node`` says inside is judged by the loop, as in a real cluster, so that one of them does not
    stop the others.
    """
    problems: list[Problem] = []
    objects: list[tuple[Kind, Json]] = []
    scenarios: list[Scenario] = []
    manifests = read_manifests(text, name=name)
    if not manifests:
        raise BadInputError(Problem(where=name, field="number of documents", value="0", want="at least one"))
    for place in _documents(manifests, name, problems):
        if _is_scenario(place):
            scenarios += tried(problems, partial(_scenario, place), ())
        else:
            objects += tried(problems, partial(_object, place), ())
    problems += _twice(objects, name)
    if len(scenarios) > 1:
        problems.append(Problem(where=name, field="number of Scenario documents", value=str(len(scenarios)), want="at most one"))
    if problems:
        raise BadInputError(*problems)
    return replace(scenarios[0] if scenarios else Scenario(), objects=tuple(objects))


# --- documents --------------------------------------------------------------------------------------------------------


def _documents(manifests: Iterable[Manifest], name: str, problems: list[Problem]) -> Iterator[Place]:
    """Yield every document and every item of a ``List``, if it is a mapping."""
    for number, manifest in enumerate(manifests, start=1):
        place = Place(f"{name} document {number} (line {manifest.line})", "", manifest.value)
        yield from _unlisted(place, problems)


def _unlisted(place: Place, problems: list[Problem]) -> Iterator[Place]:
    """Yield the object here, or what is in the ``List`` here; a ``List`` may hold others."""
    for item in tried(problems, partial(_items, place), ()):
        yield from (item,) if item is place else _unlisted(item, problems)


def _items(place: Place) -> tuple[Place, ...]:
    if place.at("kind").value == "List":
        return tuple(Place(f"{item.where} {item.path}", "", item.value) for item in place.at("items").items())
    return (place,)


def _is_scenario(place: Place) -> bool:
    return (place.at("apiVersion").value, place.at("kind").value) == (API_VERSION, SCENARIO)


def _object(place: Place) -> tuple[tuple[Kind, Json]]:
    """Return the object under the kind that it says it is, with the namespace that kubectl would give it."""
    api_version, name = place.at("apiVersion").text(), place.at("kind").text()
    kind = _KINDS.get(name)
    if name == SCENARIO:
        raise place.at("apiVersion").refused(f"{API_VERSION} for a {SCENARIO}")
    if kind is None:
        raise place.at("kind").refused(suggest(name, [*_KINDS, "List", SCENARIO]))
    if api_version != kind.api_version:
        raise place.at("apiVersion").refused(f"{kind.api_version} for a {name}")
    metadata = dict(place.at("metadata").mapping())
    for texts in ("labels", "annotations"):
        for field in place.at("metadata", texts).entries().values():
            field.read(_in_quotes)
    place.at("metadata", "name").needed()
    if kind.namespaced:
        metadata["namespace"] = place.at("metadata", "namespace").text() or "default"
    return ((kind, {**place.mapping(), "metadata": metadata}),)


def _twice(objects: Iterable[tuple[Kind, Json]], name: str) -> Iterator[Problem]:
    counts = Counter((kind.kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]) for kind, obj in objects)
    for (kind, namespace, own), count in counts.items():
        if count > 1:
            where = f"{kind.lower()} {namespace}/{own}" if namespace else f"{kind.lower()} {own}"
            yield Problem(where=f"{name}: {where}", field="number of documents", value=str(count), want="one")


# --- the scenario itself ----------------------------------------------------------------------------------------------


def _scenario(place: Place) -> tuple[Scenario]:
    spec = parse(_Document, place.value, where=place.where, field="").spec
    models = tuple(_gpu_model(model) for model in spec.gpu_models)
    if problems := list(_contradictions(place, spec, GpuTable(models))):
        raise BadInputError(*problems)
    return (
        Scenario(
            gpu_models=models,
            cloud=_cloud(spec.cloud) if spec.cloud else None,
            workloads=tuple(map(_workload, spec.workloads)),
            seed=spec.seed,
            start_s=spec.start,
        ),
    )


def _gpu_model(model: _GpuModel) -> GpuModel:
    return GpuModel(name=model.name, vram_mib=model.vram_mib, mtflops=model.tflops, source=model.source)


def _cloud(cloud: _Cloud) -> Cloud:
    return Cloud(
        region=cloud.region,
        zones=tuple(cloud.zones),
        boot_delay_s=cloud.boot_delay,
        shutdown_delay_s=cloud.shutdown_delay,
        instance_types=tuple(map(_instance_type, cloud.instance_types)),
        capacity=tuple(Capacity(**dict(row)) for row in cloud.capacity),
        launch_template=cloud.launch_template,
    )


def _instance_type(one: _InstanceType) -> InstanceType:
    return InstanceType(
        name=one.name,
        gpu_model=one.gpu_model or "",
        gpu_count=one.gpus or int(one.gpu_model is not None),
        cpu_milli=one.cpu,
        memory_mib=one.memory,
        price_micro_usd=one.usd_per_hour,
        spot_price_micro_usd=one.spot_usd_per_hour,
    )


def _workload(one: _Workload) -> Workload:
    return Workload(
        name=one.name,
        namespace=one.namespace,
        replicas=one.replicas,
        arrive_after_s=one.arrive_after,
        run_for_s=one.run_for,
        template=one.template.model_dump(exclude_unset=True) | {"metadata": one.template.metadata.model_dump(exclude_unset=True)},
    )


def _contradictions(place: Place, spec: _Scenario, gpus: GpuTable) -> Iterator[Problem]:
    """Yield names that nothing has, and names that two have."""
    at = partial(_item, place.where)
    yield from _repeated(at, "gpuModels", [model.name for model in spec.gpu_models])
    yield from _repeated(at, "workloads", [f"{one.namespace}/{one.name}" for one in spec.workloads])
    if spec.cloud is None:
        return
    types = [one.name for one in spec.cloud.instance_types]
    rows = spec.cloud.capacity
    yield from _repeated(at, "cloud.zones", spec.cloud.zones)
    yield from _repeated(at, "cloud.instanceTypes", types)
    yield from _repeated(at, "cloud.capacity", [f"{one.instance_type}/{one.zone}/{one.capacity_type}" for one in rows])
    for index, one in enumerate(spec.cloud.instance_types):
        if one.gpu_model is None and one.gpus is not None:
            yield at("cloud.instanceTypes", index, "gpuModel").refused(f"the model of its {one.gpus} GPUs").problem
        elif one.gpu_model is not None:
            model = at("cloud.instanceTypes", index, "gpuModel", one.gpu_model)
            problems: list[Problem] = []
            tried(problems, partial(gpus.find, one.gpu_model, where=model.where, field=model.path), None)
            yield from problems
    for index, row in enumerate(rows):
        for key, value, known in (("instanceType", row.instance_type, types), ("zone", row.zone, spec.cloud.zones)):
            if value not in known:
                yield at("cloud.capacity", index, key, value).refused(suggest(value, known)).problem


def _item(where: str, path: str, index: int, key: str = "", value: str = "") -> Place:
    return Place(where, f"spec.{path}[{index}]" + (f".{key}" if key else ""), value)


def _repeated(at: Callable[..., Place], path: str, names: Sequence[str]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            yield at(path, index, value=name).refused(f"a name that {path}[{first[name]}] does not have").problem
