"""From a claim to a machine: the node class, the offers, the order, and what the claim then says of it.

Source: Karpenter 1.14, the controller of a claim's life (launch), and its AWS provider.
"""

from __future__ import annotations

from collections.abc import Collection

from tfscale.errors import NotFoundError
from tfscale.kube.fields import named
from tfscale.kube.port import EVENTS, NODE_CLAIMS, Json, Kube
from tfscale.modes.nodeclaim_providers import AWS
from tfscale.testing.fake_ec2 import SimulatedMachine
from tfscale.testing.fake_karpenter.conditions import LAUNCHED, REGISTERED, STAGES, Condition, write_status
from tfscale.testing.fake_karpenter.machines import Machines, NoCapacityError, NotLaunchedError
from tfscale.testing.fake_karpenter.objects import TERMINATION, Claim
from tfscale.testing.fake_karpenter.offers import Offers

__all__ = ["Launcher"]

_LONGEST_WAIT_S = 60
_AWS_ANNOTATIONS = {"karpenter.k8s.aws/tagged": "true", "compatibility.karpenter.k8s.aws/cluster-name-tagged": "true"}


class _ClassNotReadyError(Exception):
    """The node class cannot be used: the claim is given up."""


class Launcher:
    """Gives claims their machines."""

    def __init__(self, kube: Kube, machines: Machines, offers: Offers) -> None:
        self._kube = kube
        self._machines = machines
        self._offers = offers
        self._again_s: dict[str, int] = {}
        """When the next attempt is due, by the uid of the claim. Forgotten, it is made at once."""

    def launch(self, claim: Claim, now_s: int) -> int | None:
        """Take the next step towards a machine, and return when to try again; None where nothing is left to try."""
        if not claim.conditions:
            self._begin(claim, now_s)
            return None
        if (again_s := self._again_s.pop(claim.uid, now_s)) > now_s:
            self._again_s[claim.uid] = again_s
            return again_s
        try:
            self._launched(claim, self._order(claim), now_s)
        except NotLaunchedError as error:
            failed = Condition(type=LAUNCHED, status="Unknown", reason=error.reason, message=str(error))
            write_status(self._kube, claim, now_s, failed)
            self._again_s[claim.uid] = _next_attempt_s(claim, now_s)
            return self._again_s[claim.uid]
        except NoCapacityError as error:
            self._tell(claim, "InsufficientCapacityError", str(error))
            self._give_up(claim)
        except _ClassNotReadyError:
            # Of this the real one makes no event.
            self._give_up(claim)
        return None

    def forget_others(self, uids: Collection[str]) -> None:
        """Forget when attempts are due for claims that are not among these."""
        self._again_s = {uid: again_s for uid, again_s in self._again_s.items() if uid in uids}

    def _begin(self, claim: Claim, now_s: int) -> None:
        """Guard the claim before anything is bought for it, and begin to count its time."""
        if TERMINATION not in claim.finalizers:
            self._kube.patch(NODE_CLAIMS, claim.name, {"metadata": {"finalizers": [*claim.finalizers, TERMINATION]}})
        waiting = [Condition(type=stage, status="Unknown", reason="AwaitingReconciliation") for stage in STAGES]
        write_status(self._kube, claim, now_s, *waiting)

    def _order(self, claim: Claim) -> SimulatedMachine:
        self._check_class(claim)
        if not self._offers.types(claim.wish):
            raise NotLaunchedError("LaunchFailed", "no instance type meets the requirements")
        offers = self._offers.fitting(claim.wish)
        if not offers:
            raise NoCapacityError("no offer meets the requirements and has the resources")
        return self._machines.order(claim, offers)

    def _check_class(self, claim: Claim) -> None:
        kind, name = claim.wish.class_kind, claim.wish.class_name
        try:
            found = named(kind.kind.lower(), self._kube.get(kind, name))
        except NotFoundError:
            raise NoCapacityError(f"{kind.kind} {name} does not exist") from None
        ready = [one for one in found.at("status", "conditions").items() if one.at("type").text() == "Ready"]
        # One that says nothing is ready, as a KWOKNodeClass is.
        status = ready[0].at("status").text() if ready else "True"
        if status == "False":
            raise _ClassNotReadyError(f"{kind.kind} {name} is not ready")
        if status != "True":
            raise NotLaunchedError("NodeClassReadinessUnknown", f"{kind.kind} {name} does not say whether it is ready")

    def _launched(self, claim: Claim, machine: SimulatedMachine, now_s: int) -> None:
        """Write what was launched. The status comes last: without it everything is done once more."""
        self._kube.patch(NODE_CLAIMS, claim.name, {"metadata": self._facts(claim, machine)})
        capacity = self._offers.capacity(machine.instance_type)
        write_status(
            self._kube,
            claim,
            now_s,
            Condition(type=LAUNCHED, status="True"),
            Condition(type=REGISTERED, status="Unknown", reason="NodeNotFound"),
            providerID=machine.provider_id,
            imageID=self._machines.image_id,
            capacity=capacity,
            allocatable=capacity,
        )

    def _facts(self, claim: Claim, machine: SimulatedMachine) -> Json:
        """Return labels and annotations. Labels that the claim has already win over what was really launched."""
        kind = claim.wish.class_kind
        place = (machine.instance_type, machine.zone, machine.capacity_type)
        labels = {f"{kind.group}/{kind.kind.lower()}": claim.wish.class_name, **self._offers.labels(*place, group=kind.group)}
        annotations = _AWS_ANNOTATIONS if kind.group == AWS else {}
        return {"labels": {**labels, **claim.labels}, "annotations": {**claim.annotations, **annotations}}

    def _give_up(self, claim: Claim) -> None:
        self._kube.delete(NODE_CLAIMS, claim.name, uid=claim.uid)

    def _tell(self, claim: Claim, reason: str, message: str) -> None:
        about = {"apiVersion": NODE_CLAIMS.api_version, "kind": NODE_CLAIMS.kind, "name": claim.name, "uid": claim.uid}
        event = {
            "metadata": {"generateName": f"{claim.name}."},
            "involvedObject": about,
            "reason": reason,
            "message": f"NodeClaim {claim.name} event: {message}",
            "type": "Warning",
            "source": {"component": "karpenter"},
        }
        self._kube.create(EVENTS, event, namespace="default")


def _next_attempt_s(claim: Claim, now_s: int) -> int:
    """Return the time of the next attempt: after as long as was tried already, from 1 s to 1 min."""
    tried_s = now_s - claim.since_s(LAUNCHED)
    return now_s + min(max(tried_s, 1), _LONGEST_WAIT_S)
