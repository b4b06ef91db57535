"""Slices in two dimensions: clusters and workloads that are written down or drawn by a seed.

The models of the cluster ``aws`` are served with these assumptions, all per replica:

* Weights take parameters x bytes per parameter: 2 (fp16), 1 (int8), 0.5625 (int4: 4 bits, and 16 bits each of
  scale and zero for every 64). Parameters, layers and heads are those of the papers of Llama 2 (7B, 13B, 70B) and
  Code Llama (34B).
* The KV cache takes 2 x layers x KV heads x head size x 2 bytes for each token kept: 512 KiB (7B), 800
  (13B), 192 (34B), 320 (70B).
* 1 GiB more on each card for the CUDA context and activations. Several cards share weights, cache and work equally.
* Compute is 2 x parameters x tokens a second (prompt and answer together), at 40% of a card's dense FP16 rate, so
  2 x parameters x tokens / 0.4. Lower precisions keep the activations in 16 bits.
* What is no language model (``OTHERS``) is given as VRAM and TFLOPs outright: assumed round numbers, not measured.
* Memory of the machine is 2 GiB and half of the weights, which are loaded piece by piece. CPU is in the tables.
* How often each is asked (``count``) is assumed, with small ones more frequent.

Nodes are EC2 instance types from ``tfscale.catalogue`` with the compute of ``tfscale.gpus``; 300 millicores and 10% of the
memory are taken for the kubelet and daemons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfscale.catalogue import snapshot
from tfscale.gpus import GpuTable
from tfscale.model import CARD_MILLI, Gpu, Node, Request

__all__ = [
    "AWS_NODES",
    "POOL",
    "Case",
    "Kind",
    "Placement",
    "asked",
    "aws_kinds",
    "draw_arrivals",
    "nodes_of",
    "totals",
    "values_of",
]

POOL = "slices2d"
UTILISATION_PCT = 40
RESERVED_CPU_MILLI = 300
RESERVED_MEMORY_PCT = 10
FULL_PCT = 100
OVERFULL_PCT = 130

PARAMETERS_M = {"7b": 6_738, "13b": 13_016, "34b": 33_744, "70b": 68_977}
KV_KIB_PER_TOKEN = {"7b": 512, "13b": 800, "34b": 192, "70b": 320}
BYTES_PER_PARAMETER = {"fp16": 2.0, "int8": 1.0, "int4": 0.5625}
BIG = ("A100", "H100")

AWS_NODES = {
    "g4dn.xlarge": 40,
    "g4dn.12xlarge": 8,
    "g5.2xlarge": 30,
    "g5.12xlarge": 12,
    "g5.48xlarge": 4,
    "g6.xlarge": 30,
    "g6.12xlarge": 10,
    "g6e.2xlarge": 16,
    "g6e.12xlarge": 6,
    "p4d.24xlarge": 4,
    "p4de.24xlarge": 2,
    "p5.48xlarge": 2,
}

# Model, precision, cards, tokens kept, tokens a second, CPU of the pod, accepted card models, how often.
LLMS: tuple[tuple[str, str, int, int, int, int, tuple[str, ...], int], ...] = (
    ("7b", "fp16", 1, 8_192, 2_000, 2_000, (), 40),
    ("7b", "fp16", 1, 32_768, 6_000, 4_000, (), 10),
    ("7b", "int8", 1, 4_096, 800, 2_000, (), 60),
    ("7b", "int8", 1, 16_384, 3_000, 2_000, (), 30),
    ("7b", "int4", 1, 2_048, 400, 1_000, (), 80),
    ("7b", "int4", 1, 8_192, 1_800, 2_000, (), 40),
    ("13b", "fp16", 1, 4_096, 1_500, 2_000, (), 15),
    ("13b", "int8", 1, 8_192, 1_500, 2_000, (), 20),
    ("13b", "int8", 1, 4_096, 1_000, 2_000, ("L4", "L40S"), 15),
    ("13b", "int4", 1, 4_096, 600, 2_000, (), 40),
    ("34b", "int8", 1, 16_384, 1_200, 4_000, (), 10),
    ("34b", "int4", 1, 8_192, 500, 2_000, (), 15),
    ("34b", "fp16", 2, 16_384, 2_000, 4_000, BIG, 4),
    ("34b", "int8", 2, 16_384, 1_000, 4_000, (), 6),
    ("70b", "int4", 1, 8_192, 600, 4_000, (), 8),
    ("70b", "int8", 2, 16_384, 1_200, 4_000, (), 5),
    ("70b", "int4", 4, 8_192, 500, 4_000, (), 4),
)

# Name, VRAM in MiB, compute in TFLOPs, CPU of the pod, accepted card models, how often.
OTHERS: tuple[tuple[str, int, int, int, tuple[str, ...], int], ...] = (
    ("embedding-small", 1_536, 4, 500, (), 120),
    ("embedding-large", 3_072, 14, 1_000, (), 80),
    ("reranker", 2_560, 22, 1_000, (), 60),
    ("asr-small", 2_048, 8, 1_000, (), 80),
    ("asr-large", 5_120, 30, 1_000, (), 60),
    ("speech-synthesis", 3_072, 10, 1_000, (), 40),
    ("detector", 1_536, 20, 2_000, (), 80),
    ("segmentation", 4_096, 35, 2_000, (), 40),
    ("video-analytics", 3_072, 55, 4_000, (), 30),
    ("video-analytics-l4", 4_096, 80, 4_000, ("L4", "L40S"), 15),
    ("image-generation", 11_264, 90, 2_000, (), 25),
    ("recommender", 14_336, 6, 2_000, (), 20),
    ("ocr", 2_048, 12, 1_000, ("A10G", "T4"), 30),
)

# Name, whole cards, CPU and memory in MiB of the pod, accepted card models, how often.
WHOLE: tuple[tuple[str, int, int, int, tuple[str, ...], int], ...] = (
    ("notebook", 1, 3_000, 12_288, ("A10G", "L4", "T4"), 15),
    ("fine-tune-7b", 1, 6_000, 24_576, ("A10G", "L40S"), 8),
    ("evaluation", 4, 16_000, 65_536, ("A10G", "L4"), 3),
    ("fine-tune-70b", 8, 64_000, 524_288, BIG, 1),
    ("serve-70b-fp16", 4, 16_000, 131_072, BIG, 2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One request with how often it is made, relative to the others."""

    name: str
    request: Request
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A cluster and what arrives, in order."""

    cluster: str
    seed: int
    nodes: tuple[Node, ...]
    """In the order that decides between equal ones."""
    kinds: tuple[Kind, ...]
    arrivals: tuple[int, ...]
    """Indices into ``kinds``, until 130% of the cluster are asked."""
    full: int
    """After how many arrivals 100% of the cluster are asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one arrival went: the node's index in the case, and its cards."""

    node: int
    cards: tuple[int, ...]


