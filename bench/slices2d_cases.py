"""Slices in two dimensions: the clusters by name.

``aws`` is written down in ``slices2d_work``: its seed draws the arrivals and the order of the nodes. ``random-N`` is drawn
by N: one to four card models, two to five instance types that have them, 12 to 90 nodes, 4 to 30 kinds of request. A request is a
share of VRAM and a share of compute of one card of the cluster, the reference. A cluster has its own habits: how large the
shares are, whether the two go together, how many CPUs come with a card, how often several cards, whole cards or named
models are asked; whole cards always name theirs. One cluster in four has VRAM alone, one in eight compute alone: slices in
one dimension.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from bench.slices2d_work import AWS_NODES, Case, Kind, aws_kinds, draw_arrivals, nodes_of
from tfscale.catalogue import snapshot
from tfscale.errors import BadInputError, Problem
from tfscale.model import CARD_MILLI, Gpu, Node, Request

__all__ = ["RANDOM", "case_of", "dimensions_of"]

RANDOM = re.compile(r"random-([1-9][0-9]{0,3})")
CARD_MODELS = ("T4", "L4", "A10G", "L40S", "A100", "H100")
_STREAM = 2026
_VRAM_STEP_MIB = 256
_COMPUTE_STEP_MTFLOPS = 500


def case_of(cluster: str, seed: int) -> Case:
    """Return the case of this name and seed, always the same. Raises ``BadInputError`` for a name that there is not."""
    if cluster == "aws":
        names = [name for name, count in AWS_NODES.items() for _ in range(count)]
        generator = np.random.default_rng([_STREAM, 0, seed])
        return draw_arrivals(aws_kinds(), nodes_of(names), generator, cluster=cluster, seed=seed)
    match = RANDOM.fullmatch(cluster)
    if match is None:
        problem = Problem(where="slices2d", field="--cluster", value=cluster, want="aws, or random-N with N from 1 to 9999")
        raise BadInputError(problem)
    number = int(match[1])
    habits = np.random.default_rng([_STREAM, number])
    nodes = _nodes(habits)
    kinds = _kinds(nodes, habits)
    return draw_arrivals(kinds, nodes, np.random.default_rng([_STREAM, number, seed]), cluster=cluster, seed=seed)


def dimensions_of(case: Case) -> str:
    """Return which of VRAM and compute the slices of a case ask for."""
    slices = [kind.request for kind in case.kinds if not kind.request.whole]
    vram = any(request.vram_mib for request in slices)
    compute = any(request.compute_mtflops or request.compute_milli for request in slices)
    return " and ".join([*(["VRAM"] if vram else []), *(["compute"] if compute else [])])


def _nodes(habits: np.random.Generator) -> tuple[Node, ...]:
    models = habits.choice(CARD_MODELS, size=int(habits.integers(1, 5)), replace=False).tolist()
    known = sorted(name for name, one in snapshot().items() if one.gpu_model in models and one.arch == "amd64")
    types = habits.choice(known, size=min(int(habits.integers(2, 6)), len(known)), replace=False).tolist()
    most = int(habits.integers(12, 91))
    share = habits.dirichlet(np.ones(len(types)))
    names: list[str] = []
    for name, part in zip(types, share.tolist(), strict=True):
        names += [name] * max(round(most * part), 1)
    return nodes_of(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Habits:
    """What the requests of one cluster have in common."""

    size: float
    """The typical share of a card, 0..1."""
    spread: float
    together: float
    """How far the shares of compute follow those of VRAM: 1 always, 0 not at all."""
    cpu_part: float
    """The CPU that comes with a share, of the CPU that the reference node has for each card."""
    named: float
    several: float
    whole: float
    vram: bool
    compute: bool


def _kinds(nodes: tuple[Node, ...], habits: np.random.Generator) -> tuple[Kind, ...]:
    one_sided = habits.random()
    ways = _Habits(
        size=float(habits.uniform(0.1, 0.5)),
        spread=float(habits.uniform(0.3, 0.9)),
        together=float(habits.choice([0.0, 0.3, 0.7, 1.0])),
        cpu_part=float(habits.uniform(0.3, 1.1)),
        named=float(habits.choice([0.0, 0.2, 0.5])),
        several=float(habits.choice([0.0, 0.1, 0.25])),
        whole=float(habits.choice([0.0, 0.1, 0.3])),
        vram=not 0.25 <= one_sided < 0.375,  # noqa: PLR2004 - one in eight
        compute=not one_sided < 0.25,  # noqa: PLR2004 - one in four
    )
    kinds: list[Kind] = []
    for index in range(int(habits.integers(4, 31))):
        node = nodes[int(habits.integers(len(nodes)))]
        kinds.append(Kind(name=f"kind-{index}", request=_request(node, ways, habits), count=int(100 / (1 + index) ** 0.7) + 1))
    return tuple(kinds)


def _request(node: Node, ways: _Habits, habits: np.random.Generator) -> Request:
    gpu = node.gpus[0]
    cards = int(habits.integers(2, len(node.gpus) + 1)) if len(node.gpus) > 1 and habits.random() < ways.several else 1
    whole = bool(habits.random() < ways.whole)
    # What a whole card is worth depends on the card, so who wants one says which.
    models = (gpu.model,) if habits.random() < ways.named or whole else ()
    vram, compute = _shares(ways, habits)
    vram_mib, mtflops = _amounts(gpu, vram, compute)
    asked = 1.0 if whole else max(vram, compute)
    cpu_milli = node.cpu_milli / len(node.gpus) * cards * asked * ways.cpu_part * habits.uniform(0.5, 1.2)
    return Request(
        cpu_milli=max(min(int(cpu_milli) // 100 * 100, node.cpu_milli), 100),
        memory_mib=round(node.memory_mib / len(node.gpus) * cards * asked * 0.5),
        gpu_count=cards,
        vram_mib=0 if whole or not ways.vram else vram_mib,
        compute_mtflops=None if whole else mtflops if ways.compute else 0,
        whole=whole,
        gpu_models=models,
    )


def _shares(ways: _Habits, habits: np.random.Generator) -> tuple[float, float]:
    """Return the shares of VRAM and of compute, log-normal around the habitual size, at most a card."""
    first, own = habits.normal(size=2).tolist()
    second = ways.together * first + (1 - ways.together**2) ** 0.5 * own
    return min(ways.size * np.exp(ways.spread * first), 1.0), min(ways.size * np.exp(ways.spread * second), 1.0)


def _amounts(gpu: Gpu, vram: float, compute: float) -> tuple[int, int]:
    vram_mib = max(round(gpu.vram_mib * vram / _VRAM_STEP_MIB), 1) * _VRAM_STEP_MIB
    mtflops = max(round(gpu.mtflops * max(compute, 1 / CARD_MILLI) / _COMPUTE_STEP_MTFLOPS), 1) * _COMPUTE_STEP_MTFLOPS
    return min(vram_mib, gpu.vram_mib), min(mtflops, gpu.mtflops)
