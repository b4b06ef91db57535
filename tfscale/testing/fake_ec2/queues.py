"""Queues of messages as SQS has them: what was received is hidden for a while and comes back unless it is deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfscale.testing.fake_ec2.faults import ApiError
from tfscale.testing.fake_ec2.pages import Answer

__all__ = ["Queues"]

_HIDDEN_S = 30
"""SQS's own visibility timeout."""
_Parameters = dict[str, Any]
_Reply = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class _Message:
    id: str
    body: str
    visible_s: int
    receipt: str = ""


@dataclass(slots=True, kw_only=True)
class _Queue:
    url: str
    attributes: dict[str, str]
    tags: dict[str, str]
    messages: list[_Message] = field(default_factory=list)


class Queues:
    """The queues of one region. `clock` gives seconds; nobody waits for a message."""

    def __init__(self, region: str, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._region = region
        self._numbers = 0
        self._queues: dict[str, _Queue] = {}

    def answers(self) -> Mapping[str, Answer]:
        """Return the operations that are answered here."""
        return {
            "CreateQueue": self._create,
            "GetQueueUrl": lambda parameters: {"QueueUrl": self._of(self._url(parameters["QueueName"])).url},
            "GetQueueAttributes": self._attributes,
            "ListQueueTags": self._tags,
            "SendMessage": self._send,
            "ReceiveMessage": self._receive,
            "DeleteMessage": self._delete,
            "DeleteMessageBatch": self._delete_some,
        }

    def _create(self, parameters: _Parameters) -> _Reply:
        url = self._url(parameters["QueueName"])
        made = _Queue(url=url, attributes=parameters.get("Attributes", {}), tags=parameters.get("tags", {}))
        self._queues.setdefault(url, made)
        return {"QueueUrl": url}

    def _attributes(self, parameters: _Parameters) -> _Reply:
        queue, asked = self._of(parameters["QueueUrl"]), parameters.get("AttributeNames", ())
        hidden = sum(message.visible_s > self._clock() for message in queue.messages)
        found = {
            "VisibilityTimeout": str(_HIDDEN_S),
            **queue.attributes,
            "QueueArn": f"arn:aws:sqs:{self._region}:123456789012:{queue.url.rpartition('/')[2]}",
            "ApproximateNumberOfMessages": str(len(queue.messages) - hidden),
            "ApproximateNumberOfMessagesNotVisible": str(hidden),
        }
        return {"Attributes": {name: found[name] for name in found if name in asked or "All" in asked}}

    def _tags(self, parameters: _Parameters) -> _Reply:
        return {"Tags": self._of(parameters["QueueUrl"]).tags}

    def _send(self, parameters: _Parameters) -> _Reply:
        queue = self._of(parameters["QueueUrl"])
        message = _Message(id=self._number("message"), body=parameters["MessageBody"], visible_s=self._clock())
        queue.messages.append(message)
        return {"MessageId": message.id}

    def _receive(self, parameters: _Parameters) -> _Reply:
        queue = self._of(parameters["QueueUrl"])
        hidden_s = int(parameters.get("VisibilityTimeout", queue.attributes.get("VisibilityTimeout", _HIDDEN_S)))
        there = [message for message in queue.messages if message.visible_s <= self._clock()]
        taken = there[: parameters.get("MaxNumberOfMessages", 1)]
        for message in taken:
            message.visible_s = self._clock() + hidden_s
            message.receipt = self._number("receipt")
        return {"Messages": [_shown(message) for message in taken]} if taken else {}

    def _delete(self, parameters: _Parameters) -> _Reply:
        queue = self._of(parameters["QueueUrl"])
        queue.messages = [message for message in queue.messages if message.receipt != parameters["ReceiptHandle"]]
        return {}

    def _delete_some(self, parameters: _Parameters) -> _Reply:
        for entry in parameters["Entries"]:
            self._delete({"QueueUrl": parameters["QueueUrl"], "ReceiptHandle": entry["ReceiptHandle"]})
        return {"Successful": [{"Id": entry["Id"]} for entry in parameters["Entries"]]}

    def _of(self, url: str) -> _Queue:
        if url not in self._queues:
            raise ApiError("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
        return self._queues[url]

    def _url(self, name: str) -> str:
        return f"https://sqs.{self._region}.amazonaws.com/123456789012/{name}"

    def _number(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}-{self._numbers}"


def _shown(message: _Message) -> dict[str, Any]:
    return {"MessageId": message.id, "ReceiptHandle": message.receipt, "Body": message.body}
