"""Amounts: exact, bounded, and never what only looks like a number."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfscale.quantity import (
    duration_s,
    duration_text,
    mib_up,
    micro_usd,
    milli_up,
    number,
    percent_milli,
    quantity,
    time_s,
    time_text,
    usd_text,
)

SCALES = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "e3": Fraction(10**3),
    "E-2": Fraction(1, 100),
}
NOT_A_NUMBER = [
    "NaN",
    "nan",
    "inf",
    "Infinity",
    "-1",
    "",
    " 1",
    "1 ",
    "1\n",
    "1_000",
    "0x10",
    "\u0663",
    "\uff11",
    "\u00b2",
    "1e100",
    "1" * 41,
    "--1",
    ".",
]
READERS = [quantity, number, percent_milli, micro_usd, duration_s, time_s]


@given(st.integers(0, 10**6), st.integers(0, 999_999), st.sampled_from(sorted(SCALES)))
@example(1, 500_000, "")
def test_a_quantity_is_exactly_what_is_written(whole: int, fraction: int, suffix: str) -> None:
    """Digits, point and suffix give the same as the fraction that they mean."""
    expected = (whole + Fraction(fraction, 10**6)) * SCALES[suffix]

    assert expected == quantity(f"{whole}.{fraction:06d}{suffix}")


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers()), st.binary()))
@pytest.mark.parametrize("read", READERS)
def test_anything_is_read_or_refused_with_value_error(read: Callable[[object], object], value: object) -> None:
    """Whatever comes in, a reader gives a number or says what was wanted."""
    with contextlib.suppress(ValueError):
        assert isinstance(read(value), int | Fraction)


@given(st.fractions(min_value=0, max_value=2**63 - 1))
def test_units_are_rounded_up_and_by_less_than_one(amount: Fraction) -> None:
    """A part of a unit counts as a whole one, so that what is asked for is never booked short."""
    assert amount * 1000 <= milli_up(amount) < amount * 1000 + 1
    assert amount / 2**20 <= mib_up(amount) < amount / 2**20 + 1


@given(st.integers(0, 10**9))
def test_money_survives_the_round_trip(micro: int) -> None:
    """What is written for micro-USD is read as the same amount."""
    assert micro == micro_usd(usd_text(micro))


@given(st.integers(0, 3 * 10**8 - 1), st.integers(-(10**9), 10**10))
def test_durations_and_times_survive_the_round_trip(duration: int, time: int) -> None:
    """What is written for seconds is read as the same seconds."""
    assert (duration, time) == (duration_s(duration_text(duration)), time_s(time_text(time)))


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    """Go writes 5,400 seconds as ``1h30m0s``."""
    assert hours * 3600 + minutes * 60 + seconds == duration_s(f"{hours}h{minutes}m{seconds}s")


@given(st.integers(1, 10**9))
def test_a_small_percentage_is_never_nothing(billionths: int) -> None:
    """Any share above zero books at least a thousandth."""
    assert percent_milli(f"{billionths // 10**9}.{billionths % 10**9:09d}%") >= 1


@pytest.mark.parametrize("text", NOT_A_NUMBER)
@pytest.mark.parametrize("read", [quantity, number, percent_milli, micro_usd])
def test_what_only_looks_like_a_number_is_refused(read: Callable[[object], object], text: str) -> None:
    """NaN, infinity, signs, blanks, underscores, digits of other scripts and absurd sizes are no amounts."""
    with pytest.raises(ValueError, match=r"^an? "):
        read(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, True, None, [1], pytest.param(10**5000, id="huge")])
def test_what_is_no_number_in_json_is_refused_as_money(value: object) -> None:
    """A price that YAML read as ``.nan`` or below zero is refused with the same words."""
    with pytest.raises(ValueError, match=r"an amount of USD of 0 or more, such as 0\.526"):
        micro_usd(value)


def test_a_quantity_beyond_kubernetes_is_refused() -> None:
    """Kubernetes would cap it silently; then nobody asks for what is booked."""
    assert quantity("9223372036854775807") == 2**63 - 1
    with pytest.raises(ValueError, match=r"below 2\^63"):
        quantity("9223372036854775808")


def test_a_duration_has_an_end() -> None:
    """What is added to a time must still be a time."""
    with pytest.raises(ValueError, match="a duration of at most ten years"):
        duration_s("90000h")


@pytest.mark.parametrize("text", ["5", "", "1.5s", "500ms", "-5m", "5 m", "5d", "1h" * 9, "9999999999s"])
def test_a_duration_needs_units_and_whole_seconds(text: str) -> None:
    """A bare number has no unit that everybody agrees on."""
    with pytest.raises(ValueError, match="a duration in whole seconds"):
        duration_s(text)


@pytest.mark.parametrize("text", ["2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "20260101T000000Z", 5])
def test_a_time_is_a_full_rfc_3339_time(text: object) -> None:
    """Date, time and zone are all needed."""
    with pytest.raises(ValueError, match="an RFC 3339 time"):
        time_s(text)


def test_a_percentage_above_the_whole_card_is_refused() -> None:
    """100 percent is all that there is."""
    assert percent_milli("100%") == 1000
    with pytest.raises(ValueError, match="from 0 to 100"):
        percent_milli("100.1")
