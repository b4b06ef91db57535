"""A proxy before an API server that does to its clients what networks and overloaded servers do.

A :class:`~tfscale.testing.faults.Rule` says what shall happen. Everything else passes through unchanged, watches line by line.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import ssl
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tfscale.testing.faults import REMEMBERED, Answer, Call, Cut, Delay, Fault, Lines, Rule, Stall

__all__ = ["FaultProxy"]

_UPSTREAM_TIMEOUT_S = 600
_CHUNK_BYTES = 64 * 1024
_HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


class FaultProxy:
    """Passes calls on to `upstream` on a free port of 127.0.0.1 while its ``with`` block runs, with faults by rule.

    Clients speak plain HTTP to it. It speaks to an ``https`` server with `tls`, and with the bearer `token` in place of
    what the client sent, if one is given. The first rule that fits a call decides, and its fault is counted in
    ``injected`` by name.

    >>> from tfscale.testing import FakeKube, KubeServer
    >>> from tfscale.testing.faults import Answer, Rule
    >>> with KubeServer(FakeKube()) as server, FaultProxy(server.url) as proxy:
    ...     proxy.add(Rule(fault=Answer(503, {"Retry-After": "1"})))
    ...     proxy.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(self, upstream: str, *, token: str = "", tls: ssl.SSLContext | None = None, seed: int = 0) -> None:
        self._upstream = urlsplit(upstream)
        self._token = token
        self._tls = tls
        self._random = random.Random(seed)  # noqa: S311 - faults, no secrets
        self._rules: list[tuple[Rule, list[int]]] = []
        self._lock = threading.Lock()
        self.injected: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        """Calls by method, and watches apart as ``WATCH``."""
        self._http = _Http(self)
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

    def add(self, *rules: Rule) -> None:
        """Let these happen too, after those that were added before."""
        with self._lock:
            self._rules += [(rule, [0]) for rule in rules]

    def heal(self) -> None:
        """Let everything pass from now on. Calls that were befallen stay so."""
        with self._lock:
            self._rules.clear()

    def hang_up(self) -> None:
        """End every open connection, as a server that restarts does."""
        self._http.cut_connections()

    def write_kubeconfig(self, path: Path) -> str:
        """Write a kubeconfig for a client of this proxy and return where it is."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "faulty",
            "clusters": [{"name": "faulty", "cluster": {"server": self.url}}],
            "users": [{"name": "faulty", "user": {}}],
            "contexts": [{"name": "faulty", "context": {"cluster": "faulty", "user": "faulty"}}],
        }
        path.write_text(json.dumps(config), encoding="utf-8")
        return str(path)

    def _fault_of(self, call: Call) -> Fault | None:
        """Return what befalls this call, or None."""
        with self._lock:
            self.calls["WATCH" if call.watch else call.method] += 1
            for rule, used in self._rules:
                if not rule.concerns(call) or used[0] == rule.times:
                    continue
                if self._random.random() < rule.chance:
                    used[0] += 1
                    fault = rule.fault
                    self.injected[fault.name if isinstance(fault, Lines) else type(fault).__name__.lower()] += 1
                    return fault
        return None

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._upstream.hostname or "", self._upstream.port
        if self._upstream.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=_UPSTREAM_TIMEOUT_S, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=_UPSTREAM_TIMEOUT_S)

    def _headers(self, given: Iterable[tuple[str, str]]) -> dict[str, str]:
        headers = {name: value for name, value in given if name.lower() not in _HOP_BY_HOP}
        return headers | ({"Authorization": f"Bearer {self._token}"} if self._token else {})


class _EndedError(Exception):
    """The connection to the client is to end now, without any word."""


class _Http(ThreadingHTTPServer):
    """The sockets of both sides, kept so that closing does not wait for either."""

    daemon_threads = False

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy
        self.closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Remember the socket, then serve it in a thread."""
        self.remember(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Forget the socket."""
        self.forget(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Report what a thread died of, unless one of the sides went away: that is what this is for."""
        if not isinstance(sys.exception(), OSError | http.client.HTTPException):
            super().handle_error(request, client_address)

    def remember(self, opened: socket.socket) -> None:
        """Keep a socket for ``hang_up``."""
        with self._lock:
            self._open.add(opened)

    def forget(self, closed: socket.socket) -> None:
        """Let go of a socket."""
        with self._lock:
            self._open.discard(closed)

    def cut_connections(self) -> None:
        """End every open connection."""
        with self._lock:
            opened = tuple(self._open)
        for one in opened:
            with contextlib.suppress(OSError):
                # Not the method of TLS sockets: that takes away what the reading thread is using.
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """End every open connection and every stall, so that the threads end."""
        self.closing.set()
        self.cut_connections()


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def do_GET(self) -> None:
        """Pass one call on, or let it have its fault."""
        url = urlsplit(self.path)
        call = Call(self.command, url.path, url.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.proxy._fault_of(call)  # noqa: SLF001 - its other half
        try:
            if isinstance(fault, Answer):
                self._refuse(fault)
            else:
                self._pass_on(body, fault, watch=call.watch)
        except _EndedError:
            self.close_connection = True

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server looks the methods up by these names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        """Stay silent: a test prints what it needs."""

    def _refuse(self, answer: Answer) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": answer.code, "message": "injected"}
        content = json.dumps(status).encode()
        self._begin(answer.code, {**answer.headers, "Content-Type": "application/json", "Content-Length": str(len(content))})
        self.wfile.write(content)

    def _pass_on(self, body: bytes, fault: Fault | None, *, watch: bool) -> None:
        if isinstance(fault, Delay):
            self.server.closing.wait(fault.for_s)
        proxy = self.server.proxy
        with contextlib.closing(proxy._connect()) as upstream:  # noqa: SLF001 - its other half
            upstream.connect()
            opened = upstream.sock
            self.server.remember(opened)
            try:
                upstream.request(self.command, self.path, body, proxy._headers(self.headers.items()))  # noqa: SLF001 - the same
                response = upstream.getresponse()
                (self._stream if watch and response.status == http.HTTPStatus.OK else self._copy)(response, fault)
            finally:
                self.server.forget(opened)

    def _begin(self, code: int, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _copy(self, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        content = response.read()
        headers = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP}
        self._begin(response.status, {**headers, "Content-Length": str(len(content))})
        for piece in self._befallen([content], fault):
            self.wfile.write(piece)
        if isinstance(fault, Lines):
            raise _EndedError  # the length may be another now

    def _stream(self, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        self._begin(http.HTTPStatus.OK, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
        for piece in self._befallen(_lines(response), fault):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _befallen(self, lines: Iterable[bytes], fault: Fault | None) -> Iterator[bytes]:
        """Yield what the client gets to see of these lines."""
        match fault:
            case Cut():
                yield from _cut(lines, fault.after_bytes)
            case Stall():
                for _, line in zip(range(fault.after_lines), lines, strict=False):
                    yield line
                self.server.closing.wait(fault.for_s)
                raise _EndedError
            case Lines():
                earlier: deque[bytes] = deque(maxlen=REMEMBERED)
                for line in lines:
                    yield from fault.edit(line, earlier)
                    earlier.append(line)
            case _:
                yield from lines


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a stream. One that ends without its last chunk raises ``HTTPException``: so does the client's."""
    rest = b""
    while chunk := response.read1(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest


def _cut(lines: Iterable[bytes], left: int) -> Iterator[bytes]:
    for line in lines if left else ():
        if len(line) >= left:
            yield line[:left]
            break
        left -= len(line)
        yield line
    raise _EndedError
