"""``GPUPool`` objects as pools, and back.

A pool with a problem is left out as a whole: its nodes are not touched and its pods wait until it is put right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue

from tfscale.conditions import updated
from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuTable
from tfscale.kube.conditions import read_conditions, write_conditions
from tfscale.kube.fields import Field as Place
from tfscale.kube.fields import named, tried
from tfscale.kube.port import GPU_POOLS, Json
from tfscale.pool import RECOVER, STOP_BUYING, TERMINATE_ALL, Limits, OfferFilter, Pool, SetAside
from tfscale.quantity import duration_text, time_text, usd_text
from tfscale.spec import Duration, Spec, Usd, parse
from tfscale.status import PoolStatus

__all__ = ["FINALIZER", "pool_object", "read_pool", "read_pools", "read_set_aside", "set_aside_status", "status_patch"]

FINALIZER = "tfscale.io/machines"
"""Keeps a pool that is deleted until all that was bought for it is given back."""

_DEFAULTS = Pool(name="", mode="")


def _served(version: str, *later: str) -> BeforeValidator:
    """Return the check of a setting that this version serves in one way only."""

    def check(value: object) -> object:
        if value in later:
            raise ValueError(f"{version}; this version does not serve {value}")
        return value

    return BeforeValidator(check)


class _Offers(Spec):
    instance_types: list[str] | None = None
    gpu_models: list[str] | None = None
    zones: list[str] | None = None
    capacity_types: list[Literal["on-demand", "spot", "reserved"]] | None = None


class _Limits(Spec):
    nodes: Annotated[int, Field(ge=0)] | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    usd_per_hour: Usd | None = None
    in_flight: Annotated[int, Field(ge=0)] | None = None
    launches_per_minute: Annotated[int, Field(ge=0)] | None = None


class _Headroom(Spec):
    percent: Annotated[int, Field(ge=0, le=90)] = 0


class _GpuPool(Spec):
    mode: Annotated[str, Field(min_length=1)]
    options: dict[str, JsonValue] = Field(default_factory=dict)
    offers: _Offers = _Offers()
    limits: _Limits = _Limits()
    headroom: _Headroom = _Headroom()
    idle_after: Duration = _DEFAULTS.idle_after_s
    launch_within: Annotated[Duration, Field(ge=1)] = _DEFAULTS.launch_within_s
    register_within: Annotated[Duration, Field(ge=1)] = _DEFAULTS.register_within_s
    initialise_within: Annotated[Duration, Field(ge=1)] = _DEFAULTS.initialise_within_s
    drain_within: Annotated[Duration, Field(ge=1)] = _DEFAULTS.drain_within_s
    set_aside_for: Duration = _DEFAULTS.set_aside_s
    default: bool = False
    binder: Annotated[Literal["loop"], _served("loop", "extender")] = "loop"
    inventory: Annotated[Literal["counts"], _served("counts", "agent")] = "counts"


def read_pools(objects: Iterable[Json], *, gpus: GpuTable) -> tuple[tuple[Pool, ...], tuple[Problem, ...]]:
    """Return the pools that are right, by name, and what is wrong with the others."""
    problems: list[Problem] = []
    read = [tried(problems, partial(_read, obj, gpus, problems), None) for obj in objects]
    return tuple(sorted(filter(None, read), key=lambda pool: pool.name)), tuple(problems)


def _read(obj: Json, gpus: GpuTable, problems: list[Problem]) -> Pool:
    """Return the pool with what was set aside; a list of ours that cannot be read is noted and forgotten."""
    return replace(read_pool(obj, gpus=gpus), set_aside=tried(problems, lambda: read_set_aside(obj), ()))


def read_pool(obj: Json, *, gpus: GpuTable) -> Pool:
    """Return the pool that the spec describes. Raises ``BadInputError`` with all that is wrong with it."""
    place = named("gpupool", obj)
    spec = parse(_GpuPool, place.at("spec").value, where=place.where, field="spec")
    return Pool(
        name=place.at("metadata", "name").needed(),
        mode=spec.mode,
        options=spec.options,
        wanted=_wanted(place, spec, gpus),
        limits=Limits(
            nodes=spec.limits.nodes,
            gpus=spec.limits.gpus,
            micro_usd=spec.limits.usd_per_hour,
            in_flight=spec.limits.in_flight,
            launches_per_minute=spec.limits.launches_per_minute,
        ),
        headroom_pct=spec.headroom.percent,
        idle_after_s=spec.idle_after,
        launch_within_s=spec.launch_within,
        register_within_s=spec.register_within,
        initialise_within_s=spec.initialise_within,
        drain_within_s=spec.drain_within,
        set_aside_s=spec.set_aside_for,
        default=spec.default,
        deleting=place.at("metadata", "deletionTimestamp").given,
        guarded=FINALIZER in place.at("metadata", "finalizers").texts(),
        stop_buying=_stop(place.at("metadata", "annotations", STOP_BUYING).text()),
        terminates_all=place.at("metadata", "annotations", TERMINATE_ALL).text() == "true",
        recovers_all=place.at("metadata", "annotations", RECOVER).text() == "true",
    )


def _stop(text: str) -> str:
    """Return why buying is stopped; empty where it is not. Whatever the annotation says but no, it was meant to stop it."""
    return "" if text.strip().lower() in {"", "false", "no"} else text


def _wanted(place: Place, spec: _GpuPool, gpus: GpuTable) -> OfferFilter:
    offers = spec.offers
    problems: list[Problem] = []
    if spec.mode != "static":
        for key, given in place.at("spec", "offers").entries().items():
            if given.value == []:
                want = "at least one" if key == "capacityTypes" else "at least one, or no such key to accept all"
                problems.append(given.refused(want).problem)
    models = [tried(problems, partial(_model, model, gpus), "") for model in place.at("spec", "offers", "gpuModels").items()]
    if problems:
        raise BadInputError(*problems)
    return OfferFilter(
        instance_types=tuple(offers.instance_types or ()),
        gpu_models=tuple(models),
        zones=tuple(offers.zones or ()),
        capacity_types=OfferFilter().capacity_types if offers.capacity_types is None else tuple(offers.capacity_types),
    )


def _model(name: Place, gpus: GpuTable) -> str:
    return gpus.find(name.needed(), where=name.where, field=name.path).name


def read_set_aside(obj: Json) -> tuple[SetAside, ...]:
    """Return the offers that the pool's status leaves out for a while. Raises ``BadInputError``."""
    return tuple(
        SetAside(
            offer=item.at("offer").needed(),
            pod=item.at("podUid").text(),
            until_s=item.at("until").seconds(),
            times=item.at("times").whole(1, least=1),
            reason=item.at("reason").text(),
        )
        for item in named("gpupool", obj).at("status", "setAside").items()
    )


