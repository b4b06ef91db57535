"""The API server in memory: objects, resource versions and the log of changes that watches read."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from tfscale.errors import (
    AlreadyExistsError,
    ConflictError,
    GoneError,
    NotFoundError,
    RefusedObjectError,
    TooManyRequestsError,
)
from tfscale.kube.port import PODS, Json, Kind, Listing, WatchEvent
from tfscale.testing.fake_kube import rules
from tfscale.testing.fake_kube.deleting import deleting, grace_is_over, nothing_keeps
from tfscale.testing.fake_kube.selecting import Selection, requirements_of
from tfscale.testing.fake_kube.syntax import refusal

__all__ = ["BUDGETS", "FakeKube"]

BUDGETS = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", namespaced=True)
"""Evictions honour ``status.disruptionsAllowed`` of these; who computes it is up to the test."""

_FIRST_VERSION = 1_000
"""Like a real server, whose own objects come first: version 1 is too old from the beginning."""

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of generated names: no vowels, so no words."""


@dataclass(frozen=True, slots=True)
class _Change:
    kind: Kind
    before: Json | None
    after: Json | None
    """None when the object was deleted."""
    version: int


class FakeKube:
    """A Kubernetes API server in memory that behaves as the real one does, for tests and simulations.

    It implements :class:`tfscale.kube.port.Kube` for every kind that it is asked for. ``now`` gives the time of
    timestamps in seconds since the epoch and may be simulated; only the waiting of ``watch`` is in real time. With a
    ``seed``, uids and generated names repeat. Watches reach back ``history`` changes. Safe for use from several threads.

    What differs from a real cluster: namespaces need not exist, specs are not validated, default values are filled in
    only for pods, and nobody acts on the objects. Above all there are no kubelets: a bound pod that was deleted with a
    grace period stays, with its ``deletionTimestamp``, until ``end_terminations`` or a delete with grace period 0.

    >>> kube = FakeKube(now=lambda: 0.0, seed=1)
    >>> node = kube.create(Kind("", "v1", "nodes", "Node", namespaced=False), {"metadata": {"name": "gpu-0"}})
    >>> node["metadata"]["creationTimestamp"]
    '1970-01-01T00:00:00Z'
    """

    def __init__(self, *, now: Callable[[], float] = time.time, seed: int | None = None, history: int = 10_000) -> None:
        self._now = now
        self._random = random.Random(seed)  # noqa: S311  # identities of a simulation, no secrets
        self._version = _FIRST_VERSION
        self._objects: dict[tuple[str, str], dict[tuple[str, str], Json]] = {}
        self._log: deque[_Change] = deque(maxlen=history)
        self._changed = threading.Condition()

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """Return all objects that match, sorted by namespace and name."""
        selection = Selection.parse(kind, namespace=namespace, label_selector=label_selector, field_selector=field_selector)
        with self._changed:
            objects = self._objects_of(kind)
            chosen = [objects[key] for key in sorted(objects) if selection.matches(objects[key])]
            version = str(self._version)
        return Listing(items=rules.copied(chosen), resource_version=version)

    def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        timeout_s: int = 300,
    ) -> Iterator[WatchEvent]:
        """Yield what changed after ``resource_version``, then a BOOKMARK, and end after ``timeout_s`` seconds of real time.

        With ``timeout_s=0`` it gives what is there already and does not wait.
        """
        selection = Selection.parse(kind, namespace=namespace, label_selector=label_selector, field_selector=field_selector)
        if not resource_version.isdecimal():
            raise RefusedObjectError(f"watch of {kind.plural}: resourceVersion is {resource_version!r}; want one from a list")
        return self._events(kind, selection, int(resource_version), time.monotonic() + timeout_s)

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Return one object, or raise ``NotFoundError``."""
        with self._changed:
            current, _ = self._stored(kind, namespace, name)
        obj: Json = rules.copied(current)
        return obj

    def create(self, kind: Kind, obj: Json, *, namespace: str | None = None) -> Json:
        """Create and return the object. The namespace may be given in the object alone."""
        given = rules.as_json(obj)
        meta = given.get("metadata") or {}
        home = rules.namespace_of(kind, namespace, given)
        with self._changed:
            name = meta.get("name") or self._generated_name(kind, home, meta.get("generateName") or "")
            new = rules.created(kind, given, namespace=home, name=name, uid=self._uid(), now_s=self._now())
            if (home, name) in self._objects_of(kind):
                raise AlreadyExistsError(f"{rules.title(kind, home, name)} exists already")
            return self._commit(kind, None, new)

    def restore(self, kind: Kind, obj: Json) -> Json:
        """Store an object as another server had it, like one that is restored from a backup, and return it.

        Unlike with ``create``, its uid, timestamps, status and deletion stay as they are; only its resource version is new.
        """
        given = rules.as_json(obj)
        home, meta = rules.namespace_of(kind, None, given), given.get("metadata") or {}
        name = meta.get("name") or ""
        with self._changed:
            new = rules.restored(kind, given, namespace=home, name=name, uid=self._uid(), now_s=self._now())
            if (home, name) in self._objects_of(kind):
                raise AlreadyExistsError(f"{rules.title(kind, home, name)} exists already")
            return self._commit(kind, None, new)

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch. Removing the last finalizer of an object that is being deleted removes the object."""
        return self._patch(rules.changed, kind, name, patch, namespace)

    def patch_status(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to the status alone; kinds without that subresource raise ``NotFoundError``."""
        return self._patch(rules.changed_status, kind, name, patch, namespace)

    def delete(
        self,
        kind: Kind,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_period_s: int | None = None,
    ) -> None:
        """Delete. A finalizer, or the grace period of a bound pod, leaves the object with a ``deletionTimestamp``."""
        with self._changed:
            current, where = self._stored(kind, namespace, name)
            rules.check_expected(current, where, uid=uid, resource_version=resource_version)
            marked = deleting(kind, current, grace_period_s, self._now())
            self._commit(kind, current, None if nothing_keeps(marked) else marked)

    def evict(self, name: str, *, namespace: str, grace_period_s: int | None = None) -> None:
        """Delete a pod unless a PodDisruptionBudget object has no disruption left, which counts down by one.

        Source: pods that do not run yet or no more are not protected (kube-apiserver, eviction subresource).
        """
        with self._changed:
            pod, _ = self._stored(PODS, namespace, name)
            if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]:
                self._spend_disruption(pod)
            evicted = rules.with_condition(pod, "DisruptionTarget", self._now(), reason="EvictionByEvictionAPI")
            self._commit(PODS, pod, evicted)
            self.delete(PODS, name, namespace=namespace, grace_period_s=grace_period_s)

    def bind(self, name: str, *, namespace: str, node: str, uid: str, annotations: Mapping[str, str]) -> None:
        """Write node, annotations and the PodScheduled condition in one change. The node need not exist, as on a real server."""
        merged = rules.as_json(annotations)
        if not node:
            raise refusal(f"binding {namespace}/{name}", "target.name", node, "the name of a node")
        with self._changed:
            pod, where = self._stored(PODS, namespace, name)
            rules.check_expected(pod, where, uid=uid, resource_version=None)
            _check_bindable(pod, where)
            self._commit(PODS, pod, rules.bound(pod, node, merged, self._now()))

    def end_terminations(self) -> None:
        """Do what kubelets do: remove the bound pods whose grace period is over at ``now``."""
        with self._changed:
            for pod in tuple(self._objects_of(PODS).values()):
                if grace_is_over(pod, self._now()):
                    self.delete(PODS, pod["metadata"]["name"], namespace=pod["metadata"]["namespace"], grace_period_s=0)

    def _objects_of(self, kind: Kind) -> dict[tuple[str, str], Json]:
        return self._objects.setdefault((kind.group, kind.plural), {})

    def _stored(self, kind: Kind, namespace: str | None, name: str) -> tuple[Json, str]:
        """Return the stored object itself, which nobody may change, and what messages call it."""
        home = rules.namespace_of(kind, namespace, {})
        where = rules.title(kind, home, name)
        if name in ("", ".", ".."):
            raise refusal(kind.plural, "name", name, "the name of an object")
        try:
            return self._objects_of(kind)[home, name], where
        except KeyError:
            raise NotFoundError(f"{where} does not exist") from None

    def _patch(
        self,
        rule: Callable[[Kind, Json, Json, str], Json],
        kind: Kind,
        name: str,
        patch: Mapping[str, Any],
        namespace: str | None,
    ) -> Json:
        given = rules.as_json(patch)
        with self._changed:
            current, where = self._stored(kind, namespace, name)
            new = rule(kind, current, given, where)
            if not nothing_keeps(new):
                return self._commit(kind, current, new)
            self._commit(kind, current, None)
        gone: Json = rules.copied(new)
        return gone

    def _commit(self, kind: Kind, before: Json | None, after: Json | None) -> Json:
        """Store one change under a new version, unless nothing changed, and return a copy of the result."""
        if before is not None and after is not None and rules.same(before, after):
            unchanged: Json = rules.copied(before)
            return unchanged
        self._version += 1
        new: Json = {**(after or before or {})}
        new["metadata"] = {**new["metadata"], "resourceVersion": str(self._version)}
        key = new["metadata"].get("namespace", ""), new["metadata"]["name"]
        if after is None:
            del self._objects_of(kind)[key]
        else:
            self._objects_of(kind)[key] = new
        self._log.append(_Change(kind, before, None if after is None else new, self._version))
        self._changed.notify_all()
        result: Json = rules.copied(new)
        return result

    def _events(self, kind: Kind, selection: Selection, version: int, deadline: float) -> Iterator[WatchEvent]:
        while True:
            with self._changed:
                self._changed.wait_for(partial(self._is_past, version), max(0.0, deadline - time.monotonic()))
                changes = self._since(version)
                version = max(version, self._version)
            for change in changes:
                if (change.kind.group, change.kind.plural) == (kind.group, kind.plural):
                    yield from _event(change, selection)
            if time.monotonic() >= deadline:
                break
        yield WatchEvent("BOOKMARK", {"kind": kind.kind, "metadata": {"resourceVersion": str(version)}})

    def _is_past(self, version: int) -> bool:
        return self._version > version

    def _since(self, version: int) -> tuple[_Change, ...]:
        # Every version has exactly one change, so the newest changes can be counted.
        missed = max(0, self._version - version)
        if missed > len(self._log):
            raise GoneError(f"resource version {version} is too old; the oldest is {self._version - len(self._log)}")
        return tuple(islice(reversed(self._log), missed))[::-1]

    def _uid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _generated_name(self, kind: Kind, namespace: str, prefix: str) -> str:
        if not prefix:
            raise refusal(kind.kind.lower(), "metadata.name", "", "a name or generateName")
        while True:
            name = prefix[:58] + "".join(self._random.choices(_SUFFIX, k=5))
            if (namespace, name) not in self._objects_of(kind):
                return name

    def _spend_disruption(self, pod: Json) -> None:
        meta = pod["metadata"]
        for budget in tuple(self._objects_of(BUDGETS).values()):
            selector = budget["spec"].get("selector")
            if budget["metadata"]["namespace"] != meta["namespace"] or selector is None:
                continue
            if not all(requirement.matches(meta.get("labels") or {}) for requirement in requirements_of(selector)):
                continue
            status = budget.get("status") or {}
            left = status.get("disruptionsAllowed", 0)
            if left < 1:
                message = f"pod {meta['namespace']}/{meta['name']}: budget {budget['metadata']['name']} allows no disruption now"
                raise TooManyRequestsError(message, retry_after_s=10)
            self._commit(BUDGETS, budget, {**budget, "status": {**status, "disruptionsAllowed": left - 1}})


def _check_bindable(pod: Json, where: str) -> None:
    if "deletionTimestamp" in pod["metadata"]:
        raise ConflictError(f"{where} is being deleted, cannot be assigned to a host")
    if node := pod["spec"].get("nodeName"):
        raise ConflictError(f"{where} is already assigned to node {node!r}")
    if pod["spec"].get("schedulingGates"):
        raise ConflictError(f"{where} has non-empty .spec.schedulingGates")


def _event(change: _Change, selection: Selection) -> Iterator[WatchEvent]:
    """Yield what a watcher of this selection sees of a change: at most one event."""
    was, is_now = selection.matches(change.before), selection.matches(change.after)
    if is_now:
        yield WatchEvent("MODIFIED" if was else "ADDED", rules.copied(change.after))
    elif was and change.before is not None:
        # Reported as it last was, under the version of this change.
        meta = {**change.before["metadata"], "resourceVersion": str(change.version)}
        yield WatchEvent("DELETED", rules.copied({**change.before, "metadata": meta}))
