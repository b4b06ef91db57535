"""The policy that ``tfscale iam-policy`` prints: enough for all that is called, and nothing that is not needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.modes.fleets import A, batch_of, bootstrap, machine_ids, make_profile, mode_of
from tests.modes.policies import ACCOUNT, NODE_ROLE, Ask, Asks, allowing
from tfscale.cli import main
from tfscale.iam import Scope, ec2_policy
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.ec2_fleet import CLUSTER_TAG
from tfscale.pool import OfferFilter
from tfscale.testing.fake_ec2 import SimulatedCloud, SimulatedReservation, SimulatedType
from tfscale.testing.fake_ec2.desk import Call

MOST_CHARACTERS = 6_144
"""IAM's limit for a managed policy, spaces not counted."""
QUEUE = f"arn:aws:sqs:us-east-1:{ACCOUNT}:news"
SCOPE = Scope(cluster="test", account=ACCOUNT, region="us-east-1", node_role=NODE_ROLE, queue=QUEUE)
RESERVED = "cr-0123456789abcdef0"
PARAMETER = "/aws/service/eks/optimized-ami/1.33/amazon-linux-2023/x86_64/nvidia/recommended/image_id"


@pytest.fixture(scope="module")
def asked() -> list[Ask]:
    """Return what everything that a pool does asks for."""
    types = (SimulatedType(name="g6.xlarge", usd_per_hour="0.8", spot_usd_per_hour="0.3"),)
    reservation = SimulatedReservation(id=RESERVED, instance_type="g6.xlarge", zone=A, count=2)
    with SimulatedCloud(instance_types=types, reservations=[reservation]) as cloud, recorded(cloud) as asks:
        live(cloud)
        return [*asks.made]


@contextmanager
def recorded(cloud: SimulatedCloud) -> Iterator[Asks]:
    """Record what each call of a cloud asks for."""
    asks = Asks(lambda name: tags(cloud, name))
    cloud.session.events.register("before-parameter-build", asks.note)
    try:
        yield asks
    finally:
        cloud.session.events.unregister("before-parameter-build", asks.note)


def tags(cloud: SimulatedCloud, name: str) -> Mapping[str, str]:
    """Return the tags of a machine or launch template; nothing for one that is not there."""
    call = Call(service="ec2", operation="DescribeLaunchTemplates", region=cloud.region, url="", parameters={})
    templates = (cloud.answer(call) or {})["LaunchTemplates"]
    found = {machine.id: machine.tags for machine in cloud.machines}
    for template in templates:
        listed = {tag["Key"]: tag["Value"] for tag in template.get("Tags", [])}
        found |= {template["LaunchTemplateId"]: listed, template["LaunchTemplateName"]: listed}
    return found.get(name, {})


def live(cloud: SimulatedCloud) -> None:
    """Let pools do everything that they can do."""
    setup(cloud)
    every = OfferFilter(instance_types=("g6.xlarge",), capacity_types=("reserved", "spot", "on-demand"))
    more: dict[str, Any] = {"interruptionQueue": "news", "reservations": [{"id": RESERVED}], "subnetIds": [cloud.subnets[A]]}
    own = mode_of(cloud, wanted=every, bootstrap=bootstrap(), **more)
    given = mode_of(cloud, wanted=every, launchTemplate={"name": "theirs"}, **more)
    for mode in (own, given):
        buy(cloud, mode)
        mode.acknowledge(mode.notices())
        mode.examine()
        mode.terminate([machine.id for machine in mode.observe()])
    cloud.advance(cloud.now_s + 200_000)
    # What they said before is nobody's any more.
    changed = mode_of(cloud, wanted=every, bootstrap=bootstrap(kubelet={"maxPods": 50}), **more)
    batch_of(changed, changed.offers()[:1])


def setup(cloud: SimulatedCloud) -> None:
    """Make what a pool's author makes, as somebody else."""
    cloud.set_parameter(PARAMETER, cloud.add_image("eks"))
    named = [{"ResourceType": "launch-template", "Tags": [{"Key": CLUSTER_TAG, "Value": "test"}]}]
    data = {"ImageId": cloud.add_image("own")}
    parameters = {"LaunchTemplateName": "theirs", "LaunchTemplateData": data, "TagSpecifications": named}
    cloud.answer(Call(service="ec2", operation="CreateLaunchTemplate", region=cloud.region, url="", parameters=parameters))
    sqs: Any = cloud.inside.client("sqs")
    cloud.events.send_to(sqs.create_queue(QueueName="news")["QueueUrl"])
    make_profile(cloud, "gpu-node")


def buy(cloud: SimulatedCloud, mode: Ec2Mode) -> None:
    """Buy under each capacity type; a fleet's reply is lost and read back, and a machine is warned of."""
    assert list(mode.check()) == []
    offers = mode.offers()
    for kind in ("reserved", "spot", "on-demand"):
        batch = batch_of(mode, [offer for offer in offers if offer.capacity_type == kind])
        (machine,) = machine_ids(mode.launch(batch))
        cloud.answer_replays_with_id_only(on=kind != "reserved")
        assert [machine] == machine_ids(mode.launch(batch))
        cloud.events.interrupt(str(machine), in_s=100_000)
    cloud.events.end_block(RESERVED, end_s=5_000)


def test_everything_that_is_called_is_allowed(asked: list[Ask]) -> None:
    """Each resource of each call, with the tags that it asks for or has."""
    policy = ec2_policy(SCOPE)

    assert [] == [ask for ask in asked if not allowing(policy, ask)]


