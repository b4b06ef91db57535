"""The wire of the simulated cloud: a boto3 session whose requests are handed to whoever answers, and never leave the process."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape

import boto3
import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.loaders import Loader

from tfscale.errors import BadInputError, Problem
from tfscale.testing.fake_ec2.desk import Call
from tfscale.testing.fake_ec2.faults import ApiError

__all__ = ["Handle", "Wire", "moto_session", "moto_stub"]

Handle = Callable[[Call], Mapping[str, Any] | None]
"""Returns the reply of one call, or None where it does not know the operation; raises ``ApiError``, or what botocore raises."""
Stub = Callable[..., AWSResponse | None]
"""Answers a raw request, or does not know it."""

_PARAMETERS, _REPLY = "simulated.parameters", "simulated.reply"
_ACCOUNT_KEY = "simulated"


class Wire:
    """Every call of one session passes here and is answered by `handle`, else by `stub`.

    botocore's retries lie above, so each attempt counts and each may fail.
    """

    def __init__(self, region: str, handle: Handle, stub: Stub | None = None) -> None:
        self._handle = handle
        self._stub = stub
        self._context: dict[str, Any] = {}
        self.session = _session(region)
        events: Any = self.session.events  # the stubs know no handler that answers
        # Last, so that the client token which botocore fills in is among the parameters.
        events.register_last("before-parameter-build", self._note_parameters)
        events.register("request-created", self._note_context)
        events.register("before-send", self._send)
        events.register("after-call", self._fill_in)

    @staticmethod
    def _note_parameters(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        context[_PARAMETERS] = copy.deepcopy(params)

    def _note_context(self, request: AWSRequest, **_: object) -> None:
        # botocore tells before-send nothing but the raw request; this event comes just before it, in the same thread.
        self._context = request.context

    def _send(self, event_name: str, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        service, operation = event_name.split(".")[1:]
        region: str = self._context["client_region"]
        url, parameters = request.url or "", self._context[_PARAMETERS]
        call = Call(service=service, operation=operation, region=region, url=url, parameters=parameters)
        try:
            reply = self._handle(call)
        except ApiError as error:
            return _error(request, error)
        if reply is None:
            unknown = ApiError("InvalidAction", f"{operation} is not simulated")
            return self._ask_stub(event_name, request) or _error(request, unknown)
        self._context[_REPLY] = reply
        return _response(request, 200, "{}" if _speaks_json(request) else "<Reply/>")

    def _ask_stub(self, event_name: str, request: AWSPreparedRequest) -> AWSResponse | None:
        try:
            return self._stub(event_name, request) if self._stub else None
        except NotImplementedError:
            return None

    @staticmethod
    def _fill_in(parsed: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        # The body was empty: the reply takes its place behind botocore's parser. After a refusal there is none.
        if _REPLY in context and "Error" not in parsed:
            parsed.update(context.pop(_REPLY))


def moto_session(region: str) -> boto3.Session:
    """Return a session that talks to moto alone: for setting up, and for looking in without being counted."""
    stub = moto_stub()
    session = _session(region)
    events: Any = session.events
    events.register("before-send", stub)
    return session


def moto_stub() -> Stub:
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
    """Take out what moto, once imported, adds to every session: inside a ``mock_aws`` it would carry out each request twice."""
    models = sys.modules.get("moto.core.models")
    if models is not None:
        events: Any = core
        events.unregister("before-send", models.botocore_stubber)


def _error(request: AWSPreparedRequest, error: ApiError) -> AWSResponse:
    if _speaks_json(request):
        return _response(request, error.status, json.dumps({"__type": error.code, "message": str(error)}))
    body = f"<Errors><Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error></Errors>"
    return _response(request, error.status, f"<Response>{body}<RequestID>simulated</RequestID></Response>")


def _speaks_json(request: AWSPreparedRequest) -> bool:
    # The others get a form and answer in XML.
    content: Any = request.headers.get("Content-Type", b"")
    return b"form-urlencoded" not in (content if isinstance(content, bytes) else content.encode())


def _response(request: AWSPreparedRequest, status: int, body: str) -> AWSResponse:
    return AWSResponse(request.url, status, HTTPHeaders(), _Body(body.encode()))


class _Body(BytesIO):
    def stream(self, **_: object) -> Any:  # noqa: ANN401 - as urllib3 has it
        yield self.read()
