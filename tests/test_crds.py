"""The definitions that ship with the package say what the code reads and writes, no more and no less."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.schemas import defaulted, leaves, schema_of
from tfscale.cli import Exit, main
from tfscale.conditions import Condition, of_request, updated
from tfscale.gpus import GpuTable
from tfscale.kube import pools
from tfscale.kube.crds import OUR_KINDS, definition
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, Json, Kind
from tfscale.kube.records import batch_settled, read_batch, read_node_request, write_batch, write_request
from tfscale.lifecycle import State
from tfscale.model import Disruption, LaunchBatch, NodeRequest
from tfscale.pool import Limits, OfferFilter, Pool, SetAside
from tfscale.status import PoolStatus

GPUS = GpuTable()
POOL = Pool(
    name="p",
    mode="ec2",
    options={"region": "us-east-1"},
    wanted=OfferFilter(instance_types=("g6.xlarge",), gpu_models=("L4",), zones=("us-east-1a",), capacity_types=("spot",)),
    limits=Limits(nodes=1, gpus=2, micro_usd=3, in_flight=4, launches_per_minute=5),
    set_aside=(SetAside(offer="o", pod="uid", until_s=1, reason="full"),),
)
REQUEST = NodeRequest(
    name="r", pool="p", mode="ec2", batch="b", state=State.READY, nominated=("uid",), machine_id="i-1", offer="o", node="n",
    launched_s=1, drain=Disruption(since_s=1, ends_s=2, event="Rebalance", why="it is wanted"),
    conditions=updated((), of_request(State.READY), now_s=1),
)  # fmt: skip
BATCH = LaunchBatch(name="b", pool="p", mode="ec2", requests=("r",), parameters={}, offers=("o",), created_s=1)
STATUS = PoolStatus(
    nodes=1,
    gpus=1,
    bought=1,
    bound=1,
    waiting=1,
    unmet=1,
    ready=Condition(type="Ready", status="True", reason="ModeAnswers", generation=1),
)
NOT_WRITTEN = {GPU_POOLS: {"spec.binder", "spec.inventory"}}
"""Of what is read: settings with one value each, which only people write."""
FOR_PEOPLE = {
    GPU_POOLS: {"pods.bound", "pods.waiting", "pods.unmet"},
    LAUNCH_BATCHES: {f"conditions[].{key}" for key in ("type", "status", "reason", "message", "lastTransitionTime")},
}
"""Of what is written to a status: what is never read again, field by field."""
GENERATION = "status.conditions[].observedGeneration"
"""Read and written as in every condition, but written of pools alone: a record's spec decides nothing of its state."""


def merged(*parts: Json) -> Json:
    """Return an object with the statuses of all."""
    return parts[0] | {"status": {key: value for part in parts for key, value in part.get("status", {}).items()}}


WRITTEN = {
    GPU_POOLS: merged(pools.pool_object(POOL), pools.status_patch({}, STATUS, now_s=1)),
    NODE_REQUESTS: write_request(REQUEST),
    LAUNCH_BATCHES: merged(write_batch(BATCH), batch_settled(BATCH.name, 1)),
}
"""One object of each kind in which everything is written that we ever write."""


class Seen(dict[str, Any]):
    """A JSON object that notes which of its fields are read."""

    def __init__(self, value: Json, path: str, paths: set[str]) -> None:
        super().__init__({key: self._below(one, f"{path}.{key}".removeprefix("."), paths) for key, one in value.items()})
        self._path, self._paths = path, paths

    @classmethod
    def _below(cls, value: Any, path: str, paths: set[str]) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(value, dict):
            return cls(value, path, paths)
        return [cls._below(item, f"{path}[]", paths) for item in value] if isinstance(value, list) else value

    def get(self, key: str, default: object = None, /) -> Any:  # noqa: ANN401 - as dict has it
        """Note the field and return it."""
        self._paths.add(f"{self._path}.{key}".removeprefix("."))
        return super().get(key, default)


def read_pool_and_status(obj: Json) -> object:
    """Read what is read of a pool."""
    return pools.read_set_aside(obj), pools.status_patch(obj, STATUS, now_s=2)


