"""The ``Scenario`` document, read strictly: what may be written there, and what it must not contradict."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from tfscale.catalogue import InstanceTypeSpec
from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuModel, GpuTable
from tfscale.kube.fields import Field as Place
from tfscale.kube.fields import tried
from tfscale.quantity import milli_up, quantity, time_s
from tfscale.scenario.facts import (
    START,
    Arrivals,
    CallsFail,
    Capacity,
    CapacityChanges,
    Cloud,
    Fault,
    KarpenterStops,
    MachinesStop,
    Restart,
    Scenario,
    Workload,
)
from tfscale.spec import Duration, Spec, parse, suggest

__all__ = ["in_quotes", "read_document"]


def _thousandths(value: object) -> int:
    return milli_up(quantity(value))


def _start_s(value: object) -> int:
    start_s = time_s(value)
    if not time_s("2000-01-01T00:00:00Z") <= start_s < time_s("2100-01-01T00:00:00Z"):
        raise ValueError("an RFC 3339 time of this century, such as 2026-07-20T13:44:30Z")
    return start_s


def in_quotes(value: object) -> object:
    """Refuse what YAML takes for a number or a truth value where Kubernetes wants text, as every API server would."""
    if isinstance(value, bool | int | float):
        raise ValueError(f'a string: write "{json.dumps(value)}" in quotes')  # noqa: TRY004 - a TypeError is not reported
    if not (value is None or isinstance(value, str)):
        raise ValueError("a string")
    return value


_Thousandths = Annotated[int, BeforeValidator(_thousandths), Field(ge=1)]
_Text = Annotated[str, BeforeValidator(in_quotes)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _GpuModel(Spec):
    name: _Name
    vram_mib: Annotated[int, Field(ge=1, le=2**31)]
    tflops: _Thousandths
    source: str = "scenario"


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
    instance_types: Annotated[list[InstanceTypeSpec], Field(min_length=1)]
    capacity: list[_Capacity] = Field(default_factory=list)
    launch_template: _Name = "tfscale"


class _Metadata(Spec):
    labels: dict[str, _Text] = Field(default_factory=dict)
    annotations: dict[str, _Text] = Field(default_factory=dict)


class _Template(Spec):
    metadata: _Metadata = _Metadata()
    spec: dict[str, JsonValue]


class _Arrivals(Spec):
    over: Annotated[Duration, Field(ge=1)]
    pattern: Literal["even", "random", "diurnal"] = "even"
    peak_at: Duration | None = None
    peak_to_trough: Annotated[float, Field(ge=1, le=1000, strict=False)] | None = None

    @model_validator(mode="after")
    def _one_peak(self) -> _Arrivals:
        if self.pattern != "diurnal" and (self.peak_at is not None or self.peak_to_trough is not None):
            raise ValueError("a peak only with pattern diurnal")
        return self


class _Workload(Spec):
    name: _Name
    namespace: _Name = "default"
    replicas: Annotated[int, Field(ge=1, le=10**5)] = 1
    arrive_after: Duration = 0
    arrivals: _Arrivals | None = None
    run_for: Annotated[Duration, Field(ge=1)] | None = None
    template: _Template


class _Calls(Spec):
    operation: Literal[
        "CreateFleet", "DescribeInstances", "DescribeInstanceTypes", "DescribeLaunchTemplates", "TerminateInstances"
    ]
    fault: Literal["accessDenied", "lostReply", "serverError", "throttled", "unreachable"]
    times: Annotated[int, Field(ge=1, le=10**6)] = 1


class _Fault(Spec):
    at: Duration
    capacity: _Capacity | None = None
    calls_fail: _Calls | None = None
    machines_stop: Annotated[int, Field(ge=1, le=10**6)] | None = None
    restart: Literal[True] | None = None
    karpenter_stops_for: Annotated[Duration, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_fault(self) -> _Fault:
        if len(self.model_fields_set) != 2:  # noqa: PLR2004 - the time and what happens then
            raise ValueError("at, and one of capacity, callsFail, machinesStop, restart and karpenterStopsFor")
        return self


class _Scenario(Spec):
    gpu_models: list[_GpuModel] = Field(default_factory=list)
    cloud: _Cloud | None = None
    workloads: list[_Workload] = Field(default_factory=list)
    faults: list[_Fault] = Field(default_factory=list)
    duration: Annotated[Duration, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    start: Annotated[int, BeforeValidator(_start_s)] = time_s(START)


class _Document(Spec):
    api_version: str
    kind: str
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    spec: _Scenario = _Scenario()


def read_document(place: Place) -> Scenario:
    """Return the scenario of one document, without objects. Raises ``BadInputError`` with every problem."""
    spec = parse(_Document, place.value, where=place.where, field="").spec
    models = tuple(_gpu_model(model) for model in spec.gpu_models)
    if problems := list(_contradictions(place, spec, GpuTable(models))):
        raise BadInputError(*problems)
    return Scenario(
        gpu_models=models,
        cloud=_cloud(spec.cloud) if spec.cloud else None,
        workloads=tuple(map(_workload, spec.workloads)),
        faults=tuple(sorted(map(_fault, spec.faults), key=lambda fault: fault.at_s)),
        seed=spec.seed,
        start_s=spec.start,
        duration_s=spec.duration,
    )


def _gpu_model(model: _GpuModel) -> GpuModel:
    return GpuModel(name=model.name, vram_mib=model.vram_mib, mtflops=model.tflops, source=model.source)


def _cloud(cloud: _Cloud) -> Cloud:
    return Cloud(
        region=cloud.region,
        zones=tuple(cloud.zones),
        boot_delay_s=cloud.boot_delay,
        shutdown_delay_s=cloud.shutdown_delay,
        instance_types=tuple(one.facts() for one in cloud.instance_types),
        capacity=tuple(Capacity(**dict(row)) for row in cloud.capacity),
        launch_template=cloud.launch_template,
    )


def _workload(one: _Workload) -> Workload:
    return Workload(
        name=one.name,
        namespace=one.namespace,
        replicas=one.replicas,
        arrive_after_s=one.arrive_after,
        arrivals=_arrivals(one.arrivals) if one.arrivals else None,
        run_for_s=one.run_for,
        template=one.template.model_dump(exclude_unset=True) | {"metadata": one.template.metadata.model_dump(exclude_unset=True)},
    )


def _arrivals(one: _Arrivals) -> Arrivals:
    usual = Arrivals(over_s=one.over, pattern=one.pattern)
    return replace(
        usual,
        peak_at_s=usual.peak_at_s if one.peak_at is None else one.peak_at,
        peak_to_trough=usual.peak_to_trough if one.peak_to_trough is None else one.peak_to_trough,
    )


def _fault(one: _Fault) -> Fault:
    if one.capacity:
        return CapacityChanges(at_s=one.at, capacity=Capacity(**dict(one.capacity)))
    if one.calls_fail:
        return CallsFail(at_s=one.at, operation=one.calls_fail.operation, how=one.calls_fail.fault, times=one.calls_fail.times)
    if one.machines_stop:
        return MachinesStop(at_s=one.at, machines=one.machines_stop)
    if one.karpenter_stops_for:
        return KarpenterStops(at_s=one.at, for_s=one.karpenter_stops_for)
    return Restart(at_s=one.at)


def _contradictions(place: Place, spec: _Scenario, gpus: GpuTable) -> Iterator[Problem]:
    """Yield names that nothing has, and names that two have."""
    at = partial(_item, place.where)
    yield from _repeated(at, "gpuModels", [model.name for model in spec.gpu_models])
    yield from _repeated(at, "workloads", [f"{one.namespace}/{one.name}" for one in spec.workloads])
    if spec.cloud is None:
        yield from _without_cloud(at, spec)
        return
    types = [one.name for one in spec.cloud.instance_types]
    rows = spec.cloud.capacity
    yield from _repeated(at, "cloud.zones", spec.cloud.zones)
    yield from _repeated(at, "cloud.instanceTypes", types)
    yield from _repeated(at, "cloud.capacity", [f"{one.instance_type}/{one.zone}/{one.capacity_type}" for one in rows])
    for index, one in enumerate(spec.cloud.instance_types):
        if one.gpu_model is not None:
            model = at("cloud.instanceTypes", index, "gpuModel", one.gpu_model)
            problems: list[Problem] = []
            tried(problems, partial(gpus.find, one.gpu_model, where=model.where, field=model.path), None)
            yield from problems
    changes = {index: fault.capacity for index, fault in enumerate(spec.faults) if fault.capacity}
    for path, index, row in (
        *(("cloud.capacity", index, row) for index, row in enumerate(rows)),
        *(("faults", index, row) for index, row in changes.items()),
    ):
        before = "capacity." if path == "faults" else ""
        for key, value, known in (("instanceType", row.instance_type, types), ("zone", row.zone, spec.cloud.zones)):
            if value not in known:
                yield at(path, index, before + key, value).refused(suggest(value, known)).problem


def _without_cloud(at: Callable[..., Place], spec: _Scenario) -> Iterator[Problem]:
    """Yield the faults that happen to a cloud, where there is none."""
    for index, fault in enumerate(spec.faults):
        for key, given in (("capacity", fault.capacity), ("callsFail", fault.calls_fail), ("machinesStop", fault.machines_stop)):
            if given:
                yield at("faults", index, key, key).refused("a fault of a scenario with spec.cloud").problem


def _item(where: str, path: str, index: int, key: str = "", value: str = "") -> Place:
    return Place(where, f"spec.{path}[{index}]" + (f".{key}" if key else ""), value)


def _repeated(at: Callable[..., Place], path: str, names: Sequence[str]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            yield at(path, index, value=name).refused(f"a name that {path}[{first[name]}] does not have").problem
