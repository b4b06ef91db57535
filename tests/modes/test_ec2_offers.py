"""What the EC2 mode offers, at what price, and which options it refuses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import pytest
from botocore.stub import ANY

from tests.modes.stubs import StubbedSession
from tfscale.errors import BadInputError
from tfscale.gpus import GpuTable
from tfscale.model import Offer
from tfscale.modes.base import ModeContext
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.ec2_calls import Ec2Calls
from tfscale.modes.ec2_catalogue import Catalogue
from tfscale.modes.ec2_options import options_of
from tfscale.modes.ec2_prices import Prices
from tfscale.pool import OfferFilter, Pool
from tfscale.testing import FakeKube
from tfscale.testing.fake_ec2 import ACCESS_DENIED, THROTTLED, SimulatedCloud

A, B = "us-east-1a", "us-east-1b"
HOUR_S = 3_600


def mode_of(cloud: SimulatedCloud, wanted: OfferFilter, /, *clock: Callable[[], float], **options: object) -> Ec2Mode:
    """Return the mode of one pool at a time of the test's choice."""
    given_options = {"region": cloud.region, "launchTemplate": {"name": cloud.launch_template}, **options}
    pool = Pool(name="gpus", mode="ec2", options=given_options, wanted=wanted)
    context = ModeContext(pool=pool, gpus=GpuTable(), kube=FakeKube(), cluster="test", aws=cloud.session)
    return Ec2Mode(context, options_of(pool), clock=next(iter(clock), lambda: 0), sleep=lambda _: None)


def offers_of(cloud: SimulatedCloud, wanted: OfferFilter, **options: object) -> dict[str, Offer]:
    """Return the offers by id."""
    return {offer.id: offer for offer in mode_of(cloud, wanted, **options).offers()}


def prices_of(mode: Ec2Mode) -> dict[str, int | None]:
    """Return the price of every offer by id."""
    return {offer.id: offer.price_micro_usd for offer in mode.offers()}


def test_a_pool_that_wants_everything_gets_every_card_that_its_image_boots_on(cloud: SimulatedCloud) -> None:
    """No machine without a card, none of the other architecture, and a type only in the zones that have it."""
    ids = list(offers_of(cloud, OfferFilter()))

    types = ("g6.xlarge", "g6f.xlarge", "toy.2x")
    expected = sorted([f"g4dn.xlarge/{B}/on-demand", *(f"{name}/{zone}/on-demand" for name in types for zone in (A, B))])
    assert expected == ids


def test_named_types_are_offered_as_they_are(cloud: SimulatedCloud) -> None:
    """CPU-only and ARM machines are there for those who name them; an unknown name hurts no other."""
    offers = offers_of(cloud, OfferFilter(instance_types=("m5.large", "g5g.xlarge", "g9.none"), zones=(A,)))

    assert list(offers) == [f"g5g.xlarge/{A}/on-demand", f"m5.large/{A}/on-demand"]
    arm, cpu = offers.values()
    assert (arm.gpu_model, arm.labels["kubernetes.io/arch"]) == ("T4G", "arm64")
    assert (cpu.gpu_count, cpu.cpu_milli, cpu.memory_mib) == (0, 2_000, 8_192)


def test_models_and_zones_filter(cloud: SimulatedCloud) -> None:
    """A model may be named as others name it; a subnet brings its zone."""
    wanted = OfferFilter(gpu_models=("NVIDIA-L4",), zones=(B,))
    l4s = [f"{name}/{B}/on-demand" for name in ("g6.xlarge", "g6f.xlarge")]

    assert l4s == list(offers_of(cloud, wanted))
    assert l4s == list(offers_of(cloud, OfferFilter(gpu_models=("L4",)), subnetIds=[cloud.subnets[B]]))
    assert not offers_of(cloud, wanted, subnetIds=[cloud.subnets[A]])


def test_a_part_of_a_card_is_a_small_card(cloud: SimulatedCloud) -> None:
    """EC2 counts no card in g6f: it has an eighth of an L4, VRAM and compute."""
    offer = offers_of(cloud, OfferFilter(instance_types=("g6f.xlarge",)))[f"g6f.xlarge/{A}/on-demand"]

    assert (offer.gpu_model, offer.gpu_count, offer.vram_mib, offer.mtflops) == ("L4", 1, 2_861, 121_000 // 8)


def test_an_unknown_card_is_left_out_with_one_line(cloud: SimulatedCloud, caplog: pytest.LogCaptureFixture) -> None:
    """The others are offered."""
    mode = mode_of(cloud, OfferFilter(instance_types=("g7.2xlarge", "g6.xlarge"), zones=(A,)))
    with caplog.at_level(logging.WARNING, logger="tfscale"):
        first, second = mode.offers(), mode.offers()

    assert [offer.instance_type for offer in first] == ["g6.xlarge"]
    assert first == second
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "instance type left out: instance type g7.2xlarge: GpuInfo.Gpus[0].Name is 'RTX PRO 4500'"
    )


