"""What a pool of the EC2 mode may set, checked before anything is called."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, model_validator

from tfscale.errors import BadInputError, Problem
from tfscale.model import Pool
from tfscale.quantity import micro_usd
from tfscale.spec import Spec, parse

__all__ = ["Ec2Options", "LaunchTemplate", "options_of"]

CAPACITY_TYPES = ("on-demand", "spot")
# Karpenter collects instances that carry its tags and that it does not know; `aws:` is EC2's own.
_FOREIGN_TAGS = ("aws:", "tfscale.io/", "karpenter.sh/", "karpenter.k8s.aws/", "eks:eks-cluster-name")


def _shaped(pattern: str, want: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(want)
        return value

    return AfterValidator(check)


def _own_tag(key: str) -> str:
    if key.startswith(_FOREIGN_TAGS):
        raise ValueError(f"a tag of your own, not one that starts with {', '.join(_FOREIGN_TAGS)}")
    return key


def _version(value: object) -> str:
    text = str(value)
    if text not in ("$Default", "$Latest") and not (text.isascii() and text.isdigit()):
        raise ValueError("a version number, $Default or $Latest")
    return text


def _price(value: object) -> int:
    want = "an amount of USD above 0, such as 0.526"
    try:
        price = micro_usd(value)
    except ValueError:
        raise ValueError(want) from None
    if not price:
        # Such a node would be bought before all others and count nothing against a limit.
        raise ValueError(f"{want}; leave a price out that you do not know")
    return price


class LaunchTemplate(Spec):
    """The launch template that brings image, disk, network and bootstrap of the nodes."""

    name: Annotated[str, _shaped("[a-zA-Z0-9()./_-]{3,128}", "the name of a launch template")] | None = None
    id: Annotated[str, _shaped("lt-[0-9a-f]+", "an id such as lt-0123456789abcdef0")] | None = None
    version: Annotated[str, BeforeValidator(_version)] = "$Default"

    @model_validator(mode="after")
    def _one_name(self) -> LaunchTemplate:
        if (self.name is None) == (self.id is None):
            raise ValueError("either name or id")
        return self


class Ec2Options(Spec):
    """The options of one pool."""

    region: Annotated[str, _shaped("[a-z]+(-[a-z]+)+-[0-9]+", "a region such as us-east-1")]
    launch_template: LaunchTemplate
    subnet_ids: list[Annotated[str, _shaped("subnet-[0-9a-f]+", "an id such as subnet-0123456789abcdef0")]] = []
    """Where nodes may be; empty leaves the subnet of each zone to EC2 and the launch template."""
    prices: dict[str, Annotated[int, BeforeValidator(_price)]] = {}
    """Micro-USD per hour by instance type, instead of the price list: what a contract says. On-demand only."""
    tags: dict[Annotated[str, BeforeValidator(_own_tag)], str] = {}
    """Tags for instances, volumes and fleets, beside those of tfscale."""


def options_of(pool: Pool) -> Ec2Options:
    """Return the pool's options. Raises ``BadInputError`` that names everything that is wrong."""
    where = f"gpupool {pool.name}"
    for number, wanted in enumerate(pool.wanted.capacity_types):
        if wanted not in CAPACITY_TYPES:
            field, want = f"spec.offers.capacityTypes[{number}]", " or ".join(CAPACITY_TYPES)
            raise BadInputError(Problem(where=where, field=field, value=wanted, want=want))
    return parse(Ec2Options, dict(pool.options), where=where, field="spec.options")
