"""Nodes of static NodePools: Karpenter keeps as many as ``spec.replicas`` says, so that is where more are asked for.

Karpenter makes the claims and replaces those that are lost. What is ours is therefore a number, written on the NodePool
together with ``spec.replicas`` in one step, and marks on the claims. A marked claim that is gone lowers the number: what
Karpenter made instead is too many then, and goes.
Source: Karpenter 1.14, its static provisioning and deprovisioning: claims that are not launched yet go first, then empty nodes.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from tfscale.errors import ConflictError, LaunchRefusedError, ModeError, NotFoundError
from tfscale.kube.fields import named
from tfscale.kube.nodes import POOL_LABEL
from tfscale.kube.port import NODE_CLAIMS, NODE_POOLS, PODS, Json
from tfscale.kube.requests import OWN_PREFIX
from tfscale.model import LaunchBatch
from tfscale.modes.base import LaunchResult, ModeContext, results_of
from tfscale.modes.nodeclaim_calls import Claims, translated
from tfscale.modes.nodeclaim_labels import NODE_POOL
from tfscale.modes.nodeclaim_order import BATCH, EPOCH, MODE
from tfscale.spec import Spec, parse

__all__ = ["SCALED", "StaticPools"]

log = logging.getLogger(__name__)

SCALED = f"{OWN_PREFIX}/replicas"
"""Annotation of a NodePool: how many of its replicas are ours."""
_TRIES = 5
"""How often a NodePool is written again after somebody else, mostly Karpenter, wrote in between."""
_LOOKS, _LOOK_S = 4, 0.25
"""How often, and how far apart, it is looked whether Karpenter has made the claims. Later the call is made again."""


class _Asked(Spec):
    count: int = Field(ge=1)
    until: int
    """When nobody waits for it any more: seconds since the epoch."""


class _Scaled(Spec):
    """What the annotation says."""

    pool: str = ""
    """The GPUPool that it is about."""
    ours: int = Field(default=0, ge=0)
    of: int = Field(default=0, ge=0)
    """``spec.replicas`` as it was when this was written."""
    waiting: dict[str, _Asked] = Field(default_factory=dict)
    """What each batch asked for and did not give back. It is kept until nobody makes the call again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A static NodePool and those of its claims that are to stay."""

    name: str
    version: str
    now_s: float
    replicas: int
    written: _Scaled
    ours: int
    """The part of the replicas that is ours. What somebody else took away since was ours."""
    marked: Sequence[Json]
    others: Sequence[Json]
    """Claims without our mark, the youngest first."""

    def of(self, batch: str) -> list[Json]:
        """Return the claims that a batch has."""
        return [claim for claim in self.marked if _batch(claim) == batch]

    @property
    def waiting(self) -> Mapping[str, _Asked]:
        """What batches asked for of which the calls may still be made."""
        return {batch: one for batch, one in self.written.waiting.items() if one.until > self.now_s}

    @property
    def spare(self) -> Sequence[Json]:
        """Claims that were made for batches: the youngest without mark, beyond what others asked for."""
        asked_by_others = self.replicas - self.ours
        return self.others[: max(min(len(self.others) - asked_by_others, self.ours - len(self.marked)), 0)]


class StaticPools:
    """The static NodePools whose nodes are one pool's: their template says so with the label ``tfscale.io/pool``."""

    def __init__(self, context: ModeContext, *, mode: str) -> None:
        self._kube = context.kube
        self._pool = context.pool
        self._mode = mode
        self._machine = Claims(context.kube, pool=context.pool.name, mode=mode).machine
        self._epoch = context.epoch
        self._clock: Callable[[], float] = context.clock or time.time
        self._sleep: Callable[[float], None] = context.sleep or time.sleep

    def names(self) -> set[str]:
        """Return the names of all static NodePools, this pool's or not: their claims are never deleted like others."""
        pools = (named("nodepool", obj) for obj in self._kube.list(NODE_POOLS).items)
        return {root.at("metadata", "name").needed() for root in pools if root.at("spec", "replicas").given}

    def launch(self, batch: LaunchBatch) -> Sequence[LaunchResult]:
        """Ask for the nodes once, and mark the claims that Karpenter makes.

        Raises ``ModeError`` while it has not made all of them. After the pool's time for launches what is missing is not
        asked for any more; ``LaunchRefusedError`` is raised where that is all.
        """
        name, count = batch.parameters["replicas"]["nodePool"], batch.parameters["replicas"]["count"]
        until_s = batch.created_s + self._pool.launch_within_s
        with translated(f"launch {batch.name}"):
            try:
                self._ask(name, batch.name, _Asked(count=count, until=until_s))
                given = self._marked(name, batch.name, count)
            except NotFoundError as error:
                # Its nodes go with it.
                raise LaunchRefusedError(f"launch {batch.name}: {error}") from error
        if len(given) < count and self._clock() < until_s:
            raise ModeError(f"nodepool {name}: Karpenter has made {len(given)} of {count} nodes that were asked for")
        log.info("launch %s: nodepool %s gave %d of %d nodes", batch.name, name, len(given), count)
        if not given:
            why = "Karpenter made no node: is its feature gate StaticCapacity on?"
            raise LaunchRefusedError(f"launch {batch.name}: nodepool {name} was scaled, and {why}")
        return results_of(batch, [self._machine(claim) for claim in given])

    def settle(self, going: Collection[str] = ()) -> None:
        """Ask for as many nodes as there are claims of ours, those left out that are `going`, and those that are on their way.

        An empty node goes by asking for one less: were its claim deleted first, Karpenter would launch another. Where it takes
        another empty one instead, the claim is deleted and made anew for whose it was. One with pods is deleted at once, so
        that Karpenter does not choose somebody else's; what it makes instead is not launched yet, and goes first.
        """
        with translated("settle"):
            for obj in self._kube.list(NODE_POOLS).items:
                if self._is_ours(obj):
                    self._settle(obj["metadata"]["name"], going)

    # --- how many are ours ---

    def _ask(self, name: str, batch: str, wish: _Asked) -> None:
        def asked(seen: _Seen) -> _Scaled | None:
            if batch in seen.written.waiting or seen.of(batch) or wish.until <= seen.now_s:
                return None
            ours = len(seen.marked) + _awaited(seen.waiting, seen.marked) + wish.count
            return _Scaled(ours=ours, waiting={**seen.waiting, batch: wish})

        self._change(name, asked)

    def _settle(self, name: str, ids: Collection[str]) -> None:
        seen = self._look(name)
        going = _named(seen.marked, ids)
        for claim in going:
            if self._is_busy(claim):
                self._delete(claim)

        def settled(seen: _Seen) -> _Scaled | None:
            staying = [claim for claim in seen.marked if claim["metadata"]["name"] not in ids]
            waiting = _less(seen.waiting, going)
            due = len(staying) + _awaited(waiting, staying)
            if due < seen.ours:
                return _Scaled(ours=due, waiting=waiting)
            written = (seen.written.ours, seen.written.waiting)
            return _Scaled(ours=seen.ours, waiting=dict(seen.waiting)) if (seen.ours, seen.waiting) != written else None

        changed, seen = self._change(name, settled)
        if not changed and len(seen.marked) + len(seen.others) <= seen.replicas:
            for claim in _named(seen.marked, ids):
                self._delete(claim)

    def _change(self, name: str, change: Callable[[_Seen], _Scaled | None]) -> tuple[bool, _Seen]:
        """Write the number that is ours and with it ``spec.replicas``; return whether that was needed."""
        for left in reversed(range(_TRIES)):
            seen = self._look(name)
            scaled = change(seen)
            if scaled is None:
                return False, seen
            replicas = max(seen.replicas + scaled.ours - seen.ours, 0)
            note = scaled.model_copy(update={"pool": self._pool.name, "of": replicas}).model_dump_json(by_alias=True)
            annotations = {SCALED: note if scaled.ours or scaled.waiting else None}
            body = {"metadata": {"resourceVersion": seen.version, "annotations": annotations}, "spec": {"replicas": replicas}}
            try:
                self._kube.patch(NODE_POOLS, name, body)
            except ConflictError:
                if not left:
                    raise
            else:
                log.info("nodepool %s: %d replicas instead of %d", name, replicas, seen.replicas)
                return True, seen
        raise AssertionError("the last try returns or raises")

    # --- claims ---

    def _marked(self, name: str, batch: str, count: int) -> list[Json]:
        """Mark claims until the batch has all that it asked for, or for as long as one call may take."""
        given: list[Json] = []
        for look in range(_LOOKS):
            self._sleep(_LOOK_S if look else 0)
            seen = self._look(name)
            given = seen.of(batch)
            missing = count - len(given) if batch in seen.waiting else 0
            given += self._mark(seen.spare[:missing], batch)
            if len(given) >= count:
                break
        return given

    def _mark(self, claims: Iterable[Json], batch: str) -> list[Json]:
        marked = []
        for claim in claims:
            meta, notes = claim["metadata"], {MODE: self._mode, BATCH: batch, EPOCH: str(self._epoch())}
            body = {"metadata": {"uid": meta["uid"], "annotations": notes}}
            try:
                marked.append(self._kube.patch(NODE_CLAIMS, meta["name"], body))
            except (ConflictError, NotFoundError):
                log.debug("nodeclaim %s is gone", meta["name"])
        return marked

    def _delete(self, claim: Json) -> None:
        meta = claim["metadata"]
        try:
            self._kube.delete(NODE_CLAIMS, meta["name"], uid=meta["uid"])
        except (ConflictError, NotFoundError):
            log.debug("nodeclaim %s is gone", meta["name"])

    def _is_busy(self, claim: Json) -> bool:
        """Return whether Karpenter would not call the node empty: it has a pod that is no DaemonSet's."""
        node = named("nodeclaim", claim).at("status", "nodeName").text()
        pods = self._kube.list(PODS, field_selector=f"spec.nodeName={node}").items if node else []
        owners = [[one.get("kind") for one in pod["metadata"].get("ownerReferences") or ()] for pod in pods]
        return any("DaemonSet" not in kinds for kinds in owners)

    def _look(self, name: str) -> _Seen:
        """Return the NodePool with its claims. Raises ``BadInputError`` for an annotation that somebody else wrote."""
        root = named("nodepool", self._kube.get(NODE_POOLS, name))
        replicas = root.at("spec", "replicas").whole()
        note = root.at("metadata", "annotations", SCALED)
        written = parse(_Scaled, _of_json(note.text()), where=note.where, field=note.path)
        claims = self._kube.list(NODE_CLAIMS, label_selector=f"{NODE_POOL}={name}").items
        living = [claim for claim in claims if "deletionTimestamp" not in claim["metadata"]]
        young_first = sorted(living, key=lambda claim: (claim["metadata"]["creationTimestamp"], claim["metadata"]["name"]))[::-1]
        taken = max(written.of - replicas, 0)
        return _Seen(
            name=name,
            version=root.at("metadata", "resourceVersion").needed(),
            now_s=self._clock(),
            replicas=replicas,
            written=written,
            ours=min(max(written.ours - taken, 0), replicas),
            marked=[claim for claim in living if self._is_marked(claim)],
            others=[claim for claim in young_first if not self._is_marked(claim)],
        )

    def _is_ours(self, obj: Json) -> bool:
        """Return whether we scale a NodePool, or did while its template said that its nodes are this pool's."""
        root = named("nodepool", obj)
        note = root.at("metadata", "annotations", SCALED)
        labelled = root.at("spec", "template", "metadata", "labels", POOL_LABEL).text() == self._pool.name
        return root.at("spec", "replicas").given and (labelled or f'"{self._pool.name}"' in note.text())

    def _is_marked(self, claim: Json) -> bool:
        meta = claim["metadata"]
        ours = (meta.get("labels") or {}).get(POOL_LABEL) == self._pool.name
        return ours and (meta.get("annotations") or {}).get(MODE) == self._mode


def _batch(claim: Json) -> str:
    notes: Mapping[str, str] = claim["metadata"]["annotations"]
    return notes.get(BATCH, "")


def _awaited(waiting: Mapping[str, _Asked], there: Iterable[Json]) -> int:
    """Return how many claims batches still wait for, beside those that are there."""
    given = Counter(map(_batch, there))
    return sum(max(one.count - given[batch], 0) for batch, one in waiting.items())


def _less(waiting: Mapping[str, _Asked], going: Iterable[Json]) -> dict[str, _Asked]:
    """Return what batches still want of what they asked for, when these of their claims were given back."""
    less = Counter(map(_batch, going))
    left = {batch: one.model_copy(update={"count": one.count - less[batch]}) for batch, one in waiting.items()}
    return {batch: one for batch, one in left.items() if one.count > 0}


def _named(claims: Iterable[Json], names: Collection[str]) -> list[Json]:
    return [claim for claim in claims if claim["metadata"]["name"] in names]


def _of_json(text: str) -> object:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text
