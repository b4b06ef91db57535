"""Records in ConfigMaps: for a controller that may not, or would rather not, install tfscale's resource definitions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from tfscale.errors import ConflictError, RefusedObjectError
from tfscale.kube.port import (
    CONFIG_MAPS,
    FIELD_MANAGER,
    GPU_POOLS,
    LAUNCH_BATCHES,
    NODE_REQUESTS,
    Json,
    Kind,
    Kube,
    Listing,
    WatchEvent,
)

__all__ = ["InConfigMaps"]

KIND_LABEL = "tfscale.io/kind"
_TRIES = 5
"""How often a change is tried again after somebody else wrote in between."""


class InConfigMaps:
    """A :class:`~tfscale.kube.port.Kube` that keeps some kinds as ConfigMaps of one namespace and passes on all others.

    Spec and status of such an object are JSON texts in ``data``; its labels, annotations and finalizers are the ConfigMap's
    own. What the API server does for custom resources it does here too: preconditions, finalizers, watches. It counts no
    generations and checks no schema, and these kinds take no field selectors. Who applied what is told apart for labels,
    annotations and finalizers, but only as a whole for the spec and for the status. A text that is no JSON any more is
    passed on as it is, so that whoever reads the object can name it.

    ConfigMaps hold at most 1 MiB, and names are shorter by the prefix ``tfscale.launchbatches.`` than the 253 characters of
    Kubernetes: an object beyond that is refused. The service account needs get, list, watch, create, patch and delete for
    ``configmaps`` in the namespace. Whoever may write there may make tfscale launch machines.
    """

    def __init__(
        self, kube: Kube, *, namespace: str, kinds: Collection[Kind] = (GPU_POOLS, NODE_REQUESTS, LAUNCH_BATCHES)
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._kinds = frozenset(kinds)

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """Return all objects that match."""
        if kind not in self._kinds:
            return self._kube.list(kind, namespace=namespace, label_selector=label_selector, field_selector=field_selector)
        selector = _selector(kind, label_selector, field_selector)
        found = self._kube.list(CONFIG_MAPS, namespace=self._namespace, label_selector=selector)
        return Listing(items=[_object(kind, obj) for obj in found.items], resource_version=found.resource_version)

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
        """Yield what changed."""
        if kind not in self._kinds:
            yield from self._kube.watch(
                kind,
                resource_version=resource_version,
                namespace=namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                timeout_s=timeout_s,
            )
            return
        events = self._kube.watch(
            CONFIG_MAPS,
            resource_version=resource_version,
            namespace=self._namespace,
            label_selector=_selector(kind, label_selector, field_selector),
            timeout_s=timeout_s,
        )
        yield from (
            event if event.type == "BOOKMARK" else WatchEvent(event.type, _object(kind, event.object)) for event in events
        )

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Return one object."""
        if kind not in self._kinds:
            return self._kube.get(kind, name, namespace=namespace)
        return _object(kind, self._kube.get(CONFIG_MAPS, _name(kind, name), namespace=self._namespace))

    def create(self, kind: Kind, obj: Json, *, namespace: str | None = None) -> Json:
        """Create and return the object. As with a resource that has a status subresource, the status is dropped."""
        if kind not in self._kinds:
            return self._kube.create(kind, obj, namespace=namespace)
        meta = obj["metadata"]
        labels = {**meta.get("labels", {}), KIND_LABEL: kind.plural}
        stored = {
            "metadata": {**meta, "name": _name(kind, meta["name"]), "namespace": self._namespace, "labels": labels},
            "data": {"spec": _text(obj.get("spec", {}))},
        }
        return _object(kind, self._kube.create(CONFIG_MAPS, stored, namespace=self._namespace))

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to everything but the status."""
        if kind not in self._kinds:
            return self._kube.patch(kind, name, patch, namespace=namespace)
        return self._patched(kind, name, patch, "spec", dict(patch.get("metadata", {})))

    def patch_status(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to the status alone."""
        if kind not in self._kinds:
            return self._kube.patch_status(kind, name, patch, namespace=namespace)
        expected = {key: value for key, value in patch.get("metadata", {}).items() if key in ("resourceVersion", "uid")}
        return self._patched(kind, name, patch, "status", expected)

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
        """Make the object carry these fields. Of a record, the whole spec is one value, and so is the whole status."""
        if kind not in self._kinds:
            return self._kube.apply(kind, obj, namespace=namespace, force=force, subresource=subresource, manager=manager)
        meta = obj["metadata"]
        given = {**meta, "name": _name(kind, meta["name"]), "namespace": self._namespace}
        if subresource:
            current = self._kube.get(CONFIG_MAPS, given["name"], namespace=self._namespace)["metadata"]
            # An object that was deleted in between is not made again by its status.
            given = {key: given[key] for key in ("name", "namespace", "resourceVersion") if key in given} | {
                "uid": current["uid"]
            }
            if meta.get("uid", current["uid"]) != current["uid"]:
                raise ConflictError(f"{kind.plural} {meta['name']}: the uid is {current['uid']!r}; want {meta['uid']!r}")
            # One name owns what it applied last: the status would take the place of the spec.
            manager = f"{manager}-status"
        else:
            given["labels"] = {**meta.get("labels", {}), KIND_LABEL: kind.plural}
        part = subresource or "spec"
        data: Json = {"data": {part: _text(obj[part])}} if part in obj else {}
        stored = self._kube.apply(CONFIG_MAPS, {"metadata": given, **data}, force=force, manager=manager)
        return _object(kind, stored)

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
        """Delete, or mark as deleted where finalizers remain."""
        where = (CONFIG_MAPS, _name(kind, name)) if kind in self._kinds else (kind, name)
        home = self._namespace if kind in self._kinds else namespace
        self._kube.delete(*where, namespace=home, uid=uid, resource_version=resource_version, grace_period_s=grace_period_s)

    def evict(self, name: str, *, namespace: str, uid: str | None = None, grace_period_s: int | None = None) -> None:
        """Evict a pod."""
        self._kube.evict(name, namespace=namespace, uid=uid, grace_period_s=grace_period_s)

    def bind(self, name: str, *, namespace: str, node: str, uid: str, annotations: Mapping[str, str]) -> None:
        """Bind a pod."""
        self._kube.bind(name, namespace=namespace, node=node, uid=uid, annotations=annotations)

    def _patched(self, kind: Kind, name: str, patch: Mapping[str, Any], part: str, meta: Json) -> Json:
        """Merge into one of the texts. Somebody may write between our read and our write: then it is done again."""
        for left in reversed(range(_TRIES)):
            current = self._kube.get(CONFIG_MAPS, _name(kind, name), namespace=self._namespace)
            merged = _merged(_parts(current).get(part, {}), patch.get(part, {}))
            change = {
                "metadata": {"resourceVersion": current["metadata"]["resourceVersion"], **meta},
                "data": {part: _text(merged)},
            }
            try:
                return _object(kind, self._kube.patch(CONFIG_MAPS, _name(kind, name), change, namespace=self._namespace))
            except ConflictError:
                # What the caller expected himself does not hold, or it went on for too long.
                if {"resourceVersion", "uid"} & meta.keys() or not left:
                    raise
        raise AssertionError  # pragma: no cover - the last try returns or raises


