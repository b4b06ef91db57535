"""The stand-in as a whole: it looks at the cluster and the cloud, and lets each claim take its next steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfscale.catalogue import InstanceType
from tfscale.gpus import GpuTable
from tfscale.kube.port import NODE_CLAIMS, NODE_POOLS, NODES, PODS, Kube
from tfscale.testing.fake_ec2 import SimulatedMachine
from tfscale.testing.fake_ec2.region import Region
from tfscale.testing.fake_karpenter.conditions import INITIALIZED, LAUNCHED, REGISTERED
from tfscale.testing.fake_karpenter.ending import Ender, earliest, unguard
from tfscale.testing.fake_karpenter.joining import initialize, register
from tfscale.testing.fake_karpenter.launching import Launcher
from tfscale.testing.fake_karpenter.machines import Machines
from tfscale.testing.fake_karpenter.mirror import Mirror
from tfscale.testing.fake_karpenter.objects import TERMINATION, Claim, Node, Pod, Pool, read_claim, read_node, read_pod, read_pool
from tfscale.testing.fake_karpenter.offers import Offers
from tfscale.testing.fake_karpenter.reclaiming import count, ends_s, is_lost, reclaim_empty
from tfscale.testing.fake_karpenter.static import keep_replicas

__all__ = ["KarpenterStandIn"]

_LEAKED_AFTER_S = 30
"""A machine of no claim is ended when it is older than this. Source: Karpenter's AWS provider, its garbage collection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The cluster at the beginning of one round."""

    now_s: int
    nodes: Mapping[str, Node]
    """By provider id."""
    pods: Mapping[str, list[Pod]]
    """By node."""
    pools: Mapping[str, Pool]
    """By name."""
    owners: frozenset[str]
    """The uids of the pools."""


