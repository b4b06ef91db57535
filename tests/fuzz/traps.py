"""What can befall one write of a process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from botocore.exceptions import ReadTimeoutError

from tests.fuzz.process import CALLS, ORDER, CrashError, Trap
from tests.fuzz.world import FuzzWorld
from tfscale.errors import ClusterUnreachableError, ConflictError

__all__ = ["TRAPS", "trap"]

Write = Callable[[], Any]


def dies_before(world: FuzzWorld, _: str, __: Write) -> NoReturn:
    """Let the process die before a write."""
    world.count("crashes")
    raise CrashError


def dies_after(world: FuzzWorld, _: str, write: Write) -> NoReturn:
    """Let the process die after a write."""
    with suppress(Exception):
        write()
    world.count("crashes")
    raise CrashError


def dies_with_write_on_its_way(world: FuzzWorld, _: str, write: Write) -> NoReturn:
    """Let the process die while its write is still on the way."""
    world.late.append(write)
    world.count("crashes")
    raise CrashError


def loses_answer(world: FuzzWorld, name: str, write: Write) -> NoReturn:
    """Carry out a write without answer."""
    write()
    if name in CALLS:
        world.count("lost replies")
        raise ReadTimeoutError(endpoint_url="https://ec2")
    world.count("lost replies" if name == ORDER else "lost answers")
    raise ClusterUnreachableError("no answer")


def is_refused(world: FuzzWorld, name: str, write: Write) -> Any:  # noqa: ANN401 - what the write returns
    """Refuse a write of the cluster because somebody else was faster."""
    if name in CALLS:
        return write()
    world.count("conflicts")
    raise ConflictError("somebody else was faster")


def is_overtaken(world: FuzzWorld, _: str, write: Write) -> Any:  # noqa: ANN401 - what the write returns
    """Let another process lead and make rounds while this one stands still with a write on its way, then go on."""
    world.count("overtaken leaders")
    with world.led_by_another():
        return write()


TRAPS: dict[str, Callable[[FuzzWorld, str, Write], Any]] = {
    "dies before": dies_before,
    "dies after": dies_after,
    "dies with it on its way": dies_with_write_on_its_way,
    "loses the answer": loses_answer,
    "is refused": is_refused,
    "is overtaken": is_overtaken,
}


def trap(world: FuzzWorld, name: str) -> Trap:
    """Return a trap of this world."""
    return lambda verb, write: TRAPS[name](world, verb, write)
