"""KubeClient keeps the contract over HTTP, and every fault of server and network becomes an error of its type."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tfscale.errors import (
    ClusterError,
    ClusterUnreachableError,
    ForbiddenError,
    GoneError,
    RefusedObjectError,
    TooManyRequestsError,
)
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import GPU_POOLS, NODES, PODS
from tfscale.testing import FakeKube, KubeServer
from tfscale.testing.contracts import WIDGETS, KubeContract
from tfscale.testing.fake_kube import BUDGETS
from tfscale.testing.kube_server import Call, Reply

SECRET = "canary-5f1d"  # noqa: S105  # a canary: it must appear nowhere

CODES: dict[type[ClusterError], tuple[int, ...]] = {
    RefusedObjectError: (400, 413, 415, 422),
    ForbiddenError: (401, 403),
    ClusterError: (418,),
    TooManyRequestsError: (429,),
    ClusterUnreachableError: (500, 503, 504),
}

IMPATIENT = Timing(call_s=0.3, read_s=0.6, watch_margin_s=0.3)


def config(url: str, folder: Path) -> str:
    """Write a kubeconfig for one server and return its path."""
    path = folder / "config"
    clusters = [{"name": "test", "cluster": {"server": url}}]
    users = [{"name": "test", "user": {"token": SECRET}}]
    contexts = [{"name": "test", "context": {"cluster": "test", "user": "test"}}]
    content = {"current-context": "test", "clusters": clusters, "users": users, "contexts": contexts}
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


class TestKubeClient(KubeContract):
    """The contract, over real HTTP."""

    @pytest.fixture
    def kube(self, tmp_path: Path) -> Iterator[KubeClient]:
        """A client of a fresh server."""
        with KubeServer(FakeKube(), kinds=(WIDGETS, BUDGETS)) as server:
            client = KubeClient.connect(config(server.url, tmp_path))
            yield client
            client.close()


class Faulty:
    """A server of three nodes, its impatient client, and the calls that arrived."""

    def __init__(self, folder: Path) -> None:
        self.fake = FakeKube()
        for index in range(3):
            self.fake.create(NODES, {"metadata": {"name": f"gpu-{index}"}})
        self.calls: list[Call] = []
        self.fault: Callable[[Call], Reply | None] = lambda _: None
        self.released = threading.Event()
        self.server = KubeServer(self.fake, intercept=self.intercept)
        self.client = KubeClient.connect(config(self.server.url, folder), timing=IMPATIENT)

    def intercept(self, call: Call) -> Reply | None:
        """Note the call and perhaps break it."""
        self.calls.append(call)
        return self.fault(call)

    def hang(self, _: Call) -> None:
        """Say nothing until the test is over."""
        self.released.wait(5)

    def watch(self, **options: Any) -> Iterator[Any]:  # noqa: ANN401  # options of the verb
        """Watch the nodes from now."""
        version = self.fake.list(NODES).resource_version
        return self.client.watch(NODES, resource_version=version, timeout_s=1, **options)


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    """A server that can fail."""
    faulty = Faulty(tmp_path)
    with faulty.server:
        yield faulty
        faulty.released.set()
        faulty.client.close()


def failure(code: int, *, headers: dict[str, str] | None = None, **status: Any) -> Reply:  # noqa: ANN401  # JSON values
    """Return a Kubernetes Status as an answer."""
    body = {"kind": "Status", "status": "Failure", "code": code, "message": "because", **status}
    return Reply(status=code, body=json.dumps(body).encode(), headers=headers or {})


def once(reply: Reply) -> Callable[[Call], Reply | None]:
    """Return a fault that happens on the first call alone."""
    replies = iter([reply])
    return lambda _: next(replies, None)


@pytest.mark.parametrize(
    ("code", "error"),
    [(code, error) for error, codes in CODES.items() for code in codes],
)
@pytest.mark.parametrize("verb", [lambda faulty: faulty.client.delete(NODES, "a"), lambda faulty: list(faulty.watch())])
def test_every_code_has_its_error(faulty: Faulty, code: int, error: type[ClusterError], verb: Callable[[Faulty], object]) -> None:
    """The message names the call and says what the server said; the call is made once."""
    faulty.fault = lambda _: failure(code)

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


@pytest.mark.parametrize("reply", [failure(503), failure(429), Reply(body=b"{"), Reply(headers={"Content-Length": "9"})])
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
        with pytest.raises((ClusterUnreachableError, TooManyRequestsError)):
            write()

    assert [call.method for call in faulty.calls] == ["POST", "PATCH", "DELETE", "POST"]


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


def test_a_half_open_watch_ends(faulty: Faulty) -> None:
    """Silence beyond the server's own limit and the margin means that the connection is dead."""
    faulty.fault = faulty.hang
    start = time.monotonic()

    with pytest.raises(ClusterUnreachableError):
        list(faulty.watch())

    assert time.monotonic() - start < 1 + 2 * IMPATIENT.watch_margin_s


def event(kind: str, **obj: Any) -> bytes:  # noqa: ANN401  # JSON values
    """Return one line of a watch."""
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


