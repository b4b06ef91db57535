"""The bench of many claims; on small ones the tests that need a control plane run it."""

from __future__ import annotations

import pytest

from bench import claims


def test_nothing_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, as for every wrong flag."""
    with pytest.raises(SystemExit) as ended:
        claims.main(["--claims", "0"])

    assert 2 == ended.value.code
    assert "--claims is 0; want 1 or more" in capsys.readouterr().err
