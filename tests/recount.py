"""Counting again, from raw objects and from moto alone: nothing here uses tfscale's own reading of them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends

from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, NODES, PODS, Kube

Json = dict[str, Any]
ENDED = {"Succeeded", "Failed"}


def instances(region: str = "us-east-1") -> list[tuple[str, str, str]]:
    """Return id, owner and state of every instance that moto ever started: the tag of its pool, or of its NodeClaim."""
    backend = ec2_backends[DEFAULT_ACCOUNT_ID][region]
    found = [one for reservation in backend.reservations.values() for one in reservation.instances]
    tags = [{tag["key"]: tag["value"] for tag in one.get_tags()} for one in found]
    owners = [of.get("tfscale.io/pool") or of.get("karpenter.sh/nodeclaim", "") for of in tags]
    return [(one.id, owner, one.state) for one, owner in zip(found, owners, strict=True)]


def pools(kube: Kube) -> dict[str, Json]:
    """Return, by pool, what ``reconcile -o json`` is to say of a run that started with an empty cluster."""
    states: defaultdict[str, Counter[str]] = defaultdict(Counter)
    names = [pool["metadata"]["name"] for pool in kube.list(GPU_POOLS).items]
    for _, owner, state in instances():
        # A NodeClaim is named after its pool.
        (pool,) = (name for name in names if owner == name or owner.startswith(f"{name}-"))
        states[pool][state] += 1
    bound = Counter(_pool_of(pod, names) for pod in kube.list(PODS).items if pod["spec"].get("nodeName"))
    unmet: defaultdict[str, list[str]] = defaultdict(list)
    for pod in kube.list(PODS).items:
        if not pod["spec"].get("nodeName"):
            unmet[_pool_of(pod, names)].append(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}")
    return {
        name: {
            "launched": states[name].total(),
            "bound": bound[name],
            "unmet": sorted(unmet[name]),
            "terminated": states[name]["terminated"],
            "machines_left": states[name].total() - states[name]["terminated"],
        }
        for name in names
    }


def without_reasons(pool: Json) -> Json:
    """Return a pool of the JSON result with the names of its unmet pods alone."""
    return {**pool, "unmet": [unmet["pod"] for unmet in pool["unmet"]]}


def over_committed(kube: Kube) -> list[str]:
    """Return every resource of a node, and every card, of which living pods hold more than there is."""
    wrong = []
    pods = [pod for pod in kube.list(PODS).items if pod["status"].get("phase") not in ENDED and pod["spec"].get("nodeName")]
    for node in kube.list(NODES).items:
        name, allocatable = node["metadata"]["name"], node["status"]["allocatable"]
        here = [pod for pod in pods if pod["spec"]["nodeName"] == name]
        held: Counter[str] = Counter(pods=len(here))
        for pod in here:
            for card in json.loads(pod["metadata"].get("annotations", {}).get("tfscale.io/allocation", "[]")):
                held[f"vram of {card['gpu']}"] += card["vramMib"]
                held[f"compute of {card['gpu']}"] += card["computeMilli"]
            for container in pod["spec"]["containers"]:
                requests = container.get("resources", {}).get("requests", {})
                held["cpu"] += _milli(requests.get("cpu", "0"))
                held["memory"] += _mib(requests.get("memory", "0"))
        cards = int(allocatable.get("nvidia.com/gpu", 0))
        most = {"pods": int(allocatable["pods"]), "cpu": _milli(allocatable["cpu"]), "memory": _mib(allocatable["memory"])}
        for index in range(cards):
            most[f"vram of {index}"] = int(node["metadata"]["labels"]["nvidia.com/gpu.memory"])
            most[f"compute of {index}"] = 1_000
        wrong += [f"{name}: {amount} of {most.get(key, 0)} {key}" for key, amount in held.items() if amount > most.get(key, 0)]
    return wrong


def records(kube: Kube) -> dict[str, int]:
    """Return how many records of purchases are left."""
    return {kind.plural: len(kube.list(kind).items) for kind in (NODE_REQUESTS, LAUNCH_BATCHES)}


def _pool_of(pod: Json, names: list[str]) -> str:
    annotations = pod["metadata"].get("annotations", {})
    named = annotations.get("tfscale.io/gpupool") or annotations.get("tensor-fusion.ai/gpupool")
    return named or (names[0] if len(names) == 1 else "")


def _milli(text: str) -> int:
    return int(text[:-1]) if text.endswith("m") else int(text) * 1_000


def _mib(text: str) -> int:
    factors = {"Ki": 1 / 1_024, "Mi": 1, "Gi": 1_024}
    return round(int(text[:-2]) * factors[text[-2:]]) if text[-2:] in factors else int(text) // 2**20
