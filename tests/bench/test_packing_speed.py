"""The bench of the packer's speed, on the smallest of what it measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import packing_speed

FIGURES = ("decisions_per_s", "per_cpu_s", "p50_ms", "p99_ms", "max_ms", "churn_per_s", "calibration_s")


def few(case: str, data: Path) -> list[str]:
    """Return the flags for one short run of a case."""
    return ["--case", case, "--runs", "1", "--decisions", "40", "--copies", "1", "--data", str(data), "-o", "json"]


@pytest.mark.parametrize(("case", "gpus"), [("openb-1213", 6_212), ("tensor-fusion", 3_000)])
def test_a_short_run_gives_every_figure(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str, gpus: int) -> None:
    """Without the trace its stand-in is packed, which has as many nodes and GPUs."""
    assert packing_speed.main(few(case, tmp_path / "none")) == 0

    (result,) = json.loads(capfd.readouterr().out)
    assert (case, gpus, 40, 40) == tuple(result[key] for key in ("case", "gpus", "decisions", "placed"))
    assert [] == [key for key in FIGURES if not result[key] > 0]
    assert result["allocated_pct"] > 0


def test_the_stand_in_has_as_many_nodes_and_pods_as_the_trace() -> None:
    """Else its figures would stand beside a wrong name."""
    assert 1_213 == sum(shape[-1] for shape in packing_speed.STAND_IN_NODES)
    assert 8_152 == sum(shape[-1] for shape in packing_speed.STAND_IN_PODS)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--runs", "0"], "--runs is 0; want 1 or more"),
        (["--fill-pct", "1001"], "--fill-pct is 1001; want 1..1000"),
        (["--case", "openb"], "argument --case: invalid choice: 'openb'"),
    ],
)
def test_a_wrong_flag_is_told(capsys: pytest.CaptureFixture[str], flags: list[str], line: str) -> None:
    """With its value and what was expected; the exit code is that of wrong usage."""
    with pytest.raises(SystemExit) as ended:
        packing_speed.main(flags)

    assert 2 == ended.value.code
    assert line in capsys.readouterr().err


def test_a_folder_without_the_trace_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line, no traceback."""
    assert packing_speed.main(few("openb-1213", tmp_path)) == 2
    assert f"packing_speed: {tmp_path} is not the openb trace as it was published: " in capfd.readouterr().err
