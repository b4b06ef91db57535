"""Nodes that have to go: who asks for it, which pods leave when, and what is bought for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import BATCH, HALF, NOW_S, POOL, T4, cluster, demand, kinds, machine, node, only, plan_for, request
from tfscale.disruption import deadline_s, heard, is_voluntary, joined, patience_s
from tfscale.errors import ClusterError, NotFoundError
from tfscale.kube.evictions import evict
from tfscale.kube.port import DISRUPTION_BUDGETS, NODES, PODS, Json
from tfscale.kube.taints import take_out_of_service
from tfscale.lifecycle import Event, State
from tfscale.model import DISRUPTED, BoundPod, Cluster, Disruption, GpuSlice, Guest, NodeRequest, Notice
from tfscale.plan import Assign, Drain, Forget, Launch, MarkIdle, Nominate, Terminate
from tfscale.pool import Limits
from tfscale.selectors import Taint
from tfscale.testing import FakeKube

SPOT = Notice(id="n", machine_id="i-a", event="SpotInterruption", ends_s=NOW_S + 120, why="it is wanted")
REBALANCE = replace(SPOT, event="Rebalance", ends_s=None)
PART = GpuSlice(gpu_id="0", vram_mib=8_192, compute_milli=500)
P = BoundPod(id="default/p", uid="uid-p", request=HALF, slices=(PART,))
DRAIN = Disruption(since_s=NOW_S, event="Rebalance", why="it is wanted")
MACHINE_GOES = {"nodes": (node("a", pods=(P,)),), "batches": (BATCH,), "machines": (machine("a"),)}


def guest(name: str = "p", **changes: Any) -> Guest:  # noqa: ANN401 - any field of a guest
    """Return a pod of ours on a node that is to go."""
    return replace(Guest(id=f"default/{name}", uid=f"uid-{name}", demand=demand(name)), **changes)


def going(*guests: Guest, **changes: Any) -> Cluster:  # noqa: ANN401 - any field of a cluster
    """Return a cluster in which node a is ready, with one pod, and a notice was given of its machine."""
    parts = {"requests": (request("a"),), "guests": {"a": guests or (guest(),)}, "notices": (SPOT,), **MACHINE_GOES, **changes}
    return cluster(**parts)


def draining(drain: Disruption = DRAIN, **changes: Any) -> NodeRequest:  # noqa: ANN401 - any field of a request
    """Return the record of node a while it is emptied."""
    return request("a", state=State.DRAINING, drain=drain, **changes)


# --- who asks ---


def test_a_notice_is_answered_with_a_purchase_and_then_with_evictions() -> None:
    """Time is short: the replacement is ordered first, in the same round, and is kept for the pod."""
    plan = plan_for(going(), T4)
    drain = only(plan, Drain)

    assert [Launch, Drain] == kinds(plan)
    assert ("uid-p",) == only(plan, Launch).requests[0].nominated
    assert (State.DRAINING, ["default/p"]) == (drain.request.state, [pod.id for pod in drain.pods])
    assert Disruption(since_s=NOW_S, ends_s=NOW_S + 120, event="SpotInterruption", why="it is wanted") == drain.request.drain
    assert ((), ()) == (plan.unmet, plan.waiting)


def test_a_machine_without_pods_goes_at_once() -> None:
    """There is nothing to empty."""
    plan = plan_for(going(nodes=(node("a"),), guests={}), T4)

    assert (Event.IDLE, "SpotInterruption: it is wanted") == (only(plan, Terminate).event, only(plan, Terminate).why)
    assert [Terminate] == kinds(plan)


@pytest.mark.parametrize("state", [State.LAUNCHED, State.REGISTERED])
def test_a_machine_on_its_way_goes_at_once_and_is_replaced(state: State) -> None:
    """What was to run there is bought for again, of another offer where the cloud wants this one back."""
    coming = request("a", state=state, node="", nominated=("uid-q",))
    other = replace(T4, zone="us-east-1b")
    scarce = going(
        nodes=(), guests={}, requests=(coming,), demands=(demand("q"),), notices=(replace(SPOT, scarce=True),)
    )  # fmt: skip
    plan = plan_for(scarce, T4, other)

    assert (T4.id,) == only(plan, Terminate).disappointing
    assert [other.id] == [offer.id for offer in only(plan, Launch).offers]


def test_pods_on_a_machine_whose_record_was_lost_are_not_dropped() -> None:
    """A recovered record begins as Launched although pods run there."""
    plan = plan_for(going(requests=(request("a", state=State.LAUNCHED),)), T4)

    assert State.DRAINING is only(plan, Drain).request.state


def test_our_taint_asks_for_the_same() -> None:
    """It outlives a record that was deleted by hand, and people can put it on a node, too."""
    tainted = node("a", pods=(P,), taints=(Taint(key=DISRUPTED),))
    plan = plan_for(going(nodes=(tainted,), notices=()), T4)

    assert "Tainted" == only(plan, Drain).request.drain.event
    assert () == only(plan, Drain).pods


def test_a_pool_that_is_deleted_is_emptied_at_once() -> None:
    """It buys nothing, so that no pod waits for its next place."""
    deleted = replace(POOL, deleting=True)
    plan = plan_for(going(pools=(deleted,), notices=()), T4)

    assert "PoolDeleted: pool inference is being deleted" == only(plan, Drain).why
    assert ["default/p"] == [pod.id for pod in only(plan, Drain).pods]
    assert Launch not in kinds(plan)


# --- who leaves when ---


@pytest.mark.parametrize(
    ("one", "leaves"),
    [
        (guest(), True),
        (guest(leaving=True), False),
        (guest(held=True), False),
        (guest(stays=True, demand=None), False),
        (guest(demand=None), True),
    ],
    ids=["ours", "asked already", "do-not-disrupt", "would come back", "placed by others"],
)
def test_only_pods_that_can_go_are_asked(one: Guest, leaves: bool) -> None:  # noqa: FBT001 - a table
    """Each kind of pod, two minutes before the end."""
    pods = only(plan_for(going(one), T4), Drain).pods

    assert leaves == (one in pods)


def test_without_an_end_a_pod_waits_for_its_next_place() -> None:
    """Bought for once, asked when the node is there, and for a quarter of an hour at most."""
    observed = going(notices=(REBALANCE,))
    first = plan_for(observed, T4)
    coming = replace(
        only(first, Launch).requests[0], state=State.LAUNCHED, machine_id="i-b", offer=T4.id, batch="c", launched_s=NOW_S + 60
    )
    on_its_way = replace(
        observed,
        requests=(draining(), coming),
        batches=(BATCH, replace(BATCH, name="c", requests=(coming.name,))),
        machines={"inference": (machine("a"), machine("b", batch="c"))},
    )
    ready = replace(coming, state=State.READY, node="b")
    there = replace(on_its_way, nodes=(*observed.nodes, node("b")), requests=(draining(), ready))

    assert () == only(first, Drain).pods
    assert () == plan_for(on_its_way, T4).actions
    assert ["uid-p"] == [pod.uid for pod in only(plan_for(there, T4), Drain).pods]
    assert ["uid-p"] == [pod.uid for pod in only(plan_for(replace(on_its_way, now_s=NOW_S + 900), T4), Drain).pods]


def test_the_place_of_a_displaced_pod_is_not_given_away() -> None:
    """A pod that came later does not take the node that was bought for one that still runs elsewhere."""
    bought = request("b", nominated=("uid-p",))
    whole = demand("q", replace(HALF, vram_mib=16_384))
    observed = going(
        requests=(draining(), bought), notices=(), nodes=(node("a", pods=(P,)), node("b")), machines=(machine("a"), machine("b")),
        demands=(whole,), guests={"a": (guest(),)},
    )  # fmt: skip
    plan = plan_for(replace(observed, machines={"inference": (machine("a"), machine("b"))}), T4)

    assert Assign not in kinds(plan)
    assert ("uid-q",) == only(plan, Launch).requests[0].nominated


def test_a_node_that_waits_for_a_displaced_pod_is_not_idle() -> None:
    """Also while that pod takes its time to leave."""
    bought = request("b", nominated=("uid-p",))
    observed = going(
        guest(leaving=True), requests=(draining(), bought), notices=(), nodes=(node("a", pods=(P,)), node("b")),
        machines=(machine("a"), machine("b")),
    )  # fmt: skip

    assert MarkIdle not in kinds(plan_for(observed, T4))


def test_a_pod_that_leaves_and_the_one_that_follows_it_count_once() -> None:
    """The node on its way has room for one: nothing more is bought, and it is kept for the one that waits."""
    whole = replace(HALF, vram_mib=16_384)
    coming = request("b", state=State.LAUNCHED, node="", nominated=("uid-p",))
    observed = going(
        guest(leaving=True, demand=demand("p", whole)), requests=(draining(), coming), notices=(), demands=(demand("p2", whole),),
        machines=(machine("a"), machine("b")),
    )  # fmt: skip
    plan = plan_for(observed, T4)

    assert [Nominate] == kinds(plan)
    assert ("uid-p2",) == only(plan, Nominate).uids


def test_a_limit_holds_for_replacements_too() -> None:
    """The old node still counts; its pods are asked to leave all the same, for they lose it anyway."""
    plan = plan_for(going(pools=(replace(POOL, limits=Limits(nodes=1)),)), T4)

    assert [Drain] == kinds(plan)
    assert ((), ()) == (plan.unmet, plan.waiting)


# --- until when ---


@pytest.mark.parametrize(
    ("drain", "late_s"),
    [(replace(DRAIN, ends_s=NOW_S + 120), 120), (DRAIN, POOL.drain_within_s)],
    ids=["the cloud's end", "the pool's"],
)
def test_a_machine_is_given_back_when_its_time_is_over(drain: Disruption, late_s: int) -> None:
    """Whatever its pods' budgets and annotations say; the reason names who is left."""
    observed = going(guest(held=True), requests=(draining(drain),), notices=())

    assert Terminate not in kinds(plan_for(replace(observed, now_s=NOW_S + late_s - 1), T4))
    plan = plan_for(replace(observed, now_s=NOW_S + late_s), T4)
    assert "its time is over, and default/p did not leave" == only(plan, Terminate).why


