"""What a pool of the EC2 mode may set, checked before anything is called."""

from __future__ import annotations

import difflib
import re
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from tfscale.errors import BadInputError, Problem
from tfscale.model import Pool

__all__ = ["Ec2Options", "LaunchTemplate", "micro_usd", "options_of"]

CAPACITY_TYPES = ("on-demand", "spot")
_DEAREST_USD = 1_000_000
# Karpenter collects instances that carry its tags and that it does not know; `aws:` is EC2's own.
_FOREIGN_TAGS = ("aws:", "tfscale.io/", "karpenter.sh/", "karpenter.k8s.aws/", "eks:eks-cluster-name")
_MICRO = 1_000_000


def micro_usd(price: object) -> int:
    """Return a price in USD per hour as micro-USD per hour, rounded to the nearest.

    Raises ``ValueError`` for anything that is no finite number from 0 to a million.

    >>> micro_usd("0.8048")
    804800
    """
    want = f"a price in USD per hour, 0 to {_DEAREST_USD:,}"
    if isinstance(price, bool) or not isinstance(price, (str, int, float, Decimal)):
        raise ValueError(want)  # noqa: TRY004 - pydantic turns only ValueError into a message
    try:
        usd = Decimal(str(price))
    except InvalidOperation:
        raise ValueError(want) from None
    if not usd.is_finite() or not 0 <= usd <= _DEAREST_USD:
        raise ValueError(want)
    return int((usd * _MICRO).to_integral_value(ROUND_HALF_UP))


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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class LaunchTemplate(_Strict):
    """The launch template that brings image, disk, network and bootstrap of the nodes."""

    name: Annotated[str, _shaped("[a-zA-Z0-9()./_-]{3,128}", "the name of a launch template")] | None = None
    id: Annotated[str, _shaped("lt-[0-9a-f]+", "an id such as lt-0123456789abcdef0")] | None = None
    version: Annotated[str, BeforeValidator(_version)] = "$Default"

    @model_validator(mode="after")
    def _one_name(self) -> LaunchTemplate:
        if (self.name is None) == (self.id is None):
            raise ValueError("either name or id")
        return self


class Ec2Options(_Strict):
    """The options of one pool."""

    region: Annotated[str, _shaped("[a-z]+(-[a-z]+)+-[0-9]+", "a region such as us-east-1")]
    launch_template: LaunchTemplate
    subnet_ids: tuple[Annotated[str, _shaped("subnet-[0-9a-f]+", "an id such as subnet-0123456789abcdef0")], ...] = ()
    """Where nodes may be; empty leaves the subnet of each zone to EC2 and the launch template."""
    prices: dict[str, Annotated[int, BeforeValidator(micro_usd)]] = {}
    """Micro-USD per hour by instance type, instead of the price list: what a contract says. On-demand only."""
    tags: dict[Annotated[str, BeforeValidator(_own_tag)], str] = {}
    """Tags for instances, volumes and fleets, beside those of tfscale."""


def options_of(pool: Pool) -> Ec2Options:
    """Return the pool's options. Raises ``BadInputError`` that names everything that is wrong."""
    where = f"gpupool {pool.name}"
    for wanted in pool.wanted.capacity_types:
        if wanted not in CAPACITY_TYPES:
            raise BadInputError(Problem(where=where, field="capacity type", value=wanted, want=" or ".join(CAPACITY_TYPES)))
    try:
        return Ec2Options.model_validate(dict(pool.options))
    except ValidationError as error:
        raise BadInputError(*(_problem(where, entry) for entry in error.errors())) from None


def _problem(where: str, entry: ErrorDetails) -> Problem:
    path = [str(part) for part in entry["loc"] if part != "[key]"]
    field = ".".join(("spec.options", *path))
    if entry["type"] == "missing":
        return Problem(where=where, field=field, value="", want="it set")
    if entry["type"] == "extra_forbidden":
        return Problem(where=where, field=field, value=str(entry["input"]), want=_known_keys(path))
    want = entry["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return Problem(where=where, field=field, value=str(entry["input"]), want=want)


def _known_keys(path: list[str]) -> str:
    model: type[_Strict] = LaunchTemplate if path[0] == "launchTemplate" else Ec2Options
    known = [str(field.alias) for field in model.model_fields.values()]
    near = difflib.get_close_matches(path[-1], known, n=1)
    return f"{near[0]}?" if near else "one of " + ", ".join(known)
