"""The Kubernetes port on the official client: the only file that imports ``kubernetes``.

The client gives configuration, credentials, TLS and the connection pool. Paths, bodies and errors are handled here over
plain JSON: the typed methods of the client would convert every object twice, and its ``create_namespaced_pod_binding``
raises after it has succeeded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import urllib3
import yaml
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from tfscale.errors import (
    BadInputError,
    ClusterUnreachableError,
    ConflictError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    Problem,
    RefusedObjectError,
    TooManyRequestsError,
)
from tfscale.kube import kubeconfig as files
from tfscale.kube.port import PODS, Json, Kind, Listing, WatchEvent
from tfscale.kube.wire import answer_of, body_of, collection_path, event_of, lines_of, object_path, refusal_of

__all__ = ["KubeClient", "Timing"]

_PAGE = 500
"""Objects per page of a list; kubectl asks for as many."""

_CHUNK_BYTES = 64 * 1024

_POOL_SIZE = 16

_BACKOFF = wait_random_exponential(multiplier=0.2, max=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long to wait for the server."""

    call_s: float = 10.0
    """For a connection, and for each silence while one request is answered."""
    read_s: float = 10.0
    """For one get or one page of a list with all its retries. Writes are not retried: the loop observes again."""
    watch_margin_s: float = 15.0
    """How much longer than the server's own limit a watch waits in silence before its connection counts as dead."""


