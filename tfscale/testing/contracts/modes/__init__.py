"""The contract of a scaling mode: what the loop relies on, for the modes of tfscale and for yours.

Subclass :class:`ScalingModeContract` and give it a fixture ``ground``, the world that the mode buys in::

    class RackGround(Ground):
        mode = RackMode

        def context(self, pool: str) -> ModeContext: ...
        def really_there(self) -> Collection[str]: ...
        def foreign(self) -> str: ...
        def settle(self) -> None: ...

    class TestRackMode(ScalingModeContract):
        @pytest.fixture
        def ground(self) -> Ground:
            return RackGround()

The machines of the world are counted by the ground, never by the mode: a mode that forgets a machine cannot hide it.
The tests need pytest and hypothesis.
"""

from __future__ import annotations

from tfscale.testing.contracts.modes.buying import BuyingContract
from tfscale.testing.contracts.modes.ending import EndingContract
from tfscale.testing.contracts.modes.ground import Ground, LossyKube
from tfscale.testing.contracts.modes.opening import OpeningContract
from tfscale.testing.contracts.modes.story import StoryContract

__all__ = ["Ground", "LossyKube", "ScalingModeContract"]


class ScalingModeContract(OpeningContract, BuyingContract, EndingContract, StoryContract):
    """Tests that every scaling mode passes. A subclass gives the fixture ``ground``."""
