"""From a machine to a node of Karpenter: registered when it joins, initialized when it shows what was asked for.

Source: Karpenter 1.14, the controller of a claim's life (registration, initialization).
"""

from __future__ import annotations

from collections.abc import Iterable

from tfscale.kube.port import NODE_CLAIMS, NODES, Json, Kube
from tfscale.testing.fake_karpenter.conditions import INITIALIZED, REGISTERED, Condition, write_status
from tfscale.testing.fake_karpenter.objects import TERMINATION, Claim, Node

__all__ = ["initialize", "register"]

_UNREGISTERED = "karpenter.sh/unregistered"
_NOT_READY, _UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
_EPHEMERAL = {
    (_NOT_READY, "NoSchedule"),
    (_NOT_READY, "NoExecute"),
    (_UNREACHABLE, "NoSchedule"),
    ("node.cloudprovider.kubernetes.io/uninitialized", "NoSchedule"),
    (_UNREGISTERED, "NoExecute"),
}
"""Taints that go away by themselves while a node starts."""
_EPHEMERAL_DOMAIN = "readiness.k8s.io/"


def register(kube: Kube, claim: Claim, node: Node, now_s: int) -> None:
    """Write what the claim says on its node, once: what is changed on the claim later does not reach the node."""
    metadata = {
        "labels": {**claim.labels, "karpenter.sh/registered": "true"},
        "annotations": dict(claim.annotations),
        "finalizers": [*node.finalizers, *{TERMINATION} - {*node.finalizers}],
        "ownerReferences": _owners(claim, node),
    }
    kube.patch(NODES, node.name, {"metadata": metadata, "spec": {"taints": _merged(claim, node)}})
    joined = (Condition(type=REGISTERED, status="True"), Condition(type=INITIALIZED, status="Unknown", reason="NodeNotReady"))
    write_status(kube, claim, now_s, *joined, nodeName=node.name)


def initialize(kube: Kube, claim: Claim, node: Node, now_s: int) -> None:
    """Call the node initialized, or write what it still lacks."""
    lack = _lack(claim, node)
    if lack:
        write_status(kube, claim, now_s, Condition(type=INITIALIZED, status="Unknown", reason=lack))
        return
    kube.patch(NODES, node.name, {"metadata": {"labels": {"karpenter.sh/initialized": "true"}}})
    write_status(kube, claim, now_s, Condition(type=INITIALIZED, status="True"))


def _lack(claim: Claim, node: Node) -> str:
    taints = {_identity(taint) for taint in node.taints}
    if not node.ready:
        return "NodeNotReady"
    if taints & {_identity(taint) for taint in claim.wish.startup_taints}:
        return "StartupTaintsExist"
    if taints & _EPHEMERAL or any(key.startswith(_EPHEMERAL_DOMAIN) for key, _ in taints):
        return "KnownEphemeralTaintsExist"
    if any(amount and not node.allocatable.get(name) for name, amount in claim.wish.requests.items()):
        return "ResourceNotRegistered"
    return ""


def _owners(claim: Claim, node: Node) -> list[Json]:
    kind = {"apiVersion": NODE_CLAIMS.api_version, "kind": NODE_CLAIMS.kind}
    others = [owner for owner in node.obj["metadata"].get("ownerReferences", ()) if owner.get("uid") != claim.uid]
    return [*others, {**kind, "name": claim.name, "uid": claim.uid, "blockOwnerDeletion": True}]


def _merged(claim: Claim, node: Node) -> list[Json]:
    """Return the node's taints and those of the claim that it lacks, without the one that kept it closed until now."""
    own = [taint for taint in node.taints if taint.get("key") != _UNREGISTERED]
    there = {_identity(taint) for taint in own}
    return [*own, *_lacking((*claim.wish.taints, *claim.wish.startup_taints), there)]


def _lacking(taints: Iterable[Json], there: set[tuple[str, str]]) -> list[Json]:
    return [taint for taint in taints if _identity(taint) not in there]


def _identity(taint: Json) -> tuple[str, str]:
    return taint.get("key", ""), taint.get("effect", "")
