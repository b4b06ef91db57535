"""How tfscale buys a thousand machines at once: time, calls of EC2 and memory, over many rounds.

    python -m bench.launch [--machines N] [--rounds N] [-o json]

In each round as many pods wait as machines are wanted, each for a whole card; one tick of the loop orders all machines. Then
they boot and the pods are bound, the pods end, and the idle machines are given back. EC2 is simulated in a process of its own
(`MemoryCloud`), with the token buckets of a real account; the cluster is a `FakeKube` in this process. From the third round on
`tracemalloc` watches, which makes everything slower: times are of the rounds before, and what a retry waits counts as if it
were waited. Exit 1 where a figure misses its bound.

`ordered` are the machines that are there after the one tick, `bought` those of the whole round, and `left` those that are not
terminated when it is over.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.far_cloud import FarCloud
from tfscale import modes
from tfscale.gpus import GpuTable
from tfscale.kube.port import GPU_POOLS, NODE_REQUESTS, NODES, PODS
from tfscale.modes.base import ModeContext
from tfscale.pool import Pool
from tfscale.reconcile import Reconciler, Report
from tfscale.testing import FakeKube
from tfscale.testing.fake_ec2 import SimulatedType

Json = dict[str, Any]
TYPES = tuple(
    SimulatedType(name=f"toy.{model.lower()}", gpu_model=model, gpu_count=1, vcpu=8, memory_mib=32_768, usd_per_hour=usd)
    for model, usd in (("T4", "0.526"), ("L4", "0.8048"), ("A10G", "1.006"))
)
START_S = 1_800_000_000
WRITE_CALLS_BELOW = 60
FIRST_CALL_WITHIN_S = 2.0
GROWTH_BELOW_MIB = 1.0
"""Over the second half of the watched rounds: in the first, caches fill."""
WATCHED_FROM = 2
REFILLED_AFTER_S = 600
"""A thousand machines at two tokens a second."""
_MOST_TICKS = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the figures, and return 0, or 1 where a figure misses its bound."""
    parser = argparse.ArgumentParser(description="Measure how many machines are bought at once.")
    parser.add_argument("--machines", type=int, default=1_000, help="machines of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds (default: %(default)s)")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    options = parser.parse_args(arguments)
    for name in ("machines", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; want 1 or more")
    watch = _FirstCall()
    with FarCloud(TYPES, on_call=watch) as cloud:
        rounds = _run(_World(cloud), watch, options.machines, options.rounds)
    result = summary(rounds, options.machines)
    if options.output == "json":
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(f"{key:<22} {value}" for key, value in result.items() if key != "rounds"))
    return 1 if result["missed"] else 0


class _FirstCall:
    """Notes when CreateFleet is first called after `arm`, which is given a clock."""

    def __init__(self) -> None:
        self.arm(time.perf_counter)

    def arm(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.at_s: float | None = None

    def __call__(self, operation: str) -> None:
        if operation == "CreateFleet" and self.at_s is None:
            self.at_s = self._clock()


class _World:
    """A cluster, a cloud and the loop between them."""

    def __init__(self, cloud: FarCloud) -> None:
        self.now_s = float(START_S)
        self.cloud = cloud
        self.kube = FakeKube(now=lambda: self.now_s, seed=0)
        gpus = GpuTable()

        def context(pool: Pool) -> ModeContext:
            return ModeContext(
                pool=pool,
                gpus=gpus,
                kube=self.kube,
                cluster="bench",
                aws=cloud.session,
                sleep=self.sleep,
                clock=lambda: self.now_s,
            )

        self._reconciler = Reconciler(kube=self.kube, mode_of=modes.load, open_with=context, gpus=gpus, prefix="tfscale.io")
        self.kube.create(GPU_POOLS, _pool_object(cloud))
        cloud.advance(int(self.now_s))

    def sleep(self, seconds: float) -> None:
        """Let time pass, as whoever waits between two tries of a call does."""
        self.now_s += seconds
        self.cloud.advance(int(self.now_s))

    def spent_s(self) -> float:
        """Return a time that goes on while something is done and while something is waited for."""
        return time.perf_counter() + self.now_s

    def tick(self) -> Report:
        """Make one round of the loop."""
        return self._reconciler.tick(int(self.now_s))

    def settle(self, done: Callable[[], bool]) -> list[Report]:
        """Make rounds of the loop, a minute apart, while nodes come and go, until something is so."""
        reports = []
        for _ in range(_MOST_TICKS):
            self.sleep(60)
            self._follow_nodes()
            reports.append(self.tick())
            self.kube.end_terminations()
            if done():
                return reports
        raise SystemExit(f"launch: not done after {_MOST_TICKS} ticks: {reports[-1].plan}")

    def add_pods(self, names: Sequence[str]) -> None:
        """Let pods wait."""
        for name in names:
            self.kube.create(PODS, _pod_object(name))

    def end_pods(self, names: Sequence[str]) -> None:
        """End pods."""
        for name in names:
            self.kube.delete(PODS, name, namespace="default", grace_period_s=0)

    def bound(self) -> bool:
        """Return whether every pod has a node."""
        return all(pod["spec"].get("nodeName") for pod in self.kube.list(PODS).items)

    def empty(self) -> bool:
        """Return whether no record and no node is left."""
        return not self.kube.list(NODE_REQUESTS).items and not self.kube.list(NODES).items

    def _follow_nodes(self) -> None:
        there = {node["metadata"]["name"]: node for node in self.cloud.nodes()}
        known = {node["metadata"]["name"] for node in self.kube.list(NODES).items}
        for name in there.keys() - known:
            self.kube.create(NODES, there[name])
        for name in known - there.keys():
            self.kube.delete(NODES, name)


def _run(world: _World, watch: _FirstCall, machines: int, rounds: int) -> list[Json]:
    figures = []
    for number in range(rounds):
        if number == WATCHED_FROM:
            tracemalloc.start()
        figures.append(_round(world, watch, [f"r{number}-{pod}" for pod in range(machines)]))
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] / 2**20 if tracemalloc.is_tracing() else None
        figures[-1] |= {"rss_mib": round(_rss_mib(), 1), "traced_mib": None if traced is None else round(traced, 2)}
    tracemalloc.stop()
    return figures


