"""The contract of scaling modes on EC2, on fixed nodes, and on the tests' own shelf."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import ClassVar

import pytest

from tests.modes.fleets import A, B
from tfscale.gpus import GpuTable
from tfscale.kube.port import NODES
from tfscale.modes.base import ModeContext, ScalingMode
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.ec2_fleet import BATCH_TAG, CLUSTER_TAG, POOL_TAG
from tfscale.modes.static import StaticMode
from tfscale.pool import OfferFilter, Pool
from tfscale.testing import FakeKube, Ground, ScalingModeContract
from tfscale.testing.fake_ec2 import LOST_REPLY, Region, SimulatedCloud
from tfscale.testing.fake_ec2.room import Capacity

NUMBERS = itertools.count()


class Ec2Ground(Ground):
    """A region of EC2. Others have machines there too, some with our tags."""

    mode: ClassVar[type[ScalingMode]] = Ec2Mode

    def __init__(self, cloud: Region) -> None:
        self._cloud = cloud
        self._cluster = f"cluster-{next(NUMBERS)}"

    def context(self, pool: str) -> ModeContext:
        """Return a pool that wants two types in two zones."""
        options = {"region": self._cloud.region, "launchTemplate": {"name": self._cloud.launch_template}}
        wanted = OfferFilter(instance_types=("g6.xlarge", "g4dn.xlarge"), capacity_types=("on-demand", "spot"))
        found = Pool(name=pool, mode="ec2", options=options, wanted=wanted)
        return ModeContext(pool=found, gpus=GpuTable(), kube=FakeKube(), cluster=self._cluster, aws=self._cloud.session)

    def really_there(self) -> Collection[str]:
        """Count in the cloud's own books."""
        return [machine.id for machine in self._cloud.machines if machine.state != "terminated"]

    def foreign(self) -> str:
        """Launch a machine of another cluster, whose pool and batch are called like ours."""
        tags = {CLUSTER_TAG: "another", POOL_TAG: "contract", BATCH_TAG: "contract-1"}
        specification = {"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        reply = self._cloud.session.client("ec2").run_instances(
            InstanceType="m5.large",
            ImageId="ami-1",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[specification],  # type: ignore[list-item]  # a literal type cannot be told from a dict
        )
        return reply["Instances"][0]["InstanceId"]

    def settle(self) -> None:
        """Let machines boot and end."""
        self._cloud.advance(self._cloud.now_s + 1_000)

    def lose_reply(self) -> bool:
        """Lose the reply of the next fleet."""
        self._cloud.fail_next("CreateFleet", LOST_REPLY)
        return True

    def leave_room_for(self, machines: int) -> bool:
        """Leave room in one place and in no other."""
        nowhere: Capacity = {(name, zone): 0 for name in ("g6.xlarge", "g4dn.xlarge") for zone in (A, B)}
        self._cloud.set_capacity({**nowhere, ("g6.xlarge", B): machines})
        return True


class StaticGround(Ground):
    """A cluster with nodes that nobody bought."""

    mode: ClassVar[type[ScalingMode]] = StaticMode
    buys: ClassVar[bool] = False

    def __init__(self) -> None:
        self._kube = FakeKube()

    def context(self, pool: str) -> ModeContext:
        """Return a pool of fixed nodes."""
        return ModeContext(pool=Pool(name=pool, mode="static"), gpus=GpuTable(), kube=self._kube, cluster="test")

    def really_there(self) -> Collection[str]:
        """Count the nodes."""
        return [node["metadata"]["name"] for node in self._kube.list(NODES).items]

    def foreign(self) -> str:
        """Put a node there, as one does: it is no machine of ours although it is in our pool."""
        node = self._kube.create(NODES, {"metadata": {"generateName": "rack-", "labels": {"tfscale.io/pool": "contract"}}})
        name: str = node["metadata"]["name"]
        return name

    def settle(self) -> None:
        """Nothing happens by itself."""


class TestEc2(ScalingModeContract):
    """Machines straight from EC2."""

    @pytest.fixture
    def ground(self, cloud: SimulatedCloud) -> Ground:
        """A cluster of its own in the region of this module."""
        return Ec2Ground(cloud)


class TestStatic(ScalingModeContract):
    """Fixed nodes."""

    @pytest.fixture
    def ground(self) -> Ground:
        """A fresh cluster."""
        return StaticGround()
