"""Modes, offers and batches for tests of the EC2 mode."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence

from tfscale.gpus import GpuTable
from tfscale.model import LaunchBatch, NodeRequest, Offer, OfferFilter, Pool
from tfscale.modes.base import LaunchResult, ModeContext
from tfscale.modes.ec2 import Ec2Mode
from tfscale.testing import FakeKube
from tfscale.testing.fake_ec2 import SimulatedCloud

A, B = "us-east-1a", "us-east-1b"


NUMBERS = itertools.count()


def mode_of(
    cloud: SimulatedCloud,
    *,
    pool: str = "gpus",
    cluster: str = "test",
    wanted: OfferFilter | None = None,
    sleep: Callable[[float], None] = lambda _: None,
    **options: object,
) -> Ec2Mode:
    """Return the mode of one pool, which never really sleeps."""
    given_options = {"region": cloud.region, "launchTemplate": {"name": cloud.launch_template}, **options}
    found = Pool(name=pool, mode="ec2", options=given_options, wanted=wanted or OfferFilter())
    context = ModeContext(pool=found, gpus=GpuTable(), kube=FakeKube(), cluster=cluster, aws=cloud.session, sleep=sleep)
    return Ec2Mode.open(context)


def offer(instance_type: str = "g6.xlarge", zone: str = A, capacity_type: str = "on-demand") -> Offer:
    """Return an offer as far as a launch reads it."""
    return Offer(
        instance_type=instance_type, zone=zone, capacity_type=capacity_type, cpu_milli=0, memory_mib=0, price_micro_usd=None
    )


def batch_of(mode: Ec2Mode, offers: Sequence[Offer], count: int = 1) -> LaunchBatch:
    """Return a batch of a new name, as it comes back from Kubernetes."""
    name = f"batch-{next(NUMBERS)}"
    requests = [NodeRequest(name=f"{name}-{number}", pool="gpus", mode="ec2") for number in range(count)]
    parameters = json.loads(json.dumps(mode.prepare(name, requests, offers, now_s=7).parameters))
    return LaunchBatch(
        name=name, pool="gpus", mode="ec2", requests=tuple(request.name for request in requests), parameters=parameters
    )


def taken(results: Sequence[LaunchResult]) -> list[str]:
    """Return the offers that gave machines, sorted."""
    return sorted(result.machine.offer for result in results if result.machine)


def machine_ids(results: Sequence[LaunchResult]) -> list[str | None]:
    """Return the machine of every request, in the order of the requests."""
    return [result.machine.id if result.machine else None for result in results]


def live(cloud: SimulatedCloud) -> list[str]:
    """Return what the cloud itself says is there."""
    return sorted(machine.id for machine in cloud.machines if machine.state in ("pending", "running"))
