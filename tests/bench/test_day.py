"""The bench of a simulated day, on a short one."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

BENCH = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "day.py"))


def test_a_day_is_measured_in_every_mode(capsys: pytest.CaptureFixture[str]) -> None:
    """Every pod found a place, whoever bought its node; the first mode is the baseline."""
    assert 0 == BENCH["main"](["--pods", "10", "-o", "json"])
    days = json.loads(capsys.readouterr().out)["days"]

    assert ["ec2", "managed-nodeclaim", "reuse-nodeclaim"] == [day["mode"] for day in days]
    assert 1.0 == days[0]["ratio"]
    assert all(day["bound"] >= 10 and day["wall_s"] > 0 for day in days)


def test_too_few_pods_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, as for every wrong flag."""
    with pytest.raises(SystemExit) as ended:
        BENCH["main"](["--pods", "1"])

    assert 2 == ended.value.code
    assert "--pods is 1; want 2 or more" in capsys.readouterr().err
