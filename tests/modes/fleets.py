"""Modes, offers and batches for tests of the EC2 mode."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

from tfscale.gpus import GpuTable
from tfscale.kube.port import Kube
from tfscale.model import LaunchBatch, NodeRequest, Offer
from tfscale.modes.base import LaunchResult, ModeContext
from tfscale.modes.ec2 import Ec2Mode
from tfscale.pool import OfferFilter, Pool
from tfscale.testing import FakeKube
from tfscale.testing.fake_ec2 import Region, SimulatedCloud

A, B = "us-east-1a", "us-east-1b"


NUMBERS = itertools.count()


CERTIFICATES = base64.b64encode(b"-----BEGIN CERTIFICATE-----\n").decode()
CLUSTER = {
    "name": "prod",
    "endpoint": "https://ABC.gr7.us-east-1.eks.amazonaws.com",
    "certificateAuthority": CERTIFICATES,
    "serviceCidr": "10.100.0.0/16",
    "version": "1.33",
}


def bootstrap(**changes: object) -> dict[str, Any]:
    """Return the option of a pool whose launch templates tfscale makes."""
    base = {"family": "al2023", "ami": {"alias": "al2023@latest"}, "instanceProfile": "gpu-node", "cluster": CLUSTER}
    return {**base, **changes}


def mode_of(
    cloud: Region,
    *,
    pool: str = "gpus",
    cluster: str = "test",
    wanted: OfferFilter | None = None,
    sleep: Callable[[float], None] = lambda _: None,
    clock: Callable[[], float] | None = None,
    kube: Kube | None = None,
    **options: object,
) -> Ec2Mode:
    """Return the mode of one pool, which never really sleeps, and whose time is the cloud's unless a test gives its own."""
    template = {} if "bootstrap" in options else {"launchTemplate": {"name": cloud.launch_template}}
    found = Pool(name=pool, mode="ec2", options={"region": cloud.region, **template, **options}, wanted=wanted or OfferFilter())
    context = ModeContext(
        pool=found,
        gpus=GpuTable(),
        kube=kube or FakeKube(),
        cluster=cluster,
        aws=cloud.session,
        sleep=sleep,
        clock=clock or (lambda: cloud.now_s),
    )
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
    order = mode.prepare(name, requests, offers, now_s=7)
    return LaunchBatch(
        name=name,
        pool="gpus",
        mode="ec2",
        requests=tuple(request.name for request in requests),
        parameters=json.loads(json.dumps(order.parameters)),
        offers=order.offers,
    )


def taken(results: Sequence[LaunchResult]) -> list[str]:
    """Return the offers that gave machines, sorted."""
    return sorted(result.machine.offer for result in results if result.machine)


def machine_ids(results: Sequence[LaunchResult]) -> list[str | None]:
    """Return the machine of every request, in the order of the requests."""
    return [result.machine.id if result.machine else None for result in results]


def make_profile(cloud: SimulatedCloud, name: str, *, role: bool = True) -> None:
    """Make an instance profile as its author does, with the role of the same name."""
    iam: Any = cloud.inside.client("iam")
    iam.create_instance_profile(InstanceProfileName=name)
    if role:
        iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def live(cloud: Region) -> list[str]:
    """Return what the cloud itself says is there."""
    return sorted(machine.id for machine in cloud.machines if machine.state in ("pending", "running"))
