"""The packer over time: what must hold whatever comes and goes, against a simple model that counts for itself."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.slicing.test_pack import can_host
from tfscale.errors import BadInputError
from tfscale.model import INSTANCE_TYPE, BoundPod, Demand, Gpu, Node, Request
from tfscale.slicing import Packer, Placed, typical_of
from tfscale.slicing.capacity import Capacity
from tfscale.slicing.hosting import Hosting
from tfscale.slicing.vacancy import Vacancy

_CARDS = (Gpu(id="0", model="T4", vram_mib=16_384, mtflops=65_000), Gpu(id="1", model="L4", vram_mib=22_888, mtflops=121_000))
ANCHOR = Node(name="anchor", pool="training", gpus=_CARDS, cpu_milli=1_000, memory_mib=1_024)
"""Is always there, so that every kind of card is."""


def of_packer(packer: Packer) -> dict[str, Any]:
    """Return what the packer keeps of its nodes."""
    rows = sorted(packer._rows.values())  # noqa: SLF001 - what is kept is held against what is made anew
    return kept(packer._capacity, packer._hosting, rows)  # noqa: SLF001 - the same


def kept(capacity: Capacity, hosting: Hosting, rows: Sequence[int]) -> dict[str, Any]:
    """Return by node what is free and what it can host, whatever the numbers of groups, kinds and makeups are."""
    alike, makeup = hosting.alike, hosting.makeup[rows]
    free = {name: getattr(capacity, name)[rows] for name in ("pods", "used", "holders", "vram_mib", "compute_milli")}
    groups = alike.of[rows]
    by_group = {name: getattr(alike, name)[groups] for name in ("traits", "free", "hosts", "useless", "cpu_milli", "memory_mib")}
    return {**free, **by_group, "supply": hosting.supply[makeup], "prices": hosting.prices()[makeup]}


def class_of(node: Node) -> str:
    """Return how a node's class is called: its type, its cards."""
    cards = [f"{count} x {model}" for model, count in sorted(Counter(gpu.model for gpu in node.gpus).items())]
    return ", ".join([*filter(None, [node.labels.get(INSTANCE_TYPE)]), *cards]) or "no GPU"


@st.composite
def _nodes(draw: st.DrawFn) -> Node:
    """Draw a node, most often one with room that takes everybody."""
    node = draw(st.from_type(Node))
    if not draw(st.integers(0, 4)):
        return node
    kinds = draw(st.sampled_from([(0,), (0, 0), (0, 0), (0, 1), (1, 1, 1)]))
    gpus = tuple(replace(_CARDS[kind], id=str(at)) for at, kind in enumerate(kinds))
    return Node(name=node.name, pool="inference", gpus=gpus, cpu_milli=8_000, memory_mib=16_384, pods_max=8)


@st.composite
def _requests(draw: st.DrawFn) -> Request:
    """Draw a request, most often one that fits on an empty card, so that several lie on one."""
    request = draw(st.from_type(Request))
    if not draw(st.integers(0, 4)):
        return request
    vram_mib, gpu_count = draw(st.sampled_from([0, 3_000, 4_096, 8_192])), draw(st.sampled_from([1, 1, 2]))
    return Request(cpu_milli=500, gpu_count=gpu_count, vram_mib=vram_mib, compute_milli=draw(st.sampled_from([0, 250, 400])))


