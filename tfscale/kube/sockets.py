"""The open connections of one client, so that a call that hangs can be ended from another thread."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import weakref
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.util.ssl_ import create_urllib3_context

__all__ = ["Sockets"]


class Sockets:
    """Knows every socket that a pool of connections opens. Safe for use from several threads."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self.ended = threading.Event()
        """Set once everything was hung up."""

    def oversee(self, manager: urllib3.PoolManager) -> None:
        """Know the sockets that this pool manager opens from now on. Sockets of TLS are known before their handshake."""
        note = self._note

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                opened = super()._new_conn()
                note(opened)
                return opened

        class HTTPConnectionPool(urllib3.HTTPConnectionPool):  # errors show this name
            ConnectionCls = Plain

        class Secure(ssl.SSLSocket):
            def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as the base class has it
                note(self)
                super().do_handshake(block)

        context = _context(manager.connection_pool_kw)
        context.sslsocket_class = Secure
        manager.connection_pool_kw["ssl_context"] = context
        if manager.pool_classes_by_scheme["http"] is urllib3.HTTPConnectionPool:  # not that of a SOCKS proxy
            manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme, "http": HTTPConnectionPool}

    def hang_up(self) -> None:
        """End every connection, and each that is opened from now on. A call that waits for its answer fails at once.

        Only a TCP connection that is still being made cannot be ended: it ends by its own time limit, or as soon as it is there.
        """
        with self._lock:
            self.ended.set()
            opened = tuple(self._open)
        for one in opened:
            _shut(one)

    def _note(self, opened: socket.socket) -> None:
        with self._lock:
            self._open.add(opened)
            ended = self.ended.is_set()
        if ended:
            _shut(opened)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Not the method of TLS sockets: that takes away what the reading thread is using.
        socket.socket.shutdown(one, socket.SHUT_RDWR)


def _context(options: dict[str, Any]) -> ssl.SSLContext:
    """Return the TLS context that the pools would make for each connection."""
    context = create_urllib3_context(cert_reqs=options.get("cert_reqs"))
    if not (options.get("ca_certs") or options.get("ca_cert_data")):
        context.load_default_certs()
    return context
