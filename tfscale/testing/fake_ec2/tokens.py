"""Client tokens: a call that is made again gives what it gave the first time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tfscale.testing.fake_ec2.faults import ApiError
from tfscale.testing.fake_ec2.pages import Answer

__all__ = ["Tokens"]

_LONGEST = 64
_Parameters = dict[str, Any]
_Reply = Mapping[str, Any]
_Make = Callable[[_Parameters], _Reply]


class Tokens:
    """Replies by client token. A call that failed leaves no trace, so it may be made again with other parameters."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[str, _Reply]] = {}

    def once(self, operation: str, make: _Make, *, again: Callable[[_Reply], _Reply] = lambda reply: reply) -> Answer:
        """Return an answer that carries a call out unless its token was seen: then `again` makes a reply of the first one."""

        def answer(parameters: _Parameters) -> _Reply:
            token = parameters.get("ClientToken", "")
            if len(token) > _LONGEST or not token.isascii():
                raise ApiError("InvalidParameterValue", f"ClientToken: want at most {_LONGEST} ASCII characters")
            asked = json.dumps(parameters, sort_keys=True, default=str)
            if (operation, token) in self._known:
                return again(self._first(operation, token, asked))
            reply = make(parameters)
            if token:
                self._known[operation, token] = (asked, reply)
            return reply

        return answer

    def _first(self, operation: str, token: str, asked: str) -> _Reply:
        first, reply = self._known[operation, token]
        if first != asked:
            raise ApiError("IdempotentParameterMismatch", f"ClientToken {token} was used with other parameters")
        return reply
