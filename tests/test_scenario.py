"""Scenario files: what is read, and the one line for each thing that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tfscale.catalogue import InstanceType
from tfscale.errors import BadInputError
from tfscale.gpus import GpuModel, GpuTable
from tfscale.kube.convert import read_cluster
from tfscale.kube.port import GPU_POOLS, NODES, PODS
from tfscale.manifests import MOST_CHARACTERS, read_manifests
from tfscale.scenario import Capacity, Cloud, Scenario, read_scenario

FIRST = Path(__file__).parents[1] / "examples" / "first.yaml"
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n"
T4_TYPE = {"name": "t4.x", "gpuModel": "T4", "cpu": 4, "memory": "16Gi", "usdPerHour": 0.526}
CLOUD = {"zones": ["a", "b"], "instanceTypes": [T4_TYPE]}
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


class Plain(yaml.SafeDumper):
    """Writes a value twice rather than an alias."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Return True for everything."""
        return True


def document(**spec: Any) -> str:  # noqa: ANN401 - JSON
    """Return a Scenario document."""
    return yaml.dump({"apiVersion": "sim.tfscale.io/v1alpha1", "kind": "Scenario", "spec": spec}, Dumper=Plain)


def lines(text: str) -> list[str]:
    """Return the problems of a file, one line each."""
    with pytest.raises(BadInputError) as caught:
        read_scenario(text, name="s.yaml")
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    return str(caught.value).splitlines()


@given(json_values)
def test_json_is_read_unchanged(value: object) -> None:
    """Every JSON text is YAML of the core schema."""
    found = read_manifests(json.dumps([value], ensure_ascii=False), name="x")

    assert [[value]] == [manifest.value for manifest in found]


@given(st.text())
def test_any_text_is_a_scenario_or_bad_input(text: str) -> None:
    """A file that is no YAML, or YAML that is no scenario, never gives another error."""
    try:
        read_scenario(text, name="s.yaml")
    except BadInputError as error:
        assert error.problems  # noqa: PT017 - either outcome is right


@given(st.sampled_from(["gpuModels", "cloud", "workloads", "seed", "start"]), json_values)
def test_any_json_in_a_scenario_is_read_or_bad_input(key: str, value: object) -> None:
    """Whatever a key holds, the answer is a scenario or what was wanted."""
    try:
        read_scenario(document(**{key: value}), name="s.yaml")
    except BadInputError as error:
        assert all(problem.where.startswith("s.yaml") for problem in error.problems)  # noqa: PT017 - either outcome is right


def test_a_scenario_is_read_with_its_units() -> None:
    """Money in micro-USD, CPU in millicores, memory in MiB, durations in seconds."""
    types = [T4_TYPE, {"name": "cpu.x", "cpu": "2", "memory": "1G"}]
    capacity = [{"instanceType": "t4.x", "zone": "a", "machines": 2}]
    text = document(
        gpuModels=[{"name": "G2", "vramMib": 24576, "tflops": 125}],
        cloud=CLOUD | {"instanceTypes": types, "capacity": capacity, "bootDelay": "2m"},
        seed=7,
        start="2026-01-01T00:00:05Z",
    )
    expected = Scenario(
        gpu_models=(GpuModel(name="G2", vram_mib=24576, mtflops=125_000, source="scenario"),),
        cloud=Cloud(
            region="us-east-1",
            zones=("a", "b"),
            boot_delay_s=120,
            shutdown_delay_s=30,
            instance_types=(
                InstanceType(name="t4.x", gpu_model="T4", gpu_count=1, cpu_milli=4000, memory_mib=16384, price_micro_usd=526_000),
                InstanceType(name="cpu.x", cpu_milli=2_000, memory_mib=954),
            ),
            capacity=(Capacity(instance_type="t4.x", zone="a", capacity_type="on-demand", machines=2),),
            launch_template="tfscale",
        ),
        seed=7,
        start_s=1_767_225_605,
    )

    assert expected == read_scenario(text, name="s.yaml")


def test_objects_are_taken_as_they_are_from_documents_and_lists() -> None:
    """A pod gets the namespace that kubectl would give it; nothing inside is judged here."""
    text = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {priority: wrong}}
