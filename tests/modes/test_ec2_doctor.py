"""What ``tfscale doctor`` finds: in the account, in the cluster, and where neither answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.modes.fleets import A, batch_of, bootstrap, make_profile, mode_of, offer
from tfscale import doctor, modes
from tfscale.cli import main
from tfscale.errors import ClusterUnreachableError
from tfscale.finding import Finding
from tfscale.gpus import GpuTable
from tfscale.kube.port import CONFIG_MAPS, GPU_POOLS
from tfscale.modes.base import ModeContext
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.ec2_calls import MOST_TRIES
from tfscale.modes.ec2_quotas import quota_of
from tfscale.pool import OfferFilter, Pool
from tfscale.testing import FakeKube, KubeServer
from tfscale.testing.fake_ec2 import (
    UNREACHABLE,
    ApiError,
    Fault,
    MemoryCloud,
    SimulatedCloud,
    SimulatedReservation,
    SimulatedType,
)

ROLE = "arn:aws:iam::123456789012:role/gpu-node"
PARAMETER = "/aws/service/eks/optimized-ami/1.33/amazon-linux-2023/x86_64/nvidia/recommended/image_id"
POLICY = {
    "Statement": {
        "Effect": "Allow",
        "Principal": {"Service": ["sqs.amazonaws.com", "events.amazonaws.com"]},
        "Action": "sqs:SendMessage",
        "Resource": "*",
    }
}
BOTH = OfferFilter(instance_types=("g6.xlarge",), capacity_types=("spot", "on-demand"))


@pytest.fixture(name="cloud", scope="module")
def cloud_with_profile(shared_cloud: SimulatedCloud) -> SimulatedCloud:
    """Return a cloud with an image and with the profile of nodes."""
    shared_cloud.set_parameter(PARAMETER, shared_cloud.add_image("eks"))
    make_profile(shared_cloud, "gpu-node")
    make_profile(shared_cloud, "bare", role=False)
    return shared_cloud


def found(mode: Ec2Mode, check: str) -> list[tuple[str, str, str]]:
    """Return verdict, words and cure of the findings whose check begins so."""
    return [(one.verdict, one.says, one.fix) for one in mode.examine() if one.check.startswith(check)]


def verdicts(findings: Iterable[Finding]) -> set[tuple[str, str]]:
    """Return what was checked, with the verdict."""
    return {(one.check, one.verdict) for one in findings}


def make_queue(cloud: SimulatedCloud, name: str, *, policy: object = POLICY, **tags: str) -> str:
    """Make a queue and return its name."""
    sqs: Any = cloud.inside.client("sqs")
    sqs.create_queue(QueueName=name, Attributes={"Policy": json.dumps(policy)} if policy else {}, tags=tags)
    return name


def test_a_healthy_pool_has_nothing_that_fails(cloud: SimulatedCloud) -> None:
    """Every part of it was looked at, and nothing was made or changed."""
    kube = FakeKube()
    mapped = f"- rolearn: {ROLE}\n  groups: [system:nodes]\n"
    kube.create(CONFIG_MAPS, {"metadata": {"name": "aws-auth"}, "data": {"mapRoles": mapped}}, namespace="kube-system")
    queue = make_queue(cloud, "healthy", **{"tfscale.io/cluster": "test"})
    subnets = [cloud.subnets[A]]
    mode = mode_of(cloud, kube=kube, wanted=BOTH, bootstrap=bootstrap(), interruptionQueue=queue, subnetIds=subnets)
    machines, templates = len(cloud.machines), cloud.calls["CreateLaunchTemplate"]
    runs, fleets = cloud.calls["RunInstances"], cloud.calls["CreateFleet"]
    findings = list(mode.examine())

    assert verdicts(findings) == {
        ("credentials", "ok"),
        ("options", "ok"),
        (f"launch g6.xlarge/{A}/spot", "ok"),
        (f"launch g6.xlarge/{A}/spot", "warn"),
        (f"launch g6.xlarge/{A}/on-demand", "ok"),
        (f"launch g6.xlarge/{A}/on-demand", "warn"),
        ("launch template", "ok"),
        ("terminate", "warn"),
        ("image", "ok"),
        ("instance profile", "ok"),
        ("node access", "ok"),
        ("subnets", "ok"),
        ("quota", "warn"),
        ("queue", "ok"),
    }
    assert machines == len(cloud.machines)
    assert all("UserData" not in request for request in cloud.requests("RunInstances")[runs:])
    assert fleets == cloud.calls["CreateFleet"]
    assert all(request["DryRun"] for request in cloud.requests("CreateLaunchTemplate")[templates:])


def test_a_pool_with_a_template_of_its_own_is_checked_to_the_end(cloud: SimulatedCloud) -> None:
    """Both ways to launch, and the end of a machine that is there; one of ours too, once it was made."""
    mode = mode_of(cloud, wanted=OfferFilter(instance_types=("g6.xlarge",)))
    mode.launch(batch_of(mode, [offer()]))

    assert [("ok", "CreateFleet would be made", ""), ("ok", "RunInstances would be made", "")] == found(mode, "launch")
    assert [("ok", "TerminateInstances would be made", "")] == found(mode, "terminate")
    own = mode_of(cloud, pool="made", wanted=OfferFilter(instance_types=("g6.xlarge",)), bootstrap=bootstrap())
    own.launch(batch_of(own, own.offers()[:1]))
    assert ["CreateFleet would be made", "RunInstances would be made"] == [one[1] for one in found(own, "launch g6")]


@pytest.mark.parametrize("options", [{}, {"bootstrap": bootstrap()}])
def test_a_launch_into_a_reservation_is_tried(options: dict[str, Any]) -> None:
    """Also where a pool buys nothing else."""
    reservation = SimulatedReservation(id="cr-0123456789abcdef0", instance_type="g6.xlarge", zone=A, count=1)
    cloud = MemoryCloud(instance_types=(SimulatedType(name="g6.xlarge"),), reservations=(reservation,))
    wanted = OfferFilter(capacity_types=("reserved",))
    mode = mode_of(cloud, wanted=wanted, reservations=[{"id": reservation.id}], **options)

    assert [("ok", "RunInstances would be made", "")] == found(mode, "launch g6")
    assert [] == list(cloud.machines)


@pytest.mark.parametrize("operation", ["DescribeInstanceTypes", "GetParameter"])
def test_a_mode_that_may_not_look_fails_and_the_rest_is_checked(cloud: SimulatedCloud, operation: str) -> None:
    """What is denied is named with what to allow."""
    cloud.deny(operation)
    mode = mode_of(cloud, wanted=BOTH, bootstrap=bootstrap())
    (finding,) = [one for one in mode.examine() if one.check == "options"]
    profile = found(mode, "instance profile")
    cloud.deny()

    assert ("fail", f"allow {operation}: tfscale iam-policy --mode ec2 prints the policy") == (finding.verdict, finding.fix)
    assert "UnauthorizedOperation" in finding.says
    assert ["ok"] == [one[0] for one in profile]


@pytest.mark.parametrize("operation", ["CreateFleet", "RunInstances", "CreateLaunchTemplate", "TerminateInstances"])
def test_a_permission_that_is_missing_is_named(cloud: SimulatedCloud, operation: str) -> None:
    """Only what is denied fails, with what to allow."""
    mode = mode_of(cloud, pool=f"denied-{operation.lower()}", wanted=BOTH, bootstrap=bootstrap())
    mode.launch(batch_of(mode, mode.offers()[:1]))
    cloud.deny(operation)
    failed = [one for one in mode.examine() if one.verdict == "fail" and operation in one.says]
    cloud.deny()

    assert failed
    assert all(f"{operation}: UnauthorizedOperation" in one.says for one in failed)
    assert {f"allow ec2:{operation}: tfscale iam-policy --mode ec2 prints the policy"} == {one.fix for one in failed}


def test_a_refusal_is_decoded(cloud: SimulatedCloud) -> None:
    """From its own words, or by STS, as far as the caller may ask that."""
    mode = mode_of(cloud, wanted=OfferFilter(instance_types=("g6.xlarge",)))
    words = f"User: x is not authorized to perform: iam:PassRole on resource: {ROLE} because no policy allows it."
    _refuse(cloud, f"{words} Encoded authorization failure message: abc")
    ((_, says, plain),) = found(mode, "launch")[1:]
    _refuse(cloud, "You are not authorized. Encoded authorization failure message: abc")
    ((_, _, decoded),) = found(mode, "launch")[1:]

    assert plain.startswith(f"allow iam:PassRole on {ROLE}: ")
    assert "abc" not in says
    assert decoded.startswith("allow ec2:RunInstances: ")


def _refuse(cloud: SimulatedCloud, message: str) -> None:
    cloud.fail_next("RunInstances", Fault(error=ApiError("UnauthorizedOperation", message, status=403)))


def test_what_ec2_refuses_otherwise_fails_in_its_words(cloud: SimulatedCloud) -> None:
    """Such as a profile that is not there."""
    refusal = ApiError("InvalidParameterValue", "Value (x) for parameter iamInstanceProfile.name is invalid")
    cloud.fail_next("RunInstances", Fault(error=refusal))
    mode = mode_of(cloud, wanted=OfferFilter(instance_types=("g6.xlarge",)))

    assert [("fail", f"RunInstances: InvalidParameterValue: {refusal}", "see the pool's options")] == found(mode, "launch")[1:]


@pytest.mark.parametrize("code", ["ExpiredToken", "AccessDenied"])
def test_without_credentials_nothing_else_is_asked(cloud: SimulatedCloud, code: str) -> None:
    """One finding, not ten."""
    cloud.fail_next("GetCallerIdentity", Fault(error=ApiError(code, "no", status=403)))
    mode = mode_of(cloud)
    before = cloud.calls
    (finding,) = mode.examine()

    assert ("credentials", "fail", f"GetCallerIdentity: {code}: no") == (finding.check, finding.verdict, finding.says)
    assert ["GetCallerIdentity"] == list(cloud.calls - before)


def test_a_silent_token_service_is_not_the_end(cloud: SimulatedCloud) -> None:
    """Whose calls they are is not known; what they may do still is."""
    cloud.fail_next("GetCallerIdentity", UNREACHABLE, times=MOST_TRIES)
    seen = verdicts(mode_of(cloud, wanted=BOTH).examine())

    assert {("credentials", "warn"), ("options", "ok"), (f"launch g6.xlarge/{A}/spot", "ok")} <= seen


@pytest.mark.parametrize(
    ("profile", "verdict", "says"),
    [
        ("gpu-node", "ok", f"gpu-node has the role {ROLE}"),
        ("arn:aws:iam::123456789012:instance-profile/path/gpu-node", "ok", f"gpu-node has the role {ROLE}"),
        ("bare", "fail", "bare has no role"),
        ("nobody", "fail", "there is no nobody"),
    ],
)
def test_the_instance_profile_is_there_and_has_a_role(cloud: SimulatedCloud, profile: str, verdict: str, says: str) -> None:
    """By name or ARN."""
    mode = mode_of(cloud, wanted=BOTH, bootstrap=bootstrap(instanceProfile=profile))

    assert [(verdict, says)] == [one[:2] for one in found(mode, "instance profile")]


def test_what_may_not_be_looked_at_could_not_be_checked(cloud: SimulatedCloud) -> None:
    """A warning, with the reason; the rest is looked at."""
    cloud.deny("GetInstanceProfile", "DescribeInstances")
    findings = list(mode_of(cloud, wanted=BOTH, bootstrap=bootstrap()).examine())
    cloud.deny()

    warned = {one.check: one.says for one in findings if one.verdict == "warn"}
    assert warned["instance profile"].startswith("could not be checked: GetInstanceProfile: UnauthorizedOperation")
    assert warned["terminate"].startswith("could not be checked: DescribeInstances: UnauthorizedOperation")
    assert warned["quota"].startswith("could not be checked: GetServiceQuota")
    assert ("image", "ok") in verdicts(findings)


def test_nodes_that_may_not_join_fail(cloud: SimulatedCloud) -> None:
    """Neither an access entry nor aws-auth has their role."""
    missing = Fault(error=ApiError("ResourceNotFoundException", "no such entry", status=404))
    cloud.fail_next("DescribeAccessEntry", missing)
    ((verdict, says, fix),) = found(mode_of(cloud, wanted=BOTH, bootstrap=bootstrap()), "node access")

    assert ("fail", f"{ROLE} may not join prod") == (verdict, says)
    assert fix == f"aws eks create-access-entry --cluster-name prod --principal-arn {ROLE} --type EC2_LINUX"


def test_aws_auth_knows_no_paths(cloud: SimulatedCloud) -> None:
    """A role that has one is mapped without it."""
    kube = FakeKube()
    mapped = {"mapRoles": "- rolearn: arn:aws:iam::123456789012:role/far\n"}
    kube.create(CONFIG_MAPS, {"metadata": {"name": "aws-auth"}, "data": mapped}, namespace="kube-system")
    iam: Any = cloud.inside.client("iam")
    iam.create_instance_profile(InstanceProfileName="far")
    iam.create_role(RoleName="far", Path="/nodes/", AssumeRolePolicyDocument="{}")
    iam.add_role_to_instance_profile(InstanceProfileName="far", RoleName="far")
    mode = mode_of(cloud, kube=kube, wanted=BOTH, bootstrap=bootstrap(instanceProfile="far"))

    assert ["arn:aws:iam::123456789012:role/nodes/far is in the ConfigMap aws-auth"] == [
        one[1] for one in found(mode, "node access")
    ]


@pytest.mark.parametrize("text", ["", "- x", "{", "- {rolearn: other}", "rolearn", "[[]]"])
def test_an_aws_auth_that_makes_no_sense_maps_nobody(cloud: SimulatedCloud, text: str) -> None:
    """Somebody wrote it by hand."""
    kube = FakeKube()
    kube.create(CONFIG_MAPS, {"metadata": {"name": "aws-auth"}, "data": {"mapRoles": text}}, namespace="kube-system")
    cloud.fail_next("DescribeAccessEntry", Fault(error=ApiError("ResourceNotFoundException", "no", status=404)))

    assert ["fail"] == [one[0] for one in found(mode_of(cloud, kube=kube, wanted=BOTH, bootstrap=bootstrap()), "node access")]


def test_subnets_have_room(cloud: SimulatedCloud) -> None:
    """None left is a failure, few are a warning; one that is elsewhere fails."""
    full, tight = cloud.add_subnet(A, machines=0), cloud.add_subnet(A, machines=3)
    mode = mode_of(cloud, wanted=BOTH, subnetIds=[full, tight, cloud.subnets[A], "subnet-0abc"])

    assert [
        ("fail", f"{full} in {A} has 0 free addresses"),
        ("warn", f"{tight} in {A} has 3 free addresses"),
        ("ok", found(mode, "subnets")[2][1]),
        ("fail", "subnet-0abc is not in us-east-1"),
    ] == [one[:2] for one in found(mode, "subnets")]


@pytest.mark.parametrize(
    ("name", "policy", "tags", "expected"),
    [
        ("fine", POLICY, {"tfscale.io/cluster": "test"}, []),
        ("untagged", POLICY, {}, []),
        ("deaf", None, {"tfscale.io/cluster": "test"}, ["deaf: events.amazonaws.com may not send to it"]),
        ("foreign", POLICY, {"tfscale.io/cluster": "prod"}, ["foreign: foreign is tagged as that of the cluster prod"]),
        ("Karpenter-prod", POLICY, {}, ["Karpenter-prod: Karpenter-prod looks to be Karpenter's, which deletes what it reads"]),
        ("k", POLICY, {"karpenter.sh/discovery": "prod"}, ["k: k looks to be Karpenter's, which deletes what it reads"]),
    ],
)
def test_a_queue_hears_and_is_nobody_elses(
    cloud: SimulatedCloud, name: str, policy: object, tags: dict[str, str], expected: list[str]
) -> None:
    """Whoever shares it loses messages to the other."""
    mode = mode_of(cloud, wanted=BOTH, interruptionQueue=make_queue(cloud, name, policy=policy, **tags))

    assert expected == [f"{name}: {says}" for verdict, says, _ in found(mode, "queue") if verdict == "fail"]


def test_a_queue_that_is_not_there_fails(cloud: SimulatedCloud) -> None:
    """And a spot pool without one is warned."""
    assert [("fail", "there is no queue nowhere")] == [
        one[:2] for one in found(mode_of(cloud, interruptionQueue="nowhere"), "queue")
    ]
    assert ["warn"] == [one[0] for one in found(mode_of(cloud, wanted=BOTH), "queue")]
    assert ["ok"] == [one[0] for one in found(mode_of(cloud), "queue")]


@pytest.mark.parametrize(
    ("instance_type", "capacity_type", "code"),
    [
        ("g6.xlarge", "on-demand", "L-DB2E81BA"),
        ("gr6f.4xlarge", "spot", "L-3819A6DF"),
        ("p4d.24xlarge", "spot", "L-7212CCBC"),
        ("p5.48xlarge", "spot", "L-C4BD4855"),
        ("p5.48xlarge", "on-demand", "L-417A185B"),
        ("m5.large", "spot", "L-34B43A08"),
        ("im4gn.large", "on-demand", "L-1216C47A"),
        ("dl1.24xlarge", "on-demand", ""),
        ("inf2.xlarge", "spot", ""),
        ("hpc7g.4xlarge", "on-demand", ""),
        ("", "on-demand", ""),
    ],
)
def test_each_type_counts_against_its_quota(instance_type: str, capacity_type: str, code: str) -> None:
    """What is in no table is not checked."""
    quota = quota_of(instance_type, capacity_type)

    assert code == (quota.code if quota else "")


# --- the pools of a cluster ---


def examined(kube: FakeKube, cloud: SimulatedCloud, *names: str) -> list[Finding]:
    """Return what the doctor finds in a cluster."""
    gpus = GpuTable()

    def context(pool: Pool) -> ModeContext:
        return ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="test", aws=cloud.session, sleep=lambda _: None)

    return doctor.findings(kube, names=names, gpus=gpus, mode_of=modes.load, open_with=context, now_s=0)


def pool(name: str, mode: str = "static", **spec: object) -> dict[str, Any]:
    """Return a GPUPool."""
    return {"apiVersion": "tfscale.io/v1alpha1", "kind": "GPUPool", "metadata": {"name": name}, "spec": {"mode": mode, **spec}}


def test_every_pool_is_examined_by_its_mode(cloud: SimulatedCloud) -> None:
    """What is wrong with one says nothing about the others, and what is wrong with its object is said first."""
    kube = FakeKube()
    template = {"region": "us-east-1", "launchTemplate": {"name": "missing"}}
    for made in (pool("a"), pool("b", "ec3"), pool("c", "ec2", options=template), pool("d", idleAfter="soon")):
        kube.create(GPU_POOLS, made)
    failed = {(one.pool, one.says) for one in examined(kube, cloud) if one.verdict == "fail"}

    assert ("b", "spec.mode is 'ec3'") in failed
    assert ("c", "spec.options.launchTemplate is 'missing'") in failed
    assert ("d", "spec.idleAfter is 'soon'") in failed
    assert "a" not in {name for name, _ in failed}
    assert [("a", "ok")] == [(one.pool, one.verdict) for one in examined(kube, cloud, "a")]
    assert [("x", "there is no such GPUPool")] == [(one.pool, one.says) for one in examined(kube, cloud, "x")]


def test_a_cluster_without_pools_or_definitions_is_a_finding(cloud: SimulatedCloud) -> None:
    """With what to do."""
    (finding,) = examined(FakeKube(), cloud)

    assert ("warn", "it has no GPUPool") == (finding.verdict, finding.says)


class _AwayKube(FakeKube):
    def list(self, *_: object, **__: object) -> Any:  # noqa: ANN401 - it never returns
        raise ClusterUnreachableError("nobody answers")


def test_a_cluster_that_does_not_answer_is_a_finding(cloud: SimulatedCloud) -> None:
    """Not a traceback."""
    (finding,) = examined(_AwayKube(), cloud)

    assert ("cluster", "fail", "nobody answers") == (finding.check, finding.verdict, finding.says)


def test_the_command_ends_with_1_where_something_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a table or as JSON."""
    kube = FakeKube()
    kube.create(GPU_POOLS, pool("a"))
    kube.create(GPU_POOLS, pool("b", "ec3"))
    path = tmp_path / "kubeconfig"
    with KubeServer(kube) as server:
        path.write_text(json.dumps(kubeconfig(server.url)), encoding="utf-8")
        codes = [main(["doctor", *more, "--kubeconfig", str(path)]) for more in ([], ["a"], ["b", "-o", "json"])]
    lines = capsys.readouterr().out.splitlines()

    assert [1, 0, 1] == codes
    assert lines[:4] == [
        "VERDICT  POOL  CHECK    FOUND",
        "ok       a     options  the mode static finds nothing wrong",
        "fail     b     options  spec.mode is 'ec3'",
        "                        -> want ec2? Known modes: ec2, managed-nodeclaim, reuse-nodeclaim, static",
    ]
    (finding,) = json.loads("".join(lines[lines.index("[") :]))
    assert ("fail", "b", "options") == (finding["verdict"], finding["pool"], finding["check"])


def kubeconfig(server: str) -> dict[str, Any]:
    """Return a kubeconfig for a server on this machine."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "c",
    }