@pytest.mark.parametrize(
    "end",
    [
        b'{"type": "ADDED", "object": {"meta',
        b'{"type": "ADDED", "object": \n',
        b"\xff\xfe\n",
        b"[]\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "SURPRISE", "object": {}}\n',
        event("ERROR", code=500, message="etcd is gone"),
        event("ERROR"),
    ],
    ids=[
        "cut-off",
        "broken",
        "not-utf-8",
        "no-object",
        "event-without-object",
        "unknown-type",
        "error-500",
        "error-without-code",
    ],
)
def test_nonsense_ends_a_watch_after_what_was_good(faulty: Faulty, end: bytes) -> None:
    """The events before it are kept; then the caller is told to watch again."""
    faulty.fault = lambda _: Reply(body=event("ADDED", metadata={"name": "a"}) + end)
    events = faulty.watch()

    assert next(events).object == {"metadata": {"name": "a"}}
    with pytest.raises(ClusterUnreachableError, match="watch nodes"):
        next(events)


def test_a_reset_in_the_middle_ends_a_watch(faulty: Faulty) -> None:
    """Fewer bytes than promised."""
    faulty.fault = lambda _: Reply(body=event("ADDED", metadata={"name": "a"}), headers={"Content-Length": "999"})
    events = faulty.watch()

    assert next(events).type == "ADDED"
    with pytest.raises(ClusterUnreachableError):
        next(events)


def test_an_endless_line_is_not_collected(faulty: Faulty) -> None:
    """Memory is bounded, whatever the server sends."""
    faulty.fault = lambda _: Reply(body=b"x" * (11 * 1024 * 1024))

    with pytest.raises(ClusterUnreachableError, match="longer than"):
        list(faulty.watch())


def test_a_large_object_passes_a_watch(faulty: Faulty) -> None:
    """A line of many chunks is put together, characters of several bytes included."""
    text = "ü" * 200_000
    faulty.fault = lambda _: Reply(
        body=json.dumps({"type": "ADDED", "object": {"text": text}}, ensure_ascii=False).encode() + b"\n"
    )

    assert [text] == [event.object["text"] for event in faulty.watch()]


@pytest.mark.parametrize("gone", [failure(410, reason="Expired"), Reply(body=event("ERROR", code=410, reason="Expired"))])
def test_a_version_that_is_gone_says_so_both_ways(faulty: Faulty, gone: Reply) -> None:
    """As the status of the answer or as an event."""
    faulty.fault = lambda _: gone

    with pytest.raises(GoneError):
        list(faulty.watch())


def test_watch_asks_for_bookmarks_and_a_limit(faulty: Faulty) -> None:
    """Quiet kinds would age out of the server's memory; 0 seconds would be no limit at all."""
    version = faulty.fake.list(NODES).resource_version

    (bookmark,) = faulty.client.watch(NODES, resource_version=version, timeout_s=0)

    assert bookmark.type == "BOOKMARK"
    assert {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": "1"} == faulty.calls[
        0
    ].query


def test_a_watch_that_is_left_frees_its_connection(faulty: Faulty) -> None:
    """Leaving more watches than the pool has connections does no harm."""
    version = faulty.fake.list(NODES).resource_version
    faulty.fake.create(NODES, {"metadata": {"name": "new"}})

    for _ in range(40):
        events = faulty.client.watch(NODES, resource_version=version, timeout_s=30)
        assert next(events).object["metadata"]["name"] == "new"
        del events

    assert len(faulty.client.list(NODES).items) == 4


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


def test_bodies_are_what_the_server_expects(faulty: Faulty) -> None:
    """Binding and eviction carry their preconditions; a patch says that it is a merge patch."""
    faulty.fault = lambda _: Reply(body=b"{}")

    faulty.client.bind("a", namespace="default", node="gpu-0", uid="u-1", annotations={"tfscale.io/slices": "[]"})
    faulty.client.evict("a", namespace="default", grace_period_s=5)
    faulty.client.delete(PODS, "a", namespace="default", uid="u-1", resource_version="7", grace_period_s=0)
    faulty.client.patch(PODS, "a", {"spec": {"x": None}}, namespace="default")

    bind, evict, delete, patch = faulty.calls
    assert (bind.body["metadata"]["uid"], bind.body["metadata"]["annotations"]) == ("u-1", {"tfscale.io/slices": "[]"})
    assert bind.body["target"] == {"apiVersion": "v1", "kind": "Node", "name": "gpu-0"}
    assert (evict.body["apiVersion"], evict.body["deleteOptions"]["gracePeriodSeconds"]) == ("policy/v1", 5)
    assert (delete.body["preconditions"], delete.body["gracePeriodSeconds"]) == ({"uid": "u-1", "resourceVersion": "7"}, 0)
    assert (patch.content_type, patch.body) == ("application/merge-patch+json", {"spec": {"x": None}})


def test_no_error_tells_the_token(faulty: Faulty) -> None:
    """Whatever fails, credentials stay out of messages and of their causes."""
    faults: list[Callable[[Call], Reply | None]] = [
        lambda _: failure(401, message="Unauthorized"),
        lambda _: failure(500),
        lambda _: Reply(body=b"<html>"),
        faulty.hang,
    ]
    for faulty.fault in faults:
        with pytest.raises(ClusterError) as caught:
            faulty.client.delete(NODES, "gpu-0")
        assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_server_that_speaks_no_tls_is_unreachable(faulty: Faulty, tmp_path: Path) -> None:
    """Said in one line."""
    client = KubeClient.connect(config(faulty.server.url.replace("http:", "https:"), tmp_path), timing=IMPATIENT)

    with pytest.raises(ClusterUnreachableError) as caught:
        client.delete(NODES, "gpu-0")

    assert ("SSL" in str(caught.value), len(str(caught.value).splitlines())) == (True, 1)
    client.close()
