"""The bench of large purchases, on small ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import launch


def test_a_purchase_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """One call orders all machines, none is throttled, and afterwards nothing is left; one watched round tells no growth."""
    assert 0 == launch.main(["--machines", "5", "--rounds", "3", "-o", "json"])
    result = json.loads(capsys.readouterr().out)

    assert (1, {}, 0, []) == (result["order_writes"], result["throttled"], result["failed"], result["missed"])
    assert 3 == len(result["rounds"])
    assert result["traced_growth_mib"] is None
    assert ([5] * 3, [5] * 3, [0] * 3) == (result["ordered"], result["bought"], result["left"])
    assert all(one["later_calls"]["TerminateInstances"] == 1 for one in result["rounds"])
    assert 0 < result["first_call_s"] <= result["order_s"]


ROUND: dict[str, Any] = {
    "ordered": 5, "bought": 5, "left": 0, "first_call_s": 0.1, "order_s": 0.2, "order_calls": {}, "order_writes": 59,
    "later_calls": {}, "throttled": {}, "failed": 0, "rss_mib": 100.0, "traced_mib": None,
}  # fmt: skip


@pytest.mark.parametrize(
    "figure",
    [
        {"ordered": 4},
        {"bought": 6},
        {"left": 1},
        {"first_call_s": 2.0},
        {"order_writes": 60},
        {"failed": 1},
        {"traced_mib": 21.0},
    ],
)
def test_a_figure_that_misses_its_bound_is_named(figure: dict[str, Any]) -> None:
    """In one round of many it is enough; memory is judged over the second half of the watched rounds."""
    watched = {**ROUND, "traced_mib": 20.0}
    good = [ROUND, ROUND, {**ROUND, "traced_mib": 1.0}, watched, watched, {**watched, "traced_mib": 20.9}]
    bad = [{**ROUND, **figure}, *good[1:]] if "traced_mib" not in figure else [*good[:-1], {**watched, **figure}]

    assert [] == launch.summary(good, 5)["missed"]
    assert [*figure] == [name.replace("_growth", "") for name in launch.summary(bad, 5)["missed"]]


@pytest.mark.parametrize("flag", ["--machines", "--rounds"])
def test_nothing_is_not_measured(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    """One line, as for every wrong flag."""
    with pytest.raises(SystemExit) as ended:
        launch.main([flag, "0"])

    assert 2 == ended.value.code
    assert f"{flag} is 0; want 1 or more" in capsys.readouterr().err
