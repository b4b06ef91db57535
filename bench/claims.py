"""How fast many NodeClaims of one round become nodes, on the real Karpenter, beside a loop that only creates them.

    python -m bench.claims [--claims N] [-o json]

Starts a control plane with Karpenter's kwok provider, which `make tools` builds, twice. First as many pods wait as claims are
wanted, each for a whole card: one round of tfscale orders all nodes, and rounds follow every second until every claim is Ready.
Then a plain loop creates the same claims with the same client, one after the other, and lists them every second: no record is
written, no pod is placed, and nothing survives its end. Calls are those of the process that buys; a watch counts once. Exit 1
where a claim is missing, is there twice or is not Ready in time.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster.conftest import define
from tests.cluster.control_plane import PROGRAMS, TOOLS, ControlPlane
from tests.cluster.karpenter import KWOK_CLASS, ZONES, condition, create_pods, instance_type, node_class, pool_of
from tfscale import modes
from tfscale.catalogue import snapshot
from tfscale.errors import ClusterError
from tfscale.gpus import GpuTable
from tfscale.kube.cache import Cache
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, Json, Kube
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler

Result = dict[str, Any]
TYPE = "g6.xlarge"
READY_WITHIN_S = 600
UNHURRIED = Timing(call_s=60, read_s=60)
WRITES = frozenset({"create", "patch", "patch_status", "apply", "delete", "bind"})
_CRDS = Path(__file__).parents[1] / "tfscale" / "crds"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the figures, and return 0, or 1 where something is missing; 0 also where nothing can be measured."""
    parser = argparse.ArgumentParser(description="Measure how fast many NodeClaims of one round become nodes.")
    parser.add_argument("--claims", type=int, default=200, help="claims (default: %(default)s)")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the result")
    options = parser.parse_args(arguments)
    if options.claims < 1:
        parser.error(f"--claims is {options.claims}; want 1 or more")
    missing = [name for name in PROGRAMS if not (TOOLS / name).is_file()]
    if missing:
        print(f"nothing is measured: tools/bin has no {missing[0]}; `make tools` builds it, which needs Go")
        return 0
    with _cluster() as kubeconfig:
        ours, example = _with_tfscale(kubeconfig, options.claims)
    with _cluster() as kubeconfig:
        plain = _with_a_loop(kubeconfig, options.claims, example)
    result = {"claims": options.claims, "tfscale": ours, "plain_loop": plain}
    _print(result, options.output)
    return 0 if ours["ready"] == plain["ready"] == options.claims == ours["claims"] else 1


def _print(result: Result, form: str) -> None:
    if form == "json":
        print(json.dumps(result, indent=2))
        return
    print(f"claims {result['claims']}")
    for name in ("tfscale", "plain_loop"):
        print(f"{name}:", "  ".join(f"{key} {value}" for key, value in result[name].items()))


@contextmanager
def _cluster() -> Iterator[str]:
    """Give the kubeconfig of a cluster with Karpenter, a node class and tfscale's definitions."""
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder)) as plane:
        kube = _client(str(plane.kubeconfig))
        define(kube, *sorted((TOOLS / "crds").glob("*.yaml")), *sorted(_CRDS.glob("*.yaml")))
        plane.start_karpenter([instance_type(TYPE, ZONES)])
        plane.start_kwok()
        kube.create(KWOK_CLASS, node_class())
        kube.close()
        yield str(plane.kubeconfig)


def _client(kubeconfig: str) -> KubeClient:
    return KubeClient.connect(kubeconfig=kubeconfig, timing=UNHURRIED)


class _Counted:
    """A client that counts what it is asked."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any verb
        verb = getattr(self._kube, name)

        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as the verb
            self.calls[name] += 1
            return verb(*args, **options)

        return call


def _with_tfscale(kubeconfig: str, count: int) -> tuple[Result, Json]:
    """Let the loop buy for as many pods; return the figures and one of the claims as it was asked for."""
    world = _client(kubeconfig)
    pool = pool_of("managed-nodeclaim", idle_after_s=3_600)
    pool["spec"]["offers"]["instanceTypes"] = [TYPE]
    world.create(GPU_POOLS, pool)
    create_pods(world, count, whole=True)
    counted: Any = _Counted(_client(kubeconfig))
    with Cache(counted) as cache:
        reconciler = _reconciler(cache)
        cache.resync()
        before, began_s = Counter(counted.calls), time.monotonic()
        reconciler.tick(int(time.time()))
        ordered_s, ordered = time.monotonic() - began_s, Counter(counted.calls - before)
        ready_s = _until_ready(world, count, began_s, lambda: reconciler.tick(int(time.time())))
    claims = world.list(NODE_CLAIMS).items
    world.close()
    figures = _figures(claims, ready_s, counted, before)
    return {"ordered_s": round(ordered_s, 1), "order_calls": dict(ordered), **figures}, claims[0]


def _reconciler(kube: Kube) -> Reconciler:
    gpus = GpuTable()
    return Reconciler(
        kube=kube,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="bench", catalogue=snapshot()),
        gpus=gpus,
        prefix="tfscale.io",
        identity=f"{secrets.token_hex(4)}-",
    )


def _with_a_loop(kubeconfig: str, count: int, example: Json) -> Result:
    """Create as many claims like the example, one after the other, and list them until they are Ready."""
    counted: Any = _Counted(_client(kubeconfig))
    began_s = time.monotonic()
    for number in range(count):
        metadata = {"name": f"plain-{number}", "labels": {"tfscale.io/pool": "pool"}}
        counted.create(NODE_CLAIMS, {**{key: example[key] for key in ("apiVersion", "kind", "spec")}, "metadata": metadata})
    ordered_s = time.monotonic() - began_s
    ready_s = _until_ready(counted, count, began_s, lambda: None)
    return {"ordered_s": round(ordered_s, 1), **_figures(counted.list(NODE_CLAIMS).items, ready_s, counted, Counter())}


def _until_ready(kube: Kube, count: int, began_s: float, meanwhile: Callable[[], object]) -> float:
    """Return how long it took until so many claims were Ready, or until nobody waits any more."""
    while (waited_s := time.monotonic() - began_s) < READY_WITHIN_S:
        # A machine that is busy with all of this may keep its API server from answering.
        with suppress(ClusterError):
            if _ready(kube.list(NODE_CLAIMS).items) >= count:
                break
            time.sleep(1)
            meanwhile()
    return waited_s


def _ready(claims: Sequence[Json]) -> int:
    return sum(condition(claim, "Ready") for claim in claims)


def _figures(claims: Sequence[Json], ready_s: float, counted: _Counted, before: Counter[str]) -> Result:
    calls = counted.calls - before
    return {
        "claims": len(claims),
        "ready": _ready(claims),
        "ready_s": round(ready_s, 1),
        "writes": sum(calls[verb] for verb in WRITES),
        "calls": dict(calls),
    }


if __name__ == "__main__":
    raise SystemExit(main())
