"""The stand-in for Karpenter launches, registers and initializes what a claim asks for, or gives the claim up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.testing.karpenter_world import (
    BOOT_S,
    CAPACITY,
    CATALOGUE,
    CLASS,
    SHUTDOWN_S,
    TYPE,
    TYPES,
    ZONE,
    A,
    B,
    KarpenterWorld,
    annotate,
    within,
)
from tfscale.errors import BadInputError
from tfscale.kube.port import NODE_CLAIMS, NODE_CLASSES, NODES
from tfscale.testing import SimulatedCloud
from tfscale.testing.fake_ec2 import ACCESS_DENIED, LOST_REPLY, THROTTLED
from tfscale.testing.fake_karpenter.machines import CLAIM_UID


@pytest.fixture(scope="module")
def cloud() -> Iterator[SimulatedCloud]:
    """Yield the cloud of this module."""
    with SimulatedCloud(instance_types=TYPES, boot_delay_s=BOOT_S, shutdown_delay_s=SHUTDOWN_S) as running:
        yield running


@pytest.fixture
def world(cloud: SimulatedCloud) -> KarpenterWorld:
    """Return a world without claims, in a cloud without limits."""
    return KarpenterWorld(cloud)


# --- launching ---


@given(
    types=st.sets(st.sampled_from([kind.name for kind in TYPES]), min_size=1),
    zones=st.sets(st.sampled_from((A, B)), min_size=1),
    kinds=st.sets(st.sampled_from(("on-demand", "spot")), min_size=1),
    gpus=st.sampled_from((None, "1", "4")),
)
def test_the_cheapest_offer_that_meets_the_claim_is_launched(
    cloud: SimulatedCloud, types: set[str], zones: set[str], kinds: set[str], gpus: str | None
) -> None:
    """What is launched meets every requirement and no cheaper known offer would; else the claim is given up."""
    world = KarpenterWorld(cloud)
    chosen = (within(TYPE, *sorted(types)), within(ZONE, *sorted(zones)), within(CAPACITY, *sorted(kinds)))
    prices = {(name, "on-demand"): CATALOGUE[name].price_micro_usd for name in types}
    prices |= {(name, "spot"): CATALOGUE[name].spot_price_micro_usd for name in types}
    fit = {
        (name, kind): price
        for (name, kind), price in prices.items()
        if kind in kinds and CATALOGUE[name].gpu_count >= int(gpus or 0)
    }
    known = [price for price in fit.values() if price is not None]
    world.claim("one", *chosen, resources={"requests": {"nvidia.com/gpu": gpus} if gpus else {}})

    world.play()

    assert len(world.machines()) == bool(fit)
    assert (world.get("one") is None) == (not fit)
    for machine in world.machines():
        assert machine.zone in zones
        assert fit[machine.instance_type, machine.capacity_type] == (min(known) if known else None)


def test_a_launched_claim_says_what_was_launched(world: KarpenterWorld) -> None:
    """Status and labels name the machine that the cloud has, and the machine's tags name the claim."""
    made = world.claim("one")

    world.play()

    (machine,) = world.machines()
    claim = world.live("one")
    assert made["metadata"]["uid"] == machine.tags[CLAIM_UID]
    assert machine.provider_id == claim["status"]["providerID"]
    assert claim["status"]["imageID"].startswith("ami-")
    assert {"cpu": "4000m", "memory": "16384Mi", "pods": "110", "nvidia.com/gpu": "1"} == claim["status"]["capacity"]
    assert claim["status"]["capacity"] == claim["status"]["allocatable"]
    assert ["karpenter.sh/termination"] == claim["metadata"]["finalizers"]
    labels = claim["metadata"]["labels"]
    assert ("g6.xlarge", machine.zone, "on-demand") == (labels[TYPE], labels[ZONE], labels[CAPACITY])
    assert ("amd64", "linux", "us-east-1") == tuple(
        labels[key] for key in ("kubernetes.io/arch", "kubernetes.io/os", "topology.kubernetes.io/region")
    )
    assert ("gpu", "l4") == (labels["karpenter.k8s.aws/ec2nodeclass"], labels["karpenter.k8s.aws/instance-gpu-name"])
    assert {"Launched": "True", "Registered": "Unknown", "Initialized": "Unknown", "Ready": "Unknown"} == world.conditions("one")


