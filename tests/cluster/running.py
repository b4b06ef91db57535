"""`tfscale reconcile` as a process beside a test."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfscale.cli import Exit
from tfscale.kube.port import NODE_CLAIMS, Kube

ROOT = Path(__file__).parents[2]


@contextmanager
def reconciling(kubeconfig: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``tfscale reconcile`` meanwhile, and stop it as an operator does."""
    command = [sys.executable, "-m", "tfscale", "reconcile", "--kubeconfig", str(kubeconfig), "--interval", "2"]
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as process:  # noqa: S603 - our own interpreter
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert Exit.DONE == process.wait(60)
        finally:
            process.kill()


def names(kube: Kube) -> set[str]:
    """Return the names of all NodeClaims."""
    return {claim["metadata"]["name"] for claim in kube.list(NODE_CLAIMS).items}