def test_a_clock_that_is_put_forward_takes_no_time_away() -> None:
    """A drain without an end of its own is not late before the cluster was seen for a while."""
    observed = going(guest(held=True), requests=(draining(),), notices=(), now_s=NOW_S + 9_000, seen_since_s=NOW_S + 9_000)

    assert Terminate not in kinds(plan_for(observed, T4))


def test_an_empty_node_is_given_back() -> None:
    """Pods of the node itself and those that would come back do not keep it."""
    daemon = BoundPod(id="kube-system/d", uid="d", request=HALF, daemon=True)
    observed = going(
        guest(stays=True, demand=None), requests=(draining(),), notices=(), nodes=(node("a", pods=(P, daemon)),)
    )  # fmt: skip

    assert (Event.DRAINED, "no pod is left on it") == (
        only(plan_for(observed, T4), Terminate).event,
        only(plan_for(observed, T4), Terminate).why,
    )


@pytest.mark.parametrize("gone", [True, False], ids=["node", "machine"])
def test_a_node_or_machine_that_goes_by_itself_ends_the_drain(gone: bool) -> None:  # noqa: FBT001 - a table
    """Without a node there is nothing to wait for, without a machine nothing to give back."""
    ended = replace(DRAIN, ends_s=NOW_S)
    if gone:
        plan = plan_for(going(requests=(draining(),), nodes=(), guests={}, notices=()), T4)
        assert "node a was deleted" == only(plan, Terminate).why
    else:
        plan = plan_for(going(requests=(draining(ended),), machines=(), notices=(), demands=()), T4)
        assert "machine i-a is gone" == only(plan, Forget).why


