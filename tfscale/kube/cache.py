"""The cluster as a tick reads it: pods, nodes and claims from memory, everything else from the API server.

A cache that is behind must never make anybody buy. So a list from memory is refused where it may be wrong: before the first
list is complete, when nothing was heard of the cluster for too long, and while it does not show what was written through it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from tfscale.errors import ClusterError, ClusterUnreachableError, ForbiddenError, NotFoundError
from tfscale.kube.kept import kept
from tfscale.kube.own_writes import OwnWrites
from tfscale.kube.port import FIELD_MANAGER, NODE_CLAIMS, NODES, PODS, Json, Kind, Kube, Listing, WatchEvent
from tfscale.kube.reflector import Pace, Reflector
from tfscale.kube.requests import TENSOR_FUSION
from tfscale.kube.store import Store

__all__ = ["Cache", "Patience"]

log = logging.getLogger(__name__)

_PACE = Pace()
_EQUALITIES = re.compile(r"[^\s=!<>(),]+==?[^\s=!<>(),]*(,[^\s=!<>(),]+==?[^\s=!<>(),]*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a list from memory waits for what, in seconds, before it is refused."""

    first_list_s: float = 30.0
    """For the first list of a kind."""
    own_write_s: float = 5.0
    """For the watch to bring what was written through the cache."""
    max_age_s: float = 150.0
    """How old the objects may be: two bookmarks, which come about every minute, may be missed."""


