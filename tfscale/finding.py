"""What an examination of a pool found, in words for who can mend it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from tfscale.errors import Problem

__all__ = ["Finding", "Verdict", "of_check", "of_problems", "table"]

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    pool: str
    """Empty where it is about no pool."""
    check: str
    """In a word or two: ``queue``."""
    verdict: Verdict
    """``warn``: it may work all the same, or could not be checked."""
    says: str
    fix: str = ""
    """What to do; empty where there is nothing."""

    def as_json(self) -> dict[str, str]:
        """Return it as plain values."""
        return asdict(self)


def of_problems(pool: str, problems: Iterable[Problem]) -> list[Finding]:
    """Return the problems of a pool as findings."""
    return [
        Finding(pool=pool, check="options", verdict="fail", says=f"{one.field} is {one.value!r}", fix=f"want {one.want}")
        for one in problems
    ]


def of_check(pool: str, mode: str, problems: Sequence[Problem]) -> list[Finding]:
    """Return what a mode's check found, which may be nothing."""
    fine = Finding(pool=pool, check="options", verdict="ok", says=f"the mode {mode} finds nothing wrong")
    return of_problems(pool, problems) or [fine]


def table(findings: Iterable[Finding]) -> list[str]:
    r"""Return the findings as lines of a table; what to do is below its finding.

    >>> print(*table([Finding(pool="gpus", check="queue", verdict="fail", says="it is not there", fix="make it")]), sep="\n")
    VERDICT  POOL  CHECK  FOUND
    fail     gpus  queue  it is not there
                          -> make it
    """
    rows = [
        ("VERDICT", "POOL", "CHECK", "FOUND", ""),
        *((one.verdict, one.pool, one.check, one.says, one.fix) for one in findings),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [line for row in rows for line in _lines(row, widths)]


def _lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    indent = " " * (sum(widths) + 2 * len(widths))
    first = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False)) + row[3]
    return [first, *([f"{indent}-> {row[4]}"] if row[4] else [])]
