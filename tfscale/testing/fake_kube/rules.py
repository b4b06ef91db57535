"""What the API server checks and fills in on a write: an object and a patch in, a new object out. Nothing is stored here.

Source: the storage strategies of kube-apiserver 1.35 (pods, nodes, custom resources); every rule is asserted against a
real one by :class:`tfscale.testing.KubeContract`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tfscale.errors import ConflictError, NotFoundError, RefusedObjectError
from tfscale.kube.calls import check_no_null
from tfscale.kube.port import CONFIG_MAPS, DISRUPTION_BUDGETS, LEASES, NODES, PODS, Json, Kind
from tfscale.testing.fake_kube.collecting import check_references
from tfscale.testing.fake_kube.specs import stored_spec
from tfscale.testing.fake_kube.syntax import check_annotations, check_labels, check_name, refusal

__all__ = [
    "applicable",
    "applied_part",
    "as_json",
    "bound",
    "changed",
    "changed_status",
    "check_expected",
    "copied",
    "created",
    "namespace_of",
    "replaced",
    "replaced_status",
    "restored",
    "same",
    "timestamp",
    "title",
    "with_condition",
]

_WITHOUT_STATUS = {
    ("", "configmaps"),
    ("", "events"),
    ("", "secrets"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
}
_WITHOUT_GENERATION = _WITHOUT_STATUS | {("", "namespaces"), ("", "nodes")}
"""The server counts no generations for these, nodes included."""

_SERVER_OWNS = ("uid", "resourceVersion", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")

_NEVER_CREATED = ("deletionTimestamp", "deletionGracePeriodSeconds", "managedFields")

_SHAPES: Mapping[str, type] = {"labels": dict, "annotations": dict, "finalizers": list, "ownerReferences": list}

_SILENT_WHEN_EMPTY = {NODES: ("taints", "unschedulable"), PODS: ("schedulingGates", "tolerations")}
"""Of their specs, what the server leaves out when it is empty or false."""

_POD_DEFAULTS = {"restartPolicy": "Always", "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30}


def title(kind: Kind, namespace: str | None, name: str) -> str:
    """Return what messages call an object: ``pod default/asr-0``."""
    return f"{kind.kind.lower()} {namespace}/{name}" if kind.namespaced else f"{kind.kind.lower()} {name}"


def timestamp(seconds: float) -> str:
    """Return seconds since the epoch as Kubernetes writes them.

    >>> timestamp(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_json(value: Mapping[str, Any]) -> Json:
    """Return a copy of what the caller gave, as it would arrive over HTTP. Anything but JSON raises ``RefusedObjectError``."""
    try:
        plain: Json = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RefusedObjectError(f"the object is not JSON: {error}") from error
    for field in ("metadata", "spec", "status"):
        if not isinstance(plain.get(field) or {}, dict):
            raise refusal("the object", field, plain[field], "an object")
    return plain


def copied(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    """Return a deep copy of a JSON value; several times faster than ``copy.deepcopy``."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def same(one: Json, other: Json) -> bool:
    """Return whether two objects are the same JSON; Python alone takes ``1``, ``1.0`` and ``true`` for equal."""
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def namespace_of(kind: Kind, namespace: str | None, obj: Mapping[str, Any]) -> str:
    """Return the namespace that an object is written to, empty for cluster-scoped kinds; the object must not name another."""
    named = (obj.get("metadata") or {}).get("namespace") or None
    if not isinstance(named, str | None):
        raise refusal(kind.plural, "metadata.namespace", named, "text")
    if not kind.namespaced:
        if namespace or named:
            raise refusal(kind.plural, "namespace", namespace or named, f"none: {kind.plural} are cluster-scoped")
        return ""
    if not (namespace or named):
        raise refusal(kind.plural, "namespace", "", "a namespace")
    if namespace and named and namespace != named:
        raise refusal(kind.plural, "metadata.namespace", named, f"the namespace of the request, {namespace}")
    return namespace or named or ""


def created(kind: Kind, obj: Json, *, namespace: str, name: str, uid: str, now_s: float) -> Json:
    """Return the object that is stored for a create, without its resource version.

    The status is dropped where it is a subresource. Pods begin as Pending; a Node keeps the status that it was created with.
    """
    where = title(kind, namespace, name)
    _check_type(kind, obj, where)
    meta = obj.get("metadata") or {}
    if meta.get("resourceVersion"):
        raise refusal(where, "metadata.resourceVersion", meta["resourceVersion"], "none on objects to be created")
    meta = {key: value for key, value in meta.items() if key not in _NEVER_CREATED}
    meta |= {"name": name, "uid": uid, "creationTimestamp": timestamp(now_s)}
    if kind.namespaced:
        meta["namespace"] = namespace
    if (kind.group, kind.plural) not in _WITHOUT_GENERATION:
        meta["generation"] = 1
    new = {**obj, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta}
    if kind == NODES:
        new["status"] = new.get("status") or {}
    elif _has_status(kind):
        new.pop("status", None)
    if kind == PODS:
        new["spec"] = _POD_DEFAULTS | (new.get("spec") or {})
        new["status"] = {"phase": "Pending"}
        if new["spec"].get("schedulingGates"):
            new = with_condition(new, "PodScheduled", now_s, status="False", reason="SchedulingGated")
    _check_meta(where, new)
    return _tidy(kind, new, where)


def restored(kind: Kind, obj: Json, *, namespace: str, name: str, uid: str, now_s: float) -> Json:
    """Return an object that a server had stored before, as it was, without its resource version.

    Only what no stored object lacks is filled in. Raises ``RefusedObjectError`` for what no server would have stored.
    """
    where = title(kind, namespace, name)
    _check_type(kind, obj, where)
    meta = {"uid": uid, "creationTimestamp": timestamp(now_s), **_given(obj.get("metadata")), "name": name}
    meta.pop("managedFields", None)
    if kind.namespaced:
        meta["namespace"] = namespace
    new = {**obj, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta}
    if kind == PODS:
        new["spec"] = _POD_DEFAULTS | _given(new.get("spec"))
        new["status"] = {"phase": "Pending"} | _given(new.get("status"))
    _check_meta(where, new)
    return _tidy(kind, new, where)


def check_expected(current: Json, where: str, *, uid: str | None, resource_version: str | None) -> None:
    """Raise ``ConflictError`` where the caller expected another object or another version of it."""
    meta = current["metadata"]
    for field, want in (("uid", uid), ("resourceVersion", resource_version)):
        if want and want != meta[field]:
            raise ConflictError(f"{where}: metadata.{field} is {meta[field]!r}; the request expected {want!r}")


def changed(kind: Kind, current: Json, patch: Json, where: str) -> Json:
    """Return the object after a merge patch of everything but the status.

    What only the server may write (uid, timestamps, generation) stays as it is.
    """
    _check_patch(current, patch, where)
    return replaced(kind, current, _merged(current, patch), where)


def replaced(kind: Kind, current: Json, new: Json, where: str) -> Json:
    """Return what is stored when an object becomes another one: its status stays, and what only the server may write."""
    new = {**new}
    _check_type(kind, new, where)
    new["metadata"] = _kept_metadata(current["metadata"], new.get("metadata"), where)
    if _has_status(kind):
        new = _with_status(new, current.get("status"))
    _check_meta(where, new)
    new = _tidy(kind, new, where)
    _check_frozen(kind, current, new, where)
    if "generation" in new["metadata"] and not same(_generated(new), _generated(current)):
        new["metadata"]["generation"] += 1
    return new


def changed_status(kind: Kind, current: Json, patch: Json, where: str) -> Json:
    """Return the object after a merge patch of its status alone."""
    _check_has_status(kind, where)
    _check_patch(current, patch, where)
    status = _merged(current.get("status"), patch["status"]) if "status" in patch else current.get("status")
    return _with_status(current, status)


def replaced_status(kind: Kind, current: Json, new: Json, where: str) -> Json:
    """Return the object with the status of another one."""
    _check_has_status(kind, where)
    return _with_status(current, new.get("status"))


def applicable(kind: Kind, obj: Mapping[str, Any], *, manager: str, subresource: str) -> Json:
    """Return what an apply says of a part of an object, or raise ``RefusedObjectError`` for what nobody can apply."""
    given = as_json(obj)
    meta = given.get("metadata") or {}
    where = f"apply {kind.plural} {meta.get('name', '')}"
    if not manager:
        raise refusal(where, "fieldManager", manager, "a name")
    if "managedFields" in meta:
        raise refusal(where, "metadata.managedFields", "set", "none")
    if not meta.get("name"):
        raise refusal(where, "metadata.name", "", "a name")
    check_no_null(given, where)
    if subresource:
        _check_has_status(kind, where)
        return {key: value for key, value in given.items() if key in ("apiVersion", "kind", "metadata", "status")}
    return given


def bound(pod: Json, node: str, annotations: Json, now_s: float) -> Json:
    """Return a pod on its node; the annotations are added to those that it has."""
    meta = {**pod["metadata"], "annotations": {**(pod["metadata"].get("annotations") or {}), **annotations}}
    placed = {**pod, "metadata": meta, "spec": {**pod["spec"], "nodeName": node}}
    return with_condition(_tidy(PODS, placed, title(PODS, meta.get("namespace"), meta["name"])), "PodScheduled", now_s)


def with_condition(obj: Json, condition_type: str, now_s: float, *, status: str = "True", **fields: str) -> Json:
    """Return the object with one condition of its status set; its time changes only with its value."""
    before = obj.get("status") or {}
    conditions = {condition.get("type", ""): condition for condition in before.get("conditions") or ()}
    old = conditions.get(condition_type, {})
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    conditions[condition_type] = {
        "type": condition_type,
        "status": status,
        "lastTransitionTime": since or timestamp(now_s),
        **fields,
    }
    return _with_status(obj, {**before, "conditions": [*conditions.values()]})


def applied_part(kind: Kind, given: Json, subresource: str) -> Json:
    """Return what an apply can change of an object that exists."""
    if subresource:
        return {key: value for key, value in given.items() if key == "status"}
    meta = {key: value for key, value in given["metadata"].items() if key not in ("uid", "resourceVersion")}
    return {**{key: value for key, value in given.items() if key != "status" or not _has_status(kind)}, "metadata": meta}


def _given(fields: Json | None) -> Json:
    """Return the fields that have a value: null is absent."""
    return {key: value for key, value in (fields or {}).items() if value is not None}


def _merged(target: Any, patch: Any) -> Any:  # noqa: ANN401  # any JSON value
    """Apply a merge patch: objects are merged, null removes, everything else replaces (RFC 7386, section 2)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _has_status(kind: Kind) -> bool:
    return (kind.group, kind.plural) not in _WITHOUT_STATUS


def _check_has_status(kind: Kind, where: str) -> None:
    if not _has_status(kind):
        raise NotFoundError(f"{where}: {kind.plural} have no status subresource")


def _with_status(obj: Json, status: Json | None) -> Json:
    bare = {key: value for key, value in obj.items() if key != "status"}
    return bare if status is None else {**bare, "status": status}


def _generated(obj: Json) -> Json:
    """Return the part of an object whose change makes a new generation."""
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def _check_type(kind: Kind, obj: Json, where: str) -> None:
    for field, want in (("apiVersion", kind.api_version), ("kind", kind.kind)):
        if obj.get(field, want) != want:
            raise refusal(where, field, obj[field], want)


def _check_patch(current: Json, patch: Json, where: str) -> None:
    meta = patch.get("metadata") or {}
    check_expected(current, where, uid=meta.get("uid"), resource_version=meta.get("resourceVersion"))


def _kept_metadata(old: Json, new: object, where: str) -> Json:
    """Return the metadata after a patch, in a dict of its own: what the server owns is as it was."""
    if not isinstance(new, dict):
        raise refusal(where, "metadata", new, "an object")
    for field in ("name", "namespace"):
        if new.get(field) != old.get(field):
            raise refusal(where, f"metadata.{field}", new.get(field), f"{old.get(field)}: it never changes")
    if "deletionTimestamp" in new and "deletionTimestamp" not in old:
        raise refusal(where, "metadata.deletionTimestamp", new["deletionTimestamp"], "a delete instead of a patch")
    added = set(new.get("finalizers") or ()) - set(old.get("finalizers") or ())
    if "deletionTimestamp" in old and added:
        raise refusal(where, "metadata.finalizers", ", ".join(sorted(added)), "none added while the object is being deleted")
    theirs = {field: value for field, value in new.items() if field not in _SERVER_OWNS}
    return theirs | {field: old[field] for field in _SERVER_OWNS if field in old}


def _check_meta(where: str, obj: Json) -> None:
    meta = obj["metadata"]
    check_name(where, meta["name"])
    for field, shape in _SHAPES.items():
        if not isinstance(meta.get(field) or shape(), shape):
            raise refusal(where, f"metadata.{field}", meta[field], "an object" if shape is dict else "a list")
    check_references(where, meta.get("ownerReferences") or ())
    check_labels(where, meta.get("labels") or {})
    check_annotations(where, meta.get("annotations") or {})


def _tidy(kind: Kind, obj: Json, where: str) -> Json:
    """Return the object as it is stored: without what says nothing, so that a write of it is no change."""
    if kind in (LEASES, DISRUPTION_BUDGETS):
        obj = {**obj, "spec": stored_spec(kind, obj.get("spec") or {}, where)}
    meta = {key: value for key, value in obj["metadata"].items() if key not in _SHAPES or value}
    if kind == CONFIG_MAPS:
        obj = {key: value for key, value in obj.items() if key not in ("data", "binaryData") or value}
    if silent := _SILENT_WHEN_EMPTY.get(kind):
        spec = obj.get("spec") or {}
        obj = {**obj, "spec": {key: value for key, value in spec.items() if key not in silent or value}}
    return {**obj, "metadata": meta}


def _check_frozen(kind: Kind, current: Json, new: Json, where: str) -> None:
    if kind == PODS:
        _check_pod_spec(current["spec"], new.get("spec") or {}, where)
    if kind == NODES:
        provider = (current.get("spec") or {}).get("providerID")
        if provider and (new.get("spec") or {}).get("providerID") != provider:
            raise refusal(where, "spec.providerID", "changed", f"{provider}: it never changes")


def _check_pod_spec(old: Json, new: Json, where: str) -> None:
    """Refuse what cannot change. The real server also takes some changes of deadlines, which are refused here."""
    if _frozen(old) != _frozen(new):
        raise refusal(where, "spec", "changed", "changes of images, tolerations and scheduling gates only; bind to set the node")
    if any(toleration not in (new.get("tolerations") or ()) for toleration in old.get("tolerations") or ()):
        raise refusal(where, "spec.tolerations", "changed", "additions only")
    if any(gate not in (old.get("schedulingGates") or ()) for gate in new.get("schedulingGates") or ()):
        raise refusal(where, "spec.schedulingGates", "changed", "removals only")


def _frozen(spec: Json) -> Json:
    frozen = {key: value for key, value in spec.items() if key not in ("schedulingGates", "tolerations")}
    for field in ("containers", "initContainers"):
        frozen[field] = [{key: value for key, value in one.items() if key != "image"} for one in spec.get(field) or ()]
    return frozen
