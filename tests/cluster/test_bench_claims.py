"""The bench of many claims, with few."""

from __future__ import annotations

import json

import pytest

from bench import claims


def test_claims_of_one_round_are_measured_beside_a_plain_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """All become Ready, each is there once, and tfscale's records are the only other writes of the order."""
    assert 0 == claims.main(["--claims", "3", "-o", "json"])
    result = json.loads(capsys.readouterr().out)
    ours, plain = result["tfscale"], result["plain_loop"]

    assert [3] * 4 == [ours["claims"], ours["ready"], plain["claims"], plain["ready"]]
    # A record and a claim for each, one batch; then what became of each, and that the batch is settled.
    assert (2 * 3 + 1, 3 + 1) == (ours["order_calls"]["create"], ours["order_calls"]["apply"])
    assert (3, 0 < plain["ready_s"]) == (plain["writes"], True)
    assert 0 < ours["ordered_s"] <= ours["ready_s"]
