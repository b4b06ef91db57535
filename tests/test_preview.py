"""A plan for a cluster of which there is only a dump."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tfscale.dump import Dump, read_dump
from tfscale.errors import BadInputError
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODE_CLASSES, NODE_REQUESTS, NODES, Json, Kind
from tfscale.lifecycle import State
from tfscale.model import GpuSlice, Guest, LaunchBatch, Machine, Mirror, NodeRequest, Offer
from tfscale.plan import (
    Action,
    Admit,
    Adopt,
    Advance,
    Advertise,
    Assign,
    Avoid,
    Drain,
    Drop,
    Forget,
    Hold,
    Launch,
    MarkIdle,
    Nominate,
    Plan,
    Recover,
    Release,
    Replay,
    Reserve,
    Terminate,
    Unguard,
)
from tfscale.preview import Preview, preview
from tfscale.quantity import time_s

EXAMPLES = Path(__file__).parents[1] / "examples"
NOW_S = time_s("2026-07-20T13:44:30Z")


def example(*others: tuple[Kind, Json]) -> Dump:
    """Return the example dump with its pool and other objects."""
    dump = read_dump([str(EXAMPLES / "dump.json")]).changed_by(read_dump([str(EXAMPLES / "pools.yaml")]))
    return dump.changed_by(Dump(objects={(kind, "", obj["metadata"]["name"]): obj for kind, obj in others}))


def planned(dump: Dump, now_s: int = NOW_S) -> Preview:
    """Return the plan."""
    return preview(dump, now_s=now_s, cluster="test", prefix="tensor-fusion.ai")


def pool(mode: str, name: str = "inference", **spec: object) -> tuple[Kind, Json]:
    """Return a pool in place of the example's."""
    kind = {"apiVersion": GPU_POOLS.api_version, "kind": GPU_POOLS.kind}
    return GPU_POOLS, {**kind, "metadata": {"name": name}, "spec": {"mode": mode, **spec}}


