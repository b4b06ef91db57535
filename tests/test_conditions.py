"""Conditions: what a state or a verdict says, and when its time moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.conditions import Condition, of_pool, of_request, settled, updated
from tfscale.errors import CloudUnreachableError, ModeError, Problem, TfscaleError
from tfscale.kube.conditions import read_conditions, write_conditions
from tfscale.kube.fields import Field
from tfscale.lifecycle import TRANSITIONS, State

conditions = st.builds(
    Condition,
    type=st.sampled_from(["Ready", "Launched", "Theirs"]),
    status=st.sampled_from(["True", "False", "Unknown"]),
    reason=st.sampled_from(["One", "Other"]),
    message=st.text(max_size=5),
    since_s=st.integers(0, 10**10),
    generation=st.none() | st.integers(0, 9),
)
lists = st.lists(conditions, max_size=3, unique_by=lambda condition: condition.type)


def status(value: object) -> Field:
    """Return a place with these conditions."""
    return Field("gpupool p", "status", {"conditions": value})


@given(lists, lists, st.integers(0, 10**10))
def test_a_time_moves_only_with_its_status(before: list[Condition], now: list[Condition], now_s: int) -> None:
    """Another reason or message is no transition, and what is not said anew stays as it is."""
    old = {condition.type: condition for condition in before}
    new = {condition.type: condition for condition in updated(before, now, now_s=now_s)}
    said = {condition.type: condition for condition in now}

    assert old.keys() | said.keys() == new.keys()
    for name, condition in new.items():
        if name not in said:
            assert old[name] == condition
        elif name in old and old[name].status == condition.status:
            assert old[name].since_s == condition.since_s
        else:
            assert now_s == condition.since_s


@given(lists, lists, st.integers(0, 10**9), st.integers(1, 10**9))
def test_saying_it_again_later_changes_nothing(before: list[Condition], now: list[Condition], now_s: int, later_s: int) -> None:
    """So nothing is written at a tick that saw nothing new."""
    once = updated(before, now, now_s=now_s)

    assert once == updated(once, now, now_s=now_s + later_s)


@given(lists)
def test_conditions_survive_the_round_trip(given_conditions: list[Condition]) -> None:
    """As a status carries them and back."""
    assert tuple(given_conditions) == read_conditions(status(write_conditions(given_conditions)))


@pytest.mark.parametrize(
    "broken", ["text", [1], [{"type": "Ready", "status": "Maybe"}], [{"type": "Ready"}], [{"status": "True"}]]
)
def test_conditions_that_cannot_be_read_are_as_none(broken: object) -> None:
    """They are only for people: nothing stops because of them."""
    assert () == read_conditions(status(broken))


@pytest.mark.parametrize("state", State)
def test_a_step_is_done_only_after_those_before_it(state: State) -> None:
    """Launched, then registered, then initialized and ready."""
    done = [condition.status == "True" for condition in of_request(state)]

    assert sorted(done, reverse=True) == done


@pytest.mark.parametrize("state", State)
def test_a_node_is_ready_in_its_state_ready_alone(state: State) -> None:
    """`kubectl wait --for=condition=Ready` waits for that."""
    (ready,) = [condition for condition in of_request(state) if condition.type == "Ready"]

    assert (state is State.READY) == (ready.status == "True")


def test_a_node_that_is_given_back_keeps_what_it_had_reached() -> None:
    """It was initialized; it is not ready any more, and says why."""
    ready = updated((), of_request(State.READY), now_s=1)
    ending = {one.type: (one.status, one.reason, one.since_s) for one in updated(ready, of_request(State.TERMINATING), now_s=5)}

    assert ("True", "Initialized", 1) == ending["Initialized"]
    assert ("False", "Terminating", 5) == ending["Ready"]


def test_a_node_that_left_has_to_register_again() -> None:
    """The conditions go back with the state."""
    assert State.LAUNCHED in TRANSITIONS[State.READY].values()
    back = updated(updated((), of_request(State.READY), now_s=1), of_request(State.LAUNCHED), now_s=5)

    assert ["True", "Unknown", "Unknown", "Unknown"] == [condition.status for condition in back]


def test_a_settled_batch_says_so() -> None:
    """Its status has the same as a flag."""
    assert ("Settled", "True") == (settled().type, settled().status)


def problem(field: str, value: str = "x") -> Problem:
    """Return a problem of the pool."""
    return Problem(where="gpupool p", field=field, value=value, want="another")


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("spec.mode", "BadMode"),
        ("spec.options.region", "BadOptions"),
        ("spec.options[a/b]", "BadOptions"),
        ("a key of spec.options", "BadOptions"),
        ("a key of spec", "BadSpec"),
        ("spec.offers.gpuModels[0]", "BadSpec"),
        ("metadata.name", "BadName"),
        ("mode's listing", "Contradiction"),
    ],
)
def test_the_reason_tells_which_part_is_wrong(field: str, reason: str) -> None:
    """One word for programs, and the problem without the pool's name for people."""
    found = of_pool([problem(field)], None, readable=False, deleting=True)

    assert ("False", reason, f"{field} is 'x'; want another") == (found.status, found.reason, found.message)


@pytest.mark.parametrize(
    ("error", "readable", "deleting", "reason"),
    [
        (None, True, False, "ModeAnswers"),
        (CloudUnreachableError("no route"), True, True, "CloudUnreachable"),
        (ModeError("no route"), True, True, "ModeFailed"),
        (None, False, True, "BadRecord"),
        (None, True, True, "Deleting"),
    ],
)
def test_the_reason_tells_what_keeps_a_pool_from_working(
    error: TfscaleError | None, *, readable: bool, deleting: bool, reason: str
) -> None:
    """What must be mended first is said first."""
    found = of_pool([], error, readable=readable, deleting=deleting)

    assert (reason == "ModeAnswers", reason) == (found.status == "True", found.reason)
    assert error is None or str(error) == found.message


def test_a_message_is_one_that_the_api_server_takes_and_gives_back() -> None:
    """Else the whole status would be refused, or written anew at every tick."""
    found = of_pool([], ModeError("\udcff" + "ü" * 40_000), readable=True, deleting=False)

    assert "?" + "ü" * 32_767 == found.message


def test_a_message_has_an_end() -> None:
    """The first three problems are told."""
    found = of_pool([problem("spec", value=str(number)) for number in range(9)], None, readable=True, deleting=False)

    assert ["spec is '0'; want another", "spec is '1'; want another", "spec is '2'; want another", "and 6 more"] == (
        found.message.replace("; want", "# want").replace("; ", "\n").replace("# want", "; want").splitlines()
    )
