"""Reading JSON objects that others wrote: every step says where it is, so that a wrong value gives one clear line.

Absent and null are the same, as in the Kubernetes API. Nothing here raises anything but ``BadInputError``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

from tfscale.errors import BadInputError, Problem
from tfscale.quantity import quantity, time_s

__all__ = ["Field", "named", "on_one_line", "tried"]

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Field:
    """One place in an object.

    >>> node = named("node", {"metadata": {"name": "n1"}, "spec": {"taints": "none"}})
    >>> node.at("spec", "taints").items()
    Traceback (most recent call last):
    ...
    tfscale.errors.BadInputError: node n1: spec.taints is 'none'; want a list
    """

    where: str
    path: str
    value: Any

    @property
    def given(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    def refused(self, want: str) -> BadInputError:
        """Return the error that this value is not what was wanted."""
        return BadInputError(Problem(where=self.where, field=self.path or "the object", value=_shown(self.value), want=want))

    def at(self, *keys: str) -> Field:
        """Return the field below these keys; nothing is below nothing."""
        here = self
        for key in keys:
            here = Field(here.where, _below(here.path, key), here.mapping().get(key))
        return here

    def mapping(self) -> Mapping[str, Any]:
        """Return the JSON object here, empty where there is none."""
        if self.value is None:
            return {}
        if not isinstance(self.value, Mapping):
            raise self.refused("a mapping")
        return self.value

    def entries(self) -> dict[str, Field]:
        """Return the values of the mapping here by key, without nulls."""
        return {key: self.at(key) for key, value in self.mapping().items() if value is not None}

    def items(self) -> tuple[Field, ...]:
        """Return the items of the list here, none where there is no list."""
        if self.value is None:
            return ()
        if not isinstance(self.value, list):
            raise self.refused("a list")
        return tuple(Field(self.where, f"{self.path}[{index}]", item) for index, item in enumerate(self.value))

    def text(self) -> str:
        """Return the text here, empty where there is none."""
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            raise self.refused("text; a number or a truth value needs quotes")
        return self.value

    def needed(self) -> str:
        """Return the text here, which must not be empty."""
        text = self.text()
        if not text:
            raise self.refused("text that is not empty")
        return text

    def texts(self) -> tuple[str, ...]:
        """Return the list of texts here."""
        return tuple(item.needed() for item in self.items())

    def text_map(self) -> dict[str, str]:
        """Return the mapping of text to text here: labels or annotations."""
        return {key: field.text() for key, field in self.entries().items()}

    def flag(self) -> bool:
        """Return the truth value here, False where there is none."""
        if self.value is not None and not isinstance(self.value, bool):
            raise self.refused("true or false")
        return bool(self.value)

    def whole(self, otherwise: int = 0, *, least: int = 0, most: int = 2**31 - 1) -> int:
        """Return the JSON integer here, `otherwise` where there is none."""
        if self.value is None:
            return otherwise
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not least <= self.value <= most:
            raise self.refused(f"a whole number from {least} to {most}")
        return self.value

    def digits(self, *, least: int = 0, most: int) -> int:
        """Return the whole number that is written here as text: in a label or an annotation."""
        text = self.text()
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else -1
        if not least <= number <= most:
            raise self.refused(f"a whole number from {least} to {most}")
        return number

    def read(self, parse: Callable[[object], T]) -> T:
        """Return what `parse` makes of the value; its ``ValueError`` says what was wanted."""
        try:
            return parse(self.value)
        except ValueError as error:
            raise self.refused(str(error)) from None

    def amount(self) -> Fraction:
        """Return the Kubernetes quantity here, 0 where there is none."""
        return Fraction(0) if self.value is None else self.read(quantity)

    def seconds(self) -> int:
        """Return the RFC 3339 time here in seconds since the epoch, 0 where there is none."""
        return 0 if self.value is None else self.read(time_s)


def named(kind: str, obj: object) -> Field:
    """Return the root of an object, called as kubectl would call it: ``pod default/asr-0``, ``node n1``."""
    meta = obj.get("metadata") if isinstance(obj, Mapping) else None
    parts = [meta.get(key) for key in ("namespace", "name")] if isinstance(meta, Mapping) else [None]
    name = "/".join(part for part in parts if isinstance(part, str) and part) or "without a name"
    return Field(f"{kind} {on_one_line(name)}", "", obj)


def tried(problems: list[Problem], read: Callable[[], T], otherwise: D) -> T | D:
    """Return what `read` gives. Where an object is wrong, note its problems and return `otherwise`: the rest goes on."""
    try:
        return read()
    except BadInputError as error:
        problems.extend(error.problems)
        return otherwise


def on_one_line(name: str) -> str:
    """Return a name that others chose as it can be printed: quoted where it would break the line."""
    return name if name.isprintable() else ascii(name)


def _below(path: str, key: str) -> str:
    if not key.isidentifier():
        return f"{path}[{on_one_line(key)}]"
    return f"{path}.{key}" if path else key


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return reprlib.repr(value)
    except ValueError:
        # Python refuses to print an integer of thousands of digits.
        return "a huge number"
