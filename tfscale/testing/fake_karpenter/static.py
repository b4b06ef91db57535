"""Static NodePools: as many nodes as ``spec.replicas`` says, whether they are used or not.

Source: Karpenter 1.14, static provisioning and deprovisioning (feature gate StaticCapacity).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tfscale.kube.port import NODE_CLAIMS, NODE_POOLS, Json, Kube
from tfscale.modes.nodeclaim_labels import NODE_POOL
from tfscale.testing.fake_karpenter.objects import Claim, Pool

__all__ = ["keep_replicas"]

_KEPT = ("nodeClassRef", "requirements", "taints", "startupTaints", "terminationGracePeriod", "expireAfter")


def keep_replicas(kube: Kube, pool: Pool, claims: Sequence[Claim], busy: Collection[str], *, may_make: bool) -> bool:
    """Make the claims that a static NodePool lacks, or delete those that are too many. Return whether it lacks some.

    `busy` are uids of used claims.

    What is not launched yet goes first, then empty nodes. The real one orders the others by the cost of their pods.
    """
    mine = [claim for claim in claims if claim.pool == pool.name]
    active = [claim for claim in mine if claim.deleted_s is None]
    more = (pool.replicas or 0) - len(active)
    if pool.nodes_most is not None:
        more = min(more, pool.nodes_most - len(mine))
    for _ in range(more if may_make else 0):
        kube.create(NODE_CLAIMS, _claim(pool))
    ordered = sorted(active, key=lambda claim: (bool(claim.provider_id), claim.uid in busy, claim.name))
    for claim in ordered[: max(len(active) - (pool.replicas or 0), 0)]:
        kube.delete(NODE_CLAIMS, claim.name, uid=claim.uid)
    return more > 0


def _claim(pool: Pool) -> Json:
    template: Mapping[str, Json] = pool.template
    spec = {key: value for key, value in template.get("spec", {}).items() if key in _KEPT}
    meta: Mapping[str, Json] = template.get("metadata", {})
    owner = {"apiVersion": NODE_POOLS.api_version, "kind": NODE_POOLS.kind, "name": pool.name, "uid": pool.uid}
    return {
        "metadata": {
            "generateName": f"{pool.name}-",
            "labels": {**meta.get("labels", {}), NODE_POOL: pool.name},
            "annotations": dict(meta.get("annotations", {})),
            "ownerReferences": [{**owner, "blockOwnerDeletion": True}],
        },
        "spec": spec,
    }
