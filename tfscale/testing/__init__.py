"""Stand-ins and contract suites that users of the library can test with too.

``FakeKube`` is an API server in memory, ``KubeServer`` puts it behind HTTP, ``FaultProxy`` breaks the connections to it or to
a real one, ``SimulatedCloud`` is a region of EC2 on moto, ``MemoryCloud`` the same in memory, and ``KarpenterStandIn`` plays
Karpenter between the two. ``KubeContract`` says what every implementation of the Kubernetes port must do,
``ScalingModeContract`` what every scaling mode must do in the world that a ``Ground`` describes, and ``Ec2Contract`` what both
simulated clouds do. The clouds need boto3 and the
contracts need pytest and hypothesis, so they are imported when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tfscale.testing.fake_kube import FakeKube
from tfscale.testing.fault_proxy import FaultProxy
from tfscale.testing.kube_server import KubeServer

if TYPE_CHECKING:
    from tfscale.testing.contracts.ec2 import Ec2Contract
    from tfscale.testing.contracts.kube import KubeContract
    from tfscale.testing.contracts.modes import Ground, LossyKube, ScalingModeContract
    from tfscale.testing.fake_ec2 import MemoryCloud, SimulatedCloud
    from tfscale.testing.fake_karpenter import KarpenterStandIn

__all__ = [
    "Ec2Contract",
    "FakeKube",
    "FaultProxy",
    "Ground",
    "KarpenterStandIn",
    "KubeContract",
    "KubeServer",
    "LossyKube",
    "MemoryCloud",
    "ScalingModeContract",
    "SimulatedCloud",
]

_WHEN_ASKED_FOR = {
    "Ec2Contract": "tfscale.testing.contracts.ec2",
    "Ground": "tfscale.testing.contracts.modes",
    "KarpenterStandIn": "tfscale.testing.fake_karpenter",
    "KubeContract": "tfscale.testing.contracts.kube",
    "LossyKube": "tfscale.testing.contracts.modes",
    "MemoryCloud": "tfscale.testing.fake_ec2",
    "ScalingModeContract": "tfscale.testing.contracts.modes",
    "SimulatedCloud": "tfscale.testing.fake_ec2",
}


def __getattr__(name: str) -> object:
    """Import a contract suite or the cloud when it is asked for."""
    if name in _WHEN_ASKED_FOR:
        return getattr(import_module(_WHEN_ASKED_FOR[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
