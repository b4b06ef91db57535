"""How AWS is called: no client waits for ever, nothing is repeated behind our back, and each error has one meaning."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError

from tests.modes.fleets import batch_of, machine_ids, mode_of, offer
from tfscale.errors import CloudUnreachableError, CredentialsError, LaunchRefusedError, ModeError, NotLeadingError
from tfscale.modes.ec2_calls import MOST_TRIES, Ec2Calls, translated
from tfscale.testing.fake_ec2 import THROTTLED, SimulatedCloud

SERVICES = ("ec2", "eks", "iam", "pricing", "service-quotas", "sqs", "ssm", "sts")


@pytest.mark.parametrize("service", SERVICES)
def test_every_client_has_time_limits_and_one_attempt(service: str) -> None:
    """Retries are ours alone, with a deadline."""
    config = Ec2Calls(None, "us-east-1").client(service).meta.config

    assert (5, 25) == (config.connect_timeout, config.read_timeout)
    assert config.retries["total_max_attempts"] == 1


def test_a_termination_is_tried_again_until_it_is_heard(cloud: SimulatedCloud) -> None:
    """It can be repeated without harm, and a throttled one costs money."""
    mode = mode_of(cloud)
    (machine,) = machine_ids(mode.launch(batch_of(mode, [offer()])))
    before = cloud.calls
    cloud.fail_next("TerminateInstances", THROTTLED, times=MOST_TRIES - 1)
    mode.terminate([str(machine)])

    assert MOST_TRIES == (cloud.calls - before)["TerminateInstances"]
    assert [True] == [one.stopping for one in mode.observe() if one.id == machine]


def test_a_call_has_no_more_time_than_its_caller() -> None:
    """Where nobody can wait there is one try."""
    tries = []

    def fail() -> None:
        tries.append(1)
        raise ReadTimeoutError(endpoint_url="x")

    with pytest.raises(CloudUnreachableError):
        Ec2Calls(None, "us-east-1", sleep=lambda _: None).read("a call", fail, within_s=0)
    assert [1] == tries


@pytest.mark.parametrize("method", ["receive_message", "delete_message_batch"])
def test_who_does_not_lead_takes_no_message_away(cloud: SimulatedCloud, method: str) -> None:
    """A message that was received is hidden from the others; to look at a queue is everybody's right."""

    def epoch() -> int:
        raise NotLeadingError("another process leads")

    url = cloud.inside.client("sqs").create_queue(QueueName="news")["QueueUrl"]
    sqs = Ec2Calls(cloud.session, "us-east-1", epoch=epoch).client("sqs")
    more = {"Entries": [{"Id": "0", "ReceiptHandle": "x"}]} if "delete" in method else {}

    with pytest.raises(NotLeadingError):
        getattr(sqs, method)(QueueUrl=url, **more)
    assert sqs.get_queue_attributes(QueueUrl=url)["ResponseMetadata"]["HTTPStatusCode"] == 200


def failed(code: str, status: int = 400, message: str = "no") -> ClientError:
    """Return an error of EC2."""
    reply: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(reply, "RunInstances")


@pytest.mark.parametrize(
    ("error", "reading", "launching"),
    [
        (failed("ExpiredToken"), CredentialsError, CredentialsError),
        (failed("AuthFailure"), CredentialsError, CredentialsError),
        (failed("InvalidSignatureException"), CredentialsError, CredentialsError),
        (failed("UnrecognizedClientException"), CredentialsError, CredentialsError),
        (failed("UnauthorizedOperation", 403), CredentialsError, LaunchRefusedError),
        (failed("AccessDeniedException", 403), CredentialsError, LaunchRefusedError),
        (failed("OptInRequired", 401), CredentialsError, LaunchRefusedError),
        (failed("InvalidParameterValue"), ModeError, LaunchRefusedError),
        (failed("RequestLimitExceeded", 503), ModeError, ModeError),
        (failed("InternalError", 500), ModeError, ModeError),
        (ReadTimeoutError(endpoint_url="x"), CloudUnreachableError, CloudUnreachableError),
        (ConnectTimeoutError(endpoint_url="x"), CloudUnreachableError, CloudUnreachableError),
        (FileNotFoundError("token"), CredentialsError, CredentialsError),
    ],
    ids=str,
)
def test_each_error_has_one_meaning(error: Exception, reading: type[ModeError], launching: type[ModeError]) -> None:
    """Where a launch is refused for sure its batch is given up; else it is kept."""
    with pytest.raises(ModeError) as read, translated("a call"):
        raise error
    with pytest.raises(ModeError) as launched, translated("a launch", refusal=LaunchRefusedError):
        raise error

    assert (reading, launching) == (type(read.value), type(launched.value))


def test_what_differs_each_time_is_not_told() -> None:
    """Else every try would be news."""
    denied = failed("UnauthorizedOperation", 403, "You may not do this. Encoded authorization failure message: 3x7q")
    expired = failed("SignatureDoesNotMatch", 403, "Signature expired: 20261123T0000Z is now earlier than 20261123T0015Z")
    told = []
    for error in (denied, expired):
        with pytest.raises(CredentialsError) as caught, translated("a call"):
            raise error
        told.append(str(caught.value))

    assert ["a call: UnauthorizedOperation: You may not do this.", "a call: SignatureDoesNotMatch: Signature expired"] == told
