"""Launch templates of tfscale's own on the simulated cloud: made once, found again, made anew, and deleted when not needed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from tests.modes.fleets import A, B, batch_of, bootstrap, live, machine_ids, mode_of, offer, taken
from tfscale.errors import LaunchRefusedError, ModeError
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES
from tfscale.kube.records import write_batch
from tfscale.market import EVERYTHING
from tfscale.model import Offer
from tfscale.modes.ec2 import Ec2Mode
from tfscale.pool import OfferFilter
from tfscale.selectors import Taint
from tfscale.testing import FakeKube
from tfscale.testing.fake_ec2 import ACCESS_DENIED, LOST_REPLY, UNREACHABLE, ApiError, Fault, SimulatedCloud

DAY_S = 24 * 3_600
WANTED = OfferFilter(instance_types=("g6.xlarge", "g5g.xlarge"), capacity_types=("on-demand", "spot"))


@pytest.fixture
def cloud(cloud: SimulatedCloud) -> SimulatedCloud:
    """Return the cloud without templates of ours."""
    ec2 = cloud.session.client("ec2")
    for template in ours(cloud):
        ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])
    return cloud


def ours(cloud: SimulatedCloud) -> list[Any]:
    """Return the launch templates that tfscale made."""
    found: list[Any] = [*cloud.session.client("ec2").describe_launch_templates()["LaunchTemplates"]]
    return [template for template in found if template["LaunchTemplateName"].startswith("tfscale-")]


def data_of(cloud: SimulatedCloud, template: Any) -> dict[str, Any]:  # noqa: ANN401 - a reply
    """Return what a template says."""
    versions = cloud.session.client("ec2").describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"])
    (version,) = versions["LaunchTemplateVersions"]
    data: Any = version["LaunchTemplateData"]
    return dict(data)


def chosen(mode: Ec2Mode, capacity_type: str = "on-demand", *types: str) -> list[Offer]:
    """Return the offers of one capacity type, of some types or of all."""
    return [
        one for one in mode.offers() if one.capacity_type == capacity_type and one.instance_type in (types or {one.instance_type})
    ]


def specifications(mode: Ec2Mode, offers: list[Offer]) -> list[dict[str, str]]:
    """Return the templates that a call for these offers names."""
    parameters = batch_of(mode, offers).parameters
    return [config["LaunchTemplateSpecification"] for config in parameters["LaunchTemplateConfigs"]]


def test_what_a_node_is_told_is_known_before_it_is_bought(cloud: SimulatedCloud) -> None:
    """Labels, taints and the most pods of the pool are on its offers; the taint that the loop takes off is not."""
    kubelet = {"labels": {"team": "speech"}, "taints": [{"key": "gpu", "effect": "NoSchedule"}], "maxPods": 29}
    mode = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap(kubelet=kubelet))
    found = mode.offers()[0]

    assert "speech" == found.labels["team"]
    assert (Taint(key="gpu"),) == found.taints
    assert 29 == found.pods_max


def test_one_template_is_made_for_each_architecture_and_capacity_type(cloud: SimulatedCloud) -> None:
    """With the image of the architecture and the label of the capacity type. Asked again, and by another process, it is found."""
    mode = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap())
    first = specifications(mode, chosen(mode))
    spot = specifications(mode, chosen(mode, "spot", "g6.xlarge"))
    made = cloud.calls["CreateLaunchTemplate"]
    other = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap())

    assert first == specifications(mode, chosen(mode)) == specifications(other, chosen(other))
    assert made == cloud.calls["CreateLaunchTemplate"]
    assert 2 == len(first)
    assert 3 == len(ours(cloud)) == len({entry["LaunchTemplateId"] for entry in first + spot})
    texts = [base64.b64decode(data_of(cloud, template)["UserData"]).decode() for template in ours(cloud)]
    assert [False, False, True] == sorted("karpenter.sh/capacity-type=spot" in text for text in texts)
    assert 2 == len({data_of(cloud, template)["ImageId"] for template in ours(cloud)})


def test_other_content_is_another_template(cloud: SimulatedCloud) -> None:
    """A template is never changed: a call that was recorded means the same for ever."""
    ids = set()
    for own in (bootstrap(), bootstrap(instanceProfile="other"), bootstrap(kubelet={"labels": {"a": "b"}})):
        mode = mode_of(cloud, wanted=WANTED, bootstrap=own)
        ids |= {entry["LaunchTemplateId"] for entry in specifications(mode, chosen(mode, "on-demand", "g6.xlarge"))}
    neighbour = mode_of(cloud, pool="other", wanted=WANTED, bootstrap=bootstrap())
    ids |= {entry["LaunchTemplateId"] for entry in specifications(neighbour, chosen(neighbour, "on-demand", "g6.xlarge"))}

    assert 4 == len(ids)


def test_machines_of_both_architectures_come_of_one_call(cloud: SimulatedCloud) -> None:
    """Each with an image that boots on it."""
    cloud.set_capacity({("g6.xlarge", A): 0, ("g6.xlarge", B): 1, ("g5g.xlarge", A): 1, ("g5g.xlarge", B): 0})
    mode = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap())
    results = mode.launch(batch_of(mode, chosen(mode), 2))

    assert [f"g5g.xlarge/{A}/on-demand", f"g6.xlarge/{B}/on-demand"] == taken(results)


def test_the_image_may_be_named_in_four_ways(cloud: SimulatedCloud) -> None:
    """By id, by a parameter, by an alias, and by tags, of which the newest of ours or of Amazon counts."""
    old = cloud.add_image("own-1", tags={"for": "gpus"})
    cloud.advance(cloud.now_s + 10)
    new = cloud.add_image("own-2", tags={"for": "gpus", "more": "x"})
    cloud.add_image("other-3", owner="999999999999", tags={"for": "gpus"})
    cloud.add_image("arm-4", architecture="arm64", tags={"for": "others"})
    cloud.set_parameter("/images/gpu", old)
    pinned = (
        "/aws/service/eks/optimized-ami/1.33/amazon-linux-2023/x86_64/nvidia/amazon-eks-node-al2023-x86_64-nvidia-1.33-v20260501"
    )
    cloud.set_parameter(f"{pinned}/image_id", new)
    ways = [{"id": old}, {"ssmParameter": "/images/gpu"}, {"tags": {"for": "gpus"}}, {"alias": "al2023@v20260501"}]
    used = []
    for way in ways:
        mode = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap(ami=way))
        (entry,) = specifications(mode, chosen(mode, "on-demand", "g6.xlarge"))
        used.append(data_of(cloud, entry)["ImageId"])

    assert [old, old, new, new] == used


def test_only_types_with_an_image_are_on_offer(cloud: SimulatedCloud) -> None:
    """An image for x86_64 boots no Graviton."""
    image = cloud.add_image("x86")
    types = {one.instance_type for one in mode_of(cloud, wanted=WANTED, bootstrap=bootstrap(ami={"id": image})).offers()}

    assert {"g6.xlarge"} == types


@pytest.mark.parametrize(
    ("ami", "value"),
    [
        ({"id": "ami-0000"}, "ami-0000"),
        ({"ssmParameter": "/no/such"}, "/no/such"),
        ({"tags": {"no": "such"}}, "no=such"),
    ],
)
def test_check_says_that_there_is_no_image(cloud: SimulatedCloud, ami: dict[str, Any], value: str) -> None:
    """And for what it was looked for."""
    mode = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap(ami=ami))
    (problem,) = mode.check()

    assert ("spec.options.bootstrap.ami", value) == (problem.field, problem.value)
    assert "an image that is there and boots on amd64 or arm64" == problem.want
    assert [] == mode.offers()
    with pytest.raises(LaunchRefusedError, match="no image of pool gpus boots on its offers"):
        batch_of(mode, [offer()])


def test_check_of_a_good_bootstrap_only_looks(cloud: SimulatedCloud) -> None:
    """No template is made for it."""
    mode = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap())

    assert [] == mode.check()
    assert [] == ours(cloud)


def test_an_image_is_the_newest_for_an_hour(cloud: SimulatedCloud) -> None:
    """Then it is looked for again."""
    now = [0.0]
    cloud.add_image("a-1", tags={"for": "hours"})
    mode = mode_of(cloud, wanted=WANTED, clock=lambda: now[0], bootstrap=bootstrap(ami={"tags": {"for": "hours"}}))
    first = specifications(mode, chosen(mode))
    cloud.advance(cloud.now_s + 10)
    cloud.add_image("a-2", tags={"for": "hours"})
    now[0] = 3_599

    assert first == specifications(mode, chosen(mode))
    now[0] = 3_600
    assert first != specifications(mode, chosen(mode))


def test_two_processes_make_one_template(cloud: SimulatedCloud) -> None:
    """Whoever comes second, or lost the reply, finds it by its name."""
    one, two = (mode_of(cloud, wanted=WANTED, bootstrap=bootstrap()) for _ in range(2))
    offers = chosen(one, "on-demand", "g6.xlarge")
    cloud.fail_next("CreateLaunchTemplate", LOST_REPLY)

    assert specifications(one, offers) == specifications(two, offers)
    assert 1 == len(ours(cloud))


def test_no_template_no_call(cloud: SimulatedCloud) -> None:
    """What cannot be prepared is not recorded: the next round tries again."""
    mode = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap())
    offers = chosen(mode, "on-demand", "g6.xlarge")
    cloud.fail_next("CreateLaunchTemplate", ACCESS_DENIED)

    with pytest.raises(ModeError, match="CreateLaunchTemplate: UnauthorizedOperation"):
        batch_of(mode, offers)
    assert 1 == len(specifications(mode, offers))


def test_a_template_that_is_gone_is_made_again(cloud: SimulatedCloud, caplog: pytest.LogCaptureFixture) -> None:
    """The call gives nothing and blames no offer: after a pause, the next one names the new template."""
    mode = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap())
    offers = chosen(mode, "on-demand", "g6.xlarge")
    batch = batch_of(mode, offers)
    (template,) = ours(cloud)
    cloud.session.client("ec2").delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])
    (result,) = mode.launch(batch)

    assert (None, [EVERYTHING]) == (result.machine, [refusal.offer for refusal in result.refusals])
    assert "InvalidLaunchTemplateId.NotFound" in caplog.text
    assert machine_ids(mode.launch(batch_of(mode, offers))) == live(cloud)


def test_an_image_that_is_gone_is_looked_for_again(cloud: SimulatedCloud) -> None:
    """Not an hour later: the next call names the one that is the newest by then."""
    first = cloud.add_image("gone-1", tags={"for": "going"})
    mode = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap(ami={"tags": {"for": "going"}}))
    offers = chosen(mode, "on-demand", "g6.xlarge")
    batch = batch_of(mode, offers)
    cloud.remove_image(first)
    second = cloud.add_image("gone-2", tags={"for": "going"})
    cloud.fail_next("CreateFleet", Fault(error=ApiError("InvalidAMIID.NotFound", "no such image")))
    (result,) = mode.launch(batch)
    (entry,) = specifications(mode, offers)

    assert (None, [EVERYTHING]) == (result.machine, [refusal.offer for refusal in result.refusals])
    assert second == data_of(cloud, entry)["ImageId"]


def test_a_given_template_that_is_gone_is_a_refusal(cloud: SimulatedCloud) -> None:
    """Nobody but its author can make it again."""
    ec2 = cloud.session.client("ec2")
    template = ec2.create_launch_template(LaunchTemplateName="mine", LaunchTemplateData={"ImageId": "ami-1"})["LaunchTemplate"]
    mode = mode_of(cloud, launchTemplate={"name": "mine"})
    batch = batch_of(mode, [offer()])
    ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])

    with pytest.raises(LaunchRefusedError, match=r"InvalidLaunchTemplateId\.NotFound"):
        mode.launch(batch)


class Aged:
    """A pool whose image changes every day, so that its templates age."""

    def __init__(self, cloud: SimulatedCloud, kube: FakeKube) -> None:
        self.cloud = cloud
        self._image = cloud.add_image("aged", tags={"aged": "yes"})
        self._open: Callable[..., Ec2Mode] = lambda: mode_of(
            cloud, kube=kube, wanted=WANTED, bootstrap=bootstrap(ami={"tags": {"aged": "yes"}})
        )
        self.mode = self._open()

    def day(self, days: float = 1.0) -> list[str]:
        """Let time pass and a new image come; return the templates that a call names, and let unused ones be deleted."""
        self.cloud.advance(self.cloud.now_s + int(days * DAY_S))
        self.cloud.add_image(f"aged-{self.cloud.now_s}", tags={"aged": "yes"})
        return self.again()

    def again(self) -> list[str]:
        """Return the templates that a call names now."""
        return [entry["LaunchTemplateId"] for entry in specifications(self.mode, chosen(self.mode, "on-demand", "g6.xlarge"))]

    def left(self) -> set[str]:
        """Return the templates of ours that are there."""
        return {template["LaunchTemplateId"] for template in ours(self.cloud)}


def test_templates_that_nobody_needs_are_deleted(cloud: SimulatedCloud) -> None:
    """A day after they were made, and never one that the pool needs now, that a record names, or that is somebody else's."""
    kube = FakeKube()
    aged = Aged(cloud, kube)
    ec2 = cloud.session.client("ec2")
    tag = [{"ResourceType": "launch-template", "Tags": [{"Key": "tfscale.io/cluster", "Value": "test"}]}]
    ec2.create_launch_template(
        LaunchTemplateName="mine-tagged",
        LaunchTemplateData={"ImageId": "ami-1"},
        TagSpecifications=tag,  # type: ignore[arg-type]  # a literal type cannot be told from a dict
    )
    (first,) = aged.again()
    recorded = batch_of(aged.mode, chosen(aged.mode, "on-demand", "g6.xlarge"))
    kube.create(LAUNCH_BATCHES, write_batch(recorded))
    (second,) = aged.day(0.9)

    assert {first, second} == aged.left()
    (third,) = aged.day()
    assert {first, second, third} == aged.left() | {second}
    assert {first, third} == aged.left()
    kube.delete(LAUNCH_BATCHES, recorded.name)
    (fourth,) = aged.day()
    assert {third, fourth} >= aged.left() >= {fourth}
    assert "mine-tagged" in {template["LaunchTemplateName"] for template in ec2.describe_launch_templates()["LaunchTemplates"]}


