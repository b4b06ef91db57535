"""What a reflector must survive: one test for each fault, over whatever server a subclass puts behind the proxy."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tfscale.errors import ForbiddenError, NotFoundError
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import NODES, Json, Kube, WatchEvent
from tfscale.kube.reflector import Pace, Reflector
from tfscale.testing import FaultProxy
from tfscale.testing.faults import Answer, Cut, Delay, Fault, Lines, Rule, Stall

HUGE_BYTES = 11 * 2**20
QUICK = Pace(watch_s=(290, 580), silence_s=1.0, pause_s=(0.02, 0.1), refused_s=0.2)
NEVER_SILENT = Pace(watch_s=(290, 580), silence_s=60.0, pause_s=(0.02, 0.1), refused_s=0.2)


@dataclass
class World:
    """A server, the proxy before it, and reflectors of nodes behind both."""

    direct: Kube
    """Writes past the proxy."""
    proxy: FaultProxy
    folder: Path
    prefix: str = "n"
    """Of the names of the nodes; a server may have others."""
    told: list[WatchEvent] = field(default_factory=list)
    clients: list[KubeClient] = field(default_factory=list)

    def client(self, *, silence_s: float = 1.0) -> KubeClient:
        """Return a client that goes through the proxy and does not wait for long."""
        timing = Timing(call_s=5, read_s=1, watch_silence_s=silence_s, calls_per_s=1_000)
        client = KubeClient.connect(self.proxy.write_kubeconfig(self.folder / "faulty"), timing=timing)
        self.clients.append(client)
        return client

    @contextmanager
    def reflector(self, pace: Pace = NEVER_SILENT) -> Iterator[Reflector]:
        """Give a reflector of the nodes that has its first list, and whose first watch has reached the proxy."""
        before = self.proxy.calls["WATCH"]
        reflector = Reflector(self.client(silence_s=pace.silence_s), NODES, pace=pace, listener=self.told.append)
        with reflector:
            eventually(lambda: self.equal(reflector) and self.proxy.calls["WATCH"] > before)
            yield reflector

    def create(self, suffix: str) -> Json:
        """Create a node past the proxy."""
        return self.direct.create(NODES, {"metadata": {"name": f"{self.prefix}-{suffix}"}})

    def label(self, suffix: str, value: str) -> Json:
        """Change a node past the proxy."""
        return self.direct.patch(NODES, f"{self.prefix}-{suffix}", {"metadata": {"labels": {"value": value}}})

    def delete(self, suffix: str) -> None:
        """Delete a node past the proxy."""
        self.direct.delete(NODES, f"{self.prefix}-{suffix}")

    def equal(self, reflector: Reflector) -> bool:
        """Return whether the store has exactly what a fresh list has."""
        return versions(self.direct.list(NODES).items) == versions(reflector.store.listing().items)

    def told_types(self) -> list[tuple[str, str]]:
        """Return what the listener was told, in order."""
        return [(event.type, event.object["metadata"]["name"].removeprefix(f"{self.prefix}-")) for event in self.told]


def versions(objects: list[Json]) -> dict[str, str]:
    """Return the resource versions by name."""
    return {obj["metadata"]["name"]: obj["metadata"]["resourceVersion"] for obj in objects}


def eventually(holds: Callable[[], object], within_s: float = 10) -> None:
    """Wait until something holds."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come to hold in time"
        time.sleep(0.01)


