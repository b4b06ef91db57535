"""What comes over the wire from an API server: answers, watch lines and refusals. Pure, no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from tfscale.errors import (
    AlreadyExistsError,
    ClusterError,
    ClusterUnreachableError,
    ConflictError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    RefusedObjectError,
    TooManyRequestsError,
)
from tfscale.kube.port import Json, WatchEvent

__all__ = ["answer_of", "bare", "event_of", "lines_of", "refusal_of"]

_LINE_MOST_BYTES = 10 * 1024 * 1024
"""A longer line of a watch is no object: etcd takes 1.5 MiB."""

_REFUSALS: Mapping[int, type[ClusterError]] = {
    400: RefusedObjectError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: RefusedObjectError,
    415: RefusedObjectError,
    422: RefusedObjectError,
}


def answer_of(content: bytes, what: str) -> Json:
    """Return the JSON object of an answer. Anything else comes from a proxy or a broken connection, not from Kubernetes."""
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise ClusterUnreachableError(f"{what}: the answer is not JSON: {_shown(content)}") from error
    if not isinstance(answer, dict):
        raise ClusterUnreachableError(f"{what}: the answer is not an object: {_shown(content)}")
    return answer


def bare(obj: Json) -> Json:
    """Return the object without its managed fields."""
    if "managedFields" in (meta := obj.get("metadata") or {}):
        del meta["managedFields"]
    return obj


def lines_of(chunks: Iterable[bytes], what: str) -> Iterator[bytes]:
    """Cut a stream into lines. A last line that was cut off raises ``ClusterUnreachableError``."""
    pieces: list[bytes] = []
    size = 0
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join((*pieces, end))
            pieces, size = [], 0
        pieces.append(rest)
        size += len(rest)
        if size > _LINE_MOST_BYTES:
            raise ClusterUnreachableError(f"{what}: a line is longer than {_LINE_MOST_BYTES} bytes")
    if size:
        raise ClusterUnreachableError(f"{what}: the connection ended in the middle of a line")


def event_of(line: bytes, what: str) -> WatchEvent:
    """Return the event of one watch line; an ERROR event raises what the same status would raise elsewhere."""
    event = answer_of(line, what)
    kind, obj = event.get("type"), event.get("object")
    if not isinstance(obj, dict):
        raise ClusterUnreachableError(f"{what}: an event without an object: {_shown(line)}")
    match kind:
        case "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK":
            return WatchEvent(kind, bare(obj))
        case "ERROR":
            raise _of_status(obj.get("code") or 500, obj, None, what)
        case _:
            raise ClusterUnreachableError(f"{what}: an event of unknown type: {_shown(line)}")


def refusal_of(code: int, content: bytes, retry_after: str | None, what: str) -> ClusterError:
    """Return the error for an answer that is no success. The one place where HTTP codes become error types."""
    try:
        status = json.loads(content)
    except ValueError:
        status = {"message": _shown(content)}
    return _of_status(code, status if isinstance(status, dict) else {}, retry_after, what)


def _of_status(code: int, status: Json, retry_after: str | None, what: str) -> ClusterError:
    message = f"{what}: {code} {status.get('message') or status.get('reason') or 'without a message'}"
    asked_s = int(retry_after) if retry_after and retry_after.isdecimal() else None
    if code == 429:  # noqa: PLR2004  # too many requests
        return TooManyRequestsError(message, retry_after_s=asked_s)
    if status.get("reason") == "AlreadyExists":
        return AlreadyExistsError(message)
    if "metadata.uid" in _fields_at_fault(status):
        # A merge patch with the uid of another object counts as an attempt to change it (422).
        return ConflictError(message)
    if code >= 500:  # noqa: PLR2004  # the server failed
        return ClusterUnreachableError(message, retry_after_s=asked_s)
    return _REFUSALS.get(code, ClusterError)(message)


def _fields_at_fault(status: Json) -> set[str]:
    details = status.get("details") or {}
    return {cause.get("field", "") for cause in details.get("causes") or ()}


def _shown(content: bytes, most: int = 200) -> str:
    return repr(content[:most].decode(errors="replace"))
