"""What is particular to the cloud on moto: real clients and types, one at a time. The rest is in the contract of both clouds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuTable
from tfscale.kube.fields import named
from tfscale.kube.nodes import read_node
from tfscale.kube.pods import BoundPods
from tfscale.model import Offer
from tfscale.modes.base import ModeContext
from tfscale.modes.ec2 import Ec2Mode
from tfscale.pool import OfferFilter, Pool
from tfscale.testing import FakeKube
from tfscale.testing.fake_ec2 import THROTTLED, UNREACHABLE, SimulatedCloud, SimulatedType

A, B = "us-east-1a", "us-east-1b"
TYPES = (
    SimulatedType(name="g6.xlarge", usd_per_hour="0.8048", spot_usd_per_hour="0.30"),
    SimulatedType(name="g6f.xlarge"),
    SimulatedType(name="p4d.24xlarge"),
    SimulatedType(name="toy.2x", gpu_model="A10G", gpu_count=2, vcpu=16, memory_mib=65_536),
    SimulatedType(name="plain", vcpu=2, memory_mib=4_096, zones=(A,)),
)
ONCE = Config(retries={"total_max_attempts": 1})


@pytest.fixture(scope="module")
def shared_cloud() -> Iterator[SimulatedCloud]:
    """Yield the cloud of this module, as the tests before have left it."""
    with SimulatedCloud(instance_types=TYPES) as cloud:
        yield cloud


@pytest.fixture
def cloud(shared_cloud: SimulatedCloud) -> SimulatedCloud:
    """Return the cloud of this module with unlimited capacity."""
    shared_cloud.set_capacity({})
    return shared_cloud


def fleet(
    cloud: SimulatedCloud, *places: tuple[str, str], count: int = 1, kind: str = "on-demand", once: str = "", **more: object
) -> dict[str, Any]:
    """Order a fleet, the first place first."""
    overrides = [{"InstanceType": name, "AvailabilityZone": zone, "Priority": rank} for rank, (name, zone) in enumerate(places)]
    request: dict[str, Any] = {
        "Type": "instant",
        # Written in the wrong order: Priority decides.
        "LaunchTemplateConfigs": [
            {"LaunchTemplateSpecification": {"LaunchTemplateName": cloud.launch_template}, "Overrides": overrides[::-1]}
        ],
        "TargetCapacitySpecification": {"TotalTargetCapacity": count, "DefaultTargetCapacityType": kind},
        "OnDemandOptions": {"AllocationStrategy": "prioritized"},
        **({"ClientToken": once} if once else {}),
        **more,
    }
    return {**cloud.session.client("ec2", config=ONCE).create_fleet(**request)}


def made(reply: dict[str, Any]) -> list[str]:
    """Return the ids of the machines in a reply."""
    return [machine_id for group in reply["Instances"] for machine_id in group["InstanceIds"]]


def end(cloud: SimulatedCloud) -> None:
    """Terminate everything and wait until it is gone."""
    live = [machine.id for machine in cloud.machines if machine.state != "terminated"]
    if live:
        cloud.session.client("ec2").terminate_instances(InstanceIds=live)
        cloud.advance(cloud.now_s + 1_000)


def test_a_subnet_runs_out_of_addresses(cloud: SimulatedCloud) -> None:
    """A fleet gets what is left and says so; so does a single instance."""
    ec2 = cloud.session.client("ec2", config=ONCE)
    vpc = ec2.create_vpc(CidrBlock="172.16.0.0/28")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="172.16.0.0/28", AvailabilityZone=A)["Subnet"]["SubnetId"]
    template = {"LaunchTemplateName": cloud.launch_template}
    config = {"LaunchTemplateSpecification": template, "Overrides": [{"InstanceType": "plain", "SubnetId": subnet}]}
    reply = fleet(cloud, count=13, LaunchTemplateConfigs=[config])
    single: dict[str, Any] = {"InstanceType": "plain", "ImageId": "ami-1", "SubnetId": subnet, "MinCount": 1, "MaxCount": 1}

    assert len(made(reply)) == 11
    assert [error["ErrorCode"] for error in reply["Errors"]] == ["InsufficientFreeAddressesInSubnet"]
    with pytest.raises(ClientError, match="InsufficientFreeAddressesInSubnet"):
        ec2.run_instances(**single)


def test_each_zone_has_addresses_for_a_large_fleet(cloud: SimulatedCloud) -> None:
    """As many as EC2 lets a subnet have, less the five that it keeps."""
    subnets = cloud.session.client("ec2").describe_subnets(SubnetIds=list(cloud.subnets.values()))["Subnets"]

    assert ["/16", "/16"] == [subnet["CidrBlock"][-3:] for subnet in subnets]
    assert len({subnet["VpcId"] for subnet in subnets}) == 1
    assert all(subnet["AvailableIpAddressCount"] > 60_000 for subnet in subnets)


def test_a_single_instance_without_capacity_is_an_error(cloud: SimulatedCloud) -> None:
    """RunInstances raises where a fleet lists; botocore would repeat the call, since it is an HTTP 500."""
    cloud.set_capacity({("plain", A): 0})
    single: dict[str, Any] = {"InstanceType": "plain", "ImageId": "ami-1", "MinCount": 1, "MaxCount": 1}
    calls = cloud.calls["RunInstances"]

    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        cloud.session.client("ec2", config=ONCE).run_instances(**single)
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        cloud.session.client("ec2", config=Config(retries={"total_max_attempts": 2})).run_instances(**single)
    assert calls + 3 == cloud.calls["RunInstances"]


def test_a_fault_hits_every_attempt_once(cloud: SimulatedCloud) -> None:
    """The retries of botocore are above the wire: they meet the faults and are counted."""
    ec2 = cloud.session.client("ec2", config=Config(retries={"total_max_attempts": 3, "mode": "standard"}))
    cloud.fail_next("DescribeInstances", UNREACHABLE, times=2)
    before = cloud.calls["DescribeInstances"]
    ec2.describe_instances()

    assert before + 3 == cloud.calls["DescribeInstances"]


def test_a_throttled_price_list_speaks_its_own_protocol(cloud: SimulatedCloud) -> None:
    """The error arrives as an error there too, and a careless filter finds more than one product."""
    pricing = cloud.session.client("pricing", config=ONCE)
    cloud.fail_next("GetProducts", THROTTLED)
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        pricing.get_products(ServiceCode="AmazonEC2")

    filters: Any = [{"Type": "TERM_MATCH", "Field": "instanceType", "Value": "g6.xlarge"}]
    assert len(pricing.get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"]) == 3


def test_nodes_hold_what_the_offers_promise(cloud: SimulatedCloud) -> None:
    """What was packed onto an offer fits on the node that comes of it, for every type."""
    names = tuple(kind.name for kind in TYPES)
    options = {"region": cloud.region, "launchTemplate": {"name": cloud.launch_template}}
    pool = Pool(name="all", mode="ec2", options=options, wanted=OfferFilter(instance_types=names, zones=(A,)))
    mode = Ec2Mode.open(ModeContext(pool=pool, gpus=GpuTable(), kube=FakeKube(), cluster="t", aws=cloud.session))
    offers = {offer.instance_type: offer for offer in mode.offers()}
    for name in names:
        fleet(
            cloud,
            (name, A),
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "tfscale.io/pool", "Value": "all"}]}],
        )
    cloud.advance(cloud.now_s + 60)

    nodes = [node for node in cloud.nodes() if node["metadata"]["labels"].get("tfscale.io/pool") == "all"]
    assert sorted(names) == sorted(offers) == sorted(label(node, "node.kubernetes.io/instance-type") for node in nodes)
    for node in nodes:
        agree(offers[label(node, "node.kubernetes.io/instance-type")], node)


def label(node: dict[str, Any], key: str) -> str:
    """Return a label of a node."""
    return str(node["metadata"]["labels"][key])


def agree(offer: Offer, node: dict[str, Any]) -> None:
    """Assert that a node, as the loop reads it, is what its offer said."""
    problems: list[Problem] = []
    read = read_node(
        named("node", node),
        [],
        machine=("all", ""),
        gpus=GpuTable(),
        bound=BoundPods(GpuTable(), "tensor-fusion.ai"),
        problems=problems,
    )
    assert read
    assert not problems
    assert not read.fenced
    assert read.ready
    assert (offer.cpu_milli, offer.memory_mib, offer.pods_max) == (read.cpu_milli, read.memory_mib, read.pods_max)
    cards = [(offer.gpu_model, offer.vram_mib, offer.mtflops)] * offer.gpu_count
    assert cards == [(gpu.model, gpu.vram_mib, gpu.mtflops) for gpu in read.gpus]
    totals = {"tfscale.io/vram-mib": str(sum(gpu.vram_mib for gpu in read.gpus))} if cards else {}
    totals |= {"tfscale.io/compute-mtflops": str(sum(gpu.mtflops for gpu in read.gpus))} if cards else {}
    assert totals.items() <= node["status"]["capacity"].items()
    assert offer.labels.items() <= node["metadata"]["labels"].items()
    assert (offer.zone, offer.capacity_type) == (
        label(node, "topology.kubernetes.io/zone"),
        label(node, "karpenter.sh/capacity-type"),
    )


def ids_of_a_run(seed: int) -> list[tuple[str, str]]:
    """Return machines and nodes of a short run in a cloud of its own."""
    with SimulatedCloud(instance_types=TYPES, seed=seed) as cloud:
        fleet(cloud, ("g6.xlarge", A), ("g6.xlarge", B), count=3)
        return [(machine.id, machine.node) for machine in cloud.machines]


class TestOnItsOwn:
    """What needs a cloud that is not the shared one, which stops meanwhile."""

    @pytest.fixture(autouse=True)
    def _alone(self, shared_cloud: SimulatedCloud) -> Iterator[None]:
        shared_cloud.__exit__()
        yield
        shared_cloud.__enter__()

    def test_the_same_seed_gives_the_same_machines(self) -> None:
        """So that a scenario prints the same account every time."""
        first, second, other = ids_of_a_run(1), ids_of_a_run(1), ids_of_a_run(2)

        assert first == second
        assert first != other

    def test_one_at_a_time_and_the_environment_as_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A second cloud is refused; a strange AWS configuration is neither read nor changed."""
        monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        before = dict(os.environ)
        with SimulatedCloud(instance_types=TYPES) as cloud:
            assert len(made(fleet(cloud, ("g6.xlarge", A)))) == 1
            with pytest.raises(RuntimeError, match="one at a time"), SimulatedCloud(instance_types=TYPES):
                pass
        assert before == dict(os.environ)

    @pytest.mark.parametrize(
        ("kind", "line"),
        [
            (SimulatedType(name="g66.xlarge"), "instance type g66.xlarge: name is 'g66.xlarge'; want a type of EC2's own"),
            (SimulatedType(name="x", vcpu=2), "instance type x: vcpu and memory is '2 and None'; want both"),
            (SimulatedType(name="x", vcpu=2, memory_mib=1, gpu_model="B20", gpu_count=1), "gpu model is 'B20'; want B200?"),
            (
                SimulatedType(name="g6.xlarge", usd_per_hour="nan"),
                "instance type g6.xlarge: price is 'nan'; want an amount of USD",
            ),
            (
                SimulatedType(name="g6.xlarge", spot_usd_per_hour="-1"),
                "instance type g6.xlarge: spot price is '-1'; want an amount of USD",
            ),
            (SimulatedType(name="g6.xlarge", zones=("mars",)), "instance type g6.xlarge: zone is 'mars'; want one of us-east-1a"),
        ],
    )
    def test_a_bad_type_is_one_clear_line_and_leaves_nothing_behind(self, kind: SimulatedType, line: str) -> None:
        """The cloud does not start, and the next one does."""
        with pytest.raises(BadInputError) as caught, SimulatedCloud(instance_types=[kind]):
            pass

        assert line in str(caught.value)
        with SimulatedCloud(instance_types=TYPES) as cloud:
            assert cloud.machines == ()

    def test_a_bad_region_zone_or_capacity_is_one_clear_line(self) -> None:
        """The same for the cloud itself."""
        with pytest.raises(BadInputError, match="simulated cloud: region is 'nowhere-1'; want one of af-south-1, "):
            SimulatedCloud(instance_types=TYPES, region="nowhere-1").__enter__()
        with pytest.raises(BadInputError, match=r"simulated cloud: region is 'us-west-9'; want us-west-[12]\?"):
            SimulatedCloud(instance_types=TYPES, region="us-west-9").__enter__()
        with pytest.raises(BadInputError, match="simulated cloud: zone is 'us-east-1q'; want one of us-east-1a"):
            SimulatedCloud(instance_types=TYPES, zones=["us-east-1q"]).__enter__()
        with pytest.raises(BadInputError, match="simulated cloud: capacity is 'plain/us-east-1f: 1'; want a type"):
            SimulatedCloud(instance_types=TYPES, capacity={("plain", "us-east-1f"): 1}).__enter__()


def test_the_cloud_is_imported_when_it_is_asked_for() -> None:
    """Who tests against the Kubernetes alone needs neither boto3 nor moto."""
    code = (
        "import sys; sys.modules['boto3'] = sys.modules['moto'] = None\n"
        "import tfscale.testing\n"
        "print(tfscale.testing.FakeKube.__name__)\n"
        "del sys.modules['boto3']\n"
        "from tfscale.testing import SimulatedCloud\n"
        "print(SimulatedCloud.__name__, tfscale.testing.__all__ == sorted(tfscale.testing.__all__))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own code

    assert done.stdout == "FakeKube\nSimulatedCloud True\n"


def test_without_moto_one_line_names_the_extra() -> None:
    """And importing the module needs none."""
    code = (
        "import sys; sys.modules['moto'] = None\n"
        "from tfscale.testing.fake_ec2 import SimulatedCloud\n"
        "try: SimulatedCloud(instance_types=()).__enter__()\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own code

    assert done.stdout == "simulated cloud: moto is 'not there'; want it installed: pip install 'tfscale[sim]'\n"
