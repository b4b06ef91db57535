"""Why a demand was left: what of a node refuses it, and what there is too little of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tfscale.model import CARD_MILLI, Demand, Node, Request
from tfscale.selectors import Requirement, matches_any, untolerated
from tfscale.slicing.capacity import Capacity, Ints, Shape

__all__ = ["Flaw", "Shortage", "counted", "flaw", "refusal", "shortages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Nodes that have too little of one thing."""

    nodes: int
    need: str
    """For example ``40960 MiB VRAM on one card``."""
    want: int
    best: int
    """The most that one of these nodes has."""
    best_row: int
    noun: str
    """How `best` is called; empty where the number would say nothing."""


@dataclass(frozen=True, slots=True)
class _Check:
    """One thing that every node must have enough of; ``have`` has one number for each row."""

    need: str
    have: Ints
    want: int
    noun: str = ""


def refusal(demand: Demand, node: Node) -> str:
    """Return why the node must not take the pod, whatever it has free; empty if it may. The pool is not looked at."""
    if not node.ready:
        return "not ready"
    if node.fenced:
        return node.fenced
    taint = untolerated(node.taints, demand.tolerations)
    if taint is not None:
        return f"taint {taint} is not tolerated"
    return "" if matches_any(demand.terms, node.labels) else f"labels do not match {_in_words(demand.terms)}"


class Flaw(NamedTuple):
    """What is wrong with one field of a request."""

    field: str
    value: str
    want: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.field} is {self.value}; want {self.want}"


@lru_cache(maxsize=4_096)
def flaw(request: Request) -> Flaw | None:
    """Return what is wrong with a request whatever the cluster is; None where nothing is.

    >>> str(flaw(Request(gpu_count=1, vram_mib=-1, compute_milli=500)))
    'vram_mib is -1; want 0 or more'
    """
    for field in ("cpu_milli", "memory_mib", "gpu_count", "vram_mib", "compute_mtflops", "compute_milli"):
        value = getattr(request, field)
        if value is not None and value < 0:
            return Flaw(field, str(value), "0 or more")
    if request.compute_mtflops is not None and request.compute_milli is not None:
        return Flaw("compute_mtflops", str(request.compute_mtflops), f"nothing beside compute_milli {request.compute_milli}")
    parts = request.vram_mib or request.compute_mtflops or request.compute_milli
    if not request.gpu_count and (parts or request.whole):
        return Flaw("gpu_count", "0", "1 or more, as parts of a card are asked")
    return None


def _in_words(terms: tuple[tuple[Requirement, ...], ...]) -> str:
    return " or ".join(" and ".join(str(requirement) for requirement in term) for term in terms)


def counted(counts: Counter[str], noun: str) -> tuple[str, ...]:
    """Return the causes with how many they concern, the most frequent first.

    >>> counted(Counter({"not ready": 1, "cordoned": 2}), "node")
    ('2 nodes: cordoned', '1 node: not ready')
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(f"{count} {noun}{'' if count == 1 else 's'}: {cause}" for cause, count in ordered)


def shortages(capacity: Capacity, shape: Shape, rows: Ints) -> list[Shortage]:
    """Return what these rows have too little of for the shape, each row at the first thing that it lacks.

    The things are looked at in a fixed order, so a later shortage is nearer to a fit. Rows that fit are not counted.
    """
    found = []
    enough = np.ones(len(rows), dtype=np.bool_)
    for check in (*_card_checks(capacity, shape, rows), *_node_checks(capacity, shape.request, rows)):
        lacks = enough & (check.have < check.want)
        enough &= ~lacks
        if lacks.any():
            at = int(np.where(lacks, check.have, -2).argmax())
            best = max(int(check.have[at]), 0)
            found.append(
                Shortage(
                    nodes=int(lacks.sum()), need=check.need, want=check.want, best=best, best_row=int(rows[at]), noun=check.noun
                )
            )
    return found


def _card_checks(capacity: Capacity, shape: Shape, rows: Ints) -> Iterator[_Check]:
    request, number = shape.request, shape.request.gpu_count
    if number == 0:
        return
    kind, vram = capacity.kind[rows], capacity.vram_mib[rows]
    of_model = np.array([not request.gpu_models or gpu.model in request.gpu_models for gpu in capacity.kinds])
    accepted = of_model[kind] & (kind > 0)
    yield _Check("a GPU", (kind > 0).sum(axis=1), 1)
    yield _Check(f"GPU model {' or '.join(request.gpu_models)}", accepted.sum(axis=1), 1)
    yield _Check(f"{number} cards on one node", accepted.sum(axis=1), number, "there")
    if request.whole:
        empty = accepted & (capacity.holders[rows] == 0)
        yield _Check("1 empty card" if number == 1 else f"{number} empty cards", empty.sum(axis=1), number, "there")
        return
    shared = accepted & (vram >= 0)
    where = "on one card" if number == 1 else f"on each of {number} cards"
    yield _Check("1 card to share" if number == 1 else f"{number} cards to share", shared.sum(axis=1), number, "not held whole")
    yield _Check(f"{request.vram_mib} MiB VRAM {where}", _nth_most(np.where(shared, vram, -1), number), request.vram_mib, "free")
    compute, want, unit = _compute(capacity, request, rows)
    yield _Check(f"{want} {unit} {where}", _nth_most(np.where(shared, compute, -1), number), want, "free")
    yield _Check(f"VRAM and compute together {where}", capacity.fits(shape, rows).sum(axis=1), number)


def _compute(capacity: Capacity, request: Request, rows: Ints) -> tuple[Ints, int, str]:
    """Return the free compute of every card, what is asked of it, and the unit of both."""
    free = capacity.compute_milli[rows]
    if request.compute_milli is not None:
        return free, request.compute_milli, "milli compute"
    mtflops = np.array([gpu.mtflops for gpu in capacity.kinds], dtype=np.int64)[capacity.kind[rows]]
    return free * mtflops // CARD_MILLI, request.compute_mtflops or 0, "mTFLOPs"


def _nth_most(values: Ints, number: int) -> Ints:
    """Return for each row the `number`-th largest value, -1 where there are fewer."""
    if number > values.shape[1]:
        return np.full(len(values), -1, dtype=np.int64)
    return -np.sort(-values, axis=1)[:, number - 1]


def _node_checks(capacity: Capacity, request: Request, rows: Ints) -> Iterator[_Check]:
    yield _Check(f"{request.cpu_milli}m CPU", capacity.cpu_milli[rows], request.cpu_milli, "free")
    yield _Check(f"{request.memory_mib} MiB memory", capacity.memory_mib[rows], request.memory_mib, "free")
    yield _Check("room for one more pod", capacity.pods[rows], 1)
