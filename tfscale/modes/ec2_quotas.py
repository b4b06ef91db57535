"""Which quota of vCPUs an instance type counts against. Pure.

Source: EC2's pages on On-Demand and Spot instance quotas. The codes are the same in every region.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tfscale.modes.ec2_catalogue import Facts

__all__ = ["Quota", "quota_of", "quotas_of"]


@dataclass(frozen=True, slots=True)
class Quota:
    """A quota of vCPUs in one region."""

    code: str
    name: str


_ON_DEMAND: Mapping[str, Quota] = {
    "g": Quota("L-DB2E81BA", "Running On-Demand G and VT instances"),
    "p": Quota("L-417A185B", "Running On-Demand P instances"),
}
_SPOT: Mapping[str, Quota] = {
    "g": Quota("L-3819A6DF", "All G and VT Spot Instance Requests"),
    "p": Quota("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    "p5": Quota("L-C4BD4855", "All P5 Spot Instance Requests"),
}
_STANDARD = re.compile("(?!dl)[acdhimrtz][a-z]?")
_STANDARD_ON_DEMAND = Quota("L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances")
_STANDARD_SPOT = Quota("L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests")


def quota_of(instance_type: str, capacity_type: str) -> Quota | None:
    """Return the quota of a type, or None where this table has none. Reserved machines count against the on-demand ones.

    >>> quota_of("p5en.48xlarge", "spot")
    Quota(code='L-C4BD4855', name='All P5 Spot Instance Requests')
    """
    named = re.match(r"([a-z]+)(\d*)", instance_type)
    family, generation = named.groups() if named else ("", "")
    family = "g" if family == "gr" else family
    spot = capacity_type == "spot"
    # Two letters at most: inf, trn and hpc have quotas of their own, and so has dl.
    if _STANDARD.fullmatch(family):
        return _STANDARD_SPOT if spot else _STANDARD_ON_DEMAND
    if spot:
        return _SPOT.get(family + generation, _SPOT.get(family))
    return _ON_DEMAND.get(family)


def quotas_of(types: Iterable[Facts], capacity_types: Iterable[str]) -> dict[Quota, list[Facts]]:
    """Return the types by the quotas that they count against."""
    found: dict[Quota, list[Facts]] = {}
    wanted = [kind for kind in capacity_types if kind != "reserved"]
    for facts in types:
        for kind in wanted:
            quota = quota_of(facts.name, kind) if kind in facts.capacity_types else None
            if quota:
                found.setdefault(quota, []).append(facts)
    return found
