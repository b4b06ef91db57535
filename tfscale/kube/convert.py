"""Kubernetes objects to the facts tfscale decides on, and back. One bad object never hides the others.

Everything is read here in one pass: what is wrong with an object becomes a ``Problem``, and its harm is kept small. A pod
that cannot be read waits, a node that cannot be read is fenced, and a pool that cannot be read, or one of whose records
cannot be read, is left alone: what was bought for it is not known then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from tfscale.errors import Problem
from tfscale.gpus import GpuTable
from tfscale.kube.fields import Field, named, tried
from tfscale.kube.nodes import POOL_LABEL, advertisement, idle_mark, machine_id, read_node
from tfscale.kube.pods import BoundPods, allocation, holds, keeps_busy, pool_name, read_demand, read_guest, waits
from tfscale.kube.pools import FINALIZER, pool_object, read_pools, read_set_aside, set_aside_status, status_patch
from tfscale.kube.port import Json
from tfscale.kube.records import (
    batch_settled,
    read_batch,
    read_node_request,
    request_status,
    write_batch,
    write_request,
)
from tfscale.kube.requests import TENSOR_FUSION
from tfscale.lifecycle import State
from tfscale.model import DISRUPTED, Cluster, Demand, Guest, LaunchBatch, Machine, Node, NodeRequest, Notice
from tfscale.pool import Pool
from tfscale.spec import suggest

__all__ = [
    "FINALIZER",
    "BoundPods",
    "advertisement",
    "allocation",
    "batch_settled",
    "idle_mark",
    "keeps_busy",
    "pool_object",
    "read_cluster",
    "read_pools",
    "read_set_aside",
    "request_status",
    "set_aside_status",
    "status_patch",
    "write_batch",
    "write_request",
]

R = TypeVar("R", LaunchBatch, NodeRequest)


def read_cluster(  # noqa: PLR0913 - one list for each kind of object
    *,
    pods: Iterable[Json],
    nodes: Iterable[Json],
    pools: Iterable[Json],
    requests: Iterable[Json],
    batches: Iterable[Json],
    machines: Mapping[str, Sequence[Machine]],
    now_s: int,
    gpus: GpuTable,
    prefix: str = TENSOR_FUSION,
    bound: BoundPods | None = None,
    notices: Sequence[Notice] = (),
) -> Cluster:
    """Return everything that was observed, with all that is wrong in ``problems``. Raises nothing for a bad object.

    `machines` are what the modes see, by pool; `prefix` is that of TensorFusion's annotations. `bound`, kept from call to
    call, saves reading again what did not change. `notices` are what clouds said ahead of time. The order of the lists
    changes nothing.
    """
    problems: list[Problem] = []
    listed = list(pools)
    good, pool_problems = read_pools(listed, gpus=gpus)
    problems += pool_problems
    read_batches, broken_batches = _records(batches, "launchbatch", read_batch, problems)
    read_requests, broken_requests = _records(requests, "noderequest", read_node_request, problems)
    known = _Pools(
        good={pool.name: pool for pool in good if pool.name not in broken_batches | broken_requests},
        all={named("gpupool", obj).where.removeprefix("gpupool ") for obj in listed},
    )
    problems += known.two_defaults()
    problems += _without_pool(read_requests, known.all)
    roots = [named("pod", obj) for obj in pods]
    bound = bound or BoundPods(gpus, prefix)
    on_node = _on_nodes(roots, problems)
    read_nodes = _nodes([named("node", obj) for obj in nodes], on_node, machines, gpus, bound, problems)
    bound.forget_others()
    problems += _labelled_in_vain(read_nodes, known.all)
    return Cluster(
        now_s=now_s,
        pools=tuple(known.good.values()),
        nodes=read_nodes,
        demands=_demands(roots, known, gpus, prefix, problems),
        requests=tuple(_with_batch(request, {batch.name: batch for batch in read_batches}) for request in read_requests),
        batches=read_batches,
        machines=machines,
        guests=_guests(on_node, _going(read_nodes, read_requests, _doomed(notices, machines), known), gpus, prefix),
        notices=tuple(notices),
        problems=tuple(sorted(set(problems))),
    )


def _records(
    objects: Iterable[Json], kind: str, read: Callable[[Json], R], problems: list[Problem]
) -> tuple[tuple[R, ...], set[str]]:
    """Return the records by name, and the pools of those that cannot be read."""
    records: list[R] = []
    broken: set[str] = set()
    for obj in objects:
        record = tried(problems, partial(read, obj), None)
        if record is None:
            broken.add(tried([], partial(_pool_of, named(kind, obj)), ""))
        else:
            records.append(record)
    return tuple(sorted(records, key=lambda record: record.name)), broken


def _without_pool(requests: Iterable[NodeRequest], pools: set[str]) -> Iterable[Problem]:
    for request in requests:
        if request.pool not in pools:
            want = f"a gpupool that exists, to give {request.machine_id or 'what it asked for'} back"
            yield Problem(where=f"noderequest {request.name}", field="spec.pool", value=request.pool, want=want)


def _pool_of(record: Field) -> str:
    return record.at("spec", "pool").text()


def _with_batch(request: NodeRequest, batches: Mapping[str, LaunchBatch]) -> NodeRequest:
    """Return the request without a batch that does not carry it: one that is not there, or that does not name it.

    One that is still Requested after its call was settled got no machine of it.
    """
    batch = batches.get(request.batch)
    carried = batch is not None and request.name in batch.requests
    if batch is None or not carried or (batch.settled and request.state is State.REQUESTED):
        return replace(request, batch="")
    return request


# --- nodes ------------------------------------------------------------------------------------------------------------


def _nodes(
    nodes: Iterable[Field],
    on_node: Mapping[str, Sequence[Field]],
    machines: Mapping[str, Sequence[Machine]],
    gpus: GpuTable,
    bound: BoundPods,
    problems: list[Problem],
) -> tuple[Node, ...]:
    launched = {
        key: (pool, one.id) for pool, seen in machines.items() for one in seen for key in (one.id, one.provider_id) if key
    }
    read = (
        read_node(
            node,
            on_node.get(node.where.removeprefix("node "), ()),
            machine=_machine(node, launched),
            gpus=gpus,
            bound=bound,
            problems=problems,
        )
        for node in nodes
    )
    return tuple(sorted(filter(None, read), key=lambda node: node.name))


def _on_nodes(pods: Iterable[Field], problems: list[Problem]) -> dict[str, list[Field]]:
    """Return the pods by the node whose resources they hold."""
    found: defaultdict[str, list[Field]] = defaultdict(list)
    for pod in sorted(pods, key=lambda pod: pod.where):
        found[_node_of(pod, problems)].append(pod)
    return found


def _labelled_in_vain(nodes: Iterable[Node], pools: set[str]) -> Iterable[Problem]:
    """Yield a problem for each node whose label names a pool that nobody made: no pod would ever come there."""
    for node in nodes:
        if node.pool not in pools and node.labels.get(POOL_LABEL) == node.pool:
            field = f"metadata.labels[{POOL_LABEL}]"
            want = suggest(node.pool, sorted(pools)) if pools else "the name of a gpupool (there is none)"
            yield Problem(where=f"node {node.name}", field=field, value=node.pool, want=want)


def _node_of(pod: Field, problems: list[Problem]) -> str:
    """Return the node whose resources the pod holds. Where its phase cannot be read, it holds them."""
    node = tried(problems, partial(holds, pod), None)
    return tried([], lambda: pod.at("spec", "nodeName").text(), "") if node is None else node


def _machine(node: Field, launched: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """Return the pool that launched the machine behind a node, empty where none of ours did, and the machine's id."""

    def machine() -> tuple[str, str]:
        own, provider_id = machine_id(node), node.at("spec", "providerID").text()
        return launched.get(own) or launched.get(provider_id) or ("", own)

    return tried([], machine, ("", ""))  # read_node notes what is wrong with it


