"""The same demand through three modes, side by side, and what each of them meets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import recount
from tests.test_reconcile import FACTOR, CrashError, CrashingKube, restarted
from tfscale.account import Account
from tfscale.cli import Exit, main
from tfscale.kube.port import EVENTS, GPU_POOLS, NODE_CLAIMS, NODE_POOLS, NODE_REQUESTS, NODES, PODS, Json
from tfscale.quantity import time_s
from tfscale.reconcile import Reconciler, Report, run
from tfscale.scenario import Capacity, Fault, KarpenterStops, MachinesStop, Restart, Scenario, read_scenario
from tfscale.simulate import World, open_world
from tfscale.simulated import Simulated, simulated

EXAMPLE = Path(__file__).parents[1] / "examples" / "three-modes.yaml"
MODES = {"direct": "ec2", "claimed": "managed-nodeclaim", "shared": "reuse-nodeclaim"}
PODS_OF_EACH = 9


def example() -> Scenario:
    """Return the scenario of the demo."""
    return read_scenario(EXAMPLE.read_text(encoding="utf-8"), name=EXAMPLE.name)


def one_pool(name: str, **changes: Any) -> Scenario:  # noqa: ANN401 - any field of a scenario
    """Return the example with one of its pools alone."""
    whole = example()
    objects = tuple((kind, obj) for kind, obj in whole.objects if kind.kind != "GPUPool" or obj["metadata"]["name"] == name)
    loads = tuple(load for load in whole.workloads if load.name.startswith(f"{name}-"))
    return replace(whole, objects=objects, workloads=loads, **changes)


def without_limit(scenario: Scenario, *capacity: Capacity) -> Scenario:
    """Return the scenario with other limits of the cloud."""
    assert scenario.cloud
    return replace(scenario, cloud=replace(scenario.cloud, capacity=capacity))


def shown(world: World, check: Callable[[Report], None] = lambda _: None) -> Simulated:
    """Run a world to its end, and check every report."""
    return simulated(world, on_report=check, stopped=lambda: False)


def nothing_is_left(world: World) -> bool:
    """Return whether machines, claims, nodes and records are all gone."""
    kinds = (NODE_CLAIMS, NODES, NODE_REQUESTS)
    return {"terminated"} >= {state for _, _, state in recount.instances()} and not any(
        world.kube.list(kind).items for kind in kinds
    )


def test_every_mode_places_every_pod_and_leaves_nothing() -> None:
    """The totals are those of moto's instances and of the raw objects; no card is ever over-committed."""
    with open_world(example()) as world:
        result = shown(world, lambda _: over_committed(world))
        pools = result.as_json()["pools"]
        counted = recount.pools(world.kube)

        assert {name: {"mode": mode} for name, mode in MODES.items()} == {name: {"mode": pools[name]["mode"]} for name in pools}
        for name in MODES:
            keys = ("launched", "bound", "terminated", "machines_left")
            assert {key: counted[name][key] for key in keys} == {key: pools[name][key] for key in keys}
            assert (PODS_OF_EACH, [], 0) == (pools[name]["bound"], pools[name]["unmet"], pools[name]["machines_left"])
            assert pools[name]["launched"] > 0
        assert nothing_is_left(world)


def over_committed(world: World) -> None:
    """Assert that nobody holds more than there is."""
    assert [] == recount.over_committed(world.kube)


def test_what_is_left_to_karpenter_differs_by_mode() -> None:
    """Nothing, the choice of machines, or the choice and taking them back."""
    with open_world(example()) as world:
        pools = shown(world).as_json()["pools"]

    assert {
        "direct": (False, False),
        "claimed": (True, False),
        "shared": (True, True),
    } == {name: (pool["chosen_by_others"] > 0, pool["removed_by_others"] > 0) for name, pool in pools.items()}
    assert pools["shared"]["removed_by_others"] == pools["shared"]["launched"]


@pytest.mark.parametrize("pool", MODES)
def test_a_plan_that_was_applied_leaves_nothing_to_do(pool: str) -> None:
    """Plan, apply, observe and plan again at the same moment: the second plan is empty, in every mode."""
    with open_world(one_pool(pool)) as world:

        def again(_: Report) -> None:
            assert () == world.reconciler.tick(world.now_s(), dry_run=True).plan.actions

        shown(world, again)


