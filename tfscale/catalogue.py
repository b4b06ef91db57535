"""Instance types as facts: cards, CPU, memory and price, for whoever cannot ask the cloud that rents them out."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from tfscale.quantity import micro_usd

__all__ = ["InstanceType", "snapshot"]


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
