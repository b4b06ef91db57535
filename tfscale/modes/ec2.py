"""Nodes straight from EC2: one call for each launch batch, a fleet or a run into a reservation; machines known by their tags."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from botocore.exceptions import ClientError

from tfscale.errors import CredentialsError, LaunchRefusedError, ModeError, Problem
from tfscale.finding import Finding
from tfscale.model import LaunchBatch, Machine, NodeRequest, Notice, Offer
from tfscale.modes.base import LaunchResult, ModeContext, Order, ScalingMode
from tfscale.modes.ec2_bootstrap import taints_of
from tfscale.modes.ec2_calls import Ec2Calls, code_of
from tfscale.modes.ec2_catalogue import Catalogue
from tfscale.modes.ec2_doctor import Doctor
from tfscale.modes.ec2_fleet import BATCH_TAG, CLUSTER_TAG, EPOCH_TAG, POOL_TAG, fleet_parameters, offer_ids
from tfscale.modes.ec2_launch import Launches
from tfscale.modes.ec2_machines import LIVE, machine_of, tags_of
from tfscale.modes.ec2_options import Ec2Options, options_of
from tfscale.modes.ec2_preflight import Preflight
from tfscale.modes.ec2_prices import Prices
from tfscale.modes.ec2_queue import InterruptionQueue
from tfscale.modes.ec2_reservations import RESERVED, Reservations
from tfscale.modes.ec2_run import run_offer, run_parameters
from tfscale.modes.ec2_subnets import Subnets
from tfscale.modes.ec2_templates import ARCH, GivenTemplate, OwnTemplates, TemplateSource
from tfscale.modes.ec2_unused_templates import UnusedTemplates

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import InstanceTypeDef

__all__ = ["Ec2Mode"]

log = logging.getLogger(__name__)

_MOST_RESULTS = 1_000
_TERMINATE_AT_ONCE = 100
"""EC2 takes 1,000 ids, but one bad id fails the whole call."""


class Ec2Mode:
    """EC2 for one pool.

    `clock` gives seconds for the age of what is remembered, `now` those since the epoch, `sleep` waits between retries.
    """

    name: ClassVar[str] = "ec2"
    reclaims_idle: ClassVar[bool] = False
    in_cluster: ClassVar[bool] = False

    def __init__(
        self,
        context: ModeContext,
        options: Ec2Options,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pool = context.pool
        self._cluster = context.cluster
        self._options = options
        self._kube = context.kube
        self._epoch = context.epoch
        calls = self._calls = Ec2Calls(context.aws, options.region, role=options.role(), sleep=sleep, epoch=context.epoch)
        self._catalogue = Catalogue(
            calls,
            Prices(calls, region=options.region, own=options.prices, clock=clock),
            context.gpus,
            region=options.region,
            wanted=replace(context.pool.wanted, gpu_models=_models(context)),
            clock=clock,
        )
        self._subnets = Subnets(calls, options.subnet_ids, clock=clock)
        self._reservations = Reservations(calls, [one.id for one in options.reservations], clock=clock, now=now)
        self._templates = _templates(calls, context, options, clock=clock, now=now)
        queue = options.interruption_queue
        self._queue = InterruptionQueue(calls, queue, cluster=context.cluster, clock=clock) if queue else None
        self._launches = Launches(calls, observe=self.observe, on_gone=self._templates.forget, clock=clock)

    @classmethod
    def open(cls, context: ModeContext) -> Self:
        """Return the mode for one pool. Raises ``BadInputError`` for options that are wrong. Calls nobody."""
        return cls(
            context,
            options_of(context.pool),
            clock=context.clock or time.monotonic,
            now=context.clock or time.time,
            sleep=context.sleep or time.sleep,
        )

    def check(self) -> Sequence[Problem]:
        """Return what is missing in the account or the region, and each filter of the pool that leaves nothing to buy."""
        preflight = Preflight(
            pool=self._pool,
            options=self._options,
            catalogue=self._catalogue,
            subnets=self._subnets,
            templates=self._templates,
            reservations=self._reservations,
            zones=self._zones,
        )
        try:
            return preflight.problems()
        except CredentialsError:
            raise
        except ModeError as error:
            return [preflight.problem("region", self._options.region, f"a region whose EC2 answers us ({error})")]

    def offers(self) -> Sequence[Offer]:
        """Return every wanted type, zone and capacity type, and the pool's reservations, as far as there is an image for it.

        CPU and memory are the machine's totals, and a price that nobody tells is None. Types, zones and prices are
        remembered for 12 hours, images for an hour, subnets and reservations for a minute.
        """
        reservations = self._reservations.all() if RESERVED in self._pool.wanted.capacity_types else []
        found = self._catalogue.offers(self._zones, reservations)
        return [self._dressed(offer) for offer in found if self._templates.boots(offer.labels[ARCH])]

    def prepare(self, name: str, requests: Sequence[NodeRequest], offers: Sequence[Offer], *, now_s: int) -> Order:
        """Return the parameters of a CreateFleet, or for reserved offers of a RunInstances into the first of them.

        Launch templates are named by id and version number as they are now; those of tfscale's own are made where missing.
        """
        if not requests or len({offer.capacity_type for offer in offers}) != 1:
            raise ValueError(f"batch {name}: want at least one request, and offers of one capacity type")
        offers = self._placed(name, offers)
        if offers[0].capacity_type == RESERVED:
            offers = offers[:1]
        templates = self._templates.specifications(offers)
        if not templates:
            raise LaunchRefusedError(f"batch {name}: no image of pool {self._pool.name} boots on its offers")
        call: dict[str, Any] = {"count": len(requests), "tags": self._tags(name), "token_of": (self._cluster, name, now_s)}
        if offers[0].capacity_type == RESERVED:
            (offer,), (template, _) = offers, templates[0]
            block = self._reservations.is_block(offer.reservation)
            parameters = run_parameters(offer, template=template, block=block, **call)
            named: tuple[str, ...] = (run_offer(parameters),)
        else:
            images = {offer.id for _, group in templates for offer in group}
            parameters = fleet_parameters(templates, [offer for offer in offers if offer.id in images], **call)
            named = offer_ids(parameters)
        self._launches.expect(name)
        return Order(parameters=parameters, offers=named)

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Send the recorded call. Its client token makes a replay harmless."""
        try:
            return self._launches.launch(batch)
        finally:
            self._reservations.forget()

    def observe(self) -> Sequence[Machine]:
        """Return this pool's instances by tag, from pending to shutting-down."""
        filters = {f"tag:{CLUSTER_TAG}": [self._cluster], f"tag:{POOL_TAG}": [self._pool.name], "instance-state-name": [*LIVE]}

        def ask() -> list[InstanceTypeDef]:
            pages = self._calls.ec2.get_paginator("describe_instances").paginate(
                Filters=[{"Name": name, "Values": filters[name]} for name in filters],
                PaginationConfig={"PageSize": _MOST_RESULTS},
            )
            return [instance for page in pages for group in page["Reservations"] for instance in group["Instances"]]

        return [machine_of(instance) for instance in self._calls.read("DescribeInstances", ask) if self._is_ours(instance)]

    def terminate(self, machine_ids: Sequence[str]) -> None:
        """Terminate those of the machines that carry this pool's tags."""
        ours = {machine.id for machine in self.observe()}
        wanted = sorted(set(machine_ids) & ours)
        for machine_id in sorted(set(machine_ids) - ours):
            log.info("machine %s is gone or not of pool %s: left alone", machine_id, self._pool.name)
        for start in range(0, len(wanted), _TERMINATE_AT_ONCE):
            self._terminate(wanted[start : start + _TERMINATE_AT_ONCE])

    def hold(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nobody but us removes these machines."""

    def release(self, machine_ids: Sequence[str]) -> None:
        """Do nothing: nobody but us removes these nodes."""

    def notices(self) -> Sequence[Notice]:
        """Return what the queue says, if the pool has one."""
        return self._queue.notices() if self._queue else ()

    def acknowledge(self, notices: Sequence[Notice]) -> None:
        """Let the queue forget what these notices came from."""
        if self._queue:
            self._queue.acknowledge(notices)

    def examine(self) -> Sequence[Finding]:
        """Return what would keep the pool from buying, or its nodes from joining, for ``tfscale doctor``. Changes nothing."""
        doctor = Doctor(
            pool=self._pool,
            options=self._options,
            calls=self._calls,
            kube=self._kube,
            cluster=self._cluster,
            tags=self._tags("doctor"),
            templates=self._templates,
            reservations=self._reservations,
            check=self.check,
            offers=self.offers,
            sold=lambda: self._catalogue.sold(self._zones),
            machines=lambda: [machine.id for machine in self.observe()],
        )
        return list(doctor.findings())

    @property
    def unreadable(self) -> Mapping[str, int]:
        """Return how many messages of the queue made no sense, by kind of trouble."""
        return self._queue.unreadable if self._queue else {}

    def _dressed(self, offer: Offer) -> Offer:
        """Return the offer with where it may be launched, and with what its nodes are told when they boot."""
        offer = replace(offer, subnets=self._subnets.by_zone().get(offer.zone, ()))
        bootstrap = self._options.bootstrap
        if bootstrap is None:
            return offer
        labels, most = {**offer.labels, **bootstrap.kubelet.labels}, bootstrap.kubelet.max_pods
        return replace(offer, labels=labels, taints=taints_of(bootstrap), pods_max=most or offer.pods_max)

    def _placed(self, name: str, offers: Sequence[Offer]) -> list[Offer]:
        """Return the offers with their subnets. EC2 would put a machine of another zone into a default one."""
        if not self._options.subnet_ids:
            return [*offers]
        here = self._subnets.by_zone()
        placed = [replace(offer, subnets=offer.subnets or here[offer.zone]) for offer in offers if offer.zone in here]
        if not placed:
            raise LaunchRefusedError(f"batch {name}: no subnet of pool {self._pool.name} is in the zones of its offers")
        return placed

    def _tags(self, batch: str) -> Mapping[str, str]:
        cluster = self._options.bootstrap and self._options.bootstrap.cluster
        # The cloud's own controllers know by it which nodes belong to an EKS cluster.
        owned = {f"kubernetes.io/cluster/{cluster.name}": "owned"} if cluster else {}
        return {
            **owned,
            **self._options.tags,
            "Name": self._options.tags.get("Name", f"{self._cluster}-{self._pool.name}"),
            CLUSTER_TAG: self._cluster,
            POOL_TAG: self._pool.name,
            BATCH_TAG: batch,
            EPOCH_TAG: str(self._epoch()),
        }

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
        tags = tags_of(instance)
        return tags.get(CLUSTER_TAG) == self._cluster and tags.get(POOL_TAG) == self._pool.name

    def _zones(self) -> Iterable[str] | None:
        wanted = self._pool.wanted.zones or None
        if not self._options.subnet_ids:
            return wanted
        return [zone for zone in self._subnets.by_zone() if wanted is None or zone in wanted]


def _models(context: ModeContext) -> tuple[str, ...]:
    """Return the canonical names of the card models that the pool wants."""
    find, where = context.gpus.find, f"gpupool {context.pool.name}"
    return tuple(
        find(name, where=where, field=f"spec.offers.gpuModels[{number}]").name
        for number, name in enumerate(context.pool.wanted.gpu_models)
    )


def _templates(
    calls: Ec2Calls, context: ModeContext, options: Ec2Options, *, clock: Callable[[], float], now: Callable[[], float]
) -> TemplateSource:
    if options.launch_template is not None:
        return GivenTemplate(calls, options.launch_template)
    assert options.bootstrap is not None  # noqa: S101 - the options are refused otherwise
    cluster, pool = context.cluster, context.pool.name
    unused = UnusedTemplates(calls, context.kube, cluster=cluster, pool=pool, now=now)
    return OwnTemplates(calls, options.bootstrap, cluster=cluster, pool=pool, unused=unused, clock=clock)


_: type[ScalingMode] = Ec2Mode
