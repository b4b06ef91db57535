"""The decision, without any I/O: facts in, plan out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.decide import Supply, decide
from tfscale.lifecycle import State
from tfscale.model import (
    BoundPod,
    Cluster,
    Demand,
    Gpu,
    LaunchBatch,
    Limits,
    Machine,
    Node,
    NodeRequest,
    Offer,
    Pool,
    Request,
    SetAside,
)
from tfscale.plan import Action, Adopt, Advance, Assign, Drop, Forget, Launch, MarkIdle, Nominate, Plan, Replay, Terminate

NOW_S = 1_800_000_000
POOL = Pool(name="inference", mode="ec2")
T4 = Offer(
    instance_type="g4dn.xlarge", zone="us-east-1a", capacity_type="on-demand", gpu_model="T4", gpu_count=1, vram_mib=16_384,
    mtflops=65_000, cpu_milli=4_000, memory_mib=16_384, price_micro_usd=526_000,
)  # fmt: skip
L4 = replace(T4, instance_type="g6.xlarge", gpu_model="L4", vram_mib=22_888, mtflops=121_000, price_micro_usd=804_800)
HALF = Request(gpu_count=1, vram_mib=8_192, compute_milli=500, cpu_milli=500, memory_mib=1_024)


def demand(name: str, request: Request = HALF, **changes: Any) -> Demand:  # noqa: ANN401 - any field of a demand
    """Return a pod that waits in the pool."""
    return replace(Demand(id=f"default/{name}", uid=f"uid-{name}", pool="inference", request=request), **changes)


def node(name: str, **changes: Any) -> Node:  # noqa: ANN401 - any field of a node
    """Return a ready node with one T4."""
    whole = Node(
        name=name, pool="inference", gpus=(Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000),), cpu_milli=4_000,
        memory_mib=16_384, machine_id=f"i-{name}", labels={"node.kubernetes.io/instance-type": "g4dn.xlarge"},
    )  # fmt: skip
    return replace(whole, **changes)


def request(name: str, **changes: Any) -> NodeRequest:  # noqa: ANN401 - any field of a request
    """Return the record of a node that is ready."""
    ready = NodeRequest(
        name=f"r-{name}", pool="inference", state=State.READY, batch="b", machine_id=f"i-{name}", offer=T4.id,
        node=name, changed_s=NOW_S,
    )  # fmt: skip
    return replace(ready, **changes)


def machine(name: str, **changes: Any) -> Machine:  # noqa: ANN401 - any field of a machine
    """Return a running machine of batch b."""
    running = Machine(id=f"i-{name}", batch="b", pool="inference", offer=T4.id, provider_id=f"aws:///us-east-1a/i-{name}")
    return replace(running, **changes)


BATCH = LaunchBatch(name="b", pool="inference", requests=("r-a",), parameters={}, settled=True)


def cluster(*, machines: Sequence[Machine] = (), **parts: Any) -> Cluster:  # noqa: ANN401 - any field of a cluster
    """Return a cluster with the pool."""
    return replace(Cluster(now_s=NOW_S, pools=(POOL,), machines={"inference": tuple(machines)}), **parts)


def plan_for(observed: Cluster, *offers: Offer, reclaims_idle: bool = False) -> Plan:
    """Decide with the given offers in the pool."""
    return decide(observed, {"inference": Supply(offers=offers, reclaims_idle=reclaims_idle)})


def kinds(plan: Plan) -> list[type[Action]]:
    """Return what kinds of action a plan has."""
    return [type(action) for action in plan.actions]


def only(plan: Plan, kind: type[Any]) -> Any:  # noqa: ANN401 - the caller names the type
    """Return the plan's only action of one kind."""
    (action,) = [action for action in plan.actions if isinstance(action, kind)]
    return action


def test_nothing_is_decided_for_an_empty_cluster() -> None:
    """Without pods and nodes there is nothing to do and nothing to wait for."""
    assert Plan() == plan_for(cluster(), T4)


def test_a_pod_goes_to_a_node_that_has_room() -> None:
    """What exists is used before anything is bought."""
    plan = plan_for(cluster(nodes=(node("a"),), demands=(demand("p"),)), T4)

    assert (only(plan, Assign).pod, only(plan, Assign).node) == ("default/p", "a")
    assert Launch not in kinds(plan)


