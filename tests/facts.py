"""Small facts for tests of the decision: one pool, two offers, nodes with one T4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tfscale.decide import Supply, decide
from tfscale.lifecycle import State
from tfscale.mirror import mirror_of_node
from tfscale.model import Cluster, Demand, Gpu, LaunchBatch, Machine, Node, NodeRequest, Offer, Request
from tfscale.plan import (
    Action,
    Plan,
)
from tfscale.pool import Pool

NOW_S = 1_800_000_000
POOL = Pool(name="inference", mode="ec2")
T4 = Offer(
    instance_type="g4dn.xlarge", zone="us-east-1a", capacity_type="on-demand", gpu_model="T4", gpu_count=1, vram_mib=16_384,
    mtflops=65_000, cpu_milli=4_000, memory_mib=16_384, price_micro_usd=526_000,
)  # fmt: skip
L4 = replace(T4, instance_type="g6.xlarge", gpu_model="L4", vram_mib=22_888, mtflops=121_000, price_micro_usd=804_800)
HALF = Request(gpu_count=1, vram_mib=8_192, compute_milli=500, cpu_milli=500, memory_mib=1_024)


def demand(name: str, request: Request = HALF, **changes: Any) -> Demand:  # noqa: ANN401 - any field of a demand
    """Return a pod that waits in the pool."""
    return replace(Demand(id=f"default/{name}", uid=f"uid-{name}", pool="inference", request=request), **changes)


def node(name: str, **changes: Any) -> Node:  # noqa: ANN401 - any field of a node
    """Return a ready node with one T4 that says what it has."""
    whole = Node(
        name=name, pool="inference", gpus=(Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000),), cpu_milli=4_000,
        memory_mib=16_384, machine_id=f"i-{name}", labels={"node.kubernetes.io/instance-type": "g4dn.xlarge"},
    )  # fmt: skip
    changed = replace(whole, **changes)
    return changed if "mirror" in changes else replace(changed, mirror=mirror_of_node(changed))


def request(name: str, **changes: Any) -> NodeRequest:  # noqa: ANN401 - any field of a request
    """Return the record of a node that is ready."""
    ready = NodeRequest(
        name=f"r-{name}", pool="inference", mode="ec2", state=State.READY, batch="b", machine_id=f"i-{name}", offer=T4.id,
        node=name, launched_s=NOW_S,
    )  # fmt: skip
    return replace(ready, **changes)


def machine(name: str, **changes: Any) -> Machine:  # noqa: ANN401 - any field of a machine
    """Return a running machine of batch b."""
    running = Machine(id=f"i-{name}", batch="b", pool="inference", offer=T4.id, provider_id=f"aws:///us-east-1a/i-{name}")
    return replace(running, **changes)


BATCH = LaunchBatch(name="b", pool="inference", mode="ec2", requests=("r-a",), parameters={}, settled=True, created_s=NOW_S - 30)


def cluster(*, machines: Sequence[Machine] = (), **parts: Any) -> Cluster:  # noqa: ANN401 - any field of a cluster
    """Return a cluster with the pool."""
    return replace(Cluster(now_s=NOW_S, pools=(POOL,), machines={"inference": tuple(machines)}), **parts)


def plan_for(observed: Cluster, *offers: Offer, reclaims_idle: bool = False) -> Plan:
    """Decide with the given offers in the pool."""
    return decide(observed, {"inference": Supply(offers=offers, reclaims_idle=reclaims_idle)})


def kinds(plan: Plan) -> list[type[Action]]:
    """Return what kinds of action a plan has."""
    return [type(action) for action in plan.actions]


def only(plan: Plan, kind: type[Any]) -> Any:  # noqa: ANN401 - the caller names the type
    """Return the plan's only action of one kind."""
    (action,) = [action for action in plan.actions if isinstance(action, kind)]
    return action