def aws_kinds() -> tuple[Kind, ...]:
    """Return the requests of the cluster ``aws``, by the formulas above."""
    kinds = [_llm(*row) for row in LLMS]
    for name, vram_mib, tflops, cpu_milli, models, count in OTHERS:
        request = Request(
            cpu_milli=cpu_milli,
            memory_mib=2_048 + vram_mib // 2,
            gpu_count=1,
            vram_mib=vram_mib,
            compute_mtflops=tflops * 1_000,
            gpu_models=models,
        )
        kinds.append(Kind(name=name, request=request, count=count))
    for name, cards, cpu_milli, memory_mib, models, count in WHOLE:
        request = Request(cpu_milli=cpu_milli, memory_mib=memory_mib, gpu_count=cards, whole=True, gpu_models=models)
        kinds.append(Kind(name=name, request=request, count=count))
    return tuple(kinds)


def _llm(
    model: str, precision: str, cards: int, tokens: int, tokens_per_s: int, cpu_milli: int, models: tuple[str, ...], count: int
) -> Kind:
    weights_mib = PARAMETERS_M[model] * 1e6 * BYTES_PER_PARAMETER[precision] / 2**20
    cache_mib = tokens * KV_KIB_PER_TOKEN[model] / 1_024
    # Millions of parameters x tokens are 1e6 operations; a thousandth of a TFLOPs is 1e9.
    mtflops = 2 * PARAMETERS_M[model] * tokens_per_s / 1_000 * 100 / UTILISATION_PCT
    request = Request(
        cpu_milli=cpu_milli,
        memory_mib=round(2_048 + weights_mib / 2),
        gpu_count=cards,
        vram_mib=round((weights_mib + cache_mib) / cards + 1_024),
        compute_mtflops=round(mtflops / cards),
        gpu_models=models,
    )
    return Kind(name=f"{model}-{precision}-{tokens // 1024}k-x{cards}", request=request, count=count)


