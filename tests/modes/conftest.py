"""One simulated cloud for the tests of a module: moto takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tfscale.gpus import GpuModel, GpuTable
from tfscale.testing.fake_ec2 import SimulatedCloud, SimulatedType

# The card of g7 is in the cloud's table and not in tfscale's own.
NEW_CARD = GpuModel(name="RTX PRO 4500", vram_mib=32_768, mtflops=200_000, source="assumed")
TYPES = (
    SimulatedType(name="g6.xlarge", usd_per_hour="0.8048", spot_usd_per_hour="0.30"),
    SimulatedType(name="g6f.xlarge", usd_per_hour="0.24"),
    SimulatedType(name="g4dn.xlarge", zones=("us-east-1b",), spot_usd_per_hour="0.20"),
    SimulatedType(name="g5g.xlarge", usd_per_hour="0.42"),
    SimulatedType(name="m5.large", usd_per_hour="0.096"),
    SimulatedType(name="t2.nano"),
    SimulatedType(name="g7.2xlarge"),
    SimulatedType(name="toy.2x", gpu_model="A10G", gpu_count=2, vcpu=16, memory_mib=65_536, usd_per_hour="2"),
)


@pytest.fixture(scope="module")
def shared_cloud() -> Iterator[SimulatedCloud]:
    """Yield the cloud of this module, as the tests before have left it."""
    with SimulatedCloud(instance_types=TYPES, gpus=GpuTable([NEW_CARD])) as cloud:
        yield cloud


@pytest.fixture
def cloud(shared_cloud: SimulatedCloud) -> SimulatedCloud:
    """Return the cloud of this module with unlimited capacity and no machine left."""
    shared_cloud.set_capacity({})
    shared_cloud.answer_replays_with_id_only(on=False)
    live = [machine.id for machine in shared_cloud.machines if machine.state != "terminated"]
    if live:
        shared_cloud.session.client("ec2").terminate_instances(InstanceIds=live)
        shared_cloud.advance(shared_cloud.now_s + 1_000)
    return shared_cloud
