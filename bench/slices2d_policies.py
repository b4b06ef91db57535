"""Slices in two dimensions: the baselines, each of own writing on arrays, and tfscale through its public interface.

All take the first node of equal ones, and none refuses what fits. ``tfscale`` and ``fgd`` know how often each kind of request
is made; the others know nothing.

* ``fgd``: Weng et al., "Beware of Fragmentation", USENIX ATC 2023, in two dimensions. The fragmentation of a node for a target
  is all that is free on its cards where the node cannot host the target (cards, CPU), else what is free on cards with too
  little VRAM or too little compute for it. Free is the mean of the free shares of VRAM and compute, in cards, weighed by
  how much of each the typical requests ask. As published: targets are the most frequent requests that make 95% of all, the
  score is the integer part of 100 / (1 + exp(-less)). Several cards for one pod are the fullest that fit.
* ``fgd-min``: the same with the smaller of both shares as what is free: a card without VRAM has nothing left.
* ``best-fit``: the node that has least left afterwards: CPU, VRAM and compute as parts of the largest node's; of its cards
  the fullest.
* ``tight-fit``: the card that has least left afterwards, mean of both shares.
* ``dot-product``: the node whose free CPU, VRAM and compute have the smallest scalar product with the request, all as parts
  of the largest node's; of its cards the fullest. (With the largest product pods are spread, which is worse here.)
* ``first-fit``: the first node, the first card.
* ``random``: any node that fits, any cards of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.slices2d_state import Floats, Ints, State
from bench.slices2d_work import POOL, Case, Kind, Placement
from tfscale.model import CARD_MILLI, Demand
from tfscale.slicing import Packer, Weights, typical_of

__all__ = ["BASELINES", "POLICIES", "Policy", "policy_of"]

_COVERED_PCT = 95
_TIE = 1e-6
"""How much the choice of a card weighs beside that of a node."""


class Policy(Protocol):
    """Something that places one arrival after another."""

    def place(self, kind: int) -> Placement | None:
        """Place one more demand of the kind, or return None where it fits nowhere."""


Score = Callable[[State, int, Ints, Ints], Floats]
"""Of places, given as rows and cards: the higher the better."""


@dataclass(slots=True)
class _Best:
    """The best place of one kind on every node, as of a length of the log of changed nodes."""

    score: Floats
    cards: Ints
    seen: int = 0


class Scored:
    """Takes the place of the highest score. Scores are kept by kind; only those of nodes that changed are made again."""

    def __init__(self, state: State, score: Score) -> None:
        self._state = state
        self._score = score
        self._changed: list[int] = []
        self._best: dict[int, _Best] = {}

    def place(self, kind: int) -> Placement | None:
        """Place one more demand of the kind, or return None where it fits nowhere."""
        best = self._current(kind)
        row = int(best.score.argmax())
        if best.score[row] == -np.inf:
            return None
        cards = best.cards[row].copy()
        self._state.take(kind, row, cards)
        self._changed.append(row)
        return Placement(node=row, cards=tuple(cards.tolist()))

    def _current(self, kind: int) -> _Best:
        best = self._best.get(kind)
        if best is None:
            rows = np.arange(len(self._state.nodes))
            cards = np.zeros((len(rows), int(self._state.asks_cards[kind])), dtype=np.int64)
            best = self._best[kind] = _Best(np.full(len(rows), -np.inf), cards)
        else:
            rows = np.unique(np.array(self._changed[best.seen :], dtype=np.int64))
        best.seen = len(self._changed)
        best.score[rows] = -np.inf
        rows, cards = self._state.places(kind, rows)
        if rows.size:
            score = self._score(self._state, kind, rows, cards)
            order = np.lexsort((-score, rows))
            first = order[np.unique(rows[order], return_index=True)[1]]
            best.score[rows[first]], best.cards[rows[first]] = score[first], cards[first]
        return best


class Anywhere:
    """Takes any place, by a seed."""

    def __init__(self, state: State, seed: int) -> None:
        self._state = state
        self._generator = np.random.default_rng(seed)

    def place(self, kind: int) -> Placement | None:
        """Place one more demand of the kind, or return None where it fits nowhere."""
        state, number = self._state, int(self._state.asks_cards[kind])
        rows = state.room(kind, np.arange(len(state.nodes)))
        fits = state.fits(kind, rows)
        able = np.flatnonzero(fits.sum(axis=1) >= number)
        if not able.size:
            return None
        at = int(self._generator.choice(able))
        cards = np.sort(self._generator.choice(np.flatnonzero(fits[at]), size=number, replace=False))
        row = int(rows[at])
        state.take(kind, row, cards)
        return Placement(node=row, cards=tuple(cards.tolist()))


class Tfscale:
    """The library's packer."""

    def __init__(self, case: Case, weights: Weights) -> None:
        self._case = case
        self._rows = {node.name: row for row, node in enumerate(case.nodes)}
        typical = typical_of(kind.request for kind in case.kinds for _ in range(kind.count))
        self._packer = Packer(case.nodes, typical=typical, weights=weights)
        self._number = 0

    def place(self, kind: int) -> Placement | None:
        """Place one more demand of the kind, or return None where it fits nowhere."""
        self._number += 1
        uid = f"{self._number:06d}"
        placed = self._packer.place(Demand(id=f"bench/{uid}", uid=uid, pool=POOL, request=self._case.kinds[kind].request))
        if placed is None:
            return None
        return Placement(node=self._rows[placed.node], cards=tuple(int(part.gpu_id) for part in placed.slices))


