"""Two real processes on a real API server: whatever happens to them, never two write. The judge is the server's audit log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import pytest

from tests.cluster.conftest import define, eventually
from tests.cluster.control_plane import ControlPlane
from tfscale.cli import Exit
from tfscale.errors import ClusterError
from tfscale.kube.client import KubeClient
from tfscale.kube.leader import Elector
from tfscale.kube.port import GPU_POOLS, LEASES, NODES, PODS, Json

ROOT = Path(__file__).parents[2]
USERS = ("ann", "bob")
PAUSE_S = int(os.environ.get("TFSCALE_PAUSE_S", "25"))
"""How long a leader stands still. A minute shows nothing that 25 s do not; it is what was promised."""
OUTAGE_S = 20
TAKE_OVER_S = 20
GRACEFUL_S = 3
NODE: Json = {
    "metadata": {"name": "rack-1", "labels": {"tfscale.io/pool": "floor"}},
    "status": {
        "allocatable": {"cpu": "1000", "memory": "1000Gi", "pods": "100000"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Test"}],
    },
}
POOL: Json = {"metadata": {"name": "floor"}, "spec": {"mode": "static", "default": True}}
LEASE: Json = {
    "metadata": {"name": "tfscale"},
    "spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 40},
}
"""As a leader that has stopped leaves it."""


class Stage:
    """A cluster in which pods keep coming, and one process for each user that places them while it leads."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.kube = KubeClient.connect(kubeconfig=str(plane.kubeconfig))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._over = threading.Event()
        self._feeder = threading.Thread(target=self._feed)
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        define(self.kube, *sorted((ROOT / "tfscale" / "crds").glob("*.yaml")))
        for kind, obj in ((GPU_POOLS, POOL), (NODES, NODE)):
            self.kube.create(kind, obj)
        self.kube.create(LEASES, LEASE, namespace="default")
        self._feeder.start()
        self._undo.callback(self._feeder.join)
        self._undo.callback(self._over.set)
        for user in USERS:
            self.start(user)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self._undo.close()

    def start(self, user: str, *more: str) -> None:
        """Start the process of a user."""
        flags = ["--kubeconfig", str(self.plane.kubeconfig_of(user)), "--interval", "1", *more]
        with (self.plane.folder / f"{user}.log").open("ab") as out:
            command = [sys.executable, "-m", "tfscale", "reconcile", *flags]
            self.processes[user] = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)  # noqa: S603 - our own interpreter

    def send(self, user: str, number: signal.Signals) -> float:
        """Send a signal to the process of a user; return when."""
        self.processes[user].send_signal(number)
        return time.time()

    def writes(self, since_s: float = 0) -> list[tuple[float, str]]:
        """Return when and by whom something was written that was received after a time, Leases aside."""
        return [(at_s, user) for at_s, user, resource in self._events() if resource != "leases" and at_s >= since_s]

    def leader(self, since_s: float = 0) -> str:
        """Return who writes, once somebody does."""
        eventually(lambda: self.writes(since_s), "somebody writes", within_s=60)
        return self.writes(since_s)[-1][1]

    def follower(self, since_s: float, other_than: str) -> tuple[str, float]:
        """Return who writes after a leader, and how many seconds after `since_s` it began."""
        eventually(lambda: [1 for _, user in self.writes(since_s) if user != other_than], "somebody else writes", within_s=60)
        at_s, user = next((at_s, user) for at_s, user in self.writes(since_s) if user != other_than)
        return user, at_s - since_s

    def two_writers(self) -> list[tuple[float, str, str]]:
        """Return each write of somebody who was not the last to write himself into the Lease."""
        holder, wrong = "", []
        for at_s, user, resource in self._events():
            if resource == "leases":
                holder = user
            elif user != holder:
                wrong.append((at_s, user, holder))
        return wrong

    def epoch(self) -> int:
        """Return how often the holder has changed."""
        return int(self.kube.get(LEASES, "tfscale", namespace="default")["spec"]["leaseTransitions"])

    def _events(self) -> list[tuple[float, str, str]]:
        done = [event for event in self.plane.audit() if event["user"]["username"] in USERS and _worked(event)]
        return sorted((_received_s(event), event["user"]["username"], event["objectRef"]["resource"]) for event in done)

    def _feed(self) -> None:
        """Create a pod now and then, so that whoever leads has something to write."""
        container = {"name": "main", "image": "example/main", "resources": {"requests": {"cpu": "10m", "memory": "1Mi"}}}
        spec = {"schedulerName": "tfscale", "containers": [container]}
        pod: Json = {"metadata": {"generateName": "pod-", "annotations": {"tfscale.io/gpupool": "floor"}}, "spec": spec}
        while not self._over.wait(0.3):
            with suppress(ClusterError):
                self.kube.create(PODS, pod, namespace="default")


def tell(text: str) -> None:
    """Show what was measured; ``pytest -s`` shows it too where all is well."""
    print(text)  # noqa: T201 - what it is for


def _worked(event: dict[str, Any]) -> bool:
    return int(event["responseStatus"]["code"]) < 300  # the successes of HTTP


