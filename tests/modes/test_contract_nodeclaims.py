"""The contract of scaling modes on NodeClaims. A few lines stand for Karpenter: here the question is what the modes do."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import ClassVar

import pytest

from tests.modes.nodeclaims import CATALOGUE, EC2_CLASS, INSTANCE_TYPE, ZONE, A, B, cluster, launched, made, node_pool, values
from tfscale.gpus import GpuTable
from tfscale.kube.port import NODE_CLAIMS, NODES, Json
from tfscale.modes.base import ModeContext, ScalingMode
from tfscale.modes.managed_nodeclaim import ManagedNodeClaimMode
from tfscale.modes.reuse_nodeclaim import ReuseNodeClaimMode
from tfscale.pool import OfferFilter, Pool
from tfscale.testing import Ground, LossyKube, ScalingModeContract

FINALIZERS = {"metadata": {"finalizers": ["karpenter.sh/termination"]}}


class ClaimGround(Ground):
    """A cluster whose claims are fulfilled while there is room, given up when there is none, and ended when deleted."""

    options: ClassVar[Mapping[str, object]] = {}

    def __init__(self) -> None:
        self._kube = cluster(node_pool())
        self._lossy = LossyKube(self._kube)
        self._room: int | None = None
        self._numbers = itertools.count()

    def context(self, pool: str) -> ModeContext:
        """Return a pool that wants every GPU type of the catalogue in two zones."""
        wanted = OfferFilter(zones=(A, B), capacity_types=("on-demand", "spot"))
        found = Pool(name=pool, mode=self.mode.name, options=self.options, wanted=wanted)
        return ModeContext(pool=found, gpus=GpuTable(), kube=self._lossy, cluster="test", catalogue=CATALOGUE)

    def really_there(self) -> Collection[str]:
        """Count the claims: each is a machine or will be one."""
        return list(made(self._kube))

    def foreign(self) -> str:
        """Let Karpenter make a claim for a NodePool of its own, whose template has the label of our pool."""
        name, labels = f"foreign-{next(self._numbers)}", {"karpenter.sh/nodepool": "gpu", "tfscale.io/pool": "contract"}
        requirements = [_in(INSTANCE_TYPE, "m5.large"), _in(ZONE, A), _in("karpenter.sh/capacity-type", "on-demand")]
        self._kube.create(NODE_CLAIMS, {"metadata": {"name": name, "labels": labels}, "spec": {"requirements": requirements}})
        self._launch(name, made(self._kube)[name])
        return name

    def settle(self) -> None:
        """Do what Karpenter does."""
        for name, claim in made(self._kube).items():
            if "deletionTimestamp" in claim["metadata"]:
                self._end(name)
            elif "providerID" in claim.get("status", {}):
                continue
            elif self._room == 0:
                self._kube.delete(NODE_CLAIMS, name)
            else:
                self._room = None if self._room is None else self._room - 1
                self._launch(name, claim)

    def lose_reply(self) -> bool:
        """Lose the answer to the next claim."""
        return self._lossy.lose_reply()

    def leave_room_for(self, machines: int) -> bool:
        """Bound what Karpenter finds."""
        self._room = machines
        return True

    def _launch(self, name: str, claim: Json) -> None:
        offer = "/".join(values(claim, key)[0] for key in (INSTANCE_TYPE, ZONE, "karpenter.sh/capacity-type"))
        self._kube.patch(NODE_CLAIMS, name, FINALIZERS)
        launched(self._kube, name, offer)

    def _end(self, name: str) -> None:
        """Remove the node and let the claim go."""
        self._kube.delete(NODES, f"node-{name}")
        self._kube.patch(NODE_CLAIMS, name, {"metadata": {"finalizers": None}})


class ManagedGround(ClaimGround):
    """Claims without a NodePool."""

    mode: ClassVar[type[ScalingMode]] = ManagedNodeClaimMode
    options: ClassVar[Mapping[str, object]] = {"nodeClassRef": EC2_CLASS}


class ReuseGround(ClaimGround):
    """Claims of a NodePool."""

    mode: ClassVar[type[ScalingMode]] = ReuseNodeClaimMode


class TestManagedNodeClaim(ScalingModeContract):
    """Standalone claims."""

    @pytest.fixture
    def ground(self) -> Ground:
        """A fresh cluster."""
        return ManagedGround()


class TestReuseNodeClaim(ScalingModeContract):
    """Replicas."""

    @pytest.fixture
    def ground(self) -> Ground:
        """A fresh cluster."""
        return ReuseGround()


def _in(key: str, value: str) -> Json:
    return {"key": key, "operator": "In", "values": [value]}
