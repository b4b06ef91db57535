"""Random faults and random writers on the real API server, and a process that follows: is its copy right, does it grow?

    python -m tests.cluster.soak_reflector [--seconds N] [--seed N] [-o json]

Ends with 0 if the copy was never wrong while it answered, equals a fresh list at the end, and neither threads nor memory grew.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.control_plane import TOOLS, ControlPlane
from tests.cluster.proxied import proxy_of
from tfscale.errors import ClusterError, ConflictError, NotFoundError
from tfscale.kube.cache import Cache, Patience
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import CRDS, NODE_CLAIMS, NODES, PODS, Json, Kind
from tfscale.kube.reflector import Pace
from tfscale.manifests import read_manifests
from tfscale.testing import FaultProxy
from tfscale.testing.faults import Answer, Cut, Delay, Fault, Lines, Rule, Stall

__all__ = ["Account", "soak"]

ROOT = Path(__file__).parents[2]
KINDS = (PODS, NODES, NODE_CLAIMS)
NAMES = 80
"""Of each kind; about half of them exist at a time."""
WRITERS = 2
OWN = "own"
"""A node that the following process alone writes."""
WARM_UP_S = 5.0
GROWTH_MOST_MIB = 30.0

OF_WATCHES: tuple[Fault, ...] = (
    Lines.error_event(410, after=5),
    Lines.twice(),
    Lines.again(),
    Lines.garbled(after=10),
    Lines.half_a_letter(),
    Lines.endless(11 * 2**20),
    Cut(20_000),
    Stall(6, after_lines=5),
)
OF_LISTS: tuple[Fault, ...] = (Lines.garbled(), Delay(0.5))
OF_BOTH: tuple[Fault, ...] = (
    *(Answer(code) for code in (401, 403, 404, 410, 500)),
    *(Answer(code, {"Retry-After": "1"}) for code in (429, 503)),
    Cut(),
    Cut(1_000),
    Stall(3),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the following process says at the end, with what happened meanwhile."""

    equal: bool
    """Whether its lists are those of the server, when all faults were over."""
    wrong: tuple[str, ...]
    """Lists that did not show what was written before."""
    lists: int
    refused: int
    """Lists that were refused because they might have been wrong."""
    threads: tuple[int, int]
    """After the first list, and at the end."""
    memory_mib: tuple[float, float]
    faults: dict[str, int]

    @property
    def good(self) -> bool:
        """Whether all went well."""
        grown = self.memory_mib[1] - self.memory_mib[0] > GROWTH_MOST_MIB or self.threads[1] > self.threads[0]
        return self.equal and not self.wrong and not grown


def soak(seconds: float, *, seed: int) -> Account:
    """Do this for so long and return what came of it."""
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder)) as running:
        kubeconfig = str(running.kubeconfig)
        _serve_claims(kubeconfig)
        with proxy_of(running.kubeconfig, seed=seed) as proxy:
            faulty = proxy.write_kubeconfig(Path(folder) / "faulty")
            command = [sys.executable, "-m", "tests.cluster.soak_reflector", "--follow", faulty, "--direct", kubeconfig]
            with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as follower:  # noqa: S603 - this very file
                with _Writers(kubeconfig, seed):
                    _disturb(running, proxy, seconds, random.Random(seed))  # noqa: S311 - faults, no secrets
                proxy.heal()
                said, _ = follower.communicate(b"that was all\n", timeout=120)
            faults = dict(proxy.injected)
    told = json.loads(said)
    return Account(**{**told, "wrong": tuple(told["wrong"]), "threads": tuple(told["threads"])}, faults=faults)


def _disturb(running: ControlPlane, proxy: FaultProxy, seconds: float, chance: random.Random) -> None:
    time.sleep(WARM_UP_S)
    proxy.add(*(Rule(fault=fault, watch=True, times=None, chance=0.03) for fault in OF_WATCHES))
    proxy.add(*(Rule(fault=fault, watch=False, times=None, chance=0.03) for fault in OF_LISTS))
    proxy.add(*(Rule(fault=fault, times=None, chance=0.03) for fault in OF_BOTH))
    # A reply that is lost: the write was done.
    proxy.add(Rule(fault=Cut(), method="PATCH", times=None, chance=0.03))
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(left_s, chance.uniform(0.2, 3)))
        proxy.hang_up()
        if chance.random() < 0.03:
            running.pause("kube-apiserver")
            time.sleep(chance.uniform(1, 6))
            running.resume("kube-apiserver")


class _Writers:
    """Threads that create, change and delete objects at random."""

    def __init__(self, kubeconfig: str, seed: int) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(kubeconfig, seed * 10 + number)) for number in range(WRITERS)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, kubeconfig: str, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - which object, no secret
        kube = KubeClient.connect(kubeconfig, timing=Timing(calls_per_s=1_000))
        while not self._stop.wait(0.02):
            kind, name = chance.choice(KINDS), f"o-{chance.randrange(NAMES)}"
            home = "default" if kind.namespaced else None
            with suppress(ClusterError):
                match chance.randrange(4):
                    case 0:
                        kube.create(kind, _object(kind, name), namespace=home)
                    case 1:
                        kube.delete(kind, name, namespace=home, grace_period_s=0)
                    case _:
                        kube.patch(kind, name, {"metadata": {"labels": {"n": str(chance.random())}}}, namespace=home)
        kube.close()


