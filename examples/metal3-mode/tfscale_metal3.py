"""A scaling mode of your own, worked out: bare-metal hosts of Metal3 are switched on when they are needed, and off again.

The hosts have the node image on disk and join the cluster when they boot, with the provider id ``metal3://NAMESPACE/NAME``.
A label says of which type each is; the pool's options say which cards that type has, Metal3's inspection the rest.

A pool takes a host with one patch: its consumer, its call and ``online: true`` together, on the condition that nobody changed
the host since it was looked at. So no host is taken twice, and none is half taken after a crash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Self

from pydantic import PositiveInt

from tfscale.errors import ClusterError, ModeError, NotFoundError, Problem
from tfscale.kube.port import GPU_POOLS, Json, Kind
from tfscale.model import INSTANCE_TYPE, LaunchBatch, Machine, NodeRequest, Notice, Offer
from tfscale.modes.base import LaunchResult, ModeContext, Order, Refusal, ScalingMode
from tfscale.spec import Spec, Usd, parse

__all__ = ["HOSTS", "Metal3Mode"]

HOSTS = Kind("metal3.io", "v1alpha1", "baremetalhosts", "BareMetalHost", namespaced=True)
ZONE = "topology.kubernetes.io/zone"
POOL, BATCH = "tfscale.io/pool", "tfscale.io/batch"
INSTALLED = ("provisioned", "externally provisioned")


class HostType(Spec):
    """What hosts of one type have that Metal3 does not tell."""

    gpu_model: str
    gpus: PositiveInt
    usd_per_hour: Usd | None = None


class Options(Spec):
    """What a pool may set under ``spec.options``. An unknown key is refused, with the nearest known one as advice."""

    namespace: str
    types: dict[str, HostType]
    """By the value of the hosts' label ``node.kubernetes.io/instance-type``."""


