"""Nodes that are alike: same cards in the same states, same CPU and memory. What holds for one holds for all of a group.

Most nodes of a large cluster are empty or full, so there are far fewer groups than nodes. A group comes with its first node
and goes with its last; its number is given again to another one then.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tfscale.slicing.capacity import GONE, Ints
from tfscale.slicing.worth import Floats

__all__ = ["Alike", "Singles"]

Singles = npt.NDArray[np.float32]
Rest = tuple[int, int, int, bool]
"""CPU, memory, makeup, preferred."""
Key = tuple[bytes, Rest]
_NOBODY = 0
"""The group of no node."""
_DEAD = -1
_FIRST = 64
_PREFERRED = 0.5
"""Points: less than one step of the scores."""


class Alike:
    """The groups as arrays, one row each; ``join`` is the only change."""

    def __init__(self, nodes: int, width: int, columns: int) -> None:
        self.of: Ints = np.full(nodes, _NOBODY, dtype=np.int64)
        """By node: its group."""
        self._ids: dict[Key, int] = {}
        self._keys: list[Key] = [(b"", (GONE, GONE, 0, False))]
        self._members = [0]
        self._unused: list[int] = []
        self.born_at: Ints = np.full(_FIRST, _DEAD, dtype=np.int64)
        """By group: with which change it came; less than every change where it is gone."""
        self.states: Ints = np.zeros((_FIRST, width), dtype=np.int64)
        self.cpu_milli: Ints = np.full(_FIRST, GONE, dtype=np.int64)
        self.memory_mib: Ints = np.full(_FIRST, GONE, dtype=np.int64)
        """Less than nothing where no pod more may come."""
        self.makeup: Ints = np.zeros(_FIRST, dtype=np.int64)
        self.bonus: Floats = np.zeros(_FIRST)
        """Points for a node without cards that is in use: of equal ones it is taken, so that an empty one can be given back."""
        self.traits: Singles = np.zeros((_FIRST, 2 * columns + 1), dtype=np.float32)
        """The sums of the traits of its cards; see ``CardStates.traits``."""
        self.free: Floats = np.zeros(_FIRST)
        """Thousandths of cards that are free."""
        self.hosts: Singles = np.zeros((_FIRST, columns), dtype=np.float32)
        """How many pods of a target one of the nodes can host, CPU considered."""
        self.useless: Floats = np.zeros(_FIRST)
        """Thousandths of cards that are free and of no use to a typical pod, on the average of the typical pods."""

    def join(self, node: int, states: Ints, rest: Rest, change: int) -> int | None:
        """Put a node into the group of what it has. Return the group where it is new."""
        key = (states.tobytes(), rest)
        group, fresh = self._ids.get(key), None
        if group is None:
            group = fresh = self._open(key)
            self.born_at[group] = change
            self.states[group] = states
        old = int(self.of[node])
        self.of[node] = group
        self._members[group] += 1
        if old != _NOBODY:
            self._members[old] -= 1
            if not self._members[old]:
                self._close(old)
        return fresh

    def _open(self, key: Key) -> int:
        if self._unused:
            group = self._unused.pop()
            self._keys[group] = key
        else:
            group = len(self._keys)
            self._keys.append(key)
            self._members.append(0)
            if group >= len(self.born_at):
                self._grow()
        self._ids[key] = group
        self.cpu_milli[group], self.memory_mib[group], self.makeup[group], preferred = key[1]
        self.bonus[group] = _PREFERRED if preferred else 0.0
        return group

    def _close(self, group: int) -> None:
        del self._ids[self._keys[group]]
        self.born_at[group] = _DEAD
        self._unused.append(group)

    def _grow(self) -> None:
        for name in ("born_at", "states", "cpu_milli", "memory_mib", "makeup", "bonus", "traits", "free", "hosts", "useless"):
            values = getattr(self, name)
            setattr(self, name, np.concatenate([values, np.zeros_like(values)]))
        self.born_at[len(self.born_at) // 2 :] = _DEAD
