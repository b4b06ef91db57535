"""From HTTP calls to the verbs of a ``Kube``, as an API server answers them. Knows nothing of sockets."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from tfscale.errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    RefusedObjectError,
    TooManyRequestsError,
)
from tfscale.kube.calls import APPLY
from tfscale.kube.port import (
    CONFIG_MAPS,
    CRDS,
    DAEMON_SETS,
    DISRUPTION_BUDGETS,
    EVENTS,
    GPU_POOLS,
    LAUNCH_BATCHES,
    LEASES,
    NODE_REQUESTS,
    NODES,
    PODS,
    Json,
    Kind,
    Kube,
    WatchEvent,
)

__all__ = ["Call", "KubeApi", "Reply", "encoded", "refusal"]

_KINDS = (
    PODS,
    NODES,
    EVENTS,
    CONFIG_MAPS,
    LEASES,
    DAEMON_SETS,
    DISRUPTION_BUDGETS,
    CRDS,
    GPU_POOLS,
    NODE_REQUESTS,
    LAUNCH_BATCHES,
)

_CODES: tuple[tuple[type[ClusterError], int, str], ...] = (
    (NotFoundError, 404, "NotFound"),
    (AlreadyExistsError, 409, "AlreadyExists"),
    (ConflictError, 409, "Conflict"),
    (GoneError, 410, "Expired"),
    (RefusedObjectError, 422, "Invalid"),
    (ForbiddenError, 403, "Forbidden"),
    (TooManyRequestsError, 429, "TooManyRequests"),
    (ClusterError, 500, "InternalError"),
)
"""The first type that fits gives code and reason."""

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>[^/]+))?)?"
)

_POLL_S = 0.02
"""How long an open watch takes to notice a change, or that the server closes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    content_type: str
    body: Json
    headers: Mapping[str, str] = field(default_factory=dict)
    """By name in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer. ``headers`` are added to the usual ones or replace them, ``Content-Length`` included."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Target:
    """What the path of a call is about."""

    kind: Kind
    namespace: str | None
    name: str
    subresource: str


class KubeApi:
    """From calls to the verbs of a ``Kube``. Knows nothing of sockets."""

    def __init__(self, kube: Kube, kinds: Iterable[Kind], *, bookmark_s: float) -> None:
        self._kube = kube
        self._bookmark_s = bookmark_s
        self._served = {(kind.group, kind.version, kind.plural): kind for kind in (*_KINDS, *kinds)}
        self._rests: dict[str, Json] = {}

    def answer(self, call: Call) -> Reply:
        """Answer any call but a watch, or raise the ``ClusterError`` of the store."""
        target = self._target(call.path)
        match call.method, bool(target.name), target.subresource:
            case "GET", False, "":
                body = self._page(target, call.query)
            case "GET", True, "":
                body = self._kube.get(target.kind, target.name, namespace=target.namespace)
            case "POST", False, "":
                created = self._kube.create(target.kind, call.body, namespace=target.namespace)
                return Reply(status=201, body=encoded(created))
            case "POST", True, "binding" | "eviction":
                self._act_on_pod(target, call.body)
                return Reply(status=201, body=encoded({"kind": "Status", "status": "Success"}))
            case "PATCH", True, "" | "status":
                return self._patch(target, call)
            case "DELETE", True, "":
                self._delete(target, call.body)
                body = {"kind": "Status", "apiVersion": "v1", "status": "Success"}
            case _:
                raise NotFoundError("the server could not find the requested resource")
        return Reply(body=encoded(body))

    def watch(self, call: Call, closing: threading.Event) -> Iterator[WatchEvent]:
        """Yield the events of a watch call, and a bookmark when its time is over or the server closes."""
        target = self._target(call.path)
        version = call.query.get("resourceVersion", "")
        deadline = time.monotonic() + int(call.query.get("timeoutSeconds", "300"))
        bookmarks = call.query.get("allowWatchBookmarks") == "true"
        bookmark_at, over = time.monotonic() + self._bookmark_s, False
        while not over:
            # Decided before the last look, so that nothing written in time is missed.
            over = closing.wait(_POLL_S) or time.monotonic() >= deadline
            events = self._kube.watch(
                target.kind, namespace=target.namespace, resource_version=version, timeout_s=0, **_selectors(call.query)
            )
            for event in events:
                version = event.object["metadata"]["resourceVersion"]
                if event.type != "BOOKMARK":
                    yield event
                elif bookmarks and (over or time.monotonic() >= bookmark_at):
                    bookmark_at = time.monotonic() + self._bookmark_s
                    yield event

    def _target(self, path: str) -> _Target:
        match = _PATH.fullmatch(path)
        kind = match and self._served.get((match["group"] or "", match["version"], match["plural"]))
        if not match or not kind:
            raise NotFoundError("the server could not find the requested resource")
        part = {key: unquote(value or "") for key, value in match.groupdict().items()}
        return _Target(kind, part["namespace"] or None, part["name"], part["subresource"])

    def _page(self, target: _Target, query: Mapping[str, str]) -> Json:
        if token := query.get("continue"):
            rest = self._rests.pop(token, None)
            if rest is None:
                raise GoneError("the provided continue parameter is too old")
            # A list goes on from the moment of its first page for as long as a watch could.
            next(self._kube.watch(target.kind, resource_version=rest["resourceVersion"], timeout_s=0), None)
        else:
            found = self._kube.list(target.kind, namespace=target.namespace, **_selectors(query))
            # The real server does not repeat the type on the items of a typed list.
            items = [{key: value for key, value in item.items() if key not in ("apiVersion", "kind")} for item in found.items]
            rest = {"resourceVersion": found.resource_version, "items": items}
        items, limit = rest["items"], int(query.get("limit") or 0)
        metadata = {"resourceVersion": rest["resourceVersion"]}
        if limit and len(items) > limit:
            metadata["continue"] = f"{rest['resourceVersion']}-{len(items)}-{time.monotonic_ns()}"
            self._rests[metadata["continue"]] = {**rest, "items": items[limit:]}
            items = items[:limit]
        kind = target.kind
        return {"apiVersion": kind.api_version, "kind": f"{kind.kind}List", "metadata": metadata, "items": items}

    def _patch(self, target: _Target, call: Call) -> Reply:
        if call.content_type == APPLY:
            return Reply(body=encoded(self._apply(target, call)))
        if call.content_type != "application/merge-patch+json":
            problem = f"the body of a PATCH is {call.content_type}; want a merge patch or an apply patch"
            return _failure(415, "UnsupportedMediaType", problem)
        kind, name, namespace, patch = target.kind, target.name, target.namespace, call.body
        meta = patch.get("metadata") or {}
        if target.subresource and kind.group:
            # The status of a custom resource takes nothing else of the patch into account, not even the uid.
            patch = {**patch, "metadata": {key: value for key, value in meta.items() if key != "uid"}}
        elif meta.get("uid", "") not in ("", self._kube.get(kind, name, namespace=namespace)["metadata"]["uid"]):
            return _failure(422, "Invalid", f"{name}: field is immutable", causes=[{"field": "metadata.uid"}])
        verb = self._kube.patch_status if target.subresource else self._kube.patch
        return Reply(body=encoded(verb(kind, name, patch, namespace=namespace)))

    def _apply(self, target: _Target, call: Call) -> Json:
        meta = call.body.get("metadata") or {}
        if meta.get("name", target.name) != target.name:
            raise RefusedObjectError(f"name in URL is {target.name!r}, in the object {meta.get('name')!r}; want them equal")
        if target.subresource and target.kind.group:
            meta = {key: value for key, value in meta.items() if key != "uid"}
        return self._kube.apply(
            target.kind,
            {**call.body, "metadata": {**meta, "name": target.name}},
            namespace=target.namespace,
            force=call.query.get("force") == "true",
            subresource="status" if target.subresource else "",
            manager=call.query.get("fieldManager", ""),
        )

    def _delete(self, target: _Target, options: Json) -> None:
        expected = options.get("preconditions") or {}
        self._kube.delete(
            target.kind,
            target.name,
            namespace=target.namespace,
            uid=expected.get("uid"),
            resource_version=expected.get("resourceVersion"),
            grace_period_s=options.get("gracePeriodSeconds"),
        )

    def _act_on_pod(self, target: _Target, body: Json) -> None:
        meta = body.get("metadata") or {}
        if target.kind != PODS or meta.get("name") != target.name:
            raise RefusedObjectError(f"name in URL is {target.name!r}, in the object {meta.get('name')!r}; want them equal")
        namespace = target.namespace or ""
        if target.subresource == "eviction":
            options = body.get("deleteOptions") or {}
            self._kube.evict(
                target.name,
                namespace=namespace,
                uid=(options.get("preconditions") or {}).get("uid"),
                grace_period_s=options.get("gracePeriodSeconds"),
            )
        else:
            self._kube.bind(
                target.name,
                namespace=namespace,
                node=body["target"]["name"],
                uid=meta.get("uid", ""),
                annotations=meta.get("annotations") or {},
            )


def encoded(body: Json) -> bytes:
    """Return an object as it is sent."""
    return json.dumps(body).encode()


def _selectors(query: Mapping[str, str]) -> dict[str, str]:
    return {"label_selector": query.get("labelSelector", ""), "field_selector": query.get("fieldSelector", "")}


def refusal(error: ClusterError) -> Reply:
    """Return the Status that tells a client of an error."""
    code, reason = next((code, reason) for kind, code, reason in _CODES if isinstance(error, kind))
    wait_s = error.retry_after_s if isinstance(error, TooManyRequestsError) else None
    return _failure(code, reason, str(error), headers={} if wait_s is None else {"Retry-After": str(wait_s)})


def _failure(
    code: int, reason: str, message: str, *, headers: Mapping[str, str] | None = None, causes: Sequence[Json] = ()
) -> Reply:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}
    return Reply(status=code, body=encoded({**status, "details": {"causes": [*causes]}}), headers=headers or {})
