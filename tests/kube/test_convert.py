"""A whole cluster read from its objects: what counts, what is fenced, and that one bad object hides no other."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfscale.gpus import GpuTable
from tfscale.kube.convert import BoundPods, allocation, idle_mark, pool_object, read_cluster, write_batch, write_request
from tfscale.kube.port import Json
from tfscale.lifecycle import State
from tfscale.model import Cluster, GpuSlice, LaunchBatch, Machine, Node, NodeRequest
from tfscale.pool import Pool
from tfscale.selectors import Taint

GPU = "nvidia.com/gpu"
NO_POOL = "metadata.annotations[tfscale.io/gpupool] is ''; want the name of a gpupool "
SHARE = {"tfscale.io/vram-request": "4Gi", "tfscale.io/compute-percent-request": "20"}
MACHINE = Machine(id="i-1", batch="b", pool="inference", offer="o", provider_id="aws:///us-east-1a/i-1")


def node(name: str = "n1", *, gpus: int | str = 2, labels: dict[str, Any] | None = None, **parts: dict[str, Any]) -> Json:
    """Return a Ready node of pool ``inference``; `parts` are merged into spec, status or metadata."""
    obj: Json = {
        "metadata": {
            "name": name,
            "labels": {"tfscale.io/pool": "inference", "nvidia.com/gpu.product": "Tesla-T4", **(labels or {})},
        },
        "spec": {"providerID": "aws:///us-east-1a/i-1"},
        "status": {
            "allocatable": {"cpu": "3920m", "memory": "15Gi", "pods": "29", GPU: str(gpus)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    for part, values in parts.items():
        obj[part] |= values
    return obj


def pod(name: str, *, on: str = "", notes: dict[str, Any] | None = None, gpus: int = 0, **spec: object) -> Json:
    """Return a pod of ours, bound where `on` names a node."""
    limits = {GPU: gpus} if gpus else {}
    return {
        "metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}", "annotations": notes or {}},
        "spec": {
            "schedulerName": "tfscale",
            "containers": [{"resources": {"limits": limits}}],
            **({"nodeName": on} if on else {}),
            **spec,
        },
        "status": {"phase": "Running" if on else "Pending"},
    }


def holding(name: str, *parts: tuple[str, int, int], on: str = "n1") -> Json:
    """Return a bound pod with its record."""
    record = allocation([GpuSlice(gpu_id=gpu, vram_mib=vram_mib, compute_milli=milli) for gpu, vram_mib, milli in parts])
    return pod(name, on=on, notes={**SHARE, **record})


def pool(name: str = "inference", **spec: object) -> Json:
    """Return a pool object."""
    return {"metadata": {"name": name}, "spec": {"mode": "ec2", **spec}}


def cluster(**objects: Any) -> Cluster:  # noqa: ANN401 - lists of objects, and machines
    """Return the cluster of these objects; one pool unless others are given."""
    given_objects = {"pods": [], "nodes": [], "pools": [pool()], "requests": [], "batches": [], "machines": {}} | objects
    return read_cluster(**given_objects, now_s=0, gpus=GpuTable())


def the_node(*pods: Json, of: Json | None = None) -> tuple[Node, list[str]]:
    """Return the one node and what is wrong, in lines."""
    seen = cluster(nodes=[of or node()], pods=pods)
    return seen.nodes[0], [str(problem) for problem in seen.problems]


WORLD: dict[str, list[Json]] = {
    "pods": [
        pod("waits", notes=SHARE, nodeSelector={"a": "b"}, tolerations=[{"key": "x"}], priority=1),
        pod("whole", gpus=1),
        holding("holds", ("0", 4096, 200)),
        pod("plugin", on="n2", gpus=1),
    ],
    "nodes": [node(), node("n2", spec={"providerID": "kwok://x", "taints": [{"key": "t", "effect": "NoSchedule"}]})],
    "pools": [pool_object(Pool(name="inference", mode="ec2", default=True)), pool_object(Pool(name="other", mode="static"))],
    "requests": [
        write_request(NodeRequest(name="r1", pool="inference", mode="ec2", state=State.READY, machine_id="i-1", node="n1"))
    ],
    "batches": [
        write_batch(
            LaunchBatch(name="b1", pool="inference", mode="ec2", requests=("r1",), parameters={"token": "t"}, settled=True)
        )
    ],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - JSON
    """Yield the path to every value inside."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
