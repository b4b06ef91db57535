"""Stand-ins and contract suites that users of the library can test with too.

``FakeKube`` is an API server in memory, ``KubeServer`` puts it behind HTTP, and ``KubeContract`` says what every
implementation of the Kubernetes port must do. Only the contracts need pytest, so they are imported when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfscale.testing.fake_kube import FakeKube
from tfscale.testing.kube_server import KubeServer

if TYPE_CHECKING:
    from tfscale.testing.contracts import KubeContract

__all__ = ["FakeKube", "KubeContract", "KubeServer"]


def __getattr__(name: str) -> object:
    """Import a contract suite, and with it pytest, when it is asked for."""
    if name == "KubeContract":
        from tfscale.testing.contracts import KubeContract  # noqa: PLC0415  # pytest is no dependency of the library

        return KubeContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
