"""Fields of an object as paths, and what merging, comparing and removing them does.

A step of a path is written as in ``managedFields``: ``f:spec``, ``k:{"type":"Ready"}`` for an item of a list that is a map,
``v:"x"`` for an item of a set.

Source: the rules of structured-merge-diff as documented in KEP-555 (server-side apply), checked against kube-apiserver 1.35.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from tfscale.kube.port import Json
from tfscale.testing.fake_kube.shapes import Shape

__all__ = ["Path", "Paths", "Tree", "merged", "printed", "without"]

Path = tuple[str, ...]
Paths = frozenset[Path]

_KEY_DEFAULTS = {"protocol": "TCP"}


@dataclass(frozen=True, slots=True)
class _Inner:
    """Stands for an object or list that has fields of its own."""

    declared: bool
    """Whether its type declares it, so that it is there with its first field and goes with its last."""


class Tree:
    """All fields of one object, with their values."""

    def __init__(self, obj: Json, shape: Shape) -> None:
        self._values: dict[Path, Any] = {}
        self._silent: set[Path] = set()
        """Empty lists of items with owners of their own: they say nothing."""
        self.repeated: list[Path] = []
        """Lists in which two items have one key."""
        for name, value in obj.items():
            self._walk(value, shape.of(name), (f"f:{name}",), declared=name in shape.fields or not shape.is_map)

    @property
    def everything(self) -> Paths:
        """Every field, objects and lists with fields of their own included."""
        return frozenset(self._values)

    @property
    def said(self) -> Paths:
        """What whoever writes this object says: the values, and the keys of maps and items of lists."""
        return frozenset(path for path, value in self._values.items() if value != _Inner(declared=True)) - self._silent

    def with_parents(self, paths: AbstractSet[Path]) -> Paths:
        """Return the paths and the declared objects and lists that they are in."""
        above = {path[:length] for path in paths for length in range(1, len(path))}
        return frozenset(paths) | {path for path in above if self._values.get(path) == _Inner(declared=True)}

    def changes(self, new: Tree) -> tuple[Paths, Paths]:
        """Return which fields are written, and which removed, on the way from this object to another."""
        written = {path for path, value in new._values.items() if path not in self._values or _differ(self._values[path], value)}
        return frozenset(written), self.everything - new.everything

    def _walk(self, value: Any, shape: Shape, path: Path, *, declared: bool) -> None:  # noqa: ANN401 - any JSON
        steps = None
        if isinstance(value, dict) and not shape.whole:
            steps = [
                (f"f:{name}", part, shape.of(name), name in shape.fields or not shape.is_map) for name, part in value.items()
            ]
        elif isinstance(value, list) and shape.keys is not None:
            steps = [(step, part, shape.item or shape, False) for step, part in _items(value, shape.keys)]
            if not value:
                self._silent.add(path)
            if len({step for step, *_ in steps}) < len(steps):
                self.repeated.append(path)
        self._values[path] = _Inner(declared=declared) if steps else value
        for step, part, inner, is_declared in steps or ():
            self._walk(part, inner, (*path, step), declared=is_declared)


def merged(live: Any, given: Any, shape: Shape) -> Any:  # noqa: ANN401 - any JSON
    """Return `live` with what is given on top: objects and lists with keys are merged, everything else is replaced."""
    if isinstance(live, dict) and isinstance(given, dict) and not shape.whole:
        changed = {name: merged(live.get(name), value, shape.of(name)) for name, value in given.items()}
        return {**live, **changed}
    if isinstance(given, list) and shape.keys is not None:
        return _merged_items(live if isinstance(live, list) else [], given, shape)
    return given


def without(obj: Json, gone: AbstractSet[Path], shape: Shape) -> Json:
    """Return the object without these fields. What has fields of its own and loses the last of them becomes null."""
    touched = {path[:length] for path in gone for length in range(1, len(path) + 1)}
    kept: Json = _kept(obj, gone, touched, shape, ()) or {}
    return kept


def printed(path: Path) -> str:
    """Return a path as kubectl prints it.

    >>> printed(("f:spec", "f:containers", 'k:{"name":"main"}', "f:image"))
    '.spec.containers[name="main"].image'
    """
    return "".join(_step(step) for step in path)


def _step(step: str) -> str:
    mark, _, rest = step.partition(":")
    if mark == "f":
        return f".{rest}"
    if mark == "v":
        return f"[={rest}]"
    return "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(rest).items()) + "]"


def _items(items: list[Any], keys: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [(_step_of(item, keys), item) for item in items]


def _step_of(item: Any, keys: tuple[str, ...]) -> str:  # noqa: ANN401 - any JSON
    if not keys or not isinstance(item, Mapping):
        return f"v:{json.dumps(item, sort_keys=True)}"
    named = {key: item.get(key, _KEY_DEFAULTS.get(key)) for key in keys}
    return f"k:{json.dumps(named, separators=(',', ':'), sort_keys=True)}"


def _merged_items(live: list[Any], given: list[Any], shape: Shape) -> list[Any]:
    """Return the items of both: in the order of those given, the others where they are between those of both."""
    keys, inner = shape.keys or (), shape.item or shape
    old, new = dict(_items(live, keys)), dict(_items(given, keys))
    result: list[Any] = []
    rest, both = deque(old), deque(step for step in new if step in old)
    for step, item in new.items():
        while rest and rest[0] != step and (not both or rest[0] != both[0]):
            passed = rest.popleft()
            if passed not in new:
                result.append(old[passed])
            elif not both:
                break
        for queue in (rest, both):
            if queue and queue[0] == step:
                queue.popleft()
        result.append(merged(old[step], item, inner) if step in old else item)
    return result + [old[step] for step in rest if step not in new]


def _kept(value: Any, gone: AbstractSet[Path], touched: AbstractSet[Path], shape: Shape, path: Path) -> Any:  # noqa: ANN401
    if isinstance(value, dict) and not shape.whole:
        parts = {name: ((*path, f"f:{name}"), part, shape.of(name)) for name, part in value.items()}
        kept = {
            name: _kept(part, gone, touched, inner, step) if step in touched else part
            for name, (step, part, inner) in parts.items()
            if step not in gone
        }
        return kept or None
    if isinstance(value, list) and shape.keys is not None:
        items = [((*path, step), item) for step, item in _items(value, shape.keys)]
        inner = shape.item or shape
        return [
            _kept(item, gone, touched, inner, step) if step in touched else item for step, item in items if step not in gone
        ] or None
    return value


def _differ(one: Any, other: Any) -> bool:  # noqa: ANN401 - any JSON
    """Return whether two values differ; Python alone takes ``1`` and ``true`` for equal.

    An object or list that gets its first field, or loses its last, is the same one.
    """
    if isinstance(one, _Inner) or isinstance(other, _Inner):
        return not all(isinstance(value, _Inner) or value in ({}, [], None) for value in (one, other))
    return bool(one != other) or json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)
