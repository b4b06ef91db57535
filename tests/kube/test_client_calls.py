"""What KubeClient sends: bodies, credentials, and how often."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kube.faulty import SECRET, Faulty, config, failure
from tfscale.errors import (
    ClusterError,
    ForbiddenError,
    RefusedObjectError,
)
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import NODES, PODS
from tfscale.testing.kube_server import Call, Reply


@pytest.mark.parametrize("verb", [lambda client: client.list(NODES), lambda client: client.patch(NODES, "gpu-0", {"spec": {}})])
def test_refused_credentials_are_read_again(faulty: Faulty, tmp_path: Path, verb: Callable[[KubeClient], object]) -> None:
    """At once and once: a token may be replaced before its time."""
    path = Path(config(faulty.server.url, tmp_path))

    def rotate(call: Call) -> Reply | None:
        path.write_text(path.read_text().replace(SECRET, "rotated"), encoding="utf-8")
        return None if call.headers["authorization"] == "Bearer rotated" else failure(401)

    faulty.fault = rotate

    verb(faulty.client)

    assert [call.headers["authorization"] for call in faulty.calls] == [f"Bearer {SECRET}", "Bearer rotated"]


@pytest.mark.parametrize("content", [None, "{", "{}"], ids=["as-it-was", "broken", "empty"])
def test_credentials_that_stay_refused_are_an_error(faulty: Faulty, tmp_path: Path, content: str | None) -> None:
    """Without better ones nothing is sent again."""
    path = Path(config(faulty.server.url, tmp_path))
    path.write_text(path.read_text() if content is None else content, encoding="utf-8")
    faulty.fault = lambda _: failure(401)

    with pytest.raises(ForbiddenError):
        faulty.client.get(NODES, "gpu-0")
    assert len(faulty.calls) == 1


def test_new_credentials_are_refused_only_once(faulty: Faulty, tmp_path: Path) -> None:
    """Each call asks for them at most once, however often they change."""
    path = Path(config(faulty.server.url, tmp_path))

    def rotate(_: Call) -> Reply:
        path.write_text(path.read_text().replace(SECRET, f"{SECRET}x"), encoding="utf-8")
        return failure(401)

    faulty.fault = rotate

    with pytest.raises(ForbiddenError):
        faulty.client.get(NODES, "gpu-0")
    assert len(faulty.calls) == 2


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


def test_every_write_says_who_writes(faulty: Faulty) -> None:
    """So that an apply knows whose field is whose."""
    faulty.fault = lambda _: Reply(body=b"{}")

    faulty.client.create(PODS, {"metadata": {"name": "a"}}, namespace="default")
    faulty.client.patch(PODS, "a", {}, namespace="default")
    faulty.client.patch_status(PODS, "a", {"status": {}}, namespace="default")
    faulty.client.bind("a", namespace="default", node="gpu-0", uid="u-1", annotations={})
    faulty.client.apply(PODS, {"metadata": {"name": "a"}}, namespace="default")
    faulty.client.apply(PODS, {"metadata": {"name": "a"}}, namespace="default", manager="other", force=True, subresource="status")

    *others, apply, forced = faulty.calls
    assert [call.query for call in others] == [{"fieldManager": "tfscale"}] * 4
    assert (apply.method, apply.content_type) == ("PATCH", "application/apply-patch+yaml")
    assert apply.query == {"fieldManager": "tfscale", "force": "false"}
    assert (forced.path[-7:], forced.query) == ("/status", {"fieldManager": "other", "force": "true"})


def test_null_is_not_applied(faulty: Faulty) -> None:
    """The server would make of it what the field's type says; the message names the field."""
    with pytest.raises(RefusedObjectError, match=r"apply nodes a: \.spec\.taints\[0\]\.value is null"):
        faulty.client.apply(NODES, {"metadata": {"name": "a"}, "spec": {"taints": [{"key": "a", "value": None}]}})
    assert faulty.calls == []


def test_calls_keep_their_pace(faulty: Faulty, tmp_path: Path) -> None:
    """A burst at once, then so many a second; a watch counts once."""
    timing = Timing(calls_per_s=20, burst=3)
    client = KubeClient.connect(config(faulty.server.url, tmp_path), timing=timing)
    start = time.monotonic()

    for _ in range(6):
        client.get(NODES, "gpu-0")

    assert 0.14 < time.monotonic() - start < 2
    client.close()


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
