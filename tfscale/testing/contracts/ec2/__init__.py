"""The contract of a simulated EC2: what tfscale relies on, for the clouds of tfscale and for yours.

Subclass :class:`Ec2Contract` and give it a fixture ``running``, a region that was made with :data:`WORLD`::

    class TestMyCloud(Ec2Contract):
        @pytest.fixture(scope="class")
        @classmethod
        def running(cls) -> Region:
            return MyCloud(**WORLD)

One region serves all tests; each begins with no machine and no limits. The tests need pytest.
"""

from __future__ import annotations

from tfscale.testing.contracts.ec2.failing import FailingContract
from tfscale.testing.contracts.ec2.launching import LaunchingContract
from tfscale.testing.contracts.ec2.limits import LimitsContract
from tfscale.testing.contracts.ec2.listing import ListingContract
from tfscale.testing.contracts.ec2.queueing import QueueContract
from tfscale.testing.contracts.ec2.reserving import ReservingContract
from tfscale.testing.contracts.ec2.templates import TemplatesContract
from tfscale.testing.contracts.ec2.world import WORLD, calm

__all__ = ["WORLD", "Ec2Contract", "calm"]


class Ec2Contract(
    LaunchingContract, LimitsContract, ReservingContract, ListingContract, TemplatesContract, QueueContract, FailingContract
):
    """Tests that every simulated EC2 passes. A subclass gives the fixture ``running``."""
