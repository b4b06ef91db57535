"""The queue in which EventBridge puts what EC2 says ahead of time. Nothing is deleted before it is acknowledged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tfscale.errors import ModeError
from tfscale.model import Notice
from tfscale.modes.ec2_calls import Ec2Calls
from tfscale.modes.ec2_events import News, UnreadableError, read_news
from tfscale.modes.ec2_fleet import CLUSTER_TAG, RESERVATION_TAG
from tfscale.modes.ec2_machines import LIVE, tags_of

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import FilterTypeDef

__all__ = ["InterruptionQueue", "queue_url"]

log = logging.getLogger(__name__)

VISIBLE_AGAIN_S = 60
"""When a message that was received and not deleted comes back, also to another process. Longer than a round takes."""
ASK_AGAIN_S = 60
"""How long a queue that gave no answer is left alone: a round must not wait for it each time."""
WITHIN_S = 5
"""No call is tried again after so long: nothing but a warning is lost, and all pools wait for it."""
_AT_ONCE = 10
"""The most messages that SQS gives or deletes in one call."""
_MOST_CALLS = 30
"""How often a round asks for more."""
_MOST_KEPT = 1_000
"""With so many messages unacknowledged no more are asked for; they are safe in the queue."""


@dataclass(slots=True, kw_only=True)
class _Message:
    receipt: str
    notices: frozenset[str] = field(default_factory=frozenset)
    """Ids of what it said; nothing where it can be deleted."""


class InterruptionQueue:
    """The queue of one pool, which may be that of other pools too. `name` is its name or URL, `clock` gives seconds.

    What it says is said again until it is acknowledged. A queue that does not answer is logged once, and costs the pool
    nothing but the warnings. ``unreadable`` counts the messages that made no sense, by kind of trouble.
    """

    def __init__(self, calls: Ec2Calls, name: str, *, cluster: str, clock: Callable[[], float]) -> None:
        self._calls = calls
        self._name = name
        self._cluster = cluster
        self._clock = clock
        self._url = ""
        self._messages: dict[str, _Message] = {}
        self._waiting: dict[str, Notice] = {}
        self._failed_s = float("-inf")
        self._told = ""
        self.unreadable: Counter[str] = Counter()

    def notices(self) -> list[Notice]:
        """Return all that is not acknowledged. Does not wait for messages, and raises nothing where the queue is silent."""
        if self._try(self._delete_done) and self._try(self._receive):
            self._told = ""
        return list(self._waiting.values())

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Forget these notices, and delete the messages that have said nothing else. One that cannot be deleted comes back."""
        for notice in notices:
            self._waiting.pop(notice.id, None)
        self._try(self._delete_done)

    def _try(self, step: Callable[[], None]) -> bool:
        """Return whether a step succeeded. It is not tried while the queue is left alone."""
        # A clock that was set back must not make that long.
        if abs(self._clock() - self._failed_s) < ASK_AGAIN_S:
            return False
        try:
            step()
        except ModeError as error:
            self._failed_s = self._clock()
            if self._told != str(error):
                log.warning("queue %s: %s", self._name, error)
            self._told = str(error)
            return False
        return True

    def _receive(self) -> None:
        for _ in range(_MOST_CALLS):
            if len(self._messages) >= _MOST_KEPT or not (received := self._receive_some()):
                return
            for message in received:
                self._read(message)

    def _receive_some(self) -> list[dict[str, Any]]:
        sqs, url = self._calls.client("sqs"), self._at()
        wanted = {"MaxNumberOfMessages": _AT_ONCE, "WaitTimeSeconds": 0, "VisibilityTimeout": VISIBLE_AGAIN_S}
        reply = self._calls.read("ReceiveMessage", lambda: sqs.receive_message(QueueUrl=url, **wanted), within_s=WITHIN_S)
        messages: list[dict[str, Any]] = reply.get("Messages", [])
        return messages

    def _read(self, message: dict[str, Any]) -> None:
        try:
            news = read_news(message["Body"])
        except UnreadableError as trouble:
            kind = str(trouble)
            if not self.unreadable[kind]:
                log.warning("queue %s: a message is %s: such ones are counted and deleted", self._name, kind)
            self.unreadable[kind] += 1
            news = None
        notices = self._notices(news) if news else {}
        self._waiting |= {key: _sooner(self._waiting.get(key), notice) for key, notice in notices.items()}
        self._messages[message["MessageId"]] = _Message(receipt=message["ReceiptHandle"], notices=frozenset(notices))

    def _notices(self, news: News) -> dict[str, Notice]:
        machine_ids = self._machines_in(news.reservation) if news.reservation else news.machine_ids
        return {
            f"{machine_id}/{news.event}": Notice(
                id=f"{machine_id}/{news.event}",
                machine_id=machine_id,
                event=news.event,
                ends_s=news.ends_s,
                scarce=news.scarce,
                why=news.why,
            )
            for machine_id in machine_ids
        }

    def _machines_in(self, reservation: str) -> list[str]:
        """Return the cluster's machines that were launched into a reservation, those of other pools included."""
        tags = {CLUSTER_TAG: self._cluster, RESERVATION_TAG: reservation}
        filters: list[FilterTypeDef] = [{"Name": f"tag:{key}", "Values": [tags[key]]} for key in tags]
        filters.append({"Name": "instance-state-name", "Values": [*LIVE]})

        def ask() -> list[str]:
            pages = self._calls.ec2.get_paginator("describe_instances").paginate(Filters=filters)
            found = [instance for page in pages for group in page["Reservations"] for instance in group["Instances"]]
            # Filters take * and ? for wildcards, so a strange cluster name could match others.
            return [one["InstanceId"] for one in found if tags.items() <= tags_of(one).items()]

        return self._calls.read("DescribeInstances", ask)

    def _delete_done(self) -> None:
        done = [key for key, message in self._messages.items() if message.notices.isdisjoint(self._waiting)]
        receipts = [self._messages.pop(key).receipt for key in done]
        for start in range(0, len(receipts), _AT_ONCE):
            self._delete(receipts[start : start + _AT_ONCE])

    def _delete(self, receipts: Sequence[str]) -> None:
        sqs, url = self._calls.client("sqs"), self._at()
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        reply = self._calls.read(
            "DeleteMessageBatch", lambda: sqs.delete_message_batch(QueueUrl=url, Entries=entries), within_s=WITHIN_S
        )
        for failed in reply.get("Failed", []):
            log.info("queue %s: a message is not deleted and comes back: %s", self._name, failed.get("Code"))

    def _at(self) -> str:
        self._url = self._url or queue_url(self._calls, self._name)
        return self._url


def queue_url(calls: Ec2Calls, name: str) -> str:
    """Return the URL of a queue that is named by its name or URL. Raises ``ModeError`` where there is no such queue."""
    if "/" in name:
        return name
    sqs = calls.client("sqs")
    return str(calls.read("GetQueueUrl", lambda: sqs.get_queue_url(QueueName=name), within_s=WITHIN_S)["QueueUrl"])


def _sooner(known: Notice | None, notice: Notice) -> Notice:
    """Return which of two equal notices says more: the one that leaves less time."""
    if known is None or known.ends_s is None:
        return notice
    return known if notice.ends_s is None or known.ends_s <= notice.ends_s else notice
