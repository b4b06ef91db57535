"""A client's calls: a burst after a quiet time, then so many a second."""

from __future__ import annotations

import threading
import time

import hypothesis.strategies as st
from hypothesis import given

from tfscale.kube.pace import TokenBucket


class Time:
    """Simulated seconds; sleeping takes them."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 10), st.sampled_from([0.5, 2.0, 50.0]))
def test_no_span_of_time_has_more_calls_than_allowed(pauses: list[float], burst: int, per_s: float) -> None:
    """In every span there are at most the burst and what its length gives."""
    clock = Time()
    bucket = TokenBucket(per_s=per_s, burst=burst, clock=clock, sleep=clock.sleep)
    taken = []
    for pause_s in pauses:
        clock.sleep(pause_s)
        bucket.take()
        taken.append(clock.now_s)

    for first, start_s in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + (taken[last] - start_s) * per_s + 1e-6


@given(st.integers(1, 10), st.integers(0, 30))
def test_nobody_waits_longer_than_needed(burst: int, more: int) -> None:
    """The burst is free; every further call takes its share of a second."""
    clock = Time()
    bucket = TokenBucket(per_s=10, burst=burst, clock=clock, sleep=clock.sleep)

    for _ in range(burst + more):
        bucket.take()

    assert abs(clock.now_s - more / 10) < 1e-6


def test_threads_share_one_pace() -> None:
    """Forty calls of four threads, ten at once, a thousand a second."""
    bucket = TokenBucket(per_s=1_000, burst=10)

    def take_ten() -> None:
        for _ in range(10):
            bucket.take()

    start = time.monotonic()
    threads = [threading.Thread(target=take_ten) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert time.monotonic() - start >= 0.03
