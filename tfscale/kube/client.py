"""The Kubernetes port on the official client: the only file that imports ``kubernetes``.

The client gives configuration, credentials, TLS and the connection pool. Paths, bodies and errors are handled here over
plain JSON: the typed methods of the client would convert every object twice, and its ``create_namespaced_pod_binding``
raises after it has succeeded.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self, cast

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_before_delay,
    wait_random_exponential,
)

from tfscale.errors import (
    BadInputError,
    ClusterError,
    ClusterUnreachableError,
    ConflictError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    TooManyRequestsError,
)
from tfscale.kube import calls
from tfscale.kube import kubeconfig as files
from tfscale.kube.calls import Request, collection_path, object_path
from tfscale.kube.pace import TokenBucket
from tfscale.kube.port import FIELD_MANAGER, PODS, Json, Kind, Listing, WatchEvent
from tfscale.kube.sockets import Sockets
from tfscale.kube.wire import answer_of, bare, event_of, lines_of, refusal_of

__all__ = ["KubeClient", "Timing"]

_PAGE = 500
"""Objects per page of a list; kubectl asks for as many."""

_CHUNK_BYTES = 64 * 1024

_POOL_SIZE = 16

_UNAUTHORIZED = 401
_BACKOFF = wait_random_exponential(multiplier=0.2, max=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long to wait for the server."""

    call_s: float = 10.0
    """For each silence while one request is answered."""
    connect_s: float = 1.5
    """For a connection. Shorter than the margin of a Lease: what is written leaves soon after it was allowed."""
    read_s: float = 10.0
    """For one get or one page of a list with all its retries, and for a write that the server is too busy to look at."""
    watch_margin_s: float = 15.0
    """How much longer than the server's own limit a watch waits in silence before its connection counts as dead."""
    watch_silence_s: float = 75.0
    """The same where the limit is long: the API server sends a bookmark about every minute."""
    calls_per_s: float = 50.0
    """Calls of one client in the long run, watches counted once. The numbers of client-go for controllers."""
    burst: int = 100
    """Calls at once after a quiet time."""