DISRUPTIONS = st.builds(
    Disruption,
    since_s=st.integers(0, 50),
    ends_s=st.none() | st.integers(0, 9_999),
    event=st.sampled_from(["Rebalance", "SpotInterruption"]),
    why=st.just(""),
) | st.builds(Disruption, since_s=st.integers(0, 50), event=st.just("Drifted"), why=st.just(""))


@given(DISRUPTIONS | st.none(), st.lists(DISRUPTIONS, max_size=4))
def test_reasons_join_to_the_most_urgent(before: Disruption | None, reasons: list[Disruption]) -> None:
    """Whatever their order; joined again they say nothing new, and no reason ends later than all."""
    found = joined(before, reasons)
    every = [*([before] if before else []), *reasons]

    assert found == joined(before, reasons[::-1])
    assert found == joined(found, reasons)
    assert (found is None) == (not every)
    if found:
        ends = [one.ends_s for one in every if one.ends_s is not None]
        alike = [one.since_s for one in every if is_voluntary(one) == is_voluntary(found)]
        assert (min(ends, default=None), min(alike)) == (found.ends_s, found.since_s)
        assert is_voluntary(found) == all(map(is_voluntary, every))
        until_s, ends_s = patience_s(found, POOL), deadline_s(found, POOL)
        assert (until_s is None) == (ends_s is None) == is_voluntary(found)
        assert until_s is None or ends_s is None or until_s <= max(ends_s, found.since_s)


# --- what need not be said again ---


