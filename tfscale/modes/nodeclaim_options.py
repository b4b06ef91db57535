"""What a pool of a NodeClaim mode may set, checked before anything is called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from tfscale.catalogue import InstanceType, InstanceTypeSpec
from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuTable
from tfscale.kube.requests import OWN_PREFIX
from tfscale.modes.base import ModeContext
from tfscale.modes.nodeclaim_labels import is_fact
from tfscale.pool import OfferFilter, Pool
from tfscale.selectors import Taint
from tfscale.spec import Duration, Spec, parse

__all__ = ["ManagedOptions", "NodeClassRef", "ReuseOptions", "TaintSpec", "canonical", "catalogue_of", "options_of"]

_LONGEST_LABEL = 63
_DURATION = re.compile("([0-9]+(s|m|h))+")


def _grace_period(value: str) -> str:
    if not _DURATION.fullmatch(value):
        raise ValueError("a duration such as 48h or 1h30m")
    return value


def _group(value: str) -> str:
    if "/" in value:
        raise ValueError("a group without version, such as karpenter.k8s.aws")
    return value


_Name = Annotated[str, Field(min_length=1, max_length=200)]


class NodeClassRef(Spec):
    """The node class that brings image, network and bootstrap of the nodes."""

    group: Annotated[_Name, AfterValidator(_group)]
    kind: _Name
    name: _Name


class TaintSpec(Spec):
    """A taint of the nodes."""

    key: _Name
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"

    def taint(self) -> Taint:
        """Return the taint."""
        return Taint(key=self.key, value=self.value, effect=self.effect)


class _Options(Spec):
    instance_types: list[InstanceTypeSpec] = Field(default_factory=list)
    """Types beside those of the catalogue, or instead of its entries of the same name: what another cloud or a contract says."""
    in_flight: Annotated[int, Field(ge=1, le=1_000)] = 200
    """How many claims may wait for their machines at once: while one of them does, Karpenter buys for nobody else."""


class ManagedOptions(_Options):
    """The options of mode managed-nodeclaim."""

    node_class_ref: NodeClassRef
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes beside those that Karpenter and tfscale write."""
    taints: list[TaintSpec] | None = None
    """Instead of ``tfscale.io/pool=POOL:NoSchedule``, which only the pool's own pods need not tolerate.

    The taint keeps Karpenter from counting these nodes as room for any pod. DaemonSets of the GPU Operator must tolerate
    it: they tolerate ``nvidia.com/gpu`` by default.
    """
    startup_taints: list[TaintSpec] = Field(default_factory=list)
    """Taints that somebody takes off once the node can be used."""
    termination_grace_period: Annotated[str, AfterValidator(_grace_period)] | None = None
    """How long pods may hold up the end of a node; None is for ever."""

    @model_validator(mode="after")
    def _labels_of_others(self) -> ManagedOptions:
        for key in self.labels:
            if is_fact(key, self.node_class_ref.group) or key.startswith(f"{OWN_PREFIX}/"):
                raise ValueError(f"labels without {key}, which is not yours to set")
        return self


class ReuseOptions(_Options):
    """The options of mode reuse-nodeclaim."""

    node_pools: list[_Name] | None = None
    """The NodePools to take nodes from; None takes all that qualify."""
    protect_for: Duration = 300
    """How long an empty node is kept for its first pod once it can take pods, in seconds."""


O = TypeVar("O", bound=_Options)  # noqa: E741 - the option class of the caller


def options_of(spec: type[O], pool: Pool) -> O:
    """Return the pool's options. Raises ``BadInputError`` that names everything that is wrong."""
    where = f"gpupool {pool.name}"
    if len(pool.name) > _LONGEST_LABEL:
        want = f"at most {_LONGEST_LABEL} characters in mode {pool.mode}: it is a label of the nodes"
        raise BadInputError(Problem(where=where, field="metadata.name", value=pool.name, want=want))
    return parse(spec, dict(pool.options), where=where, field="spec.options")


def catalogue_of(context: ModeContext, options: _Options) -> Mapping[str, InstanceType]:
    """Return the instance types by name. Raises ``BadInputError`` for a card of the options that is in no table."""
    where, own = f"gpupool {context.pool.name}", options.instance_types
    for number, one in enumerate(own):
        if one.gpu_model is not None:
            context.gpus.find(one.gpu_model, where=where, field=f"spec.options.instanceTypes[{number}].gpuModel")
    _check_names(where, [one.name for one in own])
    return {**context.catalogue, **{one.name: one.facts() for one in own}}


def _check_names(where: str, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            field, want = f"spec.options.instanceTypes[{number}].name", "each name once"
            raise BadInputError(Problem(where=where, field=field, value=name, want=want))


def canonical(pool: Pool, gpus: GpuTable) -> OfferFilter:
    """Return what the pool wants with the GPU table's names of its card models. Raises ``BadInputError``."""
    models = tuple(
        gpus.find(name, where=f"gpupool {pool.name}", field=f"spec.offers.gpuModels[{number}]").name
        for number, name in enumerate(pool.wanted.gpu_models)
    )
    return replace(pool.wanted, gpu_models=models)
