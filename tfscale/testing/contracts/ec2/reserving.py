"""Capacity reservations and capacity blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tfscale.testing.contracts.ec2.world import BIG, HERE, SMALL, Workplace, code_of, fleet, ids_in, single
from tfscale.testing.fake_ec2 import Region

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["ReservingContract"]

_PLAIN, _BLOCK, _OVER = (f"cr-0000000000000000{number}" for number in (1, 2, 3))
_AS_BLOCK: dict[str, Any] = {"InstanceMarketOptions": {"MarketType": "capacity-block"}}


def _from(reservation: str) -> dict[str, Any]:
    return {"CapacityReservationSpecification": {"CapacityReservationTarget": {"CapacityReservationId": reservation}}}


class ReservingContract(Workplace):
    """DescribeCapacityReservations, and launches from reservations."""

    def test_what_is_free_follows_launches_and_ends(self, cloud: Region, ec2: EC2Client) -> None:
        """A machine holds its place until it is gone."""

        def free() -> int:
            found = ec2.describe_capacity_reservations(CapacityReservationIds=[_PLAIN])["CapacityReservations"]
            return found[0]["AvailableInstanceCount"]

        seen = [free()]
        (one,) = ec2.run_instances(**single(cloud, BIG, **_from(_PLAIN)))["Instances"]
        seen.append(free())
        ec2.terminate_instances(InstanceIds=[one["InstanceId"]])
        seen.append(free())
        cloud.advance(cloud.now_s + 30)

        assert [*seen, free()] == [2, 1, 1, 2]

    def test_reservations_are_described(self, ec2: EC2Client) -> None:
        """Type, zone, count, kind and end; filters apply."""
        wanted = [{"Name": "state", "Values": ["active"]}]
        found = ec2.describe_capacity_reservations(Filters=wanted)["CapacityReservations"]  # type: ignore[arg-type]  # plain

        assert [
            (one["CapacityReservationId"], one["TotalInstanceCount"], one["ReservationType"], one["EndDateType"]) for one in found
        ] == [(_PLAIN, 2, "default", "unlimited"), (_BLOCK, 1, "capacity-block", "limited")]
        assert {(BIG, HERE)} == {(one["InstanceType"], one["AvailabilityZone"]) for one in found}
        assert int(found[1]["EndDate"].timestamp()) == 10_000_000

    def test_machines_say_where_they_are_from(self, cloud: Region, ec2: EC2Client) -> None:
        """A machine of a block is of a lifecycle of its own."""
        plain = ec2.run_instances(**single(cloud, BIG, **_from(_PLAIN)))
        block = ec2.run_instances(**single(cloud, BIG, **_from(_BLOCK), **_AS_BLOCK))
        ids = [reply["Instances"][0]["InstanceId"] for reply in (plain, block)]
        described = ec2.describe_instances(InstanceIds=ids)["Reservations"]

        for groups in ([plain, block], described):
            assert [
                (one["CapacityReservationId"], one.get("InstanceLifecycle")) for group in groups for one in group["Instances"]
            ] == [(_PLAIN, None), (_BLOCK, "capacity-block")]
        assert [machine.capacity_type for machine in cloud.machines[-2:]] == ["reserved", "reserved"]

    def test_a_full_reservation_gives_what_it_has(self, cloud: Region, ec2: EC2Client) -> None:
        """Two of three, then nothing; capacity of the zone and quotas are no matter."""
        cloud.set_capacity({(BIG, HERE): 0})
        cloud.set_quota("on-demand", 0)
        reply = ec2.run_instances(**single(cloud, BIG, count=3, **_from(_PLAIN)))
        with pytest.raises(ClientError) as caught:
            ec2.run_instances(**single(cloud, BIG, **_from(_PLAIN)))

        assert len(reply["Instances"]) == 2
        assert code_of(caught) == ("ReservationCapacityExceeded", 400)

    def test_reserved_machines_take_nothing_from_others(self, cloud: Region, ec2: EC2Client) -> None:
        """Nor do others take what is reserved: only a call that names it gets it."""
        cloud.set_capacity({(BIG, HERE): 1})
        ec2.run_instances(**single(cloud, BIG, **_from(_PLAIN)))
        reply = ec2.create_fleet(**fleet(cloud, (BIG, HERE), count=2))

        assert len(ids_in({**reply})) == 1

    @pytest.mark.parametrize(
        ("name", "more", "code"),
        [
            (BIG, _from("cr-0000000000000000f"), "InvalidCapacityReservationId.NotFound"),
            (BIG, {**_from(_OVER), "Placement": {"AvailabilityZone": "us-east-1b"}}, "InvalidCapacityReservationState"),
            (SMALL, _from(_PLAIN), "InvalidParameterValue"),
            (BIG, _from(_BLOCK), "InvalidParameterCombination"),
            (BIG, {**_from(_PLAIN), **_AS_BLOCK}, "InvalidParameterCombination"),
            (BIG, _AS_BLOCK, "InvalidParameterCombination"),
        ],
    )
    def test_a_call_that_does_not_fit_is_refused(
        self, cloud: Region, ec2: EC2Client, name: str, more: dict[str, Any], code: str
    ) -> None:
        """Unknown, over, of another type, or of another kind."""
        with pytest.raises(ClientError) as caught:
            ec2.run_instances(**single(cloud, name, **more))

        assert (code, 400) == code_of(caught)

    def test_a_token_holds_for_a_reservation_too(self, cloud: Region, ec2: EC2Client) -> None:
        """A replay takes no second place."""
        one, two = (ec2.run_instances(**single(cloud, BIG, ClientToken="cr-1", **_from(_PLAIN))) for _ in range(2))

        assert one["Instances"] == two["Instances"]