PLACES = [path for path in places(WORLD) if len(path) > 1]  # every object, and all inside it


@settings(max_examples=500)
@given(st.sampled_from(PLACES), json_values)
def test_any_json_at_any_place_gives_a_value_or_a_problem(path: tuple[Any, ...], value: object) -> None:
    """No object, however wrong, ends the tick; the pods and nodes that it does not concern are read."""
    world = copy.deepcopy(WORLD)
    target: Any = world
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    seen = cluster(**world)

    assert all(len(str(problem).splitlines()) == 1 for problem in seen.problems)
    if path[0] == "pods":
        assert {"inference", "other"} == {pool.name for pool in seen.pools}
        assert {"n1", "n2"} == {node.name for node in seen.nodes}


def test_an_integer_that_python_refuses_to_print_is_a_problem_too() -> None:
    """Thousands of digits are one more wrong value."""
    seen = cluster(pods=[pod("p", priority=10**5000)])

    assert ["pod default/p: spec.priority is 'a huge number'; want a whole number from -2147483648 to 2147483647"] == [
        str(problem) for problem in seen.problems
    ]


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_lists_changes_nothing(shuffle: random.Random) -> None:
    """Two listings of one cluster are one cluster."""
    shuffled = {kind: shuffle.sample(objects, len(objects)) for kind, objects in WORLD.items()}

    assert cluster(**WORLD) == cluster(**shuffled)


def test_a_node_is_read_with_its_cards_and_pods() -> None:
    """Labels of feature discovery say the model, allocatable the number."""
    seen, lines = the_node(holding("a", ("1", 1024, 100)), of=node(spec={"taints": [{"key": "gpu", "effect": "NoSchedule"}]}))

    assert lines == []
    assert [gpu.id for gpu in seen.gpus] == ["0", "1"]
    assert {("T4", 16384, 65_000)} == {(gpu.model, gpu.vram_mib, gpu.mtflops) for gpu in seen.gpus}
    assert (
        seen.cpu_milli,
        seen.memory_mib,
        seen.pods_max,
        seen.ready,
        seen.fenced,
        seen.machine_id,
    ) == (3920, 15 * 1024, 29, True, "", "i-1")
    assert (Taint(key="gpu"),) == seen.taints
    assert [held.id for held in seen.pods] == ["default/a"]


def test_labels_of_the_node_win_over_the_table() -> None:
    """Feature discovery prints the usable MiB; a site may state its own compute."""
    seen, _ = the_node(of=node(labels={"nvidia.com/gpu.memory": "15360", "tfscale.io/gpu-mtflops": "60000"}))

    assert {(15360, 60_000)} == {(gpu.vram_mib, gpu.mtflops) for gpu in seen.gpus}


@pytest.mark.parametrize(
    ("change", "fence"),
    [
        ({"spec": {"unschedulable": True}}, "it is cordoned"),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, "it is being deleted"),
        ({"labels": {"nvidia.com/gpu.replicas": "4"}, "gpus": 8}, "the device plugin shares each of its GPUs 4 times"),
        (
            {"status": {"allocatable": {GPU: "1"}, "capacity": {GPU: "2"}}},
            "only 1 of its 2 GPUs are healthy; which ones is not known",
        ),
        (
            {"status": {"allocatable": {GPU: "2", "nvidia.com/mig-1g.5gb": "7"}}},
            "some of its GPUs are split by MIG; which ones is not known",
        ),
    ],
)
def test_a_node_that_must_not_take_pods_is_fenced_with_the_reason(change: dict[str, Any], fence: str) -> None:
    """It still counts, with its two cards."""
    seen, lines = the_node(of=node(**change))

    assert (fence, 2, []) == (seen.fenced, len(seen.gpus), lines)


