"""What would keep a pool from buying on EC2, in words: found by looking alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tfscale.errors import Problem
from tfscale.modes.ec2_catalogue import Catalogue, nearest
from tfscale.modes.ec2_options import Ec2Options
from tfscale.modes.ec2_reservations import RESERVED, Reservations
from tfscale.modes.ec2_subnets import Subnets
from tfscale.modes.ec2_templates import TemplateSource
from tfscale.pool import Pool

__all__ = ["Preflight"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """One pool and all that its offers are made of. Every method may raise ``ModeError``."""

    pool: Pool
    options: Ec2Options
    catalogue: Catalogue
    subnets: Subnets
    templates: TemplateSource
    reservations: Reservations
    zones: Callable[[], Iterable[str] | None]
    """Where the pool may buy; None is each zone of the region itself."""

    def problems(self) -> list[Problem]:
        """Return all that is wrong."""
        where = f"gpupool {self.pool.name}"
        archs = (facts.arch for facts, _ in self.catalogue.sold(self.zones))
        problems = [*self.templates.problems(where, archs), *self._missing_subnets()]
        problems += [*self.catalogue.problems(where), *self._useless_prices()]
        return problems or [*self._misplaced(), *self._useless_reservations()]

    def problem(self, option: str, value: str, want: str) -> Problem:
        """Return one that is about an option of the pool."""
        return Problem(where=f"gpupool {self.pool.name}", field=f"spec.options.{option}", value=value, want=want)

    def _missing_subnets(self) -> list[Problem]:
        want = f"a subnet in {self.options.region}"
        return [self.problem("subnetIds", subnet, want) for subnet in self.subnets.missing()]

    def _useless_prices(self) -> Iterator[Problem]:
        known = self.pool.wanted.instance_types or self.catalogue.names()
        for name in self.options.prices:
            if name not in known:
                want = nearest(name, known) or "one of the pool's instance types"
                where = f"gpupool {self.pool.name}"
                yield Problem(where=where, field="a key of spec.options.prices", value=name, want=want)

    def _misplaced(self) -> list[Problem]:
        subnets = self.options.subnet_ids
        if not subnets or self.catalogue.sold(self.zones):
            return []
        return [self.problem("subnetIds", ", ".join(subnets), "a subnet in a zone that the pool wants and that has its types")]

    def _useless_reservations(self) -> list[Problem]:
        """Return that the pool does not want its reservations, or, where it wants nothing else, that it can use none of them.

        Another pool goes on without those that are over.
        """
        wanted = self.pool.wanted.capacity_types
        if self.options.reservations and RESERVED not in wanted:
            # On-demand machines would be bought beside those that are paid for.
            want = f"{RESERVED} among them, or no spec.options.reservations"
            where = f"gpupool {self.pool.name}"
            return [Problem(where=where, field="spec.offers.capacityTypes", value=", ".join(wanted), want=want)]
        if {*wanted} != {RESERVED}:
            return []
        closed = self.reservations.closed()
        if self.catalogue.matched(self.zones, [one for one in self.reservations.all() if one.id not in closed]):
            return []
        want = "one that is active, and of a type and zone that the pool wants and its subnets reach"
        return [
            self.problem("reservations", one.id, f"{want} ({closed[one.id]})" if one.id in closed else want)
            for one in self.options.reservations
        ]