def test_pods_without_room_share_a_new_node() -> None:
    """Two halves are bought one card, of the cheapest offer, and the reason names them and the next best price."""
    plan = plan_for(cluster(demands=(demand("p"), demand("q"))), L4, T4)
    launch = only(plan, Launch)

    assert [("uid-p", "uid-q")] == [wanted.nominated for wanted in launch.requests]
    assert [T4.id, L4.id] == [offer.id for offer in launch.offers]
    assert "cheapest that fits; next best g6.xlarge at 0.805 USD/h" == launch.why
    assert (("default/p", "default/q"),) == launch.pods
    assert ("default/p", "default/q") == plan.waiting
    assert () == plan.unmet


def test_a_node_on_its_way_is_not_bought_twice() -> None:
    """Pods that a launched machine was bought for wait for it."""
    coming = request("a", state=State.LAUNCHED, node="", nominated=("uid-p",))
    plan = plan_for(cluster(demands=(demand("p"),), requests=(coming,), batches=(BATCH,), machines=(machine("a"),)), T4)

    assert (plan.actions, plan.waiting) == ((), ("default/p",))
    assert NOW_S + POOL.register_within_s == plan.recheck_s


def test_room_on_a_node_on_its_way_is_kept_for_later_pods() -> None:
    """A pod that came later is nominated to what is left of a coming node."""
    coming = request("a", state=State.LAUNCHED, node="", nominated=("uid-p",))
    observed = cluster(demands=(demand("p"), demand("q")), requests=(coming,), batches=(BATCH,), machines=(machine("a"),))

    assert ("uid-p", "uid-q") == only(plan_for(observed, T4), Nominate).uids


def test_a_call_of_unknown_outcome_is_replayed() -> None:
    """A batch that is not settled is sent again as it is, and its pods are not bought for again."""
    pending = replace(BATCH, settled=False)
    asked = request("a", state=State.REQUESTED, machine_id="", offer="", node="", nominated=("uid-p",))
    plan = plan_for(cluster(demands=(demand("p"),), requests=(asked,), batches=(pending,)), T4)

    assert [Replay] == kinds(plan)
    assert ("default/p",) == plan.waiting


def test_machines_that_are_seen_are_adopted_without_a_call() -> None:
    """When all that was ordered exists, the cloud is not called again: the token may have expired."""
    pending = replace(BATCH, settled=False)
    asked = request("a", state=State.REQUESTED, machine_id="", offer="", node="")
    plan = plan_for(cluster(requests=(asked,), batches=(pending,), machines=(machine("a"),)), T4)

    assert (machine("a"),) == only(plan, Adopt).machines
    assert Replay not in kinds(plan)


def test_a_request_without_a_call_is_filled_anew() -> None:
    """A crash between the records and the call leaves a request that is used again for the same pods."""
    first = only(plan_for(cluster(demands=(demand("p"),)), T4), Launch)
    void = first.requests[0]
    again = only(plan_for(cluster(demands=(demand("p"),), requests=(void,)), T4), Launch)

    assert [(void.name, 2)] == [(wanted.name, wanted.attempt) for wanted in again.requests]


def test_a_request_without_a_call_that_nobody_needs_is_forgotten() -> None:
    """Its pods are gone and nothing was bought."""
    void = NodeRequest(name="r-a", pool="inference", nominated=("uid-p",))

    assert void == only(plan_for(cluster(requests=(void,)), T4), Forget).request


def test_a_ready_node_is_recorded_and_used_at_once() -> None:
    """The tick that sees the node Ready also places its pods."""
    coming = request("a", state=State.LAUNCHED, node="", nominated=("uid-p",))
    observed = cluster(nodes=(node("a"),), demands=(demand("p"),), requests=(coming,), batches=(BATCH,), machines=(machine("a"),))
    plan = plan_for(observed, T4)

    assert (only(plan, Advance).state, only(plan, Advance).node) == (State.READY, "a")
    assert "a" == only(plan, Assign).node


def test_a_node_without_its_gpus_is_not_ready() -> None:
    """A node that shows fewer cards than were bought takes no GPU pod and its clock runs on."""
    coming = request("a", state=State.REGISTERED)
    observed = cluster(nodes=(node("a", gpus=()),), requests=(coming,), batches=(BATCH,), machines=(machine("a"),))

    assert () == plan_for(observed, T4).actions


@pytest.mark.parametrize("state", [State.LAUNCHED, State.REGISTERED])
def test_a_node_that_never_becomes_ready_is_given_back(state: State) -> None:
    """After the pool's time its machine is returned, the offer is left out and the pod is bought for anew."""
    late = request("a", state=state, changed_s=NOW_S - POOL.register_within_s, nominated=("uid-p",))
    seen = (node("a", ready=False),) if state is State.REGISTERED else ()
    observed = cluster(nodes=seen, demands=(demand("p"),), requests=(late,), batches=(BATCH,), machines=(machine("a"),))
    plan = plan_for(observed, T4)

    assert (only(plan, Terminate).set_aside, only(plan, Terminate).must_be_empty) == (True, False)
    assert ("uid-p",) == only(plan, Launch).requests[0].nominated