class Metal3Mode:
    """The hosts of one namespace for one pool."""

    name: ClassVar[str] = "metal3"
    reclaims_idle: ClassVar[bool] = False  # nobody but us switches them off
    in_cluster: ClassVar[bool] = True  # a host that was taken is listed at once

    def __init__(self, context: ModeContext, options: Options) -> None:
        self._kube, self._pool, self._options = context.kube, context.pool, options
        where = f"gpupool {context.pool.name}"
        self._cards = {
            name: context.gpus.find(kind.gpu_model, where=where, field=f"spec.options.types.{name}.gpuModel")
            for name, kind in options.types.items()
        }
        self._models = {
            context.gpus.find(name, where=where, field="spec.offers.gpuModels").name for name in context.pool.wanted.gpu_models
        }

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Read the options. Everything that is wrong with them is told here, before anybody is called."""
        where = f"gpupool {context.pool.name}"
        return cls(context, parse(Options, dict(context.pool.options), where=where, field="spec.options"))

    def check(self) -> Sequence[Problem]:
        """Name each type of which there is no host. A check changes nothing."""
        there = {_label(host, INSTANCE_TYPE) for host in self._hosts()}
        where, want = f"gpupool {self._pool.name}", f"a type that hosts in namespace {self._options.namespace} are labelled with"
        missing = [name for name in self._options.types if name not in there]
        return [Problem(where=where, field="a key of spec.options.types", value=name, want=want) for name in missing]

    def offers(self) -> Sequence[Offer]:
        """Offer each type and zone of which a host is free, or ours: the loop looks up what is still booting."""
        hosts = [host for host in self._hosts() if _is_free(host) or self._is_ours(host)]
        return list({offer.id: offer for offer in map(self._offer, hosts) if offer}.values())

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:  # noqa: ARG002 - hosts are named, no token is needed
        """Choose the hosts, so that a replay can only mean the same ones. None is touched before this is written down."""
        rank = {offer.id: place for place, offer in enumerate(offers)}
        found = [(self._offer(host), _name(host)) for host in self._hosts() if _is_free(host)]
        free = sorted((rank[offer.id], host) for offer, host in found if offer and offer.id in rank)
        return Order(parameters={"hosts": sorted(host for _, host in free[: len(requests)])}, offers=tuple(rank))

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Take the hosts that were written down: sorted hosts for sorted requests, as the loop itself would match them."""
        hosts = dict(zip(sorted(batch.requests), batch.parameters["hosts"], strict=False))
        with _answered(f"launch {batch.name}"):
            taken = {request: self._taken(host, batch.name) for request, host in hosts.items()}
        lack = tuple(Refusal(offer=offer, code="NoFreeHost", message="no host of it is free") for offer in batch.offers)
        return [
            LaunchResult(request=request, machine=machine, refusals=() if machine else lack)
            for request in batch.requests
            for machine in [taken.get(request)]
        ]

    def observe(self) -> Sequence[Machine]:
        """Return our hosts, and those that we gave back for as long as they are on."""
        return [self._machine(host) for host in self._hosts() if self._is_ours(host) or self._is_stopping(host)]

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Give up our hosts and switch them off. Whoever is not ours is passed over, and so is who is gone."""
        with _answered("terminate"):
            for host in self._hosts():
                if self._machine(host).id in machine_ids and self._is_ours(host):
                    self._patch(host, metadata={}, spec={"online": False, "consumerRef": None})

    def hold(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nobody else removes these machines."""

    def release(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: no host is protected from anybody."""

    def notices(self) -> Sequence[Notice]:
        """Return nothing: nobody takes these hosts away."""
        return ()

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Do nothing: there are no notices."""

    def _taken(self, name: str, batch: str) -> Machine | None:
        """Return the host if it is ours by this call, made now or before; None where it is somebody else's or no more."""
        try:
            host = self._kube.get(HOSTS, name, namespace=self._options.namespace)
        except NotFoundError:
            return None
        if _is_free(host):
            marks = {"labels": {POOL: self._pool.name}, "annotations": {BATCH: batch}}
            host = self._patch(host, metadata=marks, spec={"online": True, "consumerRef": self._consumer})
        machine = self._machine(host)
        return machine if self._is_ours(host) and machine.batch == batch else None

    def _patch(self, host: Json, *, metadata: Json, spec: Json) -> Json:
        unchanged = {"resourceVersion": host["metadata"]["resourceVersion"]}
        patch = {"metadata": unchanged | metadata, "spec": spec}
        return self._kube.patch(HOSTS, _name(host), patch, namespace=self._options.namespace)

    def _hosts(self) -> list[Json]:
        with _answered("list of hosts"):
            return self._kube.list(HOSTS, namespace=self._options.namespace).items

    @property
    def _consumer(self) -> Json:
        return {"apiVersion": GPU_POOLS.api_version, "kind": GPU_POOLS.kind, "name": self._pool.name}

    def _is_ours(self, host: Json) -> bool:
        return bool(host["spec"].get("consumerRef") == self._consumer)

    def _is_stopping(self, host: Json) -> bool:
        """Whether it was ours last, nobody wants it, and it is still on."""
        wanted = host["spec"].get("consumerRef") or host["spec"].get("online")
        return _label(host, POOL) == self._pool.name and not wanted and _is_on(host)

    def _machine(self, host: Json) -> Machine:
        offer, own = self._offer(host), f"{self._options.namespace}/{_name(host)}"
        return Machine(
            id=own,
            batch=(host["metadata"].get("annotations") or {}).get(BATCH, ""),
            pool=self._pool.name,
            offer=offer.id if offer else "",
            provider_id=f"metal3://{own}",
            stopping=not host["spec"].get("online"),
        )

    def _offer(self, host: Json) -> Offer | None:
        """Return what the host is, or None where that is not known or not wanted."""
        name, wanted = _label(host, INSTANCE_TYPE), self._pool.wanted
        hardware = (host.get("status") or {}).get("hardware")
        if name not in self._cards or not hardware:
            return None
        card, kind = self._cards[name], self._options.types[name]
        offer = Offer(
            instance_type=name,
            zone=_label(host, ZONE) or self._options.namespace,
            capacity_type="on-demand",
            gpu_model=card.name,
            gpu_count=kind.gpus,
            vram_mib=card.vram_mib,
            mtflops=card.mtflops,
            cpu_milli=hardware["cpu"]["count"] * 1_000,
            memory_mib=hardware["ramMebibytes"],
            price_micro_usd=kind.usd_per_hour,
        )
        filters = (
            (name, wanted.instance_types),
            (offer.zone, wanted.zones),
            (offer.capacity_type, wanted.capacity_types),
            (card.name, self._models),
        )
        return offer if all(value in allowed or not allowed for value, allowed in filters) else None


def _is_free(host: Json) -> bool:
    """Whether nobody uses or will use the host, and it would boot as a node."""
    status, spec = host.get("status") or {}, host["spec"]
    installed = (status.get("provisioning") or {}).get("state") in INSTALLED and status.get("operationalStatus") == "OK"
    taken = spec.get("consumerRef") or spec.get("online") or "deletionTimestamp" in host["metadata"]
    return installed and not taken and not _is_on(host)


def _is_on(host: Json) -> bool:
    return bool((host.get("status") or {}).get("poweredOn"))


def _name(host: Json) -> str:
    return str(host["metadata"]["name"])


def _label(host: Json, key: str) -> str:
    return str((host["metadata"].get("labels") or {}).get(key, ""))


@contextmanager
def _answered(action: str) -> Iterator[None]:
    """Turn what Kubernetes says into a mode's error: whatever it is, the loop will ask again."""
    try:
        yield
    except ClusterError as error:
        raise ModeError(f"{action}: {error}") from error


_: type[ScalingMode] = Metal3Mode  # a type checker sees whether anything is missing
