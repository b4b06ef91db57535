"""What is known of the objects of one kind, and how old that knowledge is. Pure memory, no I/O."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from tfscale.errors import ClusterError, ClusterUnreachableError
from tfscale.kube.port import Json, Listing, WatchEvent

__all__ = ["Key", "Listener", "Store", "key_of"]

Key = tuple[str, str]
"""Namespace, empty for cluster-scoped objects, and name."""

Listener = Callable[[WatchEvent], None]


def key_of(obj: Json) -> Key:
    """Return where an object is stored. One that has no name raises ``ClusterUnreachableError``: it came from a broken wire."""
    try:
        meta = obj["metadata"]
        key = meta.get("namespace") or "", meta["name"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ClusterUnreachableError("an object without metadata.name arrived") from error
    return key


class Store:
    """The objects of one kind as one list and the events after it have shown them. Safe for use from several threads.

    A list replaces everything at once; until then what was known stays. Objects are shared with whoever reads them: nobody
    may change them. `listener` is told of every change in order, those between two lists included, while the store is
    locked: it must be quick and must not write. `clock` gives seconds and never goes back.
    """

    def __init__(self, *, listener: Listener | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener
        self._clock = clock
        self._changed = threading.Condition()
        self._objects: dict[Key, Json] = {}
        self._version = ""
        self._generation = 0
        self._listed_s = self._seen_s = -math.inf
        self._failure: ClusterError | None = None

    # --- reading ---

    @property
    def version(self) -> str:
        """The resource version of the newest list, event or bookmark; empty before the first list."""
        return self._version

    @property
    def listed_s(self) -> float:
        """When the list began that everything here started from; minus infinity before the first."""
        return self._listed_s

    @property
    def failure(self) -> ClusterError | None:
        """Why nothing new comes in at the moment, or None."""
        return self._failure

    def age_s(self) -> float:
        """Return since how long it is not known whether the objects have changed; infinity before the first list."""
        return self._clock() - self._seen_s

    def get(self, key: Key) -> Json | None:
        """Return one object, or None."""
        return self._objects.get(key)

    def listing(self) -> Listing:
        """Return all objects, from one moment, in no particular order."""
        with self._changed:
            return Listing(items=list(self._objects.values()), resource_version=self._version)

    def mark(self) -> tuple[int, str]:
        """Return which list this is, for ``apply``, and the version to watch from."""
        with self._changed:
            return self._generation, self._version

    def reached(self, version: str) -> bool:
        """Return whether everything up to this version is here. A version that is no number is never known to be."""
        return version.isdecimal() and self._version.isdecimal() and int(version) <= int(self._version)

    def wait(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Wait until something holds that only a change here can bring about. Return whether it does."""
        with self._changed:
            return self._changed.wait_for(holds, within_s)

    # --- writing ---

    def replace(self, found: Listing, *, began_s: float) -> None:
        """Take over a list that was begun at `began_s`. Whatever it does not have is gone."""
        after = {key_of(obj): obj for obj in found.items}
        with self._changed:
            before, self._objects = self._objects, after
            self._version = found.resource_version
            self._generation += 1
            self._listed_s = self._seen_s = began_s
            self._failure = None
            self._tell_difference(before, after)
            self._changed.notify_all()

    def apply(self, event: WatchEvent, *, generation: int) -> bool:
        """Take in one event of a watch, unless it is older than what is known.

        Return False when a list replaced everything since the watch began: then its events may be of the past.
        """
        key = None if event.type == "BOOKMARK" else key_of(event.object)
        version = _version_of(event.object)
        with self._changed:
            if generation != self._generation:
                return False
            self._seen_s = self._clock()
            self._failure = None
            if not self._is_known(version):
                self._version = version
                if key is not None:
                    self._enter(key, event)
            self._changed.notify_all()
        return True

    def fail(self, error: ClusterError) -> None:
        """Note why nothing comes in."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget everything: the cluster does not serve this kind any more."""
        with self._changed:
            before, self._objects, self._version = self._objects, {}, ""
            self._generation += 1
            self._listed_s = self._seen_s = -math.inf
            self._tell_difference(before, {})
            self._changed.notify_all()

    def _is_known(self, version: str) -> bool:
        """Return whether an event is a duplicate or older. Versions are compared only where both are numbers."""
        return version == self._version or self.reached(version)

    def _enter(self, key: Key, event: WatchEvent) -> None:
        if event.type == "DELETED":
            self._objects.pop(key, None)
        else:
            self._objects[key] = event.object
        if self._listener:
            self._listener(event)

    def _tell_difference(self, before: dict[Key, Json], after: dict[Key, Json]) -> None:
        """Tell the listener what must have happened between two lists."""
        if self._listener is None:
            return
        for key in before.keys() - after.keys():
            self._listener(WatchEvent("DELETED", before[key]))
        for key, obj in after.items():
            if key not in before:
                self._listener(WatchEvent("ADDED", obj))
            elif _version_of(before[key]) != _version_of(obj):
                self._listener(WatchEvent("MODIFIED", obj))


def _version_of(obj: Json) -> str:
    meta = obj.get("metadata")
    version = meta.get("resourceVersion") if isinstance(meta, dict) else None
    if not isinstance(version, str) or not version:
        raise ClusterUnreachableError("an object without metadata.resourceVersion arrived")
    return version
