"""Launches: client tokens, order, partial fleets, what is wrong with a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tfscale.testing.contracts.ec2.world import BIG, HERE, SMALL, THERE, Workplace, code_of, fleet, ids_in, single, tagged
from tfscale.testing.fake_ec2 import Region

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["LaunchingContract"]


class LaunchingContract(Workplace):
    """CreateFleet and RunInstances."""

    def test_a_fleet_takes_what_is_there_in_order(self, cloud: Region, ec2: EC2Client) -> None:
        """Machines and errors are in one reply, each with the override that it is about."""
        cloud.set_capacity({(SMALL, HERE): 1, (SMALL, THERE): 0})
        reply = ec2.create_fleet(**fleet(cloud, (SMALL, HERE), (SMALL, THERE), (BIG, HERE), count=3))

        overrides = [group["LaunchTemplateAndOverrides"]["Overrides"] for group in reply["Instances"]]
        assert [
            (one["InstanceType"], one["AvailabilityZone"], len(group["InstanceIds"]))
            for one, group in zip(overrides, reply["Instances"], strict=True)
        ] == [(SMALL, HERE, 1), (BIG, HERE, 2)]
        assert [
            (one["ErrorCode"], one["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"]) for one in reply["Errors"]
        ] == [("InsufficientInstanceCapacity", HERE), ("InsufficientInstanceCapacity", THERE)]

    def test_without_priorities_the_cheapest_comes_first(self, cloud: Region, ec2: EC2Client) -> None:
        """So EC2's own strategy is: lowest price."""
        reply = ec2.create_fleet(**fleet(cloud, (SMALL, HERE), (BIG, HERE), OnDemandOptions={}))

        assert [group["InstanceType"] for group in reply["Instances"]] == [SMALL]

    @pytest.mark.parametrize(
        ("strategy", "first"), [("capacity-optimized-prioritized", BIG), ("price-capacity-optimized", SMALL)]
    )
    def test_spot_has_an_order_of_its_own(self, cloud: Region, ec2: EC2Client, strategy: str, first: str) -> None:
        """What is said about on-demand machines does not count."""
        options: dict[str, Any] = {"SpotOptions": {"AllocationStrategy": strategy}}
        reply = ec2.create_fleet(**fleet(cloud, (BIG, HERE), (SMALL, HERE), kind="spot", **options))

        assert [group["InstanceType"] for group in reply["Instances"]] == [first]

    def test_spot_is_spot(self, cloud: Region, ec2: EC2Client) -> None:
        """A spot machine says so wherever it is listed; an on-demand machine says nothing."""
        spot = ec2.create_fleet(**fleet(cloud, (SMALL, HERE), kind="spot"))
        plain = ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))
        groups = ec2.describe_instances(InstanceIds=ids_in({**spot}) + ids_in({**plain}))["Reservations"]

        assert [group["Instances"][0]["Lifecycle"] for group in (spot, plain)] == ["spot", "on-demand"]
        assert [one.get("InstanceLifecycle") for group in groups for one in group["Instances"]] == ["spot", None]

    def test_a_token_launches_once(self, cloud: Region, ec2: EC2Client) -> None:
        """The same call gives the same reply, also after the machine is gone; a fleet's token is not one of a single call."""
        first = ec2.create_fleet(**fleet(cloud, (SMALL, HERE), ClientToken="once-1"))
        ec2.terminate_instances(InstanceIds=ids_in({**first}))
        cloud.advance(cloud.now_s + 100)
        again = ec2.create_fleet(**fleet(cloud, (SMALL, HERE), ClientToken="once-1"))
        one, two = (ec2.run_instances(**single(cloud, ClientToken="once-1"))["ReservationId"] for _ in range(2))

        assert (first["FleetId"], ids_in({**first})) == (again["FleetId"], ids_in({**again}))
        assert one == two

    @pytest.mark.parametrize("operation", ["create_fleet", "run_instances"])
    def test_a_token_counts_for_a_day(self, cloud: Region, ec2: EC2Client, operation: str) -> None:
        """Whoever comes with it later buys once more."""
        call: Any = getattr(ec2, operation)
        wanted = {"create_fleet": fleet(cloud, (SMALL, HERE)), "run_instances": single(cloud)}[operation]
        before, seen = len(cloud.machines), []
        for wait_s in (0, 86_399, 1):
            cloud.advance(cloud.now_s + wait_s)
            call(**wanted, ClientToken="day-1")
            seen.append(len(cloud.machines) - before)

        assert seen == [1, 1, 2]

    @pytest.mark.parametrize("operation", ["create_fleet", "run_instances"])
    def test_a_token_belongs_to_its_parameters(self, cloud: Region, ec2: EC2Client, operation: str) -> None:
        """Another call with it is refused and launches nothing."""
        make: Any = {
            "create_fleet": lambda name: ec2.create_fleet(**fleet(cloud, (name, HERE), ClientToken="once-2")),
            "run_instances": lambda name: ec2.run_instances(**single(cloud, name, ClientToken="once-2")),
        }[operation]
        make(SMALL)
        before = len(cloud.machines)
        with pytest.raises(ClientError) as caught:
            make(BIG)

        assert code_of(caught) == ("IdempotentParameterMismatch", 400)
        assert before == len(cloud.machines)

    def test_a_refused_call_leaves_its_token_free(self, cloud: Region, ec2: EC2Client) -> None:
        """It may be made again, with other parameters too. A fleet that found no capacity was not refused: it stays empty."""
        cloud.set_capacity({(SMALL, HERE): 0})
        with pytest.raises(ClientError) as caught:
            ec2.run_instances(**single(cloud, ClientToken="once-3"))
        empty = ec2.create_fleet(**fleet(cloud, (SMALL, HERE), ClientToken="once-4"))
        cloud.set_capacity({})

        assert code_of(caught) == ("InsufficientInstanceCapacity", 500)
        assert len(ec2.run_instances(**single(cloud, BIG, ClientToken="once-3"))["Instances"]) == 1
        assert [] == ids_in({**empty}) == ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE), ClientToken="once-4"))})

    def test_a_token_is_short_and_plain(self, cloud: Region, ec2: EC2Client) -> None:
        """64 characters of ASCII are the most."""
        for token in ("t" * 65, "é"):
            with pytest.raises(ClientError) as caught:
                ec2.create_fleet(**fleet(cloud, (SMALL, HERE), ClientToken=token))
            assert code_of(caught) == ("InvalidParameterValue", 400)

    def test_a_replay_may_bring_the_id_alone(self, cloud: Region, ec2: EC2Client) -> None:
        """DescribeFleets then tells machines and errors; DescribeFleetInstances does not know such a fleet."""
        cloud.answer_replays_with_id_only()
        cloud.set_capacity({(SMALL, HERE): 0})
        wanted = fleet(cloud, (SMALL, HERE), (SMALL, THERE), ClientToken="once-5")
        first, again = (ec2.create_fleet(**wanted) for _ in range(2))
        (found,) = ec2.describe_fleets(FleetIds=[again["FleetId"]])["Fleets"]

        assert {"FleetId"} == again.keys() - {"ResponseMetadata"}
        assert (first["Instances"], first["Errors"]) == (found["Instances"], found["Errors"])
        with pytest.raises(ClientError) as caught:
            ec2.describe_fleet_instances(FleetId=again["FleetId"])
        assert code_of(caught) == ("UnsupportedOperation", 400)
        with pytest.raises(ClientError) as caught:
            ec2.describe_fleets(FleetIds=["fleet-00000000000000000"])
        assert code_of(caught) == ("InvalidFleetId.NotFound", 400)

    def test_a_single_call_may_give_fewer(self, cloud: Region, ec2: EC2Client) -> None:
        """As many as there are, if that is enough; else nothing."""
        cloud.set_capacity({(SMALL, HERE): 2})
        with pytest.raises(ClientError) as caught:
            ec2.run_instances(**single(cloud, count=4, least=3))

        assert code_of(caught) == ("InsufficientInstanceCapacity", 500)
        assert len(ec2.run_instances(**single(cloud, count=4))["Instances"]) == 2

    def test_a_type_that_a_zone_lacks_is_one_error_of_a_fleet(self, cloud: Region, ec2: EC2Client) -> None:
        """The other overrides are tried; a single call is refused."""
        reply = ec2.create_fleet(**fleet(cloud, ("toy.here", THERE), ("toy.here", HERE)))
        with pytest.raises(ClientError) as caught:
            ec2.run_instances(**single(cloud, "toy.here", Placement={"AvailabilityZone": THERE}))

        assert [error["ErrorCode"] for error in reply["Errors"]] == ["InvalidFleetConfiguration"]
        assert len(ids_in({**reply})) == 1
        assert code_of(caught) == ("Unsupported", 400)

    @pytest.mark.parametrize(
        ("more", "code"),
        [
            ({"Type": "maintain"}, "InvalidParameterValue"),
            ({"TagSpecifications": [{"ResourceType": "spot-instances-request", "Tags": []}]}, "InvalidParameterValue"),
        ],
    )
    def test_a_bad_fleet_is_refused(self, cloud: Region, ec2: EC2Client, more: dict[str, Any], code: str) -> None:
        """Only instant ones are known, and an on-demand fleet makes no spot requests that could be tagged."""
        with pytest.raises(ClientError) as caught:
            ec2.create_fleet(**fleet(cloud, (SMALL, HERE), **more))

        assert (code, 400) == code_of(caught)

    @pytest.mark.parametrize("place", [("no.such", HERE), (SMALL, "us-east-1z")])
    def test_a_place_that_is_nowhere_fails_the_whole_fleet(self, cloud: Region, ec2: EC2Client, place: tuple[str, str]) -> None:
        """Nothing is launched, also where another override is fine."""
        before = len(cloud.machines)
        with pytest.raises(ClientError) as caught:
            ec2.create_fleet(**fleet(cloud, (SMALL, HERE), place))

        assert code_of(caught) == ("InvalidParameterValue", 400)
        assert before == len(cloud.machines)

    def test_tags_are_there_from_the_start(self, cloud: Region, ec2: EC2Client) -> None:
        """Those of the call, and those that tell the launch template."""
        reply = ec2.create_fleet(**fleet(cloud, (SMALL, HERE), **tagged(a="1", b="2")))
        (group,) = ec2.describe_instances(InstanceIds=ids_in({**reply}))["Reservations"]
        (template,) = ec2.describe_launch_templates(LaunchTemplateNames=[cloud.launch_template])["LaunchTemplates"]

        tags = {tag["Key"]: tag["Value"] for tag in group["Instances"][0]["Tags"]}
        version = {"aws:ec2launchtemplate:id": template["LaunchTemplateId"], "aws:ec2launchtemplate:version": "1"}
        assert {"a": "1", "b": "2", **version} == tags == {**cloud.machines[-1].tags}
