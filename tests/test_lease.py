"""The rules of leading: numbers that work together, and what one candidate makes of what it sees."""

from __future__ import annotations

import pytest

from tfscale.errors import BadInputError
from tfscale.lease import RELEASED_S, Candidate, Record, Terms


def record(holder: str = "other", epoch: int = 4, version: str = "1", duration_s: int = 15) -> Record:
    """Return a Lease as another process has left it."""
    return Record(holder=holder, epoch=epoch, duration_s=duration_s, version=version)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"lease_s": 11}, "leader election: lease duration is '11 s'; want the renew deadline and the margin, 12 s, or more"),
        ({"renew_s": 2.4}, "leader election: renew deadline is '2.4 s'; want more than 1.2 retry periods, 2.4 s"),
        ({"retry_s": 0}, "leader election: retry period is '0 s'; want more than 0 s"),
        ({"margin_s": 0}, "leader election: margin is '0 s'; want more than 0 s"),
    ],
)
def test_numbers_that_cannot_work_together_are_refused(numbers: dict[str, int], said: str) -> None:
    """The line names the number, its value and what it must be."""
    with pytest.raises(BadInputError) as refused:
        Terms(**numbers)

    assert said == str(refused.value)


def test_a_lease_is_free_when_it_was_seen_unchanged_for_its_duration() -> None:
    """Counted from when it was first seen so, whatever it says about times."""
    candidate = Candidate("me", Terms())
    candidate.saw(record(), 100)
    candidate.saw(record(), 114)

    assert (None, 5) == (candidate.bid(114.9), candidate.bid(115))
    candidate.saw(record(version="2"), 116)
    assert (None, 5) == (candidate.bid(130.9), candidate.bid(131))


@pytest.mark.parametrize(("duration_s", "free_s"), [(3, 115), (60, 160)])
def test_the_longer_of_two_durations_counts(duration_s: int, free_s: int) -> None:
    """Its holder may have other terms, and people may edit the number."""
    candidate = Candidate("me", Terms())
    candidate.saw(record(duration_s=duration_s), 100)

    assert free_s == candidate.free_at_s


def test_only_a_lease_that_was_given_up_is_free_at_once() -> None:
    """An empty holder alone may be anybody's doing."""
    candidate = Candidate("me", Terms())
    candidate.saw(record(holder=""), 100)
    assert candidate.bid(100) is None
    candidate.saw(record(holder="", version="2", duration_s=RELEASED_S), 101)

    assert 5 == candidate.bid(101)


def test_a_count_that_was_set_back_is_not_given_again() -> None:
    """Who saw a higher one goes on from there."""
    candidate = Candidate("me", Terms())
    candidate.saw(record(epoch=9), 100)
    candidate.saw(record(epoch=0, version="2"), 101)

    assert 10 == candidate.bid(116)


def test_a_time_of_leading_counts_from_the_start_of_the_write() -> None:
    """However long the answer took."""
    candidate = Candidate("me", Terms())
    candidate.claims(5)
    candidate.won(record("me", 5), started_s=100, now_s=109)

    assert candidate.term
    assert (5, 110, 113) == (candidate.term.epoch, candidate.term.rounds_until_s, candidate.term.writes_until_s)


def test_a_write_that_changed_nothing_renews_nothing() -> None:
    """The API server keeps the version of an object that a write leaves as it was, and by that the others count."""
    candidate = Candidate("me", Terms())
    candidate.claims(5)
    candidate.won(record("me", 5, "2"), started_s=100, now_s=100)
    candidate.won(record("me", 5, "2"), started_s=102, now_s=102)
    assert candidate.term
    assert 113 == candidate.term.writes_until_s
    candidate.won(record("me", 5, "3"), started_s=104, now_s=104)

    assert 117 == candidate.term.writes_until_s


def test_an_own_write_whose_answer_was_lost_is_recognized() -> None:
    """The Lease names this very process and the epoch that it asked for: it renews at once."""
    candidate = Candidate("me", Terms())
    candidate.saw(record(), 100)
    candidate.claims(5)
    candidate.saw(record("me", 5, "2"), 116)

    assert (None, 5) == (candidate.term, candidate.bid(116))


def test_an_old_copy_that_was_restored_is_nobodys() -> None:
    """Another one led in between: that the Lease names this process again proves nothing."""
    candidate = Candidate("me", Terms())
    candidate.claims(5)
    candidate.won(record("me", 5), started_s=100, now_s=100)
    candidate.saw(record("other", 6, "2"), 120)
    candidate.saw(record("me", 5, "3"), 121)

    assert (None, None, 7) == (candidate.term, candidate.bid(121), candidate.bid(136))