def test_a_machine_that_is_gone_is_forgotten_and_replaced() -> None:
    """Somebody terminated it: record and node go, its pods are demand again."""
    lost = request("a", nominated=("uid-p",))
    observed = cluster(nodes=(node("a"),), demands=(demand("p"),), requests=(lost,), batches=(BATCH,))
    plan = plan_for(observed, T4)

    assert [Forget, Drop, Launch] == kinds(plan)
    assert "a" == only(plan, Forget).node


def test_a_fresh_machine_may_be_missing_for_a_while() -> None:
    """The cloud's listing lags; nothing is concluded in the first minute."""
    fresh = request("a", state=State.LAUNCHED, node="", nominated=("uid-p",))
    observed = cluster(demands=(demand("p"),), requests=(fresh,), batches=(BATCH,))

    assert () == plan_for(observed, T4).actions
    assert [Forget, Drop, Launch] == kinds(plan_for(replace(observed, now_s=NOW_S + 60), T4))


def test_nothing_is_concluded_while_the_cloud_does_not_answer() -> None:
    """Without a listing no machine is gone, nothing is bought and nothing is returned; pods are still placed."""
    observed = cluster(nodes=(node("a", idle_since_s=0),), demands=(demand("p"),), requests=(request("a"),), batches=(BATCH,))

    assert [Assign] == kinds(decide(replace(observed, machines={}), {}))


def test_a_machine_stopped_by_somebody_takes_no_pod() -> None:
    """An interrupted machine is given back for good and its node is closed at once."""
    observed = cluster(
        nodes=(node("a"),), demands=(demand("p"),), requests=(request("a"),), batches=(BATCH,),
        machines=(machine("a", stopping=True),),
    )  # fmt: skip

    assert [Terminate, Launch] == kinds(plan_for(observed, T4))


def test_an_idle_node_is_marked_then_returned() -> None:
    """The first tick writes since when, a later one gives the machine back."""
    observed = cluster(nodes=(node("a"),), requests=(request("a"),), batches=(BATCH,), machines=(machine("a"),))
    first = plan_for(observed, T4)
    later = replace(observed, now_s=NOW_S + 300, nodes=(node("a", idle_since_s=NOW_S),))

    assert (only(first, MarkIdle).since_s, first.recheck_s) == (NOW_S, NOW_S + 300)
    assert (only(plan_for(later, T4), Terminate).must_be_empty, only(plan_for(later, T4), Terminate).why) == (
        True,
        "idle for 300 s",
    )
    assert () == plan_for(later, T4, reclaims_idle=True).actions


def test_daemons_do_not_keep_a_node() -> None:
    """Only pods that somebody asked for count as work."""
    daemon = BoundPod(id="kube-system/dcgm", uid="d", request=Request(cpu_milli=100), daemon=True)
    job = BoundPod(id="default/p", uid="p", request=HALF)
    observed = cluster(nodes=(node("a", pods=(daemon,)),), requests=(request("a"),), batches=(BATCH,), machines=(machine("a"),))

    assert [MarkIdle] == kinds(plan_for(observed, T4))
    assert () == plan_for(replace(observed, nodes=(node("a", pods=(daemon, job)),)), T4).actions


def test_a_node_with_work_again_is_not_idle() -> None:
    """The mark comes off with the pod that is placed."""
    observed = cluster(
        nodes=(node("a", idle_since_s=NOW_S - 299),), demands=(demand("p"),), requests=(request("a"),), batches=(BATCH,),
        machines=(machine("a"),),
    )  # fmt: skip

    assert None is only(plan_for(observed, T4), MarkIdle).since_s


def test_termination_is_asked_for_until_the_machine_stops() -> None:
    """A lost call is repeated; a machine that is shutting down is waited for."""
    going = request("a", state=State.TERMINATING)
    observed = cluster(requests=(going,), batches=(BATCH,), machines=(machine("a"),))

    assert [Terminate] == kinds(plan_for(observed, T4))
    assert () == plan_for(replace(observed, machines={"inference": (machine("a", stopping=True),)}), T4).actions
    assert [Forget, Drop] == kinds(plan_for(replace(observed, machines={"inference": ()}), T4))


