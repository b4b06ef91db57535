"""A pod's request for GPUs, read from whatever the author wrote.

In this order: the annotations of TensorFusion (``tensor-fusion.ai/vram-request`` and so on, the prefix can be set) and their
``tfscale.io/`` equivalents; else the mirrored extended resources ``tfscale.io/vram-mib`` and ``tfscale.io/compute-mtflops``,
which are sums over the pod's GPUs; else whole GPUs by ``nvidia.com/gpu``. What contradicts itself is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuTable
from tfscale.kube.fields import Field
from tfscale.kube.resources import Amounts, places_of
from tfscale.mirror import mirror_of
from tfscale.model import Mirror, Request
from tfscale.quantity import mib_up, milli_up, percent_milli, quantity

__all__ = [
    "GPU_RESOURCE",
    "MIRRORS",
    "OWN_PREFIX",
    "TENSOR_FUSION",
    "Notes",
    "check_spelling",
    "cpu_request",
    "gpu_notes",
    "gpu_request",
    "mirrored",
]

TENSOR_FUSION = "tensor-fusion.ai"
OWN_PREFIX = "tfscale.io"
GPU_RESOURCE = "nvidia.com/gpu"
VRAM_MIRROR = f"{OWN_PREFIX}/vram-mib"
COMPUTE_MIRROR = f"{OWN_PREFIX}/compute-mtflops"
MIRRORS = (VRAM_MIRROR, COMPUTE_MIRROR)
MOST_GPUS = 128
"""Per pod; TensorFusion's limit too."""

_AMOUNTS = ("vram-request", "vram-limit", "tflops-request", "tflops-limit", "compute-percent-request", "compute-percent-limit")

_KEYS = (*_AMOUNTS, "gpu-count", "gpu-model", "gpupool")

Notes = Mapping[str, Field]
"""The annotations of both prefixes by the key behind the prefix."""


def gpu_notes(pod: Field, prefix: str = TENSOR_FUSION) -> dict[str, Field]:
    """Return the pod's annotations under `prefix` and under ``tfscale.io``, without the prefix.

    Raises ``BadInputError`` where both prefixes give one key different values.
    """
    found: dict[str, Field] = {}
    for path, field in pod.at("metadata", "annotations").entries().items():
        owner, _, key = path.partition("/")
        if owner not in {prefix, OWN_PREFIX}:
            continue
        other = found.setdefault(key, field)
        if other.text() != field.text():
            raise field.refused(f"the same as {_key(other)} has, {other.value!r}")
    return found


def check_spelling(pod: Field, prefix: str, others: Collection[str]) -> None:
    """Refuse annotations that were meant for us but that nobody reads: without them the pod would run without its GPU.

    Under ``tfscale.io/`` that is every key that is not known; under TensorFusion's prefix, which has many more, one that is
    nearly a key of ours. `others` are the keys that are read elsewhere. Raises ``BadInputError`` with the nearest key.
    """
    known = {*_KEYS, *others}
    for path in pod.at("metadata", "annotations").entries():
        owner, _, key = path.partition("/")
        if key in known or owner not in {prefix, OWN_PREFIX}:
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if near or owner == OWN_PREFIX:
            want = f"{owner}/{near[0]}?" if near else "one of " + ", ".join(f"{owner}/{name}" for name in _KEYS)
            raise BadInputError(Problem(where=pod.where, field="a key of metadata.annotations", value=path, want=want))


