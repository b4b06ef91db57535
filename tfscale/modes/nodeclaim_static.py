"""Nodes of static NodePools: Karpenter keeps as many as ``spec.replicas`` says, so that is where more are asked for.

Karpenter makes the claims and chooses which go. What is ours is therefore a number, written on the NodePool together with
``spec.replicas`` in one step, and marks on the claims. Whatever is lost between two steps, the rest are never ours.
Source: Karpenter 1.14, its static provisioning and deprovisioning: claims that are not launched yet go first, then empty nodes.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from tfscale.errors import ConflictError, LaunchRefusedError, ModeError, NotFoundError
from tfscale.kube.fields import named
from tfscale.kube.nodes import POOL_LABEL
from tfscale.kube.port import NODE_CLAIMS, NODE_POOLS, Json
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
_LOOKS, _LOOK_S = 20, 0.25
"""How often, and how far apart, it is looked whether Karpenter has made the claims. Later the call is made again."""


class _Asked(Spec):
    count: int = Field(ge=1)
    until: int
    """When nobody waits for it any more: seconds since the epoch."""


class _Scaled(Spec):
    """What the annotation says."""

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
    scaled: _Scaled
    marked: Sequence[Json]
    others: Sequence[Json]
    """Claims without our mark, the youngest first."""

    def of(self, batch: str) -> list[Json]:
        """Return the claims that a batch has."""
        return [claim for claim in self.marked if claim["metadata"]["annotations"].get(BATCH) == batch]

    @property
    def spare(self) -> Sequence[Json]:
        """Claims without mark that are ours by number: the youngest ones beyond what others asked for."""
        asked_by_others = self.replicas - self.scaled.ours
        return self.others[: max(len(self.others) - asked_by_others, 0)]

    @property
    def awaited(self) -> int:
        """How many claims batches still wait for."""
        hoping = {batch: one.count for batch, one in self.scaled.waiting.items() if one.until > self.now_s}
        return sum(max(count - len(self.of(batch)), 0) for batch, count in hoping.items())

    @property
    def owned(self) -> list[Json]:
        """The claims that are ours: Karpenter replaces one that is lost, and what it makes instead has no mark."""
        return [*self.marked, *self.spare[self.awaited :]]


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

    def owned(self) -> dict[str, Json]:
        """Return the claims of static NodePools that are this pool's without mark or with it, by name."""
        found = [claim for seen in self._all() for claim in seen.owned]
        return {claim["metadata"]["name"]: claim for claim in found}

    def names(self) -> set[str]:
        """Return the names of the static NodePools of this pool."""
        return {seen.name for seen in self._all()}

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
                if len(given) < count:
                    if self._clock() < until_s:
                        raise ModeError(f"nodepool {name}: Karpenter has made {len(given)} of {count} nodes that were asked for")
                    self._forgo(name, batch.name)
            except NotFoundError as error:
                # Its nodes go with it.
                raise LaunchRefusedError(f"launch {batch.name}: {error}") from error
        log.info("launch %s: nodepool %s gave %d of %d nodes", batch.name, name, len(given), count)
        if not given:
            why = "Karpenter made no node: is its feature gate StaticCapacity on?"
            raise LaunchRefusedError(f"launch {batch.name}: nodepool {name} was scaled, and {why}")
        return results_of(batch, [self._machine(claim) for claim in given])

    def give_back(self, names: Collection[str]) -> None:
        """Ask for so many nodes less, once; where Karpenter chose others than these claims, these are made anew for others."""
        with translated("terminate"):
            for pool in self.names():
                for gone in self._lowered(pool, names):
                    meta = gone["metadata"]
                    log.info("nodepool %s: Karpenter took another node than %s, which is made anew", pool, meta["name"])
                    self._kube.delete(NODE_CLAIMS, meta["name"], uid=meta["uid"])

    # --- how many are ours ---

    def _ask(self, name: str, batch: str, wish: _Asked) -> None:
        def asked(seen: _Seen) -> _Scaled | None:
            if batch in seen.scaled.waiting or seen.of(batch) or wish.until <= seen.now_s:
                return None
            return _Scaled(ours=seen.scaled.ours + wish.count, waiting={**seen.scaled.waiting, batch: wish})

        self._change(name, asked)

    def _forgo(self, name: str, batch: str) -> None:
        """Ask no more for what a batch did not get."""

        def forgone(seen: _Seen) -> _Scaled | None:
            waiting = {key: one for key, one in seen.scaled.waiting.items() if key != batch}
            without = replace(seen, scaled=seen.scaled.model_copy(update={"waiting": waiting}))
            due = len(without.owned) + without.awaited
            return _Scaled(ours=due, waiting=waiting) if due < seen.scaled.ours else None

        self._change(name, forgone)

    def _lowered(self, name: str, ids: Collection[str]) -> list[Json]:
        """Ask for as many nodes less as are to go, and return those that Karpenter spared although it is done."""

        def lowered(seen: _Seen) -> _Scaled | None:
            going = _named(seen.owned, ids)
            staying = len(seen.owned) - len(going) + seen.awaited
            if not going or staying >= seen.scaled.ours:
                return None
            less = Counter((claim["metadata"].get("annotations") or {}).get(BATCH) for claim in going)
            left = {key: one.model_copy(update={"count": one.count - less[key]}) for key, one in seen.scaled.waiting.items()}
            return _Scaled(ours=staying, waiting={key: one for key, one in left.items() if one.count > 0})

        changed, seen = self._change(name, lowered)
        done = not changed and len(seen.marked) + len(seen.others) <= seen.replicas
        return _named(seen.marked, ids) if done else []

    def _change(self, name: str, change: Callable[[_Seen], _Scaled | None]) -> tuple[bool, _Seen]:
        """Write the number that is ours and with it ``spec.replicas``; return whether that was needed."""
        for left in reversed(range(_TRIES)):
            seen = self._look(name)
            scaled = change(seen)
            if scaled is None:
                return False, seen
            replicas = max(seen.replicas + scaled.ours - seen.scaled.ours, 0)
            waiting = {key: one for key, one in scaled.waiting.items() if one.until > seen.now_s}
            note = _Scaled(ours=scaled.ours, of=replicas, waiting=waiting).model_dump_json(by_alias=True)
            annotations = {SCALED: note if scaled.ours or waiting else None}
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

    # --- which claims are ours ---

    def _marked(self, name: str, batch: str, count: int) -> list[Json]:
        """Mark claims until the batch has all that it asked for, or for as long as one call may take."""
        for left in reversed(range(_LOOKS)):
            seen = self._look(name)
            given = [*seen.of(batch), *self._mark(seen.spare[: count - len(seen.of(batch))], batch)]
            if len(given) >= count or not left:
                return given
            self._sleep(_LOOK_S)
        return []

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

    def _all(self) -> list[_Seen]:
        pools = [obj for obj in self._kube.list(NODE_POOLS).items if self._is_static(obj)]
        return [self._seen(obj) for obj in pools]

    def _look(self, name: str) -> _Seen:
        return self._seen(self._kube.get(NODE_POOLS, name))

    def _is_static(self, obj: Json) -> bool:
        root = named("nodepool", obj)
        labelled = root.at("spec", "template", "metadata", "labels", POOL_LABEL).text() == self._pool.name
        return labelled and root.at("spec", "replicas").given

    def _seen(self, obj: Json) -> _Seen:
        """Return the NodePool with its claims. Raises ``BadInputError`` for an annotation that somebody else wrote."""
        root = named("nodepool", obj)
        name, replicas = root.at("metadata", "name").needed(), root.at("spec", "replicas").whole()
        note = root.at("metadata", "annotations", SCALED)
        scaled = parse(_Scaled, _of_json(note.text()), where=note.where, field=note.path)
        claims = self._kube.list(NODE_CLAIMS, label_selector=f"{NODE_POOL}={name}").items
        living = [claim for claim in claims if "deletionTimestamp" not in claim["metadata"]]
        young_first = sorted(living, key=lambda claim: (claim["metadata"]["creationTimestamp"], claim["metadata"]["name"]))[::-1]
        return _Seen(
            name=name,
            version=root.at("metadata", "resourceVersion").needed(),
            now_s=self._clock(),
            replicas=replicas,
            scaled=_believed(scaled, replicas),
            marked=[claim for claim in living if self._is_marked(claim)],
            others=[claim for claim in young_first if not self._is_marked(claim)],
        )

    def _is_marked(self, claim: Json) -> bool:
        notes: Mapping[str, str] = claim["metadata"].get("annotations") or {}
        return notes.get(MODE) == self._mode


def _believed(scaled: _Scaled, replicas: int) -> _Scaled:
    """Return what is ours where somebody else changed ``spec.replicas`` since: what he took away was ours."""
    taken = max(scaled.of - replicas, 0)
    return scaled.model_copy(update={"ours": min(max(scaled.ours - taken, 0), replicas)})


def _named(claims: Iterable[Json], names: Collection[str]) -> list[Json]:
    return [claim for claim in claims if claim["metadata"]["name"] in names]


def _of_json(text: str) -> object:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text
