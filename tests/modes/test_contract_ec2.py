"""The contract of scaling modes for pools on EC2 whose launch templates are ours, and for pools with reservations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.modes.conftest import NEW_CARD, TYPES
from tests.modes.fleets import A, B, bootstrap
from tests.modes.test_contract import Ec2Ground
from tfscale.gpus import GpuTable
from tfscale.modes.base import ModeContext
from tfscale.pool import OfferFilter
from tfscale.testing import Ground, ScalingModeContract
from tfscale.testing.fake_ec2 import LOST_REPLY, MemoryCloud, SimulatedReservation

ROOM, BLOCK = "cr-0a", "cr-0b"
PLENTY = 200
OTHERS = "somebody-else"


@pytest.fixture(scope="module")
def shared_cloud() -> Iterator[MemoryCloud]:
    """Yield a cloud with a reservation and a capacity block."""
    reservations = [
        SimulatedReservation(id=ROOM, instance_type="g6.xlarge", zone=B, count=PLENTY),
        SimulatedReservation(id=BLOCK, instance_type="toy.2x", zone=A, count=PLENTY, block=True, end_s=10_000_000),
    ]
    with MemoryCloud(instance_types=TYPES, reservations=reservations, gpus=GpuTable([NEW_CARD])) as cloud:
        yield cloud


class OwnTemplateGround(Ec2Ground):
    """A region where tfscale makes the launch templates."""

    def context(self, pool: str) -> ModeContext:
        """Return a pool that says what its nodes are, on the clock of the cloud."""
        context = super().context(pool)
        options = {"region": self._cloud.region, "bootstrap": bootstrap(), "subnetIds": [*self._cloud.subnets.values()]}
        return replace(context, pool=replace(context.pool, options=options), clock=lambda: self._cloud.now_s)


class ReservedGround(Ec2Ground):
    """A region where machines come from reservations alone."""

    def context(self, pool: str) -> ModeContext:
        """Return a pool with a reservation and a capacity block, on the clock of the cloud."""
        context = super().context(pool)
        options = {**context.pool.options, "reservations": [{"id": ROOM}, {"id": BLOCK}]}
        wanted = OfferFilter(instance_types=("g6.xlarge", "toy.2x"), capacity_types=("reserved",))
        return replace(context, pool=replace(context.pool, options=options, wanted=wanted), clock=lambda: self._cloud.now_s)

    def lose_reply(self) -> bool:
        """Lose the reply of the next run."""
        self._cloud.fail_next("RunInstances", LOST_REPLY)
        return True

    def leave_room_for(self, machines: int) -> bool:
        """Let somebody else take the rest of the reservation, and all of the block."""
        self._fill(ROOM, machines, {})
        self._fill(BLOCK, 0, {"InstanceMarketOptions": {"MarketType": "capacity-block"}})
        return True

    def really_there(self) -> Collection[str]:
        """Count in the cloud's own books, without what somebody else took."""
        live = (machine for machine in self._cloud.machines if machine.state != "terminated")
        return [machine.id for machine in live if OTHERS not in machine.tags]

    def _fill(self, reservation: str, left: int, market: Mapping[str, Any]) -> None:
        ec2: Any = self._cloud.session.client("ec2", region_name=self._cloud.region)
        (found,) = ec2.describe_capacity_reservations(CapacityReservationIds=[reservation])["CapacityReservations"]
        count = found["AvailableInstanceCount"] - left
        if count > 0:
            ec2.run_instances(
                InstanceType=found["InstanceType"],
                ImageId="ami-1",
                MinCount=count,
                MaxCount=count,
                Placement={"AvailabilityZone": found["AvailabilityZone"]},
                CapacityReservationSpecification={"CapacityReservationTarget": {"CapacityReservationId": reservation}},
                TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": OTHERS, "Value": "yes"}]}],
                **market,
            )


class TestOwnTemplates(ScalingModeContract):
    """A pool with a bootstrap."""

    @pytest.fixture
    def ground(self, cloud: MemoryCloud) -> Ground:
        """A cluster of its own in the region of this module."""
        return OwnTemplateGround(cloud)


class TestReserved(ScalingModeContract):
    """A pool with reservations."""

    @pytest.fixture
    def ground(self, cloud: MemoryCloud) -> Ground:
        """A cluster of its own in the region of this module."""
        return ReservedGround(cloud)
