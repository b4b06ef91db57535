"""Nodes as facts: their cards, what their pods hold, and why a node must not take more.

A node that cannot be read completely still counts, fenced: dropped, its machine would look like one whose node never came,
and would be given back with its pods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from tfscale.errors import Problem
from tfscale.gpus import GpuTable
from tfscale.kube.fields import Field, tried
from tfscale.kube.pods import BoundPods
from tfscale.kube.port import NODE_CLAIMS, Json
from tfscale.kube.requests import GPU_RESOURCE, MIRRORS, OWN_PREFIX
from tfscale.model import CARD_MILLI, RESERVED, BoundPod, Gpu, Mirror, Node
from tfscale.quantity import time_text
from tfscale.selectors import Taint

__all__ = ["IDLE_SINCE", "POOL_LABEL", "advertisement", "idle_mark", "machine_id", "read_node"]

POOL_LABEL = f"{OWN_PREFIX}/pool"
IDLE_SINCE = f"{OWN_PREFIX}/idle-since"
MOST_CARDS = 128
"""Of one node; far above any, so that a wrong number cannot fill the memory."""

PODS_MAX = 110
"""Of a node that does not say; the kubelet's default."""

_COUNT_LABELS = ("nvidia.com/gpu.count", "karpenter.k8s.aws/instance-gpu-count", "karpenter.azure.com/sku-gpu-count")
_MODEL_LABELS = (
    f"{OWN_PREFIX}/gpu-model",
    "nvidia.com/gpu.product",
    "karpenter.k8s.aws/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
)
_VRAM_LABELS = ("nvidia.com/gpu.memory", "karpenter.k8s.aws/instance-gpu-memory")
_MTFLOPS_LABEL = f"{OWN_PREFIX}/gpu-mtflops"
_REPLICAS_LABEL = "nvidia.com/gpu.replicas"
_MIG_PREFIX = "nvidia.com/mig-"
_INITIALIZED = "karpenter.sh/initialized"
_PASSING_DOMAIN = "readiness.k8s.io/"
_PASSING_TAINTS = frozenset(
    {
        "karpenter.sh/disrupted",
        "karpenter.sh/unregistered",
        "node.cloudprovider.kubernetes.io/uninitialized",
    }
)
"""Taints of a node that starts, or that is about to go. Source: Karpenter 1.14, the known ephemeral taints."""

_SILENT_TAINTS = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})
"""What Kubernetes' node lifecycle controller puts on a node that is not Ready, and takes off a little later than it is."""


def idle_mark(since_s: int | None) -> Json:
    """Return the patch that writes on a node since when it is idle; None takes the mark off."""
    return {"metadata": {"annotations": {IDLE_SINCE: None if since_s is None else time_text(since_s)}}}


def machine_id(node: Field) -> str:
    """Return the id of the machine behind a node: of ``aws:///us-east-1a/i-0ab`` it is ``i-0ab``.

    Of a provider id that does not end with an instance id it is everything behind the scheme. Behind a node of Karpenter
    stands a NodeClaim, which the node names as its owner once it is registered.
    """
    if claim := _claim_of(node):
        return claim
    behind = node.at("spec", "providerID").text().rpartition("://")[2]
    last = behind.rpartition("/")[2]
    return last if last.startswith("i-") else behind


def _claim_of(node: Field) -> str:
    for owner in node.at("metadata", "ownerReferences").items():
        if owner.at("kind").text() == NODE_CLAIMS.kind and owner.at("apiVersion").text().startswith(f"{NODE_CLAIMS.group}/"):
            return owner.at("name").needed()
    return ""


def read_node(
    node: Field, pods: Sequence[Field], *, machine: tuple[str, str], gpus: GpuTable, bound: BoundPods, problems: list[Problem]
) -> Node | None:
    """Return the node with the pods that hold its resources, or None for a node that is not managed.

    Managed is what carries the label ``tfscale.io/pool`` or runs on a machine of ours: `machine` is the pool that launched
    its machine, or empty, and the machine's id. All that is wrong is noted in `problems`; what is wrong with the node itself,
    or with what is held there, fences it. The pool's own taint is left out: it keeps others away, not the pool's pods.
    """
    own: list[Problem] = []
    machine_pool, machine_id = machine
    pool = tried(own, lambda: _pool(node, machine_pool), machine_pool)
    if not pool:
        problems.extend(own)
        return None
    cards = tried(own, lambda: _cards(node, gpus), _Cards(known=False))
    shape = tried(own, lambda: _shape(node), _UNREADABLE)
    closed = tried(own, lambda: _closed(node), "")
    # A request that was edited on a running pod, or our own mark of idleness, says nothing about what is held here.
    read = [bound.read(pod, problems) for pod in pods]
    idle_since_s = tried(problems, lambda: _idle_since_s(node), None)
    held = tuple(pod for pod, _ in read)
    if cards.known:
        own.extend(_contradictions(node, cards.gpus, held))
    problems.extend(own)
    fences = [closed, cards.fence, _device_plugin(held), *(fence for _, fence in read), *map(str, own[:1])]
    return replace(
        shape,
        name=node.where.removeprefix("node "),
        pool=pool,
        gpus=cards.gpus,
        pods=held,
        fenced="; ".join(dict.fromkeys(filter(None, fences))),
        machine_id=machine_id,
        taints=tuple(taint for taint in shape.taints if (taint.key, taint.value) != (POOL_LABEL, pool)),
        idle_since_s=idle_since_s,
    )


