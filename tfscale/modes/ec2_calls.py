"""How EC2 is called: clients with time limits, one layer of retries for reads, and EC2's errors in tfscale's words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import tenacity
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    CredentialRetrievalError,
    HTTPClientError,
    InvalidConfigError,
    LoginError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BrokenConnectionError

from tfscale.errors import CloudUnreachableError, CredentialsError, ModeError
from tfscale.modes.ec2_credentials import CONFIG, as_role, own_session

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client
    from types_boto3_pricing import PricingClient

__all__ = ["THROTTLED", "Ec2Calls", "code_of", "is_denied", "message_of", "shortened", "translated"]

T = TypeVar("T")

RETRY_WITHIN_S = 30
MOST_TRIES = 8
"""About what fits into that time; a simulation, which does not wait, needs a number that is the same every time."""

_PRICING_REGION = "us-east-1"
"""The price list is served from a few regions only; it knows the prices of all."""

THROTTLED = frozenset({
    "BandwidthLimitExceeded", "EC2ThrottledException", "RequestLimitExceeded", "RequestThrottled", "SlowDown",
    "Throttling", "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip
"""Codes of calls that came too fast."""
# Nobody could say whether the call was fine: the credentials were not accepted.
# Newer services end the same names in "Exception".
_UNKNOWN_CALLER = frozenset({
    "AuthFailure", "ExpiredToken", "IncompleteSignature", "InvalidClientTokenId", "InvalidSignature", "InvalidToken",
    "MissingAuthenticationToken", "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClient",
})  # fmt: skip
# The caller is known and may not do this.
_DENIED = ("AccessDenied", "Blocked", "OptInRequired", "PendingVerification", "UnauthorizedOperation")
_NO_CREDENTIALS = (
    ConfigParseError, CredentialRetrievalError, InvalidConfigError, LoginError, NoCredentialsError, PartialCredentialsError,
    ProfileNotFound, SSOError, TokenRetrievalError,
)  # fmt: skip
_ENCODED = " Encoded authorization failure message:"
"""What EC2 appends to an UnauthorizedOperation: kilobytes, and other ones each time."""
# Codes that say for good that the call was not carried out. Anything else may still have had an effect.
_DEFINITE = (*_DENIED, "Invalid", "Malformed", "Missing", "UnknownParameter", "Unsupported")
_READS = ("Describe", "Get", "List")
_SERVER_ERROR = 500
_LONGEST_MESSAGE = 300


class Ec2Calls:
    """The clients of one region, made when they are first needed.

    `session` defaults to boto3's chain of credentials. `role`, the parameters of an AssumeRole, is whose calls they are instead.
    `sleep` waits between retries and takes seconds. `epoch` is asked before each try of a call that changes something, and
    raises where it must not be made.
    """

    def __init__(
        self,
        session: boto3.Session | None,
        region: str,
        *,
        role: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self._given = session
        self._region = region
        self._role = role
        self._clients: dict[str, Any] = {}
        self._sleep = sleep
        self._epoch = epoch

    @cached_property
    def ec2(self) -> EC2Client:
        """Return the EC2 client of the region."""
        client: EC2Client = self.client("ec2")
        return client

    @cached_property
    def pricing(self) -> PricingClient:
        """Return the client of the price list."""
        client: PricingClient = self.client("pricing", _PRICING_REGION)
        return client

    def client(self, service: str, region: str = "") -> Any:  # noqa: ANN401 - stubs of all services are not worth the dependencies
        """Return the client of a service. Raises ``CredentialsError`` where what is configured cannot be read."""
        if service not in self._clients:
            with translated(service):
                client: Any = self._session.client(service, region_name=region or self._region, config=CONFIG)  # type: ignore[call-overload]  # any service
            # Last: credentials were fetched and the request is signed by then, which may have taken its time.
            client.meta.events.register_last(f"request-created.{service}", self._fence)
            self._clients[service] = client
        return self._clients[service]

    def read(self, action: str, call: Callable[[], T], *, within_s: int = RETRY_WITHIN_S) -> T:
        """Return what an idempotent call returns; throttling, server errors and broken connections are tried again.

        No try begins later than `within_s`.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
            stop=tenacity.stop_before_delay(within_s) | tenacity.stop_after_attempt(MOST_TRIES),
            sleep=self._sleep,
            reraise=True,
        )
        with translated(action):
            return retrying(call)

    def _fence(self, operation_name: str, **_: object) -> None:
        if not operation_name.startswith(_READS):
            self._epoch()

    @cached_property
    def _session(self) -> boto3.Session:
        session = self._given if self._given is not None else own_session()
        return as_role(session, self._role, self._region) if self._role else session


@contextmanager
def translated(action: str, *, refusal: type[ModeError] = ModeError) -> Iterator[None]:
    """Turn botocore's errors into tfscale's. `refusal` is raised where the cloud said for good that nothing was done."""
    try:
        yield
    except ClientError as error:
        raise _kind_of(error, refusal)(f"{action}: {code_of(error)}: {message_of(error)}") from error
    except ParamValidationError as error:
        raise refusal(f"{action}: {error}") from error
    except _NO_CREDENTIALS as error:
        raise CredentialsError(f"{action}: {error}") from error
    except BotoCoreError as error:
        raise CloudUnreachableError(f"{action}: {error}") from error
    except OSError as error:
        # A token is in a file, which cannot be read.
        raise CredentialsError(f"{action}: {error}") from error


def _kind_of(error: ClientError, refusal: type[ModeError]) -> type[ModeError]:
    code, assuming = code_of(error), error.operation_name.startswith("AssumeRole")
    if assuming and _is_transient(error):
        return CloudUnreachableError
    if assuming or _unknown_caller(code):
        return CredentialsError
    if refusal is ModeError and is_denied(error):
        return CredentialsError
    return refusal if code.startswith(_DEFINITE) else ModeError


def _unknown_caller(code: str) -> bool:
    return code.removesuffix("Exception") in _UNKNOWN_CALLER


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        return code_of(error) in THROTTLED or _status_of(error) >= _SERVER_ERROR
    return isinstance(error, (HTTPClientError, BrokenConnectionError))


def code_of(error: ClientError) -> str:
    """Return the cloud's own code of an error."""
    # A proxy may answer with an empty error.
    return error.response.get("Error", {}).get("Code") or "Unknown"


def is_denied(error: ClientError) -> bool:
    """Return whether the caller is known and may not do this."""
    return code_of(error).startswith(_DENIED)


def message_of(error: ClientError) -> str:
    """Return what the cloud said, cut to a length that a log bears, and the same each time."""
    return shortened(code_of(error), error.response.get("Error", {}).get("Message") or "")


def shortened(code: str, message: str) -> str:
    """Return a message of the cloud with nothing in it that is long or another one each time."""
    message = message.partition(_ENCODED)[0]
    if _unknown_caller(code):
        # What follows are the times that were compared.
        message = message.partition(":")[0]
    return message if len(message) <= _LONGEST_MESSAGE else message[:_LONGEST_MESSAGE] + "..."


def _status_of(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
