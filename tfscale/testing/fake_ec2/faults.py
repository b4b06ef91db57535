"""What can go wrong with a call of the simulated cloud: EC2 refuses it, or there is no reply."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ACCESS_DENIED",
    "LOST_REPLY",
    "SERVER_ERROR",
    "THROTTLED",
    "UNREACHABLE",
    "ApiError",
    "Fault",
    "no_such",
]


class ApiError(Exception):
    """What the simulated service refuses, with the code that EC2 uses."""

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way for a call to fail: with an error of the service, or with no reply at all."""

    error: ApiError | None = None
    """None: the caller gets no reply."""
    committed: bool = False
    """True: the call was carried out, only its reply is lost."""


THROTTLED = Fault(error=ApiError("RequestLimitExceeded", "Request limit exceeded.", status=503))
SERVER_ERROR = Fault(error=ApiError("InternalError", "An internal error has occurred", status=500))
ACCESS_DENIED = Fault(error=ApiError("UnauthorizedOperation", "You are not authorized to perform this operation.", status=403))
UNREACHABLE = Fault()
LOST_REPLY = Fault(committed=True)


def no_such(code: str, what: str, name: str) -> ApiError:
    """Return EC2's answer where something is named that is not there."""
    return ApiError(code, f"The {what} '{name}' does not exist")
