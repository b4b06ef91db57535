"""What keeps the EC2 mode of a pool from working, in words."""

from __future__ import annotations

import pytest

from tests.modes.fleets import A, B, mode_of
from tfscale.errors import CloudUnreachableError, CredentialsError
from tfscale.pool import OfferFilter
from tfscale.testing.fake_ec2 import (
    ApiError,
    Fault,
    SimulatedCloud,
)


def test_check_finds_nothing_wrong_with_a_good_pool(cloud: SimulatedCloud) -> None:
    """And it changes nothing: it only describes."""
    mode = mode_of(cloud, wanted=OfferFilter(instance_types=("g6.xlarge",)), subnetIds=[cloud.subnets[A]])
    before = cloud.calls

    assert mode.check() == []
    assert all(name.startswith("Describe") for name in cloud.calls - before)


def test_check_says_what_is_missing(cloud: SimulatedCloud) -> None:
    """One line each for template, subnet and type."""
    wanted = OfferFilter(instance_types=("g6.xlarge", "g9.xlarge"))
    problems = mode_of(cloud, wanted=wanted, launchTemplate={"name": "gpu-node"}, subnetIds=["subnet-0abc"]).check()
    too_new = mode_of(cloud, launchTemplate={"name": cloud.launch_template, "version": 99}).check()

    expected = [
        ("spec.options.launchTemplate", "gpu-node"),
        ("spec.options.subnetIds", "subnet-0abc"),
        ("spec.offers.instanceTypes[1]", "g9.xlarge"),
    ]
    assert expected == [(problem.field, problem.value) for problem in problems]
    assert "not 99" in too_new[0].want


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        (OfferFilter(zones=("us-east-1z",)), [f"spec.offers.zones[0] is 'us-east-1z'; want one of {A}, {B}"]),
        (OfferFilter(zones=("us-east-1z", A)), []),
        (OfferFilter(gpu_models=("H100", "V100")), ["spec.offers.gpuModels[0] is 'H100'", "spec.offers.gpuModels[1] is 'V100'"]),
        (OfferFilter(gpu_models=("H100",)), ["spec.offers.gpuModels[0] is 'H100'; want one of A10G, L4, T4"]),
        (OfferFilter(gpu_models=("T4G",)), ["spec.offers.gpuModels[0] is 'T4G'; want one of A10G, L4, T4"]),
        (OfferFilter(gpu_models=("T4G",), instance_types=("g5g.xlarge",)), []),
        (OfferFilter(gpu_models=("H100",), instance_types=("m5.large",)), []),
        (OfferFilter(gpu_models=("T4",), zones=(A,)), [f"spec.offers.zones[0] is '{A}'; want one of {B}"]),
        (
            OfferFilter(gpu_models=("H100",), zones=("us-east-1z",)),
            ["spec.offers.gpuModels[0] is 'H100'", "spec.offers.zones[0] is 'us-east-1z'"],
        ),
        (
            OfferFilter(instance_types=("t2.nano",), capacity_types=("spot",)),
            ["spec.offers.capacityTypes[0] is 'spot'; want one of on-demand"],
        ),
        (
            OfferFilter(instance_types=("m5.large", "g6.xlrge")),
            ["spec.offers.instanceTypes[1] is 'g6.xlrge'; want g6.xlarge?"],
        ),
        (
            OfferFilter(instance_types=("zzz",), gpu_models=("L4",), zones=(A,)),
            ["spec.offers.instanceTypes[0] is 'zzz'; want a type that EC2 has in us-east-1"],
        ),
        (
            OfferFilter(instance_types=("g7.2xlarge",)),
            ["spec.offers.instanceTypes[0] is 'g7.2xlarge'; want a type of us-east-1 whose card is in the GPU table"],
        ),
    ],
)
def test_check_blames_the_filter_that_leaves_nothing(cloud: SimulatedCloud, wanted: OfferFilter, lines: list[str]) -> None:
    """Each value of it, at its place in the pool; a filter that leaves something, and one beside a culprit, is not blamed."""
    problems = mode_of(cloud, wanted=wanted).check()

    assert len(lines) == len(problems)
    assert all(str(problem).startswith(f"gpupool gpus: {line}") for problem, line in zip(problems, lines, strict=True))


def test_check_blames_subnets_of_the_wrong_zones(cloud: SimulatedCloud) -> None:
    """Nothing could be bought, although types, zones and subnets are all there."""
    here = cloud.subnets[A]
    (problem,) = mode_of(cloud, wanted=OfferFilter(zones=(B,)), subnetIds=[here]).check()
    (other,) = mode_of(cloud, wanted=OfferFilter(instance_types=("g4dn.xlarge",)), subnetIds=[here]).check()

    assert ("spec.options.subnetIds", here) == (problem.field, problem.value) == (other.field, other.value)


def test_check_knows_the_types_that_a_price_may_be_for(cloud: SimulatedCloud) -> None:
    """A price for a type that the pool does not want would never be used."""
    named = OfferFilter(instance_types=("m5.large",))
    own = {"m5.large": "0.09"}

    assert mode_of(cloud, wanted=named, prices=own).check() == []
    lines = [str(problem) for problem in mode_of(cloud, wanted=named, prices={"g6.xlarge": "0.5", **own}).check()]
    assert lines == ["gpupool gpus: a key of spec.options.prices is 'g6.xlarge'; want one of the pool's instance types"]
    lines = [str(problem) for problem in mode_of(cloud, prices={"g6.xlrge": "0.5", "g6f.xlarge": "0.2"}).check()]
    assert lines == ["gpupool gpus: a key of spec.options.prices is 'g6.xlrge'; want g6.xlarge?"]


@pytest.mark.parametrize("region", ["us-west-2", "us-west-9", "no-where-1"])
def test_a_region_that_nobody_answers_for_is_a_problem_of_its_pool(cloud: SimulatedCloud, region: str) -> None:
    """The account may have no such region: the pool is told so, and what was launched there is not known."""
    mode = mode_of(cloud, region=region)
    (problem,) = mode.check()

    assert ("spec.options.region", region) == (problem.field, problem.value)
    assert f"Unknown region: '{region}'" in problem.want
    with pytest.raises(CloudUnreachableError, match=f"Unknown region: '{region}'"):
        mode.observe()


def test_check_says_that_the_credentials_are_rejected(cloud: SimulatedCloud) -> None:
    """It is no problem of the pool's author, and the first refusal is the last call."""
    before = cloud.calls
    cloud.fail_next("DescribeInstanceTypes", Fault(error=ApiError("AuthFailure", "who are you?")))
    cloud.fail_next("DescribeLaunchTemplates", Fault(error=ApiError("AuthFailure", "who are you?")))

    with pytest.raises(CredentialsError, match=r"AuthFailure: who are you\?"):
        mode_of(cloud).check()
    assert (cloud.calls - before).total() == 1
    cloud.forget_faults()
