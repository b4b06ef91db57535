"""Calls that EC2 checks and does not carry out: what the caller may do, and which permission is missing where it may not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from tfscale.errors import CredentialsError, ModeError
from tfscale.modes.ec2_calls import Ec2Calls, code_of, is_denied

__all__ = ["Refused", "dry_run", "missing_permission"]

_DENIED = re.compile(r"not authorized to perform: (\S+)(?: on resource: (\S+))?")
_ENCODED = re.compile(r"Encoded authorization failure message: (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why EC2 would not make a call."""

    text: str
    permission: str = ""
    """The action that is missing, with the resource that it is missing for; empty where that is not the reason."""


def dry_run(calls: Ec2Calls, action: str, call: Callable[[], object]) -> Refused | None:
    """Make a call that says ``DryRun``, and return why it would be refused. Raises ``ModeError`` where nobody answers."""
    try:
        calls.read(action, call)
    except ModeError as error:
        cause = error.__cause__
        if not isinstance(cause, ClientError):
            raise
        if code_of(cause) == "DryRunOperation":
            return None
        return Refused(text=str(error), permission=missing_permission(calls, error, service="ec2:"))
    return None


def missing_permission(calls: Ec2Calls, error: Exception, *, service: str = "") -> str:
    """Return which action a call lacked and for which resource, or nothing where that was not the reason.

    Most services say it; else STS may decode it, and else it is as good as certainly the operation of `service`.
    """
    cause = error.__cause__
    if not isinstance(error, CredentialsError) or not isinstance(cause, ClientError) or not is_denied(cause):
        return ""
    message = cause.response.get("Error", {}).get("Message") or ""
    return _named(calls, message) or f"{service}{cause.operation_name}"


def _named(calls: Ec2Calls, message: str) -> str:
    if found := _DENIED.search(message):
        return " on ".join(filter(None, found.groups()))
    if encoded := _ENCODED.search(message):
        return _decoded(calls, encoded[1])
    return ""


def _decoded(calls: Ec2Calls, encoded: str) -> str:
    sts = calls.client("sts")
    try:
        reply = calls.read("DecodeAuthorizationMessage", lambda: sts.decode_authorization_message(EncodedMessage=encoded))
        context: dict[str, Any] = json.loads(reply["DecodedMessage"])["context"]
        return " on ".join(filter(None, (str(context.get("action", "")), str(context.get("resource", "")))))
    except (ModeError, ValueError, LookupError, TypeError, AttributeError):
        # A permission of its own, which hardly anybody has.
        return ""
