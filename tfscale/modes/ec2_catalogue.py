"""What EC2 sells in a region, as offers: instance types with their cards, and the zones that have them."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuTable
from tfscale.model import Offer
from tfscale.modes.ec2_calls import Ec2Calls
from tfscale.modes.ec2_prices import REMEMBER_S, Prices, Remembered
from tfscale.modes.ec2_reservations import RESERVED, Reservation, reserved_price
from tfscale.pool import OfferFilter

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import FilterTypeDef, InstanceTypeInfoTypeDef

__all__ = ["Catalogue", "Facts", "facts_of", "nearest", "node_labels"]

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
        self._described: Remembered[tuple[frozenset[str], list[Facts]]] = Remembered(clock)
        self._sold: Remembered[list[tuple[Facts, str]]] = Remembered(clock)

    def offers(self, zones: Callable[[], Iterable[str] | None], reservations: Sequence[Reservation] = ()) -> list[Offer]:
        """Return the offers in the zones that `zones` gives, in the order of their names; None is each zone of the region itself.

        Machines of `reservations` are on offer as far as the pool wants their types and zones.
        """
        sold = self.sold(zones)
        names = {facts.name for facts, _ in sold}
        wanted = self._wanted.capacity_types
        on_demand = self._prices.on_demand(names) if {"on-demand", RESERVED} & {*wanted} and names else {}
        spot = self._prices.spot(names) if "spot" in wanted and names else {}
        return [
            *(
                self._offer(facts, zone, kind, spot.get((facts.name, zone)) if kind == "spot" else on_demand.get(facts.name))
                for facts, zone in sold
                for kind in wanted
                if kind in facts.capacity_types
            ),
            *(self._reserved(facts, one, on_demand.get(facts.name)) for facts, one in self.matched(zones, reservations)),
        ]

    def matched(
        self, zones: Callable[[], Iterable[str] | None], reservations: Sequence[Reservation]
    ) -> list[tuple[Facts, Reservation]]:
        """Return the reservations of types and zones that the pool wants."""
        by_place = {(facts.name, zone): facts for facts, zone in self.sold(zones)}
        return [(by_place[place], one) for one in reservations if (place := (one.instance_type, one.zone)) in by_place]

    def sold(self, zones: Callable[[], Iterable[str] | None]) -> list[tuple[Facts, str]]:
        """Return the wanted types, each with a zone that has it, without asking for prices."""
        return self._sold.get(lambda: (self._ask_sold(zones()), REMEMBER_S))

    def names(self) -> frozenset[str]:
        """Return the types that the pool names, or all with cards, as far as the region has them."""
        return self._kinds()[0]

    def problems(self, where: str) -> list[Problem]:
        """Return each named type that the region does not have, and the values of each filter that leaves nothing.

        A filter is not to blame for what another one leaves out.
        """
        wanted, (names, kinds) = self._wanted, self._kinds()
        missing = self._missing(where, names)
        booting = [facts for facts in kinds if self._boots(facts)]
        if not booting:
            want = f"a type of {self._region} whose card is in the GPU table"
            return missing or _blamed(where, "instanceTypes", wanted.instance_types or ("",), want)
        models = {facts.gpu_model for facts in booting if facts.gpu_model}
        chosen = [facts for facts in booting if self._has_card(facts)] or booting
        found = {zone for _, zone in self._describe_offerings(sorted(facts.name for facts in chosen))}
        capacity_types = {kind for facts in chosen for kind in facts.capacity_types} | {RESERVED} & {*wanted.capacity_types}
        return [
            *missing,
            *_useless(where, "gpuModels", wanted.gpu_models, models),
            *_useless(where, "zones", wanted.zones, found),
            *_useless(where, "capacityTypes", wanted.capacity_types, capacity_types),
        ]

    def _missing(self, where: str, names: frozenset[str]) -> list[Problem]:
        wanted = self._wanted.instance_types
        if names.issuperset(wanted):
            return []
        sold = [info["InstanceType"] for info in self._types([])]
        want = f"a type that EC2 has in {self._region}"
        return [
            Problem(where=where, field=f"spec.offers.instanceTypes[{number}]", value=name, want=nearest(name, sold) or want)
            for number, name in enumerate(wanted)
            if name not in names
        ]

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

    def _reserved(self, facts: Facts, reservation: Reservation, on_demand_micro_usd: int | None) -> Offer:
        offer = self._offer(facts, reservation.zone, RESERVED, reserved_price(on_demand_micro_usd))
        return replace(offer, reservation=reservation.id, count_max=reservation.free)

    def _ask_sold(self, zones: Iterable[str] | None) -> list[tuple[Facts, str]]:
        facts = {found.name: found for found in self._kinds()[1] if self._boots(found) and self._has_card(found)}
        places = self._describe_offerings(sorted(facts))
        allowed = {zone for _, zone in places if self._is_plain(zone)} if zones is None else set(zones)
        return [(facts[name], zone) for name, zone in sorted(places) if zone in allowed]

    def _is_plain(self, zone: str) -> bool:
        """Return whether this is a zone of the region itself, such as ``us-east-1a``.

        Local Zones (``us-east-1-bos-1a``) have no network by default, and prices of their own: a pool has to name them.
        """
        return len(zone.removeprefix(self._region)) == 1

    def _facts(self, info: InstanceTypeInfoTypeDef) -> Facts | None:
        try:
            return facts_of(info, self._gpus)
        except BadInputError as error:
            log.warning("instance type left out: %s", error)
            return None

    def _kinds(self) -> tuple[frozenset[str], list[Facts]]:
        """Return the names of what the pool could want, and the facts of those whose cards are known."""
        return self._described.get(lambda: (self._ask_kinds(), REMEMBER_S))

    def _ask_kinds(self) -> tuple[frozenset[str], list[Facts]]:
        infos = self._describe_types()
        return frozenset(info["InstanceType"] for info in infos), [found for info in infos if (found := self._facts(info))]

    def _has_card(self, facts: Facts) -> bool:
        return not (facts.gpu_model and self._wanted.gpu_models) or facts.gpu_model in self._wanted.gpu_models

    def _boots(self, facts: Facts) -> bool:
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


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the nearest known name as a question, or nothing: the names of all types would fill a page.

    Sizes make all names alike, so only a slip of the pen is near.

    >>> nearest("g6.xlrge", ["g6.xlarge", "m5.large"]), nearest("g6.xlarge", ["m5.large"])
    ('g6.xlarge?', '')
    """
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8)
    return f"{near[0]}?" if near else ""


def _useless(where: str, filter_name: str, wanted: Sequence[str], there: Iterable[str]) -> list[Problem]:
    """Return a problem for each value of a filter of which not one is there."""
    known = sorted(set(there))
    if not known or not wanted or not set(wanted).isdisjoint(known):
        return []
    return _blamed(where, filter_name, wanted, f"one of {', '.join(known)}")


def _blamed(where: str, filter_name: str, values: Sequence[str], want: str) -> list[Problem]:
    return [
        Problem(where=where, field=f"spec.offers.{filter_name}[{number}]", value=value, want=want)
        for number, value in enumerate(values)
    ]


def _parts(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + _MOST_VALUES] for start in range(0, len(values), _MOST_VALUES)]
