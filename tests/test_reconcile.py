"""The whole loop on the simulated cluster and cloud: what holds for every scenario."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import recount
from tfscale.account import Account
from tfscale.apply import apply
from tfscale.catalogue import InstanceType
from tfscale.errors import AlreadyExistsError
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, NODES, Json, Kind, Kube
from tfscale.reconcile import Reconciler, Report, run
from tfscale.scenario import Capacity, Cloud, Scenario, Workload
from tfscale.simulate import Ways, World, open_world
from tfscale.testing.fake_ec2 import ACCESS_DENIED, LOST_REPLY, SERVER_ERROR, THROTTLED, UNREACHABLE, Fault

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
    with open_world(scenario(*workloads, capacity=capacity)) as world:
        account = run_to_the_end(world)
        result = account.as_json()

        assert recount.pools(world.kube) == {name: recount.without_reasons(pool) for name, pool in result["pools"].items()}
        assert set() == account.pools["inference"].machines
        assert {"noderequests": 0, "launchbatches": 0} == recount.records(world.kube)
        assert all(unmet["reasons"] for unmet in result["pools"]["inference"]["unmet"])
        assert [] == result["problems"]


@settings(max_examples=16 * FACTOR)
@given(WORKLOADS)
def test_a_plan_that_was_applied_leaves_nothing_to_do(workloads: list[Workload]) -> None:
    """Plan, apply, observe and plan again at the same moment: the second plan is empty."""
    with open_world(scenario(*workloads)) as world:

        def plan_again(_: Report) -> None:
            again = world.reconciler.tick(world.now_s(), dry_run=True)
            assert () == again.plan.actions

        run_to_the_end(world, plan_again)


@settings(max_examples=16 * FACTOR)
@given(WORKLOADS, CAPACITY)
def test_a_dry_run_changes_no_object_and_no_machine(workloads: list[Workload], capacity: dict[tuple[str, str], int]) -> None:
    """Between any two rounds a dry run leaves the cluster at the same version and calls nothing that writes."""
    writes = ("CreateFleet", "RunInstances", "TerminateInstances", "CreateTags")
    with open_world(scenario(*workloads, capacity=capacity)) as world:

        def dry_run(_: Report) -> None:
            before = world.kube.list(GPU_POOLS).resource_version, [world.cloud.calls[name] for name in writes]
            world.reconciler.tick(world.now_s(), dry_run=True)
            assert before == (world.kube.list(GPU_POOLS).resource_version, [world.cloud.calls[name] for name in writes])

        run_to_the_end(world, dry_run)


class CrashError(BaseException):
    """The process ends here; nothing may catch it."""


class CrashingKube:
    """A cluster whose client dies at one of its writes, before or after the write is done."""

    WRITES = ("create", "patch", "patch_status", "apply", "delete", "bind")

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
        with open_world(scenario(*LOADS)) as world:
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
    with open_world(scenario(*LOADS)) as world:
        world.cloud.fail_next(operation, fault, times=2)
        account = run_to_the_end(world)

        assert (NODES_NEEDED, 4, NODES_NEEDED, 0) == (
            len(recount.instances()),
            account.pools["inference"].bound,
            account.pools["inference"].terminated,
            len(account.pools["inference"].machines),
        )


def smaller(node: Json) -> Json:
    """Keep a part of each node for the kubelet, as every kubelet does."""
    allocatable = node["status"]["allocatable"] | {"cpu": "400m"}
    return node | {"status": node["status"] | {"allocatable": allocatable}}


def tainted(node: Json) -> Json:
    """Let the node carry a taint that no offer told of."""
    return node | {"spec": node["spec"] | {"taints": [{"key": "other", "effect": "NoSchedule"}]}}


def with_less_vram(node: Json) -> Json:
    """Let the driver keep a part of the VRAM, as it does on a T4."""
    labels = node["metadata"]["labels"]
    if "nvidia.com/gpu.memory" not in labels:
        return node
    less = str(int(labels["nvidia.com/gpu.memory"]) // 2)
    return node | {"metadata": node["metadata"] | {"labels": labels | {"nvidia.com/gpu.memory": less}}}


def without_gpus(node: Json) -> Json:
    """Let the GPUs never appear: neither the device plugin nor feature discovery comes up."""
    labels = {key: value for key, value in node["metadata"]["labels"].items() if not key.startswith("nvidia.com/")}
    status = {key: {k: v for k, v in node["status"][key].items() if k != "nvidia.com/gpu"} for key in ("capacity", "allocatable")}
    return node | {"metadata": node["metadata"] | {"labels": labels}, "status": node["status"] | status}


def never(_: Json) -> None:
    """Let no node join."""


@pytest.mark.parametrize("joins", [smaller, tainted, with_less_vram, without_gpus, never])
def test_nodes_that_disappoint_are_bought_a_few_times_and_the_run_ends(joins: Callable[[Json], Json | None]) -> None:
    """A pod for which no bought node is good has each type tried, is unmet with the reason, and every machine is returned."""
    with open_world(scenario(workload("half", share("13Gi", "50"))), ways=Ways(joins=joins)) as world:
        account = run_to_the_end(world)
        bought = len(recount.instances())

        assert ["default/half-0"] == list(account.pools["inference"].unmet)
        assert 0 < bought <= 2 * len(TYPES)
        assert {"terminated"} == {state for _, _, state in recount.instances()}
        assert {"noderequests": 0, "launchbatches": 0} == recount.records(world.kube)


def test_a_pod_that_fits_no_bought_node_does_not_keep_others_from_such_nodes() -> None:
    """What is set aside for one pod is bought for another."""
    loads = workload("big", share("13Gi", "50")), workload("small", share("1Gi", "10"), arrive_after_s=300)
    with open_world(scenario(*loads), ways=Ways(joins=with_less_vram)) as world:
        account = run_to_the_end(world)

        assert (["default/big-0"], 1) == (list(account.pools["inference"].unmet), account.pools["inference"].bound)


def interfere(world: World, at_s: int, act: Callable[[], object]) -> Account:
    """Run to the end; somebody acts by hand once the clock has passed a time."""
    done = False

    def check(report: Report) -> None:
        nonlocal done
        if not done and report.cluster.now_s >= world.start_s + at_s:
            done = True
            act()

    return run_to_the_end(world, check)


def delete_all(world: World, kind: Kind) -> None:
    """Delete every object of a kind."""
    for obj in world.kube.list(kind).items:
        world.kube.delete(kind, obj["metadata"]["name"])


@pytest.mark.parametrize("kind", [NODES, NODE_REQUESTS, LAUNCH_BATCHES, GPU_POOLS], ids=lambda kind: kind.plural)
@pytest.mark.parametrize("at_s", [0, 90, 300])
def test_objects_deleted_by_hand_leak_no_machine(kind: Kind, at_s: int) -> None:
    """Nodes, records or the pool itself: every machine that was bought is returned in the end."""
    with open_world(scenario(*LOADS)) as world:
        interfere(world, at_s, lambda: delete_all(world, kind))

        assert {"terminated"} == {state for _, _, state in recount.instances()}
        assert {"noderequests": 0, "launchbatches": 0} == recount.records(world.kube)


def test_a_machine_terminated_by_hand_is_replaced() -> None:
    """Its pods that had not run yet get another place, and nothing is left at the end."""
    with open_world(scenario(*LOADS)) as world:
        ec2 = world.cloud.session.client("ec2")
        account = interfere(world, 0, lambda: ec2.terminate_instances(InstanceIds=[world.cloud.machines[0].id]))

        assert (4, set(), {}) == (
            account.pools["inference"].bound,
            account.pools["inference"].machines,
            account.pools["inference"].unmet,
        )
        assert NODES_NEEDED + 1 == len(recount.instances())


def test_a_pool_whose_mode_is_changed_keeps_its_nodes_and_says_so() -> None:
    """Nothing is forgotten: with the old mode back, everything is returned."""
    with open_world(scenario(*LOADS)) as world:
        account = interfere(world, 100, lambda: world.kube.patch(GPU_POOLS, "inference", {"spec": {"mode": "static"}}))
        kept = recount.records(world.kube)["noderequests"]
        world.kube.patch(GPU_POOLS, "inference", {"spec": {"mode": "ec2"}})
        run_to_the_end(world)

        assert kept > 0
        assert any("spec.mode is 'static'; want ec2 until" in str(problem) for problem in account.problems)
        assert {"terminated"} == {state for _, _, state in recount.instances()}


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("CreateFleet", ACCESS_DENIED),
        ("CreateFleet", UNREACHABLE),
        ("DescribeLaunchTemplates", ACCESS_DENIED),
        ("TerminateInstances", ACCESS_DENIED),
    ],
)
def test_a_call_that_never_succeeds_ends_the_run_with_few_tries(operation: str, fault: Fault) -> None:
    """Denied or unreachable for ever: the run says so and ends."""
    with open_world(scenario(*LOADS)) as world:
        world.cloud.fail_next(operation, fault, times=10_000)
        account = run_to_the_end(world)

        assert not account.complete
        assert world.cloud.calls[operation] < 50


def test_two_processes_that_decide_the_same_buy_once() -> None:
    """The second one collides on the record, at whatever second it acts."""
    with open_world(scenario(*LOADS)) as world:
        other = restarted(world.reconciler, world.kube)
        stale = other.tick(world.now_s(), dry_run=True)
        world.reconciler.tick(world.now_s())
        modes = {"inference": other.mode_of("ec2", where="", field="").open(other.open_with(stale.cluster.pools[0]))}
        later = replace(stale.cluster, now_s=world.now_s() + 1)
        outcomes = list(apply(stale.plan, later, world.kube, modes))

        assert [AlreadyExistsError] == [type(outcome.error) for outcome in outcomes]
        assert 2 == len(recount.instances())
