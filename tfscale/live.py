"""The real thing: a cluster behind a kubeconfig, the modes that are installed, and the wall clock."""

from __future__ import annotations

import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from tfscale import doctor, modes
from tfscale.catalogue import snapshot
from tfscale.decide import Policy
from tfscale.finding import Finding
from tfscale.gpus import GpuTable
from tfscale.kube.cache import Cache
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.leader import Elector
from tfscale.lease import Terms
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler

__all__ = ["WallClock", "elector", "examined", "reconciler", "stamp"]

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class WallClock:
    """Real time. A wait ends early when a stop is requested."""

    def __init__(self, interval_s: int, stop: Event) -> None:
        self._interval_s = interval_s
        self._stop = stop

    def now_s(self) -> int:
        """Return the seconds since the epoch."""
        return int(time.time())

    def steady_s(self) -> float:
        """Return the seconds since the machine started, times asleep included."""
        return time.clock_gettime(_STEADY)

    def pending(self) -> bool:
        """Return False: what others are about to do cannot be known."""
        return False

    def wait(self, until_s: int | None) -> None:
        """Wait one interval, or less when something is due earlier."""
        due_s = self._interval_s if until_s is None else until_s - self.now_s()
        self._stop.wait(min(max(due_s, 1), self._interval_s))


def elector(*, kubeconfig: str | None, context: str | None, namespace: str | None, name: str) -> Elector:
    """Return who competes for the lead of a cluster, by a Lease. Raises ``BadInputError`` for a bad kubeconfig.

    `namespace` defaults to the pod's own, and outside of a pod to ``default``.
    """
    terms = Terms()
    # A slow server must not cost the lead, nor one call that hangs.
    call_s = (terms.renew_s - terms.retry_s) / 2
    kube = KubeClient.connect(kubeconfig=kubeconfig, context=context, timing=Timing(call_s=call_s, read_s=call_s))
    inside = kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ
    home = _POD_NAMESPACE.read_text(encoding="utf-8").strip() if inside and _POD_NAMESPACE.is_file() else "default"
    return Elector(kube, namespace=namespace or home, name=name, terms=terms)


@contextmanager
def reconciler(
    *,
    kubeconfig: str | None,
    context: str | None,
    cluster: str,
    prefix: str,
    policy: Policy,
    epoch: Callable[[], int] = lambda: 0,
) -> Iterator[Reconciler]:
    """Yield the reconciler of a cluster, whose pods, nodes and claims are kept in memory meanwhile.

    `cluster` is the name that machines are tagged with, `prefix` that of TensorFusion's annotations. `epoch` is asked
    right before each write and raises ``NotLeadingError`` where it must not leave. Raises ``BadInputError`` for a bad
    kubeconfig.
    """
    # Who writes insecure-skip-tls-verify knows it; urllib3 would say it again at every call.
    warnings.filterwarnings("ignore", message="Unverified HTTPS request")
    client = KubeClient.connect(kubeconfig=kubeconfig, context=context, before_write=epoch)
    gpus = GpuTable()
    with Cache(client, prefix=prefix) as kube:
        yield Reconciler(
            kube=kube,
            mode_of=modes.load,
            open_with=lambda pool: ModeContext(
                pool=pool, gpus=gpus, kube=kube, cluster=cluster, catalogue=snapshot(), epoch=epoch
            ),
            gpus=gpus,
            prefix=prefix,
            policy=policy,
            epoch=epoch,
            identity=f"{secrets.token_hex(4)}-",
            # What another process wrote a moment ago must be in there.
            on_lead=kube.resync,
        )


def client(*, kubeconfig: str | None, context: str | None) -> KubeClient:
    """Return the client of a cluster for one command. Raises ``BadInputError`` for a bad kubeconfig."""
    warnings.filterwarnings("ignore", message="Unverified HTTPS request")
    return KubeClient.connect(kubeconfig=kubeconfig, context=context)


def examined(*, kubeconfig: str | None, context: str | None, cluster: str, names: Sequence[str]) -> list[Finding]:
    """Return what was found when the pools of a cluster were examined: those of these names, or all.

    Raises ``BadInputError`` for a bad kubeconfig; whatever else is wrong is a finding.
    """
    kube, gpus = client(kubeconfig=kubeconfig, context=context), GpuTable()
    return doctor.findings(
        kube,
        now_s=int(time.time()),
        names=names,
        gpus=gpus,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster=cluster, catalogue=snapshot()),
    )


def stamp(now_s: int) -> str:
    """Return a time as it is printed before each line."""
    return f"{datetime.fromtimestamp(now_s, UTC):%H:%M:%S}"