class Cache:
    """A :class:`~tfscale.kube.port.Kube` that serves lists of some kinds from memory while its ``with`` block runs.

    Such a list shows at least every write that was made through this cache before; one that cannot, or that may be too old,
    raises ``ClusterUnreachableError``. Its objects are shared and cut to what tfscale reads (:mod:`tfscale.kube.kept`): do
    not change them, and do not write them back. ``get``, ``watch``, lists with a field selector or with anything but
    ``key=value`` in the label selector, and all other kinds go to the API server. Records are not meant to be cached: they
    are few, and what is bought is decided on what they say at that moment.

    A kind `on_demand` is followed from its first list on: clusters without Karpenter have no claims, and a service account
    that needs none may not read them. `prefix` is that of TensorFusion's annotations. Safe for use from several threads.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        kinds: Collection[Kind] = (PODS, NODES),
        on_demand: Collection[Kind] = (NODE_CLAIMS,),
        prefix: str = TENSOR_FUSION,
        pace: Pace = _PACE,
        patience: Patience = Patience(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._patience = patience
        self._clock = clock
        reflectors = [
            Reflector(kube, kind, keep=kept(kind, prefix=prefix), pace=pace, clock=clock) for kind in (*kinds, *on_demand)
        ]
        self._cached = {one.kind: _Cached(one, OwnWrites(one.store, clock=clock)) for one in reflectors}
        self._waiting = {kind for kind in on_demand if kind not in kinds}
        """Kinds that nobody has asked for yet."""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to list and watch; nobody waits for that here."""
        for one in self._followed():
            one.reflector.start()

    def stop(self) -> None:
        """End all threads, within about a second. Lists are refused when their time is over."""
        for one in self._cached.values():
            one.reflector.request_stop()
        for one in self._cached.values():
            one.reflector.stop()

    def synced(self) -> bool:
        """Return whether lists of every kind that the cluster serves can be answered now."""
        return all(one.unserved or self._refusal(one) is None for one in self._followed())

    def resync(self) -> None:
        """Replace everything by lists that begin now. Raises ``ClusterError`` where one cannot be had.

        For a replica that begins to lead: what another wrote a moment ago is in them.
        """
        for one in self._followed():
            try:
                one.reflector.relist()
            except NotFoundError:
                log.debug("%s are not served", one.reflector.kind.plural)

    def age_s(self, kind: Kind) -> float:
        """Return since how many seconds it is not known whether objects of a kind have changed; infinity before the first list.

        After the process stood still this may be too little for a moment, by no more than ``Pace.silence_s``.
        """
        return self._cached[kind].store.age_s()

    # --- reading ---

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """Return all objects that match: shared ones where the kind is cached."""
        one = self._cached.get(kind)
        if one is None or field_selector or (label_selector and not _EQUALITIES.fullmatch(label_selector)):
            return self._kube.list(kind, namespace=namespace, label_selector=label_selector, field_selector=field_selector)
        self._begin(kind, one)
        self._await_first_list(kind, one)
        if one.store.failure:
            # The watch brings nothing at the moment, perhaps after an outage that is over: a list tells what is true now.
            one.reflector.relist()
        self._await_own_writes(kind, one)
        if refusal := self._refusal(one):
            raise refusal
        found = one.store.listing()
        if namespace is None and not label_selector:
            return found
        wanted = dict(part.replace("==", "=").split("=") for part in label_selector.split(",") if part)
        chosen = [obj for obj in found.items if _matches(obj["metadata"], namespace, wanted)]
        return Listing(items=chosen, resource_version=found.resource_version)

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
        """Yield what changed, from the API server."""
        return self._kube.watch(
            kind,
            resource_version=resource_version,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            timeout_s=timeout_s,
        )

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Return one object, from the API server."""
        return self._kube.get(kind, name, namespace=namespace)

    def _followed(self) -> Collection[_Cached]:
        with self._lock:
            return [one for kind, one in self._cached.items() if kind not in self._waiting]

    def _begin(self, kind: Kind, one: _Cached) -> None:
        with self._lock:
            first = kind in self._waiting
            self._waiting.discard(kind)
        if first:
            one.reflector.start()

    def _await_first_list(self, kind: Kind, one: _Cached) -> None:
        store = one.store
        store.wait(lambda: bool(store.version) or one.unserved, self._patience.first_list_s)
        if store.version:
            return
        failure = store.failure
        if isinstance(failure, NotFoundError | ForbiddenError):
            raise type(failure)(str(failure))
        raise ClusterUnreachableError(f"list {kind.plural}: there was no first list yet: {failure or 'it is still coming in'}")

    def _await_own_writes(self, kind: Kind, one: _Cached) -> None:
        """Wait until the objects show every write that was made before."""
        if one.writes.need_list():
            one.reflector.relist()
        if late := one.writes.late(self._patience.own_write_s):
            # The next list does not wait for the watch again.
            one.writes.doubt()
            raise ClusterUnreachableError(f"list {kind.plural}: the watch lags, it has not brought {late} yet")

    def _refusal(self, one: _Cached) -> ClusterError | None:
        """Return why a list cannot be answered from memory now, or None."""
        if isinstance(failure := one.store.failure, ForbiddenError):
            return ForbiddenError(str(failure))
        if (age_s := one.store.age_s()) > self._patience.max_age_s:
            most_s = self._patience.max_age_s
            known = f"what is known is {age_s:.0f} s old; want at most {most_s:g} s ({failure or 'nothing was heard since'})"
            return ClusterUnreachableError(f"list {one.reflector.kind.plural}: {known}")
        return None

    # --- writing ---

    def create(self, kind: Kind, obj: Json, *, namespace: str | None = None) -> Json:
        """Create and return the object."""
        own = self._own_writes(kind)
        with own.sent():
            return own.returned(self._kube.create(kind, obj, namespace=namespace))

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to everything but the status."""
        own = self._own_writes(kind)
        with own.sent():
            return own.returned(self._kube.patch(kind, name, patch, namespace=namespace))

    def patch_status(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to the status alone."""
        own = self._own_writes(kind)
        with own.sent():
            return own.returned(self._kube.patch_status(kind, name, patch, namespace=namespace))

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
        """Make the object carry these fields."""
        own = self._own_writes(kind)
        how: dict[str, Any] = {"namespace": namespace, "force": force, "subresource": subresource, "manager": manager}
        with own.sent():
            return own.returned(self._kube.apply(kind, obj, **how))

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
        """Delete, or mark as deleted where finalizers remain."""
        own = self._own_writes(kind)
        gone = own.gone(name, namespace, uid)
        how: dict[str, Any] = {"uid": uid, "resource_version": resource_version, "grace_period_s": grace_period_s}
        with own.sent():
            self._kube.delete(kind, name, namespace=namespace, **how)
        own.expect(f"the delete of {name}", gone)

    def evict(self, name: str, *, namespace: str, uid: str | None = None, grace_period_s: int | None = None) -> None:
        """Evict a pod."""
        own = self._own_writes(PODS)
        gone = own.gone(name, namespace)
        with own.sent():
            self._kube.evict(name, namespace=namespace, uid=uid, grace_period_s=grace_period_s)
        own.expect(f"the eviction of {namespace}/{name}", gone)

    def bind(self, name: str, *, namespace: str, node: str, uid: str, annotations: Mapping[str, str]) -> None:
        """Bind a pod."""
        own = self._own_writes(PODS)
        with own.sent():
            self._kube.bind(name, namespace=namespace, node=node, uid=uid, annotations=annotations)
        own.expect(f"the binding of {namespace}/{name}", own.bound(name, namespace, uid))

    def _own_writes(self, kind: Kind) -> OwnWrites:
        """Return what takes note of writes; for a kind that is not cached nobody asks for them again."""
        one = self._cached.get(kind)
        return one.writes if one else OwnWrites(Store())


@dataclass(frozen=True, slots=True)
class _Cached:
    """One kind."""

    reflector: Reflector
    writes: OwnWrites

    @property
    def store(self) -> Store:
        return self.reflector.store

    @property
    def unserved(self) -> bool:
        """Whether the API server does not know the kind, as far as is known now."""
        return isinstance(self.store.failure, NotFoundError) and not self.store.version


def _matches(meta: Json, namespace: str | None, labels: Mapping[str, str]) -> bool:
    given = meta.get("labels") or {}
    return namespace in (None, meta.get("namespace")) and all(given.get(key) == value for key, value in labels.items())
