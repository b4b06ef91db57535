"""Whatever happens around the stand-in for Karpenter, no claim gets two machines and nothing is left in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.testing.karpenter_world import BOOT_S, HOLD, SHUTDOWN_S, TYPES, A, B, KarpenterWorld, annotate, within
from tfscale.errors import NotFoundError
from tfscale.kube.port import NODE_CLAIMS, NODE_CLASSES, NODE_POOLS, NODES, PODS, Json, Kind
from tfscale.testing import SimulatedCloud
from tfscale.testing.fake_ec2 import LOST_REPLY, SERVER_ERROR, THROTTLED, UNREACHABLE, Fault
from tfscale.testing.fake_karpenter.machines import CLAIM_UID

Event = Callable[[KarpenterWorld], object]
NAMES = ("one", "two", "three")
TYPE = "node.kubernetes.io/instance-type"


@contextmanager
def world_of_its_own() -> Iterator[KarpenterWorld]:
    """Yield a world in a cloud of its own, in which no fault is left from another example, with a NodePool."""
    with SimulatedCloud(instance_types=TYPES, boot_delay_s=BOOT_S, shutdown_delay_s=SHUTDOWN_S) as cloud:
        world = KarpenterWorld(cloud)
        world.pool(consolidateAfter="30s")
        yield world


def named(world: KarpenterWorld, kind: Kind, rank: int) -> Json | None:
    """Return one of the objects of a kind, or None where there are none."""
    objects = world.kube.list(kind).items
    return objects[rank % len(objects)] if objects else None


def claims(name: str, *, pool: bool, held: bool, wanted: str, expire_after: str) -> Event:
    """Return the creation of a claim, where its name is free."""

    def create(world: KarpenterWorld) -> None:
        owner = "gpus" if pool and world.kube.list(NODE_POOLS).items else ""
        if world.get(name) is None:
            world.claim(name, within(TYPE, wanted), pool=owner, annotations=HOLD if held else {}, expireAfter=expire_after)

    return create


def deletes(kind: Kind, rank: int) -> Event:
    """Return the deletion of one object of a kind."""

    def delete(world: KarpenterWorld) -> None:
        if found := named(world, kind, rank):
            world.kube.delete(kind, found["metadata"]["name"], namespace=found["metadata"].get("namespace"))

    return delete


def unguards(rank: int) -> Event:
    """Return somebody taking all finalizers off a claim."""

    def unguard(world: KarpenterWorld) -> None:
        if found := named(world, NODE_CLAIMS, rank):
            world.kube.patch(NODE_CLAIMS, found["metadata"]["name"], {"metadata": {"finalizers": []}})

    return unguard


def releases(rank: int) -> Event:
    """Return the end of the protection of a node."""

    def release(world: KarpenterWorld) -> None:
        if found := named(world, NODES, rank):
            annotate(world, NODES, found["metadata"]["name"], dict.fromkeys(HOLD))

    return release


def runs_pod(rank: int, *, held: bool) -> Event:
    """Return a pod that begins to run on a node."""

    def run(world: KarpenterWorld) -> None:
        if found := named(world, NODES, rank):
            name = f"pod-{world.kube.list(PODS).resource_version}"
            world.pod(name, found["metadata"]["name"], annotations=HOLD if held else {})

    return run


def loses_machine(rank: int) -> Event:
    """Return the loss of a machine."""

    def lose(world: KarpenterWorld) -> None:
        if machines := world.machines():
            world.cloud.take_away([machines[rank % len(machines)].id])

    return lose


def restarts(world: KarpenterWorld) -> None:
    """Replace the stand-in by one that knows nothing."""
    world.karpenter = world.fresh()


def has_class(status: str) -> Event:
    """Return the node class becoming ready or not."""
    patch = {"status": {"conditions": [{"type": "Ready", "status": status}]}}
    return lambda world: world.kube.patch_status(NODE_CLASSES[0], "gpu", patch)


def has_room(most: int) -> Event:
    """Return a change of how many machines each zone has of one type."""
    return lambda world: world.cloud.set_capacity({("g6.xlarge", zone): most for zone in (A, B)})


def fails(call: str, fault: Fault) -> Event:
    """Return a call of the cloud that is going to fail."""
    return lambda world: world.cloud.fail_next(call, fault)


ranks = st.integers(0, 3)
quiet_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        claims,
        st.sampled_from(NAMES),
        pool=st.booleans(),
        held=st.booleans(),
        wanted=st.sampled_from(("g6.xlarge", "m5.large", "unsold.xlarge", "unknown")),
        expire_after=st.sampled_from(("Never", "3m")),
    ),
    st.builds(deletes, st.sampled_from((NODE_CLAIMS, NODES, PODS, NODE_POOLS)), ranks),
    st.builds(unguards, ranks),
    st.builds(releases, ranks),
    st.builds(runs_pod, ranks, held=st.booleans()),
    st.builds(loses_machine, ranks),
    st.builds(has_class, st.sampled_from(("True", "False"))),
    st.builds(has_room, st.integers(0, 2)),
)
events: st.SearchStrategy[Event] = st.one_of(
    quiet_events,
    st.just(restarts),
    st.just(has_class("Unknown")),
    st.builds(
        fails,
        st.sampled_from(("CreateFleet", "TerminateInstances")),
        st.sampled_from((LOST_REPLY, SERVER_ERROR, THROTTLED, UNREACHABLE)),
    ),
)
waits = st.sampled_from((0, 1, 5, 25, 60, 120, 900))


def check(world: KarpenterWorld) -> None:
    """Assert what holds at every moment."""
    owners = Counter(machine.tags[CLAIM_UID] for machine in world.machines())
    assert all(count == 1 for count in owners.values())
    for claim in world.kube.list(NODE_CLAIMS).items:
        conditions = {one["type"]: one["status"] for one in claim.get("status", {}).get("conditions", ())}
        stages = [conditions.get(stage) == "True" for stage in ("Launched", "Registered", "Initialized")]
        assert sorted(stages, reverse=True) == stages
        assert (conditions.get("Ready") == "True") == all(stages)
    next_s = world.karpenter.next_s()
    assert next_s is None or next_s > world.now_s


def end(world: KarpenterWorld) -> None:
    """Delete everything and let time pass until nothing is to happen any more."""
    for pod in world.kube.list(PODS).items:
        world.kube.delete(PODS, pod["metadata"]["name"], namespace="default", grace_period_s=0)
    for claim in world.kube.list(NODE_CLAIMS).items:
        with suppress(NotFoundError):
            world.kube.delete(NODE_CLAIMS, claim["metadata"]["name"])
    world.run(200)


def objects(world: KarpenterWorld) -> list[Json]:
    """Return claims and nodes without their versions, which count every write, and with machines called by their number."""
    found = [*world.kube.list(NODE_CLAIMS).items, *world.kube.list(NODES).items]
    text = json.dumps([{**obj, "metadata": {**obj["metadata"], "resourceVersion": ""}} for obj in found])
    for number, machine in enumerate(world.cloud.machines):
        text = text.replace(machine.id, f"machine-{number}")
    return list(json.loads(text))


@settings(max_examples=50)
@given(steps=st.lists(st.tuples(events, waits), min_size=3, max_size=25))
def test_nothing_is_bought_twice_and_nothing_is_left(steps: list[tuple[Event, int]]) -> None:
    """At most one machine per claim at every moment; after everything was deleted no claim, node or machine is left."""
    with world_of_its_own() as world:
        for event, wait_s in steps:
            event(world)
            world.run(wait_s)
            check(world)

        end(world)

        assert ([], [], []) == (world.kube.list(NODE_CLAIMS).items, world.kube.list(NODES).items, world.machines())
        assert world.karpenter.next_s() is None


@settings(max_examples=25)
@given(steps=st.lists(st.tuples(quiet_events, waits), min_size=3, max_size=20))
def test_a_stand_in_has_nothing_to_remember(steps: list[tuple[Event, int]]) -> None:
    """One that is replaced after every step leaves the same objects as one that runs all the time.

    A launch that may succeed later is left out: when it is tried again is the one thing that is forgotten.
    """
    outcomes = []
    for replaced in (False, True):
        with world_of_its_own() as world:
            for event, wait_s in steps:
                event(world)
                world.run(wait_s)
                if replaced:
                    restarts(world)
            outcomes.append(objects(world))

    assert outcomes[0] == outcomes[1]