class ReflectorFaults:
    """The table of faults. A subclass gives the `world`."""

    def test_it_follows_what_happens(self, world: World) -> None:
        """Everything that is created, changed and deleted shows, and the listener is told in order."""
        world.create("a")
        with world.reflector() as reflector:
            world.create("b")
            world.label("a", "1")
            world.delete("b")
            eventually(lambda: len(world.told) == 4)
            eventually(lambda: world.equal(reflector))

        assert [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")] == world.told_types()

    @pytest.mark.parametrize("fault", [Answer(410), Lines.error_event(410), Lines.error_event(410, after=1)], ids=str)
    def test_a_version_that_is_too_old_leads_to_a_new_list(self, world: World, fault: Fault) -> None:
        """What was deleted in between is told as deleted; what was known serves until the list is there."""
        world.create("a")
        world.create("b")
        with world.reflector() as reflector:
            world.proxy.add(
                Rule(fault=fault, watch=True), Rule(fault=Answer(500), watch=True), Rule(fault=Delay(0.3), watch=False)
            )
            world.proxy.hang_up()
            world.delete("a")
            world.label("b", "1")
            assert 2 == len(reflector.store.listing().items)
            eventually(lambda: world.equal(reflector))
            eventually(lambda: ("DELETED", "a") in world.told_types())

        assert ("MODIFIED", "b") in world.told_types()
        assert 1 == world.told_types().count(("DELETED", "a"))

    def test_a_list_whose_pages_expire_starts_from_the_beginning(self, world: World) -> None:
        """Once more, as one page."""
        with ThreadPoolExecutor(4) as several:
            list(several.map(lambda index: world.create(f"{index}"), range(501)))
        world.proxy.add(Rule(fault=Answer(410), query="continue="))
        with world.reflector() as reflector:
            count = len(reflector.store.listing().items)

        assert 501 <= count
        assert 1 == world.proxy.injected["answer"]

    @pytest.mark.parametrize(("code", "watch"), [(429, True), (503, True), (429, False)])
    def test_a_server_that_asks_to_wait_is_given_its_time(self, world: World, code: int, *, watch: bool) -> None:
        """As long as it says, also when it says so to a list."""
        world.create("a")
        with world.reflector(Pace(silence_s=60, pause_s=(0.02, 0.1), refused_s=60)) as reflector:
            faults = [] if watch else [Rule(fault=Answer(410), watch=True)]
            world.proxy.add(*faults, Rule(fault=Answer(code, {"Retry-After": "1"}), watch=watch))
            began_s = time.monotonic()
            world.proxy.hang_up()
            world.label("a", "1")
            eventually(lambda: world.equal(reflector))

        assert 1 <= time.monotonic() - began_s < 4

    def test_a_server_that_asks_for_hours_is_not_believed(self, world: World) -> None:
        """A wrong header must not blind us."""
        world.create("a")
        with world.reflector(QUICK) as reflector:
            world.proxy.add(Rule(fault=Answer(429, {"Retry-After": "36000"}), watch=True))
            world.proxy.hang_up()
            world.label("a", "1")
            eventually(lambda: world.equal(reflector), within_s=3)

    @pytest.mark.parametrize("code", [401, 403])
    def test_a_refusal_is_told_once_and_tried_again(self, world: World, code: int, caplog: pytest.LogCaptureFixture) -> None:
        """What was known stays, with the reason why nothing comes in."""
        caplog.set_level(logging.INFO)
        world.create("a")
        with world.reflector() as reflector:
            world.proxy.add(Rule(fault=Answer(code), times=None))
            world.proxy.hang_up()
            eventually(lambda: world.proxy.injected["answer"] > 3)
            assert isinstance(reflector.store.failure, ForbiddenError)
            assert 1 <= len(reflector.store.listing().items)
            world.proxy.heal()
            world.label("a", "1")
            eventually(lambda: world.equal(reflector))
            eventually(lambda: reflector.store.failure is None)

        assert 2 == len([record for record in caplog.records if record.name == "tfscale.kube.reflector"])

    def test_a_kind_that_is_not_served_is_found_when_it_is(self, world: World) -> None:
        """And forgotten when it is no longer: what does not exist has no objects."""
        world.create("a")
        with world.reflector() as reflector:
            world.proxy.add(Rule(fault=Answer(404), times=None))
            world.proxy.hang_up()
            eventually(lambda: not reflector.store.version)
            assert isinstance(reflector.store.failure, NotFoundError)
            assert [] == reflector.store.listing().items
            world.proxy.heal()
            eventually(lambda: world.equal(reflector))

    @pytest.mark.parametrize("after_bytes", [0, 1, 300])
    def test_connections_that_break_are_made_again(self, world: World, after_bytes: int) -> None:
        """At any byte of a list or of a watch."""
        for name in "abc":
            world.create(name)
        with world.reflector() as reflector:
            world.proxy.add(Rule(fault=Cut(after_bytes), watch=True, times=2), Rule(fault=Answer(410), watch=True))
            world.proxy.add(Rule(fault=Cut(after_bytes), watch=False, times=2))
            world.proxy.hang_up()
            count = itertools.count()
            # Each label makes some bytes of a watch.
            eventually(lambda: world.label("a", str(next(count))) and world.proxy.injected["cut"] == 4)
            eventually(lambda: world.equal(reflector))

    @pytest.mark.parametrize("fault", [Cut(), Answer(410)], ids=str)
    def test_a_server_that_ends_every_watch_at_once_is_not_called_in_a_hot_loop(self, world: World, fault: Fault) -> None:
        """Each failure makes the pause longer, up to its limit, although lists succeed in between."""
        with world.reflector(Pace(silence_s=60, pause_s=(0.05, 1))):
            world.proxy.add(Rule(fault=fault, watch=True, times=None))
            world.proxy.hang_up()
            before = world.proxy.calls.copy()
            time.sleep(1)

        assert 2 <= world.proxy.calls["WATCH"] - before["WATCH"] <= 10
        assert world.proxy.calls["GET"] - before["GET"] <= 10

    def test_a_half_open_connection_is_found_out(self, world: World) -> None:
        """Nothing comes and nothing breaks: then only a new list tells."""
        world.create("a")
        with world.reflector(QUICK) as reflector:
            world.proxy.add(Rule(fault=Stall(60), watch=True))
            world.proxy.hang_up()
            eventually(lambda: world.proxy.injected["stall"])
            world.label("a", "1")
            eventually(lambda: world.equal(reflector), within_s=5)

    @pytest.mark.parametrize("fault", [Lines.twice(), Lines.again()], ids=str)
    def test_it_never_goes_back(self, world: World, fault: Fault) -> None:
        """Events that come twice, or again after newer ones, change nothing and are not told."""
        with world.reflector() as reflector:
            world.proxy.add(Rule(fault=fault, watch=True, times=None))
            world.proxy.hang_up()
            eventually(world.proxy.injected.total)
            world.create("a")
            world.label("a", "1")
            world.delete("a")
            world.create("a")
            world.label("a", "2")
            eventually(lambda: world.equal(reflector) and len(world.told_types()) >= 5)

        own = [kind for kind, name in world.told_types() if name == "a"]
        assert ["ADDED", "MODIFIED", "DELETED", "ADDED", "MODIFIED"] == own

    @pytest.mark.parametrize(
        "fault", [Lines.garbled(), Lines.garbled(after=1), Lines.half_a_letter(), Lines.endless(HUGE_BYTES)], ids=str
    )
    def test_nonsense_on_a_watch_is_read_again(self, world: World, fault: Fault) -> None:
        """Broken JSON, half a letter, a line beyond all bounds."""
        world.create("a")
        with world.reflector() as reflector:
            world.proxy.add(Rule(fault=fault, watch=True))
            world.proxy.hang_up()
            for index in range(3):
                world.label("a", str(index))
                time.sleep(0.02)
            eventually(lambda: world.equal(reflector) and world.proxy.injected.total())

    def test_nonsense_in_a_list_is_read_again(self, world: World) -> None:
        """The list of a proxy that broke is no list."""
        world.create("a")
        world.proxy.add(Rule(fault=Lines.garbled(), watch=False, times=2))
        with world.reflector() as reflector:
            assert world.equal(reflector)

    def test_lists_never_run_side_by_side(self, world: World) -> None:
        """Those who want a fresh list share the next one that begins."""
        with world.reflector() as reflector, ThreadPoolExecutor(8) as several:
            world.proxy.add(Rule(fault=Delay(0.2), watch=False, times=None))
            before = world.proxy.calls["GET"]
            list(several.map(lambda _: reflector.relist(), range(8)))

        assert world.proxy.calls["GET"] - before <= 3

    @pytest.mark.parametrize("watch", [True, False])
    def test_it_stops_at_once_although_a_call_hangs(self, world: World, *, watch: bool) -> None:
        """And leaves no thread behind."""
        with world.reflector() as reflector:
            world.proxy.add(*([] if watch else [Rule(fault=Answer(410), watch=True)]), Rule(fault=Stall(60), watch=watch))
            world.proxy.hang_up()
            eventually(lambda: world.proxy.injected["stall"])
            began_s = time.monotonic()
            reflector.stop()
            took_s = time.monotonic() - began_s

        assert took_s < 0.5
        assert not [one.name for one in threading.enumerate() if one.name == "reflector of nodes"]
