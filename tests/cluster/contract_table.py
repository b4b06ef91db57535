"""Counts which behaviours of a contract are equal on two backends, and prints them when the run ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

__all__ = ["ContractTable"]


class ContractTable:
    """A pytest plugin. Each of the two suites is a subclass of the contract; `suites` names both classes.

    A behaviour is equal when its test passed on both, so one that fails, is skipped or does not run shows as different.
    """

    def __init__(self, contract: type, suites: tuple[str, str]) -> None:
        self._areas = _areas(contract)
        self._suites = suites
        self._outcomes: dict[str, dict[str, bool]] = {}
        self._spent_s = dict.fromkeys(suites, 0.0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note one phase of one test."""
        _, suite, test = (["", "", *report.nodeid.split("::", 2)])[-3:]
        if suite not in self._suites:
            return
        self._spent_s[suite] += report.duration
        passed = self._outcomes.setdefault(test, {})
        passed[suite] = passed.get(suite, True) and report.passed

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        terminalreporter.section("contract of the Kubernetes port")
        for line in self.lines():
            terminalreporter.write_line(line)

    def lines(self) -> list[str]:
        """Return the table, the behaviours that differ, and the sum."""
        equal = {test: all(passed.get(suite) for suite in self._suites) for test, passed in self._outcomes.items()}
        areas, good = Counter(map(self._area, equal)), Counter(self._area(test) for test, same in equal.items() if same)
        different = [f"  different: {test}" for test, same in sorted(equal.items()) if not same]
        spent = ", ".join(f"{suite} in {self._spent_s[suite]:.0f} s" for suite in self._suites)
        return [
            f"{'area':<10} {'behaviours':>10} {'equal':>6}",
            *(f"{area:<10} {areas[area]:>10} {good[area]:>6}" for area in areas),
            *different,
            f"contract of the Kubernetes port: {len(equal)} behaviours, {sum(equal.values())} equal ({spent})",
        ]

    def _area(self, test: str) -> str:
        return self._areas.get(test.partition("[")[0], "other")


def _areas(contract: type) -> Mapping[str, str]:
    """Return the part of the contract that each test belongs to."""
    return {
        test: part.__name__.removesuffix("Contract").lower()
        for part in contract.__mro__
        for test in vars(part)
        if test.startswith("test_")
    }
