"""The exact parameters of the calls that make something on EC2, as botocore's own models accept them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import ANY

from tests.modes.fleets import CLUSTER, A, B, bootstrap
from tests.modes.stubs import StubbedSession
from tfscale.gpus import GpuTable
from tfscale.model import LaunchBatch, NodeRequest, Offer
from tfscale.modes.base import ModeContext
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.ec2_bootstrap import user_data
from tfscale.modes.ec2_options import options_of
from tfscale.pool import OfferFilter, Pool
from tfscale.testing import FakeKube

LABELS = {"kubernetes.io/arch": "amd64"}
OWN = bootstrap(
    ami={"id": "ami-0a"},
    securityGroupIds=["sg-0a"],
    instanceProfile="arn:aws:iam::123456789012:instance-profile/gpu",
    volume={"size": "200Gi", "type": "io2", "iops": 5_000, "kmsKeyId": "alias/nodes"},
)


@pytest.fixture
def stub() -> StubbedSession:
    """Return clients that expect nothing yet."""
    return StubbedSession()


def mode_of(stub: StubbedSession, pool: Pool) -> Ec2Mode:
    """Return the mode of a pool that talks to stubs."""
    context = ModeContext(
        pool=pool, gpus=GpuTable(), kube=FakeKube(), cluster="test", aws=stub.session, sleep=lambda _: None, clock=lambda: 0
    )
    return Ec2Mode.open(context)


def offer(zone: str, capacity_type: str, *, subnets: tuple[str, ...] = (), reservation: str = "") -> Offer:
    """Return an offer of g6.xlarge."""
    return Offer(
        instance_type="g6.xlarge",
        zone=zone,
        capacity_type=capacity_type,
        cpu_milli=0,
        memory_mib=0,
        price_micro_usd=None,
        labels=LABELS,
        subnets=subnets,
        reservation=reservation,
        count_max=2 if reservation else None,
    )


def batch_of(mode: Ec2Mode, offers: list[Offer], count: int) -> LaunchBatch:
    """Return the record of a call."""
    requests = [NodeRequest(name=f"r{number}", pool="gpus", mode="ec2") for number in range(count)]
    order = mode.prepare("b", requests, offers, now_s=7)
    names = tuple(request.name for request in requests)
    return LaunchBatch(name="b", pool="gpus", mode="ec2", requests=names, parameters=order.parameters, offers=order.offers)


def tags(**more: str) -> list[dict[str, str]]:
    """Return the tags of what is launched, sorted by key."""
    given = {
        "Name": "test-gpus",
        "tfscale.io/batch": "b",
        "tfscale.io/cluster": "test",
        "tfscale.io/epoch": "0",
        "tfscale.io/pool": "gpus",
        **{key.replace("__", "/").replace("_", "."): value for key, value in more.items()},
    }
    return [{"Key": key, "Value": given[key]} for key in sorted(given)]


def specifications(kinds: tuple[str, ...], **more: str) -> list[dict[str, Any]]:
    """Return the tag specifications of a call."""
    return [{"ResourceType": kind, "Tags": tags(**more)} for kind in kinds]


def expect_image(stub: StubbedSession) -> None:
    """Expect that the image is looked at."""
    wanted = [("state", "available"), ("architecture", "x86_64"), ("image-id", "ami-0a")]
    filters = [{"Name": name, "Values": [value]} for name, value in wanted]
    image = {"ImageId": "ami-0a", "Architecture": "x86_64", "RootDeviceName": "/dev/sda1", "CreationDate": "2026-01-01"}
    stub.expect("ec2", "describe_images", {"Filters": filters}, {"Images": [image]})


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        ("spot", {"SpotOptions": {"AllocationStrategy": "price-capacity-optimized"}}),
        ("on-demand", {"OnDemandOptions": {"AllocationStrategy": "prioritized"}}),
    ],
)
def test_a_fleet_names_every_type_subnet_and_zone(stub: StubbedSession, kind: str, strategy: dict[str, Any]) -> None:
    """In our order: on demand it holds, spot is EC2's choice of price and capacity; nothing that is for the other alone."""
    pool = Pool(name="gpus", mode="ec2", options={"region": "us-east-1", "launchTemplate": {"id": "lt-0a", "version": "7"}})
    template = {"LaunchTemplateId": "lt-0a", "DefaultVersionNumber": 3, "LatestVersionNumber": 9}
    stub.expect("ec2", "describe_launch_templates", {"LaunchTemplateIds": ["lt-0a"]}, {"LaunchTemplates": [template]})
    mode = mode_of(stub, pool)
    batch = batch_of(mode, [offer(B, kind, subnets=("subnet-2", "subnet-3")), offer(A, kind)], 2)
    overrides = [
        {"InstanceType": "g6.xlarge", "AvailabilityZone": B, "SubnetId": "subnet-2", "Priority": 0},
        {"InstanceType": "g6.xlarge", "AvailabilityZone": B, "SubnetId": "subnet-3", "Priority": 1},
        {"InstanceType": "g6.xlarge", "AvailabilityZone": A, "Priority": 2},
    ]
    expected = {
        "Type": "instant",
        "LaunchTemplateConfigs": [
            {"LaunchTemplateSpecification": {"LaunchTemplateId": "lt-0a", "Version": "7"}, "Overrides": overrides}
        ],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 2, "DefaultTargetCapacityType": kind},
        "TagSpecifications": specifications(("instance", "volume", "fleet")),
        **strategy,
        "ClientToken": batch.parameters["ClientToken"],
    }
    about = {"LaunchTemplateAndOverrides": {"Overrides": overrides[1]}, "Lifecycle": kind, "InstanceType": "g6.xlarge"}
    reply = {"FleetId": "fleet-1", "Instances": [{**about, "InstanceIds": ["i-2", "i-1"]}]}
    stub.expect("ec2", "create_fleet", expected, reply)
    results = mode.launch(batch)
    stub.done()

    assert ["i-1", "i-2"] == [result.machine and result.machine.id for result in results]
    assert (f"g6.xlarge/{B}/{kind}", f"g6.xlarge/{A}/{kind}") == batch.offers


