"""The stand-in for Karpenter drains and ends what is deleted, and gives up what Karpenter gives up by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.testing.karpenter_world import BOOT_S, CLASS, HOLD, ONE_G6, SHUTDOWN_S, TYPES, A, B, KarpenterWorld
from tfscale.kube.port import DISRUPTION_BUDGETS, NODE_CLAIMS, NODES, PODS
from tfscale.testing import SimulatedCloud
from tfscale.testing.fake_ec2 import THROTTLED

DAEMON: dict[str, Any] = {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "1"}]}


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
    world.kube.create(DISRUPTION_BUDGETS, budget, namespace="default")
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
    world.kube.create(DISRUPTION_BUDGETS, budget, namespace="default")
    world.kube.delete(NODE_CLAIMS, "one")
    world.run(60)
    assert ["work"] == pods(world)

    world.kube.patch(DISRUPTION_BUDGETS, "none", {"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}, namespace="default")
    world.run(15)

    assert [] == pods(world)


def test_a_machine_is_ended_with_one_call(world: KarpenterWorld) -> None:
    """While it shuts down, nothing more is asked of the cloud."""
    joined(world)
    before = world.cloud.calls["TerminateInstances"]
    world.kube.delete(NODE_CLAIMS, "one")
    world.play()

    world.claim("other")
    world.run(SHUTDOWN_S)

    assert 1 == world.cloud.calls["TerminateInstances"] - before


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


def test_a_machine_is_missed_once_its_node_is_not_ready(world: KarpenterWorld) -> None:
    """As long as the node seems well the claim stays; then it goes, and does not wait for pods that nobody can end."""
    node = joined(world)
    world.pod("work", node, annotations=HOLD)
    world.cleans_up = False
    world.cloud.take_away([machine.id for machine in world.machines()])
    world.run(1_000)
    assert "deletionTimestamp" not in world.live("one")["metadata"]

    world.kube.patch_status(NODES, node, {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    world.play()

    assert (None, []) == (world.get("one"), world.kube.list(NODES).items)


def test_a_claim_whose_finalizer_was_taken_off_leaks_its_machine_for_a_while(world: KarpenterWorld) -> None:
    """A machine of no claim is ended by the garbage collection, and its node can go."""
    joined(world)

    world.kube.patch(NODE_CLAIMS, "one", {"metadata": {"finalizers": []}})
    world.kube.delete(NODE_CLAIMS, "one")
    world.run(SHUTDOWN_S)

    assert ([], []) == (world.kube.list(NODES).items, world.machines())


def test_a_young_machine_of_no_claim_is_left_alone(world: KarpenterWorld) -> None:
    """Its claim may only not be seen yet: it is ended when it is half a minute old."""
    world.claim("one")
    world.play()
    world.kube.patch(NODE_CLAIMS, "one", {"metadata": {"finalizers": []}})
    world.kube.delete(NODE_CLAIMS, "one")

    world.run(29)

    assert ["pending"] == [machine.state for machine in world.machines()]
    world.run(1 + SHUTDOWN_S)
    assert [] == world.machines()


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
