"""What the contract has to know of the world that a mode buys in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, ClassVar

from tfscale.errors import ClusterUnreachableError
from tfscale.kube.port import Kube
from tfscale.modes.base import ModeContext, ScalingMode

__all__ = ["Ground", "LossyKube"]


class Ground(ABC):
    """A world with room for forty machines, in which the pools of the contract own nothing yet.

    Write it against the world itself (a fake, a test account), never by asking the mode.
    """

    mode: ClassVar[type[ScalingMode]]
    """The mode under test."""
    buys: ClassVar[bool] = True
    """False: the mode never buys anything. The tests of buying are skipped then, and buying must be refused."""

    @abstractmethod
    def context(self, pool: str) -> ModeContext:
        """Return what the mode is opened with for a pool of this name, whatever the name.

        Every context leads to this same world. A mode that is opened again is a process that was restarted.
        """

    @abstractmethod
    def really_there(self) -> Collection[str]:
        """Return the ids, as ``Machine.id`` has them, of all machines in the world, whoever made them.

        One that is still shutting down may be among them until the world has settled.
        """

    @abstractmethod
    def foreign(self) -> str:
        """Make a machine that no pool launched and return its id. The more it looks like ours, the better."""

    @abstractmethod
    def settle(self) -> None:
        """Let time pass until nothing changes by itself: what was launched runs, what was terminated is gone."""

    def lose_reply(self) -> bool:
        """Let the next call that launches be carried out without an answer: the mode's ``launch`` fails, the machine exists.

        Return False where that cannot be arranged: its tests are skipped.
        """
        return False

    def leave_room_for(self, machines: int) -> bool:  # noqa: ARG002 - for grounds that can
        """From now on, let the world have capacity for only so many more machines. Return False where that cannot be arranged."""
        return False


class LossyKube:
    """A cluster whose answer to the next write is lost on request, for grounds of modes that launch by writing objects."""

    _WRITES = ("create", "patch", "patch_status", "apply", "delete")

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._losing = False

    def lose_reply(self) -> bool:
        """Carry out the next write and then raise ``ClusterUnreachableError``."""
        self._losing = True
        return True

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any verb
        verb = getattr(self._kube, name)
        return self._unanswered(verb) if self._losing and name in self._WRITES else verb

    def _unanswered(self, verb: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            self._losing = False
            verb(*args, **options)
            raise ClusterUnreachableError("the answer was lost")

        return call
