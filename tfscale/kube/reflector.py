"""One kind of objects, listed once and then watched: a copy in memory that follows the cluster through every fault.

What can happen, and what follows:

==================================================  ==================================================================
a resource version is too old (410, anywhere)       list again; what was known serves until the list is complete
429 or 503 with Retry-After                         wait as long as the server asks, at most a minute
401, 403                                            try again, ever slower, at least once a minute; the failure is told
the kind is not served (404)                        forget what was known; try again as slowly: it may be installed later
reset, end of stream, 5xx, nonsense, a huge line    watch again from the last version, after a pause that grows
silence: half-open connection, sleeping process     list again: only a list proves what is true now
events twice or out of order                        left out: the store never goes back
==================================================  ==================================================================

The pauses are random, so that many clients do not come back in step after an outage of their server.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from tfscale.errors import (
    ClusterError,
    ClusterUnreachableError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    TooManyRequestsError,
)
from tfscale.kube.port import Json, Kind, Kube, Listing, WatchEvent
from tfscale.kube.store import Listener, Store, key_of

__all__ = ["Pace", "Reflector", "Separable", "Source"]

log = logging.getLogger(__name__)

Keep = Callable[[Json], Json]
"""Returns what is kept of an object. It may change and return the object that it is given."""

_STOP_WITHIN_S = 1.0
_TELL_EVERY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a reflector waits for what, in seconds."""

    watch_s: tuple[int, int] = (290, 580)
    """The server ends a watch after a random time between these, so that connections spread over its replicas."""
    silence_s: float = 75.0
    """Without an event or bookmark for so long, nothing is known any more: list again.

    The API server sends a bookmark about every 60 s, but not always for a kind of which it has seen no change since it
    started; such a kind has few objects to list.
    """
    pause_s: tuple[float, float] = (0.8, 30.0)
    """The least and the longest pause after a failure. Source: client-go's reflector."""
    refused_s: float = 60.0
    """The longest pause while the server refuses, or asks to wait."""
    brief_s: float = 1.0
    """A watch that ended well, but sooner than this and with nothing in it, counts as a failure."""