def nodes_of(names: Sequence[str]) -> tuple[Node, ...]:
    """Return nodes of these instance types, one for each name, in this order."""
    table, types = GpuTable(), snapshot()
    nodes = []
    for index, name in enumerate(names):
        found = types[name]
        card = table.card(found.gpu_model, vram_mib=found.vram_mib)
        gpus = [Gpu(id=str(at), model=card.name, vram_mib=card.vram_mib, mtflops=card.mtflops) for at in range(found.gpu_count)]
        nodes.append(
            Node(
                name=f"{index:04d}-{name}",
                pool=POOL,
                gpus=tuple(gpus),
                cpu_milli=found.cpu_milli - RESERVED_CPU_MILLI,
                memory_mib=found.memory_mib * (100 - RESERVED_MEMORY_PCT) // 100,
            )
        )
    return tuple(nodes)


def totals(nodes: Sequence[Node]) -> tuple[int, int]:
    """Return all VRAM (MiB) and all compute (mTFLOPs) of the nodes."""
    gpus = [gpu for node in nodes for gpu in node.gpus]
    return max(sum(gpu.vram_mib for gpu in gpus), 1), max(sum(gpu.mtflops for gpu in gpus), 1)


def asked(request: Request, nodes: Sequence[Node]) -> tuple[float, float] | None:
    """Return what a request asks of all VRAM and of all compute, 0..1, on the accepted card where that is least.

    None where no node could host it even if it were empty. Cards differ only for whole cards and for shares of a card.
    """
    vram, mtflops = totals(nodes)
    found = []
    for node in {(node.gpus, node.cpu_milli, node.memory_mib): node for node in nodes}.values():
        parts = [(gpu, part) for gpu in node.gpus if (part := request.slice_of(gpu))]
        if len(parts) < request.gpu_count or request.cpu_milli > node.cpu_milli or request.memory_mib > node.memory_mib:
            continue
        gpu, part = parts[0]
        compute = request.compute_mtflops
        if compute is None or request.whole:
            compute = part.compute_milli * gpu.mtflops // CARD_MILLI
        found.append((request.gpu_count * part.vram_mib / vram, request.gpu_count * compute / mtflops))
    return min(found, key=max) if found else None


def values_of(kinds: Sequence[Kind], nodes: Sequence[Node]) -> list[float]:
    """Return what each kind is worth: the larger of its parts of all VRAM and of all compute, 0 where it fits nowhere."""
    return [max(asked(kind.request, nodes) or (0.0, 0.0)) for kind in kinds]


def draw_arrivals(
    kinds: Sequence[Kind], nodes: Sequence[Node], generator: np.random.Generator, *, cluster: str, seed: int
) -> Case:
    """Return the case: kinds that some node can host, drawn with replacement, and the nodes in a drawn order.

    The arrivals end when they ask 130% of all VRAM or of all compute, whichever comes first.
    """
    parts = {kind: part for kind in kinds if (part := asked(kind.request, nodes)) and max(part) > 0}
    kept = tuple(parts)
    weight = np.array([kind.count for kind in kept], dtype=np.float64)
    order = generator.permutation(len(nodes))
    sums, arrivals, full = [0.0, 0.0], list[int](), 0
    while max(sums) * 100 < OVERFULL_PCT:
        kind = int(generator.choice(len(kept), p=weight / weight.sum()))
        arrivals.append(kind)
        sums = [before + part for before, part in zip(sums, parts[kept[kind]], strict=True)]
        if not full and max(sums) * 100 >= FULL_PCT:
            full = len(arrivals)
    return Case(
        cluster=cluster,
        seed=seed,
        nodes=tuple(nodes[at] for at in order.tolist()),
        kinds=kept,
        arrivals=tuple(arrivals),
        full=full,
    )
