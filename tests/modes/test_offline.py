"""A mode without its cloud: offers from the catalogue, machines from the records, options still checked."""

from __future__ import annotations

import pytest

from tfscale.catalogue import snapshot
from tfscale.errors import BadInputError, LaunchRefusedError, ModeError
from tfscale.gpus import GpuTable
from tfscale.kube.port import NODE_REQUESTS, NODES
from tfscale.model import LaunchBatch, Machine
from tfscale.modes import load
from tfscale.modes.base import ModeContext, ScalingMode
from tfscale.modes.offline import offline
from tfscale.pool import OfferFilter, Pool
from tfscale.testing import FakeKube

A, B = "us-east-1a", "us-east-1b"
EC2 = {"region": "us-east-1", "launchTemplate": {"name": "gpu-node"}}


def opened(kube: FakeKube, wanted: OfferFilter | None = None, options: dict[str, object] | None = None) -> ScalingMode:
    """Return mode ec2 for one pool, without EC2."""
    pool = Pool(name="gpus", mode="ec2", wanted=wanted or OfferFilter(), options=EC2 if options is None else options)
    return offline(load("ec2")).open(ModeContext(pool=pool, gpus=GpuTable(), kube=kube, cluster="c", catalogue=snapshot()))


def cluster(*zones: str) -> FakeKube:
    """Return a cluster with a node in each zone."""
    kube = FakeKube(now=lambda: 0.0, seed=1)
    for zone in zones:
        kube.create(NODES, {"metadata": {"name": f"n-{zone}", "labels": {"topology.kubernetes.io/zone": zone}}})
    return kube


def test_offers_are_types_times_zones_times_capacity_types() -> None:
    """At the catalogue's prices, which has none for spot."""
    wanted = OfferFilter(instance_types=("g6.xlarge", "g5.xlarge"), zones=(B,), capacity_types=("on-demand", "spot"))

    assert {
        "g5.xlarge/us-east-1b/on-demand": 1_006_000,
        "g5.xlarge/us-east-1b/spot": None,
        "g6.xlarge/us-east-1b/on-demand": 804_800,
        "g6.xlarge/us-east-1b/spot": None,
    } == {offer.id: offer.price_micro_usd for offer in opened(cluster(A), wanted).offers()}


def test_without_zones_of_its_own_a_pool_gets_those_of_the_nodes() -> None:
    """Where nodes are, there are subnets."""
    mode = opened(cluster(A, B), OfferFilter(gpu_models=("nvidia l4",)))

    assert {A, B} == {offer.zone for offer in mode.offers()}
    assert {"L4"} == {offer.gpu_model for offer in mode.offers()}
    assert {"us-east-1"} == {offer.labels["topology.kubernetes.io/region"] for offer in mode.offers()}
    assert [] == [*mode.check()]


def test_what_leaves_nothing_to_offer_is_told() -> None:
    """A type that nobody knows, and no zone at all."""
    problems = [str(problem) for problem in opened(cluster(), OfferFilter(instance_types=("g6.xlrge",))).check()]

    assert ["spec.offers.instanceTypes[0]", "spec.offers.zones"] == [line.split(": ")[1].split()[0] for line in problems]


def test_the_options_are_those_of_the_real_mode() -> None:
    """A plan for a pool that would not work is no help."""
    with pytest.raises(BadInputError, match=r"spec\.options\.launchTemplate"):
        opened(cluster(), options={"region": "us-east-1"})


def test_machines_are_those_that_are_recorded() -> None:
    """Of this pool and mode, each with the provider id of its node."""
    kube = cluster(A)
    kube.patch(NODES, f"n-{A}", {"spec": {"providerID": f"aws:///{A}/i-1"}})
    for name, pool, mode, machine, node in (
        ("r-1", "gpus", "ec2", "i-1", f"n-{A}"),
        ("r-2", "gpus", "ec2", "i-2", "gone"),
        ("r-3", "gpus", "ec2", "", ""),
        ("r-4", "gpus", "static", "i-4", ""),
        ("r-5", "others", "ec2", "i-5", ""),
    ):
        kube.create(NODE_REQUESTS, {"metadata": {"name": name}, "spec": {"pool": pool, "mode": mode}})
        kube.patch_status(NODE_REQUESTS, name, {"status": {"state": "Launched", "machineId": machine, "nodeName": node}})
    kube.create(NODE_REQUESTS, {"metadata": {"name": "r-6"}, "spec": {}})

    assert [
        Machine(id="i-1", batch="", pool="gpus", offer="", provider_id=f"aws:///{A}/i-1", launched_s=0),
        Machine(id="i-2", batch="", pool="gpus", offer="", provider_id="", launched_s=0),
    ] == [*opened(kube).observe()]


def test_nothing_can_be_bought_or_given_back() -> None:
    """It is made for plans alone."""
    mode = opened(cluster(A))
    batch = LaunchBatch(name="b", pool="gpus", mode="ec2", requests=(), parameters={})

    with pytest.raises(LaunchRefusedError):
        mode.prepare("b", [], [], now_s=0)
    with pytest.raises(ModeError):
        mode.launch(batch)
    with pytest.raises(ModeError):
        mode.terminate(["i-1"])
    with pytest.raises(ModeError):
        mode.release(["i-1"])
