"""Demands onto existing nodes: what must hold for every input, then single cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.errors import BadInputError
from tfscale.model import CARD_MILLI, BoundPod, Demand, Gpu, GpuSlice, Node, Request
from tfscale.selectors import matches_any, untolerated
from tfscale.slicing import Packing, pack

demand_lists = st.lists(st.from_type(Demand), max_size=12)
unique_demand_lists = st.lists(st.from_type(Demand), max_size=12, unique_by=lambda demand: demand.uid)
node_lists = st.lists(st.from_type(Node), max_size=5, unique_by=lambda node: node.name)

T4 = Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000)


def a_node(name: str, *, cards: int = 1, cpu_milli: int = 64_000, pods: tuple[BoundPod, ...] = ()) -> Node:
    """Return a node of T4 cards."""
    gpus = tuple(replace(T4, id=str(index)) for index in range(cards))
    return Node(name=name, pool="inference", gpus=gpus, cpu_milli=cpu_milli, memory_mib=262_144, pods=pods)


def a_demand(uid: str, request: Request) -> Demand:
    """Return a demand without constraints."""
    return Demand(id=f"default/{uid}", uid=uid, pool="inference", request=request)


def a_share(vram_mib: int, *, gpu_count: int = 1, cpu_milli: int = 0) -> Request:
    """Return a request for some VRAM."""
    return Request(gpu_count=gpu_count, vram_mib=vram_mib, compute_milli=0, cpu_milli=cpu_milli)


def after(packing: Packing, nodes: list[Node]) -> list[Node]:
    """Return the nodes with the placed demands bound to them."""
    bound: dict[str, list[BoundPod]] = {node.name: list(node.pods) for node in nodes}
    for item in packing.placed:
        demand = item.demand
        bound[item.node].append(BoundPod(id=demand.id, uid=demand.uid, request=demand.request, slices=item.slices))
    return [replace(node, pods=tuple(bound[node.name])) for node in nodes]


def can_host(demand: Demand, node: Node) -> bool:
    """Say by a count of its own whether the demand fits on the node beside the pods bound there."""
    ids = {gpu.id for gpu in node.gpus}
    parts = [(part, pod.request.whole) for pod in node.pods for part in pod.slices]
    refused = (
        node.pool != demand.pool
        or not node.ready
        or bool(node.fenced)
        or untolerated(node.taints, demand.tolerations) is not None
        or not matches_any(demand.terms, node.labels)
        or any(part.gpu_id not in ids for part, _ in parts)
    )
    request = demand.request
    enough = (
        len(node.pods) < node.pods_max
        and request.cpu_milli <= max(node.cpu_milli - sum(pod.request.cpu_milli for pod in node.pods), 0)
        and request.memory_mib <= max(node.memory_mib - sum(pod.request.memory_mib for pod in node.pods), 0)
    )
    fitting = 0
    for gpu in node.gpus:
        held = [part for part, _ in parts if part.gpu_id == gpu.id]
        asked = request.slice_of(gpu)
        if asked is None or any(whole for part, whole in parts if part.gpu_id == gpu.id) or (request.whole and held):
            continue
        free_vram_mib = max(gpu.vram_mib - sum(part.vram_mib for part in held), 0)
        free_milli = max(CARD_MILLI - sum(part.compute_milli for part in held), 0)
        fitting += asked.vram_mib <= free_vram_mib and asked.compute_milli <= free_milli
    return not refused and enough and fitting >= request.gpu_count


@given(demand_lists, node_lists)
def test_every_demand_is_placed_or_left_once(demands: list[Demand], nodes: list[Node]) -> None:
    """Nothing is lost, and of two demands with one uid at most one is placed."""
    packing = pack(demands, nodes)

    results = [item.demand for item in packing.placed] + [item.demand for item in packing.left]
    assert sorted(demand.uid for demand in demands) == sorted(demand.uid for demand in results)
    assert all(demand in results for demand in demands)
    assert len({item.demand.uid for item in packing.placed}) == len(packing.placed)


@given(unique_demand_lists, node_lists)
def test_never_over_commits(demands: list[Demand], nodes: list[Node]) -> None:
    """Placed one after the other, each demand fits beside everything placed before it, by an independent count."""
    packing = pack(demands, nodes)

    now = {node.name: node for node in nodes}
    for item in packing.placed:
        node, demand = now[item.node], item.demand
        assert can_host(demand, node)
        bound = BoundPod(id=demand.id, uid=demand.uid, request=demand.request, slices=item.slices)
        now[item.node] = replace(node, pods=(*node.pods, bound))


@given(unique_demand_lists, node_lists)
def test_slices_are_what_the_request_takes_of_distinct_cards(demands: list[Demand], nodes: list[Node]) -> None:
    """A pod gets one slice on each of as many cards of its node as it asks for, of the size that the request means there."""
    cards = {node.name: {gpu.id: gpu for gpu in node.gpus} for node in nodes}

    for item in pack(demands, nodes).placed:
        request = item.demand.request
        assert request.gpu_count == len({part.gpu_id for part in item.slices}) == len(item.slices)
        assert [request.slice_of(cards[item.node][part.gpu_id]) for part in item.slices] == list(item.slices)


@given(unique_demand_lists, node_lists)
def test_a_whole_card_is_shared_with_nobody(demands: list[Demand], nodes: list[Node]) -> None:
    """Not even a slice of nothing lies beside a pod that holds its cards whole."""
    packing = pack(demands, nodes)

    for node in after(packing, nodes):
        mine = [part.gpu_id for item in packing.placed if item.node == node.name for part in item.slices]
        holders = Counter(part.gpu_id for pod in node.pods for part in pod.slices)
        whole = {part.gpu_id for pod in node.pods if pod.request.whole for part in pod.slices}
        assert all(holders[gpu_id] == 1 for gpu_id in whole & set(mine))


@given(unique_demand_lists, node_lists)
def test_what_is_left_fits_nowhere(demands: list[Demand], nodes: list[Node]) -> None:
    """No demand is refused while a node could still take it."""
    packing = pack(demands, nodes)

    nodes = after(packing, nodes)
    left = [item.demand for item in packing.left if not item.demand.blocked]
    assert [] == [demand for demand in left if any(can_host(demand, node) for node in nodes)]


@given(demand_lists, node_lists)
def test_every_demand_left_has_reasons(demands: list[Demand], nodes: list[Node]) -> None:
    """Nobody is left without a word, and every node of the pool that refuses is counted."""
    of_pool = sum(node.pool == "inference" for node in nodes)
    placed = set()
    packing = pack(demands, nodes)

    for item in packing.left:
        assert item.reasons
        assert all(item.reasons)
        placed.add(item.demand.uid)
        counted = [int(reason.split()[0]) for reason in item.reasons if reason[0].isdigit()]
        if counted:
            assert of_pool == sum(counted)
            assert sorted(counted, reverse=True) == counted


@given(unique_demand_lists, node_lists, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(demands: list[Demand], nodes: list[Node], random: Random) -> None:
    """Shuffled demands and nodes give the same packing, bit for bit."""
    shuffled_demands, shuffled_nodes = random.sample(demands, len(demands)), random.sample(nodes, len(nodes))

    assert pack(demands, nodes) == pack(shuffled_demands, shuffled_nodes)


@given(unique_demand_lists, node_lists, st.data())
def test_a_pinned_demand_goes_to_its_node_if_it_fits(demands: list[Demand], nodes: list[Node], data: st.DataObject) -> None:
    """A pin comes before every priority."""
    pairs = [(demand, node) for demand in demands for node in nodes if not demand.blocked and can_host(demand, node)]
    if not pairs:
        return
    demand, node = data.draw(st.sampled_from(pairs))

    placed = {item.demand.uid: item.node for item in pack(demands, nodes, pinned={demand.uid: node.name}).placed}

    assert node.name == placed[demand.uid]


@given(unique_demand_lists, node_lists)
def test_a_pin_that_cannot_hold_changes_nothing(demands: list[Demand], nodes: list[Node]) -> None:
    """A demand pinned to a node that is gone competes like any other."""
    assert pack(demands, nodes) == pack(demands, nodes, pinned={demand.uid: "gone" for demand in demands})


@given(st.from_type(Request), node_lists, st.integers(0, 20))
def test_equal_demands_on_single_cards_fill_every_card(request: Request, nodes: list[Node], number: int) -> None:
    """Of demands of one size as many are placed as a count by card and node allows."""
    request = replace(request, gpu_count=1, whole=False)
    demands = [a_demand(str(index), request) for index in range(number)]

    room = 0
    for node in nodes:
        probe = node
        while room < number and can_host(demands[0], probe):
            room += 1
            probe = after(pack([a_demand(f"probe-{room}", request)], [probe]), [probe])[0]

    assert min(room, number) == len(pack(demands, nodes).placed)


@given(unique_demand_lists, node_lists)
def test_packing_again_what_was_packed_places_no_more(demands: list[Demand], nodes: list[Node]) -> None:
    """With the placed demands bound, the rest is still left."""
    packing = pack(demands, nodes)
    rest = [item.demand for item in packing.left]

    assert () == pack(rest, after(packing, nodes)).placed


def test_priority_comes_before_age_and_age_before_size() -> None:
    """One place and four that want it: the highest priority, then the oldest, then the largest gets it."""
    base = a_demand("a", a_share(9_000))
    ranked = [
        replace(base, id="default/z", uid="z", priority=1, created_s=9),
        replace(base, id="default/y", uid="y", created_s=1),
        replace(base, id="default/x", uid="x", created_s=2, request=a_share(10_000)),
        replace(base, id="default/w", uid="w", created_s=2),
    ]

    for index in range(len(ranked)):
        assert [ranked[index]] == [item.demand for item in pack(ranked[index:], [a_node("a")]).placed]


@pytest.mark.parametrize("pinned", [{}, {"a": "n"}])
def test_a_slice_goes_to_a_card_that_is_in_use(pinned: dict[str, str]) -> None:
    """Small slices share a card, so that whole cards stay for those who need them; pinned ones do so too."""
    held = BoundPod(id="x/y", uid="9", request=a_share(8_192), slices=(GpuSlice(gpu_id="1", vram_mib=8_192, compute_milli=0),))
    demands = [a_demand("a", a_share(8_192)), a_demand("b", Request(gpu_count=1, whole=True))]

    packing = pack(demands, [a_node("n", cards=2, pods=(held,))], pinned=pinned)

    assert {"a": ["1"], "b": ["0"]} == {item.demand.uid: [part.gpu_id for part in item.slices] for item in packing.placed}


def test_of_equal_nodes_the_one_in_use_is_taken() -> None:
    """An empty node stays empty, so that it can be given back."""
    web = BoundPod(id="x/web", uid="9", request=Request(cpu_milli=100))
    daemon = BoundPod(id="x/proxy", uid="8", request=Request(cpu_milli=100), daemon=True)

    packing = pack(
        [a_demand("a", Request(cpu_milli=100))], [a_node("a", cards=0, pods=(daemon,)), a_node("b", cards=0, pods=(web,))]
    )

    assert "b" == packing.placed[0].node


@pytest.mark.parametrize("names", ["abc", "cba", "bca"])
def test_of_equal_nodes_the_first_by_name_is_taken(names: str) -> None:
    """In whatever order they are listed."""
    packing = pack([a_demand("p", a_share(1))], [a_node(name) for name in names])

    assert ["a"] == [item.node for item in packing.placed]


def test_a_card_booked_beyond_its_size_has_nothing_free_and_no_debt() -> None:
    """Records that contradict the node leave a card with nothing: a slice of nothing fits, the smallest other does not."""
    held = BoundPod(id="x/y", uid="9", request=a_share(1), slices=(GpuSlice(gpu_id="0", vram_mib=20_000, compute_milli=2_000),))
    node = a_node("n", pods=(held,))

    assert 1 == len(pack([a_demand("a", a_share(0))], [node]).placed)
    assert () == pack([a_demand("a", a_share(1))], [node]).placed


def test_a_card_with_a_slice_of_nothing_is_not_empty() -> None:
    """A pod that wants the whole card does not get it, whether the other pod was there or comes in the same packing."""
    nothing, whole = a_demand("a", a_share(0)), replace(a_demand("b", Request(gpu_count=1, whole=True)), created_s=1)
    bound = BoundPod(id="x/y", uid="9", request=a_share(0), slices=(GpuSlice(gpu_id="0", vram_mib=0, compute_milli=0),))

    assert [nothing] == [item.demand for item in pack([nothing, whole], [a_node("n")]).placed]
    assert () == pack([whole], [a_node("n", pods=(bound,))]).placed


def test_a_pod_without_gpu_leaves_the_cpu_that_cards_need() -> None:
    """Where the typical pod needs much CPU beside its card, pods without GPU go to a node that has no free card."""
    users = [a_demand(f"gpu-{index}", Request(gpu_count=1, whole=True, cpu_milli=8_000)) for index in range(2)]
    web = replace(a_demand("web", Request(cpu_milli=8_000)), priority=1)
    nodes = [a_node("a", cards=2, cpu_milli=16_000), a_node("b", cards=0, cpu_milli=16_000)]

    packing = pack([*users, web], nodes)

    assert {"web": "b", "gpu-0": "a", "gpu-1": "a"} == {item.demand.uid: item.node for item in packing.placed}


def test_scarce_compute_counts_like_scarce_vram() -> None:
    """With VRAM to spare everywhere, slices are fitted together by their compute."""
    by_compute = Request(gpu_count=1, vram_mib=100, compute_milli=700)
    rest = Request(gpu_count=1, vram_mib=100, compute_milli=300)
    demands = [a_demand(f"{kind}-{index}", request) for index in range(2) for kind, request in (("a", by_compute), ("b", rest))]

    packing = pack(demands, [a_node("n", cards=2)])

    assert () == packing.left


def test_a_blocked_demand_is_left_with_its_reason() -> None:
    """It is not placed even where it fits."""
    blocked = replace(a_demand("a", Request()), blocked="spec.volumes[0] is bound to another zone")

    assert [("spec.volumes[0] is bound to another zone",)] == [item.reasons for item in pack([blocked], [a_node("n")]).left]


def test_the_second_demand_of_one_uid_is_left() -> None:
    """A pod that is listed twice gets one place."""
    demand = a_demand("a", Request())

    packing = pack([demand, demand], [a_node("n")])

    assert 1 == len(packing.placed)
    assert ("another demand has the same uid a",) == packing.left[0].reasons


def test_two_nodes_of_one_name_are_refused() -> None:
    """They could not be told apart, and one would be filled twice."""
    with pytest.raises(BadInputError, match=r"node n: metadata\.name is 'n'; want a unique name"):
        pack([], [a_node("n"), a_node("n")])