@pytest.mark.parametrize("pool", ["claimed", "shared"])
def test_an_offer_without_capacity_is_left_out_and_the_next_one_taken(pool: str) -> None:
    """Karpenter deletes a claim for which it finds nothing; the pods get other machines."""
    limits = [Capacity(instance_type="g4dn.xlarge", zone=zone, capacity_type="on-demand", machines=0) for zone in "ab"]
    named = [replace(limit, zone=f"us-east-1{limit.zone}") for limit in limits]
    with open_world(without_limit(one_pool(pool), *named)) as world:
        result = shown(world)

        assert PODS_OF_EACH == result.account.pools[pool].bound
        assert nothing_is_left(world)
        assert {"g6.xlarge", "g6.12xlarge"} == {machine.instance_type for machine in world.cloud.machines}


@pytest.mark.parametrize("pool", ["claimed", "shared"])
def test_when_nothing_is_to_be_had_the_run_ends_with_the_reason(pool: str) -> None:
    """Claims are not written again and again: what failed is set aside, longer each time."""
    types = ("g4dn.xlarge", "g6.xlarge", "g6.12xlarge")
    zones = ("us-east-1a", "us-east-1b")
    none = [Capacity(instance_type=t, zone=z, capacity_type="on-demand", machines=0) for t in types for z in zones]
    with open_world(without_limit(one_pool(pool), *none)) as world:
        result = shown(world)
        refused = [event for event in world.kube.list(EVENTS).items if event["reason"] == "InsufficientCapacityError"]

        assert PODS_OF_EACH == len(result.account.pools[pool].unmet)
        assert all("tried again at" in reasons[0] for reasons in result.account.pools[pool].unmet.values())
        assert 0 < len(refused) < 30
        assert (0, True) == (len(world.cloud.machines), nothing_is_left(world))


FAULTS = st.lists(
    st.one_of(
        st.builds(MachinesStop, at_s=st.integers(0, 1_500), machines=st.integers(1, 3)),
        st.builds(Restart, at_s=st.integers(0, 1_500)),
        st.builds(KarpenterStops, at_s=st.integers(0, 1_500), for_s=st.integers(1, 1_200)),
    ),
    max_size=4,
)


@settings(max_examples=12 * FACTOR)
@given(st.sampled_from(sorted(MODES)), FAULTS)
def test_whatever_breaks_every_pod_ends_and_nothing_is_left(pool: str, faults: list[Fault]) -> None:
    """Machines that are taken away, a process that restarts, a Karpenter that sleeps."""
    given_scenario = one_pool(pool, faults=tuple(sorted(faults, key=lambda fault: fault.at_s)))
    with open_world(given_scenario) as world:
        shown(world, lambda _: over_committed(world))
        ended = [pod for pod in world.kube.list(PODS).items if pod["status"]["phase"] == "Succeeded"]

        assert PODS_OF_EACH == len(ended)
        assert nothing_is_left(world)


def dying_at(world: World, at: int, *, after: bool) -> Reconciler:
    """Return a process whose writes, those of its modes too, end it at one of them."""
    healthy, kube = world.reconciler, CrashingKube(world.kube, at=at, after=after)
    dying = restarted(healthy, kube)
    dying.open_with = lambda pool: replace(healthy.open_with(pool), kube=kube)
    return dying


