"""Examining the pools of a cluster: what their objects say, what their modes find, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tfscale.errors import BadInputError, ClusterError, ModeError, NotFoundError, Problem
from tfscale.finding import Finding
from tfscale.gpus import GpuTable
from tfscale.kube.convert import read_pools
from tfscale.kube.port import GPU_POOLS, Kube
from tfscale.model import Pool
from tfscale.modes.base import ModeContext
from tfscale.modes.guarded import guarded
from tfscale.opened import FindMode

__all__ = ["findings"]


def findings(
    kube: Kube,
    *,
    names: Sequence[str] = (),
    gpus: GpuTable,
    mode_of: FindMode,
    open_with: Callable[[Pool], ModeContext],
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
        *(_wrong(problem, problem.where.removeprefix("gpupool ")) for problem in problems),
        *(finding for pool in pools for finding in _examined(pool, mode_of, open_with)),
    ]


def _missing(names: Sequence[str], there: Iterable[str]) -> Iterator[Finding]:
    if not names and not there:
        yield Finding(pool="", check="cluster", verdict="warn", says="it has no GPUPool", fix="make one (docs/resources.md)")
    for name in dict.fromkeys(names):
        if name not in there:
            yield Finding(pool=name, check="pool", verdict="fail", says="there is no such GPUPool", fix="kubectl get gpupools")


def _examined(pool: Pool, mode_of: FindMode, open_with: Callable[[Pool], ModeContext]) -> Iterator[Finding]:
    """Yield what a mode finds: its check, and what its own doctor says where it has one."""
    try:
        found = mode_of(pool.mode, where=f"gpupool {pool.name}", field="spec.mode")
        mode: Any = guarded(found).open(open_with(pool))
        problems: Sequence[Problem] = mode.check()
        if not problems:
            yield Finding(pool=pool.name, check="options", verdict="ok", says=f"the mode {pool.mode} finds nothing wrong")
        yield from (_wrong(problem, pool.name) for problem in problems)
        yield from mode.examine()
    except BadInputError as error:
        yield from (_wrong(problem, pool.name) for problem in error.problems)
    except (ModeError, ClusterError) as error:
        yield Finding(pool=pool.name, check="mode", verdict="fail", says=str(error), fix="see the pool's condition Ready")


def _wrong(problem: Problem, pool: str) -> Finding:
    says = f"{problem.field} is {problem.value!r}"
    return Finding(pool=pool, check="options", verdict="fail", says=says, fix=f"want {problem.want}")
