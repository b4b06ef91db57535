"""What a watch of KubeClient does when server and network fail."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.kube.faulty import IMPATIENT, Faulty, config, event, failure
from tfscale.errors import (
    ClusterUnreachableError,
    GoneError,
)
from tfscale.kube.client import KubeClient
from tfscale.kube.port import NODES
from tfscale.testing import FakeKube, KubeServer
from tfscale.testing.kube_server import Reply


def test_a_half_open_watch_ends(faulty: Faulty) -> None:
    """Silence beyond the server's own limit and the margin means that the connection is dead."""
    faulty.fault = faulty.hang
    start = time.monotonic()

    with pytest.raises(ClusterUnreachableError):
        list(faulty.watch())

    assert time.monotonic() - start < 1 + 2 * IMPATIENT.watch_margin_s


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


def test_a_long_watch_brings_bookmarks(tmp_path: Path) -> None:
    """Between the events, and one at its end."""
    fake = FakeKube()
    with KubeServer(fake, bookmark_s=0.3) as server:
        client = KubeClient.connect(config(server.url, tmp_path))

        events = list(client.watch(NODES, resource_version=fake.list(NODES).resource_version, timeout_s=1))

        assert {"BOOKMARK"} == {event.type for event in events}
        assert len(events) > 2
        client.close()
