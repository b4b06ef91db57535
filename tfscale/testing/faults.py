"""What can happen to a call between a client and an API server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs

__all__ = ["REMEMBERED", "Answer", "Call", "Cut", "Delay", "Fault", "Lines", "Rule", "Stall"]

REMEMBERED = 50
"""Lines of one body that :class:`Lines` can look back at."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The call is answered here, with a Status; the server never sees it."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection ends after so many bytes of the body."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stall:
    """After so many lines of the body nothing comes any more, for so long; then the connection ends."""

    for_s: float
    after_lines: int = 0


@dataclass(frozen=True, slots=True)
class Delay:
    """The call waits before it is passed on."""

    for_s: float


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of the body are changed: `edit` gets a line and the last 50 before it, and returns what is sent instead."""

    name: str
    edit: Callable[[bytes, Sequence[bytes]], Iterable[bytes]] = field(repr=False)

    @classmethod
    def error_event(cls, code: int, after: int = 0) -> Self:
        """Return a fault of watches: an ERROR event with this code after so many lines."""
        status = {"kind": "Status", "status": "Failure", "code": code, "reason": "Expired", "message": "injected"}
        error = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
        return cls(f"error {code}", lambda line, earlier: [line] if len(earlier) < after else [error])

    @classmethod
    def twice(cls) -> Self:
        """Return a fault: every line comes twice."""
        return cls("twice", lambda line, _: [line, line])

    @classmethod
    def again(cls) -> Self:
        """Return a fault: with every line those before it come again, the newest first."""
        return cls("again", lambda line, earlier: [line, *reversed(earlier)])

    @classmethod
    def garbled(cls, after: int = 0) -> Self:
        """Return a fault: after so many lines each is no JSON any more."""
        return cls("garbled", lambda line, earlier: [line if len(earlier) < after else line[: len(line) // 2] + b"\n"])

    @classmethod
    def half_a_letter(cls) -> Self:
        """Return a fault: every line has a letter of which only the first byte came."""
        return cls("half a letter", lambda line, _: [line.replace(b'"', b'"\xc3', 1)])

    @classmethod
    def endless(cls, size_bytes: int) -> Self:
        """Return a fault: every line begins with so many spaces."""
        return cls("endless", lambda line, _: [b" " * size_bytes, line])


Fault = Answer | Cut | Stall | Delay | Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which calls a fault befalls."""

    fault: Fault
    method: str = "GET"
    """Empty for any."""
    path: str = ""
    """What the path ends with; empty for any."""
    query: str = ""
    """What the query contains; empty for any."""
    watch: bool | None = None
    """Whether it is a watch; None for either."""
    times: int | None = 1
    """How many calls; None for all."""
    chance: float = 1.0
    """Of each call, as the proxy's seed has it."""

    def concerns(self, call: Call) -> bool:
        """Return whether a call is one of these."""
        named = call.path.endswith(self.path) and self.query in call.query
        return named and self.method in ("", call.method) and self.watch in (None, call.watch)


@dataclass(frozen=True, slots=True)
class Call:
    """One call that arrived."""

    method: str
    path: str
    query: str

    @property
    def watch(self) -> bool:
        """Whether it is a watch."""
        return parse_qs(self.query).get("watch") == ["true"]
