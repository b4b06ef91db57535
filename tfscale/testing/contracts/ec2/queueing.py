"""The queue on which EC2's news arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tfscale.testing.contracts.ec2.world import Workplace, code_of
from tfscale.testing.fake_ec2 import Region

__all__ = ["QueueContract"]

Sqs = Any
"""A client of SQS, for which there are no stubs here."""


class QueueContract(Workplace):
    """As much of SQS as tfscale uses."""

    @pytest.fixture
    def sqs(self, cloud: Region) -> Sqs:
        """Return a client of SQS."""
        return cloud.session.client("sqs")

    def test_a_message_is_there_until_it_is_deleted(self, sqs: Sqs) -> None:
        """One that was received is hidden; one that was deleted is gone; deleting it again is fine."""
        url = sqs.create_queue(QueueName="news", Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
        sent = [sqs.send_message(QueueUrl=url, MessageBody=body)["MessageId"] for body in ("one", "two", "three")]
        first = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=2)["Messages"]
        second = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
        entries = [{"Id": str(number), "ReceiptHandle": one["ReceiptHandle"]} for number, one in enumerate([*first, *second])]
        for _ in range(2):
            done = sqs.delete_message_batch(QueueUrl=url, Entries=entries)
        left = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]

        assert [one["Body"] for one in [*first, *second]] == ["one", "two", "three"]
        assert [one["MessageId"] for one in [*first, *second]] == sent
        assert [one["Id"] for one in done["Successful"]] == ["0", "1", "2"]
        assert "Messages" not in sqs.receive_message(QueueUrl=url)
        assert (left["ApproximateNumberOfMessages"], left["ApproximateNumberOfMessagesNotVisible"]) == ("0", "0")
        assert left["QueueArn"].endswith(":news")

    def test_a_queue_is_found_by_its_name(self, sqs: Sqs) -> None:
        """With its tags; one that is not there is an error."""
        url = sqs.create_queue(QueueName="named", tags={"owner": "us"})["QueueUrl"]

        assert sqs.get_queue_url(QueueName="named")["QueueUrl"] == url
        assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"owner": "us"}
        calls: list[Callable[[], object]] = [
            lambda: sqs.get_queue_url(QueueName="nowhere"),
            lambda: sqs.receive_message(QueueUrl=url.replace("named", "nowhere")),
        ]
        for call in calls:
            with pytest.raises(ClientError) as caught:
                call()
            assert code_of(caught) == ("AWS.SimpleQueueService.NonExistentQueue", 400)
