"""The real thing: a cluster behind a kubeconfig, the modes that are installed, and the wall clock."""

from __future__ import annotations

import time
import warnings
from datetime import UTC, datetime
from threading import Event

from tfscale import modes
from tfscale.catalogue import snapshot
from tfscale.decide import Policy
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler

__all__ = ["WallClock", "reconciler", "stamp"]


class WallClock:
    """Real time. A wait ends early when a stop is requested."""

    def __init__(self, interval_s: int, stop: Event) -> None:
        self._interval_s = interval_s
        self._stop = stop

    def now_s(self) -> int:
        """Return the seconds since the epoch."""
        return int(time.time())

    def pending(self) -> bool:
        """Return False: what others are about to do cannot be known."""
        return False

    def wait(self, until_s: int | None) -> None:
        """Wait one interval, or less when something is due earlier."""
        due_s = self._interval_s if until_s is None else until_s - self.now_s()
        self._stop.wait(min(max(due_s, 1), self._interval_s))


def reconciler(*, kubeconfig: str | None, context: str | None, cluster: str, prefix: str, policy: Policy) -> Reconciler:
    """Return the reconciler of a cluster. Raises ``BadInputError`` for a bad kubeconfig.

    `cluster` is the name that machines are tagged with, `prefix` that of TensorFusion's annotations.
    """
    # Who writes insecure-skip-tls-verify knows it; urllib3 would say it again at every call.
    warnings.filterwarnings("ignore", message="Unverified HTTPS request")
    kube = KubeClient.connect(kubeconfig=kubeconfig, context=context)
    gpus = GpuTable()
    return Reconciler(
        kube=kube,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster=cluster, catalogue=snapshot()),
        gpus=gpus,
        prefix=prefix,
        policy=policy,
    )


def stamp(now_s: int) -> str:
    """Return a time as it is printed before each line."""
    return f"{datetime.fromtimestamp(now_s, UTC):%H:%M:%S}"
