"""What is bought for, and what can be bought: the openb pods, EC2's prices, and openb's own kinds of server."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.openb_trace import Pod, read_pods, read_servers

__all__ = ["DATA", "NODES", "PODS", "PRICES", "Kind", "ec2_kinds", "openb_kinds", "pods"]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PODS = DATA / "openb" / "openb_pod_list_default.csv"
NODES = DATA / "openb" / "openb_node_list_gpu_node.csv"
PRICES = DATA / "prices" / "aws_gpu_on_demand_2026-07-20.csv"
_FAMILIES = ("g4dn", "g5", "g6")
"""Those that the bound of the same problem was made for."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of node that can be bought without limit. `price_micro` is in millionths: of a USD per hour, or of a GPU."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    price_micro: int


def pods() -> list[Pod]:
    """Return the 8,152 pods of the default list, each once."""
    return read_pods(PODS)


def ec2_kinds() -> list[Kind]:
    """Return EC2's types for inference with their prices on demand. A GPU counts as a GPU, whatever its model."""
    with PRICES.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["instance_type"].partition(".")[0] in _FAMILIES]
    return [
        Kind(
            name=row["instance_type"],
            cpu_milli=int(row["vcpu"]) * 1_000,
            memory_mib=int(row["memory_mib"]),
            gpus=int(row["gpus"]),
            price_micro=round(float(row["usd_per_hour"]) * 1_000_000),
        )
        for row in rows
    ]


def openb_kinds() -> list[Kind]:
    """Return the 15 kinds of server of the trace. Each costs its GPUs."""
    kinds = Counter((server.gpus, server.cpu_milli, server.memory_mib, server.model) for server in read_servers(NODES))
    return [
        Kind(name=f"{model}-{gpus}-{cpu // 1_000}", cpu_milli=cpu, memory_mib=memory, gpus=gpus, price_micro=gpus * 1_000_000)
        for gpus, cpu, memory, model in sorted(kinds)
    ]
