"""How often one client may call its server: so many calls a second, more after a quiet time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["TokenBucket"]


class TokenBucket:
    """Lets `burst` calls through at once after a quiet time, and `per_s` a second in the long run.

    Callers go in the order in which they came. Safe for use from several threads. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        *,
        per_s: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._sleep = sleep
        self._left = float(burst)
        """Below zero while callers wait for theirs."""
        self._counted_s = clock()
        self._lock = threading.Lock()

    def take(self) -> None:
        """Wait until it is this caller's turn."""
        with self._lock:
            now_s = self._clock()
            self._left = min(self._burst, self._left + (now_s - self._counted_s) * self._per_s) - 1
            self._counted_s = now_s
            wait_s = -self._left / self._per_s
        # Outside of the lock: the next caller has its own, later turn.
        if wait_s > 0:
            self._sleep(wait_s)
