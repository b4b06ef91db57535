"""What free room of a card is worth, against every pattern that a card can hold."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from tfscale.model import Gpu, Request
from tfscale.slicing import typical_of
from tfscale.slicing.typical import Targets
from tfscale.slicing.worth import Room, Worth, worths_of

OPENB = Path(__file__).parents[3] / "shared" / "data" / "openb" / "openb_pod_list_default.csv"
ROUNDED = 1e-3
"""Values have four digits; of a pattern a dozen are added."""

T4, H100 = (16_384, 1_000), (81_920, 1_000)

Asked = tuple[tuple[Room, int], ...]


def worth_of(card: Room, asked: Asked) -> Worth:
    """Return the worth where all cards are alike."""
    (worth,) = worths_of(((card, 1),), tuple(((size,), count) for size, count in asked))
    return worth


@st.composite
def _cards(draw: st.DrawFn, *, dimensions: int) -> tuple[Room, Asked]:
    """Draw a card of a few units, and requests that fit on it."""
    most = 12 if dimensions == 1 else 6
    card = (draw(st.integers(2, most)) if dimensions == 2 else 0, draw(st.integers(2, most)))
    sizes = st.tuples(st.integers(0, card[0]), st.integers(0, card[1])).filter(any)
    asked = draw(st.dictionaries(sizes, st.integers(1, 9), min_size=1, max_size=4))
    return card, tuple(sorted(asked.items()))


any_card = st.one_of(_cards(dimensions=1), _cards(dimensions=2))


def patterns(card: Room, asked: Asked) -> Iterator[tuple[int, ...]]:
    """Yield how often each request may lie on one card together with the others: all that fits."""
    most = [min(whole // part for whole, part in zip(card, size, strict=True) if part) for size, _ in asked]
    for counts in itertools.product(*(range(number + 1) for number in most)):
        used = [sum(count * size[axis] for count, (size, _) in zip(counts, asked, strict=True)) for axis in (0, 1)]
        if used[0] <= card[0] and used[1] <= card[1]:
            yield counts


@given(any_card)
def test_no_pattern_is_worth_more_than_a_card(drawn: tuple[Room, Asked]) -> None:
    """Else some card would be worth more full than empty."""
    card, asked = drawn
    worth = worth_of(card, asked)
    values = [worth.of(size) for size, _ in asked]

    assert 0 < worth.of(card) <= 1
    dearest = max(sum(count * value for count, value in zip(found, values, strict=True)) for found in patterns(card, asked))
    assert dearest <= 1 + ROUNDED


@given(any_card)
def test_more_room_is_never_worth_less(drawn: tuple[Room, Asked]) -> None:
    """In either dimension; and two rooms are together worth at least as much as apart."""
    card, asked = drawn
    worth = worth_of(card, asked)
    rooms = list(itertools.product(range(card[0] + 1), range(card[1] + 1)))

    for one, other in itertools.product(rooms, rooms):
        if one[0] <= other[0] and one[1] <= other[1]:
            assert worth.of(one) <= worth.of(other)
        both = (one[0] + other[0], one[1] + other[1])
        if both[0] <= card[0] and both[1] <= card[1]:
            assert worth.of(one) + worth.of(other) <= worth.of(both) + ROUNDED


@settings(max_examples=50)
@given(any_card)
def test_the_mix_is_worth_what_the_best_patterns_serve(drawn: tuple[Room, Asked]) -> None:
    """By a linear program over all patterns: the prices of the mix add up to the fewest cards that serve it."""
    card, asked = drawn
    worth = worth_of(card, asked)
    weights = np.array([count for _, count in asked], dtype=np.float64)
    weights /= weights.sum()
    rows = np.array(list(patterns(card, asked)))
    fewest = linprog(-weights, A_ub=rows, b_ub=np.ones(len(rows)))

    ours = sum(weight * worth.of(size) for weight, (size, _) in zip(weights, asked, strict=True))
    assert fewest.fun is not None
    assert ours == pytest.approx(-fewest.fun, abs=ROUNDED)


@pytest.mark.parametrize("card", [(16_384, 1_000), (0, 1_000), (16_384, 0)])
def test_where_nothing_is_asked_room_is_worth_its_share(card: Room) -> None:
    """The smaller share of the two, where a card has both."""
    worth = worth_of(card, ())

    assert [0.0, 0.25, 0.5, 1.0] == [round(worth.of((card[0] * part // 4, card[1] * part // 4)), 2) for part in (0, 1, 2, 4)]


def test_sizes_without_a_common_step_are_rounded_down_together() -> None:
    """A card in many small units is cut into steps: halves are worth a half, whatever the unit."""
    worth = worth_of((22_888, 1_000), (((11_444, 499), 1), ((7_629, 333), 1)))

    assert [0.5, 1.0] == [round(worth.of(room), 2) for room in ((11_444, 500), (22_888, 1_000))]


@pytest.mark.skipif(not OPENB.is_file(), reason="the openb trace is not beside the repository")
def test_shares_of_the_openb_trace_have_the_worth_that_its_cutting_stock_problem_gives() -> None:
    """Found before by enumerating all 158 patterns of its typical shares."""
    with OPENB.open(encoding="utf-8", newline="") as lines:
        requests = [
            Request(cpu_milli=int(row["cpu_milli"]), gpu_count=int(row["num_gpu"]), compute_milli=int(row["gpu_milli"]))
            for row in csv.DictReader(lines)
        ]
    kinds = [Gpu(id="", model="", vram_mib=0, mtflops=0), Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000)]
    worth = Targets(typical_of(requests), kinds, [frozenset({1})]).worths([0, 1])[0]

    expected = {810: 1.0, 650: 2 / 3, 590: 2 / 3, 550: 2 / 3, 470: 1 / 2, 460: 1 / 2, 370: 1 / 3, 320: 1 / 3, 230: 1 / 4, 160: 0}
    assert {share: round(value, 4) for share, value in expected.items()} == {share: worth.of((0, share)) for share in expected}


def test_what_both_cards_serve_costs_about_the_same_on_both() -> None:
    """A slice of 2 GiB is an eighth of the small card and a fortieth of the large one, which is worth five times as much."""
    small, large = worths_of(((T4, 10), (H100, 10)), ((((2_048, 100), (2_048, 20)), 1),))

    assert large.whole == pytest.approx(5 * small.whole, abs=1e-3)
    assert small.whole - small.of((14_336, 900)) == pytest.approx(large.whole - large.of((79_872, 980)), abs=1e-3)


def test_the_scarcer_of_two_equal_cards_is_worth_more_to_those_who_must_have_it() -> None:
    """Half of the pods accept one kind alone, of which there is one card in four."""
    common, rare = worths_of(((T4, 3), (T4, 1)), (((None, (8_192, 500)), 1), (((8_192, 500), (8_192, 500)), 1)))

    assert common.whole < rare.whole
    assert 1.0 == pytest.approx((3 * common.whole + rare.whole) / 4)
