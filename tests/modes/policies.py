"""As much of IAM as our policy uses: which statements allow a call, and what a call asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

__all__ = ["ACCOUNT", "Ask", "Asks", "allowing"]

ACCOUNT, REGION = "123456789012", "us-east-1"
NODE_ROLE = f"arn:aws:iam::{ACCOUNT}:role/gpu-node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question to IAM: a call needs a yes to each of its own."""

    action: str
    resource: str = "*"
    context: Mapping[str, str] = field(default_factory=dict)


def allowing(policy: Mapping[str, Any], ask: Ask) -> list[str]:
    """Return the statements that allow it; nothing where one denies it."""
    matching = [one for one in policy["Statement"] if _matches(one, ask)]
    if any(one["Effect"] == "Deny" for one in matching):
        return []
    return [one["Sid"] for one in matching]


def _matches(statement: Mapping[str, Any], ask: Ask) -> bool:
    context = {"aws:RequestedRegion": REGION, **ask.context}
    return (
        any(fnmatchcase(ask.action.lower(), action.lower()) for action in statement["Action"])
        and any(fnmatchcase(ask.resource, resource) for resource in statement["Resource"])
        and all(
            _OPERATORS[operator](context.get(key), wanted if isinstance(wanted, list) else [wanted])
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


_OPERATORS: Mapping[str, Callable[[str | None, list[str]], bool]] = {
    "StringEquals": lambda given, wanted: given in wanted,
    "StringLike": lambda given, wanted: given is not None and any(fnmatchcase(given, one) for one in wanted),
}


class Asks:
    """What the calls of a session ask for. `tags_of` gives the tags of an instance or launch template, by id or name."""

    def __init__(self, tags_of: Callable[[str], Mapping[str, str]]) -> None:
        self._tags_of = tags_of
        self.made: dict[Ask, None] = {}

    def note(self, params: Mapping[str, Any], model: Any, **_: object) -> None:  # noqa: ANN401 - botocore's
        """Note what a call asks for; for botocore's event ``before-parameter-build``."""
        for ask in self._of(model.service_model.service_name, model.name, params):
            self.made.setdefault(_hashable(ask))

    def _of(self, service: str, operation: str, params: Mapping[str, Any]) -> Iterator[Ask]:
        match service, operation:
            case "sts", "GetCallerIdentity":
                return
            case "sqs", _:
                name = str(params.get("QueueName") or params["QueueUrl"]).rpartition("/")[2]
                yield Ask(action=f"sqs:{operation.removesuffix('Batch')}", resource=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")
            case "ssm", _:
                yield Ask(action=f"ssm:{operation}", resource=f"arn:aws:ssm:{REGION}::parameter{params['Name']}")
            case "iam", _:
                resource = f"arn:aws:iam::{ACCOUNT}:instance-profile/{params['InstanceProfileName']}"
                yield Ask(action=f"iam:{operation}", resource=resource)
            case "eks", _:
                yield Ask(action=f"eks:{operation}", resource=f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/{params['clusterName']}")
            case "ec2", "CreateFleet" | "RunInstances":
                yield from self._launch(operation, params)
            case "ec2", "CreateLaunchTemplate":
                yield from _made(operation, operation, params)
            case "ec2", "TerminateInstances":
                yield from (self._tagged(operation, "instance", one) for one in params["InstanceIds"])
            case "ec2", "DeleteLaunchTemplate":
                yield self._tagged(operation, "launch-template", params["LaunchTemplateId"])
            case _:
                yield Ask(action=f"{service.replace('service-quotas', 'servicequotas')}:{operation}")

    def _launch(self, operation: str, params: Mapping[str, Any]) -> Iterator[Ask]:
        """Yield what a launch asks for. A fleet of the type instant launches with its caller's permission to run instances."""
        configs = params.get("LaunchTemplateConfigs", [])
        named = [one["LaunchTemplateSpecification"] for one in configs] or [params.get("LaunchTemplate", {})]
        templates = [one.get("LaunchTemplateId") or one.get("LaunchTemplateName") for one in named]
        subnets = [one.get("SubnetId") for config in configs for one in config["Overrides"]] + [params.get("SubnetId")]
        target = params.get("CapacityReservationSpecification", {}).get("CapacityReservationTarget", {})
        spot = params.get("TargetCapacitySpecification", {}).get("DefaultTargetCapacityType") == "spot"
        used = [
            *(f"subnet/{one or 'subnet-default'}" for one in subnets),
            "network-interface/*",
            "security-group/sg-1",
            *(["spot-instances-request/*"] if spot else []),
            *(f"capacity-reservation/{one}" for one in target.values()),
        ]
        for action in dict.fromkeys((operation, "RunInstances")):
            yield from (_ec2(action, resource) for resource in used)
            yield from (_ec2(action, resource, account="") for resource in ("image/ami-1", "snapshot/snap-1"))
            yield from (self._tagged(action, "launch-template", one) for one in templates if one)
            yield from _made(action, operation, params)
        yield Ask(action="iam:PassRole", resource=NODE_ROLE, context={"iam:PassedToService": "ec2.amazonaws.com"})

    def _tagged(self, operation: str, kind: str, name: str) -> Ask:
        tags = self._tags_of(name)
        return _ec2(operation, f"{kind}/{name}", {f"aws:ResourceTag/{key}": value for key, value in tags.items()})


def _made(action: str, operation: str, params: Mapping[str, Any]) -> Iterator[Ask]:
    for made in params["TagSpecifications"]:
        kind, tags = made["ResourceType"], {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in made["Tags"]}
        # A fleet is made by its own call alone.
        if kind != "fleet" or action == "CreateFleet":
            yield _ec2(action, f"{kind}/*", tags)
        yield _ec2("CreateTags", f"{kind}/*", {**tags, "ec2:CreateAction": operation})


def _ec2(action: str, resource: str, context: Mapping[str, str] | None = None, *, account: str = ACCOUNT) -> Ask:
    return Ask(action=f"ec2:{action}", resource=f"arn:aws:ec2:{REGION}:{account}:{resource}", context=context or {})


class _Context(dict[str, str]):
    def __hash__(self) -> int:  # type: ignore[override]  # never changed
        return hash(frozenset(self.items()))


def _hashable(ask: Ask) -> Ask:
    return Ask(action=ask.action, resource=ask.resource, context=_Context(ask.context))