@pytest.mark.parametrize("pool", ["claimed", "shared"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_write_writes_no_claim_twice_and_leaks_nothing(pool: str, *, after: bool) -> None:
    """The process dies at each of its writes in turn and starts again without memory: the same machines, and none left."""
    asked = one_pool(pool)
    small = replace(asked, workloads=tuple(load for load in asked.workloads if load.name.endswith("-asr")))
    crashes = 0
    for at in range(1, 1_000):
        with open_world(small) as world:
            healthy = world.reconciler
            dying = dying_at(world, at, after=after)
            world.reconciler = dying
            try:
                end(world)
            except CrashError:
                crashes += 1
            else:
                break
            world.reconciler = restarted(healthy, world.kube)
            end(world)

            assert 2 == len(recount.instances())
            assert nothing_is_left(world)
    assert crashes > 15


def end(world: World) -> None:
    """Run to the end."""
    account = Account()
    run(world.reconciler, world, until_idle=True, on_report=lambda report: account.add(report).clear())


def test_a_replica_is_kept_for_its_first_pod_and_released_with_it() -> None:
    """Until its node has a pod a claim says that nobody may disrupt it; from the first pod on neither claim nor node does."""
    seen: set[tuple[bool, bool, bool | None]] = set()
    with open_world(one_pool("shared")) as world:

        def look(_: Report) -> None:
            nodes = {name(node): node for node in world.kube.list(NODES).items}
            used = {pod["spec"].get("nodeName") for pod in world.kube.list(PODS).items}
            for claim in world.kube.list(NODE_CLAIMS).items:
                node = claim.get("status", {}).get("nodeName")
                seen.add((node in used and node is not None, kept(claim), kept(nodes[node]) if node in nodes else None))

        shown(world, look)

    assert {(False, True, None), (True, False, False)} == seen - {(True, False, None)}


def name(obj: Json) -> str:
    """Return an object's name."""
    return str(obj["metadata"]["name"])


def kept(obj: Json) -> bool:
    """Return whether it says that it must not be disrupted."""
    return "true" == (obj["metadata"].get("annotations") or {}).get("karpenter.sh/do-not-disrupt")


def test_startup_taints_are_waited_for_and_nothing_else_is_bought_meanwhile() -> None:
    """A kubelet that is Ready says nothing about what fits: as many machines as without the taint, and no type is avoided."""
    taint = {"key": "example.com/agent", "effect": "NoSchedule"}
    whole = one_pool("claimed")
    with open_world(whole) as world:
        usual = shown(world).account.pools["claimed"]
    for kind, obj in whole.objects:
        if kind == GPU_POOLS:
            obj["spec"]["options"]["startupTaints"] = [taint]
    with open_world(whole) as world:

        def agent(_: Report) -> None:
            assert not world.kube.get(GPU_POOLS, "claimed").get("status", {}).get("setAside")
            for node in world.kube.list(NODES).items:
                left = [one for one in node["spec"].get("taints", ()) if one["key"] != taint["key"]]
                if world.now_s() >= time_s(node["metadata"]["creationTimestamp"]) + 40 and left != node["spec"].get("taints", []):
                    world.kube.patch(NODES, name(node), {"spec": {"taints": left}})

        slow = shown(world, agent).account.pools["claimed"]

    assert (usual.launched, usual.bound) == (slow.launched, slow.bound)


@pytest.mark.parametrize("pool", ["claimed", "shared"])
def test_a_pool_that_is_deleted_takes_its_claims_with_it(pool: str) -> None:
    """Also where Karpenter would reclaim them: nothing waits for that."""
    with open_world(one_pool(pool)) as world:

        def delete(report: Report) -> None:
            ended = report.cluster.now_s >= world.start_s + 1_171
            if ended and [False] == [one.deleting for one in report.cluster.pools]:
                world.kube.delete(GPU_POOLS, pool)

        shown(world, delete)

        assert ([], True) == (world.kube.list(GPU_POOLS).items, nothing_is_left(world))


def test_a_pool_whose_only_nodepool_goes_says_so() -> None:
    """Also where it could be used when the loop began; a NodePool that is made again is used again."""
    with open_world(one_pool("shared")) as world:
        node_pool = world.kube.get(NODE_POOLS, "gpu")
        world.reconciler.tick(world.now_s())
        world.kube.delete(NODE_POOLS, "gpu")
        world.kube.end_terminations()
        for _ in range(2):
            report = world.reconciler.tick(world.now_s())
        (ready,) = world.kube.get(GPU_POOLS, "shared")["status"]["conditions"]
        metadata = {"name": "gpu", "annotations": node_pool["metadata"].get("annotations", {})}
        world.kube.create(NODE_POOLS, {"metadata": metadata, "spec": node_pool["spec"]})
        again = world.reconciler.tick(world.now_s())

    assert ("False", "BadOptions") == (ready["status"], ready["reason"])
    assert "a NodePool that nodes can be taken from (there is none)" in str(report.problems)
    assert () == again.problems


def test_the_json_of_the_demo_has_what_its_readers_need(capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes, cost, time to the first pod, what was left to Karpenter, by pool."""
    assert Exit.DONE == main(["simulate", str(EXAMPLE), "-o", "json"])
    pools = json.loads(capsys.readouterr().out)["pools"]
    keys = {"launched", "bound", "unmet", "terminated", "machines_left", "mode", "cost_usd", "first_pod_after_s"}

    assert all(keys | {"chosen_by_others", "removed_by_others", "nodes_peak"} <= pool.keys() for pool in pools.values())
    assert {90} == {pool["first_pod_after_s"] for pool in pools.values()}
