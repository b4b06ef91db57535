"""How fast, how large and how late tfscale's copy of a large cluster is, on a real API server.

    python -m bench.kube_sync [--nodes N] [--claims N] [--pods N] [--kubeconfig FILE] [-o json]

Starts a control plane of its own, which `make tools` builds, fills it, and lets a fresh process of each kind follow it: tfscale's
`Cache`, and the `SharedInformer` of the official client as the baseline (pods and nodes: it cannot list custom resources). Memory
is what the process has above its bare imports. The lag is the time from sending a write of this process until the copy shows it,
while another process writes too. With `--kubeconfig` the objects are created in that cluster, and left there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.kube_objects import fast_client, fill, node, serve_claims
from tests.cluster.control_plane import PROGRAMS, TOOLS, ControlPlane
from tfscale.kube.port import NODE_CLAIMS, NODES, PODS

Result = dict[str, Any]
SYNC_WITHIN_S = 600.0
KINDS = ("cache", "informer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the figures, and return 0; also where nothing can be measured, with the reason."""
    parser = argparse.ArgumentParser(description="Measure how a large cluster is followed.")
    parser.add_argument("--nodes", type=int, default=5_000, help="nodes (default: %(default)s)")
    parser.add_argument("--claims", type=int, default=2_000, help="NodeClaims (default: %(default)s)")
    parser.add_argument("--pods", type=int, default=20_000, help="pods (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=300, help="writes whose lag is measured (default: %(default)s)")
    parser.add_argument("--writes-per-s", type=int, default=50, help="writes of others meanwhile (default: %(default)s)")
    parser.add_argument("--kubeconfig", help="a cluster to use instead of a control plane of our own")
    parser.add_argument("--follow", choices=KINDS, help="only follow the cluster of --kubeconfig in this process")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    options = parser.parse_args(arguments)
    if options.nodes < 1:
        parser.error(f"--nodes is {options.nodes}; want 1 or more")
    if options.follow:
        print(json.dumps(_follow(options.follow, options.kubeconfig, options)))
        return 0
    missing = [name for name in PROGRAMS[:2] if not (TOOLS / name).is_file()]
    if missing and not options.kubeconfig:
        print(f"nothing is measured: tools/bin has no {missing[0]}; `make tools` builds it, which needs Go")
        return 0
    with _cluster(options.kubeconfig) as kubeconfig:
        result = _measure(kubeconfig, options)
    _print(result, options.output)
    return 0


def _print(result: Result, form: str) -> None:
    if form == "json":
        print(json.dumps(result, indent=2))
        return
    print("  ".join(f"{key} {value}" for key, value in result.items() if not isinstance(value, dict)))
    for kind in KINDS:
        print(f"{kind}:", "  ".join(f"{key} {value}" for key, value in result[kind].items()))


@contextlib.contextmanager
def _cluster(kubeconfig: str | None) -> Iterator[str]:
    if kubeconfig:
        yield kubeconfig
        return
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder)) as running:
        kube = fast_client(str(running.kubeconfig))
        serve_claims(kube, next((TOOLS / "crds").glob("*nodeclaims.yaml")))
        kube.close()
        yield str(running.kubeconfig)


def _measure(kubeconfig: str, options: argparse.Namespace) -> Result:
    filled_s = fill(kubeconfig, nodes=options.nodes, claims=options.claims, pods=options.pods)
    result: Result = {"nodes": options.nodes, "claims": options.claims, "pods": options.pods, "created_s": round(filled_s, 1)}
    sizes = ("--nodes", str(options.nodes), "--samples", str(options.samples))
    for kind in KINDS:
        with _writes(kubeconfig, options):
            command = [sys.executable, "-m", "bench.kube_sync", "--follow", kind, "--kubeconfig", kubeconfig, *sizes]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 - this very file
        result[kind] = json.loads(done.stdout)
    return result


@contextlib.contextmanager
def _writes(kubeconfig: str, options: argparse.Namespace) -> Iterator[None]:
    """Change nodes all the time."""
    kube = fast_client(kubeconfig)
    stop = threading.Event()

    def write() -> None:
        count = 0
        while not stop.wait(1 / options.writes_per_s):
            count += 1
            kube.patch(NODES, _a_node(options.nodes), {"metadata": {"annotations": {"example.com/beat": str(count)}}})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        kube.close()


