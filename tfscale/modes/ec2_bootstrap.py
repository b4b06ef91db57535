"""User data: what the first process of a node reads to join the cluster, per family of images. Pure.

No secret is in it: everybody who may describe instances, and every pod that reaches the metadata service, can read it.
Sources: nodeadm, page "Configuration" and its API reference; Bottlerocket, settings reference; Kubernetes, kubelet flags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tfscale.modes.ec2_bootstrap_options import UNREGISTERED, Bootstrap, ClusterAccess
from tfscale.selectors import Taint
from tfscale.spec import suggest

__all__ = ["PLACEHOLDERS", "is_labelled", "labels_of", "taints_of", "unknown_placeholders", "user_data"]

POOL_LABEL = "tfscale.io/pool"
CAPACITY_TYPE_LABEL = "karpenter.sh/capacity-type"
_BOUNDARY = "tfscale-user-data"
_PLACEHOLDER = re.compile(r"\{\{ *([A-Za-z]+) *\}\}")
PLACEHOLDERS = (
    "capacityType", "certificateAuthority", "clusterDns", "clusterEndpoint", "clusterName", "labels", "maxPods", "pool",
    "serviceCidr", "taints",
)  # fmt: skip
_OF_CLUSTER = frozenset({"certificateAuthority", "clusterDns", "clusterEndpoint", "clusterName", "serviceCidr"})


def labels_of(bootstrap: Bootstrap, *, pool: str, capacity_type: str) -> dict[str, str]:
    """Return the labels that a kubelet puts on its node, sorted by key."""
    labels = {**bootstrap.kubelet.labels, POOL_LABEL: pool, CAPACITY_TYPE_LABEL: capacity_type}
    return dict(sorted(labels.items()))


def taints_of(bootstrap: Bootstrap) -> tuple[Taint, ...]:
    """Return the taints that a node keeps: those of the pool, without the one that goes when the node is complete."""
    return tuple(taint.taint() for taint in bootstrap.kubelet.taints)


def user_data(bootstrap: Bootstrap, *, pool: str, capacity_type: str) -> str:
    """Return the user data of a node, as text.

    >>> from tfscale.modes.ec2_bootstrap_options import Ami, Bootstrap
    >>> own = Bootstrap(family="custom", ami=Ami(id="ami-1"), instanceProfile="nodes", userData="join --labels {{labels}}")
    >>> user_data(own, pool="gpus", capacity_type="spot")
    'join --labels karpenter.sh/capacity-type=spot,tfscale.io/pool=gpus'
    """
    labels = labels_of(bootstrap, pool=pool, capacity_type=capacity_type)
    taints = (UNREGISTERED, *taints_of(bootstrap))
    if bootstrap.user_data is not None:
        return _filled(bootstrap, labels, taints)
    assert bootstrap.cluster is not None  # noqa: S101 - the options are refused otherwise
    if bootstrap.family == "al2023":
        return _mime(_node_config(bootstrap, bootstrap.cluster, labels, taints))
    return _toml(_settings(bootstrap, bootstrap.cluster, labels, taints))


def unknown_placeholders(bootstrap: Bootstrap) -> list[tuple[str, str]]:
    """Return each placeholder of the pool's own user data that has no value, with what is wanted instead."""
    known = sorted(_values(bootstrap, {}, ()))
    names = dict.fromkeys(_PLACEHOLDER.findall(bootstrap.user_data or ""))
    return [
        (name, "a value of it: spec.options.bootstrap.cluster" if name in _OF_CLUSTER else suggest(name, PLACEHOLDERS))
        for name in names
        if name not in known
    ]


def is_labelled(bootstrap: Bootstrap) -> bool:
    """Return whether the pool's own user data can label its nodes: with all labels, or with the pool at least."""
    return not {"labels", "pool"}.isdisjoint(_PLACEHOLDER.findall(bootstrap.user_data or ""))