def test_offers_without_capacity_are_left_out_and_named() -> None:
    """The next offer is bought; where none is left the reason says until when."""
    out = replace(POOL, set_aside=(SetAside(offer=T4.id, until_s=NOW_S + 60, reason="InsufficientInstanceCapacity"),))
    observed = cluster(pools=(out,), demands=(demand("p"),))
    none = plan_for(observed, T4)

    assert L4.id == only(plan_for(observed, T4, L4), Launch).offers[0].id
    assert f"out of capacity until 08:01:00 UTC: {T4.id}" == none.unmet[0].reasons[0]
    assert NOW_S + 60 == none.retry_s
    assert T4.id == only(plan_for(replace(observed, now_s=NOW_S + 60), T4), Launch).offers[0].id


def test_limits_count_nodes_on_their_way() -> None:
    """A pool of one node buys no second one, and says why."""
    small = replace(POOL, limits=Limits(nodes=1))
    coming = request("a", state=State.LAUNCHED, node="", nominated=("uid-p", "uid-q"))
    observed = cluster(
        pools=(small,), demands=tuple(map(demand, "pqr")), requests=(coming,), batches=(BATCH,), machines=(machine("a"),)
    )
    plan = plan_for(observed, T4)

    assert (["default/r"], []) == ([unmet.pod for unmet in plan.unmet], kinds(plan))
    assert any("limit" in reason for reason in plan.unmet[0].reasons)


def test_a_type_whose_nodes_turn_out_smaller_is_not_bought_again() -> None:
    """A pod that fits the machine but not the node is refused with a reason, not bought node after node."""
    big = demand("p", replace(HALF, cpu_milli=4_000))
    shown = node("a", cpu_milli=3_920)
    plan = plan_for(
        cluster(nodes=(shown,), demands=(big,), requests=(request("a"),), batches=(BATCH,), machines=(machine("a"),)), T4
    )

    assert ["default/p"] == [unmet.pod for unmet in plan.unmet]
    assert Launch not in kinds(plan)


def test_a_pool_that_is_deleted_buys_nothing_and_empties() -> None:
    """Its idle nodes go at once."""
    observed = cluster(
        pools=(replace(POOL, deleting=True),), nodes=(node("a"),), requests=(request("a"),), batches=(BATCH,),
        machines=(machine("a"),), demands=(demand("p", replace(HALF, vram_mib=20_000)),),
    )  # fmt: skip
    plan = plan_for(observed, L4)

    assert [Terminate] == kinds(plan)
    assert "pool inference is being deleted" == plan.unmet[0].reasons[0]


REQUESTS = st.builds(
    Request,
    gpu_count=st.integers(1, 2),
    vram_mib=st.integers(1, 24_000),
    compute_milli=st.integers(1, 1_000),
    cpu_milli=st.integers(0, 5_000),
    memory_mib=st.integers(0, 9_000),
)


@given(st.lists(REQUESTS, max_size=12), st.integers(0, 3), st.randoms(use_true_random=False))
def test_order_does_not_matter(requests: list[Request], nodes: int, random: Random) -> None:
    """Shuffled pods, nodes and offers give the same plan."""
    demands = [demand(f"p{i}", wanted) for i, wanted in enumerate(requests)]
    ready = [node(f"n{i}") for i in range(nodes)]
    offers = [T4, L4, replace(T4, zone="us-east-1b")]
    first = cluster(demands=tuple(demands), nodes=tuple(ready))
    other = cluster(demands=tuple(random.sample(demands, len(demands))), nodes=tuple(random.sample(ready, len(ready))))

    assert plan_for(first, *offers) == plan_for(other, *random.sample(offers, len(offers)))


@given(st.lists(REQUESTS, max_size=12), st.integers(0, 3))
def test_every_pod_is_placed_waits_or_is_unmet(requests: list[Request], nodes: int) -> None:
    """No pod is lost between the steps, and every unmet one has a reason."""
    demands = [demand(f"p{i}", wanted) for i, wanted in enumerate(requests)]
    plan = plan_for(cluster(demands=tuple(demands), nodes=tuple(node(f"n{i}") for i in range(nodes))), T4, L4)
    placed = [action.pod for action in plan.actions if isinstance(action, Assign)]
    bought = {uid for action in plan.actions if isinstance(action, Launch) for r in action.requests for uid in r.nominated}

    assert sorted(item.id for item in demands) == sorted([*placed, *plan.waiting, *(unmet.pod for unmet in plan.unmet)])
    assert {item.uid for item in demands if item.id in plan.waiting} == bought
    assert all(unmet.reasons for unmet in plan.unmet)
