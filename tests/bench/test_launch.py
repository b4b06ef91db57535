"""The bench of large purchases, on small ones."""

from __future__ import annotations

import json

import pytest

from bench import launch


def test_a_purchase_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """One call orders all machines, none is throttled, and afterwards nothing is left."""
    assert 0 == launch.main(["--machines", "5", "--rounds", "3", "-o", "json"])
    result = json.loads(capsys.readouterr().out)

    assert (1, {}, 0, []) == (result["order_writes"], result["throttled"], result["failed"], result["missed"])
    assert 3 == len(result["rounds"])
    assert all(one["later_calls"]["TerminateInstances"] == 1 for one in result["rounds"])
    assert 0 < result["first_call_s"] <= result["order_s"]


@pytest.mark.parametrize("flag", ["--machines", "--rounds"])
def test_nothing_is_not_measured(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    """One line, as for every wrong flag."""
    with pytest.raises(SystemExit) as ended:
        launch.main([flag, "0"])

    assert 2 == ended.value.code
    assert f"{flag} is 0; want 1 or more" in capsys.readouterr().err
