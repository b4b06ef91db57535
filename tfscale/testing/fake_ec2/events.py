"""What EC2 says ahead of time, as EventBridge puts it into queues, and what then really happens."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tfscale.testing.fake_ec2.machines import Machines

__all__ = ["Events"]

_ACCOUNT = "123456789012"
SPOT_NOTICE_S = 120


class Events:
    """EventBridge of one region, with rules that send everything to the queues that were named.

    `post` puts a text into the queue of a URL. Times are seconds of the cloud's clock.
    """

    def __init__(self, region: str, machines: Machines, post: Callable[[str, str], object]) -> None:
        self._region = region
        self._machines = machines
        self._post = post
        self._targets: list[str] = []
        self._numbers = itertools.count(1)
        self._doomed: dict[str, int] = {}
        """When machines go, by id."""

    def send_to(self, queue_url: str) -> None:
        """From now on put all events into this queue too."""
        self._targets.append(queue_url)

    def interrupt(self, machine_id: str, *, in_s: int = SPOT_NOTICE_S) -> None:
        """Say that a spot machine is taken back, and take it when its time is over."""
        detail = {"instance-id": machine_id, "instance-action": "terminate"}
        self._doomed[machine_id] = self._machines.now_s + in_s
        self.put("EC2 Spot Instance Interruption Warning", detail, [self._arn(machine_id)])

    def recommend_rebalance(self, machine_id: str) -> None:
        """Say that a spot machine is likely to be taken back. Nothing else happens."""
        self.put("EC2 Instance Rebalance Recommendation", {"instance-id": machine_id}, [self._arn(machine_id)])

    def change_state(self, machine_id: str, state: str) -> None:
        """Say that a machine is in another state."""
        detail = {"instance-id": machine_id, "state": state}
        self.put("EC2 Instance State-change Notification", detail, [self._arn(machine_id)])

    def reclaim(self, machine_id: str, *, in_s: int = SPOT_NOTICE_S) -> None:
        """Say that a machine of a capacity reservation is taken back, and take it when its time is over."""
        self._doomed[machine_id] = self._machines.now_s + in_s
        detail = {
            "instance-id": machine_id,
            "instance-action": "terminate",
            "instance-termination-time": _iso(self._doomed[machine_id]),
            "instance-lifecycle": "capacity-block",
        }
        self.put("EC2 Capacity Reservation Instance Interruption Warning", detail, [self._arn(machine_id)])

    def end_block(self, reservation_id: str, *, end_s: int) -> None:
        """Say that a capacity block ends. What becomes of its machines is up to the block."""
        detail = {"capacity-reservation-id": reservation_id, "end-date": _iso(end_s)}
        arn = f"arn:aws:ec2:{self._region}:{_ACCOUNT}:capacity-reservation/{reservation_id}"
        self.put("Capacity Block Expiration Warning", detail, [arn])

    def retire(self, machine_ids: Sequence[str], *, start_s: int, code: str = "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED") -> None:
        """Say that the hosts of machines are to be retired. Nothing else happens."""
        detail = {
            "eventArn": f"arn:aws:health:{self._region}::event/EC2/{code}/{code}_1",
            "service": "EC2",
            "eventTypeCode": code,
            "eventTypeCategory": "scheduledChange",
            "eventScopeCode": "ACCOUNT_SPECIFIC",
            "startTime": datetime.fromtimestamp(start_s, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "statusCode": "upcoming",
            "affectedEntities": [{"entityValue": one, "status": "PENDING"} for one in machine_ids],
        }
        self.put("AWS Health Event", detail, [self._arn(one) for one in machine_ids], source="aws.health")

    def put(self, kind: str, detail: Mapping[str, Any], resources: Sequence[str], *, source: str = "aws.ec2") -> None:
        """Put an event of any kind into all queues."""
        event = {
            "version": "0",
            "id": f"00000000-0000-0000-0000-{next(self._numbers):012}",
            "detail-type": kind,
            "source": source,
            "account": _ACCOUNT,
            "time": _iso(self._machines.now_s),
            "region": self._region,
            "resources": list(resources),
            "detail": dict(detail),
        }
        for url in self._targets:
            self._post(url, json.dumps(event))

    def advance(self) -> None:
        """Take the machines whose time is over."""
        over = [one for one, at_s in self._doomed.items() if self._machines.now_s >= at_s]
        for one in over:
            self._machines.take_away([one], at_s=self._doomed.pop(one))

    def _arn(self, machine_id: str) -> str:
        return f"arn:aws:ec2:{self._region}:{_ACCOUNT}:instance/{machine_id}"


def _iso(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
