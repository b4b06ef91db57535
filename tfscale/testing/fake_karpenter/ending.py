"""The end of a claim: its node is drained and deleted, its machine terminated, and only then the claim goes.

Source: Karpenter 1.14, the controllers of the termination of claims and nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

from tfscale.errors import TooManyRequestsError
from tfscale.kube.port import NODE_CLAIMS, NODES, PODS, Kind, Kube
from tfscale.testing.fake_ec2 import SimulatedMachine
from tfscale.testing.fake_karpenter.machines import Machines
from tfscale.testing.fake_karpenter.objects import TERMINATION, Claim, Node, Pod

__all__ = ["Ender", "earliest", "unguard"]

_AGAIN_S = 5
"""After how long something that is still in the way is looked at again."""
_DISRUPTED = {"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}


class Ender:
    """Ends claims that are being deleted."""

    def __init__(self, kube: Kube, machines: Machines) -> None:
        self._kube = kube
        self._machines = machines

    def end(self, claim: Claim, node: Node | None, pods: Sequence[Pod], now_s: int) -> int | None:
        """Take the next steps, and return when to look again; None where somebody else is to act first."""
        machine = self._machines.of.get(claim.uid)
        if node is not None and TERMINATION in node.finalizers:
            if not node.deleting:
                self._kube.delete(NODES, node.name)
            # Nothing is left to drain where the machine is gone: no kubelet would end the pods.
            if machine is not None and pods:
                return self._drain(claim, node, pods, now_s)
            unguard(self._kube, NODES, node)
        if machine is not None:
            return self.end_machine(machine, now_s)
        if TERMINATION in claim.finalizers:
            unguard(self._kube, NODE_CLAIMS, claim)
        return None

    def end_machine(self, machine: SimulatedMachine, now_s: int) -> int | None:
        """Terminate a machine. It takes its time in the cloud, whose clock others watch."""
        return None if self._machines.end(machine) else now_s + _AGAIN_S

    def _drain(self, claim: Claim, node: Node, pods: Sequence[Pod], now_s: int) -> int | None:
        if not any(taint.get("key") == _DISRUPTED["key"] for taint in node.taints):
            self._kube.patch(NODES, node.name, {"spec": {"taints": [*node.taints, _DISRUPTED]}})
        grace_s, deleted_s = claim.wish.grace_s, claim.deleted_s or now_s
        force_s = None if grace_s is None else deleted_s + grace_s
        if force_s is not None and force_s <= now_s:
            for pod in pods:
                self._kube.delete(PODS, pod.name, namespace=pod.namespace, grace_period_s=0)
            return None
        return earliest(force_s, *(self._evict(pod, now_s) for pod in pods))

    def _evict(self, pod: Pod, now_s: int) -> int | None:
        """Begin to end one pod, and return when to look again."""
        if pod.ends_s is not None:
            return pod.ends_s if pod.ends_s > now_s else now_s + _AGAIN_S
        if pod.held:
            return None
        try:
            self._kube.evict(pod.name, namespace=pod.namespace)
        except TooManyRequestsError:
            return now_s + _AGAIN_S
        return None


def earliest(*times_s: int | None) -> int | None:
    """Return the first of these times; None is never."""
    return min((time_s for time_s in times_s if time_s is not None), default=None)


def unguard(kube: Kube, kind: Kind, guarded: Claim | Node) -> None:
    """Take Karpenter's finalizer off an object."""
    others = [finalizer for finalizer in guarded.finalizers if finalizer != TERMINATION]
    kube.patch(kind, guarded.name, {"metadata": {"finalizers": others}})
