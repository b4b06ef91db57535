"""Who owns which fields of an object, and what an apply makes of that.

Source: Kubernetes documentation, "Server-Side Apply"; each rule is asserted against kube-apiserver 1.35 by
:class:`tfscale.testing.KubeContract`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from tfscale.errors import ClusterError, ConflictError
from tfscale.kube.port import FIELD_MANAGER, Json
from tfscale.testing.fake_kube.paths import Paths, Tree, merged, printed, without
from tfscale.testing.fake_kube.shapes import Shape

__all__ = ["Manager", "Owners", "applied", "applied_first", "created", "updated"]


class Manager(NamedTuple):
    """Who writes. The same name owns apart what it applies and what it writes otherwise, and the status from the rest."""

    name: str = FIELD_MANAGER
    operation: Literal["Apply", "Update"] = "Update"
    subresource: Literal["", "status"] = ""


Owners = Mapping[Manager, Paths]

_WRITER = Manager()

_EVERYONE_BEFORE = Manager("before-first-apply")
"""Owns what is there when an object that nobody owns a field of is applied to."""

_ADDRESS = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")
_NOBODYS = {("f:apiVersion",), ("f:kind",), ("f:metadata",), *(("f:metadata", f"f:{name}") for name in _ADDRESS)}


def created(obj: Json, shape: Shape, manager: Manager = _WRITER) -> Owners:
    """Return the owners of a new object: whoever created it owns all but the status."""
    return _owning({}, manager, _own(Tree(obj, shape).everything, manager))


def applied_first(given: Json, shape: Shape, manager: Manager, where: str) -> Owners:
    """Return the owners of an object that an apply created: what was defaulted belongs to nobody."""
    return _owning({}, manager, _own(_said(given, shape, where), manager))


def updated(owners: Owners, before: Json, after: Json, shape: Shape, manager: Manager) -> Owners:
    """Return the owners after a write that is no apply: what it changes is its own, and nobody else's.

    Of an object that nobody owns a field of, as after an apply that named none, nobody is noted before the next apply.
    """
    if not owners:
        return owners
    old, new = _changed_parts(before, after)
    written, removed = Tree(old, shape).changes(Tree(new, shape))
    taken = _own(written, manager)
    others = {other: paths - written - removed for other, paths in owners.items()}
    return _owning(others, manager, others.get(manager, frozenset()) | taken)


def applied(
    owners: Owners, live: Json, given: Json, shape: Shape, manager: Manager, *, force: bool, where: str
) -> tuple[Json, Owners]:
    """Return object and owners after an apply. What others own with another value raises ``ConflictError``."""
    owners = owners or created(live, shape, _EVERYONE_BEFORE._replace(subresource=manager.subresource))
    said = _said(given, shape, where)
    new = _pruned(merged(live, given, shape), owners.get(manager, frozenset()), {**owners, manager: said}, shape)
    written, removed = Tree(live, shape).changes(Tree(new, shape))
    taken = {other: paths & written for other, paths in owners.items() if other != manager and paths & written}
    if taken and not force:
        raise ConflictError(f"{where}: {_conflicts(taken)}")
    others = {other: paths - written - removed for other, paths in owners.items()}
    return new, _owning(others, manager, _own(said, manager))


def _said(given: Json, shape: Shape, where: str) -> Paths:
    tree = Tree(given, shape)
    for path in tree.repeated:
        # The real server calls it its own failure (500).
        raise ClusterError(f"{where}: {printed(path)} has two items of one key")
    return tree.said


def _pruned(obj: Json, last: Paths, owners: Owners, shape: Shape) -> Json:
    """Remove what the manager applied last and nobody says now.

    What was removed with an item or a map stays when somebody owns it; of that, what the manager had not applied stays also.
    """
    if not last:
        return obj
    tree = Tree(obj, shape)
    had, everything = tree.with_parents(last), tree.with_parents(tree.said)
    bare = without(obj, had, shape)
    owned = tree.with_parents(frozenset().union(*owners.values()))
    kept = without(obj, everything - _with_parents_of(bare, shape) - owned, shape)
    return without(obj, (everything - _with_parents_of(kept, shape)) & had, shape)


def _with_parents_of(obj: Json, shape: Shape) -> Paths:
    tree = Tree(obj, shape)
    return tree.with_parents(tree.said)


def _own(paths: Paths, manager: Manager) -> Paths:
    """Return what can be owned through this part of an object."""
    in_status = manager.subresource == "status"
    return frozenset(path for path in paths - _NOBODYS if (path[0] == "f:status") is in_status)


def _owning(others: Owners, manager: Manager, paths: Paths) -> Owners:
    owners = {**others, manager: paths}
    return {one: owned for one, owned in owners.items() if owned}


def _changed_parts(before: Json, after: Json) -> tuple[Json, Json]:
    """Return both objects without the parts that are the same object in memory: writes share what they do not touch."""
    same = {name for name in before if name in after and before[name] is after[name]}
    return tuple({name: part for name, part in obj.items() if name not in same} for obj in (before, after))  # type: ignore[return-value]


def _conflicts(taken: Owners) -> str:
    """Return who owns what, for the message."""
    return "; ".join(
        f'conflict with "{manager.name}": {", ".join(printed(path) for path in sorted(paths))}'
        for manager, paths in taken.items()
    )
