"""Dumps: what kubectl prints is read as a whole or refused in one line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given

from tfscale.dump import Dump, read_dump
from tfscale.errors import BadInputError
from tfscale.kube.port import GPU_POOLS, NODES, PODS, Json, Kind
from tfscale.quantity import time_text

TIME = "2026-07-20T13:44:30Z"


def obj(kind: Kind, name: str, **fields: Any) -> Json:  # noqa: ANN401 - fields of an object
    """Return an object with metadata of its own."""
    metadata = {"creationTimestamp": TIME, "name": name, **fields.pop("metadata", {})}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **fields}


def listed(*items: Any) -> Json:  # noqa: ANN401 - whatever is to be in a list
    """Return a list as kubectl prints it."""
    return {"apiVersion": "v1", "items": [*items], "kind": "List", "metadata": {"resourceVersion": ""}}


def as_json(value: object) -> str:
    """Return what ``kubectl -o json`` prints."""
    return json.dumps(value, indent=4, ensure_ascii=False) + "\n"


def as_yaml(value: object) -> str:
    """Return what ``kubectl -o yaml`` prints: keys in order, ``kind: List`` after the last item."""
    return yaml.safe_dump(value, allow_unicode=True)


SMALL = listed(
    obj(PODS, "a", metadata={"namespace": "x", "annotations": {"note": 'a "quoted" é \\ note: {}'}}, status={"phase": "Running"}),
    obj(NODES, "n", status={"allocatable": {"cpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}]}, n=-1.5e-7, b=True),
)


def read_text(folder: Path, text: str | bytes) -> Dump:
    """Return the dump that one file with this text is."""
    path = folder / "dump"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_dump([str(path)])


def outcome(folder: Path, text: str | bytes) -> Dump | str:
    """Return the dump, or why it is refused, without the folder."""
    try:
        return read_text(folder, text)
    except BadInputError as error:
        return str(error).replace(f"{folder}/", "")


def refusal(folder: Path, text: str | bytes) -> str:
    """Return why a file with this text is refused."""
    refused = outcome(folder, text)
    assert isinstance(refused, str)
    return refused


def names(dump: Dump) -> list[str]:
    """Return ``namespace/name`` of every object."""
    return [f"{namespace}/{name}" for _, namespace, name in dump.objects]


@given(st.one_of(st.text(), st.binary()))
def test_whatever_a_file_holds_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    """Nothing but ``BadInputError`` is ever raised."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    found = outcome(tmp_path_factory.getbasetemp(), data)

    assert isinstance(found, Dump) or 1 == len(found.splitlines())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "items", "metadata", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(JSON_VALUES, max_size=4), st.sampled_from([as_json, json.dumps]))
def test_whatever_is_in_a_list_the_objects_beside_it_are_read(
    tmp_path_factory: pytest.TempPathFactory, items: list[object], write: Callable[[object], str]
) -> None:
    """What is no object becomes a problem that says where it is."""
    text = write(listed(*items, obj(PODS, "a")))
    if "NaN" in text or "Infinity" in text:
        assert "is no number of JSON" in refusal(tmp_path_factory.getbasetemp(), text)
        return
    dump = read_text(tmp_path_factory.getbasetemp(), text)

    assert ["default/a"] == names(dump)
    assert len(items) == len(dump.problems)
    assert all("items[" in str(problem) for problem in dump.problems)


def test_json_that_is_cut_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    """At every character."""
    text = as_json(SMALL).rstrip()
    wrong = [cut for cut in range(1, len(text)) if "the file is cut off" not in refusal(tmp_path, text[:cut])]

    assert [] == wrong


def test_yaml_that_is_cut_is_refused_or_nothing_is_missing(tmp_path: Path) -> None:
    """At every character, between two items too, where it is good YAML."""
    text = as_yaml(SMALL)
    whole = read_text(tmp_path, text).objects
    for cut in range(1, text.index("kind: List") + len("kind: List")):
        assert 1 == len(refusal(tmp_path, text[:cut]).splitlines())
    for cut in range(text.index("kind: List") + len("kind: List"), len(text)):
        found = outcome(tmp_path, text[:cut])
        assert whole == found.objects if isinstance(found, Dump) else 1 == len(found.splitlines())


def test_a_cut_between_two_items_says_so(tmp_path: Path) -> None:
    """The line names the key that is missing."""
    text = as_yaml(SMALL)

    assert "dump, document at line 1: kind is ''; want List, which kubectl writes behind the last item: the file is cut off" == (
        refusal(tmp_path, text[: text.index("- apiVersion", text.index("- apiVersion") + 1)])
    )