def set_aside_status(entries: Sequence[SetAside]) -> Json:
    """Return the patch of a pool's status that leaves these offers out for a while."""
    listed = [
        {"offer": entry.offer, "until": time_text(entry.until_s), "times": entry.times, "reason": entry.reason}
        | ({"podUid": entry.pod} if entry.pod else {})
        for entry in entries
    ]
    return {"status": {"setAside": listed}}


def status_patch(obj: Json, status: PoolStatus, *, now_s: int) -> Json:
    """Return the patch that makes a pool's status say this, empty where it says so already. Others' conditions stay."""
    written = Place(named("gpupool", obj).where, "status", obj["status"] if isinstance(obj.get("status"), Mapping) else None)
    wanted = {
        "nodes": status.nodes,
        "gpus": status.gpus,
        "bought": status.bought,
        "pods": {"bound": status.bound, "waiting": status.waiting, "unmet": status.unmet},
        "conditions": write_conditions(updated(read_conditions(written), [status.ready], now_s=now_s)),
    }
    changed = {key: value for key, value in wanted.items() if written.mapping().get(key) != value}
    return {"status": changed} if changed else {}


def pool_object(pool: Pool) -> Json:
    """Return the object of which ``read_pools`` makes this pool again."""
    wanted = {
        "instanceTypes": pool.wanted.instance_types,
        "gpuModels": pool.wanted.gpu_models,
        "zones": pool.wanted.zones,
        "capacityTypes": () if pool.wanted.capacity_types == _DEFAULTS.wanted.capacity_types else pool.wanted.capacity_types,
    }
    limits = {
        "nodes": pool.limits.nodes,
        "gpus": pool.limits.gpus,
        "usdPerHour": None if pool.limits.micro_usd is None else usd_text(pool.limits.micro_usd),
        "inFlight": pool.limits.in_flight,
        "launchesPerMinute": pool.limits.launches_per_minute,
    }
    parts = {
        "options": dict(pool.options),
        "offers": {key: list(names) for key, names in wanted.items() if names},
        "limits": {key: limit for key, limit in limits.items() if limit is not None},
    }
    spec = {
        "mode": pool.mode,
        **{key: part for key, part in parts.items() if part},
        "headroom": {"percent": pool.headroom_pct},
        "idleAfter": duration_text(pool.idle_after_s),
        "launchWithin": duration_text(pool.launch_within_s),
        "registerWithin": duration_text(pool.register_within_s),
        "initialiseWithin": duration_text(pool.initialise_within_s),
        "drainWithin": duration_text(pool.drain_within_s),
        "setAsideFor": duration_text(pool.set_aside_s),
        "default": pool.default,
    }
    return {
        "apiVersion": GPU_POOLS.api_version,
        "kind": GPU_POOLS.kind,
        "metadata": {"name": pool.name} | ({"finalizers": [FINALIZER]} if pool.guarded else {}),
        "spec": spec,
        **set_aside_status(pool.set_aside),
    }
