"""Pods as facts: which wait for a place, which hold one, and the record of what they hold.

The record is the annotation ``tfscale.io/allocation``. It is written together with the node in one request when a pod is
bound, and it is the only truth about who holds which part of a card.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial

from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuTable
from tfscale.kube.constraints import NOT_HONOURED, blocks, node_terms, tolerations
from tfscale.kube.fields import Field, named, tried
from tfscale.kube.requests import OWN_PREFIX, check_spelling, cpu_request, gpu_notes, gpu_request, mirrored
from tfscale.kube.resources import pod_totals
from tfscale.model import CARD_MILLI, DISRUPTED, BoundPod, Demand, GpuSlice, Guest, Request
from tfscale.selectors import Taint, untolerated

__all__ = [
    "ALLOCATION",
    "SCHEDULER",
    "BoundPods",
    "allocation",
    "holds",
    "is_daemon",
    "keeps_busy",
    "pool_name",
    "read_allocation",
    "read_demand",
    "read_guest",
    "waits",
]

ALLOCATION = f"{OWN_PREFIX}/allocation"
_DO_NOT_DISRUPT = "do-not-disrupt"
_OTHER_KEYS = ("allocation", _DO_NOT_DISRUPT, "isolation", "vendor")
_HOLDS = (f"{OWN_PREFIX}/{_DO_NOT_DISRUPT}", f"karpenter.sh/{_DO_NOT_DISRUPT}")
_CLOSED = (Taint(key=DISRUPTED), Taint(key="node.kubernetes.io/unschedulable"))
"""What keeps pods away from a node that is to go."""
SCHEDULER = "tfscale"
_MIRROR_POD = "kubernetes.io/config.mirror"


def allocation(slices: Iterable[GpuSlice]) -> dict[str, str]:
    """Return the annotations that record what a pod holds; none for a pod without GPUs.

    >>> allocation([GpuSlice(gpu_id="0", vram_mib=4096, compute_milli=200)])
    {'tfscale.io/allocation': '[{"gpu":"0","vramMib":4096,"computeMilli":200}]'}
    """
    held = [{"gpu": part.gpu_id, "vramMib": part.vram_mib, "computeMilli": part.compute_milli} for part in slices]
    return {ALLOCATION: json.dumps(held, separators=(",", ":"))} if held else {}


def read_allocation(pod: Field) -> tuple[GpuSlice, ...]:
    """Return what the pod's record says, nothing where there is none. Raises ``BadInputError`` for a broken one."""
    note = pod.at("metadata", "annotations", ALLOCATION)
    if not note.given:
        return ()
    want = 'a JSON list such as [{"gpu":"0","vramMib":4096,"computeMilli":200}], each GPU once'
    try:
        held = tuple(map(_slice, Field(note.where, note.path, json.loads(note.text())).items()))
    except (ValueError, RecursionError, BadInputError):
        raise note.refused(want) from None
    if len({part.gpu_id for part in held}) < len(held):
        raise note.refused(want)
    return held


def waits(pod: Field) -> bool:
    """Return whether tfscale is to find a place for this pod: it names our scheduler and is free to be placed."""
    spec, meta, phase = pod.at("spec"), pod.at("metadata"), pod.at("status", "phase")
    return (
        spec.at("schedulerName").text() == SCHEDULER
        and not spec.at("nodeName").text()
        and (phase.text() or "Pending") == "Pending"
        and not meta.at("deletionTimestamp").given
        and not spec.at("schedulingGates").items()
    )


def holds(pod: Field) -> str:
    """Return the name of the node whose resources the pod holds, or nothing."""
    done = pod.at("status", "phase").text() in {"Succeeded", "Failed"}
    return "" if done else pod.at("spec", "nodeName").text()


def is_daemon(pod: Field) -> bool:
    """Return whether the pod belongs to the node rather than to a workload: it does not keep the node from being idle."""
    owners = {owner.at("kind").text() for owner in pod.at("metadata", "ownerReferences").items()}
    return not owners.isdisjoint({"DaemonSet", "Node"}) or pod.at("metadata", "annotations", _MIRROR_POD).given


def keeps_busy(obj: object) -> str:
    """Return the id of a pod that keeps its node from being idle, or nothing. A pod that cannot be read keeps it busy."""
    pod = named("pod", obj)
    try:
        idle = not holds(pod) or is_daemon(pod)
    except BadInputError:
        idle = False
    return "" if idle else _id(pod)


def pool_name(pod: Field, prefix: str) -> Field:
    """Return where the pod names its pool: annotation or label ``gpupool``; a field without a value where it names none.

    Raises ``BadInputError`` where it names two.
    """
    places = [
        pod.at("metadata", kind, f"{owner}/gpupool") for kind in ("annotations", "labels") for owner in (OWN_PREFIX, prefix)
    ]
    named_at = [place for place in places if place.text()]
    for place in named_at[1:]:
        if place.text() != named_at[0].text():
            raise place.refused(f"the same as {named_at[0].path} ({named_at[0].value!r})")
    return named_at[0] if named_at else places[0]


