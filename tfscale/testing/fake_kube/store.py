"""The API server in memory: objects, resource versions and the log of changes that watches read."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

from tfscale.errors import AlreadyExistsError, ConflictError, NotFoundError, RefusedObjectError
from tfscale.kube.port import DISRUPTION_BUDGETS, FIELD_MANAGER, PODS, Json, Kind, Listing, WatchEvent
from tfscale.testing.fake_kube import owning, rules
from tfscale.testing.fake_kube.budgets import check_eviction, selects
from tfscale.testing.fake_kube.controllers import Controllers
from tfscale.testing.fake_kube.deleting import deleting, grace_is_over, nothing_keeps
from tfscale.testing.fake_kube.nulls import settled
from tfscale.testing.fake_kube.owning import Manager, Owners
from tfscale.testing.fake_kube.selecting import Selection
from tfscale.testing.fake_kube.state import Change, Key, State, key_of
from tfscale.testing.fake_kube.syntax import refusal

__all__ = ["FakeKube"]

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of generated names: no vowels, so no words."""


class FakeKube:
    """A Kubernetes API server in memory that behaves as the real one does, for tests and simulations.

    It implements :class:`tfscale.kube.port.Kube` for every kind that it is asked for. ``now`` gives the time of
    timestamps in seconds since the epoch and may be simulated; only the waiting of ``watch`` is in real time. With a
    ``seed``, uids and generated names repeat. Watches reach back ``history`` changes, and bring a bookmark every
    ``bookmark_s`` seconds. Safe for use from several threads.

    Disruption budgets are counted and objects without their owners collected at once, where a cluster's controllers take a
    moment. How lists of custom resources are merged it learns from the definitions that are created in it.

    What differs from a real cluster: namespaces need not exist, hardly any spec is validated, default values are filled in
    only for pods, and nobody else acts on the objects. Above all there are no kubelets: a bound pod that was deleted with a
    grace period stays, with its ``deletionTimestamp``, until ``end_terminations`` or a delete with grace period 0.

    >>> kube = FakeKube(now=lambda: 0.0, seed=1)
    >>> node = kube.create(Kind("", "v1", "nodes", "Node", namespaced=False), {"metadata": {"name": "gpu-0"}})
    >>> node["metadata"]["creationTimestamp"]
    '1970-01-01T00:00:00Z'
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,
        seed: int | None = None,
        history: int = 10_000,
        bookmark_s: float = 60.0,
    ) -> None:
        self._now = now
        self._random = random.Random(seed)  # noqa: S311  # identities of a simulation, no secrets
        self._state = State(history=history)
        self._controllers = Controllers(self._state, now=now, delete=self._delete)
        self._bookmark_s = bookmark_s
        self._changed = threading.Condition()

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """Return all objects that match, sorted by namespace and name."""
        selection = Selection.parse(kind, namespace=namespace, label_selector=label_selector, field_selector=field_selector)
        with self._changed:
            objects = self._state.objects(kind)
            chosen = [objects[key] for key in sorted(objects) if selection.matches(objects[key])]
            version = str(self._state.version)
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
            if (home, name) in self._state.objects(kind):
                raise AlreadyExistsError(f"{rules.title(kind, home, name)} exists already")
            return self._commit(kind, None, new, owning.created(new, self._state.shape(kind)))

    def restore(self, kind: Kind, obj: Json) -> Json:
        """Store an object as another server had it, like one that is restored from a backup, and return it.

        Unlike with ``create``, its uid, timestamps, status and deletion stay as they are; only its resource version is new.
        Its owners may be restored later, or never: it is not collected for their absence.
        """
        given = rules.as_json(obj)
        home, meta = rules.namespace_of(kind, None, given), given.get("metadata") or {}
        name = meta.get("name") or ""
        with self._changed:
            new = rules.restored(kind, given, namespace=home, name=name, uid=self._uid(), now_s=self._now())
            if (home, name) in self._state.objects(kind):
                raise AlreadyExistsError(f"{rules.title(kind, home, name)} exists already")
            self._changed.notify_all()
            return self._state.store(kind, None, new, {})

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch. Removing the last finalizer of an object that is being deleted removes the object."""
        return self._patch(rules.changed, kind, name, patch, namespace, Manager())

    def patch_status(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to the status alone; kinds without that subresource raise ``NotFoundError``."""
        return self._patch(rules.changed_status, kind, name, patch, namespace, Manager(subresource="status"))

    def apply(
        self,
        kind: Kind,
        obj: Json,
        *,
        namespace: str | None = None,
        force: bool = False,
        subresource: Literal["", "status"] = "",
        manager: str = FIELD_MANAGER,
    ) -> Json:
        """Make the object carry these fields; create it where it does not exist."""
        given = rules.applicable(kind, obj, manager=manager, subresource=subresource)
        meta, home = given["metadata"], rules.namespace_of(kind, namespace, given)
        who, shape = Manager(manager, "Apply", subresource), self._state.shape(kind)
        with self._changed:
            if not subresource and (home, meta["name"]) not in self._state.objects(kind):
                return self._apply_first(kind, given, home, who)
            current, where = self._stored(kind, home or None, meta["name"])
            rules.check_expected(current, where, uid=meta.get("uid"), resource_version=meta.get("resourceVersion"))
            part = rules.applied_part(kind, given, subresource)
            owners = self._state.owners((kind, home, meta["name"]))
            wanted, owners = owning.applied(owners, current, part, shape, who, force=force, where=where)
            rule = rules.replaced_status if subresource else rules.replaced
            new = rule(kind, current, settled(kind, wanted, shape, where), where)
            return self._replace(kind, current, new, owners)

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
            if nothing_keeps(marked) and kind != PODS:
                self._commit(kind, current, None)
                return
            # A pod is marked also where it goes at once: who watches sees both.
            self._commit(kind, current, marked)
            if nothing_keeps(marked):
                self._commit(kind, self._stored(kind, namespace, name)[0], None)

    def evict(self, name: str, *, namespace: str, uid: str | None = None, grace_period_s: int | None = None) -> None:
        """Delete a pod unless its PodDisruptionBudget allows no disruption now."""
        with self._changed:
            pod, where = self._stored(PODS, namespace, name)
            rules.check_expected(pod, where, uid=uid, resource_version=None)
            budgets = [budget for budget in self._state.objects(DISRUPTION_BUDGETS).values() if selects(budget, pod)]
            check_eviction(pod, budgets, where)
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

    def forget_history(self) -> None:
        """Forget every change so far, as a server that compacted: a watch from before now, also an open one, is gone (410)."""
        with self._changed:
            self._state.forget()

    def end_terminations(self) -> None:
        """Do what kubelets do: remove the bound pods whose grace period is over at ``now``."""
        with self._changed:
            for pod in tuple(self._state.objects(PODS).values()):
                if grace_is_over(pod, self._now()):
                    self.delete(PODS, pod["metadata"]["name"], namespace=pod["metadata"]["namespace"], grace_period_s=0)

    def _stored(self, kind: Kind, namespace: str | None, name: str) -> tuple[Json, str]:
        """Return the stored object itself, which nobody may change, and what messages call it."""
        home = rules.namespace_of(kind, namespace, {})
        where = rules.title(kind, home, name)
        if name in ("", ".", ".."):
            raise refusal(kind.plural, "name", name, "the name of an object")
        try:
            return self._state.objects(kind)[home, name], where
        except KeyError:
            raise NotFoundError(f"{where} does not exist") from None

    def _patch(
        self,
        rule: Callable[[Kind, Json, Json, str], Json],
        kind: Kind,
        name: str,
        patch: Mapping[str, Any],
        namespace: str | None,
        manager: Manager,
    ) -> Json:
        given = rules.as_json(patch)
        with self._changed:
            current, where = self._stored(kind, namespace, name)
            new = rule(kind, current, given, where)
            owners = owning.updated(self._state.owners(key_of(kind, current)), current, new, self._state.shape(kind), manager)
            return self._replace(kind, current, new, owners)

    def _apply_first(self, kind: Kind, given: Json, namespace: str, manager: Manager) -> Json:
        meta = given["metadata"]
        if meta.get("uid"):
            raise ConflictError(
                f"{rules.title(kind, namespace, meta['name'])} does not exist; the request expected {meta['uid']!r}"
            )
        # That it expects a version does not keep an apply from creating the object again: so it is on the real server.
        bare = {**given, "metadata": {name: value for name, value in meta.items() if name != "resourceVersion"}}
        new = rules.created(kind, bare, namespace=namespace, name=meta["name"], uid=self._uid(), now_s=self._now())
        owners = owning.applied_first(given, self._state.shape(kind), manager, rules.title(kind, namespace, meta["name"]))
        return self._commit(kind, None, new, owners)

    def _replace(self, kind: Kind, current: Json, new: Json, owners: Owners) -> Json:
        """Store the object, or remove it when the last finalizer of an object that is being deleted is gone."""
        if not nothing_keeps(new):
            return self._commit(kind, current, new, owners)
        self._commit(kind, current, None)
        gone: Json = rules.copied(new)
        return gone

    def _commit(self, kind: Kind, before: Json | None, after: Json | None, owners: Owners | None = None) -> Json:
        """Store one change, let controllers act on it, and return a copy of the result. Without `owners` they stay."""
        result = self._state.store(kind, before, after, owners)
        self._controllers.after(kind, before, after)
        self._changed.notify_all()
        return result

    def _delete(self, key: Key) -> None:
        kind, namespace, name = key
        self.delete(kind, name, namespace=namespace or None)

    def _events(self, kind: Kind, selection: Selection, version: int, deadline: float) -> Iterator[WatchEvent]:
        bookmark_at = time.monotonic() + self._bookmark_s
        while True:
            with self._changed:
                wait_s = min(deadline, bookmark_at) - time.monotonic()
                self._changed.wait_for(partial(self._is_past, version), max(0.0, wait_s))
                changes = self._state.since(version)
                version = max(version, self._state.version)
            for change in changes:
                if (change.kind.group, change.kind.plural) == (kind.group, kind.plural):
                    yield from _event(change, selection)
            now_s = time.monotonic()
            if now_s >= deadline:
                break
            if now_s >= bookmark_at:
                bookmark_at = now_s + self._bookmark_s
                yield _bookmark(kind, version)
        yield _bookmark(kind, version)

    def _is_past(self, version: int) -> bool:
        return self._state.version > version

    def _uid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _generated_name(self, kind: Kind, namespace: str, prefix: str) -> str:
        if not prefix:
            raise refusal(kind.kind.lower(), "metadata.name", "", "a name or generateName")
        while True:
            name = prefix[:58] + "".join(self._random.choices(_SUFFIX, k=5))
            if (namespace, name) not in self._state.objects(kind):
                return name


def _check_bindable(pod: Json, where: str) -> None:
    if "deletionTimestamp" in pod["metadata"]:
        raise ConflictError(f"{where} is being deleted, cannot be assigned to a host")
    if node := pod["spec"].get("nodeName"):
        raise ConflictError(f"{where} is already assigned to node {node!r}")
    if pod["spec"].get("schedulingGates"):
        raise ConflictError(f"{where} has non-empty .spec.schedulingGates")


def _bookmark(kind: Kind, version: int) -> WatchEvent:
    meta = {"resourceVersion": str(version), "creationTimestamp": None}
    return WatchEvent("BOOKMARK", {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta})


def _event(change: Change, selection: Selection) -> Iterator[WatchEvent]:
    """Yield what a watcher of this selection sees of a change: at most one event."""
    was, is_now = selection.matches(change.before), selection.matches(change.after)
    if is_now:
        yield WatchEvent("MODIFIED" if was else "ADDED", rules.copied(change.after))
    elif was and change.before is not None:
        # Reported as it last was, under the version of this change.
        meta = {**change.before["metadata"], "resourceVersion": str(change.version)}
        yield WatchEvent("DELETED", rules.copied({**change.before, "metadata": meta}))
