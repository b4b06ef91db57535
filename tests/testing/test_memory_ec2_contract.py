"""Both simulated clouds keep one contract: the one on moto, and the one in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tfscale.testing.contracts.ec2 import WORLD, Ec2Contract
from tfscale.testing.fake_ec2 import MemoryCloud, Region, SimulatedCloud


class TestMemoryCloud(Ec2Contract):
    """In memory."""

    @pytest.fixture(scope="class")
    @classmethod
    def running(cls) -> Region:
        """Return the cloud of all tests."""
        return MemoryCloud(**WORLD)


class TestSimulatedCloud(Ec2Contract):
    """On moto."""

    @pytest.fixture(scope="class")
    @classmethod
    def running(cls) -> Iterator[Region]:
        """Yield the cloud of all tests."""
        with SimulatedCloud(**WORLD) as cloud:
            yield cloud