@pytest.mark.parametrize(
    ("kind", "market"),
    [("default", {}), ("capacity-block", {"InstanceMarketOptions": {"MarketType": "capacity-block"}})],
)
def test_a_run_targets_one_reservation(stub: StubbedSession, kind: str, market: dict[str, Any]) -> None:
    """No more machines than it has room for; a capacity block is asked for with its own market type."""
    options = {"region": "us-east-1", "launchTemplate": {"name": "gpu"}, "reservations": [{"id": "cr-0a"}]}
    pool = Pool(name="gpus", mode="ec2", options=options, wanted=OfferFilter(capacity_types=("reserved",)))
    template = {"LaunchTemplateId": "lt-0a", "DefaultVersionNumber": 3, "LatestVersionNumber": 9}
    stub.expect("ec2", "describe_launch_templates", {"LaunchTemplateNames": ["gpu"]}, {"LaunchTemplates": [template]})
    described = {
        "CapacityReservationId": "cr-0a",
        "InstanceType": "g6.xlarge",
        "AvailabilityZone": A,
        "State": "active",
        "AvailableInstanceCount": 2,
        "ReservationType": kind,
    }
    stub.expect(
        "ec2",
        "describe_capacity_reservations",
        {"CapacityReservationIds": ["cr-0a"]},
        {"CapacityReservations": [described]},
    )
    mode = mode_of(stub, pool)
    batch = batch_of(mode, [offer(A, "reserved", subnets=("subnet-1", "subnet-2"), reservation="cr-0a")], 3)
    expected = {
        "LaunchTemplate": {"LaunchTemplateId": "lt-0a", "Version": "3"},
        "InstanceType": "g6.xlarge",
        "Placement": {"AvailabilityZone": A},
        "SubnetId": "subnet-1",
        "MinCount": 1,
        "MaxCount": 2,
        "CapacityReservationSpecification": {"CapacityReservationTarget": {"CapacityReservationId": "cr-0a"}},
        **market,
        "TagSpecifications": specifications(("instance", "volume"), tfscale_io__reservation="cr-0a"),
        "ClientToken": batch.parameters["ClientToken"],
    }
    instance = {
        "InstanceId": "i-1",
        "InstanceType": "g6.xlarge",
        "Placement": {"AvailabilityZone": A},
        "State": {"Name": "pending"},
        "LaunchTime": datetime(2026, 1, 1, tzinfo=UTC),
        "CapacityReservationId": "cr-0a",
    }
    stub.expect("ec2", "run_instances", expected, {"Instances": [instance]})
    machines = [result.machine for result in mode.launch(batch) if result.machine]
    stub.done()

    assert [("i-1", f"g6.xlarge/{A}/reserved/cr-0a", "b", False)] == [(m.id, m.offer, m.batch, m.started) for m in machines]
    assert (f"g6.xlarge/{A}/reserved/cr-0a",) == batch.offers


def test_a_launch_template_is_made_with_all_that_keeps_nodes_safe(stub: StubbedSession) -> None:
    """Metadata only with a token and not from pods, encrypted disks; the fleet names the first version of it."""
    options = {"region": "us-east-1", "bootstrap": OWN}
    pool = Pool(name="gpus", mode="ec2", options=options)
    own = options_of(pool).bootstrap
    assert own is not None
    text = user_data(own, pool="gpus", capacity_type="on-demand")
    mode = mode_of(stub, pool)
    name: Any = ANY
    expect_image(stub)
    missing = {"Filters": [{"Name": "launch-template-name", "Values": [name]}]}
    stub.expect("ec2", "describe_launch_templates", missing, {"LaunchTemplates": []})
    disk = {
        "VolumeSize": 200,
        "VolumeType": "io2",
        "Iops": 5_000,
        "Encrypted": True,
        "DeleteOnTermination": True,
        "KmsKeyId": "alias/nodes",
    }
    expected = {
        "LaunchTemplateName": name,
        "LaunchTemplateData": {
            "ImageId": "ami-0a",
            "IamInstanceProfile": {"Arn": "arn:aws:iam::123456789012:instance-profile/gpu"},
            "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
            "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "UserData": base64.b64encode(text.encode()).decode(),
            "SecurityGroupIds": ["sg-0a"],
        },
        "TagSpecifications": [
            {
                "ResourceType": "launch-template",
                "Tags": [{"Key": "tfscale.io/cluster", "Value": "test"}, {"Key": "tfscale.io/pool", "Value": "gpus"}],
            }
        ],
    }
    stub.expect("ec2", "create_launch_template", expected, {"LaunchTemplate": {"LaunchTemplateId": "lt-0b"}})
    ours = {"Filters": [{"Name": "tag:tfscale.io/cluster", "Values": ["test"]}]}
    stub.expect("ec2", "describe_launch_templates", ours, {"LaunchTemplates": []})
    batch = batch_of(mode, [offer(A, "on-demand")], 1)
    stub.done()

    (config,) = batch.parameters["LaunchTemplateConfigs"]
    assert {"LaunchTemplateId": "lt-0b", "Version": "1"} == config["LaunchTemplateSpecification"]
    owned = {"Key": f"kubernetes.io/cluster/{CLUSTER['name']}", "Value": "owned"}
    assert owned in batch.parameters["TagSpecifications"][0]["Tags"]
