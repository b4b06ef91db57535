"""Reading, tagging and ending machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tfscale.testing.contracts.ec2.world import BIG, HERE, SMALL, THERE, Workplace, code_of, fleet, ids_in, listed, single, tagged
from tfscale.testing.fake_ec2 import Region

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["ListingContract"]

_NOBODY = "i-00000000000000000"


class ListingContract(Workplace):
    """DescribeInstances, CreateTags, TerminateInstances, and the clock."""

    def test_machines_boot_and_end_by_the_clock(self, cloud: Region, ec2: EC2Client) -> None:
        """EC2's own answers follow the simulated clock, and so do the nodes."""
        (machine_id,) = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})
        start_s = cloud.now_s

        def look() -> tuple[str, int, bool]:
            (group,) = ec2.describe_instances(InstanceIds=[machine_id])["Reservations"]
            (one,) = group["Instances"]
            node = any(node["spec"]["providerID"].endswith(machine_id) for node in cloud.nodes())
            return one["State"]["Name"], int(one["LaunchTime"].timestamp()), node

        seen = [look()]
        for wait_s in (59, 1):
            cloud.advance(cloud.now_s + wait_s)
            seen.append(look())
        ec2.terminate_instances(InstanceIds=[machine_id])
        seen.append(look())
        cloud.advance(cloud.now_s + 30)
        seen.append(look())

        states = ["pending", "pending", "running", "shutting-down", "terminated"]
        assert [(state, start_s, state == "running") for state in states] == seen
        assert cloud.machines[-1].node in cloud.gone_nodes()
        with pytest.raises(ValueError, match="cannot go back"):
            cloud.advance(0)

    def test_a_terminated_machine_is_forgotten_after_an_hour(self, cloud: Region, ec2: EC2Client) -> None:
        """Until then it can be terminated again; then nobody knows it."""
        ids = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})
        ec2.terminate_instances(InstanceIds=ids)
        cloud.advance(cloud.now_s + 30)
        (again,) = ec2.terminate_instances(InstanceIds=ids)["TerminatingInstances"]
        seen = listed(ec2)
        cloud.advance(cloud.now_s + 3_600)

        assert [again["PreviousState"]["Name"], again["CurrentState"]["Name"]] == ["terminated", "terminated"]
        assert [ids, []] == [seen, listed(ec2)]
        with pytest.raises(ClientError) as caught:
            ec2.terminate_instances(InstanceIds=ids)
        assert code_of(caught) == ("InvalidInstanceID.NotFound", 400)

    def test_one_unknown_id_fails_the_call_for_all(self, cloud: Region, ec2: EC2Client) -> None:
        """Nothing is terminated, and nothing is described."""
        ids = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})
        for call in (ec2.terminate_instances, ec2.describe_instances):
            with pytest.raises(ClientError) as caught:
                call(InstanceIds=[*ids, _NOBODY])
            assert code_of(caught) == ("InvalidInstanceID.NotFound", 400)
            assert _NOBODY in str(caught.value)

        assert [machine.state for machine in cloud.machines if machine.id in ids] == ["pending"]

    def test_ids_and_pages_do_not_go_together(self, cloud: Region, ec2: EC2Client) -> None:
        """EC2 refuses the two in one call."""
        ids = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})
        with pytest.raises(ClientError) as caught:
            ec2.describe_instances(InstanceIds=ids, MaxResults=10)

        assert code_of(caught) == ("InvalidParameterCombination", 400)

    def test_filters_narrow_the_list(self, cloud: Region, ec2: EC2Client) -> None:
        """All filters of a call apply, any value of one is enough, * and ? are wildcards."""
        (one,) = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE), **tagged(team="red", plan="a.b")))})
        (two,) = ids_in({**ec2.create_fleet(**fleet(cloud, (BIG, THERE), kind="spot", **tagged(team="rose")))})
        (three,) = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, THERE)))})
        cloud.advance(cloud.now_s + 60)
        ec2.terminate_instances(InstanceIds=[three])

        assert [one, two, three] == listed(ec2)
        assert [one] == listed(ec2, **{"tag:team": ["red"]})
        assert [one, two] == listed(ec2, **{"tag:team": ["red", "rose"]})
        assert [one, two] == listed(ec2, **{"tag:team": ["r*"]})
        assert [two] == listed(ec2, **{"tag:team": ["ros?"]})
        assert listed(ec2, **{"tag:plan": ["axb"]}) == []
        assert [one, two] == listed(ec2, **{"tag-key": ["team"]})
        assert [one, two] == listed(ec2, **{"instance-state-name": ["pending", "running"]})
        assert [two] == listed(ec2, **{"instance-type": [BIG], "availability-zone": [THERE]})
        assert [two, three] == listed(ec2, **{"subnet-id": [cloud.subnets[THERE]]})
        assert listed(ec2, **{"tag:team": ["red"], "instance-type": [BIG]}) == []

    def test_a_long_list_comes_in_pages(self, cloud: Region, ec2: EC2Client) -> None:
        """A token leads to the next one; pages are counted in calls that launched, and the last one has no token."""
        made = [ec2.run_instances(**single(cloud))["Instances"][0]["InstanceId"] for _ in range(12)]
        pages: list[list[str]] = []
        more: dict[str, Any] = {}
        while not pages or more:
            page = ec2.describe_instances(MaxResults=5, **more)
            pages.append([one["InstanceId"] for group in page["Reservations"] for one in group["Instances"]])
            more = {"NextToken": page["NextToken"]} if page.get("NextToken") else {}

        assert [one for page in pages for one in page] == made
        assert len(pages) > 1

    def test_a_new_machine_is_listed_late(self, cloud: Region, ec2: EC2Client) -> None:
        """Its token finds it, its id does not; nor does its fleet. Machines of before are there."""
        (old,) = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})
        cloud.set_describe_lag(60)
        wanted = fleet(cloud, (SMALL, HERE), ClientToken="late-1")
        reply, again = (ec2.create_fleet(**wanted) for _ in range(2))
        (new,) = ids_in({**reply})
        cloud.advance(cloud.now_s + 59)
        for call in (
            lambda: ec2.describe_instances(InstanceIds=[new]),
            lambda: ec2.terminate_instances(InstanceIds=[new]),
            lambda: ec2.describe_fleets(FleetIds=[reply["FleetId"]]),
        ):
            with pytest.raises(ClientError, match="NotFound"):
                call()
        early = listed(ec2)
        cloud.advance(cloud.now_s + 1)

        assert [new] == ids_in({**again})
        assert [[old], [old, new]] == [early, listed(ec2)]
        assert len(ec2.describe_fleets(FleetIds=[reply["FleetId"]])["Fleets"]) == 1

    def test_tags_change(self, cloud: Region, ec2: EC2Client) -> None:
        """They are added, replaced and taken off; a machine that is not there has none."""
        (machine_id,) = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE), **tagged(a="1", b="2")))})
        ec2.create_tags(Resources=[machine_id], Tags=[{"Key": "b", "Value": "3"}, {"Key": "c", "Value": "4"}])
        ec2.delete_tags(Resources=[machine_id], Tags=[{"Key": "a"}])
        (group,) = ec2.describe_instances(InstanceIds=[machine_id])["Reservations"]

        tags = {tag["Key"]: tag["Value"] for tag in group["Instances"][0]["Tags"] if not tag["Key"].startswith("aws:")}
        assert tags == {"b": "3", "c": "4"}
        assert tags.items() <= cloud.machines[-1].tags.items()
        with pytest.raises(ClientError) as caught:
            ec2.create_tags(Resources=[_NOBODY], Tags=[{"Key": "a", "Value": "1"}])
        assert code_of(caught) == ("InvalidInstanceID.NotFound", 400)

    def test_a_machine_that_is_taken_away_ends_like_any_other(self, cloud: Region, ec2: EC2Client) -> None:
        """EC2 does that to spot machines, and to those of a failing host."""
        ids = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE), kind="spot"))})
        cloud.take_away(ids)
        ending = listed(ec2, **{"instance-state-name": ["shutting-down"]})
        cloud.advance(cloud.now_s + 30)

        assert [ids, ids] == [ending, listed(ec2, **{"instance-state-name": ["terminated"]})]
