"""What is kept in memory of the objects of a large cluster: what the model reads of them, and nothing else.

A pod is cut from some 15 KiB to about 3 KiB, a node with its images from 50 KiB to 5 KiB. Values that are not of the type
that the API has are kept as they are, so that whoever reads them can still say what is wrong with them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from tfscale.kube.port import NODES, PODS, Json, Kind
from tfscale.kube.requests import OWN_PREFIX, TENSOR_FUSION

__all__ = ["kept"]

Shape = Mapping[str, "Shape | None"] | tuple["Shape"]
"""The keys that are kept, each with the shape of its value or None for all of it; in a tuple, the shape of a list's items."""

_LONGEST_SHARED = 64
"""Characters. Longer texts are rarely the same twice."""

_META: Shape = {
    "name": None,
    "namespace": None,
    "uid": None,
    "resourceVersion": None,
    "creationTimestamp": None,
    "deletionTimestamp": None,
    "labels": None,
    "annotations": None,
    "ownerReferences": ({"apiVersion": None, "kind": None, "name": None},),
}
_CONTAINER: Shape = {
    "resources": {"requests": None, "limits": None},
    "restartPolicy": None,
    "ports": ({"hostPort": None},),
}
_REQUIRED: Shape = {"requiredDuringSchedulingIgnoredDuringExecution": None}
_POD: Shape = {
    "apiVersion": None,
    "kind": None,
    "metadata": _META,
    "spec": {
        "affinity": {"nodeAffinity": _REQUIRED, "podAffinity": _REQUIRED, "podAntiAffinity": _REQUIRED},
        "containers": (_CONTAINER,),
        "hostNetwork": None,
        "initContainers": (_CONTAINER,),
        "nodeName": None,
        "nodeSelector": None,
        "overhead": None,
        "priority": None,
        "resourceClaims": None,
        "resources": None,
        "schedulerName": None,
        "schedulingGates": None,
        "schedulingGroup": None,
        "tolerations": None,
        "topologySpreadConstraints": ({"whenUnsatisfiable": None},),
        "volumes": (
            {
                "awsElasticBlockStore": {},
                "azureDisk": {},
                "ephemeral": {},
                "gcePersistentDisk": {},
                "iscsi": {},
                "persistentVolumeClaim": {},
                "rbd": {},
            },
        ),
        "workloadRef": None,
    },
    "status": {"phase": None},
}
_NODE: Shape = {
    "apiVersion": None,
    "kind": None,
    "metadata": _META,
    "spec": {"providerID": None, "taints": None, "unschedulable": None},
    "status": {
        "allocatable": None,
        "capacity": None,
        "conditions": ({"type": None, "status": None, "reason": None, "lastTransitionTime": None},),
    },
}
_SHAPES: Mapping[Kind, Shape] = {PODS: _POD, NODES: _NODE}

_MIRROR_POD = "kubernetes.io/config.mirror"


def kept(kind: Kind, *, prefix: str = TENSOR_FUSION) -> Callable[[Json], Json]:
    """Return a function that returns what is kept of an object of this kind.

    Of pods and nodes that is what tfscale reads, of other kinds all but the managed fields. Of the annotations those
    remain that tfscale, Karpenter or `prefix`, that of TensorFusion, own; others may be as long as 256 KiB.

    >>> kept(PODS)({"metadata": {"name": "a", "managedFields": []}, "spec": {"nodeName": "n", "dnsPolicy": "Default"}})
    {'metadata': {'name': 'a'}, 'spec': {'nodeName': 'n'}}
    """
    shape = _SHAPES.get(kind)
    owners = {prefix, OWN_PREFIX}

    def keep(obj: Json) -> Json:
        meta = obj.get("metadata")
        if isinstance(meta, dict):
            meta.pop("managedFields", None)
            notes = meta.get("annotations")
            if isinstance(notes, dict):
                meta["annotations"] = {key: value for key, value in notes.items() if _is_read(key, owners)}
        cut: Json = _shared(obj if shape is None else _cut(obj, shape))
        return cut

    return keep


def _is_read(key: str, owners: set[str]) -> bool:
    domain = key.partition("/")[0]
    return domain in owners or domain.endswith("karpenter.sh") or key == _MIRROR_POD


def _cut(value: Any, shape: Shape | None) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(shape, tuple) and isinstance(value, list):
        return [_cut(item, shape[0]) for item in value]
    if isinstance(shape, Mapping) and isinstance(value, dict):
        return {key: _cut(value[key], inner) for key, inner in shape.items() if key in value}
    return value


def _shared(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return the value with equal texts as one: most of a cluster's keys and values are the same everywhere."""
    if isinstance(value, dict):
        return {sys.intern(key): _shared(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shared(item) for item in value]
    return sys.intern(value) if isinstance(value, str) and len(value) <= _LONGEST_SHARED else value
