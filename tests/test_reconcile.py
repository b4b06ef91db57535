"""The whole loop on the simulated cluster and cloud: what holds for every scenario."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import recount
from tfscale.account import Account
from tfscale.kube.port import GPU_POOLS, Json, Kube
from tfscale.reconcile import Reconciler, Report, run
from tfscale.scenario import Capacity, Cloud, InstanceType, Scenario, Workload
from tfscale.simulate import World, open_world
from tfscale.testing.fake_ec2 import LOST_REPLY, SERVER_ERROR, THROTTLED

FACTOR = int(os.environ.get("TFSCALE_FUZZ", "1"))
"""How many times more examples than by default; `make fuzz` sets it."""
ZONES = ("us-east-1a", "us-east-1b")
TYPES = (
    InstanceType(name="toy.t4", gpu_model="T4", gpu_count=1, cpu_milli=4_000, memory_mib=16_384, price_micro_usd=526_000),
    InstanceType(name="toy.l4x4", gpu_model="L4", gpu_count=4, cpu_milli=48_000, memory_mib=196_608, price_micro_usd=4_601_600),
    InstanceType(name="toy.a10g", gpu_model="A10G", gpu_count=1, cpu_milli=4_000, memory_mib=16_384),
    InstanceType(name="toy.cpu", cpu_milli=2_000, memory_mib=8_192, price_micro_usd=96_000),
)
POOL = {
    "apiVersion": "tfscale.io/v1alpha1",
    "kind": "GPUPool",
    "metadata": {"name": "inference"},
    "spec": {
        "mode": "ec2",
        "options": {"region": "us-east-1", "launchTemplate": {"name": "nodes"}},
        "offers": {"instanceTypes": [kind.name for kind in TYPES]},
        "idleAfter": "2m",
    },
}


def workload(name: str, annotations: dict[str, str], **changes: Any) -> Workload:  # noqa: ANN401 - any field
    """Return one pod with these annotations that asks for a little CPU and memory, for ten minutes."""
    container = {"name": "main", "image": "example/main", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}
    template = {"metadata": {"annotations": annotations}, "spec": {"schedulerName": "tfscale", "containers": [container]}}
    pod = Workload(name=name, namespace="default", replicas=1, arrive_after_s=0, run_for_s=600, template=template)
    return replace(pod, **changes)


def share(vram: str, percent: str) -> dict[str, str]:
    """Return the annotations of a request for a part of a card."""
    return {"tfscale.io/vram-request": vram, "tfscale.io/compute-percent-request": percent}


def scenario(*workloads: Workload, capacity: dict[tuple[str, str], int] | None = None) -> Scenario:
    """Return a scenario with the four instance types."""
    limits = tuple(
        Capacity(instance_type=name, zone=zone, capacity_type="on-demand", machines=machines)
        for (name, zone), machines in (capacity or {}).items()
    )
    cloud = Cloud(
        region="us-east-1", zones=ZONES, boot_delay_s=90, shutdown_delay_s=30, instance_types=TYPES, capacity=limits,
        launch_template="nodes",
    )  # fmt: skip
    return Scenario(objects=((GPU_POOLS, POOL),), cloud=cloud, workloads=workloads)


@contextmanager
def opened(given_scenario: Scenario) -> Iterator[World]:
    """Yield the world of a scenario under default settings."""
    with open_world(given_scenario) as world:
        yield world


def run_to_the_end(world: World, *checks: Callable[[Report], None]) -> Account:
    """Run until idle and return the account; `checks` see every report."""
    account = Account()

    def on_report(report: Report) -> None:
        list(account.add(report))
        assert [] == recount.over_committed(world.kube)
        assert account.ticks < 1_000
        for check in checks:
            check(report)

    run(world.reconciler, world, until_idle=True, on_report=on_report)
    return account


SHARES = st.builds(share, st.sampled_from(["1Gi", "5Gi", "12Gi", "20Gi"]), st.sampled_from(["1", "25", "50", "90"]))
TFLOPS = st.builds(
    lambda vram, tflops: {"tensor-fusion.ai/vram-request": vram, "tensor-fusion.ai/tflops-request": tflops},
    st.sampled_from(["2Gi", "9Gi"]),
    st.sampled_from(["500m", "20", "100", "400"]),
)
MODELS = st.sampled_from([{}, {}, {"tfscale.io/gpu-model": "L4"}, {"tfscale.io/gpu-count": "2"}])
WORKLOADS = st.lists(
    st.builds(
        lambda asked, more, replicas, arrive, end: workload(
            "", asked | more if asked else {}, replicas=replicas, arrive_after_s=arrive, run_for_s=end
        ),
        st.one_of(SHARES, TFLOPS, st.just({})),
        MODELS,
        st.integers(1, 5),
        st.sampled_from([0, 0, 100, 700]),
        st.sampled_from([1, 60, 600]),
    ),
    max_size=4,
).map(lambda loads: [replace(load, name=f"w{number}") for number, load in enumerate(loads)])
CAPACITY = st.dictionaries(st.tuples(st.sampled_from([kind.name for kind in TYPES]), st.sampled_from(ZONES)), st.integers(0, 2))


@settings(max_examples=30 * FACTOR)
@given(WORKLOADS, CAPACITY)
def test_every_run_ends_with_everything_placed_or_explained_and_nothing_leaked(
    workloads: list[Workload], capacity: dict[tuple[str, str], int]
) -> None:
    """Whatever is asked for: no over-commit at any time, the account equals a recount, no machine and no record is left."""
    with opened(scenario(*workloads, capacity=capacity)) as world:
        account = run_to_the_end(world)
        result = account.as_json()

        assert recount.pools(world.kube) == {name: recount.without_reasons(pool) for name, pool in result["pools"].items()}
        assert 0 == account.pools["inference"].machines_left
        assert {"noderequests": 0, "launchbatches": 0} == recount.records(world.kube)
        assert all(unmet["reasons"] for unmet in result["pools"]["inference"]["unmet"])
        assert [] == result["problems"]


@settings(max_examples=16 * FACTOR)
@given(WORKLOADS)
def test_a_plan_that_was_applied_leaves_nothing_to_do(workloads: list[Workload]) -> None:
    """Plan, apply, observe and plan again at the same moment: the second plan is empty."""
    with opened(scenario(*workloads)) as world:

        def plan_again(_: Report) -> None:
            again = world.reconciler.tick(world.now_s(), dry_run=True)
            assert () == again.plan.actions

        run_to_the_end(world, plan_again)


@settings(max_examples=16 * FACTOR)
@given(WORKLOADS, CAPACITY)
def test_a_dry_run_changes_no_object_and_no_machine(workloads: list[Workload], capacity: dict[tuple[str, str], int]) -> None:
    """Between any two rounds a dry run leaves the cluster at the same version and calls nothing that writes."""
    writes = ("CreateFleet", "RunInstances", "TerminateInstances", "CreateTags")
    with opened(scenario(*workloads, capacity=capacity)) as world:

        def dry_run(_: Report) -> None:
            before = world.kube.list(GPU_POOLS).resource_version, [world.cloud.calls[name] for name in writes]
            world.reconciler.tick(world.now_s(), dry_run=True)
            assert before == (world.kube.list(GPU_POOLS).resource_version, [world.cloud.calls[name] for name in writes])

        run_to_the_end(world, dry_run)


class CrashError(BaseException):
    """The process ends here; nothing may catch it."""


class CrashingKube:
    """A cluster whose client dies at one of its writes, before or after the write is done."""

    WRITES = ("create", "patch", "patch_status", "delete", "bind")

    def __init__(self, kube: Kube, *, at: int, after: bool) -> None:
        self._kube = kube
        self._left = at
        self._after = after

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any verb
        verb = getattr(self._kube, name)
        return self._counted(verb) if name in self.WRITES else verb

    def _counted(self, verb: Callable[..., Json]) -> Callable[..., Json]:
        def call(*args: Any, **options: Any) -> Json:  # noqa: ANN401 - as the verb
            self._left -= 1
            if self._left == 0 and not self._after:
                raise CrashError
            done = verb(*args, **options)
            if self._left == 0:
                raise CrashError
            return done

        return call


def restarted(reconciler: Reconciler, kube: Kube) -> Reconciler:
    """Return what a new process would have: the same cluster and no memory."""
    return Reconciler(
        kube=kube, mode_of=reconciler.mode_of, open_with=reconciler.open_with, gpus=reconciler.gpus, prefix=reconciler.prefix
    )


LOADS = (workload("half", share("6Gi", "50"), replicas=3), workload("late", share("10Gi", "90"), arrive_after_s=400))
NODES_NEEDED = 3


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_write_launches_nothing_twice_and_leaks_nothing(*, after: bool) -> None:
    """The process dies before or after each of its writes in turn and starts again without memory: the end is the same."""
    crashes = 0
    for at in range(1, 10_000):
        with opened(scenario(*LOADS)) as world:
            healthy = world.reconciler
            world.reconciler = restarted(healthy, CrashingKube(world.kube, at=at, after=after))
            try:
                run_to_the_end(world)
            except CrashError:
                crashes += 1
            else:
                break
            world.reconciler = restarted(healthy, world.kube)
            run_to_the_end(world)

            assert NODES_NEEDED == len(recount.instances())
            assert {"terminated"} == {state for _, _, state in recount.instances()}
            assert {"noderequests": 0, "launchbatches": 0} == recount.records(world.kube)
            assert [] == recount.pools(world.kube)["inference"]["unmet"]
    assert crashes > 20


@pytest.mark.parametrize("fault", [LOST_REPLY, THROTTLED, SERVER_ERROR], ids=["lost reply", "throttled", "server error"])
@pytest.mark.parametrize("operation", ["CreateFleet", "TerminateInstances", "DescribeInstances"])
def test_a_failing_call_is_made_good(operation: str, fault: Any) -> None:  # noqa: ANN401 - a fault
    """The first calls of an operation fail, with or without effect: the run ends with the same machines and none left."""
    with opened(scenario(*LOADS)) as world:
        world.cloud.fail_next(operation, fault, times=2)
        account = run_to_the_end(world)

        assert (NODES_NEEDED, 4, NODES_NEEDED, 0) == (
            len(recount.instances()),
            account.pools["inference"].bound,
            account.pools["inference"].terminated,
            account.pools["inference"].machines_left,
        )