def test_nothing_else_is_in_it(asked: list[Ask]) -> None:
    """Every statement is needed by a call, and so is every action of it."""
    policy = ec2_policy(SCOPE)
    used = {(sid, ask.action) for ask in asked for sid in allowing(policy, ask)}
    granted = {(one["Sid"], action) for one in policy["Statement"] for action in one["Action"]}
    needless = [one["Sid"] for one in policy["Statement"] if all(allowing(_without(policy, one["Sid"]), ask) for ask in asked)]

    assert set() == granted - used
    assert [] == needless


def _without(policy: Mapping[str, Any], sid: str) -> dict[str, Any]:
    return {"Statement": [one for one in policy["Statement"] if one["Sid"] != sid]}


OURS, THEIRS = {f"aws:ResourceTag/{CLUSTER_TAG}": "test"}, {f"aws:ResourceTag/{CLUSTER_TAG}": "other"}
MACHINE = f"arn:aws:ec2:us-east-1:{ACCOUNT}:instance/i-1"
TEMPLATE = f"arn:aws:ec2:us-east-1:{ACCOUNT}:launch-template/lt-1"


@pytest.mark.parametrize(
    "ask",
    [
        Ask(action="ec2:TerminateInstances", resource=MACHINE),
        Ask(action="ec2:TerminateInstances", resource=MACHINE, context=THEIRS),
        Ask(action="ec2:TerminateInstances", resource=MACHINE.replace("us-east-1", "us-west-2"), context=OURS),
        Ask(action="ec2:TerminateInstances", resource=MACHINE.replace(ACCOUNT, "210987654321"), context=OURS),
        Ask(action="ec2:DeleteLaunchTemplate", resource=TEMPLATE, context=THEIRS),
        Ask(action="ec2:RunInstances", resource=TEMPLATE),
        Ask(action="ec2:RunInstances", resource=MACHINE),
        Ask(action="ec2:RunInstances", resource=MACHINE, context={f"aws:RequestTag/{CLUSTER_TAG}": "other"}),
        Ask(action="ec2:CreateTags", resource=MACHINE, context=OURS),
        Ask(action="ec2:CreateTags", resource=MACHINE, context={f"aws:RequestTag/{CLUSTER_TAG}": "test"}),
        Ask(action="ec2:DescribeInstances", context={"aws:RequestedRegion": "us-west-2"}),
        Ask(action="iam:PassRole", resource=NODE_ROLE, context={"iam:PassedToService": "lambda.amazonaws.com"}),
        Ask(
            action="iam:PassRole",
            resource=f"arn:aws:iam::{ACCOUNT}:role/admin",
            context={"iam:PassedToService": "ec2.amazonaws.com"},
        ),
        Ask(action="ssm:GetParameter", resource=f"arn:aws:ssm:us-east-1:{ACCOUNT}:parameter/secret"),
        Ask(action="sqs:ReceiveMessage", resource=f"arn:aws:sqs:us-east-1:{ACCOUNT}:other"),
        Ask(action="sqs:SendMessage", resource=QUEUE),
    ],
)
def test_what_is_not_ours_is_denied(ask: Ask) -> None:
    """Machines and templates of others, another region or account, other roles, parameters and queues."""
    assert [] == allowing(ec2_policy(SCOPE), ask)


def test_a_denial_wins() -> None:
    """The evaluator of these tests knows that too."""
    policy = ec2_policy(SCOPE)
    denied = {"Sid": "No", "Effect": "Deny", "Action": ["ec2:Terminate*"], "Resource": ["*"]}
    ask = Ask(action="ec2:TerminateInstances", resource=MACHINE, context=OURS)

    assert ["EndOurs"] == allowing(policy, ask)
    assert [] == allowing({"Statement": [*policy["Statement"], denied]}, ask)


def test_it_fits_into_a_managed_policy() -> None:
    """With the longest names, and each statement once."""
    arn = f"arn:aws-us-gov:iam::{ACCOUNT}:role/{'r' * 64}"
    queue = f"arn:aws-us-gov:sqs:us-gov-west-1:{ACCOUNT}:{'q' * 80}"
    scope = Scope(cluster="c" * 100, partition="aws-us-gov", account=ACCOUNT, region="us-gov-west-1", node_role=arn, queue=queue)
    policy = ec2_policy(scope)
    sids = [one["Sid"] for one in policy["Statement"]]

    assert len(json.dumps(policy, separators=(",", ":"))) < MOST_CHARACTERS
    assert len(sids) == len({*sids})
    assert all(sid.isalnum() for sid in sids)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    """With the name of the cluster from its own flag or the common one."""
    flags = ["--region", "us-east-1", "--account", ACCOUNT, "--node-role", NODE_ROLE, "--queue", QUEUE]
    codes = [
        main(["iam-policy", "--mode", "ec2", "--cluster", "test", *flags]),
        main(["--cluster-name", "test", "iam-policy", *flags]),
    ]
    printed = capsys.readouterr()
    text = json.dumps(ec2_policy(SCOPE), indent=2) + "\n"

    assert [0, 0] == codes
    assert text * 2 == printed.out
    assert printed.err == ""


def test_the_command_says_what_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    """No role, no queue: nothing of theirs is allowed. A mode that does not call AWS needs nothing."""
    codes = [main(["iam-policy"]), main(["iam-policy", "--mode", "managed-nodeclaim"]), main(["iam-policy", "--queue", "news"])]
    printed = capsys.readouterr()
    policy = json.loads(printed.out)

    assert [0, 2, 2] == codes
    assert {"iam:PassRole", "sqs:ReceiveMessage"}.isdisjoint(one for part in policy["Statement"] for one in part["Action"])
    assert "note without --node-role" in printed.err
    assert "--mode is 'managed-nodeclaim'; want ec2: no other mode calls AWS" in printed.err
    assert "--queue is 'news'; want" in printed.err
