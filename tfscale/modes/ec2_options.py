"""What a pool of the EC2 mode may set, checked before anything is called."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, model_validator

from tfscale.errors import BadInputError, Problem
from tfscale.modes.ec2_bootstrap import is_labelled, unknown_placeholders, user_data
from tfscale.modes.ec2_bootstrap_options import Bootstrap, contradictions, shaped
from tfscale.pool import Pool
from tfscale.quantity import micro_usd
from tfscale.spec import Spec, parse

__all__ = ["Ec2Options", "LaunchTemplate", "NamedReservation", "options_of"]

CAPACITY_TYPES = ("on-demand", "spot", "reserved")
# Karpenter collects instances that carry its tags and that it does not know; `aws:` is EC2's own.
_FOREIGN_TAGS = ("aws:", "tfscale.io/", "karpenter.sh/", "karpenter.k8s.aws/", "eks:eks-cluster-name")

_MOST_USER_DATA = 16_384
"""Bytes, before base64. Source: EC2, page on user data."""
_QUEUE = r"(https://[a-z0-9.-]+/[0-9]{12}/)?[a-zA-Z0-9_-]{1,80}(\.fifo)?"


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

    name: Annotated[str, shaped("[a-zA-Z0-9()./_-]{3,128}", "the name of a launch template")] | None = None
    id: Annotated[str, shaped("lt-[0-9a-f]+", "an id such as lt-0123456789abcdef0")] | None = None
    version: Annotated[str, BeforeValidator(_version)] = "$Default"

    @model_validator(mode="after")
    def _one_name(self) -> LaunchTemplate:
        if (self.name is None) == (self.id is None):
            raise ValueError("either name or id")
        return self


class NamedReservation(Spec):
    """A capacity reservation or capacity block of the account, or shared with it."""

    id: Annotated[str, shaped("cr-[0-9a-f]+", "an id such as cr-0123456789abcdef0")]


class AssumedRole(Spec):
    """The role in which all calls for the pool are made, of another account perhaps."""

    role_arn: Annotated[
        str, shaped("arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]{1,600}", "an ARN such as arn:aws:iam::123456789012:role/gpus")
    ]
    external_id: (
        Annotated[str, shaped(r"[a-zA-Z0-9+=,.@:/_-]{2,1224}", "an external id as the role's trust policy has it")] | None
    ) = None
    session_name: Annotated[str, shaped(r"[a-zA-Z0-9+=,.@_-]{2,64}", "2 to 64 letters, digits and +=,.@_-")] = "tfscale"
    """Who it was, in the other account's audit log."""


class Ec2Options(Spec):
    """The options of one pool. Launch templates are either yours (`launch_template`) or made by tfscale (`bootstrap`)."""

    region: Annotated[str, shaped("[a-z]+(-[a-z]+)+-[0-9]+", "a region such as us-east-1")]
    launch_template: LaunchTemplate | None = None
    bootstrap: Bootstrap | None = None
    subnet_ids: list[Annotated[str, shaped("subnet-[0-9a-f]+", "an id such as subnet-0123456789abcdef0")]] = []
    """Where nodes may be; empty leaves the subnet of each zone to EC2 and the launch template."""
    reservations: list[NamedReservation] = []
    """What offers of the capacity type ``reserved`` are taken from."""
    prices: dict[str, Annotated[int, BeforeValidator(_price)]] = {}
    """Micro-USD per hour by instance type, instead of the price list: what a contract says. On-demand only."""
    tags: dict[Annotated[str, BeforeValidator(_own_tag)], str] = {}
    """Tags for instances, volumes and fleets, beside those of tfscale."""
    assume_role: AssumedRole | None = None
    interruption_queue: Annotated[str, shaped(_QUEUE, "the name or URL of a queue")] | None = None
    """Where EventBridge puts what EC2 says ahead of time."""

    def role(self) -> dict[str, str] | None:
        """Return the parameters of an AssumeRole, or None where the calls are our own."""
        role = self.assume_role
        if role is None:
            return None
        external = {"ExternalId": role.external_id} if role.external_id else {}
        return {"RoleArn": role.role_arn, "RoleSessionName": role.session_name, **external}


def options_of(pool: Pool) -> Ec2Options:
    """Return the pool's options. Raises ``BadInputError`` that names everything that is wrong."""
    where = f"gpupool {pool.name}"
    for number, wanted in enumerate(pool.wanted.capacity_types):
        if wanted not in CAPACITY_TYPES:
            field, want = f"spec.offers.capacityTypes[{number}]", " or ".join(CAPACITY_TYPES)
            raise BadInputError(Problem(where=where, field=field, value=wanted, want=want))
    options = parse(Ec2Options, dict(pool.options), where=where, field="spec.options")
    problems = [
        Problem(where=where, field=field, value=value, want=want)
        for field, value, want in (*_contradictions(pool, options), *_bootstrap_problems(pool, options.bootstrap))
    ]
    if problems:
        raise BadInputError(*problems)
    return options


def _contradictions(pool: Pool, options: Ec2Options) -> list[tuple[str, str, str]]:
    """Return field, value and what is wanted, for fields that are right alone and wrong together."""
    found = []
    if options.launch_template is None and options.bootstrap is None:
        found.append(("spec.options.launchTemplate", "", "a value, which is required where there is no bootstrap"))
    if options.launch_template and options.bootstrap:
        found.append(("spec.options.bootstrap", "beside launchTemplate", "one of the two"))
    if "reserved" in pool.wanted.capacity_types and not options.reservations:
        found.append(("spec.options.reservations", "", "the reservations that spec.offers.capacityTypes asks for with reserved"))
    ids = [one.id for one in options.reservations]
    found += [("spec.options.reservations", one, "each reservation once") for one in sorted({*ids}) if ids.count(one) > 1]
    return found


def _bootstrap_problems(pool: Pool, bootstrap: Bootstrap | None) -> list[tuple[str, str, str]]:
    if bootstrap is None:
        return []
    found = [(f"spec.options.bootstrap.{field}", value, want) for field, value, want in contradictions(bootstrap)]
    return found or _text_problems(bootstrap) or _size_problems(pool, bootstrap)


def _text_problems(bootstrap: Bootstrap) -> list[tuple[str, str, str]]:
    field, text = "spec.options.bootstrap.userData", bootstrap.user_data
    unknown = [(field, f"{{{{{name}}}}}", want) for name, want in unknown_placeholders(bootstrap)]
    if text is None or unknown or is_labelled(bootstrap):
        return unknown
    return [(field, text, "{{labels}} in it, without which no node is known to be of the pool")]


def _size_problems(pool: Pool, bootstrap: Bootstrap) -> list[tuple[str, str, str]]:
    """Return that the user data is too long as nodes get it, with labels, taints and certificates in their places."""
    size = max(len(user_data(bootstrap, pool=pool.name, capacity_type=kind).encode()) for kind in CAPACITY_TYPES)
    if size <= _MOST_USER_DATA:
        return []
    field = "spec.options.bootstrap" if bootstrap.user_data is None else "spec.options.bootstrap.userData"
    return [(field, f"{size} bytes of user data", f"at most {_MOST_USER_DATA}")]
