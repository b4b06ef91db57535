"""The score behind the packer: which pods count as typical, and what a placement costs them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tfscale.model import Gpu, Node, Request
from tfscale.slicing.capacity import Capacity
from tfscale.slicing.fragmentation import Fragmentation, targets_of
from tfscale.slicing.vacancy import Vacancy

requests = st.lists(st.from_type(Request), max_size=30)


def a_share(milli: int, *, cpu_milli: int = 0, memory_mib: int = 0) -> Request:
    """Return a request for the same part of a card's VRAM and compute."""
    return Request(gpu_count=1, vram_mib=16 * milli, compute_milli=milli, cpu_milli=cpu_milli, memory_mib=memory_mib)


def scores_of(request: Request, nodes: list[Node], targets: dict[Request, int]) -> list[int]:
    """Return the score of the first card of every node for the request."""
    capacity = Capacity(nodes, [Vacancy(node) for node in nodes])
    rows = np.arange(len(nodes))
    cards = np.zeros((len(nodes), request.gpu_count), dtype=np.int64)
    return list(Fragmentation(capacity, targets).score(capacity.shape(request), rows, cards))


def a_node(name: str, *, cards: int = 1, cpu_milli: int = 64_000) -> Node:
    """Return a node of cards with 1,000 parts of 16 MiB."""
    gpus = tuple(Gpu(id=str(index), model="T4", vram_mib=16_000, mtflops=65_000) for index in range(cards))
    return Node(name=name, pool="p", gpus=gpus, cpu_milli=cpu_milli, memory_mib=1)


@given(requests)
def test_targets_are_the_most_frequent_requests(mixed: list[Request]) -> None:
    """They cover 95% of all requests, no target is rarer than one left out, and none could be spared."""
    targets = targets_of(mixed)

    assert 100 * sum(targets.values()) >= 95 * len(mixed)
    rarest = min(targets.values(), default=0)
    assert 100 * (sum(targets.values()) - rarest) < 95 * len(mixed) or not mixed
    everything = targets_of(mixed + [request for request in mixed for _ in range(99)])
    assert {request: count * 100 for request, count in targets.items()} == everything


def test_targets_are_bounded() -> None:
    """At most 64 requests are looked at, the most frequent ones."""
    many = [a_share(milli) for milli in range(1, 100) for _ in range(milli)]

    assert [a_share(milli) for milli in range(99, 35, -1)] == list(targets_of(many))


def test_memory_is_not_told_apart() -> None:
    """Requests that differ only in memory are one target."""
    assert {a_share(5): 2} == targets_of([a_share(5, memory_mib=1), a_share(5, memory_mib=2)])


def test_a_placement_that_strands_nothing_scores_best() -> None:
    """The published score: 100 / (1 + exp(-less)), cut off, where `less` is the shrinking of the fragmentation in cards.

    Half a card leaves room for the typical half: nothing changes, 50. On the card of a node without CPU all is useless
    already: half a card less of it gives 62.
    """
    targets = {a_share(500, cpu_milli=1_000): 1}

    assert [50, 62] == scores_of(a_share(500), [a_node("a"), a_node("b", cpu_milli=0)], targets)


def test_a_placement_that_strands_the_rest_of_a_card_scores_less() -> None:
    """600 of 1,000 leave 400 that the typical half cannot use: 100 / (1 + exp(0.4)) is 40.1."""
    assert [40] == scores_of(a_share(600), [a_node("a")], {a_share(500): 1})


def test_the_dimension_that_is_asked_for_weighs_more() -> None:
    """Where nobody asks for compute, stranded VRAM is all that counts: 100 / (1 + exp(0.25)) is 43.8."""
    by_vram = Request(gpu_count=1, vram_mib=8_000, compute_milli=0)
    twelve = Request(gpu_count=1, vram_mib=12_000, compute_milli=0)

    assert [43] == scores_of(twelve, [a_node("a")], {by_vram: 1})


def test_a_pod_without_gpu_scores_less_where_cards_need_the_cpu() -> None:
    """Taking 8 of 16 cores from two free cards that use 8 each starves one: 100 / (1 + exp(1)) is 26.9."""
    targets = {Request(gpu_count=1, whole=True, cpu_milli=8_000): 1}
    nodes = [a_node("a", cards=2, cpu_milli=16_000), a_node("b", cards=1, cpu_milli=16_000)]

    assert [26, 50] == scores_of(Request(cpu_milli=8_000), nodes, targets)
