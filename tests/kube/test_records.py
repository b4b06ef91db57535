"""Pools, node requests and launch batches as objects and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.errors import BadInputError
from tfscale.gpus import GpuTable
from tfscale.kube.convert import pool_object, read_pools, set_aside_status, write_batch, write_request
from tfscale.kube.records import read_batch, read_node_request
from tfscale.lifecycle import State
from tfscale.model import Disruption, LaunchBatch, NodeRequest
from tfscale.pool import Limits, OfferFilter, Pool, SetAside

names = st.text("abc-", min_size=1, max_size=8)
name_sets = st.frozensets(names, max_size=3).map(sorted).map(tuple)
times = st.integers(0, 10**10)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
node_requests = st.builds(
    NodeRequest,
    name=names,
    pool=names,
    state=st.sampled_from(State),
    mode=names,
    batch=st.just("") | names,
    nominated=name_sets,
    machine_id=st.text(),
    offer=st.text(),
    node=st.text(),
    launched_s=times,
    drain=st.none() | st.builds(Disruption, since_s=times, ends_s=st.none() | times, event=names, why=st.text()),
)
launch_batches = st.builds(
    LaunchBatch,
    name=names,
    pool=names,
    mode=names,
    requests=name_sets,
    parameters=st.dictionaries(st.text(), json_values, max_size=4),
    settled=st.booleans(),
    created_s=times,
)
counts = st.none() | st.integers(0, 10**9)
pools = st.builds(
    Pool,
    name=names,
    mode=names,
    options=st.dictionaries(st.text(), json_values, max_size=3),
    wanted=st.builds(
        OfferFilter,
        instance_types=name_sets,
        gpu_models=st.sampled_from([(), ("L4",), ("T4", "A10G")]),
        zones=name_sets,
        capacity_types=st.sampled_from([("on-demand",), ("spot", "on-demand"), ("reserved",)]),
    ),
    limits=st.builds(Limits, nodes=counts, gpus=counts, micro_usd=counts),
    idle_after_s=st.integers(0, 10**6),
    register_within_s=st.integers(1, 10**6),
    drain_within_s=st.integers(1, 10**6),
    set_aside_s=st.integers(0, 10**6),
    set_aside=st.lists(st.builds(SetAside, offer=names, until_s=times, reason=st.text()), max_size=2).map(tuple),
    default=st.booleans(),
    deleting=st.just(False),  # noqa: FBT003 - a strategy takes its value by position
)


@given(node_requests)
def test_a_node_request_survives_the_round_trip(request: NodeRequest) -> None:
    """The object says all but the batch, which is read from the batch."""
    assert request == read_node_request(write_request(request))


@given(launch_batches)
def test_a_launch_batch_survives_the_round_trip_word_for_word(batch: LaunchBatch) -> None:
    """Parameters are replayed: even 1.0 must not become 1, and keys keep their order."""
    again = read_batch(write_batch(batch))

    assert batch == again
    assert repr(dict(batch.parameters)) == repr(again.parameters)


@given(pools)
def test_a_pool_survives_the_round_trip(pool: Pool) -> None:
    """Object to pool to object to pool is the identity."""
    assert ((pool,), ()) == read_pools([pool_object(pool)], gpus=GpuTable())


@given(node_requests)
def test_a_request_that_was_just_created_is_requested(request: NodeRequest) -> None:
    """The API server drops the status of a new object; what is left is enough."""
    created = {key: value for key, value in write_request(request).items() if key != "status"}
    expected = NodeRequest(
        name=request.name,
        pool=request.pool,
        mode=request.mode,
        batch=request.batch,
        nominated=request.nominated,
    )

    assert expected == read_node_request(created)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({}, "spec.mode is ''; want a value, which is required"),
        ({"mode": "ec2", "idleAftr": "5m"}, "a key of spec is 'idleAftr'; want idleAfter?"),
        ({"mode": "ec2", "offers": {"zoness": []}}, "a key of spec.offers is 'zoness'; want zones?"),
        (
            {"mode": "ec2", "limits": {"q": 1}},
            "a key of spec.limits is 'q'; want one of gpus, inFlight, launchesPerMinute, nodes, usdPerHour",
        ),
        ({"mode": "ec2", "idleAfter": 5}, "spec.idleAfter is '5'; want a duration in whole seconds, such as 90s, 5m or 1h30m"),
        ({"mode": "ec2", "registerWithin": "0s"}, "spec.registerWithin is '0s'; want greater than or equal to 1"),
        ({"mode": "ec2", "limits": {"nodes": "3"}}, "spec.limits.nodes is '3'; want a valid integer"),
        (
            {"mode": "ec2", "limits": {"usdPerHour": "NaN"}},
            "spec.limits.usdPerHour is 'NaN'; want an amount of USD of 0 or more, such as 0.526",
        ),
        ({"mode": "ec2", "binder": "extender"}, "spec.binder is 'extender'; want loop; this version does not serve extender"),
        ({"mode": "ec2", "inventory": "agent"}, "spec.inventory is 'agent'; want counts; this version does not serve agent"),
        ({"mode": "ec2", "offers": {"capacityTypes": []}}, "spec.offers.capacityTypes is '[]'; want at least one"),
        (
            {"mode": "ec2", "offers": {"instanceTypes": []}},
            "spec.offers.instanceTypes is '[]'; want at least one, or no such key to accept all",
        ),
        ({"mode": "ec2", "offers": {"gpuModels": ["A10X"]}}, "spec.offers.gpuModels[0] is 'A10X'; want A10?"),
        (
            {"mode": "ec2", "offers": {"capacityTypes": ["sport"]}},
            "spec.offers.capacityTypes[0] is 'sport'; want 'on-demand', 'spot' or 'reserved'",
        ),
        ({"mode": "ec2", "default": "yes"}, "spec.default is 'yes'; want a valid boolean"),
    ],
)
def test_a_bad_pool_gives_one_line_and_the_others_are_read(spec: dict[str, Any], line: str) -> None:
    """The line names object, field, value and what was wanted."""
    good = {"metadata": {"name": "good"}, "spec": {"mode": "static"}}
    found, problems = read_pools([{"metadata": {"name": "bad"}, "spec": spec}, good], gpus=GpuTable())

    assert [pool.name for pool in found] == ["good"]
    assert [f"gpupool bad: {line}"] == [str(problem) for problem in problems]


def test_all_problems_of_a_pool_are_named_at_once() -> None:
    """Nobody likes to correct a file one line at a time."""
    _, problems = read_pools([{"metadata": {"name": "bad"}, "spec": {"binder": 1, "seed": 2}}], gpus=GpuTable())

    assert {"spec.mode", "spec.binder", "a key of spec"} == {problem.field for problem in problems}


def test_a_static_pool_needs_no_offers() -> None:
    """Nothing is bought there."""
    spec = {"mode": "static", "offers": {"instanceTypes": [], "capacityTypes": []}}

    assert read_pools([{"metadata": {"name": "local"}, "spec": spec}], gpus=GpuTable())[1] == ()


def test_a_broken_list_of_offers_left_out_is_forgotten_not_the_pool() -> None:
    """It is our own note; without it an offer is only tried again."""
    obj: dict[str, Any] = {"metadata": {"name": "p"}, "spec": {"mode": "ec2"}} | set_aside_status(
        [SetAside(offer="o", until_s=1, reason="")]
    )
    obj["status"]["setAside"][0]["until"] = "soon"
    found, problems = read_pools([obj], gpus=GpuTable())

    assert [pool.set_aside for pool in found] == [()]
    assert [str(problem) for problem in problems] == [
        "gpupool p: status.setAside[0].until is 'soon'; want an RFC 3339 time such as 2026-07-20T13:44:30Z"
    ]


def test_a_state_that_nobody_knows_is_refused() -> None:
    """A record from another version must not be taken for a fresh one."""
    obj = {"metadata": {"name": "r"}, "spec": {"pool": "p", "mode": "ec2"}, "status": {"state": "Redy"}}
    with pytest.raises(BadInputError) as caught:
        read_node_request(obj)

    assert str(caught.value) == "noderequest r: status.state is 'Redy'; want Ready?"
