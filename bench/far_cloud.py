"""A simulated EC2 in a process of its own, and the session through which this process calls it.

The wire is botocore's down to the request: parameters are serialised and signed, and only then handed over a pipe. So what is
measured in this process is tfscale with its real clients, and no part of the simulation.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from tfscale.testing.fake_ec2 import ApiError, MemoryCloud, SimulatedType
from tfscale.testing.fake_ec2.desk import Call
from tfscale.testing.fake_ec2.wire import Wire

__all__ = ["FarCloud"]

Connection = Any
"""One end of a pipe; the type differs by system."""


class FarCloud:
    """A region in memory in a process of its own, with EC2's token buckets.

    `on_call` is told the name of each operation right before it is made.
    """

    def __init__(self, types: Sequence[SimulatedType], *, on_call: Callable[[str], None]) -> None:
        self._types = tuple(types)
        self._on_call = on_call
        self.region = "us-east-1"
        self.launch_template = "gpu-nodes"
        self._wire = Wire(self.region, self._call)

    def __enter__(self) -> Self:
        """Start the process."""
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self._types), daemon=True)
        self._process.start()
        there.close()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    @property
    def session(self) -> Any:  # noqa: ANN401 - a boto3.Session
        """Return the session whose clients talk to this cloud."""
        return self._wire.session

    def advance(self, now_s: int) -> None:
        """Move the cloud's clock."""
        self._ask("advance", now_s)

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes of all machines that run."""
        found: list[dict[str, Any]] = self._ask("nodes")
        return found

    def states(self) -> Counter[str]:
        """Return how many machines that were ever launched are in which state."""
        found: Counter[str] = self._ask("states")
        return found

    def counted(self) -> tuple[Counter[str], Counter[str]]:
        """Return how often each operation was called, and how often it was throttled, since the last time."""
        found: tuple[Counter[str], Counter[str]] = self._ask("counted")
        return found

    def _call(self, call: Call) -> Any:  # noqa: ANN401 - a reply
        self._on_call(call.operation)
        return self._ask("call", call)

    def _ask(self, *question: object) -> Any:  # noqa: ANN401 - any answer
        self._pipe.send(question)
        answer, refusal = self._pipe.recv()
        if refusal:
            code, message, status = refusal
            raise ApiError(code, message, status=status)
        return answer


def _serve(pipe: Connection, types: Sequence[SimulatedType]) -> None:
    cloud = MemoryCloud(instance_types=types, throttle=True)
    answers: dict[str, Callable[..., Any]] = {
        "call": cloud.answer,
        "advance": cloud.advance,
        "nodes": cloud.nodes,
        "states": lambda: Counter(machine.state for machine in cloud.machines),
        "counted": lambda: _counted(cloud),
    }
    while True:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((answers[name](*arguments), None))
        except ApiError as error:
            pipe.send((None, (error.code, str(error), error.status)))


def _counted(cloud: MemoryCloud) -> tuple[Counter[str], Counter[str]]:
    counted = cloud.calls, Counter(cloud.throttled)
    cloud.forget_calls()
    return counted