@pytest.mark.parametrize("write", [as_json, as_yaml])
def test_both_forms_say_the_same(tmp_path: Path, write: Callable[[object], str]) -> None:
    """JSON and YAML of one list are the same objects."""
    dump = read_text(tmp_path, write(SMALL))

    assert [{**item, "metadata": {**item["metadata"]}} for item in SMALL["items"]] == [*dump.objects.values()]
    assert ["x/a", "/n"] == names(dump)


@pytest.mark.parametrize(
    "text",
    [
        as_json(obj(PODS, "a")),
        as_json(obj(PODS, "a")) + as_json(obj(PODS, "b")) + as_json(listed(obj(PODS, "c"))),
        "\n".join(json.dumps(obj(PODS, name)) for name in "abc"),
        "---\n" + as_yaml(obj(PODS, "a")) + "---\n" + as_yaml(listed(obj(PODS, "b"), obj(PODS, "c"))) + "---\n",
        json.dumps({"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}),
        "\ufeff" + as_json(obj(PODS, "a")).replace("\n", "\r\n"),
    ],
)
def test_single_objects_lists_and_several_documents_are_read(tmp_path: Path, text: str) -> None:
    """Also the lists of the API itself, whose items do not say what they are, and files of other systems."""
    assert names(read_text(tmp_path, text)) in (
        ["default/a"],
        ["default/a", "default/b"],
        ["default/a", "default/b", "default/c"],
    )


def test_other_kinds_are_counted(tmp_path: Path) -> None:
    """By kind and version: an old version of a kind that is known is another kind."""
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    old = {"apiVersion": "karpenter.sh/v1beta1", "kind": "NodeClaim", "metadata": {"name": "c"}}
    dump = read_text(tmp_path, as_json(listed(deployment, deployment, old, obj(PODS, "a"))))

    assert {"Deployment (apps/v1)": 2, "NodeClaim (karpenter.sh/v1beta1)": 1} == dump.not_read
    assert ["default/a"] == names(dump)


def test_what_is_no_object_is_a_problem_with_its_place(tmp_path: Path) -> None:
    """File, line, item and field."""
    dump = read_text(tmp_path, "\n\n" + as_json(listed(obj(PODS, "a"), {"kind": "Pod", "apiVersion": "v1"}, 5)))

    assert [
        "dump, document at line 3: items[1].metadata.name is ''; want text that is not empty",
        "dump, document at line 3: items[2] is '5'; want a mapping",
    ] == [str(problem).replace(f"{tmp_path}/", "") for problem in dump.problems]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tfscale: file is 'dump'; want a file that is not empty"),
        (" \n", "tfscale: file is 'dump'; want a file that is not empty"),
        ("---\n# nothing\n", "tfscale: file is 'dump'; want a file that is not empty"),
        (b"\xff\xfe{\x00}\x00", "tfscale: file is 'dump'; want UTF-8 text, which byte 0 is not"),
        (
            '{"a": "\\ud83d\\ude00 \\ud83d"}',
            'dump: text is \'{"a": "\\\\ud83d\\\\ude00 \\\\ud83d"}\'; want JSON as kubectl prints it (',
        ),
        ("hello", "dump, document at line 1: the object is 'hello'; want a Kubernetes object or a List of them"),
        ("[]", "dump, document at line 1: the object is '[]'; want a Kubernetes object or a List of them"),
        ("apiVersion: v1\n", "dump, document at line 1: kind is ''; want text that is not empty"),
        ('{"a": 1,\n "b" 2, "c": 3}', "dump line 2: text is '2, \"c\": 3}'; want JSON (Expecting ':' delimiter)"),
        ("a: 1\na: 2\n", "dump line 2: key is 'a'; want each key once in a mapping"),
        ("[" * 100_000, "dump: text is '" + "[" * 40 + "'; want JSON as kubectl prints it (it is nested too deeply)"),
        ('{"a": ' + "9" * 5_000 + "}", 'dump: text is \'{"a": ' + "9" * 34 + "'; want JSON as kubectl prints it (Exceeds"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    """One line that says where and what was wanted."""
    assert refusal(tmp_path, text).startswith(message)
    assert 1 == len(refusal(tmp_path, text).splitlines())


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """One that is not there, an empty name or one that no file can have, a directory without dumps."""
    for path, want in (
        ("none", "a file that can be read (No such file or directory)"),
        ("", "a file that can be read (No such file or directory)"),
        ("a\0b", "a file that can be read (embedded null byte)"),
        (str(tmp_path), "a directory with .json or .yaml files"),
    ):
        with pytest.raises(BadInputError) as caught:
            read_dump([path])
        assert want == caught.value.problem.want


def test_a_directory_is_all_its_dumps(tmp_path: Path) -> None:
    """As kubectl reads it: files of these names, no folders below."""
    for name in ("b.yaml", "a.json", "c.yml", "d.txt"):
        (tmp_path / name).write_text(as_json(obj(PODS, name[0])))
    (tmp_path / "e.json").mkdir()

    assert ["default/a", "default/b", "default/c"] == names(read_dump([str(tmp_path)]))


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(as_json(obj(PODS, "a")).encode())))

    assert ["default/a"] == names(read_dump(["-"]))


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [("9", "10", 1), ("10", "9", 0), ("10", "10", 1), ("x", "9", 1), ("10", None, 1), (None, "5", 1), ("²", "1", 1)],
)
def test_of_one_object_in_two_files_the_newer_counts(tmp_path: Path, first: str | None, second: str | None, kept: int) -> None:
    """By resource version where both are numbers, else the file that was read last."""
    paths = [tmp_path / "1.json", tmp_path / "2.json"]
    for number, (path, version) in enumerate(zip(paths, (first, second), strict=True)):
        path.write_text(as_json(obj(PODS, "a", metadata={"resourceVersion": version}, spec={"from": number})))
    (found,) = read_dump(map(str, paths)).objects.values()

    assert kept == found["spec"]["from"]


