"""What the loop writes on pools for people to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.facts import HALF, NOW_S, cluster, demand, node, request
from tfscale import modes
from tfscale.conditions import Condition
from tfscale.errors import CloudUnreachableError, ForbiddenError, ModeError, NotFoundError, NotLeadingError
from tfscale.gpus import GpuTable
from tfscale.kube.configmaps import InConfigMaps
from tfscale.kube.port import GPU_POOLS, NODE_REQUESTS, NODES, PODS, Json, Kind, Kube, Listing
from tfscale.model import BoundPod, Machine
from tfscale.modes.base import ModeContext, ScalingMode
from tfscale.modes.static import StaticMode
from tfscale.plan import Plan, Unmet
from tfscale.reconcile import Reconciler, run
from tfscale.status import PoolStatus, pool_statuses
from tfscale.testing import FakeKube

READY = Condition(type="Ready", status="True", reason="ModeAnswers")
SUMS = {"tfscale.io/vram-mib": "46068", "tfscale.io/compute-mtflops": "242000"}
NODE = {
    "metadata": {
        "name": "rack-1",
        "labels": {"tfscale.io/pool": "floor", "nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"},
    },
    "status": {
        "capacity": {"nvidia.com/gpu": "2", **SUMS},
        "allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "2", **SUMS},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


THEIRS = {
    "type": "Approved",
    "status": "True",
    "reason": "Policy",
    "message": "m",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
"""A condition of a policy engine."""


class Silent(StaticMode):
    """Nobody answers."""

    def observe(self) -> Sequence[Machine]:
        """Raise ``CloudUnreachableError``."""
        raise CloudUnreachableError("DescribeInstances: no route")


class Closed(StaticMode):
    """It cannot be opened now."""

    times: int = 0

    @classmethod
    def open(cls, context: ModeContext) -> Closed:
        """Raise ``ModeError`` at the first time."""
        cls.times += 1
        if cls.times == 1:
            raise ModeError(f"no credentials for {context.pool.name} yet")
        return cls()


class Edited(StaticMode):
    """Somebody changes the pool while its mode is asked."""

    kube: Kube

    @classmethod
    def open(cls, context: ModeContext) -> Edited:
        """Remember where the pool is."""
        opened = cls()
        opened.kube = context.kube
        return opened

    def observe(self) -> Sequence[Machine]:
        """Change the spec once more."""
        before = self.kube.get(GPU_POOLS, "floor")["spec"].get("limits", {"nodes": 0})["nodes"]
        self.kube.patch(GPU_POOLS, "floor", {"spec": {"limits": {"nodes": before + 1}}})
        return super().observe()


class Busy(FakeKube):
    """Somebody else writes a condition right after a pool was read, for the first few times."""

    left = 0

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Return the object as it was before."""
        found = super().get(kind, name, namespace=namespace)
        if self.left:
            self.left -= 1
            listed = found.get("status", {}).get("conditions", [])
            self.patch_status(kind, name, {"status": {"conditions": [*listed, THEIRS | {"type": f"Approved{self.left}"}]}})
        return found


class Deposed(FakeKube):
    """Another process leads by now."""

    asked = 0

    def patch_status(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Raise ``NotLeadingError``."""
        self.asked += 1
        raise NotLeadingError(f"{kind.plural}/status {name} in {namespace}: not by us, not {[*patch]}")


class Sealed(FakeKube):
    """Nobody may write a status."""

    def patch_status(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Raise ``ForbiddenError``."""
        raise ForbiddenError(f"{kind.plural}/status {name} in {namespace}: no, not {[*patch]}")


def cluster_with(spec: Json, kube: Kube | None = None) -> Kube:
    """Return a cluster with one pool, its node and a pod that waits."""
    kube = kube or FakeKube(seed=0)
    kube.create(GPU_POOLS, {"metadata": {"name": "floor"}, "spec": spec})
    kube.create(NODES, NODE)
    return kube


def reconciler(kube: Kube, mode: type[ScalingMode] | None = None) -> Reconciler:
    """Return the loop, with this mode or those that are installed."""
    gpus = GpuTable()
    return Reconciler(
        kube=kube,
        mode_of=(lambda name, *, where, field: mode or modes.load(name, where=where, field=field)),
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="test"),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )


def create_pod(kube: Kube, name: str, vram: str) -> None:
    """Create a pod that asks for a part of a card."""
    annotations = {"tfscale.io/vram-request": vram, "tfscale.io/compute-percent-request": "50"}
    spec = {"schedulerName": "tfscale", "containers": [{"name": "main", "image": "example/main"}]}
    kube.create(PODS, {"metadata": {"name": name, "annotations": annotations}, "spec": spec}, namespace="default")


def ready(kube: Kube) -> Json:
    """Return the pool's only condition."""
    (condition,) = kube.get(GPU_POOLS, "floor")["status"]["conditions"]
    found: Json = condition
    return found


