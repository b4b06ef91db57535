"""How EC2 answers lists: filters with wildcards, and pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from tfscale.testing.fake_ec2.faults import ApiError

__all__ = ["PAGE", "Answer", "chosen", "page", "tag_values", "tags_for", "tags_of"]

Answer = Callable[[dict[str, Any]], Mapping[str, Any] | None]
"""Takes the parameters of a call as boto3 got them and returns the reply as boto3 gives it; None where nobody here knows it."""
Entry = TypeVar("Entry")
PAGE = 100
"""The most entries in one reply, whatever the caller asks for."""


def page(entries: Iterable[Any], key: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the entries that a call asks for."""
    listed = list(entries)
    start = int(parameters.get("NextToken") or 0)
    end = start + min(int(parameters.get("MaxResults", PAGE)), PAGE)
    return {key: listed[start:end], **({"NextToken": str(end)} if end < len(listed) else {})}


def chosen(
    entries: Iterable[Entry], parameters: Mapping[str, Any], values: Callable[[Entry, str], Sequence[str] | None]
) -> list[Entry]:
    """Return the entries that pass all filters of a call.

    `values` gives what an entry has by the name of a filter, or None for a filter that it does not know.
    """
    found = list(entries)
    for wanted in parameters.get("Filters", ()):
        name, patterns = wanted["Name"], [_pattern(value) for value in wanted["Values"]]
        found = [entry for entry in found if _has(values(entry, name), patterns, name)]
    return found


def _has(values: Sequence[str] | None, patterns: Sequence[re.Pattern[str]], name: str) -> bool:
    if values is None:
        raise ApiError("InvalidParameterValue", f"The filter '{name}' is not simulated")
    return any(pattern.fullmatch(value) for value in values for pattern in patterns)


def tag_values(tags: Iterable[Mapping[str, str]], name: str) -> list[str] | None:
    """Return what a filter on tags compares with, or None where it is about something else."""
    if name == "tag-key":
        return [tag["Key"] for tag in tags]
    return [tag["Value"] for tag in tags if tag["Key"] == name[4:]] if name.startswith("tag:") else None


def tags_of(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as EC2 writes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tags_for(kind: str, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that a call gives to resources of one kind."""
    specifications = parameters.get("TagSpecifications", ())
    return {tag["Key"]: tag["Value"] for entry in specifications if entry["ResourceType"] == kind for tag in entry["Tags"]}


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Return a filter's value as an expression: EC2 takes * and ?, and a backslash before them."""
    parts = re.findall(r"\\.|.", text, flags=re.DOTALL)
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(part) or re.escape(part[-1]) for part in parts), flags=re.DOTALL)
