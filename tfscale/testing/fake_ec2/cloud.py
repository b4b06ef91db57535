"""The simulated cloud as a whole: one region of EC2 in this process, with a clock that its user turns."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Self

import boto3

from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuTable
from tfscale.spec import suggest
from tfscale.testing.fake_ec2.fleet import Capacity, Ground, Machines, SimulatedMachine
from tfscale.testing.fake_ec2.market import Market, SimulatedType
from tfscale.testing.fake_ec2.nodes import node_of
from tfscale.testing.fake_ec2.wire import Fault, Wire, moto_session

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["SimulatedCloud"]

_AMIS = "MOTO_EC2_LOAD_DEFAULT_AMIS"


class SimulatedCloud:
    """A context manager around one region. Machines and templates live in moto; what moto lacks is added here.

    Added are client tokens, finite capacity with partial fleets, prices, a clock with boot and shutdown delays, faults,
    and the node that each machine becomes. Only calls of `session` see it; nothing reaches the network, and neither the
    environment nor other sessions are touched. moto's store is one per process, so one cloud at a time.

    `capacity` limits machines by (type, zone) or (type, zone, capacity type); what is absent is unlimited. Delays are in
    simulated seconds. `launch_template` is the name of the template that is there from the start. The same `seed` and the
    same calls give the same machine ids.
    """

    _running: ClassVar[Lock] = Lock()

    def __init__(  # noqa: PLR0913 - keyword-only: a scenario sets some of them
        self,
        *,
        region: str = "us-east-1",
        zones: Sequence[str] = ("us-east-1a", "us-east-1b"),
        instance_types: Sequence[SimulatedType],
        capacity: Capacity | None = None,
        boot_delay_s: int = 60,
        shutdown_delay_s: int = 30,
        launch_template: str = "gpu-nodes",
        gpus: GpuTable | None = None,
        seed: int = 0,
    ) -> None:
        self.region = region
        self.zones = tuple(zones)
        self.launch_template = launch_template
        self._gpus = gpus or GpuTable()
        self._types = tuple(instance_types)
        self._capacity = dict(capacity or {})
        self._delays = {"boot_delay_s": boot_delay_s, "shutdown_delay_s": shutdown_delay_s}
        self._seed = seed

    def __enter__(self) -> Self:
        """Start empty at second 0."""
        if not self._running.acquire(blocking=False):
            raise RuntimeError("a simulated cloud is running already: there can be one at a time")
        with ExitStack() as undo:
            undo.callback(self._running.release)
            undo.callback(_restore, _AMIS, os.environ.get(_AMIS))
            os.environ[_AMIS] = "false"  # moto would load thousands of images, which takes seconds
            inside = moto_session(self.region)
            undo.callback(_empty_moto)
            _empty_moto()
            _check_region(self.region)
            ec2 = self._start(inside)
            self._market = Market(self.region, self.zones, self._types, self._gpus)
            self._check_capacity(self._capacity)
            self._machines = Machines(self._build(ec2), self._market, self._capacity, **self._delays)
            self._wire = Wire(self.region, {**self._market.answers(), **self._machines.answers()})
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Forget everything."""
        self._undo.close()

    @property
    def session(self) -> boto3.Session:
        """Return the session whose clients talk to this cloud."""
        return self._wire.session

    @property
    def now_s(self) -> int:
        """Return the time of the cloud."""
        return self._machines.now_s

    @property
    def machines(self) -> tuple[SimulatedMachine, ...]:
        """Return every machine that was ever launched, terminated ones included, in the order of their launch."""
        return tuple(self._machines.all.values())

    @property
    def calls(self) -> Counter[str]:
        """Return how often each operation was called through the session, retries and failures included."""
        return self._wire.calls

    @property
    def subnets(self) -> Mapping[str, str]:
        """Return the subnet of each zone."""
        return dict(self._subnets)

    def requests(self, operation: str) -> list[dict[str, Any]]:
        """Return the parameters of every call of one operation (``CreateFleet``), in order."""
        return [parameters for name, parameters in self._wire.requests if name == operation]

    def advance(self, now_s: int) -> None:
        """Move the clock on. Raises ``ValueError`` if it would go back."""
        if now_s < self.now_s:
            raise ValueError(f"the clock stands at {self.now_s}: cannot go back to {now_s}")
        self._machines.advance(now_s)

    def fail_next(self, operation: str, fault: Fault, *, times: int = 1) -> None:
        """Let the next calls of one operation fail. Faults of one operation queue up."""
        self._wire.fail_next(operation, fault, times=times)

    def set_capacity(self, capacity: Capacity) -> None:
        """Replace all limits. Machines that are there stay, also beyond the new limits."""
        self._check_capacity(capacity)
        self._machines.capacity = dict(capacity)

    def limit(self, place: tuple[str, str, str], machines: int) -> None:
        """Change one limit: of a type, a zone and a capacity type."""
        self.set_capacity({**self._machines.capacity, place: machines})

    def take_away(self, machine_ids: Sequence[str]) -> None:
        """Terminate machines as EC2 does by itself: a spot machine that is reclaimed, a host that fails."""
        self._machines.take_away(machine_ids)

    def answer_replays_with_id_only(self, *, on: bool = True) -> None:
        """From now on a repeated client token is answered with the fleet's id alone, which EC2 may do."""
        self._machines.short_replays = on

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes of all machines that run: those whose boot delay has passed and that nobody terminated."""
        return [
            node_of(machine, self._market.facts[machine.instance_type], self._gpus, self.region)
            for machine in self.machines
            if machine.state == "running"
        ]

    def gone_nodes(self) -> frozenset[str]:
        """Return the names of the nodes whose machines are terminated, which the cloud's controller removes from Kubernetes."""
        gone = {machine.node for machine in self.machines if machine.state == "terminated"}
        return frozenset(gone - {machine.node for machine in self.machines if machine.state != "terminated"})

    def _check_capacity(self, capacity: Capacity) -> None:
        for key, count in capacity.items():
            if key[0] not in self._market.facts or key[1] not in self.zones or count < 0:
                want = "a type and a zone of the cloud, and a count of at least 0"
                raise BadInputError(
                    Problem(where="simulated cloud", field="capacity", value=f"{'/'.join(key)}: {count}", want=want)
                )

    def _start(self, inside: boto3.Session) -> EC2Client:
        """Let moto set up its region, check the zones, and let all ids from here on follow from the seed."""
        from moto.moto_api._internal import mock_random  # noqa: PLC0415 - moto is an extra and takes seconds to import

        ec2 = inside.client("ec2")
        known = {zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]}
        for zone in self.zones:
            if zone not in known:
                want = "one of " + ", ".join(sorted(known))
                raise BadInputError(Problem(where="simulated cloud", field="zone", value=zone, want=want))
        mock_random.seed(self._seed)
        return ec2

    def _build(self, ec2: EC2Client) -> Ground:
        """Make network, image and launch template in moto."""
        from moto.core.models import DEFAULT_ACCOUNT_ID  # noqa: PLC0415 - moto is an extra and takes seconds to import
        from moto.ec2.models import ec2_backends  # noqa: PLC0415 - the same

        vpc = ec2.create_vpc(CidrBlock=_addresses(0))["Vpc"]["VpcId"]
        for number in range(1, len(self.zones)):
            ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock=_addresses(number))
        self._subnets = {
            zone: ec2.create_subnet(VpcId=vpc, CidrBlock=_addresses(number), AvailabilityZone=zone)["Subnet"]["SubnetId"]
            for number, zone in enumerate(self.zones)
        }
        image = ec2.register_image(Name="node", RootDeviceName="/dev/xvda")["ImageId"]
        ec2.create_launch_template(LaunchTemplateName=self.launch_template, LaunchTemplateData={"ImageId": image})
        return Ground(ec2=ec2, instances=ec2_backends[DEFAULT_ACCOUNT_ID][self.region], subnets=self._subnets)


def _check_region(region: str) -> None:
    from moto.core.models import DEFAULT_ACCOUNT_ID  # noqa: PLC0415 - moto is an extra and takes seconds to import
    from moto.ec2.models import ec2_backends  # noqa: PLC0415 - the same

    known = ec2_backends[DEFAULT_ACCOUNT_ID].regions
    if region not in known:
        raise BadInputError(Problem(where="simulated cloud", field="region", value=region, want=suggest(region, known)))


def _addresses(number: int) -> str:
    """Return the addresses of one zone: as many as EC2 lets a subnet have."""
    return f"10.{number}.0.0/16"


def _empty_moto() -> None:
    """Forget moto's state, which is one for the whole process."""
    from moto.core.base_backend import BackendDict  # noqa: PLC0415 - moto is an extra and takes seconds to import
    from moto.core.model_instances import reset_model_data  # noqa: PLC0415 - the same

    BackendDict.reset()
    reset_model_data()


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