class _Fgd:
    """The published score in two dimensions."""

    def __init__(self, state: State, kinds: Sequence[Kind], *, smaller: bool) -> None:
        order = sorted(range(len(kinds)), key=lambda at: -kinds[at].count)
        total = sum(kind.count for kind in kinds)
        before = np.cumsum([0, *(kinds[at].count for at in order)])[: len(order)]
        self._targets: Ints = np.array(order, dtype=np.int64)[before * 100 < total * _COVERED_PCT]
        weight = np.array([kinds[at].count for at in self._targets.tolist()], dtype=np.float64)
        self._weight = weight / weight.sum()
        self._smaller = smaller
        self._vram_part = _vram_part(state, self._targets, self._weight)

    def __call__(self, state: State, kind: int, rows: Ints, cards: Ints) -> Floats:
        distinct, back = np.unique(rows, return_inverse=True)
        before = self._fragmentation(state, distinct, state.vram[distinct], state.compute[distinct], state.cpu[distinct])
        after = self._fragmentation(state, rows, *state.after(kind, rows, cards), state.cpu[rows] - state.asks_cpu[kind])
        score: Floats = np.floor(100 / (1 + np.exp(after - before[back])))
        return score

    def _fragmentation(self, state: State, rows: Ints, vram: Ints, compute: Ints, cpu: Ints) -> Floats:
        card, targets = state.card[rows], self._targets
        shares = vram / np.maximum(state.card_vram[card], 1), compute / CARD_MILLI
        part = self._vram_part
        free = np.minimum(*shares) if self._smaller else shares[0] * part + shares[1] * (1 - part)
        fits = state.asks_vram[targets][:, card] <= vram
        fits &= state.asks_compute[targets][:, card] <= compute
        hosts = (fits.sum(axis=2) >= state.asks_cards[targets][:, np.newaxis]) & (state.asks_cpu[targets][:, np.newaxis] <= cpu)
        useless = np.where(hosts, (free * ~fits).sum(axis=2), free.sum(axis=1))
        lost: Floats = self._weight @ useless
        return lost


