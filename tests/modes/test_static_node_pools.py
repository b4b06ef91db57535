"""Static NodePools are scaled by their replicas: what is ours is a number, and nobody else's nodes are ever counted in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.testing.karpenter_world import BOOT_S, CATALOGUE, CLASS, ONE_G6, SHUTDOWN_S, TYPES, A, B, KarpenterWorld, within
from tfscale.errors import ClusterUnreachableError, LaunchRefusedError, ModeError
from tfscale.gpus import GpuTable
from tfscale.kube.port import NODE_CLAIMS, NODE_POOLS, Json, Kind
from tfscale.model import LaunchBatch, Machine, NodeRequest
from tfscale.modes.base import LaunchResult, ModeContext
from tfscale.modes.nodeclaim_static import SCALED
from tfscale.modes.reuse_nodeclaim import ReuseNodeClaimMode
from tfscale.pool import OfferFilter, Pool
from tfscale.testing import FakeKube, SimulatedCloud

BASE = 2
WITHIN_S = 300


class Flaky:
    """An API server whose next patches fail before they are done, or after; None lets one pass."""

    def __init__(self, kube: FakeKube) -> None:
        self._kube = kube
        self.faults: list[str | None] = []

    def patch(self, kind: Kind, name: str, patch: Json, *, namespace: str | None = None) -> Json:
        """Patch, unless the next fault says otherwise."""
        fault = self.faults.pop(0) if self.faults else None
        if fault == "before":
            raise ClusterUnreachableError("the call was not made")
        done = self._kube.patch(kind, name, patch, namespace=namespace)
        if fault == "after":
            raise ClusterUnreachableError("the reply was lost")
        return done

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any other verb
        return getattr(self._kube, name)


class StaticWorld(KarpenterWorld):
    """A cluster with a static NodePool whose nodes are the pool's, two of them asked for by somebody else."""

    def __init__(self, cloud: SimulatedCloud) -> None:
        super().__init__(cloud)
        inner = {"nodeClassRef": CLASS, "requirements": [*ONE_G6, within("topology.kubernetes.io/zone", A)]}
        template = {"metadata": {"labels": {"tfscale.io/pool": "gpus"}}, "spec": inner}
        self.kube.create(NODE_POOLS, {"metadata": {"name": "fixed"}, "spec": {"replicas": BASE, "template": template}})
        self.flaky = Flaky(self.kube)
        self.mode = self.reopened()
        self.run(BOOT_S)

    def reopened(self) -> ReuseNodeClaimMode:
        """Return the mode of another process."""
        wanted = OfferFilter(zones=(A,), instance_types=("g6.xlarge",))
        pool = Pool(name="gpus", mode="reuse-nodeclaim", wanted=wanted, launch_within_s=WITHIN_S)
        context: Any = {"kube": self.flaky, "clock": lambda: float(self.now_s), "sleep": lambda _: self.play()}
        return ReuseNodeClaimMode.open(ModeContext(pool=pool, gpus=GpuTable(), cluster="test", catalogue=CATALOGUE, **context))

    def batch(self, name: str, count: int) -> LaunchBatch:
        """Return a batch as it comes back from Kubernetes."""
        requests = [NodeRequest(name=f"{name}-{number}", pool="gpus", mode="reuse-nodeclaim") for number in range(count)]
        order = self.mode.prepare(name, requests, self.mode.offers(), now_s=self.now_s)
        return LaunchBatch(
            name=name,
            pool="gpus",
            mode="reuse-nodeclaim",
            requests=tuple(request.name for request in requests),
            parameters=json.loads(json.dumps(order.parameters)),
            offers=order.offers,
            created_s=self.now_s,
        )

    def replicas(self) -> int:
        """Return how many nodes are asked for."""
        return int(self.kube.get(NODE_POOLS, "fixed")["spec"]["replicas"])

    def note(self) -> str | None:
        """Return what is written about our part."""
        notes: dict[str, str] = self.kube.get(NODE_POOLS, "fixed")["metadata"].get("annotations") or {}
        return notes.get(SCALED)

    def settled(self) -> str | None:
        """Return the same after a round."""
        self.mode.settle()
        return self.note()

    def living(self) -> list[str]:
        """Return the names of the claims that are to stay."""
        return [
            one["metadata"]["name"] for one in self.kube.list(NODE_CLAIMS).items if "deletionTimestamp" not in one["metadata"]
        ]

    def ours(self) -> list[Machine]:
        """Return our machines that are to stay."""
        return [machine for machine in self.mode.observe() if not machine.stopping]

    def scale(self, replicas: int) -> None:
        """Do what ``kubectl scale`` does."""
        self.kube.patch(NODE_POOLS, "fixed", {"spec": {"replicas": replicas}})
        self.play()


