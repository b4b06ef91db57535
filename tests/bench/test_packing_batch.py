"""The bench of batches: the same pods in another order, on the nodes as the batches before left them."""

from __future__ import annotations

import pytest

from bench.openb_trace import Pod, Server, Trace
from bench.packing_batch import in_batches, main, means

SHARES = (300, 300, 900, 600)
PODS = tuple(Pod(0, 0, 1, milli, ()) for milli in SHARES)


def a_trace(*arrivals: int) -> Trace:
    """Return two servers of one GPU each, and pods in this order."""
    return Trace("two", (Server("b", 1_000, 1_000, 1, "T4"), Server("a", 1_000, 1_000, 1, "T4")), PODS, arrivals)


def test_a_batch_sees_what_the_batches_before_left() -> None:
    """Two shares of 600 take both cards; of the next batch only what fits beside them comes in."""
    assert [True, True, False, True] == in_batches(a_trace(3, 3, 2, 0), 2, by_age=True)


def test_a_dense_batch_fills_no_less_than_one_by_age() -> None:
    """The better of two orders is taken."""
    trace = a_trace(3, 3, 2, 0)

    by_age, dense = (in_batches(trace, 4, by_age=way) for way in (True, False))

    assert [True, True, False, True] == by_age
    assert sum(SHARES[index] for index, there in zip(trace.arrivals, by_age, strict=True) if there) <= sum(
        SHARES[index] for index, there in zip(trace.arrivals, dense, strict=True) if there
    )


def test_means_name_the_gain_and_the_worst() -> None:
    """Of each variant and of all."""
    rows = [
        {"variant": "a", "seed": 1, "one_by_one": 90.0, "by_age": 90.0, "dense": 91.0},
        {"variant": "b", "seed": 1, "one_by_one": 90.0, "by_age": 91.0, "dense": 90.5},
    ]

    assert [("a", 1.0), ("b", 0.5), ("mean", 0.75)] == [(row["variant"], row["gain"]) for row in means(rows)]
    assert 0.5 == means(rows)[-1]["least_gain"]


@pytest.mark.parametrize("arguments", [["--variants", "none"], ["--batch", "0"], ["--seeds", "x"]])
def test_wrong_arguments_are_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and what is wanted."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert 2 == ended.value.code
    assert "want" in capsys.readouterr().err