def test_the_counts_are_those_of_the_pool() -> None:
    """Of nodes, cards, orders and pods; what belongs to another pool is counted there."""
    daemon = BoundPod(id="kube-system/agent", uid="d", request=HALF, daemon=True)
    tenant = BoundPod(id="default/a", uid="a", request=HALF)
    seen = cluster(
        nodes=(node("n1", pods=(tenant, daemon)), node("n2"), node("n3", pool="other", pods=(tenant,))),
        requests=(request("n1"), request("n2"), request("n4"), request("n3", pool="other")),
        demands=(demand("b"), demand("c"), demand("d", pool="other")),
    )
    plan = Plan(waiting=("default/b", "default/d"), unmet=(Unmet(pool="inference", pod="default/c", reasons=("too large",)),))
    expected = {
        "inference": PoolStatus(nodes=2, gpus=2, bought=3, bound=1, waiting=1, unmet=1, ready=READY),
        "other": PoolStatus(nodes=1, gpus=1, bought=1, bound=1, waiting=1, unmet=0, ready=READY),
        "empty": PoolStatus(nodes=0, gpus=0, bought=0, bound=0, waiting=0, unmet=0, ready=READY),
    }

    assert expected == pool_statuses(seen, plan, dict.fromkeys(expected, READY))


@pytest.mark.parametrize("in_config_maps", [False, True], ids=["custom resources", "ConfigMaps"])
def test_a_pool_that_works_says_so_with_its_counts(*, in_config_maps: bool) -> None:
    """Also where records are ConfigMaps, of which nobody counts generations."""
    fake = FakeKube(seed=0)
    kube = cluster_with({"mode": "static"}, InConfigMaps(fake, namespace="mine") if in_config_maps else fake)
    create_pod(kube, "asr-0", "10Gi")
    create_pod(kube, "huge", "40Gi")
    loop = reconciler(kube)
    loop.tick(NOW_S)
    loop.tick(NOW_S + 1)
    status = kube.get(GPU_POOLS, "floor")["status"]

    assert {"bound": 1, "waiting": 0, "unmet": 1} == status["pods"]
    assert (1, 2, 0) == (status["nodes"], status["gpus"], status["bought"])
    assert ("True", "ModeAnswers", "2027-01-15T08:00:00Z") == tuple(
        ready(kube)[key] for key in ("status", "reason", "lastTransitionTime")
    )
    assert (None if in_config_maps else 1) == ready(kube).get("observedGeneration")


def test_nothing_is_written_where_nothing_changed() -> None:
    """The cluster stays at its version, also for a new process."""
    kube = cluster_with({"mode": "static"})
    loop = reconciler(kube)
    loop.tick(NOW_S)
    before = kube.list(GPU_POOLS).resource_version
    for later_s in (10, 20):
        loop.tick(NOW_S + later_s)
    reconciler(kube).tick(NOW_S + 30)

    assert before == kube.list(GPU_POOLS).resource_version


def test_a_dry_run_writes_no_status() -> None:
    """It only says what it would do."""
    kube = cluster_with({"mode": "static"})
    reconciler(kube).tick(NOW_S, dry_run=True)

    assert "status" not in kube.get(GPU_POOLS, "floor")


@pytest.mark.parametrize(
    ("spec", "reason", "message"),
    [
        ({"mode": "statik"}, "BadMode", "spec.mode is 'statik'; want static?"),
        ({"mode": "static", "options": {"a": 1}}, "BadOptions", "spec.options.a is '1'; want no options for mode static"),
        ({"mode": "static", "idleAftr": "5m"}, "BadSpec", "a key of spec is 'idleAftr'; want idleAfter?"),
        (
            {"mode": "managed-nodeclaim", "options": {"nodeClassRef": {"group": "g", "kind": "K"}}},
            "BadOptions",
            "spec.options.nodeClassRef.name is ''; want a value, which is required",
        ),
    ],
)
def test_a_pool_that_is_wrong_says_what_is_wrong(spec: Json, reason: str, message: str) -> None:
    """In the words of the report."""
    kube = cluster_with(spec)
    reconciler(kube).tick(NOW_S)

    assert ("False", reason) == (ready(kube)["status"], ready(kube)["reason"])
    assert ready(kube)["message"].startswith(message)


def test_a_pool_that_is_put_right_is_ready_from_then_on() -> None:
    """The time of the transition is that of the tick that saw it, the generation that of the spec."""
    kube = cluster_with({"mode": "statik"})
    loop = reconciler(kube)
    loop.tick(NOW_S)
    kube.patch(GPU_POOLS, "floor", {"spec": {"mode": "static"}})
    loop.tick(NOW_S + 60)

    assert ("True", "2027-01-15T08:01:00Z", 2) == tuple(
        ready(kube)[key] for key in ("status", "lastTransitionTime", "observedGeneration")
    )


def test_a_cloud_that_does_not_answer_is_on_the_pool() -> None:
    """With what it said."""
    kube = cluster_with({"mode": "silent"})
    report = reconciler(kube, Silent).tick(NOW_S)

    assert ("floor",) == report.unreachable
    assert ("CloudUnreachable", "DescribeInstances: no route") == (ready(kube)["reason"], ready(kube)["message"])