class KarpenterStandIn:
    """Fulfils NodeClaims of an API server in memory with machines of a simulated EC2. The real Karpenter is the judge.

    It shows how a controller of ours meets Karpenter: what is filled in, what comes late, what is taken away. It launches
    the cheapest offer that meets a claim, registers and initializes its node, gives up claims as Karpenter does (no
    capacity, no usable node class, launch, registration, expiry, a node or a machine that is gone), reclaims empty nodes of
    NodePools, keeps the replicas of static ones, drains and ends what is deleted, counts ``NodePool.status``, and ends
    machines of no claim. It also collects the claims of deleted NodePools, which in a cluster is kube-controller-manager's
    work.

    What it does not do: provision for pending pods; enforce limits, disruption budgets, ``minValues`` or the immutability
    of a claim; consolidate nodes that are not empty, by moving pods or by cheaper nodes; drift; repair
    and interruption; reserved capacity; leave out offers that had no capacity before; spare pods that tolerate everything
    from eviction; detach volumes; hold disruption back while other claims are still launching. Every step takes no time but
    for the polls of disruption and draining.

    `catalogue` has the instance types by name with their prices, the same in all zones; `gpus` the models of their cards.
    Whoever turns the clock advances `cloud`, makes nodes of its running machines, deletes nodes and pods of those that are
    terminated, and ends pods whose grace period is over; then he calls ``advance``. What it knows is in the objects and in
    the machines' tags: a second stand-in goes on where the first one stopped.
    """

    def __init__(self, kube: Kube, cloud: Region, *, catalogue: Mapping[str, InstanceType], gpus: GpuTable | None = None) -> None:
        self.down = False
        """While it is True nothing is done, as with no replica of Karpenter running."""
        self._kube = kube
        self._claims = Mirror(kube, NODE_CLAIMS, read_claim)
        self._nodes = Mirror(kube, NODES, read_node)
        self._pods = Mirror(kube, PODS, read_pod)
        self._pools = Mirror(kube, NODE_POOLS, read_pool)
        self._machines = Machines(cloud)
        offers = Offers(catalogue.values(), region=cloud.region, zones=cloud.zones, gpus=gpus or GpuTable())
        self._launcher = Launcher(kube, self._machines, offers)
        self._ender = Ender(kube, self._machines)
        self._due_s: int | None = 0
        self._made_s: dict[str, int] = {}
        """When claims were made last, by the uid of a static pool."""

    def advance(self, now_s: int) -> None:
        """Do everything that is due. Called again at the same time it does nothing, unless somebody changed something.

        Raises ``BadInputError`` for a NodeClaim or NodePool that Karpenter's schema would refuse.
        """
        if self.down:
            return
        while self._has_changed() or (self._due_s is not None and self._due_s <= now_s):
            self._due_s = self._round(now_s)

    def next_s(self) -> int | None:
        """Return when it has something to do although nobody changed anything; None where that is never."""
        return None if self.down else self._due_s

    def _has_changed(self) -> bool:
        watched = (self._claims, self._nodes, self._pods, self._pools, self._machines)
        return sum(one.refresh() for one in watched) > 0

    def _round(self, now_s: int) -> int | None:
        """Let every claim take the steps that follow from what was seen, and return when the next ones are due."""
        claims = sorted(self._claims, key=lambda claim: (claim.created_s, claim.name))
        seen = self._look(now_s)
        self._launcher.forget_others({claim.uid for claim in claims})
        due_s = earliest(*(self._step(claim, seen) for claim in claims), self._clear_up(claims, seen))
        for pool in seen.pools.values():
            count(self._kube, pool, claims)
            if pool.replicas is not None:
                due_s = earliest(due_s, self._keep(pool, claims, seen))
        return None if due_s is None else max(due_s, now_s + 1)

    def _keep(self, pool: Pool, claims: Sequence[Claim], seen: _Seen) -> int | None:
        """Keep the replicas of a static pool; claims that come to nothing at once are made again in the next second."""
        busy = {claim.uid for claim in claims if _is_busy(claim, seen)}
        if keep_replicas(self._kube, pool, claims, busy, may_make=self._made_s.get(pool.uid) != seen.now_s):
            self._made_s[pool.uid] = seen.now_s
            return seen.now_s + 1
        return None

    def _look(self, now_s: int) -> _Seen:
        pods: defaultdict[str, list[Pod]] = defaultdict(list)
        for pod in self._pods:
            pods[pod.node].append(pod)
        return _Seen(
            now_s=now_s,
            nodes={node.provider_id: node for node in self._nodes},
            pods=pods,
            pools={pool.name: pool for pool in self._pools},
            owners=frozenset(pool.uid for pool in self._pools),
        )

    def _step(self, claim: Claim, seen: _Seen) -> int | None:
        node = seen.nodes.get(claim.provider_id)
        if claim.deleted_s is not None:
            return self._ender.end(claim, node, seen.pods.get(node.name, ()) if node else (), seen.now_s)
        end_s = ends_s(claim)
        over = end_s is not None and end_s <= seen.now_s
        if over or is_lost(claim, node, has_machine=claim.uid in self._machines.of, pools=seen.owners):
            self._kube.delete(NODE_CLAIMS, claim.name, uid=claim.uid)
            return None
        return earliest(end_s, self._go_on(claim, node, seen))

    def _go_on(self, claim: Claim, node: Node | None, seen: _Seen) -> int | None:
        if not claim.true(LAUNCHED):
            return self._launcher.launch(claim, seen.now_s)
        if node is None or node.deleting:
            return None
        if not claim.true(REGISTERED):
            register(self._kube, claim, node, seen.now_s)
        elif not claim.true(INITIALIZED):
            initialize(self._kube, claim, node, seen.now_s)
        elif claim.pool in seen.pools and seen.pools[claim.pool].replicas is None:
            busy = _is_busy(claim, seen)
            return reclaim_empty(self._kube, claim, node, seen.pools[claim.pool], seen.now_s, busy=busy)
        return None

    def _clear_up(self, claims: Sequence[Claim], seen: _Seen) -> int | None:
        """End what no claim stands for any more: somebody took the finalizer off the claim."""
        claimed = {claim.provider_id for claim in claims}
        for node in seen.nodes.values():
            if node.deleting and TERMINATION in node.finalizers and node.provider_id not in claimed:
                unguard(self._kube, NODES, node)
        uids = {claim.uid for claim in claims}
        return earliest(*(self._end_leaked(one, seen.now_s) for uid, one in self._machines.of.items() if uid not in uids))

    def _end_leaked(self, machine: SimulatedMachine, now_s: int) -> int | None:
        leaked_s = machine.launched_s + _LEAKED_AFTER_S
        return self._ender.end_machine(machine, now_s) if leaked_s <= now_s else leaked_s


def _is_busy(claim: Claim, seen: _Seen) -> bool:
    """Return whether a pod that is not about to go is on the node of a claim."""
    node = seen.nodes.get(claim.provider_id)
    return node is not None and any(pod.ends_s is None for pod in seen.pods.get(node.name, ()))
