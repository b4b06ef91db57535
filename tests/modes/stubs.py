"""Clients that check each call word for word and answer as they were told, instead of a cloud."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import boto3
from botocore.stub import Stubber

__all__ = ["StubbedSession"]


class StubbedSession:
    """Stands for a boto3 session: every client is stubbed, and a call that was not expected fails."""

    def __init__(self) -> None:
        self._session = boto3.Session(aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1")  # noqa: S106 - no secret
        self._clients = {name: cast("Any", self._session).client(name) for name in ("ec2", "ssm", "pricing")}
        self._stubs = {name: Stubber(client) for name, client in self._clients.items()}
        for stub in self._stubs.values():
            stub.activate()

    @property
    def session(self) -> boto3.Session:
        """Return it as the type that it stands for."""
        return cast("boto3.Session", self)

    def client(self, name: str, **_: object) -> object:
        """Return the stubbed client of a service."""
        return self._clients[name]

    def expect(self, service: str, method: str, parameters: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Expect this call next."""
        self._stubs[service].add_response(method, dict(reply), dict(parameters))

    def refuse(self, service: str, method: str, code: str) -> None:
        """Refuse the next call, whatever it says."""
        self._stubs[service].add_client_error(method, code, "no")

    def done(self) -> None:
        """Check that all expected calls were made."""
        for stub in self._stubs.values():
            stub.assert_no_pending_responses()
