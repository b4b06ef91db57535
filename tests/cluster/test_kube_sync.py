"""The bench of following a large cluster, on a small one."""

from __future__ import annotations

import json

import pytest

from bench.kube_sync import main


def test_the_cluster_is_followed_by_both(capsys: pytest.CaptureFixture[str]) -> None:
    """By tfscale with its claims, by the official client without."""
    assert 0 == main(["--nodes", "20", "--claims", "10", "--pods", "60", "--samples", "10", "-o", "json"])
    result = json.loads(capsys.readouterr().out)

    assert (90, 80) == (result["cache"]["objects"], result["informer"]["objects"])
    for kind in ("cache", "informer"):
        assert 0 < result[kind]["lag_p50_ms"] <= result[kind]["lag_p99_ms"] <= result[kind]["lag_max_ms"]
        assert result[kind]["first_sync_s"] > 0


def test_a_cluster_without_nodes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The lag is that of writes to nodes."""
    with pytest.raises(SystemExit) as ended:
        main(["--nodes", "0"])

    assert 2 == ended.value.code
    assert "--nodes is 0; want 1 or more" in capsys.readouterr().err
