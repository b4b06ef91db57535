"""A copy of the objects of one kind that follows their changes: looking again at a quiet cluster costs nearly nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from tfscale.errors import GoneError
from tfscale.kube.port import Json, Kind, Kube, WatchEvent

__all__ = ["Mirror"]

T = TypeVar("T")


class Mirror(Generic[T]):
    """What `read` makes of the objects of one kind. Those of which it makes None are left out."""

    def __init__(self, kube: Kube, kind: Kind, read: Callable[[Json], T | None]) -> None:
        self._kube = kube
        self._kind = kind
        self._read = read
        self._version = ""
        self._items: dict[tuple[str, str], T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(self._items.values())

    def refresh(self) -> bool:
        """Follow what happened since the last call, and return whether any of the items changed."""
        if not self._version:
            return self._list()
        try:
            events = self._kube.watch(self._kind, resource_version=self._version, timeout_s=0)
            return sum(map(self._follow, events)) > 0
        except GoneError:
            return self._list()

    def _list(self) -> bool:
        listing = self._kube.list(self._kind)
        before, self._items = self._items, {}
        self._version = listing.resource_version
        return sum(map(self._take, listing.items)) > 0 or bool(before)

    def _follow(self, event: WatchEvent) -> bool:
        self._version = event.object["metadata"]["resourceVersion"]
        if event.type == "BOOKMARK":
            return False
        if event.type == "DELETED":
            return self._items.pop(_key(event.object), None) is not None
        return self._take(event.object)

    def _take(self, obj: Json) -> bool:
        before = self._items.pop(_key(obj), None)
        item = self._read(obj)
        if item is not None:
            self._items[_key(obj)] = item
        return not (before is None and item is None)


def _key(obj: Json) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