def _name(kind: Kind, name: str) -> str:
    return f"tfscale.{kind.plural}.{name}"


def _selector(kind: Kind, label_selector: str, field_selector: str) -> str:
    if field_selector:
        raise RefusedObjectError(f"{kind.plural}: field selector is {field_selector!r}; want none for what is kept in ConfigMaps")
    return ",".join(filter(None, (f"{KIND_LABEL}={kind.plural}", label_selector)))


def _object(kind: Kind, stored: Json) -> Json:
    meta = {key: value for key, value in stored["metadata"].items() if key != "namespace"}
    labels = {key: value for key, value in meta.pop("labels", {}).items() if key != KIND_LABEL}
    meta["name"] = meta["name"].removeprefix(_name(kind, ""))
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": meta | ({"labels": labels} if labels else {}),
        **_parts(stored),
    }


def _parts(stored: Json) -> Json:
    """Return spec and status. People edit ConfigMaps: one that is broken must not hide all others."""
    data = stored.get("data") or {}
    return {part: _value(data[part]) for part in ("spec", "status") if part in data}


def _value(text: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _merged(value: Any, patch: Any) -> Any:  # noqa: ANN401 - any JSON
    """Apply a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, Mapping):
        return patch
    kept = dict(value) if isinstance(value, Mapping) else {}
    for key, change in patch.items():
        if change is None:
            kept.pop(key, None)
        else:
            kept[key] = _merged(kept.get(key), change)
    return kept


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON
    return json.dumps(value, sort_keys=True, allow_nan=False)