def test_prices_are_per_capacity_type_and_unknown_is_none(cloud: SimulatedCloud) -> None:
    """A price that no feed has is None and never 0."""
    wanted = OfferFilter(
        instance_types=("g6.xlarge", "g6f.xlarge", "g4dn.xlarge"), zones=(B,), capacity_types=("on-demand", "spot")
    )

    expected = {
        f"g4dn.xlarge/{B}/on-demand": None,
        f"g4dn.xlarge/{B}/spot": 200_000,
        f"g6.xlarge/{B}/on-demand": 804_800,
        f"g6.xlarge/{B}/spot": 300_000,
        f"g6f.xlarge/{B}/on-demand": 240_000,
        f"g6f.xlarge/{B}/spot": None,
    }
    assert expected == prices_of(mode_of(cloud, wanted))


def test_own_prices_beat_the_price_list(cloud: SimulatedCloud) -> None:
    """They are what a contract says, so spot is not touched, and the list is not asked for them."""
    wanted = OfferFilter(instance_types=("g6.xlarge",), zones=(A,), capacity_types=("on-demand", "spot"))
    asked = cloud.calls["GetProducts"]
    mode = mode_of(cloud, wanted, prices={"g6.xlarge": "0.5"})

    expected = {f"g6.xlarge/{A}/on-demand": 500_000, f"g6.xlarge/{A}/spot": 300_000}
    assert expected == prices_of(mode)
    assert asked == cloud.calls["GetProducts"]


def test_a_silent_price_list_costs_only_the_prices(cloud: SimulatedCloud) -> None:
    """Offers come without a price; five minutes later the list is asked again, and then not for twelve hours."""
    now = [0.0]
    mode = mode_of(cloud, OfferFilter(instance_types=("g6.xlarge",), zones=(A,)), lambda: now[0])
    cloud.fail_next("GetProducts", ACCESS_DENIED)
    silent = prices_of(mode)
    now[0] = 299
    still_silent = prices_of(mode)
    now[0] = 300
    told = prices_of(mode)
    calls = cloud.calls
    now[0] = 12 * HOUR_S - 1
    kept = prices_of(mode)

    assert {f"g6.xlarge/{A}/on-demand": None} == silent == still_silent
    assert {f"g6.xlarge/{A}/on-demand": 804_800} == told == kept
    assert calls == cloud.calls
    now[0] = 24 * HOUR_S
    assert told == prices_of(mode)
    asked_again = Counter(["DescribeInstanceTypes", "DescribeInstanceTypeOfferings", "GetProducts"])
    assert asked_again == cloud.calls - calls


def test_prices_that_are_denied_are_told_once(cloud: SimulatedCloud, caplog: pytest.LogCaptureFixture) -> None:
    """They are asked for every five minutes for as long as that lasts, and a later denial is news."""
    now = [0.0]
    mode = mode_of(cloud, OfferFilter(instance_types=("g6.xlarge",), zones=(A,)), lambda: now[0])
    told = []
    for allowed_s in (1_500, 1_500 + 13 * HOUR_S):
        cloud.fail_next("GetProducts", ACCESS_DENIED, times=5)
        for now[0] in range(allowed_s - 1_500, allowed_s + 300, 300):
            prices_of(mode)
        told.append(sum("prices are unknown" in message for message in caplog.messages))
        cloud.forget_faults()
        prices_of(mode)

    assert [1, 2] == told


def test_a_price_that_no_list_has_is_no_warning(cloud: SimulatedCloud, caplog: pytest.LogCaptureFixture) -> None:
    """It stands in the account of what is bought; a run's standard error is for what somebody should do."""
    with caplog.at_level(logging.INFO, logger="tfscale"):
        mode_of(cloud, OfferFilter(instance_types=("g4dn.xlarge",))).offers()

    assert [("INFO", "the price list knows no price of g4dn.xlarge")] == [
        (record.levelname, record.getMessage()) for record in caplog.records
    ]


