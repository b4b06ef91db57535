"""What can go wrong, one type per reaction of the caller.

::

    TfscaleError
    ├── BadInputError            somebody's object or flag is wrong: report it, go on with the others
    ├── ModeError                a mode could not do what was asked: outcome unknown, ask again
    │   ├── LaunchRefusedError   the call was refused for good, nothing was launched: plan anew
    │   └── CloudUnreachableError    no answer from the cloud (exit code 4)
    │       └── CredentialsError     our credentials are not accepted, or allow too little: leave the cloud alone for a minute
    └── ClusterError             Kubernetes refused: observe again on the next tick
        ├── NotFoundError            404
        ├── ConflictError            409: somebody else wrote first
        │   └── AlreadyExistsError   409 on create
        ├── GoneError                410: the resource version is too old, list again
        ├── RefusedObjectError       400, 413 or 422: the object itself is wrong
        ├── ForbiddenError           401 or 403
        ├── TooManyRequestsError     429: also an eviction that a PodDisruptionBudget forbids
        ├── NotLeadingError          another replica writes now, or may soon: nothing was sent
        └── ClusterUnreachableError  no answer from the API server (exit code 4)
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AlreadyExistsError",
    "BadInputError",
    "CloudUnreachableError",
    "ClusterError",
    "ClusterUnreachableError",
    "ConflictError",
    "CredentialsError",
    "ForbiddenError",
    "GoneError",
    "LaunchRefusedError",
    "ModeError",
    "NotFoundError",
    "NotLeadingError",
    "Problem",
    "RefusedObjectError",
    "TfscaleError",
    "TooManyRequestsError",
]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Problem:
    """One thing that is wrong with one object, in words for its author.

    >>> print(Problem(where="pod default/asr-0", field="metadata.annotations[tfscale.io/vram-request]",
    ...               value="4Gx", want="a quantity such as 4Gi"))
    pod default/asr-0: metadata.annotations[tfscale.io/vram-request] is '4Gx'; want a quantity such as 4Gi
    """

    where: str
    """The object, as kubectl would name it: ``pod default/asr-0``, ``gpupool inference``, or a file."""
    field: str
    value: str
    want: str

    def __str__(self) -> str:
        """Return the one line that a user reads."""
        return f"{self.where}: {self.field} is {_shown(self.value)}; want {self.want}"


def _shown(value: str, most: int = 200) -> str:
    """Quote a value so that it stays on one line and does not flood the terminal."""
    return repr(value) if len(value) <= most else f"{value[:most]!r}... ({len(value)} characters)"


class TfscaleError(Exception):
    """Base of every error that tfscale raises on purpose."""


class BadInputError(TfscaleError):
    """An object, a file or a flag is wrong. Retrying does not help; the other objects go on.

    ``problems`` are all that is wrong with it, ``problem`` is the first of them.
    """

    def __init__(self, problem: Problem, *others: Problem) -> None:
        self.problem = problem
        self.problems = (problem, *others)
        super().__init__("\n".join(map(str, self.problems)))


class ModeError(TfscaleError):
    """A scaling mode failed and the outcome is unknown.

    The loop keeps the launch batch as it is and replays it word for word on a later tick.
    """


class LaunchRefusedError(ModeError):
    """The cloud refused a launch for good (bad parameters, no permission): nothing was launched.

    The loop drops the batch, reports the reason and plans anew.
    """


class CloudUnreachableError(ModeError):
    """The cloud gave no answer within the time limit."""


class CredentialsError(CloudUnreachableError):
    """The cloud does not accept our credentials, or they do not allow this call, or there are none.

    Only somebody else can mend it. The loop leaves the pool's cloud alone for a minute, then opens its mode anew.
    """


class ClusterError(TfscaleError):
    """Kubernetes refused a call. Nothing is retried in place: the next tick observes again."""


class NotFoundError(ClusterError):
    """The object does not exist (404). For a delete this is success."""


class ConflictError(ClusterError):
    """A precondition failed or somebody else wrote first (409)."""


class AlreadyExistsError(ConflictError):
    """An object of this name exists already (409 on create)."""


class GoneError(ClusterError):
    """The resource version is no longer served (410): list again, then watch from there."""


class RefusedObjectError(ClusterError):
    """The API server calls the object invalid (400, 413 or 422)."""


class ForbiddenError(ClusterError):
    """The caller is not known or not allowed (401 or 403)."""


class TooManyRequestsError(ClusterError):
    """The server asks to slow down, or a PodDisruptionBudget forbids the eviction (429).

    ``retry_after_s`` is what the server asked for, or None.
    """

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotLeadingError(ClusterError):
    """This process does not lead, or cannot be sure that it still does: nothing was sent. Another replica writes."""


class ClusterUnreachableError(ClusterError):
    """The API server gave no answer within the time limit, or answered 5xx.

    ``retry_after_s`` is how long the server asks to wait (with 503), or None.
    """

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
