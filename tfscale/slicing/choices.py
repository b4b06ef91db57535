"""Demands that are alike, offers that are alike, and how one imagined node of an offer is filled."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tfscale.model import CARD_MILLI, INSTANCE_TYPE, Demand, Gpu, Node, Offer, Request
from tfscale.slicing.capacity import NEVER, Bools, Ints
from tfscale.slicing.order import filling_order
from tfscale.slicing.reasons import refusal
from tfscale.slicing.vacancy import Vacancy

__all__ = ["Choice", "Groups", "cheapest_first", "choices_of", "imagine"]

_MILLION = 1_000_000


def imagine(offer: Offer, *, name: str, pool: str) -> Node:
    """Return the node that an offer becomes: empty, ready, with the well-known labels and those that the offer adds.

    A label of the offer wins over the one that would follow from its fields.

    >>> offer = Offer(instance_type="c7i.large", zone="a", capacity_type="spot", cpu_milli=2_000, memory_mib=4_096,
    ...               price_micro_usd=89_250)
    >>> imagine(offer, name="new-1", pool="small").labels["topology.kubernetes.io/zone"]
    'a'
    """
    labels = {
        INSTANCE_TYPE: offer.instance_type,
        "topology.kubernetes.io/zone": offer.zone,
        "karpenter.sh/capacity-type": offer.capacity_type,
        "tfscale.io/pool": pool,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        **offer.labels,
    }
    card = Gpu(id="", model=offer.gpu_model, vram_mib=offer.vram_mib, mtflops=offer.mtflops)
    return Node(
        name=name,
        pool=pool,
        labels=labels,
        taints=offer.taints,
        gpus=tuple(replace(card, id=str(index)) for index in range(offer.gpu_count)),
        cpu_milli=offer.cpu_milli,
        memory_mib=offer.memory_mib,
        pods_max=offer.pods_max,
    )


def cheapest_first(offer: Offer) -> tuple[bool, int, str]:
    """Return the sort key of offers: known prices before unknown ones, then the price, then the id."""
    return (offer.price_micro_usd is None, offer.price_micro_usd or 0, offer.id)


class Groups:
    """The demands that wait, alike ones together, in the order in which they fill a node."""

    def __init__(self, demands: Iterable[Demand]) -> None:
        alike: dict[tuple[object, ...], deque[Demand]] = {}
        for demand in sorted(demands, key=filling_order):
            alike.setdefault((demand.priority, demand.request, demand.terms, demand.tolerations), deque()).append(demand)
        self._waiting = list(alike.values())
        self.examples = [group[0] for group in self._waiting]
        self.requests = [demand.request for demand in self.examples]
        self.count: Ints = np.array([len(group) for group in self._waiting], dtype=np.int64)
        self.cpu_milli: Ints = np.array([request.cpu_milli for request in self.requests], dtype=np.int64)
        self.memory_mib: Ints = np.array([request.memory_mib for request in self.requests], dtype=np.int64)
        self.gpu_count: Ints = np.array([request.gpu_count for request in self.requests], dtype=np.int64)

    def first(self) -> int | None:
        """Return the first group in which a demand waits; None when all are served."""
        waiting = np.flatnonzero(self.count)
        return int(waiting[0]) if waiting.size else None

    def take(self, group: int, number: int) -> list[Demand]:
        """Take the first `number` demands out of a group."""
        self.count[group] -= number
        return [self._waiting[group].popleft() for _ in range(number)]


class Choice:
    """Offers that differ in nothing that matters to the groups but the price, cheapest first.

    ``hosts`` says which groups an empty node of them takes; ``vram_mib`` and ``compute_milli`` what a group asks of a card.
    """

    def __init__(self, offers: Sequence[Offer], node: Node, hosts: Bools, groups: Groups) -> None:
        self.offers = tuple(sorted(offers, key=cheapest_first))
        self.node = node
        self._groups = groups
        parts = _parts(node, groups)
        self.vram_mib: Ints = np.array([vram_mib for vram_mib, _ in parts], dtype=np.int64)
        self.compute_milli: Ints = np.array([compute_milli for _, compute_milli in parts], dtype=np.int64)
        self.hosts: Bools = hosts & (self.vram_mib < NEVER) & (groups.gpu_count <= len(node.gpus)) & (node.pods_max > 0)
        self.hosts &= (groups.cpu_milli <= node.cpu_milli) & (groups.memory_mib <= node.memory_mib)

    @property
    def price_micro_usd(self) -> int | None:
        """Per hour, of the cheapest offer."""
        return self.offers[0].price_micro_usd

    def worth_micro_usd(self) -> Ints:
        """Return what each group's part of a node costs, by the dimension of which it takes the largest part."""
        node, groups = self.node, self._groups
        vram = self.vram_mib * _MILLION // max(max((gpu.vram_mib for gpu in node.gpus), default=1), 1)
        cards = np.maximum(vram, self.compute_milli * (_MILLION // CARD_MILLI)) * groups.gpu_count // max(len(node.gpus), 1)
        cpu = groups.cpu_milli * _MILLION // max(node.cpu_milli, 1)
        memory = groups.memory_mib * _MILLION // max(node.memory_mib, 1)
        share: Ints = np.minimum(np.maximum.reduce([cards, cpu, memory]), _MILLION)
        return share * (self.price_micro_usd or 0) // _MILLION

    def fill(self) -> dict[int, int]:
        """Return how many demands of which group an empty node takes when everything that waits is offered in order."""
        vacancy = Vacancy(self.node)
        taken: dict[int, int] = {}
        waiting = np.flatnonzero(self.hosts & (self._groups.count > 0))
        while waiting.size and vacancy.pods:
            group = int(waiting[0])
            fitted = vacancy.place(self._groups.requests[group]) is not None
            if fitted:
                taken[group] = taken.get(group, 0) + 1
            if not fitted or taken[group] == self._groups.count[group]:
                waiting = waiting[1:]
            waiting = waiting[self._may_fit(vacancy, waiting)]
        return taken

    def _may_fit(self, vacancy: Vacancy, waiting: Ints) -> Bools:
        """Return which groups are not too large in any single dimension, a quick test before the exact one."""
        groups = self._groups
        may = (groups.cpu_milli[waiting] <= vacancy.cpu_milli) & (groups.memory_mib[waiting] <= vacancy.memory_mib)
        may &= self.vram_mib[waiting] <= max((card.vram_mib for card in vacancy.cards), default=0)
        return may & (self.compute_milli[waiting] <= max((card.compute_milli for card in vacancy.cards), default=0))

    def takes(self, load: Mapping[int, int]) -> bool:
        """Return whether an empty node takes this load: so many demands of these groups."""
        if not self.hosts[list(load)].all():
            return False
        vacancy = Vacancy(self.node)
        requests = (self._groups.requests[group] for group in sorted(load) for _ in range(load[group]))
        return all(vacancy.place(request) is not None for request in requests)


def _parts(node: Node, groups: Groups) -> list[tuple[int, int]]:
    """Return what each group asks of one card of the node; ``NEVER`` where it asks more than the card has."""
    known: dict[Request, tuple[int, int]] = {}
    for request in groups.requests:
        if request not in known:
            part = request.slice_of(node.gpus[0]) if node.gpus and request.gpu_count else None
            lacking = NEVER if request.gpu_count else 0
            known[request] = (part.vram_mib, part.compute_milli) if part else (lacking, lacking)
    return [known[request] for request in groups.requests]


def choices_of(offers: Iterable[Offer], groups: Groups, *, pool: str) -> list[Choice]:
    """Return the offers with alike ones together, cheapest first. Zones are told apart only where a demand does."""
    alike: dict[tuple[object, ...], list[Offer]] = {}
    for offer in sorted(offers, key=cheapest_first):
        card = (offer.gpu_model, offer.gpu_count, offer.vram_mib, offer.mtflops)
        key = (*card, offer.cpu_milli, offer.memory_mib, offer.pods_max, _accepted(offer, groups, pool).tobytes())
        alike.setdefault(key, []).append(offer)
    return [
        Choice(members, imagine(members[0], name="", pool=pool), _accepted(members[0], groups, pool), groups)
        for members in alike.values()
    ]


def _accepted(offer: Offer, groups: Groups, pool: str) -> Bools:
    """Return which groups accept the labels and tolerate the taints of the offer."""
    node = imagine(offer, name="", pool=pool)
    known: dict[tuple[object, ...], bool] = {}
    accepted = []
    for demand in groups.examples:
        key = (demand.terms, demand.tolerations)
        if key not in known:
            known[key] = not refusal(demand, node)
        accepted.append(known[key])
    return np.array(accepted, dtype=np.bool_)