def _pool(node: Field, machine_pool: str) -> str:
    label = node.at("metadata", "labels", POOL_LABEL)
    pool = machine_pool or label.text()
    if label.given and label.value != pool:
        raise label.refused(f"{pool}, the pool that launched its machine")
    return pool


# It holds nothing, but it is there: its machine is not one whose node never came.
_UNREADABLE = Node(name="", pool="", cpu_milli=0, memory_mib=0, pods_max=0, ready=False)


def _shape(node: Field) -> Node:
    allocatable = node.at("status", "allocatable")
    pods = allocatable.at("pods")
    taints = tuple(map(_taint, node.at("spec", "taints").items()))
    ready, silent_since_s = _is_ready(node)
    return Node(
        name="",
        pool="",
        labels=node.at("metadata", "labels").text_map(),
        taints=tuple(taint for taint in taints if taint.key not in _SILENT_TAINTS and taint.key != RESERVED),
        reserved=any(taint.key == RESERVED for taint in taints),
        # Rounded down, unlike requests: what is not there cannot be given away.
        cpu_milli=int(allocatable.at("cpu").amount() * 1000),
        memory_mib=int(allocatable.at("memory").amount() / 2**20),
        mirror=_mirror(node.at("status")),
        pods_max=int(pods.amount()) if pods.given else PODS_MAX,
        ready=ready,
        silent_since_s=silent_since_s,
        created_s=node.at("metadata", "creationTimestamp").seconds(),
    )


def _mirror(status: Field) -> Mirror | None:
    """Return what the node advertises of its cards; None where its capacity and what is allocatable of it are not the same."""
    said = {tuple(status.at(place, name).value for name in MIRRORS) for place in ("capacity", "allocatable")}
    amounts = [status.at("allocatable", name) for name in MIRRORS]
    if len(said) > 1 or not all(amount.given for amount in amounts):
        return None
    vram_mib, mtflops = (int(amount.amount()) for amount in amounts)
    return Mirror(vram_mib=vram_mib, mtflops=mtflops)


def advertisement(mirror: Mirror) -> Json:
    """Return the patch of a node's status that says what its cards have in all."""
    amounts = {name: str(amount) for name, amount in zip(MIRRORS, (mirror.vram_mib, mirror.mtflops), strict=True)}
    return {"status": {"capacity": amounts, "allocatable": amounts}}


def _taint(item: Field) -> Taint:
    effect = item.at("effect").text() or "NoSchedule"
    return Taint(key=item.at("key").needed(), value=item.at("value").text(), effect=effect)


def _is_ready(node: Field) -> tuple[bool, int | None]:
    """Return whether the node is Ready and carries no taint that says otherwise, and since when it is not, if that is known."""
    conditions = [one for one in node.at("status", "conditions").items() if one.at("type").text() == "Ready"]
    taints = [one for one in node.at("spec", "taints").items() if one.at("key").text() in _SILENT_TAINTS]
    if any(one.at("status").text() == "True" for one in conditions) and not taints:
        return True, None
    times = [one.at("lastTransitionTime") for one in conditions] + [one.at("timeAdded") for one in taints]
    return False, max((time.seconds() for time in times if time.given), default=None)


def _closed(node: Field) -> str:
    if node.at("metadata", "deletionTimestamp").given:
        return "it is being deleted"
    return "it is cordoned" if node.at("spec", "unschedulable").flag() else _starting(node)


def _starting(node: Field) -> str:
    """Return why the node is not open although its kubelet may be Ready, or nothing.

    Its taints say nothing about what fits there while some of them are still to go. Which of them are startup taints only
    Karpenter knows, and it labels the node when they are gone and all that was asked for is there.
    """
    keys = [taint.at("key").text() for taint in node.at("spec", "taints").items()]
    passing = [key for key in keys if key in _PASSING_TAINTS or key.startswith(_PASSING_DOMAIN)]
    if passing:
        return f"its taint {passing[0]} is only for now"
    labelled = node.at("metadata", "labels", _INITIALIZED).text() == "true"
    return "Karpenter has not initialized it yet" if _claim_of(node) and not labelled else ""


def _idle_since_s(node: Field) -> int | None:
    mark = node.at("metadata", "annotations", IDLE_SINCE)
    return mark.seconds() if mark.given else None