def _round(world: _World, watch: _FirstCall, pods: Sequence[str]) -> Json:
    world.add_pods(pods)
    world.cloud.counted()
    there = world.cloud.states().total()
    watch.arm(world.spent_s)
    began_s = world.spent_s()
    first = world.tick()
    order_s = world.spent_s() - began_s
    calls, throttled = world.cloud.counted()
    ordered = world.cloud.states().total() - there
    reports = [first, *world.settle(world.bound)]
    world.end_pods(pods)
    reports += world.settle(world.empty)
    after, throttled_after = world.cloud.counted()
    world.sleep(REFILLED_AFTER_S)
    states = world.cloud.states()
    return {
        "ordered": ordered,
        "bought": states.total() - there,
        "left": states.total() - states["terminated"],
        "first_call_s": math.inf if watch.at_s is None else round(watch.at_s - began_s, 3),
        "order_s": round(order_s, 3),
        "order_calls": dict(calls),
        "order_writes": _writes(calls),
        "later_calls": dict(after),
        "later_writes": _writes(after),
        "throttled": dict(throttled + throttled_after),
        "failed": sum(len(report.failed) for report in reports),
        "ticks": len(reports),
    }


def _writes(calls: Counter[str]) -> int:
    return sum(count for name, count in calls.items() if not name.startswith(("Describe", "Get")))


def summary(rounds: list[Json], machines: int) -> Json:
    """Return the figures of all rounds, and which of them missed their bounds."""
    timed = rounds[:WATCHED_FROM]
    watched = [one for one in rounds[WATCHED_FROM:] if one["traced_mib"] is not None]
    result: Json = {
        "machines": machines,
        **{name: [one[name] for one in rounds] for name in ("ordered", "bought", "left")},
        "first_call_s": max(one["first_call_s"] for one in timed),
        "order_s": max(one["order_s"] for one in timed),
        "order_calls": rounds[0]["order_calls"],
        "order_writes": max(one["order_writes"] for one in rounds),
        "later_calls": rounds[0]["later_calls"],
        "throttled": dict(sum((Counter(one["throttled"]) for one in rounds), Counter())),
        "failed": sum(one["failed"] for one in rounds),
        "rss_mib": [one["rss_mib"] for one in rounds],
        "traced_mib": [one["traced_mib"] for one in watched],
        "traced_growth_mib": _growth([one["traced_mib"] for one in watched]),
        "rounds": rounds,
    }
    bounds = {
        "ordered": {machines} == {*result["ordered"]},
        "bought": {machines} == {*result["bought"]},
        "left": not any(result["left"]),
        "first_call_s": result["first_call_s"] < FIRST_CALL_WITHIN_S,
        "order_writes": result["order_writes"] < WRITE_CALLS_BELOW,
        "failed": not result["failed"],
        "traced_growth_mib": (result["traced_growth_mib"] or 0) < GROWTH_BELOW_MIB,
    }
    return {**result, "missed": [name for name, kept in bounds.items() if not kept]}


def _growth(traced_mib: Sequence[float]) -> float | None:
    """Return by how much memory grew over the second half of these rounds; None where they are too few to tell."""
    half = traced_mib[len(traced_mib) // 2 :]
    return round(half[-1] - half[0], 2) if len(half) > 1 else None


def _rss_mib() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _pool_object(cloud: FarCloud) -> Json:
    spec = {
        "mode": "ec2",
        "default": True,
        "options": {"region": cloud.region, "launchTemplate": {"name": cloud.launch_template}},
        "offers": {"instanceTypes": [kind.name for kind in TYPES]},
        "idleAfter": "1m",
    }
    return {"apiVersion": "tfscale.io/v1alpha1", "kind": "GPUPool", "metadata": {"name": "gpus"}, "spec": spec}


def _pod_object(name: str) -> Json:
    container = {"name": "main", "image": "example/main", "resources": {"requests": {"cpu": "1", "memory": "4Gi"}}}
    annotations = {"tfscale.io/vram-request": "12Gi", "tfscale.io/compute-percent-request": "100"}
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"tfscale.io/enabled": "true"},
            "annotations": annotations,
        },
        "spec": {"schedulerName": "tfscale", "containers": [container]},
    }


if __name__ == "__main__":
    sys.exit(main())
