"""Which requests are typical, and what they mean on each kind of card."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tfscale.model import Gpu, Request
from tfscale.slicing import typical_of
from tfscale.slicing.capacity import NEVER
from tfscale.slicing.typical import Targets

NO_CARD = Gpu(id="", model="", vram_mib=0, mtflops=0)
T4 = Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000)
L4 = Gpu(id="0", model="L4", vram_mib=22_888, mtflops=121_000)
request_lists = st.lists(st.from_type(Request), max_size=60)


@given(request_lists, st.randoms(use_true_random=False))
def test_the_most_frequent_requests_make_up_95_percent(requests: list[Request], random: Random) -> None:
    """No fewer of them would, none that is left out is more frequent, and the order of the list does not matter."""
    typical = typical_of(requests)
    counts = Counter(replace(request, memory_mib=0) for request in requests)

    assert typical == typical_of(random.sample(requests, len(requests)))
    assert typical.items() <= counts.items()
    assert sum(typical.values()) * 100 >= 95 * len(requests)
    if typical:
        assert (sum(typical.values()) - min(typical.values())) * 100 < 95 * len(requests)
        assert min(typical.values()) >= max((counts - Counter(typical)).values(), default=0)


def test_at_most_256_requests_are_typical() -> None:
    """The rest would cost time and say little."""
    assert 256 == len(typical_of(Request(cpu_milli=cpu_milli) for cpu_milli in range(1_000)))


def test_of_equally_frequent_requests_the_larger_are_kept() -> None:
    """They are the harder ones to place."""
    small, large = Request(gpu_count=1, vram_mib=1), Request(gpu_count=1, vram_mib=2)

    assert [large, small] == list(typical_of([small, large]))


def test_requests_that_differ_in_models_alone_share_a_column() -> None:
    """What they take of a card is the same; who accepts which nodes is kept apart."""
    anywhere = Request(gpu_count=1, vram_mib=8_192, compute_milli=500)
    on_l4 = replace(anywhere, gpu_models=("L4",))
    targets = Targets({anywhere: 3, on_l4: 1}, [NO_CARD, T4, L4], [frozenset(), frozenset({1}), frozenset({1, 2})])

    assert [0, 0] == targets.column.tolist()
    assert [[False, True, True], [False, False, True]] == targets.accepts.tolist()
    assert [[0.0], [0.75], [1.0]] == targets.share.tolist()
    assert [[NEVER], [8_192], [8_192]] == targets.vram_mib.tolist()


def test_a_kind_that_no_target_accepts_has_room_for_none() -> None:
    """A card may be too small, or of another model."""
    large, on_t4 = Request(gpu_count=1, vram_mib=20_000), Request(gpu_count=2, vram_mib=1, gpu_models=("T4",))
    targets = Targets({large: 1, on_t4: 1}, [NO_CARD, T4, L4], [frozenset({1}), frozenset({2})])

    assert [[NEVER, NEVER], [NEVER, 1], [20_000, NEVER]] == targets.vram_mib.tolist()
    assert [1, 2] == targets.cards.tolist()


def test_as_many_pods_of_each_target_come_with_a_card_as_the_mix_fills() -> None:
    """Two halves fill a card; pods without cards fill nothing, and count as pods."""
    half, web = Request(gpu_count=1, compute_milli=500), Request(cpu_milli=100)
    targets = Targets({half: 1, web: 1}, [NO_CARD, T4], [frozenset({1})])

    assert [2.0] == targets.per_card.tolist()
    assert [[0.5]] == targets.share.tolist()


def test_without_typical_requests_there_is_nothing_to_count() -> None:
    """The packer works all the same."""
    targets = Targets({}, [NO_CARD, T4], [frozenset({1})])

    assert (0, (1, 0), (1.0, 1.0)) == (targets.cards.size, targets.share.shape, (targets.vram_weight, targets.compute_weight))
