"""The stand-in for Karpenter reclaims empty nodes of NodePools, counts them, and ends them with their pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.testing.karpenter_world import BOOT_S, HOLD, SHUTDOWN_S, TYPES, KarpenterWorld, annotate
from tfscale.errors import BadInputError
from tfscale.kube.port import NODE_CLAIMS, NODE_POOLS, NODES, PODS
from tfscale.testing import SimulatedCloud

DAEMON: dict[str, Any] = {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "1"}]}
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


def replica(world: KarpenterWorld, *, held: bool = False, **disruption: str) -> str:
    """Return the node of a claim called one of the NodePool gpus, which has just joined."""
    world.pool(**disruption)
    world.claim("one", pool="gpus", annotations=HOLD if held else {})
    world.run(BOOT_S)
    return str(world.live("one")["status"]["nodeName"])


def test_claims_go_with_their_node_pool(world: KarpenterWorld) -> None:
    """The owner is gone, so what it owns goes, protected or not."""
    replica(world, held=True)

    world.kube.delete(NODE_POOLS, "gpus")
    world.run(SHUTDOWN_S)

    assert (None, []) == (world.get("one"), world.machines())


def test_an_empty_node_of_a_node_pool_is_reclaimed(world: KarpenterWorld) -> None:
    """Without ``consolidateAfter`` it lives for a poll and a validation after it was initialized."""
    replica(world)

    world.run(RECLAIM_S - 1)

    assert "True" == world.conditions("one")["Consolidatable"]
    world.run(1)
    assert "deletionTimestamp" in world.live("one")["metadata"]


def test_an_empty_standalone_node_is_never_reclaimed(world: KarpenterWorld) -> None:
    """It has no NodePool whose rules would apply."""
    world.pool()
    world.claim("one")

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


def test_a_pod_that_is_being_deleted_does_not_keep_a_node(world: KarpenterWorld) -> None:
    """It is on its way out, however long it takes; only the drain waits for it."""
    world.pod("work", replica(world), grace_s=600)
    world.run(10)

    world.kube.delete(PODS, "work", namespace="default")
    world.run(RECLAIM_S)

    assert "deletionTimestamp" in world.live("one")["metadata"]
    assert ["work"] == [pod["metadata"]["name"] for pod in world.kube.list(PODS).items]


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
