"""Known policies on arrays, as baselines: FGD, best fit, GPU packing, first fit, random.

FGD, best fit and GPU packing follow the description in Weng et al., "Beware of Fragmentation" (USENIX ATC 2023), and what their
simulator does with it: scores are whole numbers, and of equal servers the first one wins. The code is our own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from bench.openb_trace import CARD_MILLI, Pod, Trace

__all__ = ["BASELINES", "Place", "Policy", "policy_of"]

Ints = npt.NDArray[np.int64]
Place = tuple[int, tuple[int, ...]]
"""The index of a server and those of its GPUs."""
Policy = Callable[[int], Place | None]
"""Places the pod of one row of the list for good; None where it fits nowhere."""
BASELINES = ("fgd", "bestfit", "gpupacking", "firstfit", "random")
_PODS_MAX = 1001
_REFUSED = -1
_COVERED_PCT = 95
_MOST_CPU_MILLI, _MOST_GPU_MILLI = 128_000, 8_000


class Servers:
    """What is free on every server; GPUs that a server lacks have less than nothing."""

    def __init__(self, trace: Trace) -> None:
        servers = trace.servers
        self.cpu: Ints = np.array([server.cpu_milli for server in servers])
        self.memory: Ints = np.array([server.memory_mib for server in servers])
        self.pods: Ints = np.full(len(servers), _PODS_MAX)
        self.gpus: Ints = np.array([server.gpus for server in servers])
        self.models = np.array([server.model for server in servers])
        self.free: Ints = np.full((len(servers), max(1, *self.gpus.tolist())), -1)
        for row, server in enumerate(servers):
            self.free[row, : server.gpus] = CARD_MILLI

    def hosts(self, pod: Pod, rows: Ints) -> npt.NDArray[np.bool_]:
        """Return which of these servers can take the pod."""
        fits = (self.cpu[rows] >= pod.cpu_milli) & (self.memory[rows] >= pod.memory_mib) & (self.pods[rows] > 0)
        if pod.gpus:
            fits &= (self.free[rows] >= pod.gpu_milli).sum(axis=1) >= pod.gpus
        return fits & np.isin(self.models[rows], pod.models) if pod.models else fits

    def take(self, pod: Pod, place: Place) -> None:
        """Give the pod its part."""
        row, gpus = place
        self.cpu[row] -= pod.cpu_milli
        self.memory[row] -= pod.memory_mib
        self.pods[row] -= 1
        self.free[row, list(gpus)] -= pod.gpu_milli


class Rule:
    """How good a server is for a pod, and on which GPUs."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers

    def judge(self, pod: Pod, rows: Ints) -> tuple[Ints, Ints]:
        """Return for servers that can take the pod a score each, the highest being best, and the GPUs, as many as it asks."""
        raise NotImplementedError

    def tightest(self, pod: Pod, rows: Ints) -> Ints:
        """Return the GPUs with least room that fits, the first of equal ones."""
        free = np.where(self.servers.free[rows] >= pod.gpu_milli, self.servers.free[rows], CARD_MILLI + 1)
        return np.argsort(free, axis=1, kind="stable")[:, : pod.gpus]


class FirstFit(Rule):
    """The first server, the tightest GPU."""

    def judge(self, pod: Pod, rows: Ints) -> tuple[Ints, Ints]:
        """Score all alike."""
        return np.zeros(len(rows), dtype=np.int64), self.tightest(pod, rows)


class BestFit(Rule):
    """The server with least CPU and GPU left, half and half."""

    def judge(self, pod: Pod, rows: Ints) -> tuple[Ints, Ints]:
        """Score 0 to 100, cut to whole numbers."""
        servers = self.servers
        cpu = (servers.cpu[rows] - pod.cpu_milli) / _MOST_CPU_MILLI
        gpu = (np.maximum(servers.free[rows], 0).sum(axis=1) - pod.asked_milli) / _MOST_GPU_MILLI
        return (100 * (1 - 0.5 * cpu - 0.5 * gpu)).astype(np.int64), self.tightest(pod, rows)


class GpuPacking(Rule):
    """A shared GPU first, then a free GPU of a used server, then a free server; pods without GPU go anywhere."""

    def judge(self, pod: Pod, rows: Ints) -> tuple[Ints, Ints]:
        """Score by what would have to be opened: shared GPUs above 66, used servers above 33."""
        cards, free = self.tightest(pod, rows), self.servers.free[rows]
        if not pod.gpus:
            return np.zeros(len(rows), dtype=np.int64), cards
        fully = (free == CARD_MILLI).sum(axis=1)
        left = np.take_along_axis(free, cards[:, :1], axis=1)[:, 0]
        shared = 100 - left * 100 // CARD_MILLI // 10
        used = 50 - fully
        unused = 33 - self.servers.gpus[rows]
        opened = np.where(fully < self.servers.gpus[rows], used, unused)
        return np.where(left < CARD_MILLI, shared, opened), cards


@dataclass(frozen=True, slots=True)
class _Targets:
    """The most frequent requests that make up 95% of the pods, those for GPUs, with their part of all."""

    cpu: Ints
    milli: Ints
    gpus: Ints
    part: npt.NDArray[np.float64]
    accepts: npt.NDArray[np.bool_]
    """By server and target."""


