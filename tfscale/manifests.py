"""YAML manifests read as what Kubernetes takes: JSON values, several documents in one text.

Built from the parser's events rather than by ``yaml.safe_load``: that one crashes the process on deep nesting (the C
composer recurses), takes a key that is written twice, makes dates of times and numbers of ``1:30``, and expands aliases, with
which a few lines grow to gigabytes. Scalars are resolved by the JSON-like core schema of YAML 1.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tfscale.errors import BadInputError, Problem

__all__ = ["Manifest", "read_manifests"]

MOST_CHARACTERS = 64 * 2**20
MOST_DEPTH = 100

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is not in every build
_PLAIN_TAGS = {None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(?:[0-9]{1,40}\.[0-9]{0,40}|\.[0-9]{1,40}|[0-9]{1,40}(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One document."""

    line: int
    """Where it begins, from 1."""
    value: Any


def read_manifests(text: str, *, name: str) -> tuple[Manifest, ...]:
    r"""Return the documents that are not empty. `name` is the file's, for messages.

    Raises ``BadInputError`` for what is no YAML, is too large or too deep, has a key twice, a key that is no text, an
    alias or a tag.

    >>> read_manifests("a: 1\n---\nb: [yes, 2026-01-01]", name="x.yaml")[1].value
    {'b': ['yes', '2026-01-01']}
    """
    if len(text) > MOST_CHARACTERS:
        size, want = f"{len(text)} characters", f"at most {MOST_CHARACTERS}"
        raise BadInputError(Problem(where=name, field="size", value=size, want=want))
    try:
        return tuple(manifest for manifest in _Reader(text, name).documents() if manifest.value is not None)
    except (yaml.YAMLError, UnicodeError) as error:
        raise BadInputError(_syntax(error, text, name)) from None


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._name = name

    def documents(self) -> Iterator[Manifest]:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                first = next(self._events)
                yield Manifest(line=first.start_mark.line + 1, value=self._value(first, 1))

    def _value(self, event: Any, depth: int) -> Any:  # noqa: ANN401 - the events of PyYAML have no common type, JSON has none
        if isinstance(event, yaml.AliasEvent):
            raise self._refused(event, "alias", f"*{event.anchor}", "the value written out")
        if event.tag not in _PLAIN_TAGS:
            raise self._refused(event, "tag", event.tag, "no tag")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.implicit[0] else event.value
        if depth > MOST_DEPTH:
            raise self._refused(event, "nesting", f"{depth} levels", f"at most {MOST_DEPTH}")
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._value(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        return self._mapping(depth)

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self._until(yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            if not isinstance(key, str):
                raise self._refused(event, "key", str(key), "text as key")
            if key in found:
                raise self._refused(event, "key", key, "each key once in a mapping")
            found[key] = self._value(next(self._events), depth + 1)
        return found

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _refused(self, event: Any, field: str, value: str, want: str) -> BadInputError:  # noqa: ANN401 - see above
        where = f"{self._name} line {event.start_mark.line + 1}"
        return BadInputError(Problem(where=where, field=field, value=value, want=want))


def _scalar(text: str) -> str | float | bool | None:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    # What JSON cannot say (.nan, 1e999) stays as it was written, so that whoever reads the field can name it.
    number = float(text) if _FLOAT.fullmatch(text) else math.inf
    return number if math.isfinite(number) else text


def _syntax(error: Exception, text: str, name: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    why = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
    if mark is None:
        return Problem(where=name, field="text", value=text[:40], want=f"valid YAML ({why})")
    line = text.splitlines()[mark.line : mark.line + 1]
    return Problem(where=f"{name} line {mark.line + 1}", field="text", value="".join(line).strip(), want=f"valid YAML ({why})")