- {apiVersion: v1, kind: Node, metadata: {name: n}}
---
---
apiVersion: tfscale.io/v1alpha1
kind: GPUPool
metadata: {name: g}
spec: {nonsense: 1}
"""
    objects = read_scenario(text, name="s.yaml").objects

    assert [PODS, NODES, GPU_POOLS] == [kind for kind, _ in objects]
    assert {"name": "p", "namespace": "default"} == objects[0][1]["metadata"]


def test_pods_of_a_workload_are_numbered_and_share_nothing() -> None:
    """Who changes one pod changes no other."""
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}
    scenario = read_scenario(document(workloads=[{"name": "w", "replicas": 2, "template": template}]), name="s.yaml")
    load = scenario.workloads[0]
    first, second = (load.pod(name) for _, name in load.arriving(seed=0))
    first["spec"]["containers"].append({})

    assert {"name": "w-1", "namespace": "default", "labels": {"app": "x"}} == second["metadata"]
    assert [] == second["spec"]["containers"]


def test_the_first_example_is_understood_completely() -> None:
    """Every pod of it becomes a demand without any problem."""
    scenario = read_scenario(FIRST.read_text(encoding="utf-8"), name="first.yaml")
    pods = [pod | {"metadata": pod["metadata"] | {"uid": str(number)}} for number, pod in enumerate(_pods(scenario))]
    pools = [obj for kind, obj in scenario.objects if kind == GPU_POOLS]
    cluster = read_cluster(
        pods=pods, nodes=[], pools=pools, requests=[], batches=[], machines={}, now_s=0, gpus=GpuTable(scenario.gpu_models)
    )

    assert () == cluster.problems
    assert len(pods) == len([demand for demand in cluster.demands if not demand.blocked])


def _pods(scenario: Scenario) -> list[dict[str, Any]]:
    return [load.pod(name) for load in scenario.workloads for _, name in load.arriving(scenario.seed)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2\n", "s.yaml line 2: key is 'a'; want each key once in a mapping"),
        ("a: &x [1]\nb: *x\n", "s.yaml line 2: alias is '*x'; want the value written out"),
        ("a: !!python/none\n", "s.yaml line 1: tag is 'tag:yaml.org,2002:python/none'; want no tag"),
        ("1: 2\n", "s.yaml line 1: key is '1'; want text as key"),
        ("a: b: c\n", "s.yaml line 1: text is 'a: b: c'; want valid YAML (mapping values are not allowed in this context)"),
        ("[" * 300_000, "s.yaml line 1: nesting is '101 levels'; want at most 100"),
        ("- " * 300_000, "s.yaml line 1: nesting is '101 levels'; want at most 100"),
        ("just text", "s.yaml document 1 (line 1): the object is 'just text'; want a mapping"),
        ("---\nkind: Pood\n", "s.yaml document 1 (line 2): kind is 'Pood'; want Pod?"),
        ("apiVersion: v2\nkind: Pod\n", "s.yaml document 1 (line 1): apiVersion is 'v2'; want v1 for a Pod"),
        ("apiVersion: v1\nkind: Pod\n", "s.yaml document 1 (line 1): metadata.name is ''; want text that is not empty"),
        ("", "s.yaml: number of documents is '0'; want at least one"),
        ("# nothing\n---\n", "s.yaml: number of documents is '0'; want at least one"),
        ("kind: List\nitems: [5]\n", "s.yaml document 1 (line 1) items[0]: the object is '5'; want a mapping"),
        ("kind: List\nitems: 5\n", "s.yaml document 1 (line 1): items is '5'; want a list"),
        (
            "kind: List\nitems: [{kind: List, items: [{kind: Pood}]}]\n",
            "s.yaml document 1 (line 1) items[0] items[0]: kind is 'Pood'; want Pod?",
        ),
        (f"{POD}---\n{POD}", "s.yaml: pod default/p: number of documents is '2'; want one"),
        (document() + "---\n" + document(), "s.yaml: number of Scenario documents is '2'; want at most one"),
    ],
    ids=lambda value: value[:20],
)
def test_a_broken_file_gives_one_line(text: str, line: str) -> None:
    """The line names the file and the place in it; nothing crashes on nesting or grows by aliases."""
    assert [line] == lines(text)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"workload": []}, "a key of spec is 'workload'; want workloads?"),
        ({"cloud": {**CLOUD, "bootdelay": "1s"}}, "a key of spec.cloud is 'bootdelay'; want bootDelay?"),
        (
            {"cloud": {**CLOUD, "bootDelay": 90}},
            "spec.cloud.bootDelay is '90'; want a duration in whole seconds, such as 90s, 5m or 1h30m",
        ),
        (
            {"cloud": {**CLOUD, "capacity": [{"instanceType": "t4.y", "zone": "a", "machines": 1}]}},
            "spec.cloud.capacity[0].instanceType is 't4.y'; want t4.x?",
        ),
        (
            {"cloud": {**CLOUD, "capacity": [{"instanceType": "t4.x", "zone": "c", "machines": 1}]}},
            "spec.cloud.capacity[0].zone is 'c'; want one of a, b",
        ),
        (
            {"cloud": {**CLOUD, "capacity": [{"instanceType": "t4.x", "zone": "a", "machines": -1}]}},
            "spec.cloud.capacity[0].machines is '-1'; want greater than or equal to 0",
        ),
        (
            {"gpuModels": [{"name": "G", "vramMib": 1, "tflops": 1}] * 2},
            "spec.gpuModels[1] is 'G'; want a name that gpuModels[0] does not have",
        ),
        (
            {"gpuModels": [{"name": "G", "vramMib": 0, "tflops": 1}]},
            "spec.gpuModels[0].vramMib is '0'; want greater than or equal to 1",
        ),
        (
            {"workloads": [{"name": "w", "template": {}}]},
            "spec.workloads[0].template.spec is ''; want a value, which is required",
        ),
        ({"start": "yesterday"}, "spec.start is 'yesterday'; want an RFC 3339 time such as 2026-07-20T13:44:30Z"),
    ],
)
def test_a_bad_scenario_gives_one_line(spec: dict[str, Any], line: str) -> None:
    """The line names file, document, path and what is near."""
    assert [f"s.yaml document 1 (line 1): {line}"] == lines(document(**spec))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"usdPerHour": float("nan")}, "usdPerHour is '.nan'; want an amount of USD of 0 or more, such as 0.526"),
        ({"usdPerHour": -1}, "usdPerHour is '-1'; want an amount of USD of 0 or more, such as 0.526"),
        ({"usdPerHour": 0}, "usdPerHour is '0'; want greater than 0"),
        ({"spotUsdPerHour": "NaN"}, "spotUsdPerHour is 'NaN'; want an amount of USD of 0 or more, such as 0.526"),
        ({"gpuModel": "A10X"}, "gpuModel is 'A10X'; want A10?"),
        ({"memory": "16Gb"}, "memory is '16Gb'; want a quantity such as 500m, 2 or 4Gi"),
    ],
)
def test_a_bad_instance_type_gives_one_line(changed: dict[str, Any], line: str) -> None:
    """A price that is no price, a model that nobody knows, an amount that is none."""
    assert [f"s.yaml document 1 (line 1): spec.cloud.instanceTypes[0].{line}"] == lines(
        document(cloud=CLOUD | {"instanceTypes": [T4_TYPE | changed]})
    )


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Problems of several documents come together."""
    assert len(lines("kind: Pood\n---\nkind: Nod\n---\n" + document(sed=1, workloads=1))) == 4


