"""The simulated cloud in memory: the same answers without moto and without a wire, a hundred times faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, Self, cast

import boto3
from botocore.exceptions import ClientError
from botocore.hooks import HierarchicalEmitter

from tfscale.testing.fake_ec2.desk import Call, Desk, copied
from tfscale.testing.fake_ec2.faults import ApiError
from tfscale.testing.fake_ec2.market import Market
from tfscale.testing.fake_ec2.memory_ground import MemoryGround
from tfscale.testing.fake_ec2.queues import Queues
from tfscale.testing.fake_ec2.region import Region

__all__ = ["MemoryCloud"]


class MemoryCloud(Region):
    """One region in memory; any number of them may be there at once. See :class:`Region` for what it is made with.

    `session` stands for a ``boto3.Session``: its clients have the methods and paginators of boto3's, raise the same errors and
    emit ``request-created``. They make one attempt of each call, fill in no client token, and look at no parameter that the
    cloud has no use for.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - those of Region
        super().__init__(**options)
        self.reset()

    def reset(self) -> None:
        """Start again, empty at second 0. Sessions from before go on talking to what was there."""
        if not hasattr(self, "_market"):
            self._market = Market(self.region, self.zones, self._types, self._gpus)
        self._queues = Queues(self.region, lambda: self.now_s).answers()
        desk = self._furnish(self._market, MemoryGround(self.zones, self._seed), self._queues)
        self._session = _Session(desk, self.region)

    def __enter__(self) -> Self:
        """Start empty at second 0."""
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nobody else sees it."""

    @property
    def session(self) -> boto3.Session:
        """Return what stands for a session whose clients talk to this cloud."""
        return cast("boto3.Session", self._session)

    def _post(self, queue_url: str, text: str) -> None:
        self._queues["SendMessage"]({"QueueUrl": queue_url, "MessageBody": text})


class _Session:
    def __init__(self, desk: Desk, region: str) -> None:
        self._desk = desk
        self.region_name = region

    def client(self, service: str, region_name: str | None = None, **_: object) -> _Client:
        return _Client(self._desk, service, region_name or self.region_name)


class _Client:
    """A client of one service. Any operation is a method."""

    def __init__(self, desk: Desk, service: str, region: str) -> None:
        self._desk = desk
        self._service = service
        self._region = region
        self.meta = SimpleNamespace(events=HierarchicalEmitter(), region_name=region)

    def __getattr__(self, method: str) -> Callable[..., dict[str, Any]]:
        operation = _operation_of(method)
        if not operation:
            raise AttributeError(method)

        def call(**parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - any operation
            return self._call(operation, parameters)

        setattr(self, method, call)
        return call

    def get_paginator(self, method: str) -> _Paginator:
        return _Paginator(getattr(self, method))

    def _call(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.meta.events.emit(f"request-created.{self._service}.{operation}", request=None, operation_name=operation)
        call = Call(
            service=self._service,
            operation=operation,
            region=self._region,
            url=f"https://{self._service}.{self._region}.amazonaws.com/",
            parameters=copied(parameters),
        )
        try:
            reply = self._desk.handle(call)
            if reply is None:
                raise ApiError("InvalidAction", f"{operation} is not simulated")  # noqa: TRY301 - as any other refusal
        except ApiError as error:
            raise _client_error(error, operation) from None
        return {**reply, "ResponseMetadata": {"HTTPStatusCode": 200, "RetryAttempts": 0}}


class _Paginator:
    def __init__(self, call: Callable[..., dict[str, Any]]) -> None:
        self._call = call

    def paginate(self, *, PaginationConfig: Mapping[str, Any] | None = None, **parameters: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401, N803 - as boto3 has it
        size = (PaginationConfig or {}).get("PageSize")
        more = {"MaxResults": size} if size else {}
        while True:
            reply = self._call(**parameters, **more)
            yield reply
            if not reply.get("NextToken"):
                return
            more["NextToken"] = reply["NextToken"]


def _client_error(error: ApiError, operation: str) -> ClientError:
    found: Any = {
        "Error": {"Code": error.code, "Message": str(error)},
        "ResponseMetadata": {"HTTPStatusCode": error.status, "RetryAttempts": 0},
    }
    return ClientError(found, operation)


@cache
def _operation_of(method: str) -> str:
    """Return the operation of a client's method: ``CreateFleet`` of ``create_fleet``; nothing where it is none."""
    return "" if method.startswith("_") else "".join(part.capitalize() for part in method.split("_"))