class KubeClient:
    """Talks to a real API server. Implements :class:`tfscale.kube.port.Kube`; safe for use from several threads."""

    def __init__(
        self, load: Callable[[], Configuration], *, timing: Timing = Timing(), before_write: Callable[[], object] = lambda: None
    ) -> None:
        """`load` reads the configuration: now, and again for the credentials when they are refused."""
        configuration = load()
        # Retries are made here, where it is known what was done: the client's own would send deletes twice.
        cast("Any", configuration).retries = False
        configuration.connection_pool_maxsize = _POOL_SIZE
        configuration.keep_alive = True
        self._api = ApiClient(configuration)
        self._sockets = Sockets()
        self._sockets.oversee(self._api.rest_client.pool_manager)
        self._load = load
        self._renewing = threading.Lock()
        self._timing = timing
        self._before_write = before_write
        self._bucket = TokenBucket(per_s=timing.calls_per_s, burst=timing.burst)

    @classmethod
    def connect(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        *,
        timing: Timing = Timing(),
        before_write: Callable[[], object] = lambda: None,
    ) -> Self:
        """Return a client for a cluster; nothing is called yet.

        `before_write` is called right before each request that writes is sent, after all waiting: where it raises, nothing is.
        Without ``kubeconfig`` and ``context`` a pod uses its own service account; elsewhere ``$KUBECONFIG`` or
        ``~/.kube/config`` is read. Raises ``BadInputError`` for a file that cannot be used.
        """
        if kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            return cls(files.inside, timing=timing, before_write=before_write)
        return cls(partial(files.outside, files.find(kubeconfig), context), timing=timing, before_write=before_write)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()  # type: ignore[no-untyped-call]

    def separate(self) -> Self:
        """Return a client of the same server with connections, credentials and turns of its own."""
        return type(self)(self._load, timing=self._timing, before_write=self._before_write)

    def hang_up(self) -> None:
        """End the calls of all threads, now and from now on: they raise ``ClusterUnreachableError``. Then close it."""
        self._sockets.hang_up()

    def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        keep: Callable[[Json], Json] = lambda obj: obj,
    ) -> Listing:
        """Return all objects that match, from one moment.

        `keep` returns what is wanted of an object, and may change it. It is asked page by page: a long list never is in
        memory whole.
        """
        path = collection_path(kind, namespace)
        query = calls.selectors(label_selector, field_selector)
        try:
            return self._pages(kind, path, {**query, "limit": str(_PAGE)}, keep)
        except GoneError:
            # The moment of the first page is no longer served. One large page has only one moment.
            return self._pages(kind, path, query, keep)
        except NotFoundError as error:
            served = f"{kind.plural} of {kind.api_version}"
            raise NotFoundError(f"the cluster does not serve {served}: is its definition installed?") from error

    def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        timeout_s: int = 300,
    ) -> Iterator[WatchEvent]:
        """Yield what changed after ``resource_version``. A ``timeout_s`` below 1 is 1: for the server 0 means no limit.

        A connection that breaks, falls silent or brings nonsense raises ``ClusterUnreachableError``: watch again from
        the last resource version that was seen.
        """
        limit_s = max(1, timeout_s)
        silence_s = min(limit_s + self._timing.watch_margin_s, self._timing.watch_silence_s)
        query = calls.selectors(label_selector, field_selector)
        request = calls.watching(kind, namespace, query, resource_version=resource_version, limit_s=limit_s)
        response = self._send(request, silence_s=silence_s)
        try:
            for line in lines_of(_chunks(response), request.what):
                yield event_of(line, request.what)
        except urllib3.exceptions.HTTPError as error:
            raise ClusterUnreachableError(f"{request.what}: {error}") from error
        finally:
            response.close()

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Return one object, or raise ``NotFoundError``."""
        return self._read(object_path(kind, name, namespace), {}, what=f"get {kind.plural} {name}")

    def create(self, kind: Kind, obj: Json, *, namespace: str | None = None) -> Json:
        """Create and return the object. The namespace may be given in the object alone."""
        return self._write(calls.creating(kind, obj, namespace))

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to everything but the status."""
        return self._write(calls.patching(kind, name, patch, namespace))

    def patch_status(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to the status alone. A uid without a resource version costs one more call."""
        body = {key: value for key, value in patch.items() if key == "status"}
        if expected := self._status_conditions(kind, name, namespace, patch.get("metadata") or {}):
            body["metadata"] = expected
        return self._write(calls.patching(kind, name, body, namespace, subresource="status"))

    def apply(
        self,
        kind: Kind,
        obj: Json,
        *,
        namespace: str | None = None,
        force: bool = False,
        subresource: Literal["", "status"] = "",
        manager: str = FIELD_MANAGER,
    ) -> Json:
        """Make the object carry these fields; create it where it does not exist.

        A uid without a resource version costs one more call where the status is applied.
        """
        if subresource:
            meta = obj.get("metadata") or {}
            home = namespace or meta.get("namespace")
            obj = {**obj, "metadata": {**meta, **self._status_conditions(kind, meta.get("name") or "", home, meta)}}
        return self._write(calls.applying(kind, obj, namespace, manager=manager, force=force, subresource=subresource))

    def delete(
        self,
        kind: Kind,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_period_s: int | None = None,
    ) -> None:
        """Delete; objects that it owns follow in the background."""
        how: dict[str, Any] = {"uid": uid, "resource_version": resource_version, "grace_period_s": grace_period_s}
        self._write(calls.deleting(kind, name, namespace, **how))

    def evict(self, name: str, *, namespace: str, uid: str | None = None, grace_period_s: int | None = None) -> None:
        """Evict a pod. A budget that forbids it is not asked again here: that may take hours."""
        if uid is not None:
            # The server would refuse another uid only after ten seconds (tried on 1.35): it tries each conflict again.
            found = self.get(PODS, name, namespace=namespace)["metadata"]["uid"]
            if found != uid:
                raise ConflictError(f"evict pod {name}: metadata.uid is {found!r}; the request expected {uid!r}")
        self._call(calls.evicting(name, namespace, uid, grace_period_s), silence_s=self._timing.call_s)

    def bind(self, name: str, *, namespace: str, node: str, uid: str, annotations: Mapping[str, str]) -> None:
        """Write node and annotations into a pending pod in one request."""
        self._write(calls.binding(name, namespace, node=node, uid=uid, annotations=annotations))

    def _pages(self, kind: Kind, path: str, query: Mapping[str, str], keep: Callable[[Json], Json]) -> Listing:
        items: list[Json] = []
        token = ""
        while True:
            page = self._read(path, {**query, "continue": token} if token else query, what=f"list {kind.plural}")
            # The items of a typed list come without their type.
            items += (keep({"apiVersion": kind.api_version, "kind": kind.kind, **bare(item)}) for item in page.get("items") or ())
            token = page["metadata"].get("continue") or ""
            if not token:
                return Listing(items=items, resource_version=page["metadata"]["resourceVersion"])

    def _status_conditions(self, kind: Kind, name: str, namespace: str | None, meta: Mapping[str, Any]) -> dict[str, str]:
        """Return the version that a write of the status expects.

        The status of a custom resource takes no notice of a uid (tried on 1.35), but every status of a version.
        """
        uid, version = meta.get("uid"), meta.get("resourceVersion")
        if uid and not version:
            found = self.get(kind, name, namespace=namespace)["metadata"]
            if found["uid"] != uid:
                what = f"status of {kind.plural} {name}"
                raise ConflictError(f"{what}: metadata.uid is {found['uid']!r}; the request expected {uid!r}")
            version = found["resourceVersion"]
        return {"resourceVersion": version} if version else {}

    def _read(self, path: str, query: Mapping[str, str], *, what: str) -> Json:
        """Get, and try again within the time for reads while the server gives no answer or asks to wait."""
        end_s = time.monotonic() + self._timing.read_s
        request = Request(method="GET", path=path, what=what, query=query)

        def once() -> Json:
            silence_s = max(0.1, min(self._timing.call_s, end_s - time.monotonic()))
            return self._call(request, silence_s=silence_s)

        return self._retrying(ClusterUnreachableError, TooManyRequestsError)(once)

    def _write(self, request: Request) -> Json:
        """Send, and again only what the server was too busy to look at: without an answer nobody knows whether it was done."""
        return self._retrying(TooManyRequestsError)(partial(self._call, request, silence_s=self._timing.call_s))

    def _retrying(self, *errors: type[ClusterError]) -> Retrying:
        ended = self._sockets.ended

        def worth_another(error: BaseException) -> bool:
            # After a hang-up the next try says so, whatever the server answered before.
            return isinstance(error, errors) and not (ended.is_set() and isinstance(error, ClusterUnreachableError))

        return Retrying(
            retry=retry_if_exception(worth_another),
            stop=stop_before_delay(self._timing.read_s),
            wait=_pause_s,
            sleep=sleep_using_event(ended),
            reraise=True,
        )

    def _call(self, request: Request, *, silence_s: float) -> Json:
        response = self._send(request, silence_s=silence_s)
        return bare(answer_of(_content(response, request.what), request.what))

    def _send(self, request: Request, *, silence_s: float) -> urllib3.BaseHTTPResponse:
        """Send one request and return a success whose body is still to be read. Any other outcome is a ``ClusterError``."""
        response, credentials = self._exchange(request, silence_s)
        if response.status == _UNAUTHORIZED and self._renewed(credentials):
            response.close()
            response, _ = self._exchange(request, silence_s)
        if not 200 <= response.status < 300:  # noqa: PLR2004  # the successes of HTTP
            content = _content(response, request.what)
            raise refusal_of(response.status, content, response.headers.get("Retry-After"), request.what)
        return response

    def _exchange(self, request: Request, silence_s: float) -> tuple[urllib3.BaseHTTPResponse, str | None]:
        """Send one request, when it is its turn. Return the answer and the credentials that were sent."""
        self._bucket.take()
        headers = {"Accept": "application/json", "Content-Type": request.content_type}
        try:
            call = self._api.param_serialize(
                request.method,
                request.path,
                query_params=[*request.query.items()],
                header_params=headers,
                body=request.sent,
                auth_settings=["BearerToken"],
            )
            if request.method != "GET":
                self._before_write()
            answer = self._api.call_api(*call, _request_timeout=(min(silence_s, self._timing.connect_s), silence_s))
        except ConfigException as error:
            # Its message may quote the credential plugin and what that printed.
            raise ForbiddenError(f"{request.what}: no credentials ({type(error).__name__})") from None
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            # The message for TLS has several lines.
            raise ClusterUnreachableError(f"{request.what}: {' '.join(str(error).split())}") from error
        return cast("urllib3.BaseHTTPResponse", answer.response), call[2].get("authorization")

    def _renewed(self, refused: str | None) -> bool:
        """Read the credentials again and return whether they are others than those that were refused.

        The official client does so by the wall clock alone: every minute in a pod, and elsewhere when a plugin's token has
        expired. A token may be revoked or replaced before.
        """
        with self._renewing:
            if self._authorization() == refused:
                try:
                    fresh = self._load()
                except (BadInputError, ConfigException, OSError):
                    return False
                ours = cast("Any", self._api.configuration)
                ours.api_key, ours.refresh_api_key_hook = fresh.api_key, fresh.refresh_api_key_hook
            return self._authorization() != refused

    def _authorization(self) -> str | None:
        return cast("str | None", self._api.configuration.api_key.get("BearerToken"))


def _pause_s(state: RetryCallState) -> float:
    """Return how long to wait before the next try: what the server asked for, else longer every time."""
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, TooManyRequestsError | ClusterUnreachableError) else None
    return _BACKOFF(state) if asked_s is None else asked_s


def _content(response: urllib3.BaseHTTPResponse, what: str) -> bytes:
    try:
        return response.data
    except urllib3.exceptions.HTTPError as error:
        raise ClusterUnreachableError(f"{what}: {error}") from error


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield what arrives as it arrives: a watch must not wait for a full buffer."""
    while chunk := response.read1(_CHUNK_BYTES):
        yield chunk
