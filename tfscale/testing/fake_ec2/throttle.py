"""EC2's token buckets: how many calls an account may make, and how many machines it may launch and end in a while.

Sources: EC2's page on request throttling (each API has buckets of its own; RunInstances and TerminateInstances also count
machines), and the sizes that the AWS provider of Karpenter simulates EC2 with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tfscale.testing.fake_ec2.faults import THROTTLED

__all__ = ["BUCKETS", "RESOURCES", "Bucket", "Throttle"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens come back at a rate and never exceed a size."""

    per_s: int
    size: int


BUCKETS: Mapping[str, Bucket] = {
    "RunInstances": Bucket(2, 5),
    "TerminateInstances": Bucket(5, 100),
    "CreateTags": Bucket(10, 100),
}
"""One token a call."""
READS, CHANGES = Bucket(20, 100), Bucket(5, 50)
"""What all other operations have, each for itself."""
RESOURCES: Mapping[str, Bucket] = {"RunInstances": Bucket(2, 1_000), "TerminateInstances": Bucket(20, 1_000)}
"""One token a machine. What a fleet launches is counted with RunInstances, which is how EC2 launches it."""


class Throttle:
    """The buckets of one account. `clock` gives the time in seconds."""

    def __init__(self, clock: Callable[[], float], *, on: bool) -> None:
        self._clock = clock
        self.on = on
        self._left: dict[str, tuple[float, float]] = {}
        """Tokens and since when, by bucket."""
        self.refused: Counter[str] = Counter()
        """How often each operation was refused; RunInstances also once for each override of a fleet that found too few tokens."""

    def admit(self, operation: str, parameters: Mapping[str, Any]) -> None:
        """Take the tokens of a call. Raises ``ApiError`` where there are too few."""
        if not self.on:
            return
        otherwise = READS if operation.startswith("Describe") else CHANGES
        granted = self._take(operation, BUCKETS.get(operation, otherwise), 1)
        if operation == "TerminateInstances" and granted:
            granted = self._take("machines to end", RESOURCES[operation], len(parameters.get("InstanceIds", ())))
        if not granted:
            self.refused[operation] += 1
            error = THROTTLED.error
            assert error  # noqa: S101 - it is a constant
            raise error

    def fill(self) -> None:
        """Fill all buckets."""
        self._left.clear()

    def machines(self) -> int:
        """Return how many machines may be launched now."""
        return int(self._tokens("machines to launch", RESOURCES["RunInstances"]))

    def launched(self, count: int) -> None:
        """Take the tokens of machines that were launched."""
        self._take("machines to launch", RESOURCES["RunInstances"], count)

    def _take(self, name: str, bucket: Bucket, count: int) -> bool:
        left = self._tokens(name, bucket)
        if left >= count:
            self._left[name] = (left - count, self._clock())
        return left >= count

    def _tokens(self, name: str, bucket: Bucket) -> float:
        left, since_s = self._left.get(name, (bucket.size, self._clock()))
        return min(left + bucket.per_s * (self._clock() - since_s), bucket.size)