def _object(kind: Kind, name: str) -> Json:
    if kind == PODS:
        return {"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "example/main"}]}}
    if kind == NODES:
        return {"metadata": {"name": name}}
    reference = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
    requirement = {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}
    return {"metadata": {"name": name}, "spec": {"nodeClassRef": reference, "requirements": [requirement]}}


def _serve_claims(kubeconfig: str) -> None:
    kube = KubeClient.connect(kubeconfig)
    (path,) = (TOOLS / "crds").glob("*nodeclaims.yaml")
    for manifest in read_manifests(path.read_text(encoding="utf-8"), name=path.name):
        kube.create(CRDS, manifest.value)
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        try:
            kube.list(NODE_CLAIMS)
        except NotFoundError:
            time.sleep(0.2)
        else:
            break
    kube.close()


# --- the process that follows ---


class _Follower:
    """Reads and writes through a cache, and checks that it never reads less than it wrote."""

    def __init__(self, cache: Cache, direct: KubeClient) -> None:
        self._cache = cache
        self._direct = direct
        self._count = 0
        self._before: Json | None = None
        """The node as it was written last, or None where a write got no answer."""
        self._undecided: set[str] = set()
        """What was written without an answer, and may still come."""
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    def step(self) -> None:
        """Write once, then list: what comes is right, or nothing comes."""
        expected = self._write()
        try:
            listed = self._cache.list(NODES).items
        except ClusterError:
            self.counts["refused"] += 1
            return
        self.counts["lists"] += 1
        seen = next((_label(node) for node in listed if node["metadata"]["name"] == OWN), "nothing")
        if seen not in expected:
            self.wrong.append(f"{seen} after {' or '.join(sorted(expected))} was written")

    def _write(self) -> set[str]:
        """Write the next number and return what the node may say now."""
        before = self._before or self._get()
        self._count += 1
        written = str(self._count)
        # The precondition keeps out a write that comes late, after one that came after it.
        meta = {"resourceVersion": before["metadata"]["resourceVersion"], "labels": {"n": written}}
        self._before = None
        try:
            self._before = self._cache.patch(NODES, OWN, {"metadata": meta})
        except ConflictError:
            # One that was undecided has been done.
            self._before = self._get()
        except ClusterError:
            self._undecided.add(written)
        if self._before is None:
            return {_label(before), *self._undecided}
        self._undecided = set()
        return {_label(self._before)}

    def _get(self) -> Json:
        while True:
            with suppress(ClusterError):
                return self._direct.get(NODES, OWN)

    def equal(self) -> bool:
        """Return whether the cache has what the server has, soon."""
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            with suppress(ClusterError):
                if all(_versions(self._cache, kind) == _versions(self._direct, kind) for kind in KINDS):
                    return True
            time.sleep(0.2)
        return False


def _label(node: Json) -> str:
    return str((node["metadata"].get("labels") or {}).get("n", "nothing"))


def _versions(kube: Cache | KubeClient, kind: Kind) -> dict[str, str]:
    return {obj["metadata"]["name"]: obj["metadata"]["resourceVersion"] for obj in kube.list(kind).items}


def _follow(faulty: str, direct_config: str) -> Json:
    direct = KubeClient.connect(direct_config)
    direct.create(NODES, {"metadata": {"name": OWN, "labels": {"n": "0"}}})
    told = threading.Event()

    def await_word() -> None:
        sys.stdin.readline()
        told.set()

    listener = threading.Thread(target=await_word)
    listener.start()
    client = KubeClient.connect(faulty, timing=Timing(call_s=3, read_s=3, watch_silence_s=5))
    pace = Pace(watch_s=(20, 40), silence_s=5, pause_s=(0.1, 1), refused_s=2)
    with Cache(client, kinds=(PODS, NODES, NODE_CLAIMS), pace=pace, patience=Patience(own_write_s=2, max_age_s=10)) as cache:
        follower = _Follower(cache, direct)
        end_s = time.monotonic() + WARM_UP_S
        while time.monotonic() < end_s:
            follower.step()
            time.sleep(0.1)
        before = threading.active_count(), _memory_mib()
        while not told.wait(0.1):
            follower.step()
        equal = follower.equal()
        # The thread that waited for the word has ended; its place counts.
        threads = (before[0], threading.active_count() + 1)
        memory = (before[1], _memory_mib())
    counts = {name: follower.counts[name] for name in ("lists", "refused")}
    return {"equal": equal, "wrong": follower.wrong[:10], **counts, "threads": threads, "memory_mib": memory}


def _memory_mib() -> float:
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return round(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the account, and return 0 if all went well."""
    parser = argparse.ArgumentParser(description="Follow a faulty API server.")
    parser.add_argument("--seconds", type=float, default=600, help="how long the faults last (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of faults and writers (default: %(default)s)")
    parser.add_argument("--follow", help=argparse.SUPPRESS)
    parser.add_argument("--direct", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    options = parser.parse_args(arguments)
    if options.follow:
        print(json.dumps(_follow(options.follow, options.direct)))  # noqa: T201 - for the process that asked
        return 0
    account = soak(options.seconds, seed=options.seed)
    shown = asdict(account) | {"seconds": options.seconds, "good": account.good}
    text = "\n".join(f"{key}: {value}" for key, value in shown.items())
    print(json.dumps(shown, indent=2) if options.output == "json" else text)  # noqa: T201 - a command prints
    return 0 if account.good else 1


if __name__ == "__main__":
    sys.exit(main())
