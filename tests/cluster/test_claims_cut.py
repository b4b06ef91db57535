"""A controller that is killed after any of its writes, on the real Karpenter: its successor buys nothing a second time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.claims import aside, claims, pooled, running, tick
from tests.cluster.conftest import eventually
from tests.cluster.karpenter import POOLS, all_run, create_pods
from tests.cluster.test_karpenter import successor_of
from tfscale.kube.client import KubeClient
from tfscale.kube.port import LAUNCH_BATCHES, NODE_REQUESTS
from tfscale.reconcile import Reconciler

WRITES = frozenset({"create", "patch", "patch_status", "apply", "delete", "bind"})


class KilledError(BaseException):
    """The process ends here; nothing may catch it."""


class Mortal:
    """A cluster in which the process dies right after one of its writes."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self.left = 0
        """How many writes are left to the process; it lives for ever with none."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any verb
        verb = getattr(self._kube, name)
        return self._counted(verb) if name in WRITES else verb

    def _counted(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as the verb
            done = verb(*args, **options)
            self.left -= 1
            if self.left == 0:
                raise KilledError
            return done

        return write


def serve(reconciler: Reconciler, kube: KubeClient, pod: str) -> bool:
    """Make rounds until the pod runs, and return False; True where the process was killed before."""

    def holds() -> bool:
        tick(reconciler)
        time.sleep(0.5)
        return running(kube, pod)

    try:
        eventually(holds, f"{pod} runs", within_s=90)
    except KilledError:
        return True
    return False


@pytest.mark.parametrize("mode", POOLS)
def test_a_controller_that_is_killed_between_any_two_writes_buys_nothing_twice(karpenter: KubeClient, mode: str) -> None:
    """From the first write for a pod to the last: each purchase is cut after one write more, until one was cut nowhere.

    A replica is protected and released on the way. Its pod asks for the mirrored resources, so that Karpenter moves none.
    """
    kube: Any = Mortal(karpenter)
    reconciler = pooled(kube, mode, idleAfter="1h")
    number, killed = 0, True
    while killed:
        create_pods(karpenter, 1, first=number, whole=True, mirrored=True)
        kube.left = number + 1
        killed = serve(reconciler, karpenter, f"pod-{number}")
        if killed:
            # What it knew dies with it; its successor has the cluster alone.
            reconciler = successor_of(reconciler)
            assert not serve(reconciler, karpenter, f"pod-{number}")
        number += 1
        assert number == len(claims(karpenter))
    print(f"{number - 1} writes of one purchase, each the last of a process")  # noqa: T201 - how much was tried

    assert number > 5
    assert all_run(karpenter)
    assert {} == aside(reconciler)
    assert number == len(reconciler.kube.list(NODE_REQUESTS).items) == len(reconciler.kube.list(LAUNCH_BATCHES).items)
    assert [True] * number == [batch["status"]["settled"] for batch in reconciler.kube.list(LAUNCH_BATCHES).items]