def test_labels_of_the_claim_win_over_the_facts(world: KarpenterWorld) -> None:
    """A claim that carries a label of the launched facts keeps it, wrong as it may be, and so does its node."""
    world.claim("one", labels={ZONE: "moon-1a"})

    world.run(BOOT_S)

    assert "moon-1a" == world.live("one")["metadata"]["labels"][ZONE]
    assert "moon-1a" == world.node("one")["metadata"]["labels"][ZONE]


@pytest.mark.parametrize(
    ("requirement", "launched"),
    [
        (within("karpenter.k8s.aws/instance-gpu-count", "3", operator="Gt"), "g6.12xlarge"),
        (within("karpenter.k8s.aws/instance-gpu-count", "4", operator="Gte"), "g6.12xlarge"),
        (within("karpenter.k8s.aws/instance-cpu", "4", operator="Lte"), "m5.large"),
        (within("karpenter.k8s.aws/instance-gpu-name", "l4"), "g6.xlarge"),
        (within("karpenter.k8s.aws/instance-gpu-count", operator="DoesNotExist"), "m5.large"),
        (within("example.com/team", "a"), "m5.large"),
        (within(TYPE, "m5.large", operator="NotIn"), "g4dn.xlarge"),
    ],
)
def test_requirements_on_labels_of_types_choose(world: KarpenterWorld, requirement: dict[str, object], launched: str) -> None:
    """Labels of the provider choose types; a label that it knows nothing of keeps none out."""
    world.claim("one", requirement, within(TYPE, "unsold.xlarge", operator="NotIn"), within(CAPACITY, "on-demand"))

    world.play()

    assert [launched] == [machine.instance_type for machine in world.machines()]


def test_the_next_place_is_taken_where_the_first_has_no_capacity(world: KarpenterWorld) -> None:
    """Capacity that is missing in one zone is not the end of a claim that names two."""
    world.cloud.set_capacity({("g6.xlarge", A): 0})
    world.claim("one")

    world.play()

    assert [B] == [machine.zone for machine in world.machines()]


def test_no_capacity_ends_the_claim_at_once(world: KarpenterWorld) -> None:
    """The claim is deleted and an event says why; another of the same name may try again."""
    world.cloud.set_capacity({("g6.xlarge", A): 0, ("g6.xlarge", B): 0})
    world.claim("one")

    world.play()

    assert world.get("one") is None
    assert ["InsufficientCapacityError"] == world.events()
    assert [] == world.machines()
    world.cloud.set_capacity({})
    world.claim("one")
    world.play()
    assert 1 == len(world.machines())