READERS = {GPU_POOLS: read_pool_and_status, NODE_REQUESTS: read_node_request, LAUNCH_BATCHES: read_batch}


def read_paths(kind: Kind) -> set[str]:
    """Return the fields of spec and status that the code reads, those alone that hold no further ones."""
    paths: set[str] = set()
    READERS[kind](Seen(WRITTEN[kind], "", paths))
    known = {*leaves(schema_of(kind))}
    found = {f"{path}[]" if f"{path}[]" in known else path for path in paths if path.startswith(("spec.", "status."))}
    return {path for path in found if not any(one.startswith((f"{path}.", f"{path}[]")) for one in found | known)}


NESTED = {"headroom", "limits"}
"""What has keys of its own."""


def keys_of_pool_spec() -> set[str]:
    """Return the keys that the reader of pools knows, as it tells them to who writes an unknown one."""
    spec = {f"spec.{key}" for key in known_keys("spec") if key not in NESTED | {"offers"}}
    offers = {f"spec.offers.{key}[]" for key in known_keys("spec.offers")}
    return spec | offers | {f"spec.{outer}.{key}" for outer in NESTED for key in known_keys(f"spec.{outer}")}


def known_keys(path: str) -> list[str]:
    """Return what may stand at one place of a pool's spec."""
    spec: Json = {"mode": "ec2"}
    place = spec if path == "spec" else spec.setdefault(path.removeprefix("spec."), {})
    place["?"] = 1
    _, problems = pools.read_pools([{"metadata": {"name": "p"}, "spec": spec}], gpus=GPUS)
    (want,) = [problem.want for problem in problems if problem.value == "?"]
    return want.removeprefix("one of ").split(", ")