def _doomed(notices: Iterable[Notice], machines: Mapping[str, Sequence[Machine]]) -> set[str]:
    """Return the machines that the cloud will take away, and those to be replaced because they are outdated."""
    outdated = {one.id for seen in machines.values() for one in seen if one.outdated}
    return {notice.machine_id for notice in notices} | outdated


def _going(nodes: Iterable[Node], requests: Iterable[NodeRequest], doomed: AbstractSet[str], pools: _Pools) -> dict[str, str]:
    """Return the nodes that are to go, or may be, with their pools."""
    machines = doomed | {request.machine_id for request in requests if request.state is State.DRAINING}
    deleted = {pool.name for pool in pools.good.values() if pool.deleting}
    return {
        node.name: node.pool
        for node in nodes
        if node.machine_id in machines or node.pool in deleted or any(taint.key == DISRUPTED for taint in node.taints)
    }


def _guests(
    on_node: Mapping[str, Sequence[Field]], going: Mapping[str, str], gpus: GpuTable, prefix: str
) -> dict[str, tuple[Guest, ...]]:
    """Return the pods of the nodes that are to go, which are few: nothing else is read of those of the others."""
    read = partial(read_guest, gpus=gpus, prefix=prefix)
    return {
        node: tuple(guest for pod in on_node.get(node, ()) if (guest := read(pod, pool=pool))) for node, pool in going.items()
    }


# --- demands ----------------------------------------------------------------------------------------------------------


def _demands(pods: Iterable[Field], pools: _Pools, gpus: GpuTable, prefix: str, problems: list[Problem]) -> tuple[Demand, ...]:
    def demand(pod: Field) -> Demand | None:
        return read_demand(pod, pool=pools.choose(pod, prefix), gpus=gpus, prefix=prefix) if waits(pod) else None

    read = (tried(problems, partial(demand, pod), None) for pod in pods)
    return tuple(sorted(filter(None, read), key=lambda demand: demand.id))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pools:
    """The pools that a pod may name."""

    good: Mapping[str, Pool]
    all: set[str]
    """Names of the good ones and of those that cannot be used now."""

    def choose(self, pod: Field, prefix: str) -> str:
        """Return the pool that the pod names, else the default, else the only one. Raises ``BadInputError``."""
        name = pool_name(pod, prefix)
        if name.text():
            if name.text() in self.good:
                return name.text()
            raise name.refused(
                "a gpupool without problems" if name.text() in self.all else suggest(name.text(), sorted(self.all))
            )
        defaults = self._defaults()
        if len(defaults) == 1:
            return defaults[0]
        if len(self.all) == len(self.good) == 1:
            return next(iter(self.good))
        raise name.refused(
            f"the name of a gpupool ({', '.join(sorted(self.all)) or 'there is none'}): none serves as the default"
        )

    def two_defaults(self) -> Iterable[Problem]:
        """Yield a problem for each pool that is a second default: then none is."""
        first, *others = self._defaults() or [""]
        for name in others:
            want = f"only one default gpupool; {first} is one too"
            yield Problem(where=f"gpupool {name}", field="spec.default", value="true", want=want)

    def _defaults(self) -> list[str]:
        return sorted(pool.name for pool in self.good.values() if pool.default)
