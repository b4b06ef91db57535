"""The table of the openb benchmark: gains, goals, and what each part adds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import packing_table
from bench.openb_library import LIBRARY, PARTS
from bench.packing_runs import DATA, Job, results

no_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data is not beside the repository")


@no_data
def test_rows_say_what_is_gained_on_the_published_figure() -> None:
    """A point more on one seed and two on the other: one and a half in the mean, one at worst, seeds told apart."""
    known = packing_table.published()
    found = {Job("default", LIBRARY, seed): known[Job("default", "fgd", seed)] + more for seed, more in ((42, 1.0), (47, 2.0))}

    row, mean = packing_table.main_rows(found, ["default"], [42, 47])

    assert [1.5, 2.0, 1.0] == [round(row[name], 9) for name in ("gain", "gain_47_51", "worst_seed")]
    assert row["gain"] == mean["gain"]
    assert row["our_fgd"] is None
    verdicts = packing_table.verdicts([row, mean])
    assert ["holds", "holds"] == [line.rsplit(": ", 1)[1] for line in verdicts]


@no_data
def test_a_missed_goal_is_said() -> None:
    """No less than the goal is a success."""
    known = packing_table.published()
    found = {Job(name, LIBRARY, 42): known[Job(name, "fgd", 42)] + more for name, more in (("default", 5.0), ("cpu250", 1.1))}

    rows = packing_table.main_rows(found, ["default", "cpu250"], [42])

    assert "floor of cpu250: +1.10 (want +1.2): missed" in packing_table.verdicts(rows)


@no_data
def test_the_ablation_names_what_moves_most() -> None:
    """Without a part the gains are less, and the variant that loses most comes first."""
    known = packing_table.published()
    variants = ["default", "cpu250"]
    found = {Job(name, LIBRARY, 47): known[Job(name, "fgd", 47)] + 1 for name in variants}
    for part in PARTS:
        found |= {
            Job(name, f"{LIBRARY}:{part}", 47): known[Job(name, "fgd", 47)] + loss
            for name, loss in (("default", 0.5), ("cpu250", 0.0))
        }

    rows = packing_table.ablation_rows(found, variants, [47])

    assert [1.0, 0.25] == [round(row["mean"], 9) for row in rows[:2]]
    assert "cpu250 -1.00, default -0.50" == rows[1]["most"]


@no_data
def test_figures_that_are_kept_are_not_made_again(tmp_path: Path) -> None:
    """A baseline's stay; ours are made anew by other code."""
    kept = tmp_path / "kept.jsonl"
    line = {"variant": "default", "seed": 42, "allocation_pct_at_100": 1.0, "code": "other"}
    kept.write_text(json.dumps({**line, "policy": "firstfit"}) + "\n" + json.dumps({**line, "policy": "bestfit"}) + "\n")

    found = results([Job("default", "bestfit", 42), Job("default", "firstfit", 42)], kept, 1)

    assert ["bestfit", "firstfit"] == [one["policy"] for one in found]
    assert [1.0, 1.0] == [one["allocation_pct_at_100"] for one in found]


@pytest.mark.parametrize("arguments", [["--variants", "default,none"], ["--seeds", "41"], ["--seeds", "x"]])
def test_wrong_arguments_are_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and what is wanted."""
    with pytest.raises(SystemExit) as ended:
        packing_table.main(arguments)

    assert 2 == ended.value.code
    assert "want some of" in capsys.readouterr().err