@pytest.mark.parametrize(
    ("status", "events", "ends"),
    [(None, ["InsufficientCapacityError"], True), ("False", [], True), ("True", [], False), ("", [], False)],
)
def test_a_node_class_that_cannot_be_used_ends_the_claim(
    world: KarpenterWorld,
    status: str | None,
    events: list[str],
    ends: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A missing class counts as no capacity, of one that is not ready nothing is said, a silent one is ready."""
    if status is not None:
        world.kube.create(NODE_CLASSES[2], {"metadata": {"name": "other"}})
    if status:
        ready = {"status": {"conditions": [{"type": "Ready", "status": status}]}}
        world.kube.patch_status(NODE_CLASSES[2], "other", ready)
    world.claim("one", nodeClassRef={"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "other"})

    world.play()

    assert events == world.events()
    assert (world.get("one") is None) == ends
    assert len(world.machines()) == (not ends)


def test_a_claim_waits_for_a_node_class_that_does_not_know_yet(world: KarpenterWorld) -> None:
    """An unknown readiness is tried again, and the claim is launched once the class is ready."""
    world.kube.patch_status(NODE_CLASSES[0], "gpu", {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    world.claim("one")
    world.run(60)
    assert "NodeClassReadinessUnknown" == world.reason("one", "Launched")

    world.kube.patch_status(NODE_CLASSES[0], "gpu", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    world.run(60)

    assert "True" == world.conditions("one")["Launched"]


def test_oracles_provider_gives_claims_without_the_taint_of_gpus_no_such_types(world: KarpenterWorld) -> None:
    """It is tried in vain, as with requirements that nothing meets; with the taint it is launched."""
    kind = next(one for one in NODE_CLASSES if one.kind == "OCINodeClass")
    world.kube.create(kind, {"metadata": {"name": "gpu"}})
    ref = {"group": kind.group, "kind": kind.kind, "name": "gpu"}
    world.claim("bare", nodeClassRef=ref)
    world.claim("tainted", nodeClassRef=ref, taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])
    world.run(60)

    assert "LaunchFailed" == world.reason("bare", "Launched")
    assert "True" == world.conditions("tainted")["Launched"]


def test_a_claim_of_another_provider_is_left_alone(world: KarpenterWorld) -> None:
    """Only claims of the known kinds of node classes are touched."""
    made = world.claim("one", nodeClassRef={**CLASS, "kind": "MoonNodeClass"})

    world.run(1_000)

    assert made == world.live("one")


@pytest.mark.parametrize(
    "requirement", [within(TYPE, "g7.huge"), within(TYPE, "unsold.xlarge"), within("kubernetes.io/arch", "arm64")]
)
def test_a_claim_that_no_type_meets_ends_after_five_minutes(world: KarpenterWorld, requirement: dict[str, object]) -> None:
    """Until then the launch is tried again and the condition is Unknown."""
    world.claim("one", requirement)

    world.run(299)

    assert ("Unknown", "LaunchFailed") == (world.conditions("one")["Launched"], world.reason("one", "Launched"))
    world.run(1)
    assert world.get("one") is None
    assert [] == world.machines()


def test_a_refused_call_is_tried_again_ever_later(world: KarpenterWorld) -> None:
    """Attempts are 1 s to 1 min apart, and only until the launch takes too long."""
    world.cloud.fail_next("CreateFleet", ACCESS_DENIED, times=11)
    before = world.cloud.calls["CreateFleet"]
    world.claim("one")

    world.run(300)

    assert 11 == world.cloud.calls["CreateFleet"] - before
    assert world.get("one") is None


def test_a_throttled_launch_comes_later(world: KarpenterWorld) -> None:
    """A call that the cloud did not take is made again in simulated time, not sooner because others act."""
    world.cloud.fail_next("CreateFleet", THROTTLED, times=3)
    world.claim("one")
    world.play()
    before = world.cloud.calls["CreateFleet"]
    world.claim("other", within(TYPE, "g7.huge"))
    world.play()
    assert before == world.cloud.calls["CreateFleet"]

    world.run(4)

    assert "True" == world.conditions("one")["Launched"]


def test_a_lost_reply_launches_nothing_twice(world: KarpenterWorld) -> None:
    """The machine of a call without a reply is found again, also by a stand-in that was started since."""
    world.cloud.fail_next("CreateFleet", LOST_REPLY)
    world.claim("one")
    world.play()
    assert "Unknown" == world.conditions("one")["Launched"]
    world.karpenter = world.fresh()

    world.run(1)

    (machine,) = world.machines()
    assert machine.provider_id == world.live("one")["status"]["providerID"]


def test_a_claim_that_ends_after_a_lost_reply_leaves_no_machine(world: KarpenterWorld) -> None:
    """The machine that the claim never heard of is ended with it."""
    world.cloud.fail_next("CreateFleet", LOST_REPLY)
    world.claim("one")
    world.play()

    world.kube.delete(NODE_CLAIMS, "one")
    world.run(SHUTDOWN_S)

    assert (None, []) == (world.get("one"), world.machines())


@pytest.mark.parametrize(
    "spec",
    [
        {"expireAfter": "soon"},
        {"requirements": [within(TYPE, "a", operator="Near")]},
        {"requirements": [within("x", "-1", operator="Gt")]},
    ],
)
def test_a_claim_that_the_schema_would_refuse_is_reported(world: KarpenterWorld, spec: dict[str, Any]) -> None:
    """A wrong value names the claim and the field."""
    world.claim("one", **spec)

    with pytest.raises(BadInputError, match="nodeclaim one: spec"):
        world.play()


# --- joining ---


def test_a_node_joins_with_what_the_claim_says(world: KarpenterWorld) -> None:
    """Labels, annotations and taints of the claim, owner and finalizer are on the node; the claim names the node."""
    taint = {"key": "example.com/pool", "value": "a", "effect": "NoSchedule"}
    made = world.claim("one", labels={"team": "a"}, annotations={"note": "b"}, taints=[taint])

    world.run(BOOT_S)

    node = world.node("one")
    meta = node["metadata"]
    assert ("a", "true", "true") == tuple(
        meta["labels"][key] for key in ("team", "karpenter.sh/registered", "karpenter.sh/initialized")
    )
    assert "b" == meta["annotations"]["note"]
    assert [taint] == node["spec"]["taints"]
    assert ["karpenter.sh/termination"] == meta["finalizers"]
    owner = {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": "one", "uid": made["metadata"]["uid"]}
    assert [{**owner, "blockOwnerDeletion": True}] == meta["ownerReferences"]
    assert {"Launched": "True", "Registered": "True", "Initialized": "True", "Ready": "True"} == world.conditions("one")


def test_a_node_is_no_longer_closed_once_it_is_registered(cloud: SimulatedCloud) -> None:
    """The taint with which it came is gone, its own others are still there, and nothing is there twice."""
    own, both = {"key": "own", "effect": "NoSchedule"}, {"key": "both", "value": "node's", "effect": "NoExecute"}
    closed = {"key": "karpenter.sh/unregistered", "effect": "NoExecute"}
    guarded = {"finalizers": ["karpenter.sh/termination"]}
    world = KarpenterWorld(cloud, joins={"metadata": guarded, "spec": {"taints": [closed, own, both]}})
    world.claim("one", taints=[{"key": "both", "value": "claim's", "effect": "NoExecute"}])

    world.run(BOOT_S)

    assert [own, both] == world.node("one")["spec"]["taints"]
    assert guarded["finalizers"] == world.node("one")["metadata"]["finalizers"]


def test_what_is_written_on_the_claim_later_does_not_reach_the_node(world: KarpenterWorld) -> None:
    """The node is written once, when it registers."""
    world.claim("one")
    world.run(BOOT_S)

    annotate(world, NODE_CLAIMS, "one", {"late": "yes"})
    world.run(60)

    assert "late" not in world.node("one")["metadata"]["annotations"]


def test_a_node_is_initialized_when_its_startup_taints_are_gone(world: KarpenterWorld) -> None:
    """Somebody else takes them off; until then the claim is not Ready."""
    world.claim("one", startupTaints=[{"key": "agent", "effect": "NoExecute"}])
    world.run(BOOT_S)
    assert ("Unknown", "StartupTaintsExist") == (world.conditions("one")["Ready"], world.reason("one", "Initialized"))

    world.kube.patch(NODES, world.live("one")["status"]["nodeName"], {"spec": {"taints": []}})
    world.play()

    assert "True" == world.conditions("one")["Ready"]


@pytest.mark.parametrize(
    ("joins", "reason"),
    [
        ({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, "NodeNotReady"),
        ({"spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}}, "KnownEphemeralTaintsExist"),
        ({"spec": {"taints": [{"key": "readiness.k8s.io/cni", "effect": "NoExecute"}]}}, "KnownEphemeralTaintsExist"),
        ({"status": {"allocatable": {"nvidia.com/gpu": "0"}}}, "ResourceNotRegistered"),
    ],
)
def test_a_node_that_never_is_complete_is_waited_for_without_end(
    cloud: SimulatedCloud, joins: dict[str, object], reason: str
) -> None:
    """There is no time limit for the initialization, and the claim says what is missing."""
    world = KarpenterWorld(cloud, joins=joins)
    world.claim("one", resources={"requests": {"nvidia.com/gpu": "1"}})

    world.run(100_000)

    assert ("Unknown", reason) == (world.conditions("one")["Initialized"], world.reason("one", "Initialized"))


def test_a_machine_that_never_joins_is_given_up_after_fifteen_minutes(world: KarpenterWorld) -> None:
    """The claim and its machine go, and nothing else comes in its place."""
    world.claim("one")
    world.play()
    world.cloud.take_away([machine.id for machine in world.machines()])

    world.run(899)

    assert "True" == world.conditions("one")["Launched"]
    world.run(1)
    assert (None, []) == (world.get("one"), world.machines())