# --- cards ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cards:
    gpus: tuple[Gpu, ...] = ()
    fence: str = ""
    known: bool = True
    """Whether number and model are known, so that what pods hold can be held against them."""


def _cards(node: Field, gpus: GpuTable) -> _Cards:
    count, fence = _card_count(node)
    if not count:
        return _Cards(fence=fence)
    labels = node.at("metadata", "labels")
    model_label = _first(labels, _MODEL_LABELS)
    if model_label is None:
        # Feature discovery may label a node later than the device plugin advertises its cards.
        return _Cards(fence=f"its GPU model is not known: no label {' or '.join(_MODEL_LABELS)}", known=False)
    vram = _first(labels, _VRAM_LABELS)
    vram_mib = vram.digits(least=1, most=2**31 - 1) if vram else None
    model = gpus.card(model_label.needed(), vram_mib=vram_mib, where=node.where, field=model_label.path)
    rate = labels.at(_MTFLOPS_LABEL)
    mtflops = rate.digits(least=1, most=2**31 - 1) if rate.given else model.mtflops
    cards = (Gpu(id=str(index), model=model.name, vram_mib=model.vram_mib, mtflops=mtflops) for index in range(count))
    return _Cards(gpus=tuple(cards), fence=fence)


def _card_count(node: Field) -> tuple[int, str]:
    """Return how many cards there are, and why it is not known which of them are free to use, or nothing."""
    labels = node.at("metadata", "labels")
    counts = [node.at("status", kind, GPU_RESOURCE) for kind in ("allocatable", "capacity")]
    if not any(count.given for count in counts):
        label = _first(labels, _COUNT_LABELS)
        return (label.digits(most=MOST_CARDS) if label else 0), _mig(node)
    usable, there = (_pieces(count if count.given else counts[1 - index]) for index, count in enumerate(counts))
    replicas = labels.at(_REPLICAS_LABEL)
    if replicas.given and (shares := replicas.digits(least=1, most=10_000)) > 1:
        return there // shares, f"the device plugin shares each of its GPUs {shares} times"
    if usable < there:
        return there, f"only {usable} of its {there} GPUs are healthy; which ones is not known"
    return usable, _mig(node)


def _mig(node: Field) -> str:
    allocatable = node.at("status", "allocatable").entries()
    split = any(name.startswith(_MIG_PREFIX) and amount.amount() for name, amount in allocatable.items())
    return "some of its GPUs are split by MIG; which ones is not known" if split else ""


def _pieces(field: Field) -> int:
    amount = field.amount()
    if amount.denominator != 1 or amount > MOST_CARDS:
        raise field.refused(f"a whole number from 0 to {MOST_CARDS}")
    return int(amount)


def _first(labels: Field, keys: Sequence[str]) -> Field | None:
    return next((label for key in keys if (label := labels.at(key)).given), None)


# --- what pods hold ---------------------------------------------------------------------------------------------------


def _given_away(held: Sequence[BoundPod]) -> int:
    return sum(pod.request.gpu_count for pod in held if pod.request.whole and not pod.slices)


def _device_plugin(held: Sequence[BoundPod]) -> str:
    count = _given_away(held)
    return f"the device plugin gave away {count} of its GPUs; which ones is not known" if count else ""


def _contradictions(node: Field, gpus: Sequence[Gpu], held: Sequence[BoundPod]) -> Iterator[Problem]:
    """Yield where the records of the pods and the node cannot both be true."""
    vram_mib: Counter[str] = Counter()
    milli: Counter[str] = Counter()
    for part in chain.from_iterable(pod.slices for pod in held):
        vram_mib[part.gpu_id] += part.vram_mib
        milli[part.gpu_id] += part.compute_milli
    count = _given_away(held)
    if set(vram_mib) - {gpu.id for gpu in gpus} or len(vram_mib) + count > len(gpus):
        wanted = [f"GPU {gpu_id}" for gpu_id in sorted(vram_mib)] + [f"{count} of the device plugin's"] * bool(count)
        shown = Field(node.where, f"status.allocatable[{GPU_RESOURCE}]", str(len(gpus)))
        yield shown.refused(f"all that its pods hold: {', '.join(wanted)}").problem
    for gpu in gpus:
        if vram_mib[gpu.id] > gpu.vram_mib:
            shown = Field(node.where, f"VRAM held on GPU {gpu.id}", f"{vram_mib[gpu.id]} MiB")
            yield shown.refused(f"at most {gpu.vram_mib} MiB, all that the {gpu.model} has").problem
        if milli[gpu.id] > CARD_MILLI:
            shown = Field(node.where, f"compute held on GPU {gpu.id}", f"{milli[gpu.id]} milli")
            yield shown.refused(f"at most {CARD_MILLI} milli, the whole card").problem