def mirrored(totals: Amounts) -> Mirror:
    """Return what a pod asks of the mirrored resources."""
    vram_mib, mtflops = (-(-totals.get(name, Fraction(0)) // 1) for name in MIRRORS)
    return Mirror(vram_mib=vram_mib, mtflops=mtflops)


def cpu_request(totals: Amounts) -> Request:
    """Return the part of the request that every pod has."""
    zero = Fraction(0)
    return Request(cpu_milli=milli_up(totals.get("cpu", zero)), memory_mib=mib_up(totals.get("memory", zero)))


def gpu_request(pod: Field, totals: Amounts, notes: Notes, gpus: GpuTable) -> Request:
    """Return all that the pod asks for; ``gpu_count`` is 0 where it asks for no GPU.

    Raises ``BadInputError``: an amount that is malformed, 0 or above its limit; compute given both ways; VRAM without
    compute or the reverse; whole GPUs beside a share of one; a count or model without either.
    """
    ask = _Ask(pod, totals, notes)
    count = ask.count()
    if ask.whole:
        share = Request(gpu_count=count, whole=True)
    elif any(key in notes for key in _AMOUNTS):
        share = ask.annotated(count)
    elif any(name in totals for name in MIRRORS):
        share = ask.mirrored(count)
    else:
        ask.refuse_leftovers()
        return cpu_request(totals)
    base = cpu_request(totals)
    asked = replace(share, cpu_milli=base.cpu_milli, memory_mib=base.memory_mib, gpu_models=ask.models(gpus))
    ask.check_mirrors(mirror_of(asked, gpus))
    return asked


@dataclass(frozen=True, slots=True)
class _Ask:
    pod: Field
    totals: Amounts
    notes: Notes

    @property
    def whole(self) -> bool:
        return GPU_RESOURCE in self.totals

    def count(self) -> int:
        """Return for how many GPUs, from the annotation or from the whole GPUs; both have to agree."""
        note = self.notes.get("gpu-count")
        counted = note.digits(least=1, most=MOST_GPUS) if note else 1
        if not self.whole:
            return counted
        want = f"a whole number from 1 to {MOST_GPUS}"
        for place in places_of(self.pod, GPU_RESOURCE):
            if place.amount().denominator != 1:
                raise place.refused(want)
        resource = self.resource(GPU_RESOURCE)
        amount = self.totals[GPU_RESOURCE]
        if amount.denominator != 1 or amount > MOST_GPUS:
            raise resource.refused(want)
        beside = [_key(self.notes[key]) for key in _AMOUNTS if key in self.notes]
        beside += [name for name in MIRRORS if name in self.totals]
        if beside:
            raise resource.refused(f"either whole GPUs or a share of one, not {beside[0]} beside it")
        if note and counted != amount:
            raise note.refused(f"{amount}, as {GPU_RESOURCE} says")
        return int(amount)

    def annotated(self, count: int) -> Request:
        vram = self._amount("vram", quantity, "at least 1Mi, such as 4Gi", least=Fraction(2**20))
        tflops = self._amount("tflops", quantity, "more than 0, such as 12.5")
        percent = self._amount("compute-percent", percent_milli, "more than 0, such as 20")
        if tflops and percent:
            raise percent[0].refused(f"compute given once, not {_key(tflops[0])} beside it")
        if vram is None or not (tflops or percent):
            given = next(self.notes[key] for key in _AMOUNTS if key in self.notes)
            raise given.refused("vram-request together with tflops-request or compute-percent-request")
        return Request(
            gpu_count=count,
            vram_mib=mib_up(vram[1]),
            compute_mtflops=milli_up(tflops[1]) if tflops else None,
            compute_milli=int(percent[1]) if percent else None,
        )

    def mirrored(self, count: int) -> Request:
        for name in MIRRORS:
            if name not in self.totals:
                raise self.resource(name).refused(f"{VRAM_MIRROR} together with {COMPUTE_MIRROR}")
        vram_mib, mtflops = (-(-self.totals[name] // count) for name in MIRRORS)
        return Request(gpu_count=count, vram_mib=vram_mib, compute_mtflops=mtflops)

    def check_mirrors(self, most: Mirror) -> None:
        """Refuse mirrored resources beyond what the pod asks for: it would wait for a node although its cards are there."""
        asked = mirrored(self.totals)
        for name, amount, most_of_it in (
            (VRAM_MIRROR, asked.vram_mib, most.vram_mib),
            (COMPUTE_MIRROR, asked.mtflops, most.mtflops),
        ):
            if amount > most_of_it:
                raise self.resource(name).refused(f"at most {most_of_it}, which is what its request means at least")

    def models(self, gpus: GpuTable) -> tuple[str, ...]:
        """Return the canonical names of the models that are accepted."""
        note = self.notes.get("gpu-model")
        if note is None:
            return ()
        names = [name.strip() for name in note.needed().split(",")]
        return tuple(sorted({gpus.find(name, where=note.where, field=note.path).name for name in names}))

    def refuse_leftovers(self) -> None:
        """Refuse a count or a model of GPUs of which nothing is asked: the author forgot the amounts."""
        for key in ("gpu-count", "gpu-model"):
            if key in self.notes:
                raise self.notes[key].refused(f"vram-request and compute beside it, or {GPU_RESOURCE}")

    def resource(self, name: str) -> Field:
        return Field(self.pod.where, f"resources[{name}]", str(self.totals.get(name, 0)))

    def _amount(
        self, key: str, parse: Callable[[object], Fraction | int], want: str, *, least: Fraction = Fraction(0)
    ) -> tuple[Field, Fraction] | None:
        """Return the amount with its place, the limit where no request is given, or None where neither is."""
        limit = self.notes.get(f"{key}-limit")
        asked = self.notes.get(f"{key}-request", limit)
        if asked is None:
            return None
        amount = Fraction(asked.read(parse))
        if amount == 0 or amount < least:
            raise asked.refused(want)
        if limit is not None and amount > limit.read(parse):
            raise asked.refused(f"at most {_key(limit)}, {limit.value!r}")
        return asked, amount


def _key(note: Field) -> str:
    """Return the annotation's own name."""
    return note.path.partition("[")[2].removesuffix("]")
