"""Stand-ins and contract suites that users of the library can test with too.

``FakeKube`` is an API server in memory, ``KubeServer`` puts it behind HTTP, ``SimulatedCloud`` is a region of EC2, and
``KubeContract`` says what every implementation of the Kubernetes port must do. The cloud needs boto3 and the contracts need
pytest, so both are imported when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tfscale.testing.fake_kube import FakeKube
from tfscale.testing.kube_server import KubeServer

if TYPE_CHECKING:
    from tfscale.testing.contracts import KubeContract
    from tfscale.testing.fake_ec2 import SimulatedCloud

__all__ = ["FakeKube", "KubeContract", "KubeServer", "SimulatedCloud"]

_WHEN_ASKED_FOR = {"KubeContract": "tfscale.testing.contracts", "SimulatedCloud": "tfscale.testing.fake_ec2"}


def __getattr__(name: str) -> object:
    """Import a contract suite or the cloud when it is asked for."""
    if name in _WHEN_ASKED_FOR:
        return getattr(import_module(_WHEN_ASKED_FOR[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