class Fgd(Rule):
    """Fragmentation gradient descent: where the GPU capacity that typical pods cannot use grows least."""

    def __init__(self, servers: Servers, pods: Sequence[Pod]) -> None:
        super().__init__(servers)
        self._targets = _targets(servers, pods)

    def judge(self, pod: Pod, rows: Ints) -> tuple[Ints, Ints]:
        """Score 0 to 100, cut to whole numbers; the GPU is the one with the best score, the first of equal ones."""
        free, cpu = self.servers.free[rows], self.servers.cpu[rows]
        before = self._useless(free, cpu, rows)
        cpu = cpu - pod.cpu_milli
        if pod.gpus != 1:
            cards = np.argsort(free < pod.gpu_milli, axis=1, kind="stable")[:, : pod.gpus]
            after = free.copy()
            np.put_along_axis(after, cards, np.take_along_axis(free, cards, axis=1) - pod.gpu_milli, axis=1)
            return _points(before - self._useless(after, cpu, rows)), cards
        at, card = np.nonzero(free >= pod.gpu_milli)
        after = free[at]
        after[np.arange(len(at)), card] -= pod.gpu_milli
        points = np.full(free.shape, _REFUSED)
        points[at, card] = _points(before[at] - self._useless(after, cpu[at], rows[at]))
        best = points.argmax(axis=1)
        return points[np.arange(len(rows)), best], best[:, np.newaxis]

    def _useless(self, free: Ints, cpu: Ints, rows: Ints) -> npt.NDArray[np.float64]:
        targets = self._targets
        fits = free[:, :, np.newaxis] >= targets.milli
        hosts = (fits.sum(axis=1) >= targets.gpus) & (cpu[:, np.newaxis] >= targets.cpu) & targets.accepts[rows]
        room = np.maximum(free, 0)
        usable = np.einsum("ng,ngt->nt", room.astype(np.float64), fits)
        useless: npt.NDArray[np.float64] = room.sum(axis=1) - (usable * hosts) @ targets.part
        return useless


def _points(less_milli: npt.NDArray[np.float64]) -> Ints:
    return (100 / (1 + np.exp(-less_milli / CARD_MILLI))).astype(np.int64)


def _targets(servers: Servers, pods: Sequence[Pod]) -> _Targets:
    counts = Counter((pod.cpu_milli, pod.gpu_milli, pod.gpus, pod.models) for pod in pods)
    kept: list[tuple[tuple[int, int, int, tuple[str, ...]], int]] = []
    for key, count in counts.most_common():
        if 100 * sum(number for _, number in kept) >= _COVERED_PCT * len(pods):
            break
        kept.append((key, count))
    total = sum(count for _, count in kept)
    keys = [key for key, _ in kept if key[2]]
    accepts = [np.isin(servers.models, key[3]) if key[3] else np.ones(len(servers.models), dtype=np.bool_) for key in keys]
    return _Targets(
        cpu=np.array([key[0] for key in keys], dtype=np.int64),
        milli=np.array([key[1] for key in keys], dtype=np.int64),
        gpus=np.array([key[2] for key in keys], dtype=np.int64),
        part=np.array([count / total for key, count in kept if key[2]]),
        accepts=np.array(accepts, dtype=np.bool_).reshape(len(keys), len(servers.models)).T,
    )


@dataclass(slots=True)
class _Kept:
    """The scores of one request, as of a number of placements."""

    points: Ints
    cards: Ints
    seen: int


class Greedy:
    """The best server by a rule. Scores are kept; those of servers that changed are made anew."""

    def __init__(self, trace: Trace, rule: Rule) -> None:
        self._pods = trace.pods
        self._rule = rule
        self._kept: dict[Pod, _Kept] = {}
        self._changed: Ints = np.zeros(len(trace.servers), dtype=np.int64)
        self._placements = 0

    def __call__(self, index: int) -> Place | None:
        """Place the pod of this row."""
        pod = self._pods[index]
        kept = self._kept.get(pod)
        if kept is None:
            number = len(self._changed)
            kept = _Kept(np.full(number, _REFUSED), np.zeros((number, pod.gpus), dtype=np.int64), -1)
            self._kept[pod] = kept
        rows = np.flatnonzero(self._changed > kept.seen)
        kept.seen, kept.points[rows] = self._placements, _REFUSED
        rows = rows[self._rule.servers.hosts(pod, rows)]
        if rows.size:
            kept.points[rows], kept.cards[rows] = self._rule.judge(pod, rows)
        best = int(kept.points.argmax())
        if kept.points[best] == _REFUSED:
            return None
        place = (best, tuple(sorted(kept.cards[best].tolist())))
        self._rule.servers.take(pod, place)
        self._placements += 1
        self._changed[best] = self._placements
        return place


class Anywhere:
    """Any server that fits, any GPUs of it that fit."""

    def __init__(self, trace: Trace, seed: int) -> None:
        self._pods, self._servers, self._random = trace.pods, Servers(trace), Random(seed)  # noqa: S311 - a policy, no secret

    def __call__(self, index: int) -> Place | None:
        """Place the pod of this row."""
        pod, rows = self._pods[index], np.arange(len(self._servers.cpu))
        fitting = np.flatnonzero(self._servers.hosts(pod, rows)).tolist()
        if not fitting:
            return None
        row = self._random.choice(fitting)
        gpus = np.flatnonzero(self._servers.free[row] >= pod.gpu_milli).tolist()
        place = (row, tuple(sorted(self._random.sample(gpus, pod.gpus))))
        self._servers.take(pod, place)
        return place


def policy_of(name: str, trace: Trace, seed: int) -> Policy:
    """Return a fresh policy for one run, by its name in ``BASELINES``."""
    if name == "random":
        return Anywhere(trace, seed)
    servers = Servers(trace)
    rules: dict[str, Callable[[], Rule]] = {
        "fgd": lambda: Fgd(servers, trace.pods),
        "bestfit": lambda: BestFit(servers),
        "gpupacking": lambda: GpuPacking(servers),
        "firstfit": lambda: FirstFit(servers),
    }
    return Greedy(trace, rules[name]())
