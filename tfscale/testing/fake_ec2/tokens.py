"""Client tokens: a call that is made again gives what it gave the first time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tfscale.testing.fake_ec2.faults import ApiError
from tfscale.testing.fake_ec2.pages import Answer

__all__ = ["FORGOTTEN_AFTER_S", "Tokens"]

FORGOTTEN_AFTER_S = 24 * 3_600
"""How long a token counts. EC2 says "at least 24 hours" of RunInstances, from the end of its machines on, and nothing of fleets:
counted from the call, and no longer, is the least that it may mean. Source: EC2's page on idempotency."""
_LONGEST = 64
_Parameters = dict[str, Any]
_Reply = Mapping[str, Any]
_Make = Callable[[_Parameters], _Reply]


class _First(NamedTuple):
    """The call that used a token first."""

    at_s: int
    asked: str
    reply: _Reply


class Tokens:
    """Replies by client token. A call that failed leaves no trace, so it may be made again with other parameters.

    `clock` gives seconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._known: dict[tuple[str, str], _First] = {}

    def once(self, operation: str, make: _Make, *, again: Callable[[_Reply], _Reply] = lambda reply: reply) -> Answer:
        """Return an answer that carries a call out unless its token is known: then `again` makes a reply of the first one."""

        def answer(parameters: _Parameters) -> _Reply:
            token = parameters.get("ClientToken", "")
            if len(token) > _LONGEST or not token.isascii():
                raise ApiError("InvalidParameterValue", f"ClientToken: want at most {_LONGEST} ASCII characters")
            asked = json.dumps(parameters, sort_keys=True, default=str)
            first = self._known.get((operation, token))
            if first and self._clock() < first.at_s + FORGOTTEN_AFTER_S:
                return again(_same(first, token, asked))
            reply = make(parameters)
            if token:
                self._known[operation, token] = _First(self._clock(), asked, reply)
            return reply

        return answer


def _same(first: _First, token: str, asked: str) -> _Reply:
    if first.asked != asked:
        raise ApiError("IdempotentParameterMismatch", f"ClientToken {token} was used with other parameters")
    return first.reply