@pytest.fixture(scope="module")
def cloud() -> Iterator[SimulatedCloud]:
    """Yield the cloud of this module."""
    with SimulatedCloud(instance_types=TYPES, boot_delay_s=BOOT_S, shutdown_delay_s=SHUTDOWN_S) as running:
        yield running


@pytest.fixture
def world(cloud: SimulatedCloud) -> StaticWorld:
    """Return a world with a static NodePool."""
    return StaticWorld(cloud)


def ids(results: Any) -> list[str]:  # noqa: ANN401 - results of a launch
    """Return the machines of a launch."""
    return [result.machine.id for result in results if result.machine]


def test_more_replicas_are_asked_for_and_what_comes_is_ours(world: StaticWorld) -> None:
    """Two nodes more, which nobody but us gives back; the two that were there are not ours."""
    before = world.living()
    batch = world.batch("batch", 2)
    given = ids(world.mode.launch(batch))

    assert ("g6.xlarge/us-east-1a/on-demand",) == batch.offers
    assert BASE + 2 == world.replicas()
    assert (2, set()) == (len(given), {*given} & {*before})
    assert {(name, "batch", True) for name in given} == {(one.id, one.batch, one.stays) for one in world.ours()}
    assert given == ids(world.reopened().launch(batch))
    assert BASE + 2 == world.replicas()


def test_what_is_given_back_is_not_asked_for_any_more(world: StaticWorld) -> None:
    """One after the other, until only the nodes of others are left and nothing is written about ours."""
    given = ids(world.mode.launch(world.batch("batch", 2)))
    for name in given:
        while any(machine.id == name for machine in world.ours()):
            world.mode.terminate([name])
            world.run(1)
    world.run(SHUTDOWN_S)

    assert (BASE, BASE, None) == (world.replicas(), len(world.living()), world.settled())


def test_the_node_of_others_that_karpenter_takes_instead_is_made_anew(world: StaticWorld) -> None:
    """All nodes are empty, so Karpenter takes any of them: in the end ours is gone, and others have as many as they asked for."""
    (name,) = ids(world.mode.launch(world.batch("batch", 1)))
    world.run(BOOT_S)
    other = next(one for one in world.living() if one != name)
    world.karpenter.down = True
    world.mode.terminate([name])
    world.kube.delete(NODE_CLAIMS, other)
    world.karpenter.down = False
    for _ in range(3):
        world.run(SHUTDOWN_S + BOOT_S)
        world.mode.terminate([name])
    world.run(SHUTDOWN_S + BOOT_S)

    assert (BASE, BASE, None) == (world.replicas(), len(world.living()), world.settled())
    assert name not in world.living()


def test_a_node_with_pods_is_given_back_and_no_other(world: StaticWorld) -> None:
    """Karpenter would take an empty one of others: so the claim goes first, and what is made instead goes unlaunched."""
    (name,) = ids(world.mode.launch(world.batch("batch", 1)))
    world.run(BOOT_S)
    others = {*world.living()} - {name}
    world.pod("busy", world.live(name)["status"]["nodeName"])
    world.mode.terminate([name])
    world.run(SHUTDOWN_S + BOOT_S)

    assert (BASE, others) == (world.replicas(), {*world.living()})


def test_a_node_that_was_lost_is_not_replaced(world: StaticWorld) -> None:
    """Karpenter makes another one for a claim that somebody deleted: it is one too many as soon as nobody waits for it."""
    (name,) = ids(world.mode.launch(world.batch("batch", 1)))
    world.run(BOOT_S)
    others = {*world.living()} - {name}
    for one in others:
        world.pod(f"busy-{one}", world.live(one)["status"]["nodeName"])
    world.kube.delete(NODE_CLAIMS, name)
    world.run(SHUTDOWN_S + BOOT_S)

    assert ([], BASE + 1) == (world.ours(), len(world.living()))
    world.run(WITHIN_S)
    assert None is world.settled()
    world.run(SHUTDOWN_S)
    assert (BASE, others) == (world.replicas(), {*world.living()})


def test_replicas_do_not_grow_with_each_attempt(world: StaticWorld) -> None:
    """Without capacity Karpenter gives claims up and makes them anew: what an earlier batch lost is not asked for again."""
    world.cloud.set_capacity({("g6.xlarge", A, "on-demand"): 0})
    for number in range(5):
        with suppress(ModeError):
            world.mode.launch(world.batch(f"batch{number}", 1))
        world.run(WITHIN_S + 1)
        world.settled()

    assert (None, BASE) == (world.settled(), world.replicas())


