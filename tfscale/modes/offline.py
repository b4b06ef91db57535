"""A mode without its cloud: what can be said of its pool from the cluster's objects and a price list alone, for a plan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Self

from tfscale.errors import LaunchRefusedError, ModeError, Problem
from tfscale.kube.fields import named, tried
from tfscale.kube.port import NODE_CLAIMS, NODE_REQUESTS, NODES
from tfscale.kube.records import read_node_request
from tfscale.model import LaunchBatch, Machine, NodeRequest, Notice, Offer
from tfscale.modes.base import LaunchResult, ModeContext, Order, ScalingMode
from tfscale.modes.nodeclaim_options import canonical
from tfscale.modes.nodeclaim_providers import AWS
from tfscale.modes.nodeclaim_types import Living, known_types, living, offer_of, type_problems, wanted_types

__all__ = ["offline"]


def offline(real: type[ScalingMode]) -> type[ScalingMode]:
    """Return a mode that stands for `real` where no cloud is to be called.

    Pools are still opened with `real`, so that it checks their options. What is on offer are the types of the catalogue
    in the zones that the pool names, else in those of the cluster's nodes; machines are those of the node requests.
    """

    class Offline(_Offline):
        # What a plug-in lacks is for the loop to report, when it opens and asks it.
        name: ClassVar[str] = str(getattr(real, "name", real))
        reclaims_idle: ClassVar[bool] = getattr(real, "reclaims_idle", False)

        @classmethod
        def open(cls, context: ModeContext) -> Self:
            """Return the mode. Raises ``BadInputError`` for what the real one refuses."""
            real.open(context)
            return cls(context)

    return Offline


class _Offline:
    name: ClassVar[str]
    reclaims_idle: ClassVar[bool]
    in_cluster: ClassVar[bool] = False

    def __init__(self, context: ModeContext) -> None:
        self._kube = context.kube
        self._gpus = context.gpus
        self._pool = context.pool
        self._wanted = canonical(context.pool, context.gpus)
        self._types = known_types(context.catalogue, context.gpus)

    def check(self) -> Sequence[Problem]:
        """Return what leaves nothing to launch."""
        where = f"gpupool {self._pool.name}"
        problems = type_problems(self._types, self._wanted, where)
        if not self._zones(self._living()):
            want = "at least one zone: no node of the cluster is labelled with its own"
            problems.append(Problem(where=where, field="spec.offers.zones", value="", want=want))
        return problems

    def offers(self) -> Sequence[Offer]:
        """Return every wanted type, zone and capacity type. Whether the zone has the type is not known; spot has no price."""
        seen = self._living()
        return [
            offer_of(kind, zone, capacity_type, labels={**kind.labels(""), **seen.place(zone, AWS)}, taints=())
            for kind in wanted_types(self._types.values(), self._wanted)
            for zone in self._zones(seen)
            for capacity_type in self._wanted.capacity_types
        ]

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:
        """Raise ``LaunchRefusedError``."""
        raise LaunchRefusedError(f"a plan buys nothing: {name} asks for {len(requests)} of {len(offers)} offers at {now_s}")

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Raise ``ModeError``."""
        raise ModeError(f"a plan calls no cloud: batch {batch.name}")

    def observe(self) -> Sequence[Machine]:
        """Return the machines that are recorded, as if each of them still ran."""
        read = (tried([], partial(read_node_request, obj), None) for obj in self._kube.list(NODE_REQUESTS).items)
        nodes = {node["metadata"]["name"]: node for node in self._kube.list(NODES).items}
        return [
            Machine(
                id=request.machine_id,
                batch="",
                pool=request.pool,
                offer=request.offer,
                provider_id=tried([], named("node", nodes.get(request.node, {})).at("spec", "providerID").text, ""),
                launched_s=request.launched_s,
            )
            for request in read
            if request and request.machine_id and (request.pool, request.mode) == (self._pool.name, self.name)
        ]

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Raise ``ModeError``."""
        raise ModeError(f"a plan calls no cloud: machines {', '.join(machine_ids)}")

    def hold(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nothing is really there."""

    def release(self, machine_ids: Sequence[str]) -> None:
        """Raise ``ModeError``."""
        raise ModeError(f"a plan calls no cloud: machines {', '.join(machine_ids)}")

    def notices(self) -> Sequence[Notice]:
        """Return nothing: no cloud is asked."""
        return ()

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Do nothing: there are no notices."""

    def _living(self) -> Living:
        objects = [*self._kube.list(NODE_CLAIMS).items, *self._kube.list(NODES).items]
        return living(objects, self._gpus, self._types)

    def _zones(self, seen: Living) -> Sequence[str]:
        return self._wanted.zones or sorted(seen.zones)
