"""KubeClient keeps the contract over HTTP, and every fault of server and network becomes an error of its type."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kube.faulty import IMPATIENT, Faulty, config, failure, once
from tfscale.errors import (
    ClusterError,
    ClusterUnreachableError,
    ForbiddenError,
    GoneError,
    RefusedObjectError,
    TooManyRequestsError,
)
from tfscale.kube.client import KubeClient
from tfscale.kube.port import CRDS, GPU_POOLS, NODES
from tfscale.testing import FakeKube, KubeServer
from tfscale.testing.contracts import WIDGET_CRD, WIDGETS, KubeContract
from tfscale.testing.kube_server import Call, Reply

CODES: dict[type[ClusterError], tuple[int, ...]] = {
    RefusedObjectError: (400, 413, 415, 422),
    ForbiddenError: (401, 403),
    ClusterError: (418,),
    TooManyRequestsError: (429,),
    ClusterUnreachableError: (500, 503, 504),
}


class TestKubeClient(KubeContract):
    """The contract, over real HTTP."""

    @pytest.fixture
    def kube(self, tmp_path: Path) -> Iterator[KubeClient]:
        """A client of a fresh server."""
        fake = FakeKube()
        fake.create(CRDS, WIDGET_CRD)
        with KubeServer(fake, kinds=[WIDGETS]) as server:
            client = KubeClient.connect(config(server.url, tmp_path))
            yield client
            client.close()


@pytest.mark.parametrize(
    ("code", "error"),
    [(code, error) for error, codes in CODES.items() for code in codes],
)
@pytest.mark.parametrize("verb", [lambda faulty: faulty.client.delete(NODES, "a"), lambda faulty: list(faulty.watch())])
def test_every_code_has_its_error(faulty: Faulty, code: int, error: type[ClusterError], verb: Callable[[Faulty], object]) -> None:
    """The message names the call and says what the server said; the call is made once."""
    faulty.fault = lambda _: failure(code, headers={"Retry-After": "60"})

    with pytest.raises(ClusterError, match=rf"(delete|watch) nodes( a)?: {code} because") as caught:
        verb(faulty)

    assert error is type(caught.value)
    assert len(faulty.calls) == 1


@pytest.mark.parametrize("reply", [failure(500), failure(503), failure(429, headers={"Retry-After": "0"}), Reply(body=b"<html>")])
def test_a_read_is_tried_again(faulty: Faulty, reply: Reply) -> None:
    """A server that recovers in time was never away."""
    faulty.fault = once(reply)

    assert faulty.fake.get(NODES, "gpu-0") == faulty.client.get(NODES, "gpu-0")
    assert len(faulty.calls) == 2


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_a_refused_read_is_not_tried_again(faulty: Faulty, code: int) -> None:
    """It would be refused again."""
    faulty.fault = lambda _: failure(code)

    with pytest.raises(ClusterError):
        faulty.client.get(NODES, "gpu-0")
    assert len(faulty.calls) == 1


@pytest.mark.parametrize("reply", [failure(503), Reply(body=b"{"), Reply(headers={"Content-Length": "9"})])
def test_a_write_is_made_once(faulty: Faulty, reply: Reply) -> None:
    """Without an answer nobody knows whether it was done: the caller observes again."""
    faulty.fault = lambda _: reply
    writes: list[Callable[[], object]] = [
        lambda: faulty.client.create(NODES, {"metadata": {"name": "a"}}),
        lambda: faulty.client.patch(NODES, "gpu-0", {"spec": {}}),
        lambda: faulty.client.delete(NODES, "gpu-0"),
        lambda: faulty.client.bind("a", namespace="default", node="gpu-0", uid="u", annotations={}),
    ]

    for write in writes:
        with pytest.raises(ClusterUnreachableError):
            write()

    assert [call.method for call in faulty.calls] == ["POST", "PATCH", "DELETE", "POST"]


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}], ids=["no-time", "at-once"])
def test_a_write_that_the_server_was_too_busy_for_is_made_again(faulty: Faulty, headers: dict[str, str]) -> None:
    """It was certainly not done."""
    faulty.fault = once(failure(429, headers=headers))

    faulty.client.create(NODES, {"metadata": {"name": "a"}})

    assert [call.method for call in faulty.calls] == ["POST", "POST"]


def test_a_write_is_not_tried_for_ever(faulty: Faulty) -> None:
    """A server that stays busy is reported when the time is over."""
    faulty.fault = lambda _: failure(429)
    start = time.monotonic()

    with pytest.raises(TooManyRequestsError):
        faulty.client.patch(NODES, "gpu-0", {"spec": {}})

    assert time.monotonic() - start < IMPATIENT.read_s + IMPATIENT.call_s
    assert len(faulty.calls) > 1


def test_an_eviction_that_a_budget_forbids_is_asked_for_once(faulty: Faulty) -> None:
    """The budget may forbid it for hours."""
    faulty.fault = lambda _: failure(429)

    with pytest.raises(TooManyRequestsError):
        faulty.client.evict("a", namespace="default")
    assert len(faulty.calls) == 1


def test_reads_give_up_in_time(faulty: Faulty) -> None:
    """A server that stays away is reported when the time for reads is over."""
    faulty.fault = lambda _: failure(503)
    start = time.monotonic()

    with pytest.raises(ClusterUnreachableError):
        faulty.client.list(NODES)

    assert time.monotonic() - start < IMPATIENT.read_s + IMPATIENT.call_s
    assert len(faulty.calls) > 1


def test_a_wait_that_is_too_long_is_not_begun(faulty: Faulty) -> None:
    """The server asks for a minute: the caller hears so at once, with the number."""
    faulty.fault = lambda _: failure(429, headers={"Retry-After": "60"})

    with pytest.raises(TooManyRequestsError) as caught:
        faulty.client.list(NODES)

    assert (caught.value.retry_after_s, len(faulty.calls)) == (60, 1)


def test_nobody_listens(tmp_path: Path) -> None:
    """A refused connection is an unreachable cluster, for every verb."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{one.getsockname()[1]}"
    client = KubeClient.connect(config(url, tmp_path), timing=IMPATIENT)

    with pytest.raises(ClusterUnreachableError, match="list nodes"):
        client.list(NODES)
    with pytest.raises(ClusterUnreachableError, match="watch nodes"):
        list(client.watch(NODES, resource_version="1"))
    with pytest.raises(ClusterUnreachableError, match="delete nodes a"):
        client.delete(NODES, "a")
    client.close()