def test_gpus_that_the_device_plugin_gave_away_fence_the_node() -> None:
    """Kubernetes does not say which cards a plain request got."""
    seen, lines = the_node(pod("a", on="n1", gpus=1), holding("b", ("0", 1, 1)))

    assert (seen.fenced, lines) == ("the device plugin gave away 1 of its GPUs; which ones is not known", [])


def test_a_node_whose_model_is_not_labelled_yet_has_no_cards_and_no_problem() -> None:
    """Feature discovery may come later than the device plugin."""
    obj = node()
    del obj["metadata"]["labels"]["nvidia.com/gpu.product"]
    seen, lines = the_node(of=obj)

    assert (seen.gpus, lines) == ((), [])
    assert seen.fenced.startswith("its GPU model is not known: no label tfscale.io/gpu-model")


@pytest.mark.parametrize(
    ("pods", "change", "line"),
    [
        (
            [holding("a", ("0", 1, 1), ("1", 1, 1)), holding("b", ("2", 1, 1))],
            {},
            "status.allocatable[nvidia.com/gpu] is '2'; want all that its pods hold: GPU 0, GPU 1, GPU 2",
        ),
        (
            [holding("a", ("0", 1, 1)), pod("b", on="n1", gpus=2)],
            {},
            "status.allocatable[nvidia.com/gpu] is '2'; want all that its pods hold: GPU 0, 2 of the device plugin's",
        ),
        (
            [holding("a", ("0", 9000, 1)), holding("b", ("0", 9000, 1))],
            {},
            "VRAM held on GPU 0 is '18000 MiB'; want at most 16384 MiB, all that the T4 has",
        ),
        (
            [holding("a", ("0", 1, 600)), holding("b", ("0", 1, 600))],
            {},
            "compute held on GPU 0 is '1200 milli'; want at most 1000 milli, the whole card",
        ),
        ([], {"labels": {"tfscale.io/gpu-model": "A10X"}}, "metadata.labels[tfscale.io/gpu-model] is 'A10X'; want A10?"),
        (
            [],
            {"labels": {"nvidia.com/gpu.memory": "15 GiB"}},
            "metadata.labels[nvidia.com/gpu.memory] is '15 GiB'; want a whole number from 1 to 2147483647",
        ),
        ([], {"gpus": "1e9"}, "status.allocatable[nvidia.com/gpu] is '1e9'; want a whole number from 0 to 128"),
        (
            [],
            {"status": {"allocatable": {"cpu": "x"}}},
            "status.allocatable.cpu is 'x'; want a quantity such as 500m, 2 or 4Gi",
        ),
    ],
)
def test_a_node_that_contradicts_itself_gives_one_line_and_is_fenced(pods: list[Json], change: dict[str, Any], line: str) -> None:
    """It keeps its machine and its pods, so that it is neither lost nor idle."""
    seen, lines = the_node(*pods, of=node(**change))

    assert [f"node n1: {line}"] == lines
    assert f"node n1: {line}" in seen.fenced
    assert ("i-1", len(pods)) == (seen.machine_id, len(seen.pods))


def test_what_was_broken_later_does_not_fence_the_node() -> None:
    """A running pod whose request was edited still holds what its record says; a broken idle mark is written again."""
    edited = holding("a", ("0", 1, 1))
    edited["metadata"]["annotations"]["tfscale.io/vram-request"] = "x"
    seen, lines = the_node(edited, of=node(metadata={"name": "n1", "annotations": {"tfscale.io/idle-since": "now"}}))

    assert (seen.fenced, seen.idle_since_s) == ("", None)
    assert [
        "node n1: metadata.annotations[tfscale.io/idle-since] is 'now'; want an RFC 3339 time such as 2026-07-20T13:44:30Z",
        "pod default/a: metadata.annotations[tfscale.io/vram-request] is 'x'; want a quantity such as 500m, 2 or 4Gi",
    ] == lines


