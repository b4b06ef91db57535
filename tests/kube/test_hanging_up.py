"""A client can be ended from another thread, wherever its call hangs."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tfscale.errors import ClusterUnreachableError
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import NODES, Json
from tfscale.testing import FakeKube, FaultProxy, KubeServer
from tfscale.testing.faults import Answer, Rule, Stall

PATIENT = Timing(call_s=30, read_s=30, watch_silence_s=30)


@pytest.fixture
def fake() -> FakeKube:
    """Give a store with three nodes."""
    fake = FakeKube()
    for name in "abc":
        fake.create(NODES, {"metadata": {"name": name}})
    return fake


@pytest.fixture
def proxy(fake: FakeKube) -> Iterator[FaultProxy]:
    """Give a proxy before a server of that store."""
    with KubeServer(fake) as server, FaultProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy, tmp_path: Path) -> Iterator[KubeClient]:
    """Give a client that waits for long."""
    client = KubeClient.connect(proxy.write_kubeconfig(tmp_path / "config"), timing=PATIENT)
    yield client
    client.close()


def ended_s(client: KubeClient, call: Callable[[], object]) -> float:
    """Hang up while a call runs in another thread, and return how long it took to fail."""
    with ThreadPoolExecutor(1) as several:
        outcome = several.submit(call)
        time.sleep(0.2)
        began_s = time.monotonic()
        client.hang_up()
        with pytest.raises(ClusterUnreachableError):
            outcome.result(10)
    return time.monotonic() - began_s


def watching(client: KubeClient) -> Callable[[], object]:
    """Return a call that watches from the newest version."""
    version = client.list(NODES).resource_version
    return lambda: list(client.watch(NODES, resource_version=version))


@pytest.mark.parametrize("fault", [Stall(60), Answer(503), Answer(429, {"Retry-After": "20"})], ids=str)
def test_a_call_that_waits_ends_at_once(proxy: FaultProxy, client: KubeClient, fault: Stall | Answer) -> None:
    """For an answer, or for its next try."""
    proxy.add(Rule(fault=fault, times=None))

    assert ended_s(client, lambda: client.list(NODES)) < 0.5


def test_a_watch_ends_at_once(client: KubeClient) -> None:
    """Although nothing happens."""
    assert ended_s(client, watching(client)) < 0.5


def test_afterwards_nothing_is_called(client: KubeClient) -> None:
    """The reflector that hung up may be about to call."""
    client.hang_up()
    began_s = time.monotonic()
    with pytest.raises(ClusterUnreachableError):
        client.get(NODES, "a")

    assert time.monotonic() - began_s < 0.5


def test_the_client_that_it_was_separated_from_goes_on(client: KubeClient) -> None:
    """They share nothing but the server."""
    other = client.separate()
    assert client.list(NODES) == other.list(NODES)
    other.hang_up()
    other.close()

    assert 3 == len(client.list(NODES).items)


def test_a_handshake_that_hangs_ends_at_once(tmp_path: Path) -> None:
    """A server that stands still takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"https://127.0.0.1:{silent.getsockname()[1]}"
        config = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "c", "user": {"token": "none"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }
        path = tmp_path / "config"
        path.write_text(json.dumps(config), encoding="utf-8")
        client = KubeClient.connect(str(path), timing=PATIENT)

        assert ended_s(client, lambda: client.get(NODES, "a")) < 0.5
        client.close()


def test_what_is_kept_of_a_list_is_asked_page_by_page(proxy: FaultProxy, client: KubeClient, fake: FakeKube) -> None:
    """The next page is fetched when the last one was seen to."""
    for number in range(600):
        fake.create(NODES, {"metadata": {"name": f"n{number}"}})
    pages: set[int] = set()

    def keep(obj: Json) -> Json:
        pages.add(proxy.calls["GET"])
        return {"metadata": {"name": obj["metadata"]["name"]}}

    listed = client.list(NODES, keep=keep).items

    assert 603 == len(listed)
    assert {1, 2} == pages
    assert {"metadata": {"name": "a"}} == listed[0]
