"""Whether an interruption queue is there, hears EventBridge, and is nobody else's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from tfscale.errors import ModeError
from tfscale.finding import Verdict
from tfscale.modes.ec2_calls import Ec2Calls, code_of
from tfscale.modes.ec2_fleet import CLUSTER_TAG
from tfscale.modes.ec2_queue import queue_url

__all__ = ["queue_findings"]

Said = tuple[Verdict, str, str]
_SENDER = "events.amazonaws.com"
_MANY = 1_000


def queue_findings(calls: Ec2Calls, name: str, *, cluster: str) -> Iterator[Said]:
    """Yield a verdict, what was found and what to do, for each thing that was looked at. Raises ``ModeError``."""
    try:
        url = queue_url(calls, name)
        attributes = _attributes(calls, url)
    except ModeError as error:
        if not isinstance(error.__cause__, ClientError) or "NonExistent" not in code_of(error.__cause__):
            raise
        yield "fail", f"there is no queue {name}", "make it (docs/interruptions.md), or correct spec.options.interruptionQueue"
        return
    yield "ok", f"{url} is there", ""
    yield _sender(attributes.get("Policy", ""))
    waiting = int(attributes.get("ApproximateNumberOfMessages", 0))
    if waiting > _MANY:
        yield "warn", f"{waiting} messages wait: nobody deletes them", "see whether tfscale runs and may delete them"
    yield from _sharers(calls, url, cluster)


def _attributes(calls: Ec2Calls, url: str) -> Mapping[str, str]:
    sqs = calls.client("sqs")
    reply = calls.read("GetQueueAttributes", lambda: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))
    found: Mapping[str, str] = reply.get("Attributes", {})
    return found


def _sender(policy: str) -> Said:
    if _lets_in(policy):
        return "ok", f"{_SENDER} may send to it", ""
    return "fail", f"{_SENDER} may not send to it", "let it sqs:SendMessage in the queue's policy (docs/interruptions.md)"


def _lets_in(policy: str) -> bool:
    """Return whether a queue's policy lets EventBridge send. What cannot be read lets nobody."""
    try:
        statements = json.loads(policy)["Statement"]
    except (ValueError, LookupError, TypeError):
        return False
    return any(_allows(one) for one in (statements if isinstance(statements, list) else [statements]))


def _allows(statement: Any) -> bool:  # noqa: ANN401 - somebody's JSON
    if not isinstance(statement, dict) or statement.get("Effect") != "Allow":
        return False
    principal = statement.get("Principal")
    who = _listed(principal.get("Service")) if isinstance(principal, dict) else _listed(principal)
    what = [str(action).lower() for action in _listed(statement.get("Action"))]
    return bool({_SENDER, "*"} & {*who}) and bool({"sqs:sendmessage", "sqs:*", "*"} & {*what})


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - somebody's JSON
    return value if isinstance(value, list) else [value]


def _sharers(calls: Ec2Calls, url: str, cluster: str) -> Iterator[Said]:
    """Yield whose else the queue looks to be. A message that somebody else deletes is never heard here."""
    sqs, name = calls.client("sqs"), url.rpartition("/")[2]
    tags: Mapping[str, str] = calls.read("ListQueueTags", lambda: sqs.list_queue_tags(QueueUrl=url)).get("Tags", {})
    fix = "make a queue of its own, with rules of its own: every event goes to both"
    if "karpenter" in name.lower() or any(key.startswith("karpenter.") for key in tags):
        yield "fail", f"{name} looks to be Karpenter's, which deletes what it reads", fix
        return
    if tags.get(CLUSTER_TAG, cluster) != cluster:
        yield "fail", f"{name} is tagged as that of the cluster {tags[CLUSTER_TAG]}", fix
        return
    if CLUSTER_TAG not in tags:
        yield "ok", f"{name} does not say whose it is", f"tag it {CLUSTER_TAG}={cluster}, so that this can be told"