def test_only_nodes_with_our_label_or_our_machine_are_managed() -> None:
    """Other nodes of the cluster are nobody's business here."""
    bare = node("bare")
    del bare["metadata"]["labels"]["tfscale.io/pool"]

    assert cluster(nodes=[bare]).nodes == ()
    assert [seen.pool for seen in cluster(nodes=[bare], machines={"inference": [MACHINE]}).nodes] == ["inference"]


def test_a_node_that_names_another_pool_than_its_machine_is_a_problem() -> None:
    """The launch decides where it belongs."""
    seen = cluster(nodes=[node(labels={"tfscale.io/pool": "x"})], machines={"inference": [MACHINE]})
    line = "node n1: metadata.labels[tfscale.io/pool] is 'x'; want inference, the pool that launched its machine"

    assert ([line], ["inference"]) == ([str(problem) for problem in seen.problems], [seen.pool for seen in seen.nodes])


@pytest.mark.parametrize(
    ("pools", "want"), [([pool()], "inference?"), ([pool("a", x=1)], "one of a"), ([], "the name of a gpupool (there is none)")]
)
def test_a_node_labelled_with_a_pool_that_nobody_made_is_a_problem(pools: list[Json], want: str) -> None:
    """No pod would ever come there."""
    seen = cluster(nodes=[node(labels={"tfscale.io/pool": "inferrence"})], pools=pools)

    assert f"node n1: metadata.labels[tfscale.io/pool] is 'inferrence'; want {want}" in map(str, seen.problems)


def test_a_node_of_a_pool_that_cannot_be_used_now_is_labelled_rightly() -> None:
    """The problem of the pool is told once, at the pool."""
    seen = cluster(nodes=[node()], pools=[pool(x=1)])

    assert ["gpupool inference"] == [problem.where for problem in seen.problems]


@given(st.none() | st.integers(0, 10**10))
def test_an_idle_mark_survives_the_round_trip(since_s: int | None) -> None:
    """None takes the mark off."""
    seen, _ = the_node(of=node(metadata={"name": "n1", "annotations": idle_mark(since_s)["metadata"]["annotations"]}))

    assert since_s == seen.idle_since_s


@pytest.mark.parametrize(
    ("pools", "names", "expected"),
    [
        ([pool("a"), pool("b")], "b", "b"),
        ([pool("a"), pool("b", default=True)], None, "b"),
        ([pool("a")], None, "a"),
        ([pool("a")], "aa", "metadata.annotations[tensor-fusion.ai/gpupool] is 'aa'; want a?"),
        ([pool("a", x=1)], "a", "metadata.annotations[tensor-fusion.ai/gpupool] is 'a'; want a gpupool without problems"),
        (
            [pool("a"), pool("b", x=1)],
            None,
            f"{NO_POOL}(a, b): none serves as the default",
        ),
        (
            [],
            None,
            f"{NO_POOL}(there is none): none serves as the default",
        ),
    ],
)
def test_a_pod_goes_to_the_pool_it_names_else_the_default_else_the_only_one(
    pools: list[Json], names: str | None, expected: str
) -> None:
    """A pod that waits for no pool says so in one line."""
    waiting = pod("p", notes=SHARE | ({"tensor-fusion.ai/gpupool": names} if names else {}))
    seen = cluster(pods=[waiting], pools=pools)
    lines = [str(problem).removeprefix("pod default/p: ") for problem in seen.problems if problem.where == "pod default/p"]

    assert [expected] == [demand.pool for demand in seen.demands] + lines


def test_two_default_pools_are_none() -> None:
    """Which of them was meant is not known."""
    seen = cluster(pods=[pod("p")], pools=[pool("a", default=True), pool("b", default=True)])

    assert "gpupool b: spec.default is 'true'; want only one default gpupool; a is one too" in map(str, seen.problems)
    assert seen.demands == ()


def test_a_pool_with_a_record_that_cannot_be_read_is_left_alone() -> None:
    """What was bought for it is not known, so nothing may be bought or given back there."""
    broken: Json = {"metadata": {"name": "r"}, "spec": {"pool": "inference", "mode": "ec2"}, "status": {"state": "Redy"}}
    seen = cluster(requests=[broken], pools=[pool(), pool("other")])

    assert [pool.name for pool in seen.pools] == ["other"]
    assert [str(p) for p in seen.problems] == ["noderequest r: status.state is 'Redy'; want Ready?"]


