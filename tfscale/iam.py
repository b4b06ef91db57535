"""The least that the controller's role must be allowed, as an IAM policy. Pure.

Sources: the service authorization reference (which actions know which resources and condition keys), and the statements that
Karpenter's own policy is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Scope", "ec2_policy"]

CLUSTER_TAG = "tfscale.io/cluster"
_READS = (
    "CapacityReservations", "Fleets", "Images", "InstanceTypeOfferings", "Instances", "InstanceTypes", "LaunchTemplates",
    "SpotPriceHistory", "Subnets",
)  # fmt: skip
_MADE = ("fleet", "instance", "launch-template", "volume")
"""What our calls tag."""
_USED = ("capacity-reservation", "network-interface", "security-group", "spot-instances-request", "subnet")
"""What a launch also touches and nobody tags: of the account, whichever it is."""
_PUBLIC = ("image", "snapshot")
"""The same, without an account in the ARN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a policy is for. An empty field is any, except for those without which nothing is allowed."""

    cluster: str
    """As in the tag of every machine: no machine of another cluster can be ended."""
    partition: str = "aws"
    account: str = ""
    region: str = ""
    node_role: str = ""
    """ARN of the role of nodes. Empty: no role may be passed, and so no machine can have an instance profile."""
    queue: str = ""
    """ARN of the interruption queue; empty where there is none."""

    def arn(self, service: str, resource: str, *, account: bool = True) -> str:
        """Return the ARN of things in this account and region."""
        owner = (self.account or "*") if account else ""
        return f"arn:{self.partition}:{service}:{self.region or '*'}:{owner}:{resource}"


def ec2_policy(scope: Scope) -> dict[str, Any]:
    """Return the policy for pools of the mode ``ec2``.

    >>> [statement["Sid"] for statement in ec2_policy(Scope(cluster="prod"))["Statement"]][:3]
    ['Look', 'LookAtPrices', 'LookForImages']
    """
    statements = [*_looking(scope), *_launching(scope), *_ending(scope), *_passing(scope), *_hearing(scope), *_checking(scope)]
    return {"Version": "2012-10-17", "Statement": statements}


def _looking(scope: Scope) -> list[dict[str, Any]]:
    where = {"StringEquals": {"aws:RequestedRegion": scope.region}} if scope.region else {}
    return [
        _allow("Look", [f"ec2:Describe{one}" for one in _READS], ["*"], where),
        # The price list is served from regions of its own, and knows no resources.
        _allow("LookAtPrices", ["pricing:GetProducts"], ["*"]),
        _allow("LookForImages", ["ssm:GetParameter"], [scope.arn("ssm", "parameter/aws/service/*", account=False)]),
    ]


def _launching(scope: Scope) -> list[dict[str, Any]]:
    """Return what launches: anything may be used, but only what is tagged as this cluster's may be made."""
    ours = {"StringEquals": {f"aws:RequestTag/{CLUSTER_TAG}": scope.cluster}}
    used = [scope.arn("ec2", f"{kind}/*", account=False) for kind in _PUBLIC] + [scope.arn("ec2", f"{kind}/*") for kind in _USED]
    made = [scope.arn("ec2", f"{kind}/*") for kind in _MADE]
    template = scope.arn("ec2", "launch-template/*")
    launches = ["ec2:CreateFleet", "ec2:RunInstances"]
    created = ["CreateFleet", "CreateLaunchTemplate", "RunInstances"]
    return [
        _allow("LaunchWith", launches, used),
        _allow("LaunchFromOurTemplates", launches, [template], _tagged(scope)),
        _allow("LaunchOurs", launches, [one for one in made if one != template], ours),
        _allow("MakeOurTemplates", ["ec2:CreateLaunchTemplate"], [template], ours),
        _allow(
            "TagWhatIsMade",
            ["ec2:CreateTags"],
            made,
            {"StringEquals": {**ours["StringEquals"], "ec2:CreateAction": created}},
        ),
    ]


def _ending(scope: Scope) -> list[dict[str, Any]]:
    resources = [scope.arn("ec2", f"{kind}/*") for kind in ("instance", "launch-template")]
    return [_allow("EndOurs", ["ec2:DeleteLaunchTemplate", "ec2:TerminateInstances"], resources, _tagged(scope))]


def _passing(scope: Scope) -> list[dict[str, Any]]:
    if not scope.node_role:
        return []
    # In China the service has another name.
    service = "ec2.amazonaws.com.cn" if scope.partition == "aws-cn" else "ec2.amazonaws.com"
    to_ec2 = {"StringEquals": {"iam:PassedToService": service}}
    return [_allow("GiveNodesTheirRole", ["iam:PassRole"], [scope.node_role], to_ec2)]


def _hearing(scope: Scope) -> list[dict[str, Any]]:
    if not scope.queue:
        return []
    actions = ("DeleteMessage", "GetQueueAttributes", "GetQueueUrl", "ListQueueTags", "ReceiveMessage")
    return [_allow("HearInterruptions", [f"sqs:{action}" for action in actions], [scope.queue])]


def _checking(scope: Scope) -> list[dict[str, Any]]:
    """Return what only ``tfscale doctor`` looks at."""
    profiles = f"arn:{scope.partition}:iam::{scope.account or '*'}:instance-profile/*"
    entries = [scope.arn("eks", "cluster/*"), scope.arn("eks", "access-entry/*")]
    return [
        _allow("CheckProfiles", ["iam:GetInstanceProfile"], [profiles]),
        _allow("CheckQuotas", ["servicequotas:GetServiceQuota"], ["*"]),
        _allow("CheckNodeAccess", ["eks:DescribeAccessEntry"], entries),
    ]


def _tagged(scope: Scope) -> dict[str, Any]:
    return {"StringEquals": {f"aws:ResourceTag/{CLUSTER_TAG}": scope.cluster}}


def _allow(sid: str, actions: Sequence[str], resources: Sequence[str], condition: dict[str, Any] | None = None) -> dict[str, Any]:
    statement = {"Sid": sid, "Effect": "Allow", "Action": [*actions], "Resource": [*resources]}
    return {**statement, "Condition": condition} if condition else statement
