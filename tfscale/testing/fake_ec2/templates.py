"""Launch templates with their versions, in the time of the cloud."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tfscale.testing.fake_ec2.faults import ApiError
from tfscale.testing.fake_ec2.pages import Answer, chosen, page, tag_values, tags_for, tags_of
from tfscale.testing.fake_ec2.tokens import Tokens

__all__ = ["Template", "Templates"]

_Parameters = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Template:
    """One launch template."""

    id: str
    name: str
    created_s: int
    tags: dict[str, str]
    default: int = 1
    versions: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Data by number."""

    def number_of(self, version: str) -> int:
        """Return the number of a version. Raises ``ApiError`` where there is none of it."""
        number = {"$Default": self.default, "$Latest": max(self.versions)}.get(version) or int(version)
        if number not in self.versions:
            message = f"Could not find the specified version {version} for the launch template with ID {self.id}."
            raise ApiError("InvalidLaunchTemplateId.VersionNotFound", message)
        return number


class Templates:
    """The launch templates of a region. `clock` gives seconds; ids follow from the seed and the order of creation."""

    def __init__(self, clock: Callable[[], int], seed: int) -> None:
        self._clock = clock
        self._seed = seed
        self._made = 0
        self.all: dict[str, Template] = {}

    def answers(self, tokens: Tokens) -> Mapping[str, Answer]:
        """Return the operations that are answered here."""
        return {
            "CreateLaunchTemplate": tokens.once("CreateLaunchTemplate", self.create),
            "CreateLaunchTemplateVersion": tokens.once("CreateLaunchTemplateVersion", self._add_version),
            "ModifyLaunchTemplate": self._modify,
            "DeleteLaunchTemplate": self._delete,
            "DescribeLaunchTemplates": self._describe,
            "DescribeLaunchTemplateVersions": self._describe_versions,
        }

    def find(self, named: Mapping[str, Any]) -> Template:
        """Return the template that a call names. Raises ``ApiError`` where there is none."""
        template_id, name = named.get("LaunchTemplateId"), named.get("LaunchTemplateName")
        if template_id is not None:
            if template_id in self.all:
                return self.all[template_id]
            message = f"The specified launch template, with template ID {template_id}, does not exist."
            raise ApiError("InvalidLaunchTemplateId.NotFound", message)
        for template in self.all.values():
            if template.name == name:
                return template
        message = f"The specified launch template, with template name {name}, does not exist."
        raise ApiError("InvalidLaunchTemplateName.NotFoundException", message)

    def data(self, specification: Mapping[str, Any]) -> tuple[Template, int, Mapping[str, Any]]:
        """Return template, version number and data of a LaunchTemplateSpecification."""
        template = self.find(specification)
        number = template.number_of(specification.get("Version", "$Default"))
        return template, number, template.versions[number]

    def create(self, parameters: _Parameters) -> Mapping[str, Any]:
        """Carry out a CreateLaunchTemplate."""
        name = parameters["LaunchTemplateName"]
        if any(template.name == name for template in self.all.values()):
            raise ApiError("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
        self._made += 1
        template = Template(
            id="lt-" + hashlib.sha256(f"{self._seed}/{self._made}".encode()).hexdigest()[:17],
            name=name,
            created_s=self._clock(),
            tags=tags_for("launch-template", parameters),
            versions={1: parameters["LaunchTemplateData"]},
        )
        self.all[template.id] = template
        return {"LaunchTemplate": _shown(template)}

    def _add_version(self, parameters: _Parameters) -> Mapping[str, Any]:
        template = self.find(parameters)
        number = max(template.versions) + 1
        source = parameters.get("SourceVersion")
        base = template.versions[template.number_of(source)] if source else {}
        template.versions[number] = {**base, **parameters["LaunchTemplateData"]}
        return {"LaunchTemplateVersion": _shown_version(template, number)}

    def _modify(self, parameters: _Parameters) -> Mapping[str, Any]:
        template = self.find(parameters)
        template.default = template.number_of(parameters["DefaultVersion"])
        return {"LaunchTemplate": _shown(template)}

    def _delete(self, parameters: _Parameters) -> Mapping[str, Any]:
        template = self.find(parameters)
        del self.all[template.id]
        return {"LaunchTemplate": _shown(template)}

    def _describe(self, parameters: _Parameters) -> Mapping[str, Any]:
        ids, names = parameters.get("LaunchTemplateIds", ()), parameters.get("LaunchTemplateNames", ())
        named = [self.find({"LaunchTemplateId": one}) for one in ids] + [self.find({"LaunchTemplateName": one}) for one in names]
        found = chosen(named if ids or names else self.all.values(), parameters, _values)
        return page([_shown(one) for one in found], "LaunchTemplates", parameters)

    def _describe_versions(self, parameters: _Parameters) -> Mapping[str, Any]:
        template = self.find(parameters)
        asked = [template.number_of(version) for version in parameters.get("Versions", ())] or sorted(template.versions)
        return page([_shown_version(template, number) for number in asked], "LaunchTemplateVersions", parameters)


def _shown(template: Template) -> dict[str, Any]:
    return {
        "LaunchTemplateId": template.id,
        "LaunchTemplateName": template.name,
        "CreateTime": datetime.fromtimestamp(template.created_s, UTC),
        "DefaultVersionNumber": template.default,
        "LatestVersionNumber": max(template.versions),
        "Tags": tags_of(template.tags),
    }


def _shown_version(template: Template, number: int) -> dict[str, Any]:
    return {
        "LaunchTemplateId": template.id,
        "LaunchTemplateName": template.name,
        "VersionNumber": number,
        "DefaultVersion": number == template.default,
        "LaunchTemplateData": template.versions[number],
    }


def _values(template: Template, name: str) -> list[str] | None:
    return [template.name] if name == "launch-template-name" else tag_values(tags_of(template.tags), name)