def read_demand(pod: Field, *, pool: str, gpus: GpuTable, prefix: str) -> Demand:
    """Return the pod as a demand on this pool. Raises ``BadInputError`` when its request or constraints are malformed."""
    check_spelling(pod, prefix, (*NOT_HONOURED, *_OTHER_KEYS))
    totals, notes = pod_totals(pod), gpu_notes(pod, prefix)
    return Demand(
        id=_id(pod),
        uid=pod.at("metadata", "uid").needed(),
        pool=pool,
        request=gpu_request(pod, totals, notes, gpus),
        mirror=mirrored(totals),
        priority=pod.at("spec", "priority").whole(least=-(2**31)),
        created_s=pod.at("metadata", "creationTimestamp").seconds(),
        terms=node_terms(pod),
        tolerations=tolerations(pod),
        blocked=blocks(pod, totals, notes),
    )


def read_guest(pod: Field, *, pool: str, gpus: GpuTable, prefix: str) -> Guest | None:
    """Return a pod of a node that is to go, None for one that belongs to the node. One that cannot be read has to go too."""
    if tried([], partial(is_daemon, pod), False):  # noqa: FBT003 - unreadable is no daemon
        return None
    ours = tried([], lambda: pod.at("spec", "schedulerName").text() == SCHEDULER, False)  # noqa: FBT003
    notes = pod.at("metadata", "annotations")
    return Guest(
        id=_id(pod),
        uid=tried([], lambda: pod.at("metadata", "uid").text(), ""),
        demand=tried([], partial(read_demand, pod, pool=pool, gpus=gpus, prefix=prefix), None) if ours else None,
        leaving=pod.at("metadata", "deletionTimestamp").given,
        held=any(tried([], notes.at(key).text, "") == "true" for key in _HOLDS),
        stays=not ours and untolerated(_CLOSED, tried([], partial(tolerations, pod), ())) is None,
    )


class BoundPods:
    """Reads what pods hold of their nodes, and remembers it for as long as they do not change: most pods never do.

    `prefix` is that of TensorFusion's annotations.
    """

    def __init__(self, gpus: GpuTable, prefix: str) -> None:
        self._gpus = gpus
        self._prefix = prefix
        self._known: dict[tuple[str, str], tuple[BoundPod, str, tuple[Problem, ...]]] = {}
        self._read: set[tuple[str, str]] = set()

    def read(self, pod: Field, problems: list[Problem]) -> tuple[BoundPod, str]:
        """Return what the pod holds, and why its node has to be fenced because of it, or nothing. Notes what is wrong."""
        meta = pod.at("metadata")
        key = tried([], lambda: (meta.at("uid").text(), meta.at("resourceVersion").text()), ("", ""))
        found = self._known.get(key) if all(key) else None
        if found is None:
            own: list[Problem] = []
            bound, fence = _read_bound(pod, gpus=self._gpus, prefix=self._prefix, problems=own)
            found = self._known[key] = (bound, fence, tuple(own))
        self._read.add(key)
        problems.extend(found[2])
        return found[:2]

    def forget_others(self) -> None:
        """Forget the pods that were not read since the last call."""
        self._known = {key: self._known[key] for key in self._read}
        self._read = set()


def _read_bound(pod: Field, *, gpus: GpuTable, prefix: str, problems: list[Problem]) -> tuple[BoundPod, str]:
    """Return what the pod holds of its node, and why the node has to be fenced because of it, or nothing.

    Whatever cannot be read is noted in `problems`. A pod whose part of a card is not known fences its node; one whose record
    is good does not, even if its annotations were broken since.
    """
    before = len(problems)
    slices = tried(problems, lambda: read_allocation(pod), ())
    totals = tried(problems, lambda: pod_totals(pod), {})
    fence = f"what {pod.where} holds is not known" if len(problems) > before else ""
    request = tried(problems, lambda: gpu_request(pod, totals, gpu_notes(pod, prefix), gpus), None)
    if not slices and not fence:
        fence = _unrecorded(pod, request)
    bound = BoundPod(
        id=_id(pod),
        uid=tried(problems, lambda: pod.at("metadata", "uid").text(), ""),
        request=request or cpu_request(totals),
        slices=slices,
        mirror=mirrored(totals),
        daemon=tried(problems, lambda: is_daemon(pod), False),  # noqa: FBT003 - unreadable is no daemon
    )
    return bound, fence


def _unrecorded(pod: Field, request: Request | None) -> str:
    """Say why a pod without a record fences its node. Whole GPUs of the device plugin are counted over the node."""
    if request is None:
        return f"what {pod.where} holds is not known"
    if request.gpu_count and not request.whole:
        return f"{pod.where} asks for a share of a GPU but has no {ALLOCATION}"
    return ""


def _slice(item: Field) -> GpuSlice:
    if set(item.mapping()) != {"gpu", "vramMib", "computeMilli"}:
        raise item.refused("gpu, vramMib and computeMilli")
    return GpuSlice(
        gpu_id=item.at("gpu").needed(),
        vram_mib=item.at("vramMib").whole(least=1),
        compute_milli=item.at("computeMilli").whole(least=1, most=CARD_MILLI),
    )


def _id(pod: Field) -> str:
    return pod.where.removeprefix("pod ")
