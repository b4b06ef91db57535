"""One simulated region of EC2, wherever its instances are kept: what is there, what may be asked, and what can go wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfscale.gpus import GpuTable
from tfscale.testing.fake_ec2.desk import Call, Desk
from tfscale.testing.fake_ec2.events import Events
from tfscale.testing.fake_ec2.faults import Fault
from tfscale.testing.fake_ec2.fleet import Launches
from tfscale.testing.fake_ec2.ground import Ground
from tfscale.testing.fake_ec2.images import Images
from tfscale.testing.fake_ec2.listing import Listing
from tfscale.testing.fake_ec2.machines import Machines, SimulatedMachine
from tfscale.testing.fake_ec2.market import Market, SimulatedType
from tfscale.testing.fake_ec2.nodes import node_of
from tfscale.testing.fake_ec2.pages import Answer
from tfscale.testing.fake_ec2.places import Places
from tfscale.testing.fake_ec2.reservations import Reservations, SimulatedReservation
from tfscale.testing.fake_ec2.room import Capacity, Room
from tfscale.testing.fake_ec2.templates import Templates
from tfscale.testing.fake_ec2.throttle import Throttle
from tfscale.testing.fake_ec2.tokens import Tokens

if TYPE_CHECKING:
    import boto3

__all__ = ["Region"]


class Region(ABC):
    """A region with a clock that its user turns. It is :class:`SimulatedCloud` or :class:`MemoryCloud`.

    Added to what the ground knows are client tokens, finite capacity with partial fleets, reservations, quotas, prices, launch
    templates, images, a clock with boot and shutdown delays, lists that lag, throttling, faults, and the node that each machine
    becomes.

    `capacity` limits machines by (type, zone) or (type, zone, capacity type); what is absent is unlimited. Delays are in
    simulated seconds. `launch_template` is the name of the template that is there from the start. The same `seed` and the
    same calls give the same machine ids. With `throttle` an account may call as often as EC2 lets it.
    """

    def __init__(  # noqa: PLR0913 - keyword-only: a scenario sets some of them
        self,
        *,
        region: str = "us-east-1",
        zones: Sequence[str] = ("us-east-1a", "us-east-1b"),
        instance_types: Sequence[SimulatedType],
        capacity: Capacity | None = None,
        reservations: Sequence[SimulatedReservation] = (),
        boot_delay_s: int = 60,
        shutdown_delay_s: int = 30,
        launch_template: str = "gpu-nodes",
        gpus: GpuTable | None = None,
        seed: int = 0,
        throttle: bool = False,
    ) -> None:
        self.region = region
        self.zones = tuple(zones)
        self.launch_template = launch_template
        self._gpus = gpus or GpuTable()
        self._types = tuple(instance_types)
        self._capacity = dict(capacity or {})
        self._booked = tuple(reservations)
        self._delays = {"boot_delay_s": boot_delay_s, "shutdown_delay_s": shutdown_delay_s}
        self._seed = seed
        self._throttled = throttle

    def _furnish(self, market: Market, ground: Ground, more: Mapping[str, Answer] | None = None) -> Desk:
        """Put everything on this ground, empty at second 0, and return where calls arrive; `more` is answered beside it."""
        self._market = market
        self._ground = ground
        self._machines = Machines(ground, **self._delays)
        self._reservations = Reservations(
            self._booked, clock=lambda: self.now_s, used=lambda one: self._machines.in_reservation[one]
        )
        self._images = Images(lambda: self.now_s)
        self._templates = Templates(lambda: self.now_s, self._seed)
        self._throttle = Throttle(lambda: self.now_s, on=self._throttled)
        self._room = Room(market, self._machines, self._reservations, ground, self._throttle)
        self._room.set_capacity(self._capacity)
        image = self.add_image("node")
        self._templates.create({"LaunchTemplateName": self.launch_template, "LaunchTemplateData": {"ImageId": image}})
        self.events = Events(self.region, self._machines, self._post)
        self._desk = Desk(self.region, {**self._answers(), **(more or {})}, self._throttle)
        return self._desk

    def _answers(self) -> dict[str, Answer]:
        tokens = Tokens(lambda: self.now_s)
        listing = Listing(self._ground, self._machines, self._reservations, self._templates)
        places = Places(self._ground, self._market, self._templates, self._reservations)
        self._launches = Launches(self._ground, self._market, listing, self._room, places, self._throttle)
        return {
            **self._market.answers(),
            **self._reservations.answers(),
            **self._images.answers(),
            **self._templates.answers(tokens),
            **listing.answers(),
            **self._launches.answers(tokens),
            "DescribeSubnets": self._describe_subnets,
        }

    @property
    @abstractmethod
    def session(self) -> boto3.Session:
        """Return the session whose clients talk to this cloud."""

    @abstractmethod
    def _post(self, queue_url: str, text: str) -> None:
        """Put a text into a queue of SQS, uncounted and without faults."""

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
        return self._desk.calls

    @property
    def throttled(self) -> Counter[str]:
        """Return how often each operation was refused because its bucket was empty."""
        return self._throttle.refused

    @property
    def subnets(self) -> Mapping[str, str]:
        """Return the first subnet of each zone."""
        return dict(self._ground.subnets)

    def requests(self, operation: str) -> list[dict[str, Any]]:
        """Return the parameters of every call of one operation (``CreateFleet``), in order."""
        return [parameters for name, parameters in self._desk.requests if name == operation]

    def forget_calls(self) -> None:
        """Count from nought again."""
        self._desk.requests.clear()
        self._throttle.refused.clear()

    def answer(self, call: Call) -> Mapping[str, Any] | None:
        """Answer one call, for a wire of your own; see :meth:`Desk.handle`."""
        return self._desk.handle(call)

    def advance(self, now_s: int) -> None:
        """Move the clock on. Raises ``ValueError`` if it would go back."""
        if now_s < self.now_s:
            raise ValueError(f"the clock stands at {self.now_s}: cannot go back to {now_s}")
        self._machines.advance(now_s)
        self.events.advance()
        for one in self._reservations.all.values():
            closes_s = one.closes_s()
            if closes_s is not None and now_s >= closes_s:
                held = [machine.id for machine in self.machines if machine.reservation == one.id]
                self._machines.take_away(held, at_s=closes_s)

    def fail_next(self, operation: str, fault: Fault, *, times: int = 1) -> None:
        """Let the next calls of one operation fail. Faults of one operation queue up."""
        self._desk.fail_next(operation, fault, times=times)

    def forget_faults(self) -> None:
        """Take back all faults that no call met yet."""
        self._desk.forget_faults()

    def deny(self, *operations: str) -> None:
        """From now on these operations, and no others, are denied to the caller, dry runs included."""
        self._desk.denied = frozenset(operations)

    def set_throttle(self, *, on: bool) -> None:
        """Let the account call as often as EC2 lets it, from full buckets, or as often as it wants."""
        self._throttle.on = on
        self._throttle.fill()

    def set_capacity(self, capacity: Capacity) -> None:
        """Replace all limits. Machines that are there stay, also beyond the new limits."""
        self._room.set_capacity(capacity)

    def limit(self, place: tuple[str, str, str], machines: int) -> None:
        """Change one limit: of a type, a zone and a capacity type."""
        self.set_capacity({**self._room.capacity, place: machines})

    def set_quota(self, capacity_type: str, vcpus: int | None) -> None:
        """Let the account have so many vCPUs of ``on-demand`` or ``spot`` at once; None is any number."""
        self._room.vcpus.pop(capacity_type, None)
        if vcpus is not None:
            self._room.vcpus[capacity_type] = vcpus

    def set_describe_lag(self, seconds: int) -> None:
        """Let machines and fleets be listed only so long after their launch, from now on; until then EC2 does not know them."""
        self._machines.describe_lag_s = seconds

    def add_subnet(self, zone: str, *, machines: int | None = None) -> str:
        """Make one more subnet, for so many machines at once, and return its id."""
        subnet = self._ground.add_subnet(zone)
        self.set_addresses(subnet, machines)
        return subnet

    def set_addresses(self, subnet_id: str, machines: int | None) -> None:
        """Let a subnet have room for so many machines at once; None is as many as its network has."""
        self._room.addresses.pop(subnet_id, None)
        if machines is not None:
            self._room.addresses[subnet_id] = machines

    def add_image(
        self, name: str, *, architecture: str = "x86_64", owner: str = "self", tags: Mapping[str, str] | None = None
    ) -> str:
        """Register an image as of now, and return its id. `owner` is ``self``, ``amazon`` or an account."""
        return self._images.add(name, architecture=architecture, owner=owner, tags=tags or {})

    def remove_image(self, image_id: str) -> None:
        """Deregister an image."""
        self._images.remove(image_id)

    def set_parameter(self, name: str, value: str) -> None:
        """Set an SSM parameter, also in place of a public one."""
        self._images.parameters[name] = value

    def take_away(self, machine_ids: Sequence[str]) -> None:
        """Terminate machines as EC2 does by itself: a spot machine that is reclaimed, a host that fails."""
        self._machines.take_away(machine_ids)

    def answer_replays_with_id_only(self, *, on: bool = True) -> None:
        """From now on a repeated client token is answered with the fleet's id alone, which EC2 may do."""
        self._launches.short_replays = on

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes of all machines that run: those whose boot delay has passed and that nobody terminated."""
        return [
            node_of(machine, self._market.facts[machine.instance_type], self._gpus, self.region)
            for machine in self._machines.all.values()
            if machine.state == "running"
        ]

    def gone_nodes(self) -> frozenset[str]:
        """Return the names of the nodes whose machines are terminated, which the cloud's controller removes from Kubernetes."""
        gone = {machine.node for machine in self.machines if machine.state == "terminated"}
        return frozenset(gone - {machine.node for machine in self.machines if machine.state != "terminated"})

    def _describe_subnets(self, parameters: dict[str, Any]) -> Mapping[str, Any]:
        reply = self._ground.describe_subnets(parameters)
        shown = [{**one, "AvailableIpAddressCount": self._room.free_addresses(one["SubnetId"])} for one in reply["Subnets"]]
        return {**reply, "Subnets": shown}