@pytest.mark.parametrize(
    ("state", "settled", "names", "batch"),
    [
        (State.REQUESTED, False, ("b", "r"), "b"),
        (State.REQUESTED, True, ("b", "r"), ""),
        (State.LAUNCHED, True, ("b", "r"), "b"),
        (State.REQUESTED, False, ("other", "r"), ""),
        (State.REQUESTED, False, ("b", "other"), ""),
        (State.REQUESTED, False, ("", "r"), ""),
    ],
)
def test_a_call_stands_behind_a_request_where_both_records_say_so(
    state: State,
    settled: bool,  # noqa: FBT001 - a parameter of the test
    names: tuple[str, str],
    batch: str,
) -> None:
    """One that is still Requested after its call was settled got nothing."""
    named, carried = names
    record = write_batch(LaunchBatch(name="b", pool="inference", mode="ec2", requests=(carried,), parameters={}, settled=settled))
    request = write_request(NodeRequest(name="r", pool="inference", mode="ec2", batch=named, state=state))
    seen = cluster(requests=[request], batches=[record])

    assert [batch] == [request.batch for request in seen.requests]


def changing(names: list[str], edits: list[tuple[str, str]]) -> Iterator[list[Json]]:
    """Yield the pods after each edit, each change under a new resource version, as an API server gives them."""
    pods = {name: holding(name, ("0", 1024, 100)) for name in names}
    for version, (name, edit) in enumerate([("", ""), *edits], start=1):
        if edit == "gone":
            pods.pop(name, None)
        elif name:
            pods[name] = (
                holding(name, (edit, 1024, 100)) if edit != "broken" else pod(name, on="n1", notes={"tfscale.io/allocation": "x"})
            )
        for one in pods.values():
            one["metadata"].setdefault("resourceVersion", str(version))
        yield copy.deepcopy(list(pods.values()))


EDITS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["0", "1", "broken", "gone"])), max_size=6)


@given(EDITS)
def test_pods_that_are_remembered_are_read_as_if_they_were_new(edits: list[tuple[str, str]]) -> None:
    """With memory and without it the cluster is the same, problems included, whatever changes, goes and comes back."""
    bound = BoundPods(GpuTable(), "tensor-fusion.ai")
    for pods in changing(["a", "b"], edits):
        assert cluster(nodes=[node()], pods=pods) == cluster(nodes=[node()], pods=pods, bound=bound)


def test_a_node_of_karpenter_is_known_by_its_node_claim() -> None:
    """Its provider id is the cloud's; what tfscale launched is the claim. Before it is registered, the listing tells."""
    claim = {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": "inference-1", "uid": "u"}
    registered = node(metadata={"ownerReferences": [claim]})
    machine = Machine(id="inference-1", batch="b", pool="inference", offer="", provider_id="aws:///us-east-1a/i-1")

    assert "inference-1" == the_node(of=registered)[0].machine_id
    (joining,) = cluster(nodes=[node()], machines={"inference": (machine,)}).nodes
    assert "inference-1" == joining.machine_id


def test_machines_without_a_provider_id_own_no_node() -> None:
    """A claim that was not launched yet, and a node that its cloud did not name yet, are not the same."""
    machine = Machine(id="inference-1", batch="b", pool="inference", offer="", provider_id="")
    (seen,) = cluster(nodes=[node(spec={"providerID": ""})], machines={"inference": (machine,)}).nodes

    assert "" == seen.machine_id


def test_the_pools_own_taint_keeps_only_others_away() -> None:
    """Another pool's taint, or another taint, stays."""
    taints = [{"key": "tfscale.io/pool", "value": value, "effect": "NoSchedule"} for value in ("inference", "other")]
    seen, _ = the_node(of=node(spec={"taints": taints}))

    assert (Taint(key="tfscale.io/pool", value="other"),) == seen.taints
