"""What EC2 sells in a region, as offers: instance types with their cards, and the zones that have them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from tfscale.errors import BadInputError
from tfscale.gpus import GpuTable
from tfscale.model import Offer, OfferFilter
from tfscale.modes.ec2_calls import Ec2Calls
from tfscale.modes.ec2_prices import REMEMBER_S, Prices, Remembered

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import FilterTypeDef, InstanceTypeInfoTypeDef

__all__ = ["Catalogue", "Facts", "facts_of", "node_labels"]

log = logging.getLogger(__name__)

_MOST_VALUES = 200
"""EC2's limit on the values of one filter."""
_ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one instance type is. CPU and memory are the machine's totals: nothing is held back for kubelet and system."""

    name: str
    arch: str
    """As in the label ``kubernetes.io/arch``."""
    capacity_types: tuple[str, ...]
    cpu_milli: int
    memory_mib: int
    gpu_model: str = ""
    gpu_count: int = 0
    vram_mib: int = 0
    """Of one card."""
    mtflops: int = 0
    """Of one card."""


def facts_of(info: InstanceTypeInfoTypeDef | Mapping[str, Any], gpus: GpuTable) -> Facts:
    """Return the facts in one entry of DescribeInstanceTypes. Raises ``BadInputError`` for a card that is in no table.

    A fraction of a card (g6f: ``Count`` 0, ``LogicalGpuCount`` 1, ``GpuPartitionSize`` 0.125) is one card with the VRAM of
    the partition and that part of the model's compute, rounded down.
    """
    architectures = info.get("ProcessorInfo", {}).get("SupportedArchitectures", ())
    base = Facts(
        name=info["InstanceType"],
        arch=next((_ARCHITECTURES[name] for name in architectures if name in _ARCHITECTURES), ""),
        capacity_types=tuple(info.get("SupportedUsageClasses", ("on-demand",))),
        cpu_milli=info["VCpuInfo"]["DefaultVCpus"] * 1_000,
        memory_mib=info["MemoryInfo"]["SizeInMiB"],
    )
    cards = info.get("GpuInfo", {}).get("Gpus", ())
    return _with_cards(base, cards[0], gpus) if cards else base


def _with_cards(base: Facts, card: Mapping[str, Any], gpus: GpuTable) -> Facts:
    model = gpus.find(card["Name"], where=f"instance type {base.name}", field="GpuInfo.Gpus[0].Name")
    part = Decimal(str(card.get("GpuPartitionSize", 1)))
    return replace(
        base,
        gpu_model=model.name,
        gpu_count=card.get("LogicalGpuCount") or card["Count"],
        vram_mib=card["MemoryInfo"]["SizeInMiB"],
        mtflops=int(part * model.mtflops),
    )


def node_labels(facts: Facts, region: str) -> dict[str, str]:
    """Return what every node of this type carries beside its type, zone and capacity type."""
    return {"kubernetes.io/arch": facts.arch, "kubernetes.io/os": "linux", "topology.kubernetes.io/region": region}


class Catalogue:
    """The offers of one region for one filter, whose GPU models are canonical names."""

    def __init__(
        self,
        calls: Ec2Calls,
        prices: Prices,
        gpus: GpuTable,
        *,
        region: str,
        wanted: OfferFilter,
        clock: Callable[[], float],
    ) -> None:
        self._calls = calls
        self._prices = prices
        self._gpus = gpus
        self._region = region
        self._wanted = wanted
        self._sold: Remembered[list[tuple[Facts, str]]] = Remembered(clock)

    def offers(self, zones: Callable[[], Iterable[str] | None]) -> list[Offer]:
        """Return the offers in the zones that `zones` gives, in the order of their names; None is every zone of the region."""
        sold = self._sold.get(lambda: (self._ask_sold(zones()), REMEMBER_S))
        names = {facts.name for facts, _ in sold}
        wanted = self._wanted.capacity_types
        on_demand = self._prices.on_demand(names) if "on-demand" in wanted and names else {}
        spot = self._prices.spot(names) if "spot" in wanted and names else {}
        return [
            self._offer(facts, zone, kind, spot.get((facts.name, zone)) if kind == "spot" else on_demand.get(facts.name))
            for facts, zone in sold
            for kind in wanted
            if kind in facts.capacity_types
        ]

    def unknown_types(self) -> list[str]:
        """Return the types that the pool names and the region does not have."""
        known = {info["InstanceType"] for info in self._describe_types()}
        return sorted(set(self._wanted.instance_types) - known)

    def _offer(self, facts: Facts, zone: str, capacity_type: str, price_micro_usd: int | None) -> Offer:
        return Offer(
            instance_type=facts.name,
            zone=zone,
            capacity_type=capacity_type,
            gpu_model=facts.gpu_model,
            gpu_count=facts.gpu_count,
            vram_mib=facts.vram_mib,
            mtflops=facts.mtflops,
            cpu_milli=facts.cpu_milli,
            memory_mib=facts.memory_mib,
            price_micro_usd=price_micro_usd,
            labels=node_labels(facts, self._region),
        )

    def _ask_sold(self, zones: Iterable[str] | None) -> list[tuple[Facts, str]]:
        facts = {found.name: found for info in self._describe_types() if (found := self._facts(info)) and self._wants(found)}
        allowed = None if zones is None else set(zones)
        places = self._describe_offerings(sorted(facts))
        return [(facts[name], zone) for name, zone in sorted(places) if allowed is None or zone in allowed]

    def _facts(self, info: InstanceTypeInfoTypeDef) -> Facts | None:
        try:
            return facts_of(info, self._gpus)
        except BadInputError as error:
            log.warning("instance type left out: %s", error)
            return None

    def _wants(self, facts: Facts) -> bool:
        if facts.gpu_model and self._wanted.gpu_models and facts.gpu_model not in self._wanted.gpu_models:
            return False
        # Where nobody asked for this very type, an image for the other architecture would not boot on it.
        return facts.name in self._wanted.instance_types or facts.arch == "amd64"

    def _describe_types(self) -> list[InstanceTypeInfoTypeDef]:
        named = self._wanted.instance_types
        if named:
            # By filter and not by InstanceTypes: there one unknown name fails the whole call.
            return [info for part in _parts(named) for info in self._types([{"Name": "instance-type", "Values": part}])]
        return [info for info in self._types([]) if _has_nvidia_card(info)]

    def _types(self, filters: Sequence[FilterTypeDef]) -> list[InstanceTypeInfoTypeDef]:
        def ask() -> list[InstanceTypeInfoTypeDef]:
            pages = self._calls.ec2.get_paginator("describe_instance_types").paginate(Filters=filters)
            return [info for page in pages for info in page["InstanceTypes"]]

        return self._calls.read("DescribeInstanceTypes", ask)

    def _describe_offerings(self, types: Sequence[str]) -> set[tuple[str, str]]:
        def ask(part: Sequence[str]) -> list[tuple[str, str]]:
            pages = self._calls.ec2.get_paginator("describe_instance_type_offerings").paginate(
                LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": part}]
            )
            return [(entry["InstanceType"], entry["Location"]) for page in pages for entry in page["InstanceTypeOfferings"]]

        read = self._calls.read
        return {place for part in _parts(types) for place in read("DescribeInstanceTypeOfferings", partial(ask, part))}


def _has_nvidia_card(info: InstanceTypeInfoTypeDef) -> bool:
    cards = info.get("GpuInfo", {}).get("Gpus", ())
    return any(card.get("Manufacturer") == "NVIDIA" for card in cards)


def _parts(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + _MOST_VALUES] for start in range(0, len(values), _MOST_VALUES)]
