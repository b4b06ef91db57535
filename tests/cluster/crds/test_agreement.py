"""The reader and the real API server agree, and what the loop writes comes back as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster.crds.objects import NUMBERS, fresh, pool, put
from tfscale.conditions import of_request, updated
from tfscale.errors import BadInputError, RefusedObjectError
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.kube.pools import pool_object, read_pool, read_pools, set_aside_status
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, Json
from tfscale.kube.records import batch_settled, read_batch, read_node_request, request_status, write_batch, write_request
from tfscale.lifecycle import State
from tfscale.manifests import read_manifests
from tfscale.model import LaunchBatch, NodeRequest
from tfscale.pool import Limits, OfferFilter, Pool, SetAside

GPUS = GpuTable()
EXAMPLES = Path(__file__).parents[3] / "examples"
DURATIONS = [
    "5m",
    "90s",
    "1h30m",
    "0s",
    "0.5h",
    "100ms900ms",
    "",
    "5",
    "-1s",
    "5 m",
    "1.5s",
    "1d",
    "5M",
    "99999999h",
    None,
    5,
    5.5,
    True,
]
AMOUNTS = [
    "25",
    "25.5",
    ".5",
    "5.",
    "+1",
    "1e3",
    "1E-2",
    0,
    25,
    "",
    "-1",
    "NaN",
    "1_000",
    "1Gi",
    "0x1",
    -1,
    True,
    None,
    [],
    "9e19",
]
COUNTS = [0, 1, 10**9, -1, "1", 1.5, True, None, [], {}]
TEXTS = st.sampled_from(["a", "us-east-1a", "x" * 60])
SPECS: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["ec2", "ec2", "static", "mine", "", 1, None]),
        "options": st.sampled_from([{}, {"a": {"b": [1, "x", None, True]}}, None, [], "x"]),
        "offers": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "instanceTypes": st.none() | st.lists(TEXTS, max_size=2) | st.just("a"),
                "gpuModels": st.none() | st.lists(st.sampled_from(["L4", "A10G"]), max_size=2),
                "zones": st.lists(TEXTS | st.just(1), max_size=2),
                "capacityTypes": st.none() | st.lists(st.sampled_from(["on-demand", "spot", "reserved", "Spot"]), max_size=3),
            },
        ),
        "limits": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "nodes": st.sampled_from(COUNTS),
                "gpus": st.sampled_from(COUNTS),
                "usdPerHour": st.sampled_from(AMOUNTS),
            },
        ),
        "idleAfter": st.sampled_from(DURATIONS),
        "registerWithin": st.sampled_from(DURATIONS),
        "setAsideFor": st.sampled_from(DURATIONS),
        "default": st.sampled_from([True, False, None, "true", 0]),
        "binder": st.sampled_from(["loop", "loop", "extender", None, 1]),
        "inventory": st.sampled_from(["counts", "counts", "agent", None]),
        "unknown": st.just(1),
    },
)


@pytest.mark.parametrize("name", ["first.yaml", "pools.yaml", "three-modes.yaml"])
def test_pools_of_the_examples_are_taken(installed: KubeClient, name: str) -> None:
    """As they are written there, and they are the same pools."""
    manifests = read_manifests((EXAMPLES / name).read_text(encoding="utf-8"), name=name)
    specs = [one.value["spec"] for one in manifests if one.value["kind"] == GPU_POOLS.kind]
    created = [installed.create(GPU_POOLS, fresh(GPU_POOLS, spec)) for spec in specs]

    assert specs
    for spec, stored in zip(specs, created, strict=True):
        assert read_pool({**stored, "spec": spec}, gpus=GPUS) == read_pool(stored, gpus=GPUS)


def as_pool(obj: Json) -> Pool | None:
    """Return the pool, or None where it cannot be read."""
    try:
        return read_pool(obj, gpus=GPUS)
    except BadInputError:
        return None


@settings(max_examples=300, deadline=None)
@given(SPECS)
def test_the_server_takes_what_the_code_can_read_and_nothing_else(installed: KubeClient, spec: Json) -> None:
    """What it stores can be read, and is the same pool; what it refuses could not have been read.

    On purpose it refuses more: offers of a static pool, which have no effect.
    """
    obj = fresh(GPU_POOLS, spec)
    meant = as_pool(obj)
    try:
        stored = installed.create(GPU_POOLS, obj)
    except RefusedObjectError:
        assert meant is None or (spec["mode"] == "static" and "offers" in spec)
        return
    installed.delete(GPU_POOLS, stored["metadata"]["name"])
    read = as_pool(stored)

    assert read is not None
    assert meant is None or meant == read


@pytest.mark.parametrize(
    "spec",
    [
        pool(mode="static", offers={"zones": ["z"]}),
        pool(limits={"usdPerHour": 25.5}),
        pool(idleAfter="0.0001h0.64s"),
        pool(offers={"zones": [""]}),
        pool(mode="m" * 254),
    ],
)
def test_where_the_server_is_stricter_than_the_code(installed: KubeClient, spec: Json) -> None:
    """What has no effect, fractions that Kubernetes does not keep, durations nobody writes, names that are none."""
    assert as_pool(fresh(GPU_POOLS, spec))
    with pytest.raises(RefusedObjectError):
        put(installed, GPU_POOLS, spec)


# --- what the loop writes ---------------------------------------------------------------------------------------------

POOLS = st.builds(
    Pool,
    name=st.builds(lambda: f"n{next(NUMBERS)}"),
    mode=st.sampled_from(["ec2", "mine"]),
    options=st.dictionaries(st.text("ab", min_size=1), st.integers(0, 5) | st.text(), max_size=2),
    wanted=st.builds(
        OfferFilter,
        instance_types=st.lists(TEXTS, max_size=2).map(tuple),
        gpu_models=st.sampled_from([(), ("L4",)]),
        capacity_types=st.sampled_from([("on-demand",), ("spot", "on-demand")]),
    ),
    limits=st.builds(Limits, nodes=st.none() | st.integers(0, 9), micro_usd=st.none() | st.integers(0, 10**12)),
    idle_after_s=st.integers(0, 10**8),
    default=st.booleans(),
    set_aside=st.lists(
        st.builds(SetAside, offer=TEXTS, pod=st.just("") | TEXTS, until_s=st.integers(0, 10**10), reason=st.text(max_size=9)),
        max_size=2,
    ).map(tuple),
)
REQUESTS = st.builds(
    NodeRequest,
    name=st.builds(lambda: f"n{next(NUMBERS)}"),
    pool=TEXTS,
    mode=TEXTS,
    state=st.sampled_from(State),
    nominated=st.lists(TEXTS, max_size=2).map(sorted).map(tuple),
    machine_id=st.text(max_size=9),
    offer=st.text(max_size=9),
    node=st.text(max_size=9),
    launched_s=st.integers(0, 10**10),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
BATCHES = st.builds(
    LaunchBatch,
    name=st.builds(lambda: f"n{next(NUMBERS)}"),
    pool=TEXTS,
    mode=TEXTS,
    requests=st.lists(TEXTS, max_size=2).map(sorted).map(tuple),
    parameters=st.dictionaries(st.text(), JSON, max_size=3),
    offers=st.lists(TEXTS, max_size=3).map(tuple),
    epoch=st.integers(0, 2**31 - 1),
    created_s=st.integers(0, 10**10),
)


@settings(max_examples=50, deadline=None)
@given(POOLS)
def test_pools_survive_the_real_server(installed: KubeClient, written: Pool) -> None:
    """With what is set aside."""
    installed.create(GPU_POOLS, pool_object(written))
    stored = installed.patch_status(GPU_POOLS, written.name, set_aside_status(written.set_aside))

    assert ((written,), ()) == read_pools([stored], gpus=GPUS)


@settings(max_examples=50, deadline=None)
@given(REQUESTS)
def test_requests_survive_the_real_server(installed: KubeClient, written: NodeRequest) -> None:
    """In every state, with its conditions."""
    installed.create(NODE_REQUESTS, write_request(written))
    stated = replace(written, conditions=updated((), of_request(written.state), now_s=5))

    assert stated == read_node_request(installed.apply(NODE_REQUESTS, request_status(stated), subresource="status"))


@settings(max_examples=50, deadline=None)
@given(BATCHES)
def test_batches_survive_the_real_server_word_for_word(installed: KubeClient, written: LaunchBatch) -> None:
    """A call that is replayed is the same, down to 1.0 and the order of keys."""
    installed.create(LAUNCH_BATCHES, write_batch(written))
    read = read_batch(installed.apply(LAUNCH_BATCHES, batch_settled(written.name, 5), subresource="status"))

    assert replace(written, settled=True) == read
    assert repr(dict(written.parameters)) == repr(dict(read.parameters))
