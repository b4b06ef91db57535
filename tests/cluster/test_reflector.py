"""The reflector on the real API server: the same table of faults, and what no stand-in has."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.proxied import proxy_of
from tests.cluster.soak_reflector import soak
from tests.kube.reflector_faults import NEVER_SILENT, QUICK, ReflectorFaults, World, eventually
from tfscale.errors import ClusterUnreachableError, NotFoundError
from tfscale.kube.cache import Cache, Patience
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import CRDS, NODES
from tfscale.testing.contracts import WIDGET_CRD, WIDGETS

ROOT = Path(__file__).parents[2]
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Give one API server to all of these tests."""
    with ControlPlane(tmp_path_factory.mktemp("reflector")) as control_plane:
        yield control_plane


class TestReflectorOnRealServer(ReflectorFaults):
    """Every fault of the table."""

    @pytest.fixture
    def world(self, running: ControlPlane, tmp_path: Path) -> Iterator[World]:
        """Give the server, without nodes of other tests."""
        direct = KubeClient.connect(kubeconfig=str(running.kubeconfig), timing=Timing(calls_per_s=1_000))
        with proxy_of(running.kubeconfig) as proxy:
            world = World(direct=direct, proxy=proxy, folder=tmp_path, prefix=f"n{next(_NUMBERS)}")
            yield world
            for client in world.clients:
                client.close()
        for node in direct.list(NODES).items:
            direct.delete(NODES, node["metadata"]["name"])
        direct.close()


def test_random_faults_end_with_the_store_equal_to_a_fresh_list() -> None:
    """The short form of `make soak-reflector`: also while the server stands still now and then, and nothing grows."""
    account = soak(15, seed=3)

    assert account.good, account
    assert account.lists > 20
    assert sum(account.faults.values()) > 5


def test_a_kind_that_is_installed_later_is_found(running: ControlPlane) -> None:
    """And forgotten when its definition is taken away."""
    kube = KubeClient.connect(kubeconfig=str(running.kubeconfig))
    with Cache(kube, kinds=[WIDGETS], pace=NEVER_SILENT) as cache:
        with pytest.raises(NotFoundError, match=r"does not serve widgets"):
            cache.list(WIDGETS)
        assert cache.synced()
        kube.create(CRDS, WIDGET_CRD)
        eventually(lambda: cache.age_s(WIDGETS) < 1)
        cache.create(WIDGETS, {"metadata": {"name": "w"}}, namespace="default")
        assert ["w"] == [one["metadata"]["name"] for one in cache.list(WIDGETS).items]
        kube.delete(CRDS, WIDGET_CRD["metadata"]["name"])
        eventually(lambda: cache.age_s(WIDGETS) > 1e9, within_s=30)
        with pytest.raises(NotFoundError, match=r"does not serve widgets"):
            cache.list(WIDGETS)
    kube.close()


def test_a_server_that_stands_still_is_no_reason_to_believe_the_past(running: ControlPlane) -> None:
    """Its connections stay open; lists are refused when they are too old, a stop is quick, and afterwards all is well."""
    kube = KubeClient.connect(kubeconfig=str(running.kubeconfig), timing=Timing(call_s=5, read_s=1, watch_silence_s=1))
    with Cache(kube, kinds=[NODES], pace=QUICK, patience=Patience(max_age_s=2)) as cache:
        kube.create(NODES, {"metadata": {"name": "before"}})
        eventually(lambda: ["before"] == [node["metadata"]["name"] for node in cache.list(NODES).items])
        running.pause("kube-apiserver")
        try:
            eventually(lambda: not cache.synced())
            # The reason is either that, or what became of one more try.
            with pytest.raises(ClusterUnreachableError, match=r"list nodes: (what is known is \d+ s old|.* timed out)"):
                cache.list(NODES)
            with Cache(kube, kinds=[NODES], pace=QUICK):
                time.sleep(0.5)  # its first call hangs in the handshake
                began_s = time.monotonic()
            assert time.monotonic() - began_s < 0.5
        finally:
            running.resume("kube-apiserver")
        eventually(cache.synced, within_s=30)
        assert ["before"] == [node["metadata"]["name"] for node in cache.list(NODES).items]
    kube.delete(NODES, "before")
    kube.close()


def test_a_process_that_stood_still_does_not_take_old_news_for_new(running: ControlPlane) -> None:
    """When it wakes, either its store is as old as the pause was long, or it has caught up."""
    kube = KubeClient.connect(kubeconfig=str(running.kubeconfig))
    command = [sys.executable, "-m", "tests.cluster.sleeper", str(running.kubeconfig)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sleeper:  # noqa: S603 - our own
        assert sleeper.stdin
        assert sleeper.stdout
        assert "ready\n" == sleeper.stdout.readline()
        sleeper.send_signal(signal.SIGSTOP)
        kube.create(NODES, {"metadata": {"name": "meanwhile"}})
        time.sleep(3)
        sleeper.stdin.write("tell\n")
        sleeper.stdin.flush()
        sleeper.send_signal(signal.SIGCONT)
        age_s, names = json.loads(sleeper.stdout.readline())
        later_age_s, later_names = json.loads(sleeper.stdout.readline())
        sleeper.stdin.close()
    kube.delete(NODES, "meanwhile")
    kube.close()

    assert age_s >= 3 or "meanwhile" in names
    assert later_age_s < 2
    assert "meanwhile" in later_names
