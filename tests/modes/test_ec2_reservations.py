"""Capacity reservations and capacity blocks on the simulated cloud: offered while there is room, launched into, seen again."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.modes.conftest import NEW_CARD, TYPES
from tests.modes.fleets import A, B, batch_of, live, machine_ids, mode_of, taken
from tfscale.errors import BadInputError, CloudUnreachableError
from tfscale.gpus import GpuTable
from tfscale.model import LaunchBatch, Offer
from tfscale.modes.base import Refusal
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.ec2_options import options_of
from tfscale.pool import OfferFilter, Pool
from tfscale.testing.fake_ec2 import LOST_REPLY, ApiError, Fault, SimulatedCloud, SimulatedReservation

SMALL, BLOCK, OVER, ELSEWHERE = "cr-0a", "cr-0b", "cr-0c", "cr-0d"
END_S = 1_000_000
WANTED = OfferFilter(instance_types=("g6.xlarge", "toy.2x"), capacity_types=("on-demand", "reserved"))
ONLY = OfferFilter(instance_types=("g6.xlarge", "toy.2x"), capacity_types=("reserved",))


@pytest.fixture
def cloud() -> Iterator[SimulatedCloud]:
    """Yield a cloud with two good reservations, one that is over, and one of a type that nobody wants."""
    reservations = [
        SimulatedReservation(id=SMALL, instance_type="g6.xlarge", zone=B, count=2),
        SimulatedReservation(id=BLOCK, instance_type="toy.2x", zone=A, count=3, block=True, end_s=END_S),
        SimulatedReservation(id=OVER, instance_type="g6.xlarge", zone=A, count=5, end_s=0),
        SimulatedReservation(id=ELSEWHERE, instance_type="m5.large", zone=A, count=5),
    ]
    with SimulatedCloud(instance_types=TYPES, reservations=reservations, gpus=GpuTable([NEW_CARD])) as cloud:
        yield cloud


def reserving(cloud: SimulatedCloud, *ids: str, wanted: OfferFilter = WANTED) -> Ec2Mode:
    """Return the mode of a pool with these reservations."""
    return mode_of(cloud, wanted=wanted, reservations=[{"id": one} for one in ids])


def reserved(mode: Ec2Mode) -> dict[str, Offer]:
    """Return the reserved offers by their reservation."""
    return {offer.reservation: offer for offer in mode.offers() if offer.capacity_type == "reserved"}


def rooms(mode: Ec2Mode) -> dict[str, int | None]:
    """Return how many machines each reserved offer says there are."""
    return {one: offer.count_max for one, offer in reserved(mode).items()}


def batch_for(mode: Ec2Mode, reservation: str, count: int = 1) -> LaunchBatch:
    """Return the record of a call for one reserved offer."""
    return batch_of(mode, [reserved(mode)[reservation]], count)


def test_what_is_reserved_is_offered_with_its_room_at_next_to_no_price(cloud: SimulatedCloud) -> None:
    """Never for nothing, cheaper than everything else, and ordered as on demand. What nobody wants is not offered."""
    mode = reserving(cloud, SMALL, BLOCK, ELSEWHERE)
    found = reserved(mode)

    assert {SMALL: f"g6.xlarge/{B}/reserved/{SMALL}", BLOCK: f"toy.2x/{A}/reserved/{BLOCK}"} == {
        one: offer.id for one, offer in found.items()
    }
    assert {SMALL: 2, BLOCK: 3} == rooms(mode)
    assert {SMALL: 80, BLOCK: 200} == {one: offer.price_micro_usd for one, offer in found.items()}
    assert all(offer.count_max is None for offer in mode.offers() if offer.capacity_type == "on-demand")


def test_a_run_takes_what_the_reservation_has(cloud: SimulatedCloud) -> None:
    """Fewer machines than wanted is an answer; the offer stays known, for what its machines cost, and has no room."""
    mode = reserving(cloud, SMALL, BLOCK)
    results = mode.launch(batch_for(mode, SMALL, 3))

    assert [f"g6.xlarge/{B}/reserved/{SMALL}"] * 2 == taken(results)
    assert 1 == machine_ids(results).count(None)
    assert {SMALL: 0, BLOCK: 3} == rooms(mode)


def test_machines_of_a_reservation_are_seen_as_such(cloud: SimulatedCloud) -> None:
    """As the offer that they were, first on their way and then running, beside on-demand ones of the same type."""
    mode = reserving(cloud, SMALL, BLOCK)
    plain = [offer for offer in mode.offers() if offer.id == f"g6.xlarge/{B}/on-demand"]
    for batch in (batch_for(mode, SMALL), batch_for(mode, BLOCK), batch_of(mode, plain)):
        mode.launch(batch)
    before = mode.observe()
    cloud.advance(cloud.now_s + 100)

    ids = sorted([f"g6.xlarge/{B}/reserved/{SMALL}", f"toy.2x/{A}/reserved/{BLOCK}", f"g6.xlarge/{B}/on-demand"])
    assert ids == sorted(machine.offer for machine in before)
    assert [False, False, False] == [machine.started for machine in before]
    assert [True, True, True] == [machine.started for machine in mode.observe()]


@pytest.mark.parametrize("reservation", [SMALL, BLOCK])
def test_a_replayed_run_launches_nothing_twice(cloud: SimulatedCloud, reservation: str) -> None:
    """Through a lost reply, word for word, and by another process."""
    mode = reserving(cloud, SMALL, BLOCK)
    batch = batch_for(mode, reservation, 2)
    cloud.fail_next("RunInstances", LOST_REPLY)
    with pytest.raises(CloudUnreachableError):
        mode.launch(batch)
    first, second = mode.launch(batch), reserving(cloud, SMALL, BLOCK).launch(batch)

    assert machine_ids(first) == machine_ids(second) == live(cloud)
    assert 2 == len(live(cloud))
    assert 1 == len({str(sent) for sent in cloud.requests("RunInstances")})


def test_a_full_reservation_is_an_offer_without_capacity(cloud: SimulatedCloud) -> None:
    """Somebody else took the room between the offer and the call."""
    mode, other = reserving(cloud, SMALL), mode_of(cloud, pool="other", wanted=ONLY, reservations=[{"id": SMALL}])
    batch = batch_for(mode, SMALL)
    other.launch(batch_for(other, SMALL, 2))
    (result,) = mode.launch(batch)

    message = f"The targeted Capacity Reservation {SMALL} does not have enough available instances."
    offer = f"g6.xlarge/{B}/reserved/{SMALL}"
    assert (Refusal(offer=offer, code="ReservationCapacityExceeded", message=message),) == result.refusals


def test_a_subnet_without_addresses_is_to_blame_itself(cloud: SimulatedCloud) -> None:
    """Another subnet of the zone may have room, for every offer."""
    mode = mode_of(cloud, wanted=WANTED, reservations=[{"id": SMALL}], subnetIds=[cloud.subnets[B]])
    batch = batch_for(mode, SMALL)
    cloud.fail_next("RunInstances", Fault(error=ApiError("InsufficientFreeAddressesInSubnet", "full")))
    (result,) = mode.launch(batch)

    assert [cloud.subnets[B]] == [refusal.offer for refusal in result.refusals]


def test_nothing_is_launched_into_a_block_that_is_about_to_end(cloud: SimulatedCloud) -> None:
    """From forty minutes before; what runs there is known for what it is until it goes."""
    mode = reserving(cloud, BLOCK)
    mode.launch(batch_for(mode, BLOCK))
    cloud.advance(END_S - 2_401)
    open_still = rooms(mode)
    cloud.advance(END_S - 2_340)

    assert {BLOCK: 2} == open_still
    assert {BLOCK: 0} == rooms(mode)
    assert [f"toy.2x/{A}/reserved/{BLOCK}"] == [machine.offer for machine in mode.observe()]


def test_room_is_asked_for_once_a_minute_and_after_each_launch(cloud: SimulatedCloud) -> None:
    """A plan must not buy what was just taken."""
    mode = reserving(cloud, SMALL)
    mode.offers()
    mode.offers()
    asked = cloud.calls["DescribeCapacityReservations"]
    mode.launch(batch_for(mode, SMALL))
    after = rooms(mode)
    cloud.advance(cloud.now_s + 60)
    mode.offers()

    assert 1 == asked
    assert {SMALL: 1} == after
    assert 3 == cloud.calls["DescribeCapacityReservations"]


def test_a_reservation_that_is_over_or_unknown_is_left_out_with_one_line(
    cloud: SimulatedCloud, caplog: pytest.LogCaptureFixture
) -> None:
    """The pool goes on with the others, and with what it wants beside."""
    mode = reserving(cloud, OVER, SMALL, "cr-0f")
    with caplog.at_level(logging.WARNING, logger="tfscale"):
        problems = mode.check()
        found = [rooms(mode) for _ in range(2)]
        cloud.advance(cloud.now_s + 60)
        found.append(rooms(mode))

    assert [] == problems
    assert [{OVER: 0, SMALL: 2}] * 3 == found
    assert [
        "nothing is launched into reservation cr-0c: it is expired",
        "nothing is launched into reservation cr-0f: there is no such reservation",
    ] == sorted(caplog.messages)


def test_check_says_why_a_pool_of_reservations_alone_can_buy_nothing(cloud: SimulatedCloud) -> None:
    """One line for each of them."""
    problems = reserving(cloud, OVER, ELSEWHERE, wanted=ONLY).check()

    assert [("spec.options.reservations", OVER), ("spec.options.reservations", ELSEWHERE)] == [
        (problem.field, problem.value) for problem in problems
    ]
    assert problems[0].want.endswith("(it is expired)")
    assert [] == reserving(cloud, OVER, SMALL, wanted=ONLY).check()


def test_a_pool_that_pays_for_reservations_must_want_them(cloud: SimulatedCloud) -> None:
    """Else it would buy on demand beside them; and nothing can be reserved without one."""
    (problem,) = reserving(cloud, SMALL, wanted=OfferFilter()).check()

    assert ("spec.offers.capacityTypes", "on-demand") == (problem.field, problem.value)
    assert "reserved among them, or no spec.options.reservations" == problem.want
    options = {"region": "us-east-1", "launchTemplate": {"name": "gpu"}}
    with pytest.raises(BadInputError, match=r"spec\.options\.reservations is ''; want the reservations that"):
        options_of(Pool(name="gpus", mode="ec2", options=options, wanted=ONLY))
    twice = {**options, "reservations": [{"id": SMALL}, {"id": SMALL}]}
    with pytest.raises(BadInputError, match=rf"spec\.options\.reservations is '{SMALL}'; want each reservation once"):
        options_of(Pool(name="gpus", mode="ec2", options=twice, wanted=ONLY))
