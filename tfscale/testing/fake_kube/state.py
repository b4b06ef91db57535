"""What the API server in memory holds: objects and their owners, resource versions, and the log that watches read."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice

from tfscale.errors import GoneError
from tfscale.kube.port import CRDS, Json, Kind
from tfscale.testing.fake_kube import rules
from tfscale.testing.fake_kube.collecting import owner_uids
from tfscale.testing.fake_kube.owning import Owners
from tfscale.testing.fake_kube.shapes import Shape, defined, of_kind

__all__ = ["Change", "Key", "State", "key_of"]

_FIRST_VERSION = 1_000
"""Like a real server, whose own objects come first: version 1 is too old from the beginning."""

Key = tuple[Kind, str, str]
"""Kind, namespace and name."""


@dataclass(frozen=True, slots=True)
class Change:
    """One write."""

    kind: Kind
    before: Json | None
    after: Json | None
    """None when the object was deleted."""
    version: int


class State:
    """The stored objects, which nobody may change. Not safe for use from several threads."""

    def __init__(self, *, history: int) -> None:
        self.version = _FIRST_VERSION
        self._objects: dict[tuple[str, str], dict[tuple[str, str], Json]] = {}
        self._owners: dict[Key, Owners] = {}
        self._owned: dict[str, set[Key]] = {}
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._shapes: dict[tuple[str, str, str], Shape] = {}
        self._log: deque[Change] = deque(maxlen=history)

    def objects(self, kind: Kind) -> dict[tuple[str, str], Json]:
        """Return the objects of a kind by namespace and name."""
        return self._objects.setdefault((kind.group, kind.plural), {})

    def owners(self, key: Key) -> Owners:
        """Return who owns which fields of an object."""
        return self._owners.get(key, {})

    def owned_by(self, uid: str) -> list[Key]:
        """Return the objects that name an owner of this uid."""
        return sorted(self._owned.get(uid, ()), key=str)

    def kind_named(self, api_version: str, name: str) -> Kind | None:
        """Return the kind of this name, or None where there never was such an object."""
        return self._kinds.get((api_version.rpartition("/")[0], name))

    def shape(self, kind: Kind) -> Shape:
        """Return how objects of a kind are merged."""
        return self._shapes.get((kind.group, kind.version, kind.plural)) or of_kind(kind)

    def store(self, kind: Kind, before: Json | None, after: Json | None, owners: Owners | None) -> Json:
        """Store one change under a new version, unless nothing changed, and return a copy of the result.

        Without `owners` they stay as they are.
        """
        key = key_of(kind, after or before or {})
        owners = self.owners(key) if owners is None else owners
        if before is not None and after is not None and rules.same(before, after) and owners == self.owners(key):
            unchanged: Json = rules.copied(before)
            return unchanged
        self.version += 1
        new: Json = {**(after or before or {})}
        new["metadata"] = {**new["metadata"], "resourceVersion": str(self.version)}
        self._index(key, before, after)
        if after is None:
            del self.objects(kind)[key[1:]], self._owners[key]
        else:
            self.objects(kind)[key[1:]] = new
            self._owners[key] = owners
        self._log.append(Change(kind, before, None if after is None else new, self.version))
        result: Json = rules.copied(new)
        return result

    def forget(self) -> None:
        """Forget every change so far."""
        self._log.clear()

    def since(self, version: int) -> tuple[Change, ...]:
        """Return what changed after a version. Raises ``GoneError`` where that is forgotten."""
        # Every version has exactly one change, so the newest changes can be counted.
        missed = max(0, self.version - version)
        if missed > len(self._log):
            raise GoneError(f"resource version {version} is too old; the oldest is {self.version - len(self._log)}")
        return tuple(islice(reversed(self._log), missed))[::-1]

    def _index(self, key: Key, before: Json | None, after: Json | None) -> None:
        kind = key[0]
        self._kinds[kind.group, kind.kind] = kind
        for uid in owner_uids(before):
            self._owned[uid].discard(key)
        for uid in owner_uids(after):
            self._owned.setdefault(uid, set()).add(key)
        if kind == CRDS and after is not None:
            self._shapes |= defined(after)


def key_of(kind: Kind, obj: Json) -> Key:
    """Return what an object is stored under."""
    meta = obj["metadata"]
    return kind, meta.get("namespace", ""), meta["name"]
