"""The decision, without any I/O: facts in, plan out."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.facts import BATCH, HALF, L4, NOW_S, POOL, T4, cluster, demand, kinds, machine, node, only, plan_for, request
from tfscale.lifecycle import Event, State
from tfscale.market import set_aside
from tfscale.model import BoundPod, Request
from tfscale.plan import (
    Assign,
    Avoid,
    Launch,
    MarkIdle,
    Nominate,
    Plan,
    Replay,
    Terminate,
)
from tfscale.pool import Limits, SetAside
from tfscale.selectors import Taint


def test_nothing_is_decided_for_an_empty_cluster() -> None:
    """Without pods and nodes there is nothing to do and nothing to wait for."""
    assert Plan() == plan_for(cluster(), T4)


def test_a_pod_goes_to_a_node_that_has_room() -> None:
    """What exists is used before anything is bought."""
    plan = plan_for(cluster(nodes=(node("a"),), demands=(demand("p"),)), T4)

    assert ("default/p", "a") == (only(plan, Assign).pod, only(plan, Assign).node)
    assert Launch not in kinds(plan)


def test_pods_without_room_share_a_new_node() -> None:
    """Two halves are bought one card, of the cheapest offer, and the reason names them and the next best price."""
    plan = plan_for(cluster(demands=(demand("p"), demand("q"))), L4, T4)
    launch = only(plan, Launch)

    assert [("uid-p", "uid-q")] == [wanted.nominated for wanted in launch.requests]
    assert [T4.id, L4.id] == [offer.id for offer in launch.offers]
    assert "cheapest that fits; next best g6.xlarge at 0.8048 USD/h" == launch.why
    assert (("default/p", "default/q"),) == launch.pods
    assert ("default/p", "default/q") == plan.waiting
    assert () == plan.unmet


def test_many_nodes_are_bought_with_several_calls() -> None:
    """The record of one call must fit into one object; each node is in one of them."""
    whole = replace(HALF, whole=True)
    plan = plan_for(cluster(demands=tuple(demand(f"p{index}", whole) for index in range(450))), T4)
    launches = [action for action in plan.actions if isinstance(action, Launch)]

    assert [200, 200, 50] == [len(launch.requests) for launch in launches]
    assert 450 == len({request.name for launch in launches for request in launch.requests})
    assert 3 == len({launch.batch for launch in launches})


def test_a_node_on_its_way_is_not_bought_twice() -> None:
    """Pods that a launched machine was bought for wait for it."""
    coming = request("a", state=State.LAUNCHED, node="", nominated=("uid-p",))
    plan = plan_for(cluster(demands=(demand("p"),), requests=(coming,), batches=(BATCH,), machines=(machine("a"),)), T4)

    assert ((), ("default/p",)) == (plan.actions, plan.waiting)
    assert NOW_S + POOL.register_within_s == plan.recheck_s


def test_room_on_a_node_on_its_way_is_kept_for_later_pods() -> None:
    """A pod that came later is nominated to what is left of a coming node."""
    coming = request("a", state=State.LAUNCHED, node="", nominated=("uid-p",))
    observed = cluster(demands=(demand("p"), demand("q")), requests=(coming,), batches=(BATCH,), machines=(machine("a"),))

    assert ("uid-p", "uid-q") == only(plan_for(observed, T4), Nominate).uids


def test_the_same_decision_gives_the_same_names_at_another_time() -> None:
    """A second process that decides the same a moment later collides on its requests. Its batch is another order."""
    first, later = (plan_for(cluster(demands=(demand("p"),), moment=moment), T4) for moment in ("a1", "b1"))

    assert [one.name for one in only(first, Launch).requests] == [one.name for one in only(later, Launch).requests]
    assert only(first, Launch).batch != only(later, Launch).batch


def test_a_node_that_does_not_fit_what_it_was_bought_for_is_not_bought_again_for_it() -> None:
    """A taint that the offer did not tell of: the pod waits with that reason, other pods still get such nodes."""
    tainted = node("a", taints=(Taint(key="other"),))
    bought = request("a", nominated=("uid-p",))
    observed = cluster(
        nodes=(tainted,), demands=(demand("p"), demand("q", replace(HALF, vram_mib=16_384))), requests=(bought,),
        batches=(BATCH,), machines=(machine("a"),),
    )  # fmt: skip
    plan = plan_for(observed, T4)

    assert ("uid-p",) == only(plan, Avoid).uids
    assert ("uid-q",) == only(plan, Launch).requests[0].nominated
    assert any("its nodes turned out not to fit" in reason for reason in plan.unmet[0].reasons)
    assert any("taint other" in reason for reason in plan.unmet[0].reasons)


def test_an_offer_is_left_out_for_longer_each_time() -> None:
    """Twice as long when it disappoints again soon, at most eight times as long, and from the start when that was long ago."""
    lengths = []
    pool, now_s = POOL, NOW_S
    for _ in range(7):
        entry = set_aside(pool, now_s, T4.id, "no capacity")
        lengths.append(entry.until_s - now_s)
        pool, now_s = replace(pool, set_aside=(entry,)), entry.until_s + 1

    assert [180, 360, 720, 1_440, 1_440, 1_440, 1_440] == lengths
    assert 180 == set_aside(pool, now_s + 100_000, T4.id, "no capacity").until_s - now_s - 100_000


def test_no_pod_is_placed_on_a_node_that_is_not_complete() -> None:
    """A node that shows three of its four cards may yet be given back: nothing must run on it by then."""
    wide = replace(T4, gpu_count=4)
    coming = request("a", state=State.REGISTERED, offer=wide.id)
    observed = cluster(nodes=(node("a"),), demands=(demand("p"),), requests=(coming,), batches=(BATCH,), machines=(machine("a"),))

    assert Assign not in kinds(plan_for(observed, wide))
    assert Assign in kinds(plan_for(observed, T4))


def test_limits_are_kept_while_the_outcome_of_a_call_is_unknown() -> None:
    """What it may have bought cannot be counted, so nothing is bought beside it."""
    limited = replace(POOL, limits=Limits(gpus=4))
    asked = request("a", state=State.REQUESTED, machine_id="", offer="", node="")
    observed = cluster(pools=(limited,), demands=(demand("p"),), requests=(asked,), batches=(replace(BATCH, settled=False),))
    plan = plan_for(observed, T4)

    assert [Replay] == kinds(plan)
    assert ("limits cannot be kept while it is not known what r-a costs",) == plan.unmet[0].reasons[:1]


def test_an_idle_node_is_marked_then_returned() -> None:
    """The first tick writes since when, a later one gives the machine back."""
    observed = cluster(nodes=(node("a"),), requests=(request("a"),), batches=(BATCH,), machines=(machine("a"),))
    first = plan_for(observed, T4)
    later = replace(observed, now_s=NOW_S + 300, nodes=(node("a", idle_since_s=NOW_S),))

    assert (NOW_S, NOW_S + 300) == (only(first, MarkIdle).since_s, first.recheck_s)
    returned = only(plan_for(later, T4), Terminate)
    assert (Event.IDLE, "idle for 300 s") == (returned.event, returned.why)
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


def test_offers_without_capacity_are_left_out_and_named() -> None:
    """The next offer is bought; where none is left the reason says until when."""
    out = replace(POOL, set_aside=(SetAside(offer=T4.id, until_s=NOW_S + 60, reason="InsufficientInstanceCapacity"),))
    observed = cluster(pools=(out,), demands=(demand("p"),))
    none = plan_for(observed, T4)

    assert L4.id == only(plan_for(observed, T4, L4), Launch).offers[0].id
    assert f"out of capacity or never ready: {T4.id}; tried again at 08:01:00 UTC" == none.unmet[0].reasons[0]
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


def test_no_request_is_named_like_a_claim_that_another_record_stands_for() -> None:
    """The record of a claim was lost and the claim recovered: its name is not free, even where the claim ends meanwhile."""
    observed = cluster(demands=(demand("p"),))
    (usual,) = only(plan_for(observed, T4), Launch).requests
    stands_for = request("recovered", state=State.TERMINATING, machine_id=usual.name)
    (after,) = only(plan_for(replace(observed, requests=(stands_for,)), T4), Launch).requests
    listed = {POOL.name: (machine("a", id=usual.name, stopping=True),)}
    (beside,) = only(plan_for(replace(observed, machines=listed), T4), Launch).requests

    assert (f"{usual.name}-2", f"{usual.name}-2") == (after.name, beside.name)