def all_paths(value: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401 - any JSON
    """Yield the paths of the values of an object, list items as ``[]``; what a mode's options hold is its own."""
    if isinstance(value, dict) and path != "spec.options":
        for key, one in value.items():
            yield from all_paths(one, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for item in value:
            yield from all_paths(item, f"{path}[]")
    else:
        yield path


def written_paths(kind: Kind) -> set[str]:
    """Return the fields of spec and status that the code writes."""
    return {path for path in all_paths(WRITTEN[kind]) if path.startswith(("spec.", "status."))}


@pytest.mark.parametrize("kind", OUR_KINDS, ids=lambda kind: kind.plural)
def test_everything_that_is_written_is_in_the_schema_and_the_other_way_round(kind: Kind) -> None:
    """What is not in it the API server would drop without a word."""
    extra = {GENERATION} if kind is not GPU_POOLS else set()

    assert {*leaves(schema_of(kind))} == written_paths(kind) | NOT_WRITTEN.get(kind, set()) | extra


@pytest.mark.parametrize("kind", OUR_KINDS, ids=lambda kind: kind.plural)
def test_everything_that_is_read_is_in_the_schema_and_the_other_way_round(kind: Kind) -> None:
    """What nobody reads nobody should be asked to write."""
    spec = keys_of_pool_spec() if kind is GPU_POOLS else set()
    for_people = {f"status.{path}" for path in FOR_PEOPLE.get(kind, set())}
    extra = {GENERATION} if kind is LAUNCH_BATCHES else set()

    assert {*leaves(schema_of(kind))} == read_paths(kind) | spec | for_people | extra


def test_defaults_are_those_of_the_code() -> None:
    """A pool that only names its mode is the same with what the API server fills in."""
    bare = {"metadata": {"name": "p"}, "spec": {"mode": "ec2", "offers": {}, "limits": {}}}
    filled = defaulted(schema_of(GPU_POOLS), bare)

    assert {"idleAfter", "registerWithin", "setAsideFor", "default", "binder", "inventory"} < filled["spec"].keys()
    assert ["on-demand"] == filled["spec"]["offers"]["capacityTypes"]
    assert Pool(name="p", mode="ec2") == pools.read_pool(bare, gpus=GPUS) == pools.read_pool(filled, gpus=GPUS)


@pytest.mark.parametrize(("kind", "read"), [(NODE_REQUESTS, read_node_request), (LAUNCH_BATCHES, read_batch)])
def test_a_record_begins_as_the_code_takes_it_to_begin(kind: Kind, read: Callable[[Json], object]) -> None:
    """Its status is filled in before anybody writes one."""
    created = {key: value for key, value in WRITTEN[kind].items() if key != "status"}
    default = schema_of(kind)["properties"]["status"]["default"]

    assert read(created) == read(created | {"status": default})


def test_defaults_are_told_where_kubectl_explains_the_field() -> None:
    """It shows no defaults by itself."""
    spec = schema_of(GPU_POOLS)["properties"]["spec"]["properties"]
    durations = ("idleAfter", "registerWithin", "setAsideFor")
    capacity_types = spec["offers"]["properties"]["capacityTypes"]

    assert [] == [name for name in durations if f"Default {spec[name]['default']}." not in spec[name]["description"]]
    assert "Default {} alone.".format(*capacity_types["default"]) in capacity_types["description"]


def test_states_and_capacity_types_are_those_of_the_code() -> None:
    """One more there is one more here."""
    state = schema_of(NODE_REQUESTS)["properties"]["status"]["properties"]["state"]
    offers = schema_of(GPU_POOLS)["properties"]["spec"]["properties"]["offers"]["properties"]
    _, problems = pools.read_pools(
        [{"metadata": {"name": "p"}, "spec": {"mode": "x", "offers": {"capacityTypes": [""]}}}], gpus=GPUS
    )
    known = ", ".join(map(repr, offers["capacityTypes"]["items"]["enum"]))

    assert [*State] == state["enum"]
    assert known.replace(", 'reserved'", " or 'reserved'") == problems[0].want


@pytest.mark.parametrize("kind", OUR_KINDS, ids=lambda kind: kind.plural)
def test_a_definition_is_that_of_its_kind(kind: Kind) -> None:
    """Group, version, names, scope; the status is a subresource; it is found under `kubectl get tfscale`."""
    found = definition(kind)
    spec, (version,) = found["spec"], found["spec"]["versions"]

    assert ("apiextensions.k8s.io/v1", f"{kind.plural}.{kind.group}") == (found["apiVersion"], found["metadata"]["name"])
    assert (kind.group, "Cluster", ["tfscale"]) == (spec["group"], spec["scope"], spec["names"]["categories"])
    assert (kind.kind, kind.plural) == (spec["names"]["kind"], spec["names"]["plural"])
    assert (kind.version, True, True, {"status": {}}) == tuple(
        version[key] for key in ("name", "served", "storage", "subresources")
    )


@pytest.mark.parametrize("kind", OUR_KINDS, ids=lambda kind: kind.plural)
def test_every_field_is_explained(kind: Kind) -> None:
    """`kubectl explain` has a sentence for it; items of lists are explained with their list."""
    assert [] == [*unexplained(schema_of(kind)["properties"], "")]


def unexplained(properties: Json, path: str) -> Iterator[str]:
    """Yield the paths of the fields without a description that ends in a full stop."""
    for name, one in properties.items():
        if not one.get("description", "").endswith("."):
            yield f"{path}.{name}"
        yield from unexplained({**one.get("properties", {}), **one.get("items", {}).get("properties", {})}, f"{path}.{name}")


def test_they_are_printed_as_yaml_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Both are what `kubectl apply -f -` takes, and the same."""
    assert Exit.DONE == main(["manifests", "crds"])
    documents = [*yaml.safe_load_all(capsys.readouterr().out)]
    assert Exit.DONE == main(["manifests", "crds", "-o", "json"])
    listed = json.loads(capsys.readouterr().out)

    assert ("v1", "List", documents) == (listed["apiVersion"], listed["kind"], listed["items"])
    assert [kind.kind for kind in OUR_KINDS] == [document["spec"]["names"]["kind"] for document in documents]


def test_what_to_print_must_be_known(capsys: pytest.CaptureFixture[str]) -> None:
    """One line with what there is."""
    assert Exit.USAGE == main(["manifests", "crd"])
    assert "tfscale: --what is 'crd'; want 'crds'\n" == capsys.readouterr().err