def _a_node(nodes: int) -> str:
    return str(node(random.randrange(nodes))["metadata"]["name"])  # noqa: S311 - no secret


# --- the process that follows ---


def _follow(kind: str, kubeconfig: str, options: argparse.Namespace) -> Result:
    return (_follow_with_cache if kind == "cache" else _follow_with_informer)(kubeconfig, options)


def _follow_with_cache(kubeconfig: str, options: argparse.Namespace) -> Result:
    from tfscale.kube.cache import Cache, Patience  # noqa: PLC0415 - the other process must not carry it

    kube = fast_client(kubeconfig)
    before_mib = _memory_mib("VmRSS")
    began_s = time.monotonic()
    with Cache(kube, kinds=(PODS, NODES, NODE_CLAIMS), patience=Patience(first_list_s=SYNC_WITHIN_S, own_write_s=60)) as cache:
        counts = [len(cache.list(one).items) for one in (PODS, NODES, NODE_CLAIMS)]
        synced_s = time.monotonic() - began_s
        memory = _memory_since(before_mib)

        def write_and_see(value: str) -> None:
            cache.patch(NODES, _a_node(options.nodes), {"metadata": {"labels": {"example.com/sample": value}}})
            cache.list(NODES)

        lags_s = _lags_s(write_and_see, options.samples)
    return {"first_sync_s": round(synced_s, 2), "objects": sum(counts), **memory, **_percentiles(lags_s)}


def _follow_with_informer(kubeconfig: str, options: argparse.Namespace) -> Result:
    from kubernetes import client, config  # noqa: PLC0415 - the other process must not carry it
    from kubernetes.informer import SharedInformer  # noqa: PLC0415 - the same

    config.load_kube_config(kubeconfig)  # type: ignore[no-untyped-call]
    api = client.CoreV1Api()
    seen: dict[str, threading.Event] = {}

    def note(changed: Any) -> None:  # noqa: ANN401 - a typed object of the official client
        if event := seen.get((changed.metadata.labels or {}).get("example.com/sample", "")):
            event.set()

    before_mib = _memory_mib("VmRSS")
    began_s = time.monotonic()
    new_informer: Any = SharedInformer  # it is not typed
    informers = [new_informer(api.list_pod_for_all_namespaces), new_informer(api.list_node)]
    informers[1].add_event_handler("MODIFIED", note)
    for one in informers:
        one.start()
    while not all(one._resource_version for one in informers):  # noqa: SLF001 - it does not say when it is synced
        time.sleep(0.01)
    synced_s = time.monotonic() - began_s
    memory = _memory_since(before_mib)

    def write_and_see(value: str) -> None:
        seen[value] = threading.Event()
        api.patch_node(_a_node(options.nodes), {"metadata": {"labels": {"example.com/sample": value}}})
        seen[value].wait(60)

    lags_s = _lags_s(write_and_see, options.samples)
    objects = sum(len(one.cache.list()) for one in informers)
    for one in informers:
        one._stop_event.set()  # noqa: SLF001 - its stop waits for a watch that may be silent; the process ends now
    return {"first_sync_s": round(synced_s, 2), "objects": objects, **memory, **_percentiles(lags_s)}


def _lags_s(write_and_see: Callable[[str], None], samples: int) -> list[float]:
    lags_s = []
    for number in range(samples):
        began_s = time.monotonic()
        write_and_see(f"{time.monotonic_ns()}-{number}")
        lags_s.append(time.monotonic() - began_s)
        time.sleep(0.02)
    return lags_s


def _percentiles(lags_s: Sequence[float]) -> Result:
    cuts = statistics.quantiles(lags_s, n=100, method="inclusive")
    return {"lag_p50_ms": _ms(cuts[49]), "lag_p99_ms": _ms(cuts[98]), "lag_max_ms": _ms(max(lags_s))}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _memory_since(before_mib: float) -> Result:
    """Return what the process has taken, and the most that it ever had, in MiB above what it had before."""
    return {
        "imports_mib": round(before_mib),
        "memory_mib": round(_memory_mib("VmRSS") - before_mib),
        "peak_mib": round(_memory_mib("VmHWM") - before_mib),
    }


def _memory_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main())
