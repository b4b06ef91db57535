"""Claims that Karpenter does not launch: what is known of the reason, while they are there and when they are gone."""

from __future__ import annotations

from itertools import count

import pytest

from tests.modes.nodeclaims import CATALOGUE, EC2_CLASS, NOW_S, A, B, FailingKube, batch_of, cluster, condition, launched, managed
from tfscale.errors import ForbiddenError, ModeError
from tfscale.gpus import GpuTable
from tfscale.kube.convert import pool_object
from tfscale.kube.port import EVENTS, GPU_POOLS, NODE_CLAIMS, NODE_CLASSES, PODS, Kube
from tfscale.model import Trouble
from tfscale.modes.base import ModeContext
from tfscale.modes.managed_nodeclaim import ManagedNodeClaimMode
from tfscale.pool import OfferFilter, Pool
from tfscale.reconcile import Reconciler
from tfscale.testing import FakeKube


@pytest.mark.parametrize("reason", ["LaunchFailed", "Unauthorized", "AwaitingReconciliation"])
def test_a_claim_says_why_it_has_no_machine(reason: str) -> None:
    """Until Karpenter has tried, nothing is wrong."""
    kube = cluster()
    mode = managed(kube)
    mode.launch(batch_of(mode, mode.offers()))
    (fresh,) = mode.observe()
    failing = condition("Launched", "Unknown") | {"reason": reason, "message": "it cannot"}
    kube.patch_status(NODE_CLAIMS, "batch-0", {"status": {"conditions": [failing]}})
    (stuck,) = mode.observe()
    launched(kube, "batch-0")
    (running,) = mode.observe()
    trouble = None if reason == "AwaitingReconciliation" else Trouble(reason=reason, message="it cannot")

    assert (False, trouble) == (stuck.started, stuck.trouble)
    assert (True, None) == (running.started, running.trouble)
    assert [False, True, True] == [one.noticed for one in (fresh, stuck, running)]


def gave_up(kube: Kube, name: str, message: str) -> None:
    """Say what Karpenter says of a claim that it gives up."""
    about = {"kind": "NodeClaim", "name": name}
    event = {"metadata": {"generateName": "e."}, "involvedObject": about, "reason": "InsufficientCapacityError"}
    kube.create(EVENTS, {**event, "message": f"NodeClaim {name} event: {message}"}, namespace="default")


def test_why_claims_are_gone_is_what_karpenters_events_say() -> None:
    """Those of other claims are not asked for, and of some nothing is known."""
    kube = cluster()
    gave_up(kube, "a", "no g6.xlarge")
    gave_up(kube, "other", "no g5.xlarge")

    assert {"a": Trouble(reason="InsufficientCapacityError", message="no g6.xlarge")} == managed(kube).explain(["a", "b"])


def test_the_last_word_about_a_name_counts() -> None:
    """Names are used again, and events live for an hour."""
    kube = FakeKube(now=count(NOW_S).__next__)
    kube.create(NODE_CLASSES[0], {"metadata": {"name": "gpu"}})
    for message in ("no g6.xlarge", "no g5.xlarge"):
        gave_up(kube, "a", message)

    assert "no g5.xlarge" == managed(kube).explain(["a"])["a"].message


def test_a_class_that_is_not_ready_explains_what_karpenter_does_not() -> None:
    """It gives such claims up without an event."""
    kube = cluster()
    ready = condition("Ready", "False") | {"message": "no image"}
    kube.patch_status(NODE_CLASSES[0], "gpu", {"status": {"conditions": [ready]}})
    why = Trouble(reason="NodeClassNotReady", message="EC2NodeClass gpu is not Ready: no image")

    assert {"a": why} == managed(kube).explain(["a"])


def test_events_that_may_not_be_read_are_an_error_of_the_mode() -> None:
    """The loop tells it, and goes on with what it knows."""
    kube = cluster()
    kube.list_errors["events"] = ForbiddenError("events is forbidden")

    with pytest.raises(ModeError, match="explain: events is forbidden"):
        managed(kube).explain(["a"])


def loop_of(kube: FailingKube) -> Reconciler:
    """Return the loop for one pool of two capacity types, and a pod that waits."""
    wanted = OfferFilter(instance_types=("g4dn.xlarge",), zones=(A, B), capacity_types=("spot", "on-demand"))
    options = {"nodeClassRef": EC2_CLASS}
    kube.create(GPU_POOLS, pool_object(Pool(name="gpus", mode="managed-nodeclaim", wanted=wanted, options=options, default=True)))
    share = {"tfscale.io/vram-request": "8Gi", "tfscale.io/compute-percent-request": "40"}
    spec = {"schedulerName": "tfscale", "containers": [{"name": "main"}]}
    kube.create(PODS, {"metadata": {"name": "pod", "annotations": share}, "spec": spec}, namespace="default")
    gpus = GpuTable()

    def context(pool: Pool) -> ModeContext:
        return ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="test", catalogue=CATALOGUE)

    return Reconciler(kube=kube, mode_of=lambda *_, **__: ManagedNodeClaimMode, open_with=context, gpus=gpus, prefix="tfscale.io")


def aside(kube: FakeKube) -> dict[str, str]:
    """Return what the pool sets aside, and why."""
    return {one["offer"]: one["reason"] for one in kube.get(GPU_POOLS, "gpus")["status"]["setAside"]}


def lose_the_claim(kube: FakeKube, message: str) -> str:
    """Let Karpenter give the only claim up, and return its name."""
    (claim,) = kube.list(NODE_CLAIMS).items
    name = str(claim["metadata"]["name"])
    gave_up(kube, name, message)
    kube.delete(NODE_CLAIMS, name)
    return name


def test_the_loop_asks_why_a_claim_is_gone_and_buys_what_is_not_blamed() -> None:
    """The zone that Karpenter names is left out, and the next claim is of the other one."""
    kube = cluster()
    loop = loop_of(kube)
    loop.tick(NOW_S)
    name = lose_the_claim(kube, f"no spot capacity in {A}")
    loop.tick(NOW_S + 1)
    (claim,) = kube.list(NODE_CLAIMS).items

    why = f"machine {name} went before its node joined: InsufficientCapacityError: no spot capacity in {A}"
    assert {f"g4dn.xlarge/{A}/spot": why} == aside(kube)
    assert {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [B]} in claim["spec"]["requirements"]


def test_where_events_may_not_be_read_all_that_was_asked_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """That is told once, and the pool goes on with its other capacity type."""
    kube = cluster()
    kube.list_errors["events"] = ForbiddenError("events is forbidden")
    loop = loop_of(kube)
    loop.tick(NOW_S)
    lose_the_claim(kube, "none")
    loop.tick(NOW_S + 1)
    (claim,) = kube.list(NODE_CLAIMS).items

    assert {f"g4dn.xlarge/{zone}/spot" for zone in (A, B)} == {*aside(kube)}
    assert {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]} in claim["spec"]["requirements"]
    assert ["pool gpus: explain: events is forbidden"] == [record.getMessage() for record in caplog.records]