def test_throttled_reads_are_tried_again(cloud: SimulatedCloud) -> None:
    """Every kind of read."""
    for operation in ("DescribeInstanceTypes", "DescribeInstanceTypeOfferings", "GetProducts", "DescribeSpotPriceHistory"):
        cloud.fail_next(operation, THROTTLED, times=2)
    wanted = OfferFilter(instance_types=("g6.xlarge",), zones=(A,), capacity_types=("on-demand", "spot"))

    assert None not in prices_of(mode_of(cloud, wanted)).values()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"launchTemplate": {"name": "gpu"}}, "spec.options.region is ''; want a value, which is required"),
        ({"region": "us-east-1"}, "spec.options.launchTemplate is ''; want a value, which is required"),
        ({"regoin": "x"}, "a key of spec.options is 'regoin'; want region?"),
        ({"launchTemplate": {"nam": "gpu"}}, "a key of spec.options.launchTemplate is 'nam'; want name?"),
        ({"launchTemplate": {"name": "gpu", "id": "lt-0"}}, "want either name or id"),
        ({"launchTemplate": {"name": "gpu", "version": "newest"}}, "'newest'; want a version number, $Default or $Latest"),
        ({"launchTemplate": {"id": "gpu"}}, "spec.options.launchTemplate.id is 'gpu'; want an id such as lt-0123456789abcdef0"),
        ({"subnetIds": ["vpc-1"]}, "spec.options.subnetIds[0] is 'vpc-1'; want an id such as subnet-0123456789abcdef0"),
        (
            {"prices": {"g6.xlarge": "nan"}},
            "spec.options.prices.g6.xlarge is 'nan'; want an amount of USD above 0, such as 0.526",
        ),
        ({"prices": {"g6.xlarge": -1}}, "spec.options.prices.g6.xlarge is '-1'; want an amount of USD above 0"),
        (
            {"prices": {"g6.xlarge": "0.00"}},
            "is '0.00'; want an amount of USD above 0, such as 0.526; leave a price out that you do not know",
        ),
        ({"tags": {"karpenter.sh/nodepool": "x"}}, "is 'karpenter.sh/nodepool'; want a tag of your own"),
        ({"region": "us-east-1a"}, "spec.options.region is 'us-east-1a'; want a region such as us-east-1"),
        ({"region": 7}, "spec.options.region is '7'; want a valid string"),
        ({"zz": 1}, "a key of spec.options is 'zz'; want one of "),
    ],
)
def test_a_bad_option_is_one_clear_line(options: dict[str, object], line: str) -> None:
    """It names the pool, the option, its value and what was wanted."""
    base = {"region": "us-east-1", "launchTemplate": {"name": "gpu"}}
    missing = next((key for key in base if line.startswith(f"spec.options.{key} is ''")), "")
    pool = Pool(name="gpus", mode="ec2", options={key: value for key, value in (base | options).items() if key != missing})

    with pytest.raises(BadInputError) as caught:
        options_of(pool)
    assert str(caught.value).startswith("gpupool gpus: ")
    assert line in str(caught.value)
    assert len(caught.value.problems) == 1


def test_opening_calls_nobody_and_checks_the_filter() -> None:
    """A pool is refused for an unknown card or capacity type before anything is asked."""
    options = {"region": "us-east-1", "launchTemplate": {"name": "gpu"}}

    def opened(wanted: OfferFilter) -> Ec2Mode:
        pool = Pool(name="gpus", mode="ec2", options=options, wanted=wanted)
        return Ec2Mode.open(ModeContext(pool=pool, gpus=GpuTable(), kube=FakeKube(), cluster="test"))

    opened(OfferFilter())
    with pytest.raises(BadInputError, match=r"gpupool gpus: spec.offers.gpuModels\[0\] is 'L44'; want L4"):
        opened(OfferFilter(gpu_models=("L44",)))
    with pytest.raises(
        BadInputError, match=r"gpupool gpus: spec.offers.capacityTypes\[0\] is 'spott'; want on-demand or spot or reserved"
    ):
        opened(OfferFilter(capacity_types=("spott",)))


def test_a_local_zone_is_on_offer_where_it_is_named() -> None:
    """It has no network by default and prices of its own; a pool that names no zone gets those of the region itself."""
    stub, plain, local = StubbedSession(), {"us-east-1a", "us-east-1f"}, {"us-east-1-bos-1a", "us-east-1-wl1-bos-wlz-1"}
    places = [{"InstanceType": "g6.xlarge", "LocationType": "availability-zone", "Location": name} for name in plain | local]
    info = {
        "InstanceType": "g6.xlarge",
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
        "VCpuInfo": {"DefaultVCpus": 4},
        "MemoryInfo": {"SizeInMiB": 16_384},
    }
    calls = Ec2Calls(stub.session, "us-east-1")
    prices = Prices(calls, region="us-east-1", own={}, clock=lambda: 0)
    wanted = OfferFilter(instance_types=("g6.xlarge",))

    def sold(zones: set[str] | None) -> set[str]:
        stub.expect("ec2", "describe_instance_types", {"Filters": ANY}, {"InstanceTypes": [info]})
        asked = {"LocationType": "availability-zone", "Filters": ANY}
        stub.expect("ec2", "describe_instance_type_offerings", asked, {"InstanceTypeOfferings": places})
        catalogue = Catalogue(calls, prices, GpuTable(), region="us-east-1", wanted=wanted, clock=lambda: 0)
        return {zone for _, zone in catalogue.sold(lambda: zones)}

    assert [plain, local] == [sold(None), sold(local)]
