"""What is sent to an API server: one request for each verb. Pure, no I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from tfscale.errors import RefusedObjectError
from tfscale.kube.port import FIELD_MANAGER, PODS, Json, Kind

__all__ = [
    "APPLY",
    "Request",
    "applying",
    "binding",
    "check_no_null",
    "collection_path",
    "creating",
    "deleting",
    "evicting",
    "object_path",
    "patching",
    "selectors",
    "watching",
]


APPLY = "application/apply-patch+yaml"
_ODD = re.compile(r"[^ -~]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call: what is sent, and what messages call it."""

    method: str
    path: str
    what: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Json | None = None
    content_type: str = "application/json"

    @property
    def sent(self) -> Json | str | None:
        """What the official client is given as the body: text where it would not know how to write it."""
        return _yaml(self.body) if self.body is not None and self.content_type == APPLY else self.body


def selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    """Return the query that selects objects."""
    given = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in given.items() if value}


def watching(kind: Kind, namespace: str | None, query: Mapping[str, str], *, resource_version: str, limit_s: int) -> Request:
    """Return the request that watches the objects of a kind."""
    asked = {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": resource_version,
        "timeoutSeconds": str(limit_s),
    }
    return Request(method="GET", path=collection_path(kind, namespace), what=f"watch {kind.plural}", query={**query, **asked})


def creating(kind: Kind, obj: Mapping[str, Any], namespace: str | None) -> Request:
    """Return the request that creates an object."""
    what = f"create {kind.plural}"
    home = namespace or (obj.get("metadata") or {}).get("namespace")
    if kind.namespaced and not home:
        raise RefusedObjectError(f"{what}: the namespace is missing")
    return _writing("POST", collection_path(kind, home), _typed(kind, obj), what=what)


def patching(kind: Kind, name: str, patch: Mapping[str, Any], namespace: str | None, *, subresource: str = "") -> Request:
    """Return the request that applies a merge patch."""
    what = f"patch {_part(subresource)}{kind.plural} {name}"
    path = object_path(kind, name, namespace, subresource)
    return _writing("PATCH", path, patch, what=what, content_type="application/merge-patch+json")


def applying(
    kind: Kind,
    obj: Mapping[str, Any],
    namespace: str | None,
    *,
    manager: str,
    force: bool,
    subresource: Literal["", "status"],
) -> Request:
    """Return the request that applies fields. Beside the status, the metadata that the server would take are left out."""
    meta = obj.get("metadata") or {}
    name = meta.get("name") or ""
    what = f"apply {_part(subresource)}{kind.plural} {name}"
    check_no_null(obj, what)
    body = _typed(kind, obj)
    if subresource:
        address = {key: meta[key] for key in ("name", "namespace", "resourceVersion", "uid") if key in meta}
        body = {key: value for key, value in body.items() if key in ("apiVersion", "kind", "status")} | {"metadata": address}
    return _writing(
        "PATCH",
        object_path(kind, name, namespace or meta.get("namespace"), subresource),
        body,
        what=what,
        content_type=APPLY,
        query={"fieldManager": manager, "force": "true" if force else "false"},
    )


def _yaml(body: Json) -> str:
    """Return JSON that is YAML as well: that knows no surrogate pairs, and takes some characters only as escapes."""
    text = json.dumps(body, ensure_ascii=False)
    return _ODD.sub(lambda found: f"\\U{ord(found.group()):08x}", text)


def check_no_null(value: object, what: str, path: str = "") -> None:
    """Raise ``RefusedObjectError`` for null in what is applied.

    The server would keep it, turn it into an empty value or refuse the object, depending on the field (tried on 1.35). To
    give a field up, leave it out.
    """
    if value is None:
        raise RefusedObjectError(f"{what}: {path or 'the object'} is null; want a value, or the field left out")
    if isinstance(value, Mapping):
        for name, part in value.items():
            check_no_null(part, what, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            check_no_null(part, what, f"{path}[{index}]")


def deleting(
    kind: Kind, name: str, namespace: str | None, *, uid: str | None, resource_version: str | None, grace_period_s: int | None
) -> Request:
    """Return the request that deletes an object; what it owns follows in the background."""
    expected = {"uid": uid, "resourceVersion": resource_version}
    options = _delete_options(grace_period_s) | {"preconditions": {key: value for key, value in expected.items() if value}}
    return _writing("DELETE", object_path(kind, name, namespace), options, what=f"delete {kind.plural} {name}")


def evicting(name: str, namespace: str, uid: str | None, grace_period_s: int | None) -> Request:
    """Return the request that evicts a pod."""
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
        "deleteOptions": _delete_options(grace_period_s) | ({"preconditions": {"uid": uid}} if uid else {}),
    }
    return _writing("POST", object_path(PODS, name, namespace, "eviction"), body, what=f"evict pod {name}")


def binding(name: str, namespace: str, *, node: str, uid: str, annotations: Mapping[str, str]) -> Request:
    """Return the request that binds a pod."""
    body = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": uid, "annotations": dict(annotations)},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    return _writing("POST", object_path(PODS, name, namespace, "binding"), body, what=f"bind pod {name}")


def collection_path(kind: Kind, namespace: str | None) -> str:
    """Return where the objects of a kind are listed and created.

    >>> collection_path(Kind("", "v1", "pods", "Pod", namespaced=True), "default")
    '/api/v1/namespaces/default/pods'
    >>> collection_path(Kind("tfscale.io", "v1alpha1", "gpupools", "GPUPool", namespaced=False), None)
    '/apis/tfscale.io/v1alpha1/gpupools'
    """
    if namespace and not kind.namespaced:
        raise RefusedObjectError(f"{kind.plural} are cluster-scoped; the namespace is {namespace!r}, want none")
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    home = f"/namespaces/{_segment(kind, namespace)}" if namespace else ""
    return f"{root}{home}/{kind.plural}"


def object_path(kind: Kind, name: str, namespace: str | None, subresource: str = "") -> str:
    """Return where one object, or a subresource of it, is served."""
    if kind.namespaced and not namespace:
        raise RefusedObjectError(f"{kind.plural} {name}: the namespace is missing")
    path = f"{collection_path(kind, namespace)}/{_segment(kind, name)}"
    return f"{path}/{subresource}" if subresource else path


def _writing(
    method: str,
    path: str,
    body: Mapping[str, Any],
    *,
    what: str,
    content_type: str = "application/json",
    query: Mapping[str, str] | None = None,
) -> Request:
    """Return a write. Its body is a plain copy of what the caller gave; anything but JSON raises ``RefusedObjectError``."""
    try:
        plain: Json = json.loads(json.dumps(dict(body), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RefusedObjectError(f"{what}: the object is not JSON: {error}") from error
    query = query or {"fieldManager": FIELD_MANAGER}
    return Request(method=method, path=path, what=what, query=query, body=plain, content_type=content_type)


def _typed(kind: Kind, obj: Mapping[str, Any]) -> Json:
    return {"apiVersion": kind.api_version, "kind": kind.kind, **obj}


def _part(subresource: str) -> str:
    return f"{subresource} of " if subresource else ""


def _delete_options(grace_period_s: int | None) -> Json:
    options: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
    return options if grace_period_s is None else {**options, "gracePeriodSeconds": grace_period_s}


def _segment(kind: Kind, text: str) -> str:
    """Return one part of a path. An empty one would address the collection: a delete would empty it."""
    if text in ("", ".", "..") or "/" in text:
        raise RefusedObjectError(f"{kind.plural}: the name is {text!r}; want the name of an object or namespace")
    return quote(text, safe="")
