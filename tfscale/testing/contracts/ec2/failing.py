"""Calls that fail: faults, lost replies, denials, dry runs, and the fence of a client."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError, UnknownRegionError

from tfscale.testing.contracts.ec2.world import HERE, SMALL, Workplace, code_of, fleet, ids_in, single
from tfscale.testing.fake_ec2 import LOST_REPLY, SERVER_ERROR, THROTTLED, UNREACHABLE, Fault, Region

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["FailingContract"]


class FailingContract(Workplace):
    """What a caller meets when things go wrong."""

    @pytest.mark.parametrize(
        ("fault", "code"), [(THROTTLED, ("RequestLimitExceeded", 503)), (SERVER_ERROR, ("InternalError", 500))]
    )
    def test_an_injected_error_hits_one_call(self, cloud: Region, ec2: EC2Client, fault: Fault, code: tuple[str, int]) -> None:
        """Nothing is carried out; the next call is fine; both were counted."""
        before, calls = len(cloud.machines), cloud.calls["CreateFleet"]
        cloud.fail_next("CreateFleet", fault)
        with pytest.raises(ClientError) as caught:
            ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))

        assert code == code_of(caught)
        assert before == len(cloud.machines)
        ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))
        assert calls + 2 == cloud.calls["CreateFleet"] == len(cloud.requests("CreateFleet"))

    def test_a_lost_reply_is_lost_after_the_launch(self, cloud: Region, ec2: EC2Client) -> None:
        """The machine is there, and the token finds it again; an unreachable cloud launches nothing."""
        before = len(cloud.machines)
        cloud.fail_next("CreateFleet", UNREACHABLE)
        cloud.fail_next("CreateFleet", LOST_REPLY)
        wanted = fleet(cloud, (SMALL, HERE), ClientToken="lost-1")
        with pytest.raises(EndpointConnectionError):
            ec2.create_fleet(**wanted)
        assert before == len(cloud.machines)
        with pytest.raises(ReadTimeoutError):
            ec2.create_fleet(**wanted)

        assert [cloud.machines[before].id] == ids_in({**ec2.create_fleet(**wanted)})
        assert before + 1 == len(cloud.machines)

    def test_a_lost_reply_may_also_be_of_a_refusal(self, cloud: Region, ec2: EC2Client) -> None:
        """Then the refusal is what the caller hears: EC2 answered before the work began."""
        cloud.fail_next("TerminateInstances", LOST_REPLY)
        with pytest.raises(ClientError) as caught:
            ec2.terminate_instances(InstanceIds=["i-00000000000000000"])

        assert code_of(caught) == ("InvalidInstanceID.NotFound", 400)

    def test_a_dry_run_changes_nothing(self, cloud: Region, ec2: EC2Client) -> None:
        """It says that the call would have succeeded, and of a launch also what is wrong with it."""
        ids = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})
        before = len(cloud.machines)
        for call in self._dry_runs(cloud, ec2, ids):
            with pytest.raises(ClientError) as caught:
                call()
            assert code_of(caught) == ("DryRunOperation", 412)

        assert before == len(cloud.machines)
        assert cloud.machines[-1].state == "pending"
        with pytest.raises(ClientError) as caught:
            ec2.run_instances(**single(cloud, "no.such", DryRun=True))
        assert code_of(caught) == ("InvalidParameterValue", 400)

    def test_what_is_denied_is_denied_in_a_dry_run_too(self, cloud: Region, ec2: EC2Client) -> None:
        """Until it is allowed again."""
        ids = ids_in({**ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))})
        cloud.deny("CreateFleet", "RunInstances", "TerminateInstances", "CreateLaunchTemplate")
        for call in self._dry_runs(cloud, ec2, ids):
            with pytest.raises(ClientError) as caught:
                call()
            assert code_of(caught) == ("UnauthorizedOperation", 403)
        cloud.deny()

        ec2.terminate_instances(InstanceIds=ids)

    def test_ec2_of_another_region_is_nowhere(self, cloud: Region) -> None:
        """The price list is one for all regions."""
        with pytest.raises(UnknownRegionError):
            cloud.session.client("ec2", region_name="eu-west-9").describe_instances()

        assert cloud.session.client("pricing", region_name="eu-central-1").get_products(ServiceCode="AmazonEC2")["PriceList"]

    def test_what_nobody_simulates_is_an_error_of_the_service(self, cloud: Region) -> None:
        """Not one of Python's."""
        with pytest.raises(ClientError):
            cloud.session.client("ec2").describe_spot_datafeed_subscription(DryRun=False)

    def test_a_client_can_be_fenced(self, cloud: Region) -> None:
        """What a handler of ``request-created`` raises keeps the call from being made."""
        ec2 = cloud.session.client("ec2")
        asked = []

        def fence(operation_name: str, **_: object) -> None:
            asked.append(operation_name)
            if operation_name == "CreateFleet":
                raise InterruptedError

        ec2.meta.events.register_last("request-created.ec2", fence)
        before = cloud.calls["CreateFleet"]
        ec2.describe_instances()
        with pytest.raises(InterruptedError):
            ec2.create_fleet(**fleet(cloud, (SMALL, HERE)))

        assert asked == ["DescribeInstances", "CreateFleet"]
        assert before == cloud.calls["CreateFleet"]

    def test_nobody_can_change_what_the_cloud_keeps(self, cloud: Region, ec2: EC2Client) -> None:
        """Neither through a reply nor through the parameters of a call."""
        wanted = fleet(cloud, (SMALL, HERE), ClientToken="kept-1")
        sent = copy.deepcopy(wanted)
        reply = ec2.create_fleet(**sent)
        ids = ids_in({**reply})
        reply["Instances"].clear()
        sent["LaunchTemplateConfigs"][0]["Overrides"].clear()
        (group,) = ec2.describe_instances(InstanceIds=ids)["Reservations"]
        group["Instances"][0]["Tags"].clear()
        (again,) = ec2.describe_instances(InstanceIds=ids)["Reservations"]

        assert wanted["LaunchTemplateConfigs"] == cloud.requests("CreateFleet")[-1]["LaunchTemplateConfigs"]
        assert ids == ids_in({**ec2.create_fleet(**wanted)})
        assert again["Instances"][0]["Tags"]

    @staticmethod
    def _dry_runs(cloud: Region, ec2: EC2Client, ids: list[str]) -> list[Callable[[], Any]]:
        data: Any = {"ImageId": "ami-00000000000000001"}
        return [
            lambda: ec2.create_fleet(**fleet(cloud, (SMALL, HERE), DryRun=True)),
            lambda: ec2.run_instances(**single(cloud, DryRun=True)),
            lambda: ec2.terminate_instances(InstanceIds=ids, DryRun=True),
            lambda: ec2.create_launch_template(LaunchTemplateName="never", LaunchTemplateData=data, DryRun=True),
        ]
