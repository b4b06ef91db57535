"""How EC2 is called: clients with time limits, one layer of retries for reads, and EC2's errors in tfscale's words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import boto3
import tenacity
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ParamValidationError
from botocore.exceptions import ConnectionError as BrokenConnectionError

from tfscale.errors import CloudUnreachableError, ModeError

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client
    from types_boto3_pricing import PricingClient

__all__ = ["Ec2Calls", "code_of", "message_of", "translated"]

T = TypeVar("T")

# botocore would repeat a launch by itself, InsufficientInstanceCapacity included (it is an HTTP 500): one attempt only.
# A call may take 30 s at most, so that with RETRY_WITHIN_S no read takes longer than a minute.
_CONFIG = Config(connect_timeout=5, read_timeout=25, retries={"total_max_attempts": 1, "mode": "standard"})
RETRY_WITHIN_S = 30
MOST_TRIES = 8
"""About what fits into that time; a simulation, which does not wait, needs a number that is the same every time."""

_PRICING_REGION = "us-east-1"
"""The price list is served from a few regions only; it knows the prices of all."""

_THROTTLED = frozenset({
    "BandwidthLimitExceeded", "EC2ThrottledException", "RequestLimitExceeded", "RequestThrottled", "SlowDown",
    "Throttling", "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip
# Nobody could say whether the call was fine: the credentials were not accepted.
_UNKNOWN_CALLER = frozenset({
    "AuthFailure", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId",
    "MissingAuthenticationToken", "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException",
})  # fmt: skip
# Codes that say for good that the call was not carried out. Anything else may still have had an effect.
_DEFINITE = (
    "AccessDenied", "Blocked", "Idempotent", "Invalid", "Malformed", "Missing", "OptInRequired", "PendingVerification",
    "UnauthorizedOperation", "Unknown", "Unsupported",
)  # fmt: skip
_SERVER_ERROR = 500
_LONGEST_MESSAGE = 300
"""EC2 appends kilobytes of encoded text to an UnauthorizedOperation."""


class Ec2Calls:
    """The clients of one region, made when they are first needed.

    `session` defaults to boto3's chain of credentials. `sleep` waits between retries and takes seconds. `epoch` is asked
    before each try of a call that changes something, and raises where it must not be made.
    """

    def __init__(
        self,
        session: boto3.Session | None,
        region: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self._given = session
        self._region = region
        self._sleep = sleep
        self._epoch = epoch

    @cached_property
    def ec2(self) -> EC2Client:
        """Return the EC2 client of the region."""
        client = self._session.client("ec2", region_name=self._region, config=_CONFIG)
        # Last: credentials were fetched and the request is signed by then, which may have taken its time.
        client.meta.events.register_last("request-created.ec2", self._fence)
        return client

    @cached_property
    def pricing(self) -> PricingClient:
        """Return the client of the price list."""
        return self._session.client("pricing", region_name=_PRICING_REGION, config=_CONFIG)

    def read(self, action: str, call: Callable[[], T]) -> T:
        """Return what an idempotent call returns; throttling, server errors and broken connections are tried again."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
            stop=tenacity.stop_before_delay(RETRY_WITHIN_S) | tenacity.stop_after_attempt(MOST_TRIES),
            sleep=self._sleep,
            reraise=True,
        )
        with translated(action):
            return retrying(call)

    def _fence(self, operation_name: str, **_: object) -> None:
        if not operation_name.startswith("Describe"):
            self._epoch()

    @cached_property
    def _session(self) -> boto3.Session:
        return self._given if self._given is not None else boto3.Session()


@contextmanager
def translated(action: str, *, refusal: type[ModeError] = ModeError) -> Iterator[None]:
    """Turn botocore's errors into tfscale's. `refusal` is raised where EC2 said for good that nothing was done."""
    try:
        yield
    except ClientError as error:
        raise _kind_of(code_of(error), refusal)(f"{action}: {code_of(error)}: {message_of(error)}") from error
    except ParamValidationError as error:
        raise refusal(f"{action}: {error}") from error
    except BotoCoreError as error:
        # No connection, no answer in time, no credentials or no such profile.
        raise CloudUnreachableError(f"{action}: {error}") from error


def _kind_of(code: str, refusal: type[ModeError]) -> type[ModeError]:
    if code in _UNKNOWN_CALLER:
        return CloudUnreachableError
    return refusal if code.startswith(_DEFINITE) else ModeError


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        return code_of(error) in _THROTTLED or _status_of(error) >= _SERVER_ERROR
    return isinstance(error, (HTTPClientError, BrokenConnectionError))


def code_of(error: ClientError) -> str:
    """Return the cloud's own code of an error."""
    return error.response.get("Error", {}).get("Code", "Unknown")


def message_of(error: ClientError) -> str:
    """Return what the cloud said, cut to a length that a log bears."""
    message = error.response.get("Error", {}).get("Message", "")
    return message if len(message) <= _LONGEST_MESSAGE else message[:_LONGEST_MESSAGE] + "..."


def _status_of(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
