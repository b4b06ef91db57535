"""The examples that are programs: they run as they are and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str) -> list[str]:
    """Return what an example prints, run as a user runs it."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["embed.py", "embed_asyncio.py"])
def test_a_controller_that_embeds_tfscale_places_every_pod_and_returns_every_node(name: str) -> None:
    """All sixteen pods of the scenario, on nodes that it bought and gave back, with no custom resource."""
    kinds = Counter(line.split()[0] for line in run(name))

    assert 16 == kinds["place"]
    assert 0 < kinds["buy"]
    assert kinds["return"] == kinds["forget"] == 4


def test_an_asyncio_program_goes_on_serving_while_tfscale_works() -> None:
    """Ticks run in a thread."""
    served = run("embed_asyncio.py")[-1]

    assert int(served.split()[1]) > 10
