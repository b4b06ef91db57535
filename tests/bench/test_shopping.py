"""The bench of shopping: its keys, its goal, and the check that finds what is wrong with a purchase."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from bench import shopping, shopping_check
from bench.openb_trace import Pod
from bench.shopping_data import DATA, Kind
from bench.shopping_first_fit import first_fit_micro

no_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data is not beside the repository")


@pytest.fixture(scope="module")
def bought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the placements of one run."""
    path = tmp_path_factory.mktemp("shopping") / "placements.csv"
    assert 0 == shopping.main(["--placements", str(path), "-o", "json"])
    return path


@no_data
def test_all_pods_are_hosted_within_five_percent_of_the_bounds(bought: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check, which shares no code with the bench, finds no fault, and the nodes cost what is promised."""
    assert 0 == shopping_check.main([str(bought), "-o", "json"])
    found = json.loads(capsys.readouterr().out)

    assert 0 == found["faults"]
    assert 1 <= found["usd"] / shopping.USD_BOUND <= 1.05
    assert 1 <= found["gpus"] / shopping.GPU_BOUND <= 1.05


@no_data
@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("pod", "1", "hosted 0 times"),
        ("kind", "g4dn.huge", "want one that is listed"),
        ("node", "0", "of kinds"),
        ("gpus", "9", "is on GPUs [9]"),
    ],
)
def test_a_planted_fault_is_found(
    bought: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, value: str, fault: str
) -> None:
    """A pod that is hosted twice, a type that is not sold, two types of one node, a card that is not there."""
    with bought.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    spoilt = next(
        row for row in rows if row["gpus"] and row["node"] != "0" and row["kind"] != rows[0]["kind"] and row["pod"] != "1"
    )
    spoilt[column] = value
    wrong = tmp_path / "wrong.csv"
    with wrong.open("w", newline="") as out:
        table = csv.DictWriter(out, list(rows[0]))
        table.writeheader()
        table.writerows(rows)

    assert 1 == shopping_check.main([str(wrong)])
    assert fault in capsys.readouterr().err


def test_first_fit_buys_what_it_can_be_expected_to() -> None:
    """Two halves share a card, the third has its own, and the last node is made as small as its load."""
    kinds = [Kind("small", 4_000, 16_384, 1, 5), Kind("tiny", 1_000, 16_384, 1, 4)]
    half = Pod(1_000, 0, 1, 500, ())

    assert 9 == first_fit_micro([half] * 3, kinds)


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line and exit 2, no traceback."""
    assert 2 == shopping_check.main([str(tmp_path / "none.csv")])
    assert "want a file that bench/shopping.py wrote" in capsys.readouterr().err