def _node_config(
    bootstrap: Bootstrap, cluster: ClusterAccess, labels: Mapping[str, str], taints: Sequence[Taint]
) -> dict[str, Any]:
    kubelet = bootstrap.kubelet
    config: dict[str, Any] = {"registerWithTaints": [_taint_object(taint) for taint in taints]}
    if kubelet.max_pods is not None:
        config["maxPods"] = kubelet.max_pods
    return {
        "apiVersion": "node.eks.aws/v1alpha1",
        "kind": "NodeConfig",
        "spec": {
            "cluster": {
                "name": cluster.name,
                "apiServerEndpoint": cluster.endpoint,
                "certificateAuthority": cluster.certificate_authority,
                "cidr": cluster.service_cidr,
            },
            "kubelet": {"config": config, "flags": [f"--node-labels={_listed(labels)}", *kubelet.flags]},
        },
    }


def _taint_object(taint: Taint) -> dict[str, str]:
    return {"key": taint.key, "effect": taint.effect, **({"value": taint.value} if taint.value else {})}


def _mime(config: Mapping[str, Any]) -> str:
    """Return the configuration as nodeadm looks for it: one part of a MIME message, so that cloud-init ignores it."""
    body = yaml.safe_dump(config, sort_keys=False, default_flow_style=False, width=10_000)
    lines = (
        "MIME-Version: 1.0",
        f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"',
        "",
        f"--{_BOUNDARY}",
        "Content-Type: application/node.eks.aws",
        "",
        body,
        f"--{_BOUNDARY}--",
        "",
    )
    return "\n".join(lines)


def _settings(
    bootstrap: Bootstrap, cluster: ClusterAccess, labels: Mapping[str, str], taints: Sequence[Taint]
) -> dict[str, dict[str, Any]]:
    """Return Bottlerocket's settings by table."""
    kubernetes: dict[str, Any] = {
        "api-server": cluster.endpoint,
        "cluster-certificate": cluster.certificate_authority,
        "cluster-name": cluster.name,
        "cluster-dns-ip": cluster.dns,
    }
    if bootstrap.kubelet.max_pods is not None:
        kubernetes["max-pods"] = bootstrap.kubelet.max_pods
    by_key: dict[str, list[str]] = {}
    for taint in taints:
        by_key.setdefault(taint.key, []).append(f"{taint.value}:{taint.effect}")
    return {
        "settings.kubernetes": kubernetes,
        "settings.kubernetes.node-labels": dict(labels),
        "settings.kubernetes.node-taints": by_key,
        # A slice reaches its container by NVIDIA_VISIBLE_DEVICES, which Bottlerocket ignores in unprivileged ones by default.
        "settings.nvidia-container-runtime": {
            "visible-devices-as-volume-mounts": True,
            "visible-devices-envvar-when-unprivileged": True,
        },
        # By UUID, because a slice names cards so, and indices change; not by CDI, with which that variable is not read.
        "settings.kubelet-device-plugins.nvidia": {
            "device-id-strategy": "uuid",
            "device-list-strategy": "volume-mounts",
            "pass-device-specs": True,
        },
    }


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(
        "".join([f"[{name}]\n", *(f"{_toml_text(key)} = {_toml_value(table[key])}\n" for key in table)])
        for name, table in tables.items()
    )


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return str(value) if isinstance(value, int) else _toml_text(str(value))


def _toml_text(text: str) -> str:
    # A basic string of TOML is one of JSON, except that DEL must be escaped, too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _filled(bootstrap: Bootstrap, labels: Mapping[str, str], taints: Sequence[Taint]) -> str:
    values = _values(bootstrap, labels, taints)
    return _PLACEHOLDER.sub(lambda found: values[found[1]], bootstrap.user_data or "")


def _values(bootstrap: Bootstrap, labels: Mapping[str, str], taints: Sequence[Taint]) -> dict[str, str]:
    """Return the value of each placeholder that has one. Labels and taints are written as kubelet's flags take them."""
    cluster, most = bootstrap.cluster, bootstrap.kubelet.max_pods
    values = {
        "pool": labels.get(POOL_LABEL, ""),
        "capacityType": labels.get(CAPACITY_TYPE_LABEL, ""),
        "labels": _listed(labels),
        "taints": ",".join(map(str, taints)),
        "maxPods": "" if most is None else str(most),
    }
    if cluster is None:
        return values
    return values | {
        "clusterName": cluster.name,
        "clusterEndpoint": cluster.endpoint,
        "certificateAuthority": cluster.certificate_authority,
        "serviceCidr": cluster.service_cidr,
        "clusterDns": cluster.dns,
    }


def _listed(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())
