"""What the simulated region sells: instance types, zones and prices, in the replies that EC2 and its price list give."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuTable
from tfscale.modes.ec2_catalogue import Facts, facts_of
from tfscale.quantity import micro_usd
from tfscale.testing.fake_ec2.faults import ApiError
from tfscale.testing.fake_ec2.pages import Answer, chosen, page

__all__ = ["Market", "SimulatedType"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedType:
    """One instance type that the cloud sells.

    A type of EC2's own (``g6.xlarge``) needs its name alone: the rest comes from EC2's data. Any other needs `vcpu` and
    `memory_mib`, and for cards `gpu_model`, `gpu_count` and, where it differs from the table, `vram_mib` of one card.
    """

    name: str
    gpu_model: str = ""
    gpu_count: int = 0
    vram_mib: int | None = None
    vcpu: int | None = None
    memory_mib: int | None = None
    usd_per_hour: str | None = None
    """On-demand. None: the price list does not know it."""
    spot_usd_per_hour: str | None = None
    zones: tuple[str, ...] = ()
    """Where it exists; empty is everywhere."""


class Market:
    """The types of one region. Raises ``BadInputError`` for a type that contradicts itself, EC2's data or the GPU table."""

    def __init__(self, region: str, zones: Sequence[str], types: Sequence[SimulatedType], gpus: GpuTable) -> None:
        self.region = region
        self.zones = tuple(zones)
        self._types = {kind.name: kind for kind in types}
        if len(self._types) != len(types):
            names = [kind.name for kind in types]
            twice = next(name for name in names if names.count(name) > 1)
            raise _bad(twice, "name", twice, "each instance type once")
        self._infos = {kind.name: _info_of(kind, gpus) for kind in types}
        self.facts: Mapping[str, Facts] = {name: facts_of(info, gpus) for name, info in self._infos.items()}
        self._prices = {(kind.name, spot): _price(kind, spot=spot) for kind in types for spot in (False, True)}
        for kind in types:
            for zone in kind.zones:
                if zone not in self.zones:
                    raise _bad(kind.name, "zone", zone, "one of " + ", ".join(self.zones))

    def sells(self, name: str, zone: str) -> bool:
        """Return whether this zone has the type."""
        return name in self._types and zone in (self._types[name].zones or self.zones)

    def price_micro_usd(self, name: str, capacity_type: str) -> int | None:
        """Return the price per hour, or None where it is unknown."""
        return self._prices[name, capacity_type == "spot"]

    def answers(self) -> Mapping[str, Answer]:
        """Return the operations that are answered here."""
        return {
            "DescribeInstanceTypes": self._describe_types,
            "DescribeInstanceTypeOfferings": self._describe_offerings,
            "DescribeSpotPriceHistory": self._describe_spot_prices,
            "GetProducts": self._get_products,
        }

    def _describe_types(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        asked = parameters.get("InstanceTypes", [])
        for name in asked:
            if name not in self._infos:
                raise ApiError("InvalidInstanceType", f"The following supplied instance types do not exist: [{name}]")
        infos = [info for name, info in self._infos.items() if not asked or name in asked]
        return page(_matching(infos, parameters, {"instance-type": "InstanceType"}), "InstanceTypes", parameters)

    def _describe_offerings(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        if parameters.get("LocationType") != "availability-zone":
            raise ApiError("InvalidParameterValue", "LocationType: only availability-zone is simulated")
        offerings = [
            {"InstanceType": name, "LocationType": "availability-zone", "Location": zone}
            for name in self._types
            for zone in self.zones
            if self.sells(name, zone)
        ]
        fields = {"instance-type": "InstanceType", "location": "Location"}
        return page(_matching(offerings, parameters, fields), "InstanceTypeOfferings", parameters)

    def _describe_spot_prices(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        entries = [
            {
                "InstanceType": kind.name,
                "AvailabilityZone": zone,
                "ProductDescription": "Linux/UNIX",
                "SpotPrice": kind.spot_usd_per_hour,
                "Timestamp": datetime(2020, 1, 1, tzinfo=UTC),
            }
            for kind in self._types.values()
            for zone in self.zones
            if kind.spot_usd_per_hour is not None and self.sells(kind.name, zone)
        ]
        asked = parameters.get("InstanceTypes", [])
        fields = {"instance-type": "InstanceType", "availability-zone": "AvailabilityZone"}
        found = [entry for entry in entries if not asked or entry["InstanceType"] in asked]
        return page(_matching(found, parameters, fields), "SpotPriceHistory", parameters)

    def _get_products(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        products = [product for kind in self._types.values() for product in _products_of(kind, self.region)]
        terms = {term["Field"]: term["Value"] for term in parameters.get("Filters", [])}
        found = [product for product in products if terms.items() <= product["product"]["attributes"].items()]
        return {"FormatVersion": "aws_v1", **page([json.dumps(product) for product in found], "PriceList", parameters)}


def _info_of(kind: SimulatedType, gpus: GpuTable) -> dict[str, Any]:
    """Return the type as DescribeInstanceTypes has it."""
    if kind.vcpu is None and kind.memory_mib is None and not kind.gpu_count:
        return _known(kind.name)
    if not kind.vcpu or not kind.memory_mib:
        raise _bad(kind.name, "vcpu and memory", f"{kind.vcpu} and {kind.memory_mib}", "both, or neither for a type of EC2's own")
    info = {
        "InstanceType": kind.name,
        "CurrentGeneration": True,
        "SupportedUsageClasses": ["on-demand", "spot"],
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
        "VCpuInfo": {"DefaultVCpus": kind.vcpu},
        "MemoryInfo": {"SizeInMiB": kind.memory_mib},
    }
    if not kind.gpu_count:
        return info
    model = gpus.card(kind.gpu_model, vram_mib=kind.vram_mib, where=f"instance type {kind.name}")
    card = {
        "Name": model.name,
        "Manufacturer": "NVIDIA",
        "Count": kind.gpu_count,
        "LogicalGpuCount": kind.gpu_count,
        "GpuPartitionSize": 1.0,
        "MemoryInfo": {"SizeInMiB": model.vram_mib},
    }
    return {**info, "GpuInfo": {"Gpus": [card], "TotalGpuMemoryInMiB": model.vram_mib * kind.gpu_count}}


def _known(name: str) -> dict[str, Any]:
    from moto.ec2.models.instance_types import INSTANCE_TYPES  # noqa: PLC0415 - moto is an extra and takes seconds to import

    if name not in INSTANCE_TYPES:
        raise _bad(name, "name", name, "a type of EC2's own, or one with vcpu, memory and cards given")
    return dict(INSTANCE_TYPES[name])


def _price(kind: SimulatedType, *, spot: bool) -> int | None:
    field, price = ("spot price", kind.spot_usd_per_hour) if spot else ("price", kind.usd_per_hour)
    try:
        return None if price is None else micro_usd(price)
    except ValueError as error:
        raise _bad(kind.name, field, str(price), str(error)) from None


def _products_of(kind: SimulatedType, region: str) -> list[dict[str, Any]]:
    """Return what the price list has for a type: a careless filter also finds Windows, and reserved capacity at no price."""
    if kind.usd_per_hour is None:
        return []
    variants = [
        ("Linux", "Used", kind.usd_per_hour),
        ("Windows", "Used", "999.0"),
        ("Linux", "AllocatedCapacityReservation", "0"),
    ]
    return [_product(kind.name, region, *variant) for variant in variants]


def _product(name: str, region: str, system: str, status: str, usd: str) -> dict[str, Any]:
    attributes = {
        "instanceType": name,
        "regionCode": region,
        "operatingSystem": system,
        "preInstalledSw": "NA",
        "tenancy": "Shared",
        "capacitystatus": status,
    }
    dimension = {"unit": "Hrs", "beginRange": "0", "endRange": "Inf", "pricePerUnit": {"USD": usd}}
    term = {"offerTermCode": "JRTCKXETXF", "priceDimensions": {"SKU.JRTCKXETXF.6YS6EN2CT7": dimension}}
    return {
        "product": {"productFamily": "Compute Instance", "attributes": attributes, "sku": "SKU"},
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {"SKU.JRTCKXETXF": term}},
    }


def _matching(
    entries: Iterable[dict[str, Any]], parameters: Mapping[str, Any], fields: Mapping[str, str]
) -> list[dict[str, Any]]:
    return chosen(entries, parameters, lambda entry, name: [entry[fields[name]]] if name in fields else None)


def _bad(name: str, field: str, value: str, want: str) -> BadInputError:
    return BadInputError(Problem(where=f"instance type {name}", field=field, value=value, want=want))