def _received_s(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Give one API server with an audit log to all of these tests."""
    with ControlPlane(tmp_path_factory.mktemp("leader"), audit=True, users=USERS) as running:
        yield running


@pytest.fixture(scope="module")
def stage(plane: ControlPlane) -> Iterator[Stage]:
    """Give two processes; each test leaves both running."""
    with Stage(plane) as running:
        yield running


@contextmanager
def change_of_leader(stage: Stage, what: str, within_s: float) -> Iterator[tuple[str, Callable[[float], None]]]:
    """Give the leader; whoever tells when it was hit waits for the other. One follows the other once, and never two write."""
    first, epoch = stage.leader(), stage.epoch()

    def follow(since_s: float) -> None:
        follower, took_s = stage.follower(since_s, first)
        tell(f"{what}: {follower} wrote {took_s:.1f} s after")
        assert took_s < within_s

    yield first, follow
    time.sleep(3)
    assert [] == stage.two_writers()
    assert epoch + 1 == stage.epoch()


def test_a_leader_that_is_killed_is_followed(stage: Stage) -> None:
    """Its lease has to run out."""
    with change_of_leader(stage, "kill -9 of the leader", TAKE_OVER_S) as (first, follow):
        follow(stage.send(first, signal.SIGKILL))
        stage.processes[first].wait()
        stage.start(first)


def test_a_leader_that_is_stopped_is_followed_at_once(stage: Stage) -> None:
    """It ends its round and gives the lease up."""
    with change_of_leader(stage, "SIGTERM of the leader", GRACEFUL_S) as (first, follow):
        follow(stage.send(first, signal.SIGTERM))
        assert Exit.DONE == stage.processes[first].wait(10)
        stage.start(first)


def test_a_leader_that_stands_still_and_goes_on_writes_nothing_more(stage: Stage) -> None:
    """It may have stopped anywhere, also right before a write."""
    with change_of_leader(stage, f"SIGSTOP of the leader for {PAUSE_S} s", TAKE_OVER_S) as (first, follow):
        paused_s = stage.send(first, signal.SIGSTOP)
        follow(paused_s)
        time.sleep(max(0, paused_s + PAUSE_S - time.time()))
        awake_s = stage.send(first, signal.SIGCONT)
        time.sleep(3)

        assert first not in {user for _, user in stage.writes(awake_s)}


def test_after_an_outage_of_the_api_server_one_writes(stage: Stage) -> None:
    """The old leader or the new one, soon after the server is back."""
    stage.leader()
    stage.plane.pause("kube-apiserver")
    time.sleep(OUTAGE_S)
    stage.plane.resume("kube-apiserver")
    back_s = time.time()
    # Requests that were sent before are received now.
    leader = stage.leader(back_s + 1)
    tell(f"API server away for {OUTAGE_S} s: {leader} wrote {stage.writes(back_s)[0][0] - back_s:.1f} s after it was back")
    time.sleep(3)

    assert stage.writes(back_s + 1)[0][0] - back_s < TAKE_OVER_S
    assert [] == stage.two_writers()


def test_the_processes_tell_in_few_lines_what_happened(stage: Stage) -> None:
    """Of their leads, and nothing twice in a row; no traceback."""
    for user in USERS:
        lines = (stage.plane.folder / f"{user}.log").read_text(encoding="utf-8").splitlines()
        said = [line for line in lines if "tfscale.kube.leader" in line]
        tell("\n".join((f"--- {user}", *said)))

        assert not [line for line in lines if "Traceback" in line]
        assert 0 < len(said) <= 14


def test_without_election_the_judge_sees_two_writers(stage: Stage) -> None:
    """Else what it says of the others would mean nothing."""
    for user in USERS:
        stage.send(user, signal.SIGTERM)
        assert Exit.DONE == stage.processes[user].wait(10)
        stage.start(user, "--no-leader-elect")

    eventually(stage.two_writers, "two write", within_s=30)


def test_wall_clocks_that_are_set_disturb_nobody(plane: ControlPlane) -> None:
    """One holder and two who would follow, their clocks a day ahead, behind, and back again."""
    steps = {"ann": 86_400.0, "bob": -86_400.0}
    spec = {**LEASE["spec"], "leaseTransitions": 7}
    admin = KubeClient.connect(kubeconfig=str(plane.kubeconfig))
    admin.create(LEASES, {"metadata": {"name": "stepped"}, "spec": spec}, namespace="default")

    def competing(user: str) -> Elector:
        kube = KubeClient.connect(kubeconfig=str(plane.kubeconfig_of(user)))
        return Elector(kube, namespace="default", name="stepped", wall=lambda: time.time() + steps[user])

    with competing("ann") as ann, competing("bob") as bob:
        eventually(lambda: ann.begin() or bob.begin(), "one leads")
        first = ann if ann.begin() else bob
        for _ in range(20):
            steps = {user: -step for user, step in steps.items()}
            time.sleep(1)
            assert [8 if one is first else None for one in (ann, bob)] == [ann.begin(), bob.begin()]
