"""Reading, tagging and ending machines as EC2 does: listed late, forgotten in the end, in pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from tfscale.testing.fake_ec2.faults import ApiError
from tfscale.testing.fake_ec2.ground import Ground
from tfscale.testing.fake_ec2.machines import Machines
from tfscale.testing.fake_ec2.pages import PAGE, Answer
from tfscale.testing.fake_ec2.reservations import Reservations
from tfscale.testing.fake_ec2.templates import Templates

__all__ = ["Listing"]

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48}
_Parameters = dict[str, Any]
_Reply = Mapping[str, Any]


class Listing:
    """The calls that look at machines, tag and end them."""

    def __init__(self, ground: Ground, machines: Machines, reservations: Reservations, templates: Templates) -> None:
        self._ground = ground
        self.machines = machines
        self._reservations = reservations
        self._templates = templates

    def answers(self) -> Mapping[str, Answer]:
        """Return the operations that are answered here."""
        return {
            "TerminateInstances": self._terminate,
            "DescribeInstances": self._describe,
            "CreateTags": self._tag,
            "DeleteTags": self._untag,
        }

    def shown(self, instance: Mapping[str, Any]) -> dict[str, Any]:
        """Return an instance with what the ground does not know: the cloud's time, and where its capacity is from."""
        machine = self.machines.all[instance["InstanceId"]]
        found = {
            **instance,
            "State": _state(machine.state),
            "LaunchTime": datetime.fromtimestamp(machine.launched_s, UTC),
        }
        if machine.reservation:
            found["CapacityReservationId"] = machine.reservation
            if self._reservations.all[machine.reservation].block:
                found["InstanceLifecycle"] = "capacity-block"
        return found

    def _describe(self, parameters: _Parameters) -> _Reply:
        ids = parameters.get("InstanceIds")
        if ids:
            if "MaxResults" in parameters:
                message = "The parameter instancesSet cannot be used with the parameter maxResults"
                raise ApiError("InvalidParameterCombination", message)
            self._must_know(ids)
        # EC2 may give fewer than MaxResults, so that a careless reader misses the second page.
        size = {} if ids else {"MaxResults": min(parameters.get("MaxResults", PAGE), PAGE)}
        reply = self._ground.describe_instances({**parameters, **size})
        hidden = self.machines.hidden()
        groups = []
        for group in reply["Reservations"]:
            instances = [self.shown(one) for one in group["Instances"] if one["InstanceId"] not in hidden]
            if instances:
                groups.append({**group, "Instances": instances})
        return {**reply, "Reservations": groups}

    def _must_know(self, ids: list[str]) -> None:
        if missing := self.machines.unknown(ids):
            verb = "IDs '{}' do" if len(missing) > 1 else "ID '{}' does"
            raise ApiError("InvalidInstanceID.NotFound", f"The instance {verb.format(', '.join(missing))} not exist")

    def _terminate(self, parameters: _Parameters) -> _Reply:
        ids: list[str] = parameters["InstanceIds"]
        self._must_know(ids)
        before = {machine_id: self.machines.all[machine_id].state for machine_id in ids}
        self.machines.take_away(ids)
        changes = [
            {
                "InstanceId": machine_id,
                "CurrentState": _state(self.machines.all[machine_id].state),
                "PreviousState": _state(before[machine_id]),
            }
            for machine_id in ids
        ]
        return {"TerminatingInstances": changes}

    def _tag(self, parameters: _Parameters) -> _Reply:
        tags = {tag["Key"]: tag["Value"] for tag in parameters["Tags"]}
        self._ground.tag(self._of_ground(parameters["Resources"]), tags)
        self._note(parameters["Resources"], lambda old: {**old, **tags})
        return {}

    def _untag(self, parameters: _Parameters) -> _Reply:
        keys = [tag["Key"] for tag in parameters["Tags"]]
        self._ground.untag(self._of_ground(parameters["Resources"]), keys)
        self._note(parameters["Resources"], lambda old: {key: old[key] for key in old if key not in keys})
        return {}

    def _of_ground(self, resources: list[str]) -> list[str]:
        self._must_know([one for one in resources if one.startswith("i-")])
        return [one for one in resources if one not in self._templates.all]

    def _note(self, resources: list[str], change: Callable[[Mapping[str, str]], dict[str, str]]) -> None:
        for one in resources:
            if one in self.machines.all:
                self.machines.tag(one, change(self.machines.all[one].tags))
            elif one in self._templates.all:
                self._templates.all[one].tags = change(self._templates.all[one].tags)


def _state(name: str) -> dict[str, Any]:
    return {"Code": CODES[name], "Name": name}
