"""The machines behind claims: ordered from the simulated EC2, found again by their tags, ended."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tfscale.model import Offer
from tfscale.modes.ec2_fleet import fleet_parameters, refusals_of_fleet
from tfscale.modes.ec2_refusals import UNFULFILLABLE
from tfscale.modes.nodeclaim_labels import NODE_POOL
from tfscale.testing.fake_ec2 import SimulatedMachine
from tfscale.testing.fake_ec2.region import Region
from tfscale.testing.fake_karpenter.objects import Claim

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

__all__ = ["CLAIM_UID", "Machines", "NoCapacityError", "NotLaunchedError"]

CLAIM_UID = "karpenter.sh/nodeclaim-uid"
"""The tag by which the machine of a claim is found, whatever became of the reply. Not one of the real Karpenter."""


class NoCapacityError(Exception):
    """Nothing that the claim may be given is to be had: the claim is given up."""


class NotLaunchedError(Exception):
    """It is not known that a machine was launched: tried again for as long as the claim may take to launch."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Machines:
    """The machines in one cloud that carry the tag of a claim and are not terminated."""

    def __init__(self, cloud: Region) -> None:
        self._cloud = cloud
        self.of: Mapping[str, SimulatedMachine] = {}
        """By the uid of the claim, as of the last ``refresh``."""

    def refresh(self) -> bool:
        """Look at the cloud, and return whether a machine came or went."""
        before = self.of.keys()
        tagged = ((machine.tags.get(CLAIM_UID), machine) for machine in self._cloud.machines if machine.state != "terminated")
        self.of = {uid: machine for uid, machine in tagged if uid}
        return before != self.of.keys()

    def order(self, claim: Claim, offers: list[Offer]) -> SimulatedMachine:
        """Return the machine for the claim, of any of the offers, best first. Raises one of the errors of this file.

        The uid of the claim makes the token: a call whose reply was lost launches nothing more when it is made again.
        """
        parameters = fleet_parameters(
            [({"LaunchTemplateName": self._cloud.launch_template}, offers)],
            offers,
            count=1,
            tags={CLAIM_UID: claim.uid, "karpenter.sh/nodeclaim": claim.name, NODE_POOL: claim.pool, "Name": claim.name},
            token_of=[claim.uid],
        )
        try:
            reply = self._ec2.create_fleet(**parameters)
        except (ClientError, BotoCoreError) as error:
            raise NotLaunchedError("LaunchFailed", str(error)) from error
        self.refresh()
        if claim.uid in self.of:
            return self.of[claim.uid]
        refusals = refusals_of_fleet(reply, parameters)
        message = "; ".join(f"{refusal.offer}: {refusal.code}" for refusal in refusals)
        if all(refusal.code in UNFULFILLABLE for refusal in refusals):
            raise NoCapacityError(message)
        raise NotLaunchedError("LaunchFailed", message)

    def end(self, machine: SimulatedMachine) -> bool:
        """Terminate the machine, and return whether EC2 took the call. One that is ending already is left alone."""
        if machine.terminate_asked_s is not None:
            return True
        try:
            self._ec2.terminate_instances(InstanceIds=[machine.id])
        except (ClientError, BotoCoreError):
            return False
        return True

    @cached_property
    def image_id(self) -> str:
        """The image that the cloud's launch template names."""
        described = self._ec2.describe_launch_template_versions(
            LaunchTemplateName=self._cloud.launch_template, Versions=["$Latest"]
        )
        return described["LaunchTemplateVersions"][0]["LaunchTemplateData"]["ImageId"]

    @cached_property
    def _ec2(self) -> EC2Client:
        # One attempt: the next one is made in simulated time.
        return self._cloud.session.client("ec2", config=Config(retries={"total_max_attempts": 1}))
