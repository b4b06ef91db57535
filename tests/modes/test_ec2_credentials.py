"""Whose calls they are: boto3's chain as it is, a role that is assumed, and what happens when nobody accepts them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest

from tests.modes.fleets import mode_of
from tfscale import modes
from tfscale.errors import BadInputError, CloudUnreachableError, CredentialsError, LaunchRefusedError
from tfscale.gpus import GpuTable
from tfscale.kube.port import GPU_POOLS, PODS
from tfscale.modes.base import ModeContext
from tfscale.modes.ec2_calls import MOST_TRIES, Ec2Calls, translated
from tfscale.opened import REJECTED_FOR_S
from tfscale.reconcile import Reconciler
from tfscale.testing import FakeKube
from tfscale.testing.fake_ec2 import SERVER_ERROR, ApiError, Fault, MemoryCloud, SimulatedCloud, SimulatedType
from tfscale.testing.fake_ec2.wire import moto_session

ROLE = "arn:aws:iam::123456789012:role/gpus"
AWAY = "arn:aws:iam::210987654321:role/gpus"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return the environment of a process that has no credentials at all."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@contextmanager
def moto() -> Iterator[None]:
    """Let moto answer the sessions that are made inside, with no credentials of its own."""
    from moto import mock_aws  # noqa: PLC0415 - it takes seconds to import

    with mock_aws(config={"core": {"mock_credentials": False}}):
        yield


def signers(calls: Ec2Calls, service: str = "ec2") -> list[str]:
    """Return where the access key of each call that is sent from now on will be found."""
    seen: list[str] = []

    def look(request: AWSPreparedRequest, **_: object) -> None:
        header: Any = request.headers["Authorization"]
        text = header.decode() if isinstance(header, bytes) else str(header)
        seen.append(text.partition("Credential=")[2].partition("/")[0])

    calls.client(service).meta.events.register_first(f"before-send.{service}", look)
    return seen


def describe(calls: Ec2Calls) -> None:
    """Make a call."""
    calls.read("DescribeVpcs", calls.ec2.describe_vpcs)


def test_a_service_account_of_eks_assumes_its_role(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """IRSA: a role and a file with a token in the environment are enough, and STS is asked once."""
    (tmp_path / "token").write_text("header.payload.signature", encoding="utf-8")
    bare.setenv("AWS_ROLE_ARN", ROLE)
    bare.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    bare.setenv("AWS_ROLE_SESSION_NAME", "tfscale")
    with moto():
        calls = Ec2Calls(None, "us-east-1")
        seen = signers(calls)
        describe(calls)
        describe(calls)

    assert len(seen) == 2
    assert seen[0].startswith("ASIA")
    assert len({*seen}) == 1


class _PodIdentity(BaseHTTPRequestHandler):
    """The agent of EKS Pod Identity on a node: it gives credentials to who shows the pod's token."""

    asked: int = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        known = self.headers["Authorization"] == "the-pods-token"
        expiration = datetime.now(UTC) + timedelta(hours=6)
        body = {"AccessKeyId": "ASIAPOD", "SecretAccessKey": "s", "Token": "t", "Expiration": f"{expiration:%Y-%m-%dT%H:%M:%SZ}"}
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body if known else {"message": "who are you?"}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server has it
        """Say nothing."""