def test_a_file_that_is_too_large_is_refused_before_it_is_parsed() -> None:
    """64 Mi characters are enough for every trace."""
    assert ["s.yaml: size is '67108865 characters'; want at most 67108864"] == lines("#" * (MOST_CHARACTERS + 1))


def test_a_number_that_json_cannot_say_is_named_by_its_field() -> None:
    """A price of NaN is a problem of its pool alone: the file and the other objects go on."""
    pools = [
        {"apiVersion": "tfscale.io/v1alpha1", "kind": "GPUPool", "metadata": {"name": name}, "spec": {"mode": "static"} | more}
        for name, more in (("bad", {"limits": {"usdPerHour": float("nan")}}), ("good", {}))
    ]
    found = read_scenario("---\n".join(map(yaml.dump, pools)), name="s.yaml")
    cluster = read_cluster(
        pods=[], nodes=[], pools=[obj for _, obj in found.objects], requests=[], batches=[], machines={}, now_s=0, gpus=GpuTable()
    )

    assert ["good"] == [pool.name for pool in cluster.pools]
    assert ["gpupool bad: spec.limits.usdPerHour is '.nan'; want an amount of USD of 0 or more, such as 0.526"] == list(
        map(str, cluster.problems)
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (document(start="9999-12-31T23:59:59Z"), "spec.start is '9999-12-31T23:59:59Z'; want an RFC 3339 time of this century"),
        (
            "apiVersion: tfscale.io/v1alpha1\nkind: Scenario\n",
            "apiVersion is 'tfscale.io/v1alpha1'; want sim.tfscale.io/v1alpha1 for a Scenario",
        ),
        (
            POD.replace("{name: p}", "{name: p, annotations: {tfscale.io/vram-request: 4}}"),
            "metadata.annotations[tfscale.io/vram-request] is '4'; want a string: write \"4\" in quotes",
        ),
        (
            POD.replace("{name: p}", "{name: p, labels: {a: [b]}}"),
            "metadata.labels.a is \"['b']\"; want a string",
        ),
        (
            document(workloads=[{"name": "w", "template": {"metadata": {"annotations": {"tfscale.io/x": True}}, "spec": {}}}]),
            "spec.workloads[0].template.metadata.annotations[tfscale.io/x] is 'True'; want a string: write \"true\" in quotes",
        ),
        (
            document(workloads=[{"name": "w", "runFor": "87841h", "template": {"spec": {}}}]),
            "spec.workloads[0].runFor is '87841h'; want a duration of at most ten years",
        ),
    ],
)
def test_what_no_api_server_or_clock_would_take_is_one_line(text: str, line: str) -> None:
    """A start that no clock reaches, a Scenario of another version, an annotation that is no text."""
    (found,) = lines(text)

    assert line in found


def test_an_instance_type_with_gpus_of_no_model_is_refused() -> None:
    """Nobody could tell what they are."""
    (line,) = lines(document(cloud=CLOUD | {"instanceTypes": [T4_TYPE | {"gpuModel": None, "gpus": 2}]}))

    assert line.startswith("s.yaml document 1 (line 1): spec.cloud.instanceTypes[0] is ")
    assert line.endswith("want a type with the gpuModel of its 2 GPUs")
