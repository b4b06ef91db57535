"""The stand-in for Karpenter drains and ends what is deleted, and gives up what Karpenter gives up by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.testing.karpenter_world import BOOT_S, CLASS, HOLD, ONE_G6, SHUTDOWN_S, TYPES, A, B, KarpenterWorld, annotate
from tfscale.errors import BadInputError
from tfscale.kube.port import NODE_CLAIMS, NODE_POOLS, NODES, PODS
from tfscale.testing import SimulatedCloud
from tfscale.testing.fake_ec2 import THROTTLED
from tfscale.testing.fake_kube import BUDGETS

DAEMON = {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "1"}]}
RECLAIM_S = 25


@pytest.fixture(scope="module")
def cloud() -> Iterator[SimulatedCloud]:
    """Yield the cloud of this module."""
    with SimulatedCloud(instance_types=TYPES, boot_delay_s=BOOT_S, shutdown_delay_s=SHUTDOWN_S) as running:
        yield running


@pytest.fixture
def world(cloud: SimulatedCloud) -> KarpenterWorld:
    """Return a world without claims, in a cloud without limits."""
    return KarpenterWorld(cloud)


def pods(world: KarpenterWorld) -> list[str]:
    """Return the names of the pods that are there."""
    return [pod["metadata"]["name"] for pod in world.kube.list(PODS).items]


def joined(world: KarpenterWorld, **spec: Any) -> str:  # noqa: ANN401 - any field
    """Return the node of a standalone claim called one, which has just joined."""
    world.claim("one", **spec)
    world.run(BOOT_S)
    return str(world.live("one")["status"]["nodeName"])


def replica(world: KarpenterWorld, *, held: bool = False, **disruption: str) -> str:
    """Return the node of a claim called one of the NodePool gpus, which has just joined."""
    world.pool(**disruption)
    world.claim("one", pool="gpus", annotations=HOLD if held else {})
    world.run(BOOT_S)
    return str(world.live("one")["status"]["nodeName"])


# --- deletion ---


def test_a_deleted_claim_takes_node_and_machine_along(world: KarpenterWorld) -> None:
    """The node goes at once where it is empty, the claim only when the machine is gone."""
    joined(world)

    world.kube.delete(NODE_CLAIMS, "one")
    world.play()

    assert [] == world.kube.list(NODES).items
    assert ["shutting-down"] == [machine.state for machine in world.machines()]
    world.run(SHUTDOWN_S - 1)
    assert ["karpenter.sh/termination"] == world.live("one")["metadata"]["finalizers"]
    world.run(1)
    assert (None, []) == (world.get("one"), world.machines())


def test_a_claim_deleted_before_its_node_joined_ends_too(world: KarpenterWorld) -> None:
    """There is nothing to drain; the machine goes first."""
    world.claim("one")
    world.play()

    world.kube.delete(NODE_CLAIMS, "one")
    world.run(SHUTDOWN_S)

    assert (None, []) == (world.get("one"), world.machines())


def test_pods_are_evicted_before_the_node_goes(world: KarpenterWorld) -> None:
    """The node is closed, its pods get their grace period, those of a DaemonSet stay until the end."""
    node = joined(world)
    world.pod("work", node)
    world.pod("agent", node, **DAEMON)

    world.kube.delete(NODE_CLAIMS, "one")
    world.play()

    assert [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}] == world.node("one")["spec"]["taints"]
    assert ["running"] == [machine.state for machine in world.machines()]
    world.run(10)
    assert ["agent"] == pods(world)
    assert ["shutting-down"] == [machine.state for machine in world.machines()]
    world.run(SHUTDOWN_S)
    assert (None, []) == (world.get("one"), pods(world))


def test_a_pod_that_must_not_be_disrupted_holds_the_node(world: KarpenterWorld) -> None:
    """Without a limit it is waited for, and nothing is to be done meanwhile."""
    world.pod("work", joined(world), annotations=HOLD)
    world.kube.delete(NODE_CLAIMS, "one")

    world.run(100_000)

    assert ["running"] == [machine.state for machine in world.machines()]
    assert world.karpenter.next_s() is None
    world.kube.delete(PODS, "work", namespace="default", grace_period_s=0)
    world.run(SHUTDOWN_S)
    assert world.get("one") is None


def test_the_grace_period_of_the_claim_ends_every_pod(world: KarpenterWorld) -> None:
    """When it is over, neither do-not-disrupt nor a budget keeps a pod."""
    node = joined(world, terminationGracePeriod="10m")
    world.pod("held", node, annotations=HOLD)
    world.pod("guarded", node, labels={"app": "a"})
    budget = {"metadata": {"name": "none"}, "spec": {"selector": {"matchLabels": {"app": "a"}}}}
    world.kube.create(BUDGETS, budget, namespace="default")
    world.kube.delete(NODE_CLAIMS, "one")

    world.run(599)

    assert ["guarded", "held"] == pods(world)
    world.run(1)
    assert [] == pods(world)
    world.run(SHUTDOWN_S)
    assert world.get("one") is None


def test_an_eviction_that_a_budget_forbids_is_tried_again(world: KarpenterWorld) -> None:
    """The pod goes when the budget allows it."""
    world.pod("work", joined(world), labels={"app": "a"})
    budget = {"metadata": {"name": "none"}, "spec": {"selector": {"matchLabels": {"app": "a"}}}}
    world.kube.create(BUDGETS, budget, namespace="default")
    world.kube.delete(NODE_CLAIMS, "one")
    world.run(60)
    assert ["work"] == pods(world)

    world.kube.patch_status(BUDGETS, "none", {"status": {"disruptionsAllowed": 1}}, namespace="default")
    world.run(15)

    assert [] == pods(world)


def test_a_machine_whose_end_was_refused_is_ended_later(world: KarpenterWorld) -> None:
    """A throttled TerminateInstances is made again."""
    joined(world)
    world.cloud.fail_next("TerminateInstances", THROTTLED, times=2)
    world.kube.delete(NODE_CLAIMS, "one")

    world.run(10 + SHUTDOWN_S)

    assert (None, []) == (world.get("one"), world.machines())


def test_finalizers_of_others_are_kept(world: KarpenterWorld) -> None:
    """Karpenter takes off its own alone, from node and claim."""
    node = joined(world)
    for kind, name in ((NODES, node), (NODE_CLAIMS, "one")):
        world.kube.patch(kind, name, {"metadata": {"finalizers": ["example.com/own", "karpenter.sh/termination"]}})

    world.kube.delete(NODE_CLAIMS, "one")
    world.run(SHUTDOWN_S)

    assert [] == world.machines()
    assert ["example.com/own"] == world.live("one")["metadata"]["finalizers"]
    assert ["example.com/own"] == world.kube.get(NODES, node)["metadata"]["finalizers"]


# --- what is gone ---


def test_a_node_deleted_by_hand_takes_the_claim_along(world: KarpenterWorld) -> None:
    """Its pods are drained first, then machine and claim go."""
    node = joined(world)
    world.pod("work", node)

    world.kube.delete(NODES, node)
    world.run(10 + SHUTDOWN_S)

    assert (None, [], []) == (world.get("one"), pods(world), world.machines())


def test_a_machine_that_somebody_ended_takes_the_claim_along(world: KarpenterWorld) -> None:
    """The pods of a machine that is gone are not waited for."""
    world.pod("work", joined(world), annotations=HOLD)

    world.cloud.take_away([machine.id for machine in world.machines()])
    world.run(SHUTDOWN_S)

    assert (None, [], []) == (world.get("one"), world.kube.list(NODES).items, world.machines())


def test_a_claim_whose_finalizer_was_taken_off_leaks_its_machine_for_a_while(world: KarpenterWorld) -> None:
    """A machine of no claim is ended by the garbage collection, and its node can go."""
    joined(world)

    world.kube.patch(NODE_CLAIMS, "one", {"metadata": {"finalizers": []}})
    world.kube.delete(NODE_CLAIMS, "one")
    world.run(SHUTDOWN_S)

    assert ([], []) == (world.kube.list(NODES).items, world.machines())


def test_claims_go_with_their_node_pool(world: KarpenterWorld) -> None:
    """The owner is gone, so what it owns goes, protected or not."""
    replica(world, held=True)

    world.kube.delete(NODE_POOLS, "gpus")
    world.run(SHUTDOWN_S)

    assert (None, []) == (world.get("one"), world.machines())


@pytest.mark.parametrize("held", [True, False])
def test_a_claim_expires_whatever_protects_it(world: KarpenterWorld, held: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """``expireAfter`` counts from the creation of the claim and ignores do-not-disrupt."""
    world.claim("one", expireAfter="2m", annotations=HOLD if held else {})

    world.run(119)

    assert "True" == world.conditions("one")["Ready"]
    world.run(1 + SHUTDOWN_S)
    assert (None, []) == (world.get("one"), world.machines())


def test_a_claim_that_does_not_say_when_it_expires_lives_thirty_days(world: KarpenterWorld) -> None:
    """The definition of NodeClaims fills in 720 hours."""
    spec = {"nodeClassRef": CLASS, "requirements": [*ONE_G6]}
    world.kube.create(NODE_CLAIMS, {"metadata": {"name": "one"}, "spec": spec})
    world.run(BOOT_S)

    assert world.now_s - BOOT_S + 720 * 3_600 == world.karpenter.next_s()


# --- empty nodes ---


def test_an_empty_node_of_a_node_pool_is_reclaimed(world: KarpenterWorld) -> None:
    """Without ``consolidateAfter`` it lives for a poll and a validation after it was initialized."""
    replica(world)

    world.run(RECLAIM_S - 1)

    assert "True" == world.conditions("one")["Consolidatable"]
    world.run(1)
    assert "deletionTimestamp" in world.live("one")["metadata"]


def test_an_empty_standalone_node_is_never_reclaimed(world: KarpenterWorld) -> None:
    """It has no NodePool whose rules would apply."""
    joined(world)

    world.run(10_000_000)

    assert "True" == world.conditions("one")["Ready"]
    assert world.karpenter.next_s() is None


@pytest.mark.parametrize(("after", "lives_s"), [("0s", RECLAIM_S), ("5m", 300 + RECLAIM_S), ("Never", None)])
def test_an_empty_node_lives_as_long_as_its_pool_says(world: KarpenterWorld, after: str, lives_s: int | None) -> None:
    """``consolidateAfter`` counts from when it became empty."""
    replica(world, consolidateAfter=after)

    world.run(100_000 if lives_s is None else lives_s - 1)

    assert "deletionTimestamp" not in world.live("one")["metadata"]
    if lives_s is not None:
        world.run(1)
        assert "deletionTimestamp" in world.live("one")["metadata"]


def test_a_pod_keeps_its_node_and_its_end_begins_the_time_anew(world: KarpenterWorld) -> None:
    """Consolidation waits from the end of the last pod, also if a stand-in started since knows nothing of it."""
    node = replica(world, consolidateAfter="1m")
    world.pod("work", node)
    world.run(1_000)
    assert "Consolidatable" not in world.conditions("one")
    world.kube.patch_status(PODS, "work", {"status": {"phase": "Succeeded"}}, namespace="default")
    world.play()
    world.karpenter = world.fresh()

    world.run(60 + RECLAIM_S - 1)

    assert "deletionTimestamp" not in world.live("one")["metadata"]
    world.run(1)
    assert "deletionTimestamp" in world.live("one")["metadata"]


def test_a_pod_that_comes_in_the_last_moment_saves_the_node(world: KarpenterWorld) -> None:
    """What was found empty is looked at again before it is deleted."""
    node = replica(world)
    world.run(RECLAIM_S - 1)
    assert "True" == world.conditions("one")["Consolidatable"]

    world.pod("work", node)
    world.run(1_000)

    assert "Consolidatable" not in world.conditions("one")
    assert "deletionTimestamp" not in world.live("one")["metadata"]


def test_a_daemon_pod_does_not_keep_a_node(world: KarpenterWorld) -> None:
    """It belongs to the node, not to a workload."""
    world.pod("agent", replica(world), **DAEMON)

    world.run(RECLAIM_S)

    assert "deletionTimestamp" in world.live("one")["metadata"]


def test_a_protected_node_is_kept_until_the_node_itself_is_released(world: KarpenterWorld) -> None:
    """The protection comes from the claim at first; taken off the claim alone it stays, taken off the node it ends."""
    node = replica(world, held=True)
    world.run(1_000)
    annotate(world, NODE_CLAIMS, "one", dict.fromkeys(HOLD))
    world.run(1_000)
    assert "deletionTimestamp" not in world.live("one")["metadata"]

    annotate(world, NODES, node, dict.fromkeys(HOLD))
    world.run(RECLAIM_S - 1)

    assert "deletionTimestamp" not in world.live("one")["metadata"]
    world.run(1)
    assert "deletionTimestamp" in world.live("one")["metadata"]


@pytest.mark.parametrize("value", ["True", "false", "1h", ""])
def test_only_the_exact_value_protects_a_node(world: KarpenterWorld, value: str) -> None:
    """Durations are for pods, and nothing else is a word for true."""
    world.pool()
    world.claim("one", pool="gpus", annotations={"karpenter.sh/do-not-disrupt": value})

    world.run(BOOT_S + RECLAIM_S)

    assert "deletionTimestamp" in world.live("one")["metadata"]


def test_a_node_that_is_protected_in_the_last_moment_stays(world: KarpenterWorld) -> None:
    """Protection holds back what was already found empty."""
    node = replica(world)
    world.run(RECLAIM_S - 1)

    annotate(world, NODES, node, HOLD)
    world.run(1_000)

    assert "deletionTimestamp" not in world.live("one")["metadata"]
    assert "Consolidatable" not in world.conditions("one")


def test_the_node_pool_counts_its_nodes(world: KarpenterWorld) -> None:
    """Launched claims count with what they have, claims of no pool and of others do not."""
    world.pool(consolidateAfter="Never")
    world.claim("one", pool="gpus")
    world.claim("two", pool="gpus")
    world.claim("three")

    world.play()

    counted = {"nodes": "2", "cpu": "8", "memory": str(32 * 2**30), "pods": "220", "nvidia.com/gpu": "2"}
    assert {"nodes": 2, "resources": counted} == world.kube.get(NODE_POOLS, "gpus")["status"]
    world.kube.delete(NODE_CLAIMS, "one")
    world.kube.delete(NODE_CLAIMS, "two")
    world.run(SHUTDOWN_S)
    assert {"nodes": 0, "resources": {"nodes": "0"}} == world.kube.get(NODE_POOLS, "gpus")["status"]


def test_a_node_pool_that_the_schema_would_refuse_is_reported(world: KarpenterWorld) -> None:
    """A wrong value names the pool and the field."""
    world.pool(consolidateAfter="soon")

    with pytest.raises(BadInputError, match=r"nodepool gpus: spec\.disruption\.consolidateAfter is 'soon'"):
        world.play()


# --- time ---


def test_nothing_happens_while_it_is_down(world: KarpenterWorld) -> None:
    """Claims wait for it, and it goes on where it stopped; time limits that passed meanwhile count."""
    world.claim("one")
    world.play()
    world.karpenter.down = True
    world.claim("two")
    world.run(600)
    assert ("True", "Unknown") == (world.conditions("one")["Launched"], world.conditions("one")["Registered"])
    assert "status" not in world.live("two")
    assert world.karpenter.next_s() is None

    world.karpenter.down = False
    world.run(BOOT_S)

    assert ("True", "True") == tuple(world.conditions(name)["Ready"] for name in ("one", "two"))


@pytest.mark.parametrize("after_s", [0, 10, BOOT_S, BOOT_S + 30])
def test_a_second_call_at_one_time_changes_nothing(world: KarpenterWorld, after_s: int) -> None:
    """What was due was done; the time of the next step is the same."""
    world.cloud.set_capacity({("g6.xlarge", A): 1, ("g6.xlarge", B): 0})
    world.pool()
    world.claim("one", pool="gpus")
    world.claim("two")
    world.run(after_s)
    before, next_s = world.kube.list(NODE_CLAIMS).resource_version, world.karpenter.next_s()

    world.karpenter.advance(world.now_s)

    assert (before, next_s) == (world.kube.list(NODE_CLAIMS).resource_version, world.karpenter.next_s())
