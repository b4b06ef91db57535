"""A reflector over the stand-in of the API server: the table of faults, and the store under any order of events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.reflector_faults import ReflectorFaults, World
from tfscale.testing import FakeKube, FaultProxy, KubeServer


class TestReflector(ReflectorFaults):
    """Every fault of the table."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        """Give a server without objects."""
        fake = FakeKube()
        with KubeServer(fake) as server, FaultProxy(server.url) as proxy:
            world = World(direct=fake, proxy=proxy, folder=tmp_path)
            yield world
            for client in world.clients:
                client.close()