def test_karpenter_that_makes_nothing_is_not_asked_for_ever(world: StaticWorld) -> None:
    """Without the feature gate nothing happens: the outcome is unknown until the time is over, then nothing is asked for."""
    world.karpenter.down = True
    batch = world.batch("batch", 1)
    with pytest.raises(ModeError, match="nodepool fixed: Karpenter has made 0 of 1 nodes"):
        world.mode.launch(batch)

    assert BASE + 1 == world.replicas()
    world.now_s += WITHIN_S
    for _ in range(2):
        with pytest.raises(LaunchRefusedError, match="is its feature gate StaticCapacity on"):
            world.mode.launch(batch)
        assert (None, BASE) == (world.settled(), world.replicas())


@pytest.mark.parametrize(("by", "asked"), [(1, 3), (-1, 2), (-2, 2), (-3, 1)])
def test_replicas_that_others_take_away_were_ours(world: StaticWorld, by: int, asked: int) -> None:
    """Whoever lowers the number takes what we added before what was there; whoever raises it adds to his own."""
    world.mode.launch(world.batch("batch", 2))
    world.scale(BASE + 2 + by)
    world.run(WITHIN_S)
    while world.ours():
        world.mode.terminate([machine.id for machine in world.ours()])
        world.run(SHUTDOWN_S + BOOT_S)
    world.settled()
    world.run(SHUTDOWN_S + BOOT_S)

    assert (asked, asked) == (world.replicas(), len(world.living()))


def test_what_others_take_away_is_remembered(world: StaticWorld) -> None:
    """Scaled to nothing and up again, all is theirs."""
    world.mode.launch(world.batch("batch", 2))
    world.scale(0)
    world.settled()
    world.scale(BASE + 2)
    world.run(WITHIN_S + BOOT_S)

    assert (None, BASE + 2, []) == (world.settled(), world.replicas(), world.ours())


def test_a_node_pool_that_goes_ends_the_call(world: StaticWorld) -> None:
    """There is nothing left to wait for."""
    batch = world.batch("batch", 1)
    world.kube.delete(NODE_POOLS, "fixed")
    with pytest.raises(LaunchRefusedError, match="launch batch: nodepool fixed does not exist"):
        world.mode.launch(batch)


@pytest.mark.parametrize(
    ("template", "refusal"),
    [
        ({}, "it is static, and its template has no label tfscale.io/pool=gpus that would make all of its nodes this pool's"),
        ({"tfscale.io/pool": "other"}, "its nodes are labelled as those of gpupool other"),
    ],
)
def test_a_static_node_pool_must_say_whose_its_nodes_are(world: StaticWorld, template: dict[str, str], refusal: str) -> None:
    """All of them come from its template, so only that can say it."""
    labels = {"tfscale.io/pool": None, **template}
    world.kube.patch(NODE_POOLS, "fixed", {"spec": {"template": {"metadata": {"labels": labels}}}})

    assert refusal in str(world.mode.check()[0])
    assert [] == list(world.mode.offers())


HERE = within("topology.kubernetes.io/zone", A)
KIND, ON_DEMAND = ONE_G6


@pytest.mark.parametrize(
    ("requirements", "refusal"),
    [
        ([within(KIND["key"], "g6.xlarge", "g6.12xlarge"), ON_DEMAND, HERE], "allows the instance type g6.12xlarge, which"),
        ([ON_DEMAND, HERE], "its template names no instance type"),
        ([KIND, ON_DEMAND], "its template names no zone"),
        ([KIND, ON_DEMAND, within(HERE["key"], A, B)], "allows the zone us-east-1b, which"),
        ([KIND, HERE], "allows the capacity type reserved, which"),
        ([KIND, HERE, within(ON_DEMAND["key"], "spot", operator="NotIn")], "allows the capacity type reserved, which"),
    ],
)
def test_a_static_node_pool_must_not_allow_more_than_is_wanted(
    world: StaticWorld, requirements: list[Json], refusal: str
) -> None:
    """Karpenter alone chooses what it launches."""
    world.kube.patch(NODE_POOLS, "fixed", {"spec": {"template": {"spec": {"requirements": requirements}}}})

    assert refusal in str(world.mode.check()[0])


def test_an_annotation_that_cannot_be_read_is_named(world: StaticWorld) -> None:
    """Somebody wrote into it: nothing is concluded from it, and nothing is scaled."""
    world.kube.patch(NODE_POOLS, "fixed", {"metadata": {"annotations": {SCALED: '{"ours": "many"}'}}})
    with pytest.raises(ModeError, match=r"nodepool fixed: metadata.annotations\[tfscale.io/replicas\].ours is 'many'"):
        world.mode.settle()
    assert [] == list(world.mode.observe())


# --- any order of calls, faults and other people ----------------------------------------------------------------------


