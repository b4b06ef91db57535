"""The fault proxy passes on what no rule is about, word for word, and does to the rest what the rule says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tfscale.errors import ClusterError, ClusterUnreachableError, GoneError, TooManyRequestsError
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import NODES, WatchEvent
from tfscale.testing import FakeKube, FaultProxy, KubeServer
from tfscale.testing.faults import Answer, Cut, Delay, Fault, Lines, Rule, Stall


@pytest.fixture
def fake() -> FakeKube:
    """Give a store with two nodes."""
    fake = FakeKube()
    for name in "ab":
        fake.create(NODES, {"metadata": {"name": name}})
    return fake


@pytest.fixture
def proxy(fake: FakeKube) -> Iterator[FaultProxy]:
    """Give a proxy before that store."""
    with KubeServer(fake) as server, FaultProxy(server.url, seed=3) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy, tmp_path: Path) -> Iterator[KubeClient]:
    """Give an impatient client of the proxy."""
    timing = Timing(call_s=0.3, read_s=0.1, watch_silence_s=1.3)
    client = KubeClient.connect(proxy.write_kubeconfig(tmp_path / "config"), timing=timing)
    yield client
    client.close()


def watched(client: KubeClient, fake: FakeKube) -> Iterator[WatchEvent]:
    """Watch from the beginning of the store."""
    return client.watch(NODES, resource_version=str(int(fake.get(NODES, "a")["metadata"]["resourceVersion"]) - 1), timeout_s=1)


def test_without_rules_it_is_not_there(proxy: FaultProxy, client: KubeClient, fake: FakeKube) -> None:
    """Every verb passes, with its body and its answer."""
    assert fake.list(NODES) == client.list(NODES)
    made = client.create(NODES, {"metadata": {"name": "c"}})
    assert fake.get(NODES, "c") == made
    assert "1" == client.patch(NODES, "c", {"metadata": {"labels": {"x": "1"}}})["metadata"]["labels"]["x"]
    client.delete(NODES, "c")
    assert ["ADDED", "ADDED", "ADDED", "MODIFIED", "DELETED", "BOOKMARK"] == [event.type for event in watched(client, fake)]
    assert {"GET": 1, "POST": 1, "PATCH": 1, "DELETE": 1, "WATCH": 1} == dict(proxy.calls)


def test_an_answer_is_the_proxys_own(proxy: FaultProxy, client: KubeClient) -> None:
    """With its headers, and only as often as the rule says."""
    proxy.add(Rule(fault=Answer(429, {"Retry-After": "7"}), path="/nodes"))
    with pytest.raises(TooManyRequestsError) as caught:
        client.list(NODES)

    assert 7 == caught.value.retry_after_s
    assert 2 == len(client.list(NODES).items)
    assert {"answer": 1} == dict(proxy.injected)
    assert {"GET": 2} == dict(proxy.calls)


def test_the_first_rule_that_fits_decides(proxy: FaultProxy, client: KubeClient) -> None:
    """Method, end of the path, query and watch have to fit."""
    others = [
        Rule(fault=Answer(400), method="POST"),
        Rule(fault=Answer(401), path="/pods"),
        Rule(fault=Answer(403), query="continue="),
        Rule(fault=Answer(404), watch=True),
    ]
    proxy.add(*others, Rule(fault=Answer(410), times=2), Rule(fault=Answer(422)))
    with pytest.raises(GoneError):
        client.list(NODES)  # which asks twice
    with pytest.raises(ClusterError, match="422"):
        client.get(NODES, "a")
    proxy.heal()

    assert "a" == client.get(NODES, "a")["metadata"]["name"]


def test_chance_is_that_of_the_seed(proxy: FaultProxy, client: KubeClient) -> None:
    """The same faults every time."""
    proxy.add(Rule(fault=Answer(422), chance=0.5, times=None))
    outcomes = []
    for _ in range(12):
        try:
            client.get(NODES, "a")
            outcomes.append("a")
        except ClusterError:
            outcomes.append("-")

    assert "-a-aa--a--a-" == "".join(outcomes)


@pytest.mark.parametrize("fault", [Cut(), Cut(10), Stall(5), Delay(5), Lines.garbled(), Lines.half_a_letter()], ids=str)
def test_a_call_that_breaks_has_no_answer(proxy: FaultProxy, client: KubeClient, fault: Fault) -> None:
    """Whatever it is that breaks it."""
    proxy.add(Rule(fault=fault, times=None))
    with pytest.raises(ClusterUnreachableError, match="get nodes a: "):
        client.get(NODES, "a")


def test_watches_break_after_some_lines(proxy: FaultProxy, client: KubeClient, fake: FakeKube) -> None:
    """What came before counts."""
    faults: list[Fault] = [Cut(600), Stall(5, after_lines=1), Lines.garbled(after=1), Lines.error_event(410, after=1)]
    proxy.add(*(Rule(fault=fault, watch=True) for fault in faults))
    seen = []
    for _ in faults:
        events = watched(client, fake)
        seen.append(next(events).object["metadata"]["name"])
        with pytest.raises((ClusterUnreachableError, GoneError)):
            list(events)

    assert ["a"] * 4 == seen
    assert 4 == proxy.injected.total()


def test_lines_come_twice_or_again(proxy: FaultProxy, client: KubeClient, fake: FakeKube) -> None:
    """As a server may send them after it lost its place."""
    proxy.add(Rule(fault=Lines.twice(), watch=True), Rule(fault=Lines.again(), watch=True))
    names = [[event.object["metadata"].get("name", "-") for event in watched(client, fake)] for _ in range(2)]

    assert ["a", "a", "b", "b", "-", "-"] == names[0]
    assert ["a", "b", "a", "-", "b", "a"] == names[1]


def test_open_connections_can_be_cut(proxy: FaultProxy, client: KubeClient, fake: FakeKube) -> None:
    """As by a server that restarts."""
    events = watched(client, fake)
    assert "a" == next(events).object["metadata"]["name"]
    proxy.hang_up()
    with pytest.raises(ClusterUnreachableError):
        list(events)


def test_nothing_is_left_when_it_ends(fake: FakeKube, tmp_path: Path) -> None:
    """Also with a call that stalls and a watch that is open."""
    before = threading.active_count()
    with KubeServer(fake) as server, FaultProxy(server.url) as proxy, ThreadPoolExecutor(1) as several:
        client = KubeClient.connect(proxy.write_kubeconfig(tmp_path / "config"))
        proxy.add(Rule(fault=Stall(60), watch=False))
        hanging = several.submit(client.get, NODES, "a")
        events = watched(client, fake)
        next(events)
        began_s = time.monotonic()
        client.hang_up()
        with pytest.raises(ClusterUnreachableError):
            hanging.result()
    client.close()

    assert time.monotonic() - began_s < 2
    assert before == threading.active_count()