def _vram_part(state: State, targets: Ints, weight: Floats) -> float:
    """Return how much of what the targets ask is VRAM, the rest being compute, both as shares of cards that can host them."""
    fitting = (state.asks_vram[targets] <= state.card_vram) & (state.asks_compute[targets] <= CARD_MILLI)
    number = np.maximum(fitting.sum(axis=1), 1)
    times = weight * state.asks_cards[targets] / number
    vram = float(times @ np.where(fitting, state.asks_vram[targets] / np.maximum(state.card_vram, 1), 0).sum(axis=1))
    compute = float(times @ np.where(fitting, state.asks_compute[targets] / CARD_MILLI, 0).sum(axis=1))
    return vram / (vram + compute) if vram + compute else 0.5


def _left_on_cards(state: State, kind: int, rows: Ints, cards: Ints) -> Floats:
    """Return what the chosen cards would have left, mean of both shares and of the cards."""
    vram, compute = state.after(kind, rows, cards)
    card = state.card[rows]
    left = (vram / np.maximum(state.card_vram[card], 1) + compute / CARD_MILLI) / 2
    mean: Floats = np.take_along_axis(left, cards, axis=1).mean(axis=1)
    return mean


def _node_parts(state: State, cpu: Ints, vram: Ints, compute: Ints) -> Floats:
    """Return CPU, VRAM and compute of nodes as parts of the largest node's; one row for each node."""
    most_cpu = max(node.cpu_milli for node in state.nodes)
    most_vram = max(sum(gpu.vram_mib for gpu in node.gpus) for node in state.nodes)
    most_cards = max(len(node.gpus) for node in state.nodes)
    parts = (cpu / most_cpu, vram.sum(axis=1) / max(most_vram, 1), compute.sum(axis=1) / max(most_cards * CARD_MILLI, 1))
    return np.stack(parts, axis=1)


def _best_fit(state: State, kind: int, rows: Ints, cards: Ints) -> Floats:
    left = _node_parts(state, state.cpu[rows] - state.asks_cpu[kind], *state.after(kind, rows, cards))
    score: Floats = -left.sum(axis=1) - _TIE * _left_on_cards(state, kind, rows, cards)
    return score


def _tight_fit(state: State, kind: int, rows: Ints, cards: Ints) -> Floats:
    return -_left_on_cards(state, kind, rows, cards)


def _dot_product(state: State, kind: int, rows: Ints, cards: Ints) -> Floats:
    free = _node_parts(state, state.cpu[rows], state.vram[rows], state.compute[rows])
    left = _node_parts(state, state.cpu[rows] - state.asks_cpu[kind], *state.after(kind, rows, cards))
    score: Floats = -((free - left) * free).sum(axis=1) - _TIE * _left_on_cards(state, kind, rows, cards)
    return score


def _first_fit(_state: State, _kind: int, rows: Ints, _cards: Ints) -> Floats:
    return np.zeros(len(rows))


_SCORES: dict[str, Score] = {
    "best-fit": _best_fit,
    "tight-fit": _tight_fit,
    "dot-product": _dot_product,
    "first-fit": _first_fit,
}
BASELINES = ("fgd", "fgd-min", *_SCORES, "random")
_WITHOUT = ("worth", "useless", "scarcity", "free", "step")
POLICIES = ("tfscale", *BASELINES, *(f"tfscale:no-{part}" for part in _WITHOUT))


def policy_of(name: str, case: Case) -> Policy:
    """Return the policy of one of ``POLICIES``, on the empty cluster; ``tfscale:no-worth`` is tfscale without that part."""
    if name.startswith("tfscale"):
        part = name.partition(":no-")[2]
        return Tfscale(case, Weights(**({part: 0.0} if part else {})))
    state = State(case.nodes, case.kinds)
    if name == "random":
        return Anywhere(state, case.seed)
    if name.startswith("fgd"):
        return Scored(state, _Fgd(state, case.kinds, smaller=name == "fgd-min"))
    return Scored(state, _SCORES[name])
