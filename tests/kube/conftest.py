"""Shared by the tests of the adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.faulty import Faulty


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    """A server that can fail."""
    faulty = Faulty(tmp_path)
    with faulty.server:
        yield faulty
        faulty.released.set()
        faulty.client.close()
