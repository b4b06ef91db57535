"""Examining the pools of a cluster: what their objects say, what their modes find, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tfscale.errors import BadInputError, ClusterError, ModeError, NotFoundError
from tfscale.finding import Finding, of_problems
from tfscale.gpus import GpuTable
from tfscale.kube.convert import read_pools
from tfscale.kube.fields import named
from tfscale.kube.nodes import POOL_LABEL
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, Kube
from tfscale.modes.base import ModeContext
from tfscale.modes.guarded import guarded
from tfscale.opened import FindMode
from tfscale.pool import Pool

__all__ = ["findings"]

_UNNOTICED_S = 60
"""Age of a NodeClaim without any condition at which nobody acts on it: Karpenter writes the first ones at once."""


def findings(
    kube: Kube,
    *,
    names: Sequence[str] = (),
    gpus: GpuTable,
    mode_of: FindMode,
    open_with: Callable[[Pool], ModeContext],
    now_s: int,
) -> list[Finding]:
    """Return what was found about the pools of these names, or about all. Whatever goes wrong is a finding."""
    try:
        objects = kube.list(GPU_POOLS).items
    except NotFoundError:
        fix = "tfscale manifests crds | kubectl apply --server-side -f -"
        return [Finding(pool="", check="cluster", verdict="fail", says="it does not know GPUPools", fix=fix)]
    except ClusterError as error:
        fix = "see whether kubectl get gpupools works from here"
        return [Finding(pool="", check="cluster", verdict="fail", says=str(error), fix=fix)]
    asked = {obj["metadata"]["name"]: obj for obj in objects if not names or obj["metadata"]["name"] in names}
    pools, problems = read_pools(asked.values(), gpus=gpus)
    return [
        *_missing(names, asked),
        *(finding for one in problems for finding in of_problems(one.where.removeprefix("gpupool "), [one])),
        *(finding for pool in pools for finding in _examined(pool, mode_of, open_with)),
        *(finding for pool in pools for finding in _unnoticed(kube, pool, now_s)),
    ]


def _missing(names: Sequence[str], there: Iterable[str]) -> Iterator[Finding]:
    if not names and not there:
        yield Finding(pool="", check="cluster", verdict="warn", says="it has no GPUPool", fix="make one (docs/resources.md)")
    for name in dict.fromkeys(names):
        if name not in there:
            yield Finding(pool=name, check="pool", verdict="fail", says="there is no such GPUPool", fix="kubectl get gpupools")


def _examined(pool: Pool, mode_of: FindMode, open_with: Callable[[Pool], ModeContext]) -> Iterator[Finding]:
    """Yield what a mode finds."""
    try:
        found = mode_of(pool.mode, where=f"gpupool {pool.name}", field="spec.mode")
        mode: Any = guarded(found).open(open_with(pool))
        yield from mode.examine()
    except BadInputError as error:
        yield from of_problems(pool.name, error.problems)
    except (ModeError, ClusterError) as error:
        yield Finding(pool=pool.name, check="mode", verdict="fail", says=str(error), fix="see the pool's condition Ready")


def _unnoticed(kube: Kube, pool: Pool, now_s: int) -> Iterator[Finding]:
    """Yield that nobody acts on NodeClaims of a pool."""
    try:
        claims = [named("nodeclaim", obj) for obj in kube.list(NODE_CLAIMS, label_selector=f"{POOL_LABEL}={pool.name}").items]
    except ClusterError:
        # A pool that needs no Karpenter is not told that there is none; the others are, by their mode.
        return
    old = [claim for claim in claims if now_s - claim.at("metadata", "creationTimestamp").seconds() >= _UNNOTICED_S]
    unseen = [claim for claim in old if not claim.at("status", "conditions").given]
    if unseen:
        first, ref = unseen[0].at("metadata", "name").needed(), unseen[0].at("spec", "nodeClassRef")
        says = f"nobody looks at {len(unseen)} of its NodeClaims, such as {first}"
        fix = f"see whether Karpenter runs, with the provider of {ref.at('kind').text()}: kubectl get deployments -A"
        yield Finding(pool=pool.name, check="karpenter", verdict="fail", says=says, fix=fix)
