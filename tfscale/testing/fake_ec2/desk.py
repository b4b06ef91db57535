"""Where every call of a region arrives: counted, perhaps throttled, denied or broken, then answered."""

from __future__ import annotations

import pickle
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import EndpointConnectionError, ReadTimeoutError, UnknownRegionError

from tfscale.testing.fake_ec2.faults import ACCESS_DENIED, ApiError, Fault
from tfscale.testing.fake_ec2.pages import Answer
from tfscale.testing.fake_ec2.throttle import Throttle

__all__ = ["DRY_RUN", "Call", "Desk", "copied"]

DRY_RUN = ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", status=412)
_LAUNCHES = frozenset({"CreateFleet", "RunInstances"})
"""What looks at its parameters before it says that it was a dry run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One attempt of one call."""

    service: str
    operation: str
    region: str
    url: str
    parameters: dict[str, Any]
    """The caller's own no more: they are kept."""


class Desk:
    """The calls of one region. EC2 of any other region is nowhere; the price list, which is one for all regions, is here."""

    def __init__(self, region: str, answers: Mapping[str, Answer], throttle: Throttle) -> None:
        self._region = region
        self._answers = answers
        self._throttle = throttle
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.denied: frozenset[str] = frozenset()
        """Operations that the caller may not make."""

    @property
    def calls(self) -> Counter[str]:
        """Return how often each operation was called, retries and failures included."""
        return Counter(operation for operation, _ in self.requests)

    def fail_next(self, operation: str, fault: Fault, *, times: int = 1) -> None:
        """Let the next `times` calls of this operation (``CreateFleet``) fail; faults queue up."""
        self._faults[operation].extend([fault] * times)

    def forget_faults(self) -> None:
        """Let no call fail that did not fail yet."""
        self._faults.clear()

    def handle(self, call: Call) -> Mapping[str, Any] | None:
        """Return the reply, or None where nobody here knows the operation.

        Raises ``ApiError`` for what the service refuses, and what botocore raises where no reply comes.
        """
        self.requests.append((call.operation, call.parameters))
        try:
            return self._reply(call)
        except ApiError as error:
            # Many are constants: each would keep alive, for good, all that it was ever raised through.
            raise error.with_traceback(None) from None

    def _reply(self, call: Call) -> Mapping[str, Any] | None:
        if call.service == "ec2" and call.region != self._region:
            # Unlike a broken connection this is not worth a second attempt: readers would wait for half a minute of real time.
            raise UnknownRegionError(region_name=call.region, error_msg=f"The simulated cloud is {self._region}.")
        faults = self._faults[call.operation]
        fault = faults.popleft() if faults else None
        if fault and fault.error:
            raise fault.error
        if fault and not fault.committed:
            raise EndpointConnectionError(endpoint_url=call.url)
        reply = self._answer(call)
        if fault:
            raise ReadTimeoutError(endpoint_url=call.url)
        return reply

    def _answer(self, call: Call) -> Mapping[str, Any] | None:
        if call.service == "ec2":
            self._throttle.admit(call.operation, call.parameters)
        if call.operation in self.denied and ACCESS_DENIED.error:
            raise ACCESS_DENIED.error
        answer = self._answers.get(call.operation)
        if answer is None:
            return None
        if call.parameters.get("DryRun") and call.operation not in _LAUNCHES:
            raise DRY_RUN
        reply: Mapping[str, Any] | None = copied(answer(call.parameters))
        return reply


def copied(value: Any) -> Any:  # noqa: ANN401 - any part of a call
    """Return a copy, so that nobody changes what another one keeps; several times faster than ``copy.deepcopy``."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes of a moment ago