class Steps(RuleBasedStateMachine):
    """Batches, faults, lost nodes and other people's scaling in any order; in the end only what others asked for is left."""

    cloud: SimulatedCloud

    @initialize()
    def begin(self) -> None:
        """Begin with two nodes of others."""
        self.world = StaticWorld(self.cloud)
        self.open: dict[str, LaunchBatch] = {}
        self.served: dict[str, dict[str, str]] = {}
        self.others = BASE
        self.number = 0

    @rule(count=st.integers(1, 3), faults=st.lists(st.sampled_from([None, "before", "after"]), max_size=4))
    def launch(self, count: int, faults: list[str | None]) -> None:
        """Ask for nodes, and fail on the way."""
        self.number += 1
        batch = self.world.batch(f"batch{self.number}", count)
        self.open[batch.name] = batch
        self.call(batch, faults)

    @rule(faults=st.lists(st.sampled_from([None, "before", "after"]), max_size=4))
    def replay(self, faults: list[str | None]) -> None:
        """Ask again, in another process."""
        self.world.mode = self.world.reopened()
        for batch in list(self.open.values()):
            self.call(batch, faults)

    @rule(number=st.integers(0, 9), faults=st.lists(st.sampled_from([None, "before", "after"]), max_size=3))
    def give_back(self, number: int, faults: list[str | None]) -> None:
        """Give one of ours back, and fail on the way."""
        if machines := self.world.ours():
            self.world.flaky.faults = [*faults]
            self.try_to_end([machines[number % len(machines)].id])

    @rule(number=st.integers(0, 9))
    def lose(self, number: int) -> None:
        """Delete any claim by hand."""
        if living := self.world.living():
            self.world.kube.delete(NODE_CLAIMS, living[number % len(living)])

    @rule()
    def others_want_more(self) -> None:
        """Others add a node to theirs."""
        self.others += 1
        self.world.scale(self.world.replicas() + 1)

    @rule()
    def settle(self) -> None:
        """End a round."""
        self.world.mode.settle()

    @rule(seconds=st.sampled_from([0, 1, 30, BOOT_S, 200]))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.world.run(seconds)

    @rule(down=st.booleans())
    def karpenter(self, *, down: bool) -> None:
        """Stop Karpenter, or start it again."""
        self.world.karpenter.down = down

    @invariant()
    def others_have_what_they_asked_for(self) -> None:
        """Never less is asked for than others want, and never more than we asked for beside."""
        if hasattr(self, "world"):
            asked = sum(len(batch.requests) for batch in self.open.values()) + sum(map(len, self.served.values()))
            assert self.others <= self.world.replicas() <= self.others + asked

    def call(self, batch: LaunchBatch, faults: list[str | None]) -> None:
        """Make a recorded call, and note what it gave. What it gave once it gives again."""
        self.world.flaky.faults = [*faults]
        results: tuple[LaunchResult, ...] = ()
        try:
            results = tuple(self.world.mode.launch(batch))
        except LaunchRefusedError:
            pass
        except ModeError:
            return
        finally:
            self.world.flaky.faults = []
        # What a call did not get is not asked for any more at the end of its round.
        self.world.mode.settle()
        self.served[batch.name] = {result.request: result.machine.id for result in results if result.machine}
        machines = [name for given in self.served.values() for name in given.values()]
        assert len(machines) == len({*machines})
        assert {*self.served[batch.name]} <= {*batch.requests}
        del self.open[batch.name]

    def try_to_end(self, names: list[str]) -> None:
        """Give machines back; what fails is asked again by the rules that follow."""
        try:
            self.world.mode.terminate(names)
        except ModeError:
            pass
        finally:
            self.world.flaky.faults = []

    def teardown(self) -> None:
        """Finish all calls and give everything back: what others asked for is left, and nothing is written about ours."""
        if not hasattr(self, "world"):
            return
        self.world.karpenter.down = False
        self.world.run(WITHIN_S)
        self.replay([])
        for _ in range(40):
            self.try_to_end([machine.id for machine in self.world.ours()])
            self.world.run(SHUTDOWN_S + BOOT_S)
            self.world.mode.settle()
            if not self.world.ours():
                break
        self.world.run(WITHIN_S + SHUTDOWN_S + BOOT_S)
        self.world.mode.settle()
        self.world.run(SHUTDOWN_S + BOOT_S)
        assert {} == self.open
        assert [] == self.world.ours()
        assert (self.others, None) == (self.world.replicas(), self.world.note())
        assert self.others == len(self.world.living())


def test_nothing_leaks_and_nobody_elses_nodes_go(cloud: SimulatedCloud) -> None:
    """Whatever order calls, lost replies, crashes, deleted claims and other people's scaling come in."""
    Steps.cloud = cloud
    run_state_machine_as_test(Steps, settings=settings(max_examples=25, stateful_step_count=12, deadline=None))
