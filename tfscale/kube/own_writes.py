"""Read your own writes: what was written to the objects of one kind, and whether a store that follows the cluster shows it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tfscale.errors import ClusterUnreachableError
from tfscale.kube.port import Json
from tfscale.kube.store import Store

__all__ = ["OwnWrites"]


@dataclass(frozen=True, slots=True)
class _Write:
    what: str
    done_s: float
    shown: Callable[[], bool]
    """Whether the store has come so far, as its events tell."""


class OwnWrites:
    """The writes to one kind that `store` may not show yet. Safe for use from several threads.

    A list that began after a write shows it in any case. `clock` is that of the store.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._open: list[_Write] = []
        self._doubtful_s = -math.inf

    def need_list(self) -> bool:
        """Return whether only a list that begins now can tell what became of the writes."""
        return self._doubtful_s > self._store.listed_s

    def late(self, within_s: float) -> str:
        """Wait until the store shows every write so far. Return the first that it does not show in time, or nothing."""
        with self._lock:
            written = tuple(self._open)
        self._store.wait(lambda: all(map(self._is_shown, written)), within_s)
        with self._lock:
            self._open = [write for write in self._open if not self._is_shown(write)]
        return next((write.what for write in written if not self._is_shown(write)), "")

    def doubt(self) -> None:
        """Note that something may have been written of which no event can be told apart."""
        self._doubtful_s = self._clock()

    @contextmanager
    def sent(self) -> Iterator[None]:
        """Guard a call that writes: one that got no answer may have been done."""
        try:
            yield
        except ClusterUnreachableError:
            self.doubt()
            raise

    def returned(self, obj: Json) -> Json:
        """Note that a write was answered with this object, and return it."""
        version = str(obj["metadata"]["resourceVersion"])
        if version.isdecimal():
            self.expect(f"version {version} of {obj['metadata']['name']}", lambda: self._store.reached(version))
        else:
            self.doubt()
        return obj

    def expect(self, what: str, shown: Callable[[], bool]) -> None:
        """Note that something was written just now."""
        with self._lock:
            self._open.append(_Write(what, self._clock(), shown))

    def gone(self, name: str, namespace: str | None, uid: str | None = None) -> Callable[[], bool]:
        """Return what tells whether the object that has this name now is deleted, or is marked to be. Ask before the write."""
        key = (namespace or "", name)
        before = self._store.get(key)
        expected = uid or (before["metadata"].get("uid") if before else None)

        def shown() -> bool:
            meta = (self._store.get(key) or {}).get("metadata") or {}
            return meta.get("uid") != expected or bool(meta.get("deletionTimestamp")) or not meta

        return shown

    def bound(self, name: str, namespace: str, uid: str) -> Callable[[], bool]:
        """Return what tells whether a pod has its node, or is gone."""

        def shown() -> bool:
            pod = self._store.get((namespace, name))
            return pod is None or pod["metadata"].get("uid") != uid or bool((pod.get("spec") or {}).get("nodeName"))

        return shown

    def _is_shown(self, write: _Write) -> bool:
        return self._store.listed_s >= write.done_s or write.shown()
