"""The wire of the simulated cloud: a boto3 session whose requests are counted, may fail, and never leave the process."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape

import boto3
import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError, UnknownRegionError
from botocore.loaders import Loader

from tfscale.errors import BadInputError, Problem

__all__ = [
    "ACCESS_DENIED",
    "LOST_REPLY",
    "SERVER_ERROR",
    "THROTTLED",
    "UNREACHABLE",
    "Answer",
    "ApiError",
    "Fault",
    "Wire",
    "moto_session",
]

Answer = Callable[[dict[str, Any]], Mapping[str, Any] | None]
"""Takes the parameters of a call as boto3 got them and returns the reply as boto3 gives it; None leaves the call to moto."""


class ApiError(Exception):
    """What the simulated service refuses, with the code that EC2 uses."""

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way for a call to fail: with an error of the service, or with no reply at all."""

    error: ApiError | None = None
    """None: the caller gets no reply."""
    committed: bool = False
    """True: the call was carried out, only its reply is lost."""


THROTTLED = Fault(error=ApiError("RequestLimitExceeded", "Request limit exceeded.", status=503))
SERVER_ERROR = Fault(error=ApiError("InternalError", "An internal error has occurred", status=500))
ACCESS_DENIED = Fault(error=ApiError("UnauthorizedOperation", "You are not authorized to perform this operation.", status=403))
UNREACHABLE = Fault()
LOST_REPLY = Fault(committed=True)

_PARAMETERS, _REPLY = "simulated.parameters", "simulated.reply"
_ACCOUNT_KEY = "simulated"


class Wire:
    """Every call of one session passes here: counted, perhaps broken, answered by `answers` or by moto.

    botocore's retries lie above, so each attempt counts and each may fail. EC2 of any other region is nowhere; the price list,
    which is one for all regions, is here.
    """

    def __init__(self, region: str, answers: Mapping[str, Answer]) -> None:
        self._region = region
        self._answers = answers
        self._moto = _moto_stub()
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._context: dict[str, Any] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.session = _session(region)
        events: Any = self.session.events  # the stubs know no handler that answers
        # Last, so that the client token which botocore fills in is among the parameters.
        events.register_last("before-parameter-build", self._note_parameters)
        events.register("request-created", self._note_context)
        events.register("before-send", self._send)
        events.register("after-call", self._fill_in)

    @property
    def calls(self) -> Counter[str]:
        """Return how often each operation was called, retries and failures included."""
        return Counter(operation for operation, _ in self.requests)

    def fail_next(self, operation: str, fault: Fault, *, times: int = 1) -> None:
        """Let the next `times` calls of this operation (``CreateFleet``) fail; faults queue up."""
        self._faults[operation].extend([fault] * times)

    @staticmethod
    def _note_parameters(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        context[_PARAMETERS] = copy.deepcopy(params)

    def _note_context(self, request: AWSRequest, **_: object) -> None:
        # botocore tells before-send nothing but the raw request; this event comes just before it, in the same thread.
        self._context = request.context

    def _send(self, event_name: str, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        operation = event_name.rpartition(".")[2]
        parameters = self._context[_PARAMETERS]
        self.requests.append((operation, parameters))
        self._check_region(event_name)
        fault = self._faults[operation].popleft() if self._faults[operation] else None
        if fault and fault.error:
            return _error(request, fault.error)
        if fault and not fault.committed:
            raise EndpointConnectionError(endpoint_url=request.url)
        response = self._carry_out(operation, parameters, event_name, request)
        if fault:
            raise ReadTimeoutError(endpoint_url=request.url)
        return response

    def _check_region(self, event_name: str) -> None:
        asked = self._context["client_region"]
        if event_name.split(".")[1] == "ec2" and asked != self._region:
            # Unlike a broken connection this is not worth a second attempt: readers would wait for half a minute of real time.
            raise UnknownRegionError(region_name=asked, error_msg=f"The simulated cloud is {self._region}.")

    def _carry_out(self, operation: str, parameters: dict[str, Any], event_name: str, request: AWSPreparedRequest) -> AWSResponse:
        answer = self._answers.get(operation)
        try:
            reply = answer(copy.deepcopy(parameters)) if answer else None
        except ApiError as error:
            return _error(request, error)
        if reply is None:
            return self._moto(event_name, request) or _error(request, ApiError("InvalidAction", f"{operation} is not simulated"))
        self._context[_REPLY] = _copied(reply)
        return _response(request, 200, "{}" if _speaks_json(request) else "<Reply/>")

    @staticmethod
    def _fill_in(parsed: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        # The body was empty: the reply takes its place behind botocore's parser. After a refusal there is none.
        if _REPLY in context and "Error" not in parsed:
            parsed.update(context.pop(_REPLY))


def _copied(value: Any) -> Any:  # noqa: ANN401 - any part of a reply
    """Return a copy of a reply, whose leaves nobody can change; several times faster than ``copy.deepcopy``."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def moto_session(region: str) -> boto3.Session:
    """Return a session that talks to moto alone: for setting up, and for looking in without being counted."""
    stub = _moto_stub()
    session = _session(region)
    events: Any = session.events
    events.register("before-send", stub)
    return session


def _moto_stub() -> Callable[..., AWSResponse | None]:
    """Return moto's answer to a raw request. ``mock_aws`` is not used: it would patch ``requests`` and the environment."""
    try:
        from moto.core.botocore_stubber import BotocoreStubber  # noqa: PLC0415 - moto is an extra and takes seconds to import
    except ImportError as error:
        want = "it installed: pip install 'tfscale[sim]'"
        raise BadInputError(Problem(where="simulated cloud", field="moto", value="not there", want=want)) from error
    stub = BotocoreStubber()
    stub.enabled = True
    return stub


def _session(region: str) -> boto3.Session:
    """Return a session that reads neither the user's AWS configuration nor the environment."""
    core = botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
            "ignore_configured_endpoint_urls": (None, None, True, None),
        }
    )
    core.register_component("data_loader", _loader())
    _without_mock_aws(core)
    return boto3.Session(
        aws_access_key_id=_ACCOUNT_KEY, aws_secret_access_key=_ACCOUNT_KEY, region_name=region, botocore_session=core
    )


@cache
def _loader() -> Loader:
    """Return one loader of API descriptions for all sessions: reading EC2's takes most of a second."""
    return Loader()


def _without_mock_aws(core: botocore.session.Session) -> None:
    """Take out what moto adds to every session: inside a ``mock_aws`` it would carry out each request a second time."""
    from moto.core.models import botocore_stubber  # noqa: PLC0415 - moto is an extra and takes seconds to import

    events: Any = core
    events.unregister("before-send", botocore_stubber)


def _error(request: AWSPreparedRequest, error: ApiError) -> AWSResponse:
    if _speaks_json(request):
        return _response(request, error.status, json.dumps({"__type": error.code, "message": str(error)}))
    body = f"<Errors><Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error></Errors>"
    return _response(request, error.status, f"<Response>{body}<RequestID>simulated</RequestID></Response>")


def _speaks_json(request: AWSPreparedRequest) -> bool:
    return "X-Amz-Target" in request.headers


def _response(request: AWSPreparedRequest, status: int, body: str) -> AWSResponse:
    return AWSResponse(request.url, status, HTTPHeaders(), _Body(body.encode()))


class _Body(BytesIO):
    def stream(self, **_: object) -> Any:  # noqa: ANN401 - as urllib3 has it
        yield self.read()