@pytest.mark.parametrize(
    ("changes", "complete", "known"),
    [
        ({}, True, False),
        ({"requests": (draining(),), "notices": (REBALANCE,)}, True, True),
        ({"requests": (draining(),)}, True, False),
        ({"requests": (draining(replace(DRAIN, ends_s=SPOT.ends_s)),)}, True, True),
        ({"requests": (request("a", state=State.TERMINATING),)}, True, True),
        ({"requests": ()}, True, False),
        ({"requests": (), "machines": {"inference": (machine("a", stopping=True),)}}, True, True),
        ({"requests": (), "machines": {"inference": ()}}, True, True),
        ({"requests": (), "machines": {"inference": ()}}, False, False),
        ({"requests": (), "machines": {"inference": ()}, "batches": (replace(BATCH, settled=False),)}, True, False),
    ],
    ids=[
        "nothing written", "draining", "an earlier end", "that end", "terminating", "no record", "stopping", "nobody's",
        "a pool was silent", "a call is open",
    ],
)  # fmt: skip
def test_a_notice_is_acknowledged_when_what_follows_from_it_is_written(
    changes: dict[str, Any],
    complete: bool,  # noqa: FBT001 - a table
    known: bool,  # noqa: FBT001
) -> None:
    """Nothing that was said is lost: a crash before the writing has it said again."""
    observed = replace(going(), **changes)

    assert known == ("n" in heard(observed, complete=complete))


# --- how pods are asked ---


def pod(name: str, **labels: str) -> Json:
    """Return a pod that runs on node a."""
    meta = {"name": name, "namespace": "default", "labels": labels}
    spec = {"nodeName": "a", "containers": [{"name": "main", "image": "example/main"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def cluster_with(*pods: Json) -> tuple[FakeKube, list[Guest]]:
    """Return a cluster in which these pods run."""
    kube = FakeKube(seed=0)
    guests = []
    for one in pods:
        created = kube.create(PODS, one)
        kube.patch_status(PODS, created["metadata"]["name"], {"status": {"phase": "Running"}}, namespace="default")
        guests.append(Guest(id=f"default/{created['metadata']['name']}", uid=created["metadata"]["uid"], demand=None))
    return kube, guests


def budget(name: str, **selector: str) -> Json:
    """Return a budget that allows no disruption."""
    spec = {"minAvailable": 9, "selector": {"matchLabels": selector}}
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec}


def leaving(kube: FakeKube) -> Sequence[str]:
    """Return the names of pods that were asked to leave."""
    return [one["metadata"]["name"] for one in kube.list(PODS).items if "deletionTimestamp" in one["metadata"]]


def test_a_budget_keeps_its_pods_and_no_others() -> None:
    """The others leave within their own grace period."""
    kube, guests = cluster_with(pod("a", app="kept"), pod("b"))
    kube.create(DISRUPTION_BUDGETS, budget("one", app="kept"))

    assert ["default/a"] == evict(kube, guests)
    assert ["b"] == leaving(kube)


def test_one_pod_that_cannot_be_asked_does_not_keep_the_others() -> None:
    """Two budgets for one pod are an error of the server; it is told after all were asked."""
    kube, guests = cluster_with(pod("a", app="kept"), pod("b"))
    kube.create(DISRUPTION_BUDGETS, budget("one", app="kept"))
    kube.create(DISRUPTION_BUDGETS, budget("two", app="kept"))

    with pytest.raises(ClusterError, match="several budgets"):
        evict(kube, guests)
    assert ["b"] == leaving(kube)


def test_a_pod_of_the_same_name_is_another_one() -> None:
    """The pod of a StatefulSet that runs elsewhere by now is not asked."""
    kube, guests = cluster_with(pod("a"))

    assert [] == evict(kube, [replace(guests[0], uid="that was before"), replace(guests[0], id="default/gone")])
    assert [] == leaving(kube)


def test_a_node_is_taken_out_of_service_once() -> None:
    """Others' taints stay, a second time writes nothing, and a node that is gone needs nothing."""
    kube = FakeKube(seed=0)
    other = {"key": "other", "effect": "NoExecute"}
    kube.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {"taints": [other]}})
    take_out_of_service(kube, "a")
    written = kube.get(NODES, "a")
    take_out_of_service(kube, "a")
    take_out_of_service(kube, "gone")

    assert (True, [other, {"key": DISRUPTED, "effect": "NoSchedule"}]) == (
        written["spec"]["unschedulable"],
        written["spec"]["taints"][:2],
    )
    assert written == kube.get(NODES, "a")
    with pytest.raises(NotFoundError):
        kube.get(NODES, "gone")
