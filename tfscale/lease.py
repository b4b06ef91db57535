"""When a Lease may be taken, and for how long its holder may believe that it leads. Pure: no calls, no clock, no logs.

Two rules keep two processes from leading at the same moment, whatever the network does and however wall clocks are set:

- A leader believes so for ``lease_s - margin_s`` after the *start* of its last renewal that was answered.
- Everybody else takes the Lease only after having seen it unchanged for ``lease_s`` since the *answer* that first showed it
  so, and only if it still is unchanged when the write arrives.

A renewal changes the Lease after its start and before anybody can read it: the second span begins later and is longer. Each
span is measured on one process's own clock; no time that another process wrote is ever read.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfscale.errors import BadInputError, Problem

__all__ = ["RELEASED_S", "Candidate", "Record", "Term", "Terms"]

RELEASED_S = 1
"""The duration of a Lease that was given up: together with an empty holder it says that nobody believes to lead any more.

An empty holder alone is not enough, for people and tools write that too. client-go writes the same when it releases.
"""

_JITTER = 1.2
"""How much more than ``retry_s`` two tries may be apart on a busy machine. The factor of client-go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long a Lease holds: the numbers of client-go. Raises ``BadInputError`` for numbers that cannot work together."""

    lease_s: int = 15
    """For how long the others must see the Lease unchanged before one of them takes it."""
    renew_s: float = 10
    """A leader that could not renew for so long begins no new round."""
    retry_s: float = 2
    """Between two looks at the Lease, or two renewals."""
    margin_s: float = 2
    """So long before the Lease runs out no write leaves any more: clocks differ in speed, and a write takes its time."""

    def __post_init__(self) -> None:
        """Refuse what would let nobody lead, or two at once."""
        _expect(self.retry_s > 0, "retry period", self.retry_s, "more than 0 s")
        least_s = self.retry_s * _JITTER
        _expect(self.renew_s > least_s, "renew deadline", self.renew_s, f"more than {_JITTER:g} retry periods, {least_s:g} s")
        _expect(self.margin_s > 0, "margin", self.margin_s, "more than 0 s")
        least_s = self.renew_s + self.margin_s
        _expect(
            self.lease_s >= least_s, "lease duration", self.lease_s, f"the renew deadline and the margin, {least_s:g} s, or more"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a Lease says."""

    holder: str
    epoch: int
    """How often the holder has changed (``leaseTransitions``)."""
    duration_s: int
    version: str
    """Its resource version: another one after every write, whoever makes it."""

    @property
    def released(self) -> bool:
        """Whether the last holder gave it up in good order."""
        return not self.holder and self.duration_s == RELEASED_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A time of leading, as the last renewal that was answered has left it."""

    epoch: int
    rounds_until_s: float
    """Until when a new round may begin."""
    writes_until_s: float
    """Until when a write may leave, whatever hangs."""


class Candidate:
    """One process that would lead: what it saw of the Lease and since when. Times are seconds of its own clock."""

    def __init__(self, identity: str, terms: Terms) -> None:
        self.identity = identity
        self.terms = terms
        self.seen: Record | None = None
        self.highest = 0
        """The highest epoch that it saw."""
        self.term: Term | None = None
        """The time of leading that it has, or had, as long as no other is known to hold the Lease."""
        self._since_s = 0.0
        self._claimed: int | None = None
        """The epoch under which it last wrote itself into the Lease, answered or not; None once it saw another's name there."""

    @property
    def free_at_s(self) -> float:
        """From when on the Lease may be taken if it stays as it is."""
        if self.seen is None:
            return float("inf")
        return self._since_s + (0 if self.seen.released else max(self.terms.lease_s, self.seen.duration_s))

    @property
    def holds(self) -> bool:
        """Whether the Lease, as it was last seen, is this candidate's."""
        # An identity alone proves nothing: people restore old copies of objects.
        return self.seen is not None and (self.seen.holder, self.seen.epoch) == (self.identity, self._claimed)

    def saw(self, record: Record, now_s: float) -> None:
        """Note what an answer shows that has just come in."""
        if self.seen is not None and self.seen.version == record.version:
            return
        self.seen, self._since_s = record, now_s
        self.highest = max(self.highest, record.epoch)
        if not self.holds:
            self.term = self._claimed = None

    def bid(self, now_s: float) -> int | None:
        """Return the epoch under which to write oneself into the Lease now; None where it is another's.

        An epoch is one more than every epoch that was seen, so that one which somebody set back is not given twice.
        """
        if self.holds:
            return self._claimed
        return self.highest + 1 if now_s >= self.free_at_s else None

    def claims(self, epoch: int) -> None:
        """Note that a write under this epoch is about to leave: it may be done although no answer comes."""
        self._claimed = epoch

    def won(self, record: Record, *, started_s: float, now_s: float) -> None:
        """Note the answer to a write of its own that began at `started_s`.

        One that left the Lease as it was renewed nothing: the others do not count anew. Wall clocks that are set back can
        make a renewal say what the last one said.
        """
        before = self.seen
        self.saw(record, now_s)
        if before is not None and before.version == record.version:
            return
        self.term = Term(
            epoch=record.epoch,
            rounds_until_s=started_s + self.terms.renew_s,
            writes_until_s=started_s + self.terms.lease_s - self.terms.margin_s,
        )


def _expect(holds: bool, field: str, value_s: float, want: str) -> None:  # noqa: FBT001 - as an assertion has it
    if not holds:
        raise BadInputError(Problem(where="leader election", field=field, value=f"{value_s:g} s", want=want))