@contextmanager
def pod_identity() -> Iterator[str]:
    """Run the agent and yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _PodIdentity) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/credentials"
        finally:
            server.shutdown()
            thread.join()


def test_a_pod_with_an_identity_is_known_by_it(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """EKS Pod Identity: the URL of its agent and a file with a token; the agent is asked once."""
    (tmp_path / "token").write_text("the-pods-token", encoding="utf-8")
    _PodIdentity.asked = 0
    with pod_identity() as url, moto():
        bare.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        bare.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        calls = Ec2Calls(None, "us-east-1")
        seen = signers(calls)
        describe(calls)
        describe(calls)

    assert ["ASIAPOD"] * 2 == seen
    assert _PodIdentity.asked == 1


def test_a_role_is_assumed_once_for_all_services(cloud: SimulatedCloud) -> None:
    """With the external id that its trust policy wants; calls of a pool without it are our own."""
    asked: list[dict[str, Any]] = []
    cloud.session.events.register("before-parameter-build.sts", lambda params, **_: asked.append(params))
    role = {"RoleArn": AWAY, "RoleSessionName": "tfscale", "ExternalId": "secret-handshake"}
    away, own = Ec2Calls(cloud.session, "us-east-1", role=role), Ec2Calls(cloud.session, "us-east-1")
    seen, queued, ours = signers(away), signers(away, "sqs"), signers(own)
    for _ in range(2):
        describe(away)
        describe(own)
        away.client("sqs").list_queues()

    assert [role] == asked
    assert len({*seen, *queued}) == 1
    assert seen[0].startswith("ASIA")
    assert ours == ["simulated"] * 2


def test_an_assumed_role_is_renewed_by_itself(cloud: SimulatedCloud) -> None:
    """Credentials that are about to end are fetched anew before the next call."""
    lives_s = [300, 3_600]

    def shorten(parsed: dict[str, Any], **_: object) -> None:
        parsed["Credentials"]["Expiration"] = datetime.now(UTC) + timedelta(seconds=lives_s.pop(0))

    cloud.session.events.register("after-call.sts", shorten)
    calls = Ec2Calls(cloud.session, "us-east-1", role={"RoleArn": AWAY, "RoleSessionName": "tfscale"})
    seen = signers(calls)
    for _ in range(3):
        describe(calls)
    cloud.session.events.unregister("after-call.sts", shorten)

    assert lives_s == []
    assert seen[0] != seen[1] == seen[2]


def test_the_option_is_read(cloud: SimulatedCloud) -> None:
    """An account that is not ours answers for the pool, and what is no role is refused before anything is called."""
    mode = mode_of(cloud, assumeRole={"roleArn": AWAY, "externalId": "x1"})

    assert list(mode.check()) == []
    with pytest.raises(BadInputError, match=r"spec.options.assumeRole.roleArn is 'gpus'; want an ARN"):
        mode_of(cloud, assumeRole={"roleArn": "gpus"})


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "Unable to locate credentials"),
        ({"AWS_PROFILE": "nobody"}, "The config profile (nobody) could not be found"),
        ({"AWS_ACCESS_KEY_ID": "half"}, "Partial credentials found"),
        ({"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/token"}, "No such file or directory: '/no/such/token'"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/no/token"},
         "No such file or directory: '/no/token'"),
    ],
)  # fmt: skip
def test_missing_credentials_are_one_kind_of_error(bare: pytest.MonkeyPatch, environment: dict[str, str], said: str) -> None:
    """In the words of whoever misses them, whatever is missing; nothing leaves the machine."""
    for name, value in environment.items():
        bare.setenv(name, value)
    calls = Ec2Calls(None, "us-east-1")

    with moto(), pytest.raises(CredentialsError) as caught:
        describe(calls)
    assert said in str(caught.value)


def test_an_agent_that_does_not_know_the_pod_is_one_too(bare: pytest.MonkeyPatch) -> None:
    """Its answer is told."""
    with pod_identity() as url, moto():
        bare.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        bare.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "another-token")
        with pytest.raises(CredentialsError, match="Error retrieving metadata"):
            describe(Ec2Calls(None, "us-east-1"))


def test_a_role_that_may_not_be_assumed_is_one_too(cloud: SimulatedCloud) -> None:
    """Whatever the call was, nothing was refused but the role; it is tried again with the next call."""
    cloud.fail_next("AssumeRole", Fault(error=ApiError("AccessDenied", "not yours", status=403)), times=2)
    calls = Ec2Calls(cloud.session, "us-east-1", role={"RoleArn": AWAY, "RoleSessionName": "tfscale"})

    with pytest.raises(CredentialsError, match="DescribeVpcs: AccessDenied: not yours"):
        describe(calls)
    with pytest.raises(CredentialsError), translated("launch b", refusal=LaunchRefusedError):
        calls.ec2.describe_vpcs()
    describe(calls)


def test_a_token_service_that_is_down_rejects_nobody(cloud: SimulatedCloud) -> None:
    """It is tried again, and then the cloud is out of reach for the moment."""
    cloud.fail_next("AssumeRole", SERVER_ERROR, times=MOST_TRIES)
    role = {"RoleArn": AWAY, "RoleSessionName": "tfscale"}
    calls = Ec2Calls(cloud.session, "us-east-1", role=role, sleep=lambda _: None)

    with pytest.raises(CloudUnreachableError) as caught:
        describe(calls)
    assert not isinstance(caught.value, CredentialsError)
    describe(calls)


def test_nobody_to_assume_a_role_with_is_one_too(bare: pytest.MonkeyPatch) -> None:
    """The pool has a role, and the process has nothing."""
    bare.delenv("AWS_SESSION_TOKEN", raising=False)

    with moto(), pytest.raises(CredentialsError, match="Unable to locate credentials"):
        describe(Ec2Calls(None, "us-east-1", role={"RoleArn": AWAY, "RoleSessionName": "tfscale"}))


POOL: dict[str, Any] = {
    "apiVersion": "tfscale.io/v1alpha1",
    "kind": "GPUPool",
    "metadata": {"name": "gpus", "finalizers": ["tfscale.io/machines"]},
    "spec": {"mode": "ec2", "default": True, "options": {"region": "us-east-1", "launchTemplate": {"name": "gpu-nodes"}}},
}
REJECTIONS = [
    ApiError("ExpiredToken", "The security token included in the request is expired"),
    ApiError("AuthFailure", "AWS was not able to validate the provided access credentials", status=401),
    ApiError("RequestExpired", "Signature expired: 20261123T0000Z is now earlier than 20261123T0015Z"),
    ApiError("UnauthorizedOperation", "You are not authorized. Encoded authorization failure message: abcdef", status=403),
]


@pytest.mark.parametrize("refusal", REJECTIONS, ids=[error.code for error in REJECTIONS])
@pytest.mark.parametrize("from_start", [True, False])
def test_rejected_credentials_are_one_condition_one_line_and_a_call_a_minute(
    caplog: pytest.LogCaptureFixture, *, refusal: ApiError, from_start: bool
) -> None:
    """For as long as it lasts, with a round every ten seconds and pods that wait; a minute after it is mended all goes on."""
    caplog.set_level(logging.WARNING)
    cloud, kube = MemoryCloud(instance_types=(SimulatedType(name="g6.xlarge", usd_per_hour="1"),)), FakeKube()
    kube.create(GPU_POOLS, POOL)
    kube.create(PODS, _pod(), namespace="default")
    loop = _loop(cloud, kube)
    if not from_start:
        loop.tick(cloud.now_s)
    cloud.forget_calls()
    _reject(cloud, refusal)
    rounds = [_round(cloud, loop) for _ in range(180)]
    condition = kube.get(GPU_POOLS, "gpus")["status"]["conditions"][0]
    calls = cloud.calls.total()
    cloud.forget_faults()
    for _ in range(REJECTED_FOR_S // 10 + 1):
        _round(cloud, loop)

    assert (condition["status"], condition["reason"]) == ("False", "CredentialsRejected")
    assert refusal.code in condition["message"]
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert calls <= 1_800 // REJECTED_FOR_S + 1
    assert all(unreachable == ("gpus",) for unreachable in rounds)
    assert kube.get(GPU_POOLS, "gpus")["status"]["conditions"][0]["reason"] == "ModeAnswers"
    assert len(cloud.machines) == 1


@pytest.mark.parametrize("operation", ["CreateFleet", "TerminateInstances"])
def test_a_change_that_is_rejected_is_told_once_and_tried_once_a_minute(caplog: pytest.LogCaptureFixture, operation: str) -> None:
    """Nothing is bought twice for it, and nothing stays: it is carried out when it may be."""
    caplog.set_level(logging.WARNING)
    cloud, kube = MemoryCloud(instance_types=(SimulatedType(name="g6.xlarge", usd_per_hour="1"),)), FakeKube()
    kube.create(GPU_POOLS, POOL)
    if operation == "CreateFleet":
        kube.create(PODS, _pod(), namespace="default")
    loop = _loop(cloud, kube)
    if operation != "CreateFleet":
        kube.create(PODS, _pod(), namespace="default")
        _round(cloud, loop)
        kube.delete(GPU_POOLS, "gpus")
        kube.delete(PODS, "asr", namespace="default")
    cloud.forget_calls()
    cloud.fail_next(operation, Fault(error=REJECTIONS[0]), times=10_000)
    for _ in range(180):
        _round(cloud, loop)
    tries = cloud.calls[operation]
    cloud.forget_faults()
    for _ in range(30):
        _round(cloud, loop)

    assert 1 < tries <= 1_800 // REJECTED_FOR_S + 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert ["running" if operation == "CreateFleet" else "terminated"] == [machine.state for machine in cloud.machines]


def test_a_clock_that_is_set_back_lets_nobody_wait_for_long() -> None:
    """The cloud is asked again at once, as after a minute."""
    cloud, kube = MemoryCloud(instance_types=(SimulatedType(name="g6.xlarge"),)), FakeKube()
    kube.create(GPU_POOLS, POOL)
    loop = _loop(cloud, kube)
    _reject(cloud, REJECTIONS[0])
    for now_s in (10_000, 10_010, 9_000, 9_010):
        loop.tick(now_s)

    assert cloud.calls.total() == 2


def _round(cloud: MemoryCloud, loop: Reconciler) -> tuple[str, ...]:
    cloud.advance(cloud.now_s + 10)
    return loop.tick(cloud.now_s).unreachable


def _reject(cloud: MemoryCloud, refusal: ApiError) -> None:
    for operation in ("DescribeInstanceTypes", "DescribeLaunchTemplates", "DescribeInstances", "GetProducts", "DescribeSubnets"):
        cloud.fail_next(operation, Fault(error=refusal), times=10_000)


def _loop(cloud: MemoryCloud, kube: FakeKube) -> Reconciler:
    gpus = GpuTable()
    return Reconciler(
        kube=kube,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(
            pool=pool,
            gpus=gpus,
            kube=kube,
            cluster="test",
            aws=cloud.session,
            sleep=lambda _: None,
            clock=lambda: cloud.now_s,
        ),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )


def _pod() -> dict[str, Any]:
    annotations = {"tensor-fusion.ai/vram-request": "4Gi", "tensor-fusion.ai/tflops-request": "1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "asr", "namespace": "default", "labels": {"tfscale.io/enabled": "true"}, "annotations": annotations},
        "spec": {"schedulerName": "tfscale", "containers": [{"name": "main"}]},
        "status": {"phase": "Pending"},
    }


def test_moto_sessions_of_ours_read_no_environment(bare: pytest.MonkeyPatch) -> None:
    """What is simulated stays so, whatever credentials are around."""
    bare.setenv("AWS_ACCESS_KEY_ID", "real")
    bare.setenv("AWS_SECRET_ACCESS_KEY", "real")
    credentials = moto_session("us-east-1").get_credentials()

    assert credentials is not None
    assert credentials.access_key == "simulated"
