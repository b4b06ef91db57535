"""A broken plug-in costs its own pool something and the others nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.modes.shelf import OFFERS, Shelf, ShelfKube, ShelfMode
from tfscale.errors import BadInputError, ConflictError, LaunchRefusedError, ModeError, Problem, TfscaleError
from tfscale.gpus import GpuTable
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODES, PODS
from tfscale.model import LaunchBatch, Machine, Offer, Trouble
from tfscale.modes.base import LaunchResult, ModeContext, Order, ScalingMode
from tfscale.modes.guarded import guarded
from tfscale.modes.static import StaticMode
from tfscale.reconcile import Reconciler, Report

NOW_S = 1_800_000_000
MOMENTS = (0, 10, 10_000)
"""Seconds after the start: the launch, the end of the protection, and a node that did not come."""
METHODS = ("open", "check", "offers", "observe", "prepare", "launch", "release", "terminate")
ANSWERING = METHODS[1:6]
NODE = {
    "metadata": {
        "name": "rack-1",
        "labels": {"tfscale.io/pool": "floor", "nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"},
    },
    "status": {
        "capacity": {"nvidia.com/gpu": "1"},
        "allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "1"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


class Protecting(ShelfMode):
    """A shelf whose machines are protected, so that each method has its turn."""

    def put(self, machine: Machine) -> None:
        """Protect the machine for five seconds."""
        super().put(replace(machine, protected_until_s=NOW_S + 5))


class UnprintableError(Exception):
    """An error that cannot even be told."""

    def __str__(self) -> str:
        raise ValueError("no words")


def faulty(**methods: Callable[..., object]) -> type[ScalingMode]:
    """Return a mode some of whose methods are replaced."""
    return cast("type[ScalingMode]", type("Faulty", (Protecting,), methods))


def raising(error: BaseException) -> Callable[..., object]:
    """Return a method that does nothing but fail."""

    def method(*_: object, **__: object) -> object:
        raise error

    return method


def answering(answer: object) -> Callable[..., object]:
    """Return a method that always gives one answer."""

    def method(*_: object, **__: object) -> object:
        return answer

    return method


class World:
    """A cluster with two pools: ``floor`` has a node, ``lab`` has the mode under test. Both have a pod that waits."""

    def __init__(self, mode: type[ScalingMode]) -> None:
        self.shelf = Shelf()
        self.kube = ShelfKube(self.shelf)
        self.mode = mode
        for name, kind in (("floor", "static"), ("lab", "lab")):
            self.kube.create(GPU_POOLS, {"metadata": {"name": name}, "spec": {"mode": kind}})
        self.kube.create(NODES, NODE)
        self.add_pod("lab")
        self.restart()

    def restart(self) -> None:
        """Begin a new process."""
        gpus = GpuTable()
        self.reconciler = Reconciler(
            kube=self.kube,
            mode_of=self._find,
            open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=self.kube, cluster="test"),
            gpus=gpus,
            prefix="tensor-fusion.ai",
        )

    def add_pod(self, pool: str) -> None:
        """Let one more pod ask for a little of a card."""
        annotations = {"tfscale.io/vram-request": "1Gi", "tfscale.io/compute-percent-request": "10", "tfscale.io/gpupool": pool}
        spec = {"schedulerName": "tfscale", "containers": [{"name": "main", "image": "example/main"}]}
        meta = {"generateName": f"{pool}-", "namespace": "default", "annotations": annotations}
        self.kube.create(PODS, {"metadata": meta, "spec": spec})

    def tick(self, after_s: int) -> Report:
        """Let a pod arrive in the good pool and look."""
        self.add_pod("floor")
        return self.reconciler.tick(NOW_S + after_s)

    def live(self) -> list[Report]:
        """Look at every moment."""
        return [self.tick(after_s) for after_s in MOMENTS]

    def waiting(self) -> list[str]:
        """Return the pods of the good pool that have no node."""
        pods = self.kube.list(PODS).items
        return [
            pod["metadata"]["name"]
            for pod in pods
            if pod["metadata"]["name"].startswith("floor") and not pod["spec"].get("nodeName")
        ]

    def _find(self, name: str, *, where: str, field: str) -> type[ScalingMode]:
        assert (f"gpupool {'lab' if name == 'lab' else 'floor'}", "spec.mode") == (where, field)
        return self.mode if name == "lab" else StaticMode


def breaking() -> Iterator[object]:
    """Fail in the middle of an answer."""
    yield OFFERS[0]
    raise ZeroDivisionError


ERRORS = st.sampled_from(
    [
        AssertionError(),
        ExceptionGroup("many", [ValueError("c")]),
        KeyError("b"),
        NotImplementedError(),
        OSError(5, "io"),
        RecursionError(),
        StopIteration(),
        SyntaxError("two\nlines"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "y"),
        UnprintableError(),
    ]
)
ANSWERS = st.sampled_from(
    [None, 7, "text", object(), [None], [7], ["text"], {"a": 1}, [object()], {1}, [OFFERS[0].id], Exception]
)
FAULTS = st.one_of(
    st.tuples(st.sampled_from(METHODS), ERRORS.map(raising)),
    st.tuples(st.sampled_from(ANSWERING), ANSWERS.map(answering)),
    st.tuples(st.sampled_from(ANSWERING), st.just(lambda *_, **__: breaking())),
)


@given(FAULTS)
def test_any_fault_is_reported_and_the_other_pool_is_served(fault: tuple[str, Callable[..., object]]) -> None:
    """Whatever a method does: each pod of the other pool is placed at once, and the report names pool, mode and method."""
    method, does = fault
    world = World(faulty(**{method: does}))
    told: list[Problem] = []
    for after_s in MOMENTS:
        report = world.tick(after_s)
        told += report.problems

        assert not world.waiting()
    assert {"gpupool lab"} == {problem.where for problem in told}
    assert any(f"its method {method} does not: " in problem.want and "\n" not in str(problem) for problem in told)


@given(
    st.sampled_from(METHODS), st.sampled_from([ConflictError("somebody else"), ModeError("no answer"), LaunchRefusedError("no")])
)
def test_an_error_that_is_none_of_the_authors_faults_is_no_problem_of_the_mode(method: str, error: TfscaleError) -> None:
    """The cluster or the cloud said no: that passes, and the others go on."""
    world = World(faulty(**{method: raising(error)}))
    reports = world.live()

    assert not world.waiting()
    assert not [problem for report in reports for problem in report.problems if "promises" in problem.want]


def test_a_healthy_mode_has_its_turn_at_everything() -> None:
    """The stage for the faults: a machine is launched, released and returned without a problem."""
    world = World(faulty())
    reports = world.live()
    done = [type(outcome.action).__name__ for report in reports for outcome in report.outcomes if outcome.action.pool == "lab"]

    assert not [problem for report in reports for problem in report.problems]
    assert {"Launch", "Release", "Terminate"} <= set(done)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), MemoryError()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", METHODS)
def test_what_ends_a_process_passes(method: str, error: BaseException) -> None:
    """Nobody who stops the process is told that a plug-in is broken."""
    world = World(faulty(**{method: raising(error)}))

    with pytest.raises(type(error)):
        world.live()


OTHER = Machine(id="m-1", batch="b", pool="floor", offer="", provider_id="")
OURS = replace(OTHER, pool="lab")


def ordering(**changes: object) -> Callable[..., Order]:
    """Return a ``prepare`` that gives a good order with some changes."""

    def prepare(_: object, name: str, __: object, offers: Sequence[Offer], *, now_s: int) -> Order:
        good = Order(parameters={"token": f"{name}-{now_s}"}, offers=tuple(offer.id for offer in offers))
        return cast("Order", replace(cast("Any", good), **changes))

    return prepare


def launching(change: Callable[[LaunchResult], object]) -> Callable[..., object]:
    """Return a ``launch`` that launches and then answers otherwise."""

    def launch(self: ShelfMode, batch: LaunchBatch) -> object:
        return [change(result) for result in ShelfMode.launch(self, batch)]

    return launch


def with_machine(**changes: object) -> Callable[[LaunchResult], LaunchResult]:
    """Return a change of the machine in a result."""
    return lambda result: replace(result, machine=replace(cast("Any", result.machine), **changes))


@pytest.mark.parametrize(
    ("method", "does", "words"),
    [
        ("offers", answering([OFFERS[0], OFFERS[0]]), "the offer 'one/left/on-demand' more than once"),
        ("offers", answering([replace(OFFERS[0], price_micro_usd=0)]), "the price of offer one/left/on-demand, which is zero"),
        ("offers", answering([replace(OFFERS[0], price_micro_usd=-1)]), "the amounts of offer one/left/on-demand"),
        ("offers", answering([replace(OFFERS[0], gpu_count=10**9)]), "the amounts of offer one/left/on-demand"),
        ("offers", answering([replace(cast("Any", OFFERS[0]), vram_mib=1.5)]), "a wrong type at 0.vram_mib"),
        ("observe", answering([OURS, OURS]), "the machine 'm-1' more than once"),
        ("observe", answering([OTHER]), "the pool 'floor', which was not asked for"),
        ("observe", answering([replace(OURS, id="")]), "a machine without id"),
        ("observe", answering([replace(cast("Any", OURS), launched_s="now")]), "a wrong type at 0.launched_s"),
        ("observe", answering([replace(OURS, trouble=Trouble(reason="no luck", message=""))]), "no word in CamelCase: 'no luck'"),
        ("prepare", ordering(parameters={"token": {1}}), "TypeError: Object of type set is not JSON serializable"),
        ("prepare", ordering(parameters={"token": float("nan")}), "ValueError: Out of range float values"),
        ("prepare", ordering(parameters={"token": (1,)}), "the parameters, which are not plain JSON"),
        ("prepare", ordering(parameters={1: "token"}), "a wrong type"),
        ("prepare", ordering(offers=()), "an order without offers"),
        ("prepare", ordering(offers=("x/y/z",)), "the offer 'x/y/z', which was not asked for"),
        ("prepare", ordering(offers=(OFFERS[0].id, OFFERS[0].id)), "the offer 'one/left/on-demand' more than once"),
        ("launch", answering([]), "results that are not one for each request"),
        ("launch", launching(lambda result: replace(result, request="other")), "results that are not one for each request"),
        ("launch", launching(with_machine(batch="other")), "the batch 'other', which was not asked for"),
        ("launch", launching(with_machine(pool="floor")), "the pool 'floor', which was not asked for"),
        ("launch", launching(with_machine(id=None)), "a wrong type at 0.machine.id"),
        ("check", answering(["it is wrong"]), "a wrong type at 0"),
    ],
)  # fmt: skip
def test_an_answer_that_nobody_can_use_is_named(method: str, does: Callable[..., object], words: str) -> None:
    """Of the right kind, perhaps, but not what the loop asked for: the line says what is wrong with it."""
    world = World(faulty(**{method: does}))
    report = world.tick(0)

    (problem,) = [problem for problem in report.problems if problem.where == "gpupool lab"]
    assert f"its method {method} does not: " in problem.want
    assert words in problem.want
    assert not world.waiting()


@pytest.mark.parametrize("attribute", ["reclaims_idle", "in_cluster"])
@pytest.mark.parametrize("value", [None, "no", 1])
def test_a_mode_that_does_not_say_who_removes_idle_nodes_is_not_opened(attribute: str, value: object) -> None:
    """The loop would guess, and give back what is not its own."""
    mode = cast("type[ScalingMode]", type("Faulty", (ShelfMode,), {attribute: value}))
    (problem,) = World(mode).tick(0).problems

    assert "its method open does not: it answers with a wrong type" in problem.want


def test_a_class_that_lacks_everything_is_not_opened() -> None:
    """Nothing but a name in an entry point."""
    (problem,) = World(cast("type[ScalingMode]", type("Empty", (), {}))).tick(0).problems

    assert "AttributeError" in problem.want


def test_a_launch_whose_answer_is_wrong_is_made_good() -> None:
    """Its outcome is unknown, so that its record stays, and the machine is found when the mode answers again."""
    world = World(faulty(launch=launching(with_machine(id=None))))
    world.tick(0)
    recorded = [batch["metadata"]["name"] for batch in world.kube.list(LAUNCH_BATCHES).items]
    world.mode = Protecting
    world.restart()
    report = world.tick(1)

    assert [batch.name for batch in report.cluster.batches] == recorded
    assert len(world.shelf.machines) == 1
    assert not report.problems


def test_options_of_a_pool_are_still_blamed_on_the_pool() -> None:
    """A refusal of the mode's own keeps its words, wherever it is found out."""
    problem = Problem(where="gpupool lab", field="spec.options.size", value="big", want="a number")

    for method in ("open", "check"):
        (told,) = World(faulty(**{method: raising(BadInputError(problem))})).tick(0).problems
        assert problem == told


def test_a_guarded_mode_looks_like_the_mode() -> None:
    """Its name and what it says of its nodes are the mode's own."""
    mode = guarded(ShelfMode)

    assert (mode.name, mode.reclaims_idle, mode.in_cluster) == (ShelfMode.name, ShelfMode.reclaims_idle, ShelfMode.in_cluster)
