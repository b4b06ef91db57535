"""The library's packer on the openb trace, whole or with one part of its score left out."""

from __future__ import annotations

from dataclasses import replace

from bench.openb_baselines import Place, Policy
from bench.openb_trace import CARD_MILLI, Pod, Server, Trace
from tfscale.model import Demand, Gpu, Node, Request
from tfscale.slicing import Packer, Weights, typical_of

__all__ = ["LIBRARY", "PARTS", "library_policy", "node_of", "request_of"]

LIBRARY = "tfscale"
PARTS = {"no-worth": "worth", "no-useless": "useless", "no-scarcity": "scarcity", "no-free": "free", "no-rounding": "step"}
"""What can be left out, as in ``tfscale:no-worth``, with the weight that is 0 then."""
_PODS_MAX = 1001
_VRAM_MIB, _MTFLOPS = 16_384, 100_000
"""The trace has one dimension, which is compute here; nobody asks for VRAM, so all cards have the same."""


def library_policy(trace: Trace, part: str = "") -> Policy:
    """Return the packer as a policy, knowing the list of pods as the typical workload; `part` is a key of ``PARTS`` or empty."""
    weights = replace(Weights(), **{PARTS[part]: 0}) if part else Weights()
    requests = [request_of(pod) for pod in trace.pods]
    packer = Packer([node_of(server) for server in trace.servers], typical=typical_of(requests), weights=weights)
    rows = {server.name: row for row, server in enumerate(trace.servers)}
    arrived = 0

    def place(index: int) -> Place | None:
        nonlocal arrived
        arrived += 1
        found = packer.place(Demand(id=f"openb/{arrived}", uid=str(arrived), pool="openb", request=requests[index]))
        return None if found is None else (rows[found.node], tuple(int(part.gpu_id) for part in found.slices))

    return place


def request_of(pod: Pod) -> Request:
    """Return what a pod of the trace asks, as the library says it."""
    return Request(
        cpu_milli=pod.cpu_milli,
        memory_mib=pod.memory_mib,
        gpu_count=pod.gpus,
        compute_milli=min(pod.gpu_milli, CARD_MILLI) if pod.gpus else None,
        gpu_models=pod.models,
    )


def node_of(server: Server) -> Node:
    """Return an empty server as a node."""
    gpus = tuple(Gpu(id=str(index), model=server.model, vram_mib=_VRAM_MIB, mtflops=_MTFLOPS) for index in range(server.gpus))
    return Node(
        name=server.name,
        pool="openb",
        gpus=gpus,
        cpu_milli=server.cpu_milli,
        memory_mib=server.memory_mib,
        pods_max=_PODS_MAX,
    )
