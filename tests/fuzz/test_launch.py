"""Short versions of the schedules, and that they would find what they are for."""

from __future__ import annotations

import json

import pytest

from tests.fuzz.bugs import BUGS
from tests.fuzz.launch import Share, main, run_share

FINDS = {
    "token recomputed": {"duplicates"},
    "collector off": {"leaks"},
    "new batch after a timeout": {"duplicates", "leaks"},
    "claim renamed": {"duplicates"},
    "claims of others": {"foreign", "leaks"},
}
"""What a bug shows itself by."""
MODES = {"claim renamed": "managed", "claims of others": "reuse"}
"""Where it is planted."""


@pytest.mark.parametrize("cloud", ["memory", "moto"])
def test_some_schedules_end_without_duplicates_and_leaks(cloud: str) -> None:
    """The same world on both simulated clouds."""
    schedules = {"memory": 40, "moto": 10}[cloud]
    tally, failures = run_share(Share(schedules=schedules, first_seed=7, cloud=cloud, chunk=schedules))

    assert [] == failures
    assert tally.steps >= 30 * tally.schedules
    assert tally.happened["crashes"] > 0


@pytest.mark.parametrize("mode", ["managed", "reuse"])
def test_karpenter_in_between_makes_no_duplicates_and_leaks_either(mode: str) -> None:
    """Claims are made once and given back, whatever happens to them, to their node class and to Karpenter."""
    tally, failures = run_share(Share(schedules=30, first_seed=7, mode=mode, chunk=30))

    assert [] == failures
    assert tally.happened["Karpenter stops"] > 0


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_planted_bug_is_found_within_a_thousand_schedules(bug: str) -> None:
    """A token made anew, a collector that is off, a new batch after a timeout."""
    _, (failure,) = run_share(Share(schedules=1_000, first_seed=7, mode=MODES.get(bug, "ec2"), bug=bug))

    assert failure.what in FINDS[bug]


def test_the_last_line_has_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """And as JSON, for machines."""
    code = main(["--schedules", "4", "--jobs", "1"])
    last = capsys.readouterr().out.splitlines()[-1]

    assert (0, "duplicates=0 leaks=0 not_converged=0") == (code, last.partition("lost_replies=")[2].partition(" ")[2])

    main(["--schedules", "4", "--jobs", "1", "-o", "json"])
    figures = json.loads(capsys.readouterr().out)

    assert {"schedules", "steps", "crashes", "lost_replies", "duplicates", "leaks", "not_converged"} <= figures.keys()