def test_a_silent_server_does_not_hold_a_call(faulty: Faulty) -> None:
    """The connection stands, but no answer comes."""
    faulty.fault = faulty.hang

    with pytest.raises(ClusterUnreachableError):
        faulty.client.patch(NODES, "gpu-0", {"spec": {}})
    with pytest.raises(ClusterUnreachableError):
        faulty.client.get(NODES, "gpu-0")


def test_long_lists_come_in_pages(faulty: Faulty) -> None:
    """All objects once, in order, from the moment of the first page."""
    for index in range(1_100):
        faulty.fake.create(GPU_POOLS, {"metadata": {"name": f"p-{index:04}"}})
    before = faulty.fake.list(GPU_POOLS)

    def write_between(_: Call) -> None:
        faulty.fake.patch(GPU_POOLS, "p-1099", {"spec": {"calls": len(faulty.calls)}})

    faulty.client.list(GPU_POOLS)
    faulty.fault = lambda call: write_between(call) if "continue" in call.query else None

    assert before == faulty.client.list(GPU_POOLS)
    assert [len(faulty.calls) - 3, sum(call.query["limit"] == "500" for call in faulty.calls[3:])] == [3, 3]


@pytest.mark.parametrize("times", [1, 2])
def test_a_list_whose_pages_expire_starts_again_once_without_pages(faulty: Faulty, times: int) -> None:
    """One large page cannot expire in the middle; if that is gone too, the caller hears it."""
    for index in range(600):
        faulty.fake.create(GPU_POOLS, {"metadata": {"name": f"p-{index:03}"}})
    faulty.fault = lambda call: failure(410) if "continue" in call.query or (times == 2 and "limit" not in call.query) else None

    if times == 1:
        assert faulty.fake.list(GPU_POOLS) == faulty.client.list(GPU_POOLS)
    else:
        with pytest.raises(GoneError):
            faulty.client.list(GPU_POOLS)

    assert [call.query.get("limit") for call in faulty.calls] == ["500", "500", None]


def test_a_list_whose_moment_is_forgotten_starts_again(faulty: Faulty) -> None:
    """The token of its next page has expired."""
    for index in range(600):
        faulty.fake.create(GPU_POOLS, {"metadata": {"name": f"p-{index:03}"}})

    def compact(call: Call) -> None:
        if "continue" in call.query:
            faulty.fake.patch(GPU_POOLS, "p-000", {"spec": {"x": 1}})
            faulty.fake.forget_history()

    faulty.fault = compact

    assert faulty.client.list(GPU_POOLS) == faulty.fake.list(GPU_POOLS)
    assert [call.query.get("limit") for call in faulty.calls] == ["500", "500", None]


def test_a_server_that_speaks_no_tls_is_unreachable(faulty: Faulty, tmp_path: Path) -> None:
    """Said in one line."""
    client = KubeClient.connect(config(faulty.server.url.replace("http:", "https:"), tmp_path), timing=IMPATIENT)

    with pytest.raises(ClusterUnreachableError) as caught:
        client.delete(NODES, "gpu-0")

    assert ("SSL" in str(caught.value), len(str(caught.value).splitlines())) == (True, 1)
    client.close()