def test_what_is_applied_wins_and_the_rest_stays(tmp_path: Path) -> None:
    """A pool from a file keeps the status and the finalizers that it has in the cluster."""
    before = obj(GPU_POOLS, "p", metadata={"finalizers": ["f"]}, spec={"mode": "ec2"}, status={"setAside": []})
    after = {"apiVersion": GPU_POOLS.api_version, "kind": "GPUPool", "metadata": {"name": "p"}, "spec": {"mode": "static"}}
    dump = read_text(tmp_path, as_json(before)).changed_by(read_text(tmp_path, as_json(listed(after, obj(GPU_POOLS, "q")))))

    assert [{**before, "spec": {"mode": "static"}}, obj(GPU_POOLS, "q")] == [*dump.objects.values()]


@given(st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=5))
def test_the_time_of_a_dump_is_the_latest_that_it_mentions(tmp_path_factory: pytest.TempPathFactory, times: list[int]) -> None:
    """Of creation, conditions with their heartbeats, and managed fields; of what is wrong nothing is said."""
    texts = [*map(time_text, times)]
    places: list[Callable[[str], Json]] = [
        lambda text: obj(PODS, "a", metadata={"creationTimestamp": text}),
        lambda text: obj(PODS, "b", status={"conditions": [{"lastTransitionTime": text}]}, metadata={"creationTimestamp": None}),
        lambda text: obj(NODES, "c", status={"conditions": [{"lastHeartbeatTime": text}]}, metadata={"creationTimestamp": 5}),
        lambda text: obj(NODES, "d", metadata={"creationTimestamp": "soon", "managedFields": [{"time": text, "fieldsV1": {}}]}),
        lambda text: obj(NODES, "e", metadata={"creationTimestamp": text}, status="none"),
    ]
    items = [place(text) for place, text in zip(places, texts, strict=False)]

    for write in (as_json, as_yaml):
        assert max(times) == read_text(tmp_path_factory.getbasetemp(), write(listed(*items))).latest_s()


def test_a_dump_without_times_has_none(tmp_path: Path) -> None:
    """Then somebody else has to say what time it is."""
    assert read_text(tmp_path, as_json(listed())).latest_s() is None


def test_managed_fields_are_not_kept(tmp_path: Path) -> None:
    """Only when they were written: they are half of many dumps."""
    managed = [{"time": TIME, "manager": "kubelet", "fieldsV1": {"f:status": {}}}, 5]
    for write in (as_json, as_yaml):
        (found,) = read_text(tmp_path, write(obj(PODS, "a", metadata={"managedFields": managed}))).objects.values()
        assert [{"time": TIME}] == found["metadata"]["managedFields"]
