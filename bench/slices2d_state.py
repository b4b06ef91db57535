"""Slices in two dimensions: what is free on every node while a baseline places, as arrays of nodes and cards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.slices2d_work import Kind
from tfscale.model import CARD_MILLI, Gpu, Node

__all__ = ["Bools", "Floats", "Ints", "State"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_NEVER = 1 << 40


class State:
    """The free part of every node and card. Kinds of card are numbered from 1; 0 is no card."""

    def __init__(self, nodes: Sequence[Node], kinds: Sequence[Kind]) -> None:
        self.nodes = nodes
        self.cpu: Ints = np.array([node.cpu_milli for node in nodes], dtype=np.int64)
        self.memory: Ints = np.array([node.memory_mib for node in nodes], dtype=np.int64)
        self.pods: Ints = np.array([node.pods_max for node in nodes], dtype=np.int64)
        distinct = {(gpu.model, gpu.vram_mib, gpu.mtflops): gpu for node in nodes for gpu in node.gpus}
        self._numbers = {key: index for index, key in enumerate(distinct, start=1)}
        cards = [Gpu(id="", model="", vram_mib=0, mtflops=0), *distinct.values()]
        self.card_vram: Ints = np.array([gpu.vram_mib for gpu in cards], dtype=np.int64)
        width = max((len(node.gpus) for node in nodes), default=0)
        self.card: Ints = np.zeros((len(nodes), width), dtype=np.int64)
        for row, node in enumerate(nodes):
            for column, gpu in enumerate(node.gpus):
                self.card[row, column] = self._numbers[gpu.model, gpu.vram_mib, gpu.mtflops]
        self.vram: Ints = self.card_vram[self.card]
        self.compute: Ints = np.where(self.card > 0, CARD_MILLI, 0)
        self._read(kinds, cards)

    def _read(self, kinds: Sequence[Kind], cards: Sequence[Gpu]) -> None:
        """Note what each kind of request takes of each kind of card."""
        requests = [kind.request for kind in kinds]
        self.asks_cpu: Ints = np.array([request.cpu_milli for request in requests], dtype=np.int64)
        self.asks_memory: Ints = np.array([request.memory_mib for request in requests], dtype=np.int64)
        self.asks_cards: Ints = np.array([request.gpu_count for request in requests], dtype=np.int64)
        parts = [[request.slice_of(gpu) if gpu.model else None for gpu in cards] for request in requests]
        vram = [[part.vram_mib if part else _NEVER for part in row] for row in parts]
        compute = [[part.compute_milli if part else _NEVER for part in row] for row in parts]
        self.asks_vram: Ints = np.array(vram, dtype=np.int64).reshape(len(requests), len(cards))
        self.asks_compute: Ints = np.array(compute, dtype=np.int64).reshape(len(requests), len(cards))

    def fits(self, kind: int, rows: Ints) -> Bools:
        """Return which cards of these rows have room for a slice of the kind.

        Every slice takes some VRAM or some compute, so only an empty card has room for all of it.
        """
        card = self.card[rows]
        fits: Bools = (self.asks_vram[kind][card] <= self.vram[rows]) & (self.asks_compute[kind][card] <= self.compute[rows])
        return fits

    def room(self, kind: int, rows: Ints) -> Ints:
        """Return those of the rows that have the CPU, the memory and a pod left."""
        enough = (self.asks_cpu[kind] <= self.cpu[rows]) & (self.asks_memory[kind] <= self.memory[rows])
        left: Ints = rows[enough & (self.pods[rows] > 0)]
        return left

    def places(self, kind: int, rows: Ints) -> tuple[Ints, Ints]:
        """Return all places worth a look, as rows and cards: every card that fits, or the fullest ones where many are asked."""
        rows, number = self.room(kind, rows), int(self.asks_cards[kind])
        fits = self.fits(kind, rows)
        if number == 1:
            at, card = np.nonzero(fits)
            return rows[at], card[:, np.newaxis]
        enough = fits.sum(axis=1) >= number
        free = np.where(fits, self.free_share(self.vram, self.compute)[rows], 2.0)[enough]
        return rows[enough], np.argsort(free, axis=1, kind="stable")[:, :number]

    def free_share(self, vram: Ints, compute: Ints) -> Floats:
        """Return the mean of free VRAM and free compute of every card, 0..1."""
        return (vram / np.maximum(self.card_vram[self.card], 1) + compute / CARD_MILLI) / 2

    def after(self, kind: int, rows: Ints, cards: Ints) -> tuple[Ints, Ints]:
        """Return the VRAM and compute that all cards of each row would have left; one row of `cards` for each of `rows`."""
        vram, compute = self.vram[rows], self.compute[rows]
        at = (np.arange(len(rows))[:, np.newaxis], cards)
        card = self.card[rows][at]
        vram[at] -= self.asks_vram[kind][card]
        compute[at] -= self.asks_compute[kind][card]
        return vram, compute

    def take(self, kind: int, row: int, cards: Ints) -> None:
        """Give the kind its part of a node; the caller has seen that it fits."""
        card = self.card[row, cards]
        self.vram[row, cards] -= self.asks_vram[kind][card]
        self.compute[row, cards] -= self.asks_compute[kind][card]
        self.cpu[row] -= self.asks_cpu[kind]
        self.memory[row] -= self.asks_memory[kind]
        self.pods[row] -= 1
