"""What a claim may be given: the types, zones and capacity types that meet its requirements, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import product

from tfscale.catalogue import InstanceType
from tfscale.gpus import GpuTable
from tfscale.kube.requests import GPU_RESOURCE
from tfscale.model import INSTANCE_TYPE, Offer
from tfscale.modes.nodeclaim_labels import ARCH, CAPACITY_TYPE, OS, REGION, ZONE
from tfscale.modes.nodeclaim_providers import TypeFacts, provider_of
from tfscale.testing.fake_karpenter.objects import Wish

__all__ = ["Offers"]

_PODS = 110
_CAPACITY_TYPES = ("on-demand", "spot")


class Offers:
    """The instance types of one region."""

    def __init__(self, types: Iterable[InstanceType], *, region: str, zones: Sequence[str], gpus: GpuTable) -> None:
        self._types = {kind.name: kind for kind in types}
        self._region = region
        self._zones = tuple(zones)
        self._gpus = gpus

    def types(self, wish: Wish) -> list[InstanceType]:
        """Return the types that the requirements let through, whatever their zone, price and size."""
        kinds = [kind for kind in self._types.values() if _is_given(kind, wish)]
        return [kind for kind in kinds if self._meets(wish, kind, self._type_labels(kind, wish.class_kind.group))]

    def fitting(self, wish: Wish) -> list[Offer]:
        """Return the offers, best first, that one call may ask for: all of the capacity type of the best.

        An unknown price is never cheap: such an offer comes last.
        """
        choices = product(self.types(wish), self._zones, _CAPACITY_TYPES)
        offers = [self._offer(*choice) for choice in choices if self._fits(wish, *choice)]
        offers.sort(key=lambda offer: (offer.price_micro_usd is None, offer.price_micro_usd or 0, offer.id))
        return [offer for offer in offers if offer.capacity_type == offers[0].capacity_type]

    def labels(self, instance_type: str, zone: str, capacity_type: str, *, group: str) -> dict[str, str]:
        """Return what a node of this offer carries under a provider, the group of a node class."""
        place = {ZONE: zone, REGION: self._region, CAPACITY_TYPE: capacity_type}
        return {**self._type_labels(self._types[instance_type], group), **place}

    def capacity(self, instance_type: str) -> dict[str, str]:
        """Return what a node of this type has, all of it allocatable."""
        kind = self._types[instance_type]
        cards = {GPU_RESOURCE: str(kind.gpu_count)} if kind.gpu_count else {}
        return {"cpu": f"{kind.cpu_milli}m", "memory": f"{kind.memory_mib}Mi", "pods": str(_PODS), **cards}

    def _fits(self, wish: Wish, kind: InstanceType, zone: str, capacity_type: str) -> bool:
        has = {
            "cpu": Fraction(kind.cpu_milli, 1_000),
            "memory": Fraction(kind.memory_mib * 2**20),
            "pods": Fraction(_PODS),
            GPU_RESOURCE: Fraction(kind.gpu_count),
        }
        big_enough = all(amount <= has.get(name, 0) for name, amount in wish.requests.items())
        return big_enough and self._meets(wish, kind, self.labels(kind.name, zone, capacity_type, group=wish.class_kind.group))

    def _meets(self, wish: Wish, kind: InstanceType, labels: Mapping[str, str]) -> bool:
        """Return whether the requirements on these labels are met.

        Karpenter takes labels that it knows nothing of for what somebody else will write: they keep no type out.
        """
        provider, facts = provider_of(wish.class_kind.group), self._facts(kind)
        # A label that the provider tells of and that is missing says that the type has no such thing.
        return all(one.matches(labels) for one in wish.requirements if one.key in labels or provider.tells(one.key, facts))

    def _type_labels(self, kind: InstanceType, group: str) -> dict[str, str]:
        return {INSTANCE_TYPE: kind.name, ARCH: kind.arch, OS: "linux", **provider_of(group).labels(self._facts(kind))}

    def _facts(self, kind: InstanceType) -> TypeFacts:
        card = self._gpus.card(kind.gpu_model, vram_mib=kind.vram_mib) if kind.gpu_count else None
        return TypeFacts(
            name=kind.name,
            cpu_milli=kind.cpu_milli,
            memory_mib=kind.memory_mib,
            gpu_model=card.name if card else "",
            gpu_count=kind.gpu_count,
            vram_mib=card.vram_mib if card else 0,
        )

    @staticmethod
    def _offer(kind: InstanceType, zone: str, capacity_type: str) -> Offer:
        spot = capacity_type == "spot"
        return Offer(
            instance_type=kind.name,
            zone=zone,
            capacity_type=capacity_type,
            cpu_milli=kind.cpu_milli,
            memory_mib=kind.memory_mib,
            price_micro_usd=kind.spot_price_micro_usd if spot else kind.price_micro_usd,
        )


def _is_given(kind: InstanceType, wish: Wish) -> bool:
    """Return whether a provider gives a claim with these taints a type at all."""
    needed = provider_of(wish.class_kind.group).gpu_taint
    taints = {(taint["key"], taint["effect"]) for taint in wish.taints}
    return not (needed and kind.gpu_count) or (needed, "NoSchedule") in taints
