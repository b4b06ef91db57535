"""An API server that fails as a test wants it, and an impatient client."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import NODES
from tfscale.testing import FakeKube, KubeServer
from tfscale.testing.kube_server import Call, Reply

__all__ = ["IMPATIENT", "SECRET", "Faulty", "config", "event", "failure", "once"]

SECRET = "canary-5f1d"  # noqa: S105  # a canary: it must appear nowhere

IMPATIENT = Timing(call_s=1.5, read_s=3, watch_margin_s=1)
"""Long enough for an answer on a busy machine, short enough for a test that waits in vain."""


def config(url: str, folder: Path) -> str:
    """Write a kubeconfig for one server and return its path."""
    path = folder / "config"
    clusters = [{"name": "test", "cluster": {"server": url}}]
    users = [{"name": "test", "user": {"token": SECRET}}]
    contexts = [{"name": "test", "context": {"cluster": "test", "user": "test"}}]
    content = {"current-context": "test", "clusters": clusters, "users": users, "contexts": contexts}
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


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


def failure(code: int, *, headers: dict[str, str] | None = None, **status: Any) -> Reply:  # noqa: ANN401  # JSON values
    """Return a Kubernetes Status as an answer."""
    body = {"kind": "Status", "status": "Failure", "code": code, "message": "because", **status}
    return Reply(status=code, body=json.dumps(body).encode(), headers=headers or {})


def once(reply: Reply) -> Callable[[Call], Reply | None]:
    """Return a fault that happens on the first call alone."""
    replies = iter([reply])
    return lambda _: next(replies, None)


def event(kind: str, **obj: Any) -> bytes:  # noqa: ANN401  # JSON values
    """Return one line of a watch."""
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"
