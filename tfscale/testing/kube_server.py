"""An HTTP face for a Kubernetes stand-in, so that real clients can talk to it.

It speaks the part of the API that :class:`tfscale.kube.port.Kube` needs: lists with pages, watches, create, merge patch,
server-side apply, status, delete, binding and eviction. No authentication and no TLS: it listens on the loopback address alone.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import yaml

from tfscale.errors import ClusterError
from tfscale.kube.calls import APPLY
from tfscale.kube.port import Json, Kind, Kube, WatchEvent
from tfscale.testing.kube_api import Call, KubeApi, Reply, encoded, refusal

__all__ = ["Call", "KubeServer", "Reply"]


class KubeServer:
    """Serves a ``Kube`` on a free port of 127.0.0.1 while its ``with`` block runs.

    ``kinds`` are what it serves beside the kinds of :mod:`tfscale.kube.port`; a kind that it does not serve is a 404.
    ``intercept`` sees every call first: it may answer in place of the server, wait, or return None to let the call
    through. Faults are made there. A watch that asks for bookmarks gets one every ``bookmark_s`` seconds, and at its end.

    >>> from tfscale.testing import FakeKube
    >>> with KubeServer(FakeKube()) as server:
    ...     server.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(
        self,
        kube: Kube,
        *,
        kinds: Iterable[Kind] = (),
        intercept: Callable[[Call], Reply | None] = lambda _: None,
        bookmark_s: float = 60.0,
    ) -> None:
        self._http = _Http(KubeApi(kube, kinds, bookmark_s=bookmark_s), intercept)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.hang_up()
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    """The sockets, kept so that closing does not wait for clients that keep theirs open."""

    def __init__(self, api: KubeApi, intercept: Callable[[Call], Reply | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api
        self.intercept = intercept
        self.closing = threading.Event()
        self._open: set[socket.socket] = set()

    daemon_threads = False

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as the base class has it
        """Remember the socket, then serve it in a thread."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401  # as the base class has it
        """Forget the socket."""
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as the base class has it
        """Report what a thread died of, unless its client went away: that is its right."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """End every open connection, so that its thread ends."""
        self.closing.set()
        for one in tuple(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def do_GET(self) -> None:
        """Answer one call."""
        self._answer(self._call())

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815  # http.server looks the methods up by these names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the base class has it
        """Stay silent: a test prints what it needs."""

    def _call(self) -> Call:
        url = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content_type = self.headers.get("Content-Type") or ""
        return Call(
            method=self.command,
            path=url.path,
            query=dict(parse_qsl(url.query, keep_blank_values=True)),
            content_type=content_type,
            body=(yaml.safe_load if content_type == APPLY else json.loads)(raw or b"{}"),
            headers={name.lower(): value for name, value in self.headers.items()},
        )

    def _answer(self, call: Call) -> None:
        try:
            reply = self.server.intercept(call)
            if reply is None and call.query.get("watch"):
                self._stream(self.server.api.watch(call, self.server.closing))
                return
            reply = reply or self.server.api.answer(call)
        except ClusterError as error:
            reply = refusal(error)
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)
        if int(headers["Content-Length"]) != len(reply.body):
            self.close_connection = True

    def _stream(self, events: Iterator[WatchEvent]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for event in events:
                self._chunk({"type": event.type, "object": event.object})
        except ClusterError as error:
            self._chunk({"type": "ERROR", "object": json.loads(refusal(error).body)})
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event: Json) -> None:
        line = encoded(event) + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