class Source(Protocol):
    """What a reflector reads from."""

    def list(self, kind: Kind, *, keep: Keep) -> Listing:
        """Return all objects, of each of them what is kept."""
        ...

    def watch(self, kind: Kind, *, resource_version: str, timeout_s: int) -> Iterator[WatchEvent]:
        """Yield what changed, as :class:`~tfscale.kube.port.Kube` does."""
        ...

    def hang_up(self) -> None:
        """End the calls of all threads, now and from now on."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


@runtime_checkable
class Separable(Protocol):
    """A client that can give a reflector connections of its own: it lists page by page and can be stopped at any time."""

    def separate(self) -> Source:
        """Return a client of the same server that shares nothing with this one."""
        ...


class Reflector:
    """Keeps ``store`` equal to the objects of one kind while its ``with`` block runs.

    Any :class:`~tfscale.kube.port.Kube` will do. One that is ``Separable`` never has a whole list in memory before `keep`
    has seen it, and ``stop`` ends its calls at once; another may take until its watch says something. `listener` is told
    of every change, see :class:`~tfscale.kube.store.Store`.
    """

    def __init__(
        self,
        kube: Kube,
        kind: Kind,
        *,
        keep: Keep = lambda obj: obj,
        pace: Pace = Pace(),
        listener: Listener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kind = kind
        self.store = Store(listener=listener, clock=clock)
        self._source: Source = kube.separate() if isinstance(kube, Separable) else _Whole(kube)
        self._keep = keep
        self._pace = pace
        self._clock = clock
        self._backoff = _Backoff(pace)
        self._listing = threading.Lock()
        self._stopped = threading.Event()
        self._expired = False
        self._told_s, self._is_told = -math.inf, False
        self._thread = threading.Thread(target=self._run, name=f"reflector of {kind.plural}", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to list and watch, in a thread of its own."""
        self._thread.start()

    def request_stop(self) -> None:
        """Let the thread end as soon as it can. ``stop`` waits for that."""
        self._stopped.set()
        self._source.hang_up()

    def stop(self) -> None:
        """End the thread, within about a second also when a call hangs. May be called again."""
        self.request_stop()
        if self._thread.is_alive():
            self._thread.join(_STOP_WITHIN_S)
        if self._thread.is_alive():
            log.info("%s: the last call ends by its own time limit", self.kind.plural)

    def relist(self) -> None:
        """Replace everything by a fresh list, in the caller's thread. Raises ``ClusterError``; what was known stays then.

        There is never more than one list at a time; one that began after this call will do.
        """
        asked_s = self._clock()
        with self._listing:
            if self.store.listed_s > asked_s:
                return
            began_s = self._clock()
            try:
                found = self._source.list(self.kind, keep=self._kept)
            except NotFoundError:
                self.store.clear()
                raise
            self.store.replace(found, began_s=began_s)
            self._expired = False

    def _kept(self, obj: Json) -> Json:
        """Return the object as it is stored. What is stored already is not stored twice while a list comes in."""
        known = self.store.get(key_of(obj))
        if known and all(known["metadata"].get(name) == obj["metadata"].get(name) for name in ("uid", "resourceVersion")):
            return known
        return self._keep(obj)

    # --- the thread ---

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except ClusterError as error:
                self._failed(error)
            except Exception as error:
                log.debug("%s", self.kind.plural, exc_info=True)
                self._failed(ClusterUnreachableError(f"{self.kind.plural}: {type(error).__name__}: {error}"))
        self._source.close()

    def _follow(self) -> None:
        """List where that is needed, then watch once."""
        if self._expired or self.store.age_s() > self._pace.silence_s:
            self.relist()
            self._tell_current()
        began_s = self._clock()
        try:
            events = self._watch()
        except ClusterUnreachableError as error:
            if self._clock() - began_s < self._pace.silence_s or self.store.age_s() < self._pace.silence_s:
                raise
            # Perhaps nothing is wrong but that nothing happens, and the server sends no bookmarks. The list will tell.
            log.debug("%s", error)
            return
        if not events and self._clock() - began_s < self._pace.brief_s:
            raise ClusterUnreachableError(f"watch {self.kind.plural}: it ended at once")

    def _watch(self) -> int:
        """Take in the events of one watch and return how many there were."""
        generation, version = self.store.mark()
        limit_s = random.randint(*self._pace.watch_s)  # noqa: S311 - no secret
        count = 0
        heard_s = self._clock()
        for event in self._source.watch(self.kind, resource_version=version, timeout_s=limit_s):
            gap_s, heard_s = self._clock() - heard_s, self._clock()
            if gap_s > self._pace.silence_s:
                # What comes in now may have waited for us for as long.
                raise ClusterUnreachableError(f"watch {self.kind.plural}: nothing was heard for {gap_s:.0f} s")
            if event.type != "BOOKMARK":
                event = WatchEvent(event.type, self._keep(event.object))  # noqa: PLW2901 - the whole object is not needed
            if not self.store.apply(event, generation=generation) or self._stopped.is_set():
                return count + 1
            count += 1
            # Not after a list: one that no watch can follow must not be repeated without a pause.
            self._backoff.reset()
            self._tell_current()
        return count

    def _failed(self, error: ClusterError) -> None:
        if self._stopped.is_set():
            return
        self._expired = self._expired or isinstance(error, GoneError | NotFoundError)
        self.store.fail(error)
        self._tell(error)
        self._stopped.wait(self._backoff.pause_s(error))

    def _tell(self, error: ClusterError) -> None:
        """Log a trouble at most once a minute. That a kind is not served may be so for ever: that is said once."""
        now_s = self._clock()
        if isinstance(error, NotFoundError):
            if not self._is_told:
                log.info("%s: %s", self.kind.plural, error)
        elif now_s - self._told_s >= _TELL_EVERY_S:
            log.warning("%s: no news from the cluster, trying again: %s", self.kind.plural, error)
            self._told_s = now_s
        else:
            return
        self._is_told = True

    def _tell_current(self) -> None:
        if self._is_told:
            log.info("%s: the cluster answers again", self.kind.plural)
            self._is_told = False


class _Backoff:
    """Pauses that grow, each random between the least and three times the last (decorrelated jitter)."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._last_s = self._pace.pause_s[0]

    def pause_s(self, error: ClusterError) -> float:
        """Return how long to wait after this failure."""
        least_s, most_s = self._pace.pause_s
        if isinstance(error, ForbiddenError | NotFoundError):
            most_s = max(most_s, self._pace.refused_s)
        self._last_s = min(most_s, random.uniform(least_s, 3 * self._last_s))  # noqa: S311 - no secret
        asked_s = error.retry_after_s if isinstance(error, TooManyRequestsError | ClusterUnreachableError) else None
        return self._last_s if asked_s is None else max(self._last_s, min(asked_s, self._pace.refused_s))


class _Whole:
    """Any ``Kube`` as a source: its lists come whole, and nothing ends its calls but themselves."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def list(self, kind: Kind, *, keep: Keep) -> Listing:
        found = self._kube.list(kind)
        return Listing(items=[keep(obj) for obj in found.items], resource_version=found.resource_version)

    def watch(self, kind: Kind, *, resource_version: str, timeout_s: int) -> Iterator[WatchEvent]:
        return self._kube.watch(kind, resource_version=resource_version, timeout_s=timeout_s)

    def hang_up(self) -> None:
        pass

    def close(self) -> None:
        pass