def test_a_mode_that_could_not_be_opened_is_opened_again() -> None:
    """The pool says why until then."""
    kube = cluster_with({"mode": "closed"})
    loop = reconciler(kube, Closed)
    loop.tick(NOW_S)
    closed = ready(kube)
    loop.tick(NOW_S + 10)

    assert ("ModeFailed", "no credentials for floor yet") == (closed["reason"], closed["message"])
    assert "True" == ready(kube)["status"]


def test_a_pool_with_a_record_that_cannot_be_read_is_not_ready() -> None:
    """It is left alone, and the report names the record."""
    kube = cluster_with({"mode": "static"})
    kube.create(NODE_REQUESTS, {"metadata": {"name": "r"}, "spec": {"pool": "floor"}})
    report = reconciler(kube).tick(NOW_S)

    assert "noderequest r: spec.mode is ''; want text that is not empty" in map(str, report.problems)
    assert "BadRecord" == ready(kube)["reason"]


def test_conditions_of_others_stay() -> None:
    """A policy engine may say something about a pool, too."""
    kube = cluster_with({"mode": "static"})
    kube.patch_status(GPU_POOLS, "floor", {"status": {"conditions": [THEIRS]}})
    reconciler(kube).tick(NOW_S)

    assert [THEIRS, "Ready"] == [
        one if one["type"] == "Approved" else one["type"] for one in kube.get(GPU_POOLS, "floor")["status"]["conditions"]
    ]


def test_conditions_that_others_write_at_the_same_time_stay_too() -> None:
    """Whoever was overtaken writes at the next tick, on what is there then."""
    kube = Busy(seed=0)
    loop = reconciler(cluster_with({"mode": "static"}, kube))
    kube.left = 2
    for later_s in (0, 10, 20):
        loop.tick(NOW_S + later_s)

    assert ["Approved1", "Approved0", "Ready"] == [one["type"] for one in kube.get(GPU_POOLS, "floor")["status"]["conditions"]]


def test_what_is_said_is_said_of_the_spec_that_was_looked_at() -> None:
    """`kubectl wait` goes by the generation: a spec that is newer must not look as if its mode had answered."""
    kube = cluster_with({"mode": "edited"})
    loop = reconciler(kube, Edited)
    loop.tick(NOW_S)

    assert (2, 1) == (kube.get(GPU_POOLS, "floor")["metadata"]["generation"], ready(kube)["observedGeneration"])


def test_who_is_deposed_says_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    """Of no pool; the new leader writes what it sees."""
    caplog.set_level("INFO")
    kube = Deposed(seed=0)
    cluster_with({"mode": "static"}, kube)
    kube.create(GPU_POOLS, {"metadata": {"name": "other"}, "spec": {"mode": "static"}})
    reconciler(kube).tick(NOW_S)

    assert (1, []) == (kube.asked, caplog.messages)


def test_a_status_that_people_broke_is_written_anew() -> None:
    """It decides nothing, so it stops nothing; ConfigMaps are checked by nobody."""
    fake = FakeKube(seed=0)
    kube = cluster_with({"mode": "static"}, InConfigMaps(fake, namespace="mine"))
    kube.patch_status(GPU_POOLS, "floor", {"status": "all is well"})
    reconciler(kube).tick(NOW_S)

    assert "True" == ready(kube)["status"]


def test_a_status_that_cannot_be_written_stops_nothing() -> None:
    """Pods are placed all the same."""
    kube = cluster_with({"mode": "static"}, Sealed(seed=0))
    create_pod(kube, "asr-0", "10Gi")
    reconciler(kube).tick(NOW_S)

    assert "rack-1" == kube.get(PODS, "asr-0", namespace="default")["spec"]["nodeName"]


class Bare(FakeKube):
    """A cluster without our definitions."""

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """Raise ``NotFoundError`` for what is ours."""
        if kind.group == "tfscale.io":
            raise NotFoundError(f"the cluster does not serve {kind.plural}: is its definition installed?")
        return super().list(kind, namespace=namespace, label_selector=label_selector, field_selector=field_selector)


class Patient:
    """A clock that stops the loop after some rounds."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds

    def now_s(self) -> int:
        """Return always the same time."""
        return NOW_S

    def steady_s(self) -> float:
        """Return the same: nobody touches it."""
        return float(NOW_S)

    def pending(self) -> bool:
        """Return that nothing will happen."""
        return False

    def wait(self, until_s: int | None) -> None:
        """Count the round."""
        assert until_s is None
        self.left -= 1


def test_a_cluster_without_our_definitions_is_told_once_what_it_needs(caplog: pytest.LogCaptureFixture) -> None:
    """The loop goes on asking, in silence, until somebody installs them."""
    clock = Patient(rounds=3)
    run(reconciler(Bare()), clock, until_idle=False, on_report=lambda _: None, stopped=lambda: clock.left == 0)

    (line,) = caplog.messages
    assert line.endswith("installed? If not: tfscale manifests crds | kubectl apply --server-side -f -")
