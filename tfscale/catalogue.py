"""Instance types as facts: cards, CPU, memory and price, for whoever cannot ask the cloud that rents them out."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from tfscale.quantity import mib_up, micro_usd, quantity
from tfscale.spec import Spec, Usd

__all__ = ["InstanceType", "InstanceTypeSpec", "snapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceType:
    """What a cloud rents out. CPU and memory are the machine's totals. A price is micro-USD per hour; None is unknown."""

    name: str
    arch: str = "amd64"
    """As in the label ``kubernetes.io/arch``."""
    gpu_model: str = ""
    """Any name of the GPU table; empty has no card."""
    gpu_count: int = 0
    vram_mib: int | None = None
    """Of one card; None is what the GPU table says."""
    cpu_milli: int
    memory_mib: int
    price_micro_usd: int | None = None
    spot_price_micro_usd: int | None = None


def _mib(value: object) -> int:
    return mib_up(quantity(value))


def _vcpus_milli(value: object) -> int:
    vcpus = quantity(value)
    if vcpus < 1 or vcpus.denominator != 1:
        raise ValueError("a whole number of vCPUs, such as 4")
    return int(vcpus) * 1_000


_Name = Annotated[str, Field(min_length=1, max_length=200)]
# Zero is what a price list says where it does not know; TensorFusion bought such types first.
_Price = Annotated[Usd, Field(gt=0)]


class InstanceTypeSpec(Spec):
    """An instance type as people write it down: in a scenario's cloud, in the options of a pool."""

    name: _Name
    arch: Literal["amd64", "arm64"] = "amd64"
    gpu_model: str | None = None
    gpus: Annotated[int, Field(ge=1, le=128)] | None = None
    """Of the model; 1 if absent."""
    cpu: Annotated[int, BeforeValidator(_vcpus_milli)]
    memory: Annotated[int, BeforeValidator(_mib), Field(ge=1)]
    usd_per_hour: _Price | None = None
    spot_usd_per_hour: _Price | None = None

    @model_validator(mode="after")
    def _has_model(self) -> InstanceTypeSpec:
        if self.gpus is not None and self.gpu_model is None:
            raise ValueError(f"a type with the gpuModel of its {self.gpus} GPUs")
        return self

    def facts(self) -> InstanceType:
        """Return the type."""
        return InstanceType(
            name=self.name,
            arch=self.arch,
            gpu_model=self.gpu_model or "",
            gpu_count=self.gpus or int(self.gpu_model is not None),
            cpu_milli=self.cpu,
            memory_mib=self.memory,
            price_micro_usd=self.usd_per_hour,
            spot_price_micro_usd=self.spot_usd_per_hour,
        )


@cache
def snapshot() -> Mapping[str, InstanceType]:
    """Return EC2's types with whole NVIDIA cards by name, with their prices in us-east-1 on 2026-07-20.

    Prices of other regions differ by some tens of percent, but hardly in their order. Source: see ``catalogue_aws.csv``.

    >>> snapshot()["g6.xlarge"].price_micro_usd
    804800
    """
    text = (resources.files(__package__) / "catalogue_aws.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["name"]: InstanceType(
            name=row["name"],
            arch=row["arch"],
            gpu_model=row["gpu_model"],
            gpu_count=int(row["gpus"]),
            vram_mib=int(row["vram_mib"]),
            cpu_milli=int(row["vcpus"]) * 1_000,
            memory_mib=int(row["memory_mib"]),
            price_micro_usd=micro_usd(row["usd_per_hour"]),
        )
        for row in rows
    }
