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


def of_packer(packer: Packer) -> tuple[Hosting, list[int]]:
    """Return what the packer keeps, and the rows of its nodes."""
    return packer._hosting, sorted(packer._rows.values())  # noqa: SLF001 - what is kept is held against what is made anew


def kept(hosting: Hosting, rows: Sequence[int]) -> dict[str, Any]:
    """Return by node what it can host, whatever the numbers of groups and makeups are."""
    alike, makeup = hosting.alike, hosting.makeup[rows]
    groups = alike.of[rows]
    by_group = {name: getattr(alike, name)[groups] for name in ("traits", "free", "hosts", "useless", "cpu_milli", "memory_mib")}
    return {**by_group, "supply": hosting.supply[makeup], "prices": hosting.prices()[makeup]}


def class_of(node: Node) -> str:
    """Return how a node's class is called: its type, its cards."""
    cards = [f"{count} x {model}" for model, count in sorted(Counter(gpu.model for gpu in node.gpus).items())]
    return ", ".join([*filter(None, [node.labels.get(INSTANCE_TYPE)]), *cards]) or "no GPU"


class PackerOverTime(RuleBasedStateMachine):
    """Two packers and a dictionary of nodes see the same pods and nodes come and go."""

    @initialize(nodes=st.lists(st.from_type(Node), max_size=4, unique_by=lambda node: node.name), data=st.data())
    def start(self, nodes: list[Node], data: st.DataObject) -> None:
        """Begin with some nodes, and pods that are typical."""
        self.uids = map(str, itertools.count(5_000))
        given = [ANCHOR, *map(self.with_new_uids, nodes)]
        self.model = {node.name: node for node in given}
        self.typical = typical_of(data.draw(st.lists(st.from_type(Request), max_size=4)))
        self.packers = [Packer(given, typical=self.typical) for _ in range(2)]

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

    @rule(demand=st.from_type(Demand), times=st.integers(1, 3))
    def place(self, demand: Demand, times: int) -> None:
        """A demand goes where it fits, and is refused where it fits nowhere."""
        for _ in range(times):
            asked = replace(demand, uid=next(self.uids))
            fitting = [] if asked.blocked else [name for name, node in self.model.items() if can_host(asked, node)]
            placed = self.both("place", asked)
            assert bool(fitting) == (placed is not None)
            if placed:
                self.note(placed, asked)

    @rule(demand=st.from_type(Demand), data=st.data())
    def pin(self, demand: Demand, data: st.DataObject) -> None:
        """A demand goes to the node that is named, or nowhere."""
        asked, name = replace(demand, uid=next(self.uids)), data.draw(st.sampled_from([*self.model, "gone"]))
        placed = self.both("pin", asked, name)
        fits = name in self.model and not asked.blocked and can_host(asked, self.model[name])
        assert fits == (placed is not None)
        if placed:
            assert name == placed.node
            self.note(placed, asked)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """A pod leaves, whoever placed it; its node has the room again."""
        holders = {pod.uid: node for node in self.model.values() for pod in node.pods}
        uid = data.draw(st.sampled_from([*holders, "nobody"]))
        assert (uid in holders) == self.both("remove", uid)
        if uid in holders:
            node = holders[uid]
            self.model[node.name] = replace(node, pods=tuple(pod for pod in node.pods if pod.uid != uid))

    @rule(node=st.from_type(Node))
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

    @rule(demand=st.from_type(Demand))
    def explain(self, demand: Demand) -> None:
        """Each class of nodes in which one refuses has its line, and each node that refuses is counted once."""
        asked = replace(demand, blocked="")
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
        anew = kept(Hosting(Capacity(vacancies), self.typical, closed), range(len(nodes)))
        for name, values in kept(*of_packer(self.packers[0])).items():
            np.testing.assert_allclose(values, anew[name], rtol=1e-4, atol=1e-3, err_msg=name)


def _only(pod: BoundPod, gpu_id: str) -> BoundPod:
    """Return a pod as one card sees it."""
    return replace(pod, slices=tuple(part for part in pod.slices if part.gpu_id == gpu_id))


def _by_name(nodes: Iterable[Node]) -> dict[str, Node]:
    ordered = (replace(node, pods=tuple(sorted(node.pods, key=lambda pod: pod.uid))) for node in nodes)
    return {node.name: node for node in ordered}


TestPackerOverTime = PackerOverTime.TestCase
TestPackerOverTime.settings = settings(max_examples=60, stateful_step_count=20)
