"""The mode for fixed nodes."""

from __future__ import annotations

import pytest

from tfscale.errors import BadInputError, LaunchRefusedError
from tfscale.gpus import GpuTable
from tfscale.model import LaunchBatch, NodeRequest
from tfscale.modes.base import ModeContext
from tfscale.modes.static import StaticMode
from tfscale.pool import Pool
from tfscale.testing import FakeKube


def context(**options: str) -> ModeContext:
    """Return what a static mode is opened with."""
    return ModeContext(pool=Pool(name="rack", mode="static", options=options), gpus=GpuTable(), kube=FakeKube(), cluster="test")


def test_nothing_is_bought_and_nothing_given_back() -> None:
    """No offers, no machines, no problems; idle nodes stay."""
    mode = StaticMode.open(context())
    mode.terminate(["rack-1"])

    assert not [*mode.offers(), *mode.observe(), *mode.check()]
    assert mode.reclaims_idle


def test_launching_is_refused() -> None:
    """A launch that somebody plans all the same is refused for good."""
    mode = StaticMode.open(context())

    with pytest.raises(LaunchRefusedError, match="buys no nodes"):
        mode.prepare("b", [NodeRequest(name="r", pool="rack", mode="static")], [], now_s=0)
    with pytest.raises(LaunchRefusedError, match="buys no nodes"):
        mode.launch(LaunchBatch(name="b", pool="rack", mode="static", requests=("r",), parameters={}))


def test_an_option_is_refused() -> None:
    """The line names pool, option and value."""
    with pytest.raises(BadInputError) as caught:
        StaticMode.open(context(region="us-east-1"))

    expected = "gpupool rack: spec.options.region is 'us-east-1'; want no options for mode static"
    assert expected == str(caught.value)
