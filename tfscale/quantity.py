"""Amounts as people and Kubernetes write them: quantities, percentages, money, durations and times, read exactly.

The official client's ``parse_quantity`` accepts ``NaN`` and costs the import of the whole client; ``float`` and ``int``
accept underscores and digits of every script. These readers take ASCII of bounded length, so they cannot be made slow,
and raise ``ValueError`` whose text says what was wanted. Nothing is rounded before an amount is turned into a unit, and
then always up.

Source of the grammar: Kubernetes API conventions, Quantity; Go, ``time.ParseDuration``; RFC 3339.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fractions import Fraction
from functools import lru_cache

__all__ = [
    "duration_s",
    "duration_text",
    "mib_up",
    "micro_usd",
    "milli_up",
    "number",
    "percent_milli",
    "quantity",
    "time_s",
    "time_text",
    "usd_text",
]

_LONGEST_S = 10 * 366 * 24 * 3_600  # what is added to a time of ours must still be a time
_MOST = 2**63 - 1  # what Kubernetes stores
_NUMBER = r"\+?(?P<number>[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})"
_PLAIN = re.compile(_NUMBER + r"(?:[eE](?P<exponent>[+-]?[0-9]{1,2}))?")
_QUANTITY = re.compile(_NUMBER + r"(?:[eE](?P<exponent>[+-]?[0-9]{1,2})|(?P<suffix>[numkMGTPE]|[KMGTPE]i))?")
_SUFFIXES = {"": Fraction(1), "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000)} | {
    letter + binary: Fraction(base**power)
    for binary, base, letters in (("", 1000, "kMGTPE"), ("i", 1024, "KMGTPE"))
    for power, letter in enumerate(letters, start=1)
}
_DURATION_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern}){{1,8}}")
_UNIT_S = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})")


def quantity(value: object) -> Fraction:
    """Return a Kubernetes quantity exactly: ``4Gi``, ``500m``, ``1e3``, ``1.5``, or a JSON number.

    Raises ``ValueError`` for anything else, for less than 0 and for more than 2^63-1, where Kubernetes would cap it.

    >>> quantity("4Gi"), quantity("500m")
    (Fraction(4294967296, 1), Fraction(1, 2))
    """
    return _parsed(_QUANTITY, _text(value), "a quantity such as 500m, 2 or 4Gi")


def number(value: object) -> Fraction:
    """Return a plain number of 0 or more exactly, without a suffix. Raises ``ValueError``."""
    return _parsed(_PLAIN, _text(value), "a number of 0 or more")


def mib_up(size_bytes: Fraction) -> int:
    """Return MiB, rounded up.

    >>> mib_up(quantity("1Gi") + 1)
    1025
    """
    return -(-size_bytes // 2**20)


def milli_up(amount: Fraction) -> int:
    """Return thousandths, rounded up: millicores of CPUs, milli-TFLOPs of TFLOPs."""
    return -(-amount * 1000 // 1)


def percent_milli(value: object) -> int:
    """Return a percentage (``12.5`` or ``12.5%``) in thousandths of the whole, rounded up. Raises ``ValueError`` above 100.

    >>> percent_milli("12.5%"), percent_milli("0.001")
    (125, 1)
    """
    want = "a percentage from 0 to 100, such as 12.5"
    percent = _parsed(_PLAIN, _text(value).removesuffix("%"), want)
    if percent > 100:  # noqa: PLR2004 - per cent
        raise ValueError(want)
    return -(-percent * 10 // 1)


def micro_usd(value: object) -> int:
    """Return an amount of US dollars in micro-USD, rounded up. Raises ``ValueError``, for NaN and negative amounts too.

    >>> micro_usd("3.912000"), micro_usd(0.526)
    (3912000, 526000)
    """
    return -(-_parsed(_PLAIN, _text(value), "an amount of USD of 0 or more, such as 0.526") * 10**6 // 1)


def usd_text(amount_micro_usd: int) -> str:
    """Return micro-USD as dollars, exactly.

    >>> usd_text(3_912_000), usd_text(25_000_000)
    ('3.912', '25')
    """
    whole, rest = divmod(amount_micro_usd, 10**6)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def duration_s(value: object) -> int:
    """Return a duration as Go and Kubernetes write it (``5m``, ``90s``, ``1h30m``) in seconds.

    Raises ``ValueError`` for anything else: for a bare number, whose unit nobody knows, and for parts of a second.

    >>> duration_s("1h30m")
    5400
    """
    want = "a duration in whole seconds, such as 90s, 5m or 1h30m"
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError(want)
    total = sum((Fraction(amount) * _UNIT_S[unit] for amount, unit in _DURATION_PART.findall(value)), Fraction(0))
    if total > _LONGEST_S:
        raise ValueError("a duration of at most ten years")
    if total.denominator != 1:
        raise ValueError(want)
    return int(total)


def duration_text(seconds: int) -> str:
    """Return a duration as ``duration_s`` reads it."""
    return f"{seconds}s"


def time_s(value: object) -> int:
    """Return an RFC 3339 time in whole seconds since the epoch. Raises ``ValueError``.

    >>> time_s("1970-01-01T01:00:00+01:00")
    0
    """
    want = "an RFC 3339 time such as 2026-07-20T13:44:30Z"
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError(want)
    try:
        return int(datetime.fromisoformat(value.upper()).timestamp() // 1)
    except (ValueError, OverflowError) as error:
        raise ValueError(want) from error


def time_text(seconds: int) -> str:
    """Return seconds since the epoch as an RFC 3339 time in UTC.

    >>> time_text(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: object) -> str:
    """Return what a YAML or JSON scalar was written as. A truth value is no number, a huge integer no amount."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MOST:
        return ""
    return str(value)


@lru_cache(maxsize=4096)
def _parsed(grammar: re.Pattern[str], text: str, want: str) -> Fraction:
    found = grammar.fullmatch(text)
    if found is None:
        raise ValueError(want)
    parts = found.groupdict()
    amount = Fraction(parts["number"].rstrip(".")) * Fraction(10) ** int(parts["exponent"] or 0)
    amount *= _SUFFIXES[parts.get("suffix") or ""]
    if amount > _MOST:
        raise ValueError(f"{want}, below 2^63")
    return amount