class PackerOverTime(RuleBasedStateMachine):
    """Two packers and a dictionary of nodes see the same pods and nodes come and go."""

    @initialize(
        nodes=st.lists(_nodes(), min_size=1, max_size=5, unique_by=lambda node: node.name),
        requests=st.lists(_requests(), min_size=1, max_size=4),
        unexpected=_requests(),
    )
    def start(self, nodes: list[Node], requests: list[Request], unexpected: Request) -> None:
        """Begin with some nodes, and pods that are typical."""
        self.uids = map(str, itertools.count(5_000))
        given = [ANCHOR, *map(self.with_new_uids, nodes)]
        self.model = {node.name: node for node in given}
        self.typical, self.asked = typical_of(requests), [*requests, unexpected]
        self.packers = [Packer(given, typical=self.typical) for _ in range(2)]

    def a_demand(self, data: st.DataObject) -> Demand:
        """Draw a demand, most often for what was asked before and without constraints."""
        request = data.draw(st.sampled_from(self.asked))
        if data.draw(st.integers(0, 4)):
            return Demand(id="x/pod", uid=next(self.uids), pool="inference", request=request)
        return replace(data.draw(st.from_type(Demand)), uid=next(self.uids))

    def with_new_uids(self, node: Node) -> Node:
        """Return the node with pods that are nowhere else."""
        return replace(node, pods=tuple(replace(pod, uid=next(self.uids)) for pod in node.pods))

    def both(self, verb: str, *args: object) -> Any:  # noqa: ANN401 - whatever the verb gives
        """Ask both packers, which agree."""
        first, second = (getattr(packer, verb)(*args) for packer in self.packers)
        assert first == second
        return first

    def note(self, placed: Placed, demand: Demand) -> None:
        """Hold a placement against the model, and take it over."""
        node = self.model[placed.node]
        cards = {gpu.id: gpu for gpu in node.gpus}
        assert demand == placed.demand
        assert can_host(demand, node)
        assert demand.request.gpu_count == len({part.gpu_id for part in placed.slices}) == len(placed.slices)
        assert [demand.request.slice_of(cards[part.gpu_id]) for part in placed.slices] == list(placed.slices)
        for part in placed.slices:
            alone = replace(node, gpus=(cards[part.gpu_id],), pods=tuple(_only(pod, part.gpu_id) for pod in node.pods))
            assert can_host(replace(demand, request=replace(demand.request, gpu_count=1)), alone)
        self.model[node.name] = replace(node, pods=(*node.pods, placed.pod()))

    @rule(data=st.data(), times=st.integers(1, 3))
    def place(self, data: st.DataObject, times: int) -> None:
        """A demand goes where it fits, and is refused where it fits nowhere."""
        for _ in range(times):
            asked = self.a_demand(data)
            fitting = [] if asked.blocked else [name for name, node in self.model.items() if can_host(asked, node)]
            placed = self.both("place", asked)
            assert bool(fitting) == (placed is not None)
            if placed:
                self.note(placed, asked)

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        """A demand goes to the node that is named, or nowhere."""
        asked, name = self.a_demand(data), data.draw(st.sampled_from([*self.model]))
        placed = self.both("pin", asked, name)
        fits = name in self.model and not asked.blocked and can_host(asked, self.model[name])
        assert fits == (placed is not None)
        if placed:
            assert name == placed.node
            self.note(placed, asked)

    @precondition(lambda self: any(node.pods for node in self.model.values()))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """A pod leaves, whoever placed it; its node has the room again."""
        holders = {pod.uid: node for node in self.model.values() for pod in node.pods}
        uid = data.draw(st.sampled_from([*holders]))
        assert self.both("remove", uid)
        node = holders[uid]
        self.model[node.name] = replace(node, pods=tuple(pod for pod in node.pods if pod.uid != uid))

    @rule(node=_nodes())
    def add(self, node: Node) -> None:
        """A node comes, or is refused where there is one of its name."""
        new = self.with_new_uids(node)
        if node.name in self.model:
            with pytest.raises(BadInputError, match="want a unique name"):
                self.both("add", new)
        else:
            self.both("add", new)
            self.model[new.name] = new

    @precondition(lambda self: len(self.model) > 1)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """A node goes with all of its pods."""
        name = data.draw(st.sampled_from([name for name in self.model if name != ANCHOR.name]))
        self.both("drop", name)
        del self.model[name]

    @rule(data=st.data(), why=st.sampled_from(["cordoned", "", ""]))
    def fence(self, data: st.DataObject, why: str) -> None:
        """A node takes nobody, or everybody again."""
        name = data.draw(st.sampled_from([*self.model]))
        self.both("fence", name, why)
        self.model[name] = replace(self.model[name], fenced=why)

    @rule(data=st.data())
    def explain(self, data: st.DataObject) -> None:
        """Each class of nodes in which one refuses has its line, and each node that refuses is counted once."""
        asked = replace(self.a_demand(data), blocked="")
        refusing = [node for node in self.model.values() if node.pool == asked.pool and not can_host(asked, node)]
        lines = self.both("explain", asked)
        if not refusing:
            return
        told: Counter[str] = Counter()
        for line in lines:
            name, count, _ = line.split(": ", 2)
            told[name] += int(count.split()[0])
        assert Counter(map(class_of, refusing)) == told

    @invariant()
    def the_snapshot_is_the_model(self) -> None:
        """Node by node, pod by pod."""
        assert _by_name(self.model.values()) == _by_name(self.both("snapshot"))

    @invariant()
    def what_is_kept_is_what_would_be_made_anew(self) -> None:
        """Nothing drifts: what nodes can host, what there is in all, and what it costs."""
        nodes = self.packers[0].snapshot()
        vacancies = [Vacancy(node) for node in nodes]
        closed = np.array([not node.ready or bool(node.fenced or Vacancy(node).stray) for node in nodes])
        capacity = Capacity(vacancies)
        anew = kept(capacity, Hosting(capacity, self.typical, closed), range(len(nodes)))
        for name, values in of_packer(self.packers[0]).items():
            # A node that is gone may have had more cards than all others.
            same = values[:, : anew[name].shape[1]] if values.ndim > 1 else values
            np.testing.assert_allclose(same, anew[name], rtol=1e-4, atol=1e-3, err_msg=name)


def _only(pod: BoundPod, gpu_id: str) -> BoundPod:
    """Return a pod as one card sees it."""
    return replace(pod, slices=tuple(part for part in pod.slices if part.gpu_id == gpu_id))


def _by_name(nodes: Iterable[Node]) -> dict[str, Node]:
    ordered = (replace(node, pods=tuple(sorted(node.pods, key=lambda pod: pod.uid))) for node in nodes)
    return {node.name: node for node in ordered}


TestPackerOverTime = PackerOverTime.TestCase
TestPackerOverTime.settings = settings(max_examples=100, stateful_step_count=25)
