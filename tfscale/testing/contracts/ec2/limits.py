"""What there is not enough of: capacity, quotas, addresses, tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from tfscale.testing.contracts.ec2.world import BIG, HERE, SMALL, Workplace, code_of, fleet, ids_in, single
from tfscale.testing.fake_ec2 import Region

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["LimitsContract"]


class LimitsContract(Workplace):
    """Every limit, and what EC2 says at it."""

    def test_capacity_comes_back_when_a_machine_is_gone(self, cloud: Region, ec2: EC2Client) -> None:
        """Not when it is asked to end: it takes its room until it has shut down."""
        cloud.set_capacity({(SMALL, HERE): 1})
        first = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})
        ec2.terminate_instances(InstanceIds=first)
        early = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})
        cloud.advance(cloud.now_s + 30)

        assert early == []
        assert len(ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})) == 1

    def test_capacity_can_be_of_one_capacity_type(self, cloud: Region, ec2: EC2Client) -> None:
        """Spot may be out while on-demand is not."""
        cloud.set_capacity({(SMALL, HERE, "spot"): 0})

        assert ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE), kind="spot"))}) == []
        assert len(ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})) == 1

    @pytest.mark.parametrize(("kind", "code"), [("on-demand", "VcpuLimitExceeded"), ("spot", "MaxSpotInstanceCountExceeded")])
    def test_a_quota_is_of_vcpus_and_capacity_type(self, cloud: Region, ec2: EC2Client, kind: str, code: str) -> None:
        """What still fits is launched; the other capacity type has a quota of its own."""
        cloud.set_quota(kind, 10)
        reply = ec2.create_fleet(**fleet(cloud, (BIG, HERE), (SMALL, HERE), count=3, kind=kind))
        other = "spot" if kind == "on-demand" else "on-demand"

        assert [group["InstanceType"] for group in reply["Instances"] for _ in group["InstanceIds"]] == [SMALL, SMALL]
        assert {code} == {error["ErrorCode"] for error in reply["Errors"]}
        assert len(ids_in({**ec2.create_fleet(**fleet(cloud, (BIG, HERE), kind=other))})) == 1

    def test_a_single_call_beyond_the_quota_is_refused(self, cloud: Region, ec2: EC2Client) -> None:
        """With the same code."""
        cloud.set_quota("on-demand", 3)
        with pytest.raises(ClientError) as caught:
            ec2.run_instances(**single(cloud))

        assert code_of(caught) == ("VcpuLimitExceeded", 400)

    def test_a_zone_has_several_subnets_and_each_runs_full(self, cloud: Region, ec2: EC2Client) -> None:
        """A full one is an error of its own override; addresses come back, and DescribeSubnets counts them."""
        subnet = cloud.add_subnet(HERE, machines=2)
        wanted = fleet(cloud, count=3)
        (config,) = wanted["LaunchTemplateConfigs"]
        config["Overrides"] = [
            {"InstanceType": SMALL, "AvailabilityZone": HERE, "SubnetId": one, "Priority": rank}
            for rank, one in enumerate([subnet, cloud.subnets[HERE]])
        ]

        def free() -> int:
            return ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailableIpAddressCount"]

        before = free()
        reply = ec2.create_fleet(**wanted)
        full = free()
        ec2.terminate_instances(InstanceIds=ids_in({**reply}))
        cloud.advance(cloud.now_s + 30)

        assert [before, full, free()] == [2, 0, 2]
        assert [len(group["InstanceIds"]) for group in reply["Instances"]] == [2, 1]
        assert [("InsufficientFreeAddressesInSubnet", subnet)] == [
            (error["ErrorCode"], error["LaunchTemplateAndOverrides"]["Overrides"]["SubnetId"]) for error in reply["Errors"]
        ]

    def test_a_subnet_is_in_its_zone(self, cloud: Region, ec2: EC2Client) -> None:
        """One that is named beside another zone, or not there, is refused."""
        elsewhere = {"AvailabilityZone": "us-east-1b"}
        for more, code in (
            ({"SubnetId": cloud.subnets[HERE], "Placement": elsewhere}, "InvalidParameterValue"),
            ({"SubnetId": "subnet-00000000000000000"}, "InvalidSubnetID.NotFound"),
        ):
            with pytest.raises(ClientError) as caught:
                ec2.run_instances(**single(cloud, **more))
            assert (code, 400) == code_of(caught)

    def test_calls_are_throttled_by_operation(self, cloud: Region, ec2: EC2Client) -> None:
        """Five RunInstances, then two a second; other calls have buckets of their own."""
        cloud.set_throttle(on=True)
        for _ in range(5):
            ec2.run_instances(**single(cloud))
        with pytest.raises(ClientError) as caught:
            ec2.run_instances(**single(cloud))
        ec2.describe_instances()
        cloud.advance(cloud.now_s + 1)
        for _ in range(2):
            ec2.run_instances(**single(cloud))

        assert code_of(caught) == ("RequestLimitExceeded", 503)
        with pytest.raises(ClientError):
            ec2.run_instances(**single(cloud))
        assert cloud.throttled["RunInstances"] == 2
        cloud.forget_calls()
        cloud.set_throttle(on=True)
        ec2.run_instances(**single(cloud))
        assert not cloud.throttled

    def test_reads_have_a_hundred_tokens(self, cloud: Region, ec2: EC2Client) -> None:
        """Twenty more a second; the price list is another service."""
        cloud.set_throttle(on=True)
        for _ in range(100):
            ec2.describe_launch_templates()
        with pytest.raises(ClientError):
            ec2.describe_launch_templates()
        cloud.session.client("pricing").get_products(ServiceCode="AmazonEC2")
        ec2.describe_fleets()