EC2 = pool("ec2", options={"region": "us-east-1", "launchTemplate": {"name": "gpu-node"}}, offers={"gpuModels": ["L4"]})
MANAGED = pool(
    "managed-nodeclaim",
    options={"nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}},
    offers={"zones": ["us-east-1a"]},
)


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of everything in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


ITEMS = json.loads((EXAMPLES / "dump.json").read_text())["items"] + [EC2[1] | {"metadata": {"name": "e"}}]
PLACES = [path for path in places(ITEMS) if len(path) > 1]
VALUES = st.sampled_from(
    [
        None,
        0,
        -1,
        1.5,
        True,
        "",
        "x",
        [],
        {},
        ["x"],
        [None],
        {"x": 1},
        {"x": "y"},
        10**30,
        "-5",
        "é" * 3,
        "9" * 30,
        "2026-13-01T00:00:00Z",
    ]
)


@settings(max_examples=60)
@given(st.sampled_from(PLACES), VALUES)
def test_whatever_one_field_says_the_plan_is_made(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[Any, ...], value: object
) -> None:
    """What is wrong with it becomes a problem; nothing else is raised, and the plan can be printed."""
    items: Any = copy.deepcopy(ITEMS)
    here = items
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    file = tmp_path_factory.getbasetemp() / "dump.json"
    file.write_text(json.dumps({"kind": "List", "items": items}))
    found = planned(read_dump([str(file), str(EXAMPLES / "pools.yaml")]))

    assert [*found.lines()]
    assert json.loads(json.dumps(found.as_json()))["changes"] == bool(found.plan.actions)


@settings(max_examples=20)
@given(st.permutations([*example().objects]))
def test_the_order_of_a_dump_does_not_matter(keys: list[tuple[Kind, str, str]]) -> None:
    """The same objects in another order give the same plan."""
    dump = example()

    assert planned(dump) == planned(Dump(objects={key: dump.objects[key] for key in keys}))


def test_pods_are_placed_and_nodes_bought() -> None:
    """What fits on the node that is there goes there; the rest gets a replica of it, at the price of the catalogue."""
    found = planned(example())

    assert {"place": 3, "buy": 1} == {
        verb: sum(action["action"] == verb for action in found.as_json()["actions"]) for verb in ("place", "buy")
    }
    assert [*found.lines()][-1] == (
        "as of 2026-07-20T13:44:30Z: actions: 4 (buy 1, place 3); nodes to buy: 1 (0.8048 USD/h); "
        "pods that wait for a node: 1; pods without a place: 0"
    )
    assert found.complete


@pytest.mark.parametrize(("own", "buys"), [(EC2, True), (MANAGED, True), (pool("static"), False)])
def test_every_mode_can_be_planned(own: tuple[Kind, Json], buys: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Those that live in the cluster are asked, for the others there is the catalogue."""
    found = planned(example(own))
    bought = [action.offers[0].instance_type for action in found.plan.actions if isinstance(action, Launch)]

    assert ((), ["g6.xlarge"] * buys) == (found.problems, bought)
    assert buys == found.complete


def test_a_mode_with_a_cloud_is_not_asked() -> None:
    """A note says where its offers and machines come from; zones are those of the nodes."""
    found = planned(example(EC2))
    (bought,) = [action for action in found.plan.actions if isinstance(action, Launch)]

    assert {"us-east-1a", "us-east-1b"} == {offer.zone for offer in bought.offers}
    assert (
        "gpupool inference: mode ec2 is not asked; machines are those of the noderequests, "
        "offers and prices EC2's (us-east-1, 2026-07-20)"
    ) in found.notes


def test_a_recorded_machine_is_neither_lost_nor_bought_again() -> None:
    """Its node is known by the machine, and is used like any other of the pool."""
    status = {"state": "Ready", "machineId": "i-0a11b22c33d44e553", "offer": "g5.xlarge/us-east-1a/on-demand"}
    record = {
        "metadata": {"name": "r-1"},
        "spec": {"pool": "inference", "mode": "ec2", "nominated": []},
        "status": {**status, "nodeName": "ip-10-0-1-88.ec2.internal", "launchedAt": "2026-07-18T20:05:31Z"},
    }
    dump = example(EC2, (NODE_REQUESTS, record))
    found = planned(Dump(objects={key: obj for key, obj in dump.objects.items() if key[2] != "llm-0"}))

    assert {Advertise, Assign} == {type(action) for action in found.plan.actions}
    assert "-> ip-10-0-1-88.ec2.internal" in "\n".join(found.lines())


def test_a_node_class_is_taken_to_exist_only_where_the_dump_has_none() -> None:
    """They are printed only to whoever asks for them; one that is there is believed."""
    ready = {"type": "Ready", "status": "False", "reason": "SubnetsNotFound"}
    broken = {"metadata": {"name": "gpu"}, "status": {"conditions": [ready]}}
    without, with_one = planned(example()), planned(example((NODE_CLASSES[0], broken)))

    assert ("taken to exist, as the dump has no node classes: EC2NodeClass gpu",) == without.notes
    assert () == with_one.notes
    assert "SubnetsNotFound" in "".join(map(str, with_one.problems))


def test_machines_without_records_are_explained() -> None:
    """Who dumps no noderequests is told what they are needed for."""
    claim = copy.deepcopy(next(obj for (kind, _, _), obj in example().objects.items() if kind == NODE_CLAIMS))
    claim["metadata"] |= {"name": "ours", "annotations": {"tfscale.io/mode": "reuse-nodeclaim", "tfscale.io/batch": "b"}}
    claim["metadata"]["labels"]["tfscale.io/pool"] = "inference"

    assert "there are machines of tfscale but no records of them; dump noderequests and launchbatches, too" in (
        planned(example((NODE_CLAIMS, claim))).notes
    )


def test_a_pool_whose_mode_cannot_answer_is_a_problem() -> None:
    """Its pods are still placed, but nothing is bought for it."""
    meta = {"labels": {"tfscale.io/pool": "inference"}, "annotations": {"tfscale.io/mode": "reuse-nodeclaim"}}
    claim = {"metadata": {"name": "c", "creationTimestamp": "soon", **meta}, "spec": {}}
    found = planned(example((NODE_CLAIMS, claim)))

    assert [("gpupool inference", "spec.mode", "reuse-nodeclaim")] == [(p.where, p.field, p.value) for p in found.problems]
    assert {Assign} == {type(action) for action in found.plan.actions}


def test_an_object_that_no_server_would_have_is_a_problem() -> None:
    """It is named, and the rest goes on."""
    found = planned(example((NODES, {"metadata": {"name": "N 1"}})))

    assert ["node N 1: object is "] == [str(problem)[:20] for problem in found.problems]
    assert not found.complete
    assert 4 == len(found.plan.actions)


def test_names_that_break_the_line_do_not() -> None:
    """A line for each problem and note."""
    found = planned(example((NODES, {"metadata": {"name": "n\n"}})))

    assert [r"node 'n\n': object is "] == [str(problem)[:22] for problem in found.problems]
    assert not [line for line in (*found.notes, *map(str, found.problems)) if not line.isprintable()]


def test_without_a_pool_there_is_nothing_to_plan() -> None:
    """The flag that brings one is named."""
    with pytest.raises(BadInputError, match="--pool is ''; want a file with a GPUPool: there is none in the dump"):
        planned(read_dump([str(EXAMPLES / "dump.json")]))


def test_spot_has_no_price_and_says_so() -> None:
    """What is not known is never counted as free."""
    spot = pool("ec2", options=EC2[1]["spec"]["options"], offers={"capacityTypes": ["spot"]})

    assert "nodes to buy: 1 (1 of unknown price);" in [*planned(example(spot)).lines()][-1]


REQUEST = NodeRequest(name="r", pool="p", mode="m", state=State.READY, machine_id="i-1", offer="o", node="n")
BATCH = LaunchBatch(name="b", pool="p", mode="m", requests=("r",), parameters={})
OFFER = Offer(instance_type="t", zone="z", capacity_type="spot", cpu_milli=1, memory_mib=1, price_micro_usd=None)
MACHINE = Machine(id="i-1", batch="b", pool="p", offer="o", provider_id="")
ABOUT_REQUEST: dict[str, object] = {"request": "r", "machine": "i-1", "offer": "o", "node": "n"}
ACTIONS: list[tuple[Action, str, dict[str, object]]] = [
    (Advance(pool="p", before=State.LAUNCHED, request=REQUEST, why="y"), "record", ABOUT_REQUEST),
    (Adopt(pool="p", batch=BATCH, machines=(MACHINE,), why="y"), "adopt", {"batch": "b"}),
    (Replay(pool="p", batch=BATCH, why="y"), "replay", {"batch": "b"}),
    (Recover(pool="p", request=REQUEST, why="y"), "recover", ABOUT_REQUEST),
    (Admit(pool="p", request=REQUEST, node="n", why="y"), "admit", ABOUT_REQUEST),
    (
        Advertise(pool="p", node="n", mirror=Mirror(vram_mib=1, mtflops=2), why="y"),
        "tell",
        {"node": "n", "vramMib": 1, "mtflops": 2},
    ),
    (Hold(pool="p", request=REQUEST, node="n", why="y"), "hold", ABOUT_REQUEST),
    (Reserve(pool="p", node="n", on=True, why="y"), "reserve", {"node": "n"}),
    (Reserve(pool="p", node="n", on=False, why="y"), "open", {"node": "n"}),
    (
        Assign(pool="p", pod="x/a", uid="u", node="n", slices=(GpuSlice(gpu_id="0", vram_mib=1, compute_milli=2),), why="y"),
        "place",
        {"pod": "x/a", "node": "n", "gpus": [{"gpu_id": "0", "vram_mib": 1, "compute_milli": 2}]},
    ),
    (Nominate(pool="p", request=REQUEST, uids=("u",), why="y"), "keep", ABOUT_REQUEST),
    (Avoid(pool="p", request=REQUEST, uids=("u",), pods=("x/a",), why="y"), "avoid", ABOUT_REQUEST),
    (MarkIdle(pool="p", node="n", since_s=0, why="y"), "idle", {"node": "n", "since": "1970-01-01T00:00:00Z"}),
    (MarkIdle(pool="p", node="n", since_s=None, why="y"), "in use", {"node": "n", "since": None}),
    (
        Launch(pool="p", batch="b", requests=(REQUEST,), pods=(("x/b", "x/a"),), offers=(OFFER,), why="y"),
        "buy",
        {"batch": "b", "nodes": 1, "offers": ["t/z/spot"], "usd_per_hour_each": None, "pods": ["x/a", "x/b"]},
    ),
    (
        Drain(pool="p", request=REQUEST, node="n", pods=(Guest(id="x/a", uid="u", demand=None),), why="y"),
        "drain",
        ABOUT_REQUEST | {"pods": ["x/a"]},
    ),
    (Terminate(pool="p", request=REQUEST, node="n", event=None, why="y"), "return", ABOUT_REQUEST),
    (Release(pool="p", request=REQUEST, node="n", overdue=False, why="y"), "free", ABOUT_REQUEST),
    (Forget(pool="p", request=REQUEST, node="n", why="y"), "forget", ABOUT_REQUEST),
    (Drop(pool="p", batch="b", why="y"), "drop", {"batch": "b"}),
    (Unguard(pool="p", why="y"), "release", {}),
]


@pytest.mark.parametrize(("action", "verb", "about"), ACTIONS)
def test_every_action_is_a_json_object(action: Action, verb: str, about: dict[str, object]) -> None:
    """Its verb is that of the text, and it says what it is about and why."""
    (found,) = Preview(now_s=0, plan=Plan(actions=(action,)), problems=(), notes=()).as_json()["actions"]

    assert {"action": verb, "pool": "p", **about, "why": "y"} == json.loads(json.dumps(found))
    assert str(action).startswith(verb)


def test_no_action_is_forgotten() -> None:
    """The table above has every kind of action."""
    assert {*get_args(Action)} == {type(action) for action, _, _ in ACTIONS}
