"""Slices in two dimensions: one run of one policy, and its figures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.slices2d_bound import bound
from bench.slices2d_policies import policy_of
from bench.slices2d_work import Case, Placement, asked, values_of

__all__ = ["Figures", "Run", "bounds_of", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What stands after some part of the arrivals; percent of the cluster, ``of_bound_pct`` of what the bound allows."""

    arrived: int
    placed: int
    of_bound_pct: float
    """The value placed: for each pod the larger of its parts of all VRAM and of all compute."""
    value_pct: float
    bound_pct: float
    vram_pct: float
    compute_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One policy on one case."""

    places: tuple[Placement | None, ...]
    at_100: Figures
    at_130: Figures
    decisions_per_s: float


def bounds_of(case: Case) -> tuple[float, float]:
    """Return the bounds of the value that can be placed when 100% have arrived, and 130%."""
    values = values_of(case.kinds, case.nodes)
    worth = {kind.request: value for kind, value in zip(case.kinds, values, strict=True)}
    wanted = [Counter(case.kinds[kind].request for kind in case.arrivals[:end]) for end in (case.full, len(case.arrivals))]
    full, over = (bound(case.nodes, counts, worth) for counts in wanted)
    return full, over


def run(case: Case, policy: str, bounds: tuple[float, float]) -> Run:
    """Place all arrivals and return the figures; `bounds` are those of ``bounds_of``."""
    chosen = policy_of(policy, case)
    began = time.perf_counter()
    places = tuple(chosen.place(kind) for kind in case.arrivals)
    wall_s = time.perf_counter() - began
    return Run(
        places=places,
        at_100=_figures(case, places[: case.full], bounds[0]),
        at_130=_figures(case, places, bounds[1]),
        decisions_per_s=len(places) / wall_s,
    )


def _figures(case: Case, places: Sequence[Placement | None], most: float) -> Figures:
    placed = Counter(kind for kind, place in zip(case.arrivals, places, strict=False) if place is not None)
    values = values_of(case.kinds, case.nodes)
    value = sum(values[kind] * count for kind, count in placed.items())
    parts = {kind: asked(case.kinds[kind].request, case.nodes) or (0.0, 0.0) for kind in placed}
    vram, compute = (100 * sum(parts[kind][axis] * count for kind, count in placed.items()) for axis in (0, 1))
    return Figures(
        arrived=len(places),
        placed=placed.total(),
        of_bound_pct=100 * value / most if most else 100.0,
        value_pct=100 * value,
        bound_pct=100 * most,
        vram_pct=vram,
        compute_pct=compute,
    )