class KubeClient:
    """Talks to a real API server. Implements :class:`tfscale.kube.port.Kube`; safe for use from several threads."""

    def __init__(self, configuration: Configuration, *, timing: Timing = Timing()) -> None:
        # Retries are made here, for reads alone: the client's own would send deletes twice.
        cast("Any", configuration).retries = False
        configuration.connection_pool_maxsize = _POOL_SIZE
        configuration.keep_alive = True
        self._api = ApiClient(configuration)
        self._timing = timing

    @classmethod
    def connect(cls, kubeconfig: str | None = None, context: str | None = None, *, timing: Timing = Timing()) -> Self:
        """Return a client for a cluster; nothing is called yet.

        Without ``kubeconfig`` and ``context`` a pod uses its own service account; elsewhere ``$KUBECONFIG`` or
        ``~/.kube/config`` is read. Raises ``BadInputError`` for a file that cannot be used.
        """
        if kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            return cls(_inside(), timing=timing)
        paths = files.find(kubeconfig)
        configuration = Configuration()
        try:
            load_kube_config(paths, context, configuration, persist_config=False)  # type: ignore[no-untyped-call]
        except (ConfigException, yaml.YAMLError, OSError, LookupError, AttributeError, TypeError, ValueError) as error:
            raise files.explain(paths, context, error) from None
        return cls(configuration, timing=timing)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()  # type: ignore[no-untyped-call]

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """Return all objects that match, from one moment."""
        path = collection_path(kind, namespace)
        query = _selectors(label_selector, field_selector)
        try:
            return self._pages(kind, path, {**query, "limit": str(_PAGE)})
        except GoneError:
            # The moment of the first page is no longer served. One large page has only one moment.
            return self._pages(kind, path, query)
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
        what = f"watch {kind.plural}"
        limit_s = max(1, timeout_s)
        query = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(limit_s),
        }
        silence_s = limit_s + self._timing.watch_margin_s
        response = self._send("GET", collection_path(kind, namespace), what=what, silence_s=silence_s, query=query)
        try:
            for line in lines_of(_chunks(response), what):
                yield event_of(line, what)
        except urllib3.exceptions.HTTPError as error:
            raise ClusterUnreachableError(f"{what}: {error}") from error
        finally:
            response.close()

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Return one object, or raise ``NotFoundError``."""
        return self._read(object_path(kind, name, namespace), {}, what=f"get {kind.plural} {name}")

    def create(self, kind: Kind, obj: Json, *, namespace: str | None = None) -> Json:
        """Create and return the object. The namespace may be given in the object alone."""
        home = namespace or (obj.get("metadata") or {}).get("namespace")
        if kind.namespaced and not home:
            raise RefusedObjectError(f"create {kind.plural}: the namespace is missing")
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        return self._write("POST", collection_path(kind, home), body, what=f"create {kind.plural}")

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to everything but the status."""
        return self._write("PATCH", object_path(kind, name, namespace), patch, what=f"patch {kind.plural} {name}")

    def patch_status(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to the status alone. A uid without a resource version costs one more call."""
        what = f"patch status of {kind.plural} {name}"
        expected = patch.get("metadata") or {}
        version = expected.get("resourceVersion")
        if expected.get("uid") and not version:
            # The status of a custom resource takes no notice of a uid (tried on 1.35), but every status of a version.
            version = self._version_of(kind, name, namespace, expected["uid"], what)
        body = {key: value for key, value in patch.items() if key == "status"}
        if version:
            body["metadata"] = {"resourceVersion": version}
        return self._write("PATCH", object_path(kind, name, namespace, "status"), body, what=what)

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
        expected = {"uid": uid, "resourceVersion": resource_version}
        options = _delete_options(grace_period_s) | {"preconditions": {key: value for key, value in expected.items() if value}}
        self._write("DELETE", object_path(kind, name, namespace), options, what=f"delete {kind.plural} {name}")

    def evict(self, name: str, *, namespace: str, grace_period_s: int | None = None) -> None:
        """Evict a pod."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": _delete_options(grace_period_s),
        }
        self._write("POST", object_path(PODS, name, namespace, "eviction"), body, what=f"evict pod {name}")

    def bind(self, name: str, *, namespace: str, node: str, uid: str, annotations: Mapping[str, str]) -> None:
        """Write node and annotations into a pending pod in one request."""
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": uid, "annotations": dict(annotations)},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        self._write("POST", object_path(PODS, name, namespace, "binding"), body, what=f"bind pod {name}")

    def _pages(self, kind: Kind, path: str, query: Mapping[str, str]) -> Listing:
        items: list[Json] = []
        token = ""
        while True:
            page = self._read(path, {**query, "continue": token} if token else query, what=f"list {kind.plural}")
            # The items of a typed list come without their type.
            items += ({"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page.get("items") or ())
            token = page["metadata"].get("continue") or ""
            if not token:
                return Listing(items=items, resource_version=page["metadata"]["resourceVersion"])

    def _version_of(self, kind: Kind, name: str, namespace: str | None, uid: str, what: str) -> str:
        meta = self.get(kind, name, namespace=namespace)["metadata"]
        if meta["uid"] != uid:
            raise ConflictError(f"{what}: metadata.uid is {meta['uid']!r}; the request expected {uid!r}")
        return str(meta["resourceVersion"])

    def _read(self, path: str, query: Mapping[str, str], *, what: str) -> Json:
        """Get, and try again within the time for reads while the server gives no answer or asks to wait."""
        end_s = time.monotonic() + self._timing.read_s

        def once() -> Json:
            silence_s = max(0.1, min(self._timing.call_s, end_s - time.monotonic()))
            return self._call("GET", path, what=what, silence_s=silence_s, query=query)

        attempts = Retrying(
            retry=retry_if_exception_type((ClusterUnreachableError, TooManyRequestsError)),
            stop=stop_before_delay(self._timing.read_s),
            wait=_pause_s,
            reraise=True,
        )
        return attempts(once)

    def _write(self, method: str, path: str, body: Mapping[str, Any], *, what: str) -> Json:
        """Send once: without an answer nobody knows whether it was done."""
        return self._call(method, path, what=what, silence_s=self._timing.call_s, query={}, body=body_of(body, what))

    def _call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        silence_s: float,
        query: Mapping[str, str],
        body: Json | None = None,
    ) -> Json:
        response = self._send(method, path, what=what, silence_s=silence_s, query=query, body=body)
        return answer_of(_content(response, what), what)

    def _send(
        self, method: str, path: str, *, what: str, silence_s: float, query: Mapping[str, str], body: Json | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send one request and return a success whose body is still to be read. Any other outcome is a ``ClusterError``."""
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            request = self._api.param_serialize(
                method, path, query_params=[*query.items()], header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            answer = self._api.call_api(*request, _request_timeout=(min(silence_s, self._timing.call_s), silence_s))
        except ConfigException as error:
            # Its message may quote the credential plugin and what that printed.
            raise ForbiddenError(f"{what}: no credentials ({type(error).__name__})") from None
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            # The message for TLS has several lines.
            raise ClusterUnreachableError(f"{what}: {' '.join(str(error).split())}") from error
        response = cast("urllib3.BaseHTTPResponse", answer.response)
        if not 200 <= response.status < 300:  # noqa: PLR2004  # the successes of HTTP
            raise refusal_of(response.status, _content(response, what), response.headers.get("Retry-After"), what)
        return response


def _inside() -> Configuration:
    """Return the configuration of a pod, whose token is read again every minute."""
    configuration = Configuration()
    try:
        load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        want = "the token and the CA certificate that Kubernetes mounts"
        problem = Problem(where="the service account of this pod", field="files", value=str(error), want=want)
        raise BadInputError(problem) from error
    return configuration


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    given = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in given.items() if value}


def _delete_options(grace_period_s: int | None) -> Json:
    options: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
    return options if grace_period_s is None else {**options, "gracePeriodSeconds": grace_period_s}


def _pause_s(state: RetryCallState) -> float:
    """Return how long to wait before the next try: what the server asked for, else longer every time."""
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, TooManyRequestsError) else None
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
