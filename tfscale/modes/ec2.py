"""Nodes straight from EC2: one CreateFleet of type ``instant`` for each launch batch, machines known by their tags."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from botocore.exceptions import ClientError

from tfscale.errors import CloudUnreachableError, LaunchRefusedError, ModeError, Problem
from tfscale.model import LaunchBatch, Machine, NodeRequest, Notice, Offer
from tfscale.modes.base import LaunchResult, ModeContext, Order, Refusal, ScalingMode, results_of
from tfscale.modes.ec2_calls import Ec2Calls, code_of, message_of, translated
from tfscale.modes.ec2_catalogue import Catalogue, nearest
from tfscale.modes.ec2_fleet import (
    BATCH_TAG,
    CLUSTER_TAG,
    EPOCH_TAG,
    POOL_TAG,
    UNFULFILLABLE,
    fleet_parameters,
    machines_of_fleet,
    provider_id,
    refusals_of_fleet,
)
from tfscale.modes.ec2_options import Ec2Options, options_of
from tfscale.modes.ec2_prices import Prices

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import FilterTypeDef, InstanceTypeDef, LaunchTemplateTypeDef, SubnetTypeDef

__all__ = ["Ec2Mode"]

log = logging.getLogger(__name__)

_LIVE = ("pending", "running", "stopping", "stopped", "shutting-down")
_STOPPING = frozenset({"stopping", "stopped", "shutting-down"})
_MOST_RESULTS = 1_000
_TERMINATE_AT_ONCE = 100
"""EC2 takes 1,000 ids, but one bad id fails the whole call."""


class Ec2Mode:
    """EC2 for one pool. `clock` gives seconds for the age of what is remembered, `sleep` waits between retries."""

    name: ClassVar[str] = "ec2"
    reclaims_idle: ClassVar[bool] = False
    in_cluster: ClassVar[bool] = False

    def __init__(
        self,
        context: ModeContext,
        options: Ec2Options,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pool = context.pool
        self._cluster = context.cluster
        self._options = options
        self._epoch = context.epoch
        self._calls = Ec2Calls(context.aws, options.region, sleep=sleep, epoch=context.epoch)
        find, where = context.gpus.find, f"gpupool {context.pool.name}"
        models = tuple(
            find(name, where=where, field=f"spec.offers.gpuModels[{number}]").name
            for number, name in enumerate(context.pool.wanted.gpu_models)
        )
        self._catalogue = Catalogue(
            self._calls,
            Prices(self._calls, region=options.region, own=options.prices, clock=clock),
            context.gpus,
            region=options.region,
            wanted=replace(context.pool.wanted, gpu_models=models),
            clock=clock,
        )

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Return the mode for one pool. Raises ``BadInputError`` for options that are wrong. Calls nobody."""
        return cls(context, options_of(context.pool), sleep=context.sleep or time.sleep)

    def check(self) -> Sequence[Problem]:
        """Return what is missing in the account or the region, and each filter of the pool that leaves nothing to buy."""
        try:
            problems = [*self._template_problems(), *self._subnet_problems()]
            problems += [*self._catalogue.problems(f"gpupool {self._pool.name}"), *self._price_problems()]
            return problems or self._placing_problems()
        except ModeError as error:
            return [self._problem("region", self._options.region, f"a region whose EC2 answers us ({error})")]

    def offers(self) -> Sequence[Offer]:
        """Return every wanted type, zone and capacity type.

        CPU and memory are the machine's totals, and a price that nobody tells is None. Types, zones and prices are
        remembered for 12 hours.
        """
        return self._catalogue.offers(self._zones)

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:
        """Return the parameters of a CreateFleet, with the launch template's id and version number as they are now."""
        if not requests or len({offer.capacity_type for offer in offers}) != 1:
            raise ValueError(f"batch {name}: want at least one request, and offers of one capacity type")
        template, subnets = self._template_specification(), self._subnet_by_zone()
        if self._options.subnet_ids:
            # EC2 would put a machine of another zone into a default subnet.
            offers = [offer for offer in offers if offer.zone in subnets]
        if not offers:
            raise LaunchRefusedError(f"batch {name}: no subnet of pool {self._pool.name} is in the zones of its offers")
        tags = {
            **self._options.tags,
            "Name": self._options.tags.get("Name", f"{self._cluster}-{self._pool.name}"),
            CLUSTER_TAG: self._cluster,
            POOL_TAG: self._pool.name,
            BATCH_TAG: name,
            EPOCH_TAG: str(self._epoch()),
        }
        token_of = (self._cluster, name, now_s)
        parameters = fleet_parameters(
            offers, count=len(requests), template=template, subnets=subnets, tags=tags, token_of=token_of
        )
        return Order(parameters=parameters, offers=tuple(offer.id for offer in offers))

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Send the recorded CreateFleet. Its client token makes a replay harmless."""
        refused: LaunchRefusedError | None = None
        results: Sequence[LaunchResult] = ()
        try:
            results = self._call(batch)
        except LaunchRefusedError as error:
            refused = error
        if any(result.machine for result in results):
            return results
        # A replay can be refused although the first call, whose reply was lost, was not: capacity or a permission is gone since.
        earlier = [machine for machine in self.observe() if machine.batch == batch.name]
        if refused and not earlier:
            raise refused
        return results_of(batch, earlier) if earlier else results

    def _call(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        with translated(f"launch {batch.name}", refusal=LaunchRefusedError):
            fleet = self._create_fleet(batch)
        if not fleet.get("Instances") and not fleet.get("Errors"):
            # The replay of a settled fleet may answer with its id alone.
            fleet = self._read_back(str(fleet["FleetId"]), batch)
        return self._results(batch, fleet)

    def observe(self) -> Sequence[Machine]:
        """Return this pool's instances by tag, from pending to shutting-down."""
        filters = {f"tag:{CLUSTER_TAG}": [self._cluster], f"tag:{POOL_TAG}": [self._pool.name], "instance-state-name": [*_LIVE]}

        def ask() -> list[InstanceTypeDef]:
            pages = self._calls.ec2.get_paginator("describe_instances").paginate(
                Filters=[{"Name": name, "Values": filters[name]} for name in filters],
                PaginationConfig={"PageSize": _MOST_RESULTS},
            )
            return [instance for page in pages for group in page["Reservations"] for instance in group["Instances"]]

        return [_machine_of(instance) for instance in self._calls.read("DescribeInstances", ask) if self._is_ours(instance)]

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Terminate those of the machines that carry this pool's tags."""
        ours = {machine.id for machine in self.observe()}
        wanted = sorted(set(machine_ids) & ours)
        for machine_id in sorted(set(machine_ids) - ours):
            log.info("machine %s is gone or not of pool %s: left alone", machine_id, self._pool.name)
        for start in range(0, len(wanted), _TERMINATE_AT_ONCE):
            self._terminate(wanted[start : start + _TERMINATE_AT_ONCE])

    def release(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nobody but us removes these nodes."""

    def notices(self) -> Sequence[Notice]:
        """Return nothing: no queue is read."""
        return ()

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Do nothing: there are no notices."""

    def _create_fleet(self, batch: LaunchBatch) -> Mapping[str, Any]:
        try:
            return self._calls.ec2.create_fleet(**batch.parameters)
        except ClientError as error:
            if code_of(error) not in UNFULFILLABLE:
                raise
            return {"Errors": [{"ErrorCode": code_of(error), "ErrorMessage": message_of(error)}]}

    def _results(self, batch: LaunchBatch, fleet: Mapping[str, Any]) -> Sequence[LaunchResult]:
        """Return what a settled fleet means. Errors beside machines are only offers without capacity."""
        machines, refusals = machines_of_fleet(fleet, batch), refusals_of_fleet(fleet, batch.parameters)
        capacity = [refusal for refusal in refusals if refusal.code in UNFULFILLABLE]
        reasons = _reasons(refusals)
        log.info(
            "launch %s: %d of %d machines; refused: %s", batch.name, len(machines), len(batch.requests), reasons or "nothing"
        )
        if not machines and not capacity:
            raise LaunchRefusedError(f"launch {batch.name}: {reasons}")
        return results_of(batch, machines, capacity)

    def _read_back(self, fleet_id: str, batch: LaunchBatch) -> Mapping[str, Any]:
        # Not DescribeFleetInstances: EC2 refuses it for instant fleets.
        fleets = self._calls.read("DescribeFleets", lambda: self._calls.ec2.describe_fleets(FleetIds=[fleet_id])["Fleets"])
        found = [fleet for fleet in fleets if fleet.get("Instances") or fleet.get("Errors")]
        if not found:
            raise ModeError(f"launch {batch.name}: fleet {fleet_id} does not say yet what became of it")
        return found[0]

    def _terminate(self, machine_ids: Sequence[str]) -> None:
        try:
            self._calls.read("TerminateInstances", lambda: self._calls.ec2.terminate_instances(InstanceIds=machine_ids))
        except ModeError as error:
            if not isinstance(error.__cause__, ClientError) or code_of(error.__cause__) != "InvalidInstanceID.NotFound":
                raise
            # One that is gone fails the call for all.
            for machine_id in machine_ids if len(machine_ids) > 1 else ():
                self._terminate([machine_id])

    def _is_ours(self, instance: InstanceTypeDef) -> bool:
        # Filters take * and ? for wildcards, so a strange cluster name could match others.
        tags = _tags_of(instance)
        return tags.get(CLUSTER_TAG) == self._cluster and tags.get(POOL_TAG) == self._pool.name

    def _zones(self) -> Iterable[str] | None:
        wanted = self._pool.wanted.zones or None
        if not self._options.subnet_ids:
            return wanted
        return [zone for zone in self._subnet_by_zone() if wanted is None or zone in wanted]

    def _subnets(self) -> list[SubnetTypeDef]:
        ids = self._options.subnet_ids
        if not ids:
            return []
        filters: list[FilterTypeDef] = [{"Name": "subnet-id", "Values": ids}]
        return self._calls.read("DescribeSubnets", lambda: self._calls.ec2.describe_subnets(Filters=filters)["Subnets"])

    def _subnet_by_zone(self) -> dict[str, str]:
        """Return the subnet with the most free addresses of each zone."""
        by_room = sorted(self._subnets(), key=lambda subnet: (subnet["AvailableIpAddressCount"], subnet["SubnetId"]))
        return {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in by_room}

    def _template(self) -> LaunchTemplateTypeDef:
        named = self._options.launch_template
        wanted: dict[str, Any] = {"LaunchTemplateIds": [named.id]} if named.id else {"LaunchTemplateNames": [named.name]}
        found = self._calls.read("DescribeLaunchTemplates", lambda: self._calls.ec2.describe_launch_templates(**wanted))
        return found["LaunchTemplates"][0]

    def _template_specification(self) -> dict[str, str]:
        found, version = self._template(), self._options.launch_template.version
        latest = found["LatestVersionNumber"]
        number = {"$Default": found["DefaultVersionNumber"], "$Latest": latest}.get(version) or int(version)
        if number > latest:
            raise LaunchRefusedError(f"launch template {found['LaunchTemplateId']} has versions up to {latest}, not {number}")
        return {"LaunchTemplateId": found["LaunchTemplateId"], "Version": str(number)}

    def _template_problems(self) -> list[Problem]:
        named = self._options.launch_template
        try:
            self._template_specification()
        except CloudUnreachableError:
            raise
        except ModeError as error:
            return [self._problem("launchTemplate", named.id or named.name or "", f"a launch template of the account ({error})")]
        return []

    def _subnet_problems(self) -> list[Problem]:
        found = {subnet["SubnetId"] for subnet in self._subnets()}
        missing = [subnet for subnet in self._options.subnet_ids if subnet not in found]
        return [self._problem("subnetIds", subnet, f"a subnet in {self._options.region}") for subnet in missing]

    def _price_problems(self) -> list[Problem]:
        known = self._pool.wanted.instance_types or self._catalogue.names()
        want = "one of the pool's instance types"
        return [
            Problem(
                where=f"gpupool {self._pool.name}",
                field="a key of spec.options.prices",
                value=name,
                want=nearest(name, known) or want,
            )
            for name in self._options.prices
            if name not in known
        ]

    def _placing_problems(self) -> list[Problem]:
        subnets = self._options.subnet_ids
        if not subnets or self._catalogue.sold(self._zones):
            return []
        return [self._problem("subnetIds", ", ".join(subnets), "a subnet in a zone that the pool wants and that has its types")]

    def _problem(self, option: str, value: str, want: str) -> Problem:
        return Problem(where=f"gpupool {self._pool.name}", field=f"spec.options.{option}", value=value, want=want)


def _machine_of(instance: InstanceTypeDef) -> Machine:
    tags, zone = _tags_of(instance), instance["Placement"]["AvailabilityZone"]
    capacity_type = "spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand"
    return Machine(
        id=instance["InstanceId"],
        batch=tags.get(BATCH_TAG, ""),
        pool=tags[POOL_TAG],
        offer=f"{instance['InstanceType']}/{zone}/{capacity_type}",
        provider_id=provider_id(zone, instance["InstanceId"]),
        stopping=instance["State"]["Name"] in _STOPPING,
        launched_s=int(instance["LaunchTime"].timestamp()),
    )


def _tags_of(instance: InstanceTypeDef) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance.get("Tags", ())}


def _reasons(refusals: Iterable[Refusal]) -> str:
    return "; ".join(f"{refusal.offer}: {refusal.code}: {refusal.message}" for refusal in refusals)


_: type[ScalingMode] = Ec2Mode
