"""The contract of scaling modes catches modes that break it, each in the test that is meant for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("wrong_modes.py")
CAUGHT = {
    "LaunchesTwice": "test_a_replay_launches_nothing_more[same process-at once]",
    "LaunchesTwiceAfterARestart": "test_a_replay_launches_nothing_more[new process-at once]",
    "Forgets": "test_all_that_was_launched_is_seen[same process]",
    "ForgetsAfterARestart": "test_all_that_was_launched_is_seen[new process]",
    "TerminatesForeign": "test_no_machine_of_others_is_terminated",
    "SeesOthers": "test_no_machine_of_others_is_seen",
    "SeesByPrefix": "test_no_machine_of_others_is_seen",
    "HidesWhatIsStopping": "test_a_machine_is_seen_until_it_is_gone",
    "CannotTellMachinesApart": "test_all_that_was_launched_is_seen[same process]",
    "BuysWhatIsWantedNow": "test_a_call_means_what_was_recorded",
    "ForgetsWhenFull": "test_a_lost_reply_that_took_the_last_room_costs_nothing",
    "SharesMachines": "test_two_calls_never_share_a_machine",
    "MatchesBackwards": "test_requests_are_matched_as_the_loop_would_match_them",
    "BuysWhilePreparing": "test_an_order_is_only_words",
    "SaysRefusedForLost": "test_a_lost_reply_costs_nothing",
    "WantsNoRecord": "test_an_order_is_only_words",
    "OffersTheUnwanted": "test_only_what_the_pool_wants_is_offered",
    "HeedsNoZone": "test_each_filter_counts_by_itself[zone]",
    "IsFree": "test_offers_can_be_told_apart_and_paid_for",
    "IgnoresOptions": "test_an_option_that_it_does_not_know_is_refused",
    "FailsOnWhatIsGone": "test_terminating_again_is_no_error",
    "StaysProtected": "test_release_ends_the_protection_and_nothing_else",
    "ReleasesTheUnnamed": "test_release_ends_the_protection_and_nothing_else",
    "EndsWhatItReleases": "test_release_ends_the_protection_and_nothing_else",
    "HasNoEnd": "test_capacity_that_runs_out_gives_fewer_machines",
    "KeepsQuiet": "test_no_capacity_is_told",
}
STORIES = (
    "LaunchesTwice",
    "LaunchesTwiceAfterARestart",
    "Forgets",
    "ForgetsAfterARestart",
    "TerminatesForeign",
    "SharesMachines",
)
"""What a random story finds out too."""


@pytest.fixture(scope="module")
def failed() -> dict[str, set[str]]:
    """Run the contract on a good mode and on the wrong ones and return the failed tests of each."""
    command = [sys.executable, "-m", "pytest", str(FILE), "-p", "no:cacheprovider", "--tb=no", "-rfE"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
    assert 1 == done.returncode, done.stdout
    found: dict[str, set[str]] = {"ShelfMode": set()}
    for mode, test in re.findall(r"^(?:FAILED|ERROR) \S+::Test(\w+)::(test_\w+(?:\[.*?\])?)", done.stdout, re.MULTILINE):
        found.setdefault(mode, set()).add(test)
    return found


def test_a_good_mode_passes(failed: dict[str, set[str]]) -> None:
    """Nothing else fails than what is wrong, and every wrong mode is listed here."""
    assert not failed["ShelfMode"]
    assert {"ShelfMode", *CAUGHT} == set(failed)


@pytest.mark.parametrize("mode", CAUGHT)
def test_a_wrong_mode_fails_where_it_is_wrong(failed: dict[str, set[str]], mode: str) -> None:
    """The test that names the promise is among those that fail."""
    assert CAUGHT[mode] in failed[mode]


@pytest.mark.parametrize("mode", STORIES)
def test_a_random_story_finds_it_too(failed: dict[str, set[str]], mode: str) -> None:
    """Without anybody having thought of the case."""
    assert "test_any_story_ends_well" in failed[mode]