def test_templates_of_a_pool_that_is_gone_are_deleted_by_another(cloud: SimulatedCloud) -> None:
    """Those of a pool that is there are left to it, and so are those of other clusters."""
    kube = FakeKube()
    for name in ("gpus", "living"):
        kube.create(GPU_POOLS, {"metadata": {"name": name}, "spec": {"mode": "ec2"}})
    expected = set()
    for pool, cluster in (("living", "test"), ("gone", "test"), ("gone", "other")):
        mode = mode_of(cloud, pool=pool, cluster=cluster, wanted=WANTED, bootstrap=bootstrap())
        (entry,) = specifications(mode, chosen(mode, "on-demand", "g6.xlarge"))
        if (pool, cluster) != ("gone", "test"):
            expected.add(entry["LaunchTemplateId"])
    aged = Aged(cloud, kube)
    expected.update(aged.day(2))

    assert expected == aged.left()


def test_a_look_for_unused_templates_is_rare_and_never_in_the_way(
    cloud: SimulatedCloud, caplog: pytest.LogCaptureFixture
) -> None:
    """Once an hour at most. What goes wrong with it is a line in the log, and the call is prepared."""
    aged = Aged(cloud, FakeKube())
    aged.again()
    looked = cloud.calls["DescribeLaunchTemplates"]
    cloud.advance(cloud.now_s + 3_000)
    aged.again()
    asked_for_one = cloud.calls["DescribeLaunchTemplates"] - looked
    aged.day(2)
    cloud.fail_next("DeleteLaunchTemplate", ACCESS_DENIED)
    named = aged.day(2)

    assert 1 == asked_for_one
    assert 1 == len(named)
    assert "launch templates that nobody needs are not deleted: DeleteLaunchTemplate: UnauthorizedOperation" in caplog.text


def test_nobody_who_tells_of_images_is_no_empty_market(cloud: SimulatedCloud) -> None:
    """The pool's offers are not known then, which is not the same as none."""
    mode = mode_of(cloud, wanted=WANTED, bootstrap=bootstrap())
    cloud.fail_next("GetParameter", UNREACHABLE, times=20)

    with pytest.raises(ModeError, match="GetParameter /aws/service/eks"):
        mode.offers()
