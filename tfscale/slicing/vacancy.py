"""What is free on one node, and how a request takes its part of it."""

from __future__ import annotations

from dataclasses import dataclass

from tfscale.model import CARD_MILLI, Gpu, GpuSlice, Node, Request

__all__ = ["Card", "Vacancy"]


@dataclass(slots=True)
class Card:
    """What is free on one card. A sealed card is held whole: not even a slice of nothing fits beside it."""

    gpu: Gpu
    vram_mib: int
    compute_milli: int
    holders: int = 0
    sealed: bool = False

    def fits(self, request: Request) -> GpuSlice | None:
        """Return what the request would take of this card, or None where it does not fit."""
        asked = request.slice_of(self.gpu)
        if asked is None or self.sealed or (request.whole and self.holders):
            return None
        return asked if asked.vram_mib <= self.vram_mib and asked.compute_milli <= self.compute_milli else None

    def hold(self, part: GpuSlice, *, whole: bool) -> None:
        """Take a slice; what exceeds the card (records that contradict the node) leaves nothing, never less than nothing."""
        self.vram_mib = max(self.vram_mib - part.vram_mib, 0)
        self.compute_milli = max(self.compute_milli - part.compute_milli, 0)
        self.holders += 1
        self.sealed = self.sealed or whole

    @property
    def free_milli(self) -> int:
        """The free VRAM and compute as thousandths of the card, added: 0..2000."""
        return self.vram_mib * CARD_MILLI // max(self.gpu.vram_mib, 1) + self.compute_milli


class Vacancy:
    """What is free on one node after the pods bound to it."""

    __slots__ = ("cards", "cpu_milli", "memory_mib", "pods", "stray", "used")

    def __init__(self, node: Node) -> None:
        self.cpu_milli = max(node.cpu_milli - sum(pod.request.cpu_milli for pod in node.pods), 0)
        self.memory_mib = max(node.memory_mib - sum(pod.request.memory_mib for pod in node.pods), 0)
        self.pods = max(node.pods_max - len(node.pods), 0)
        self.cards = [Card(gpu, gpu.vram_mib, CARD_MILLI) for gpu in node.gpus]
        self.used = any(not pod.daemon for pod in node.pods)
        self.stray = ""
        """A card that a pod holds and the node does not have; such a node takes no pod."""
        self._hold_bound(node)

    def _hold_bound(self, node: Node) -> None:
        cards = {card.gpu.id: card for card in self.cards}
        for pod in node.pods:
            for part in pod.slices:
                if part.gpu_id in cards:
                    cards[part.gpu_id].hold(part, whole=pod.request.whole)
                else:
                    self.stray = max(self.stray, part.gpu_id)

    def place(self, request: Request) -> tuple[GpuSlice, ...] | None:
        """Take what the request asks, on its tightest cards, and return the slices; None where it does not fit.

        The slices are empty for a request without GPUs. Of equally tight cards the first ones are taken.
        """
        if self.pods < 1 or request.cpu_milli > self.cpu_milli or request.memory_mib > self.memory_mib:
            return None
        fitting = [(card, part) for card in self.cards if request.gpu_count and (part := card.fits(request))]
        if len(fitting) < request.gpu_count:
            return None
        chosen = sorted(fitting, key=lambda pair: pair[0].free_milli)[: request.gpu_count]
        for card, part in chosen:
            card.hold(part, whole=request.whole)
        self.cpu_milli -= request.cpu_milli
        self.memory_mib -= request.memory_mib
        self.pods -= 1
        self.used = True
        return tuple(sorted(part for _, part in chosen))
