"""Scaling modes: one file each, found by entry points of the group ``tfscale.modes`` and imported only when a pool names them."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points

from tfscale.errors import BadInputError, Problem
from tfscale.modes.base import ScalingMode

__all__ = ["GROUP", "load", "names"]

GROUP = "tfscale.modes"
"""The entry-point group. A package that brings a mode of its own adds one line to it."""


def names() -> tuple[str, ...]:
    """Return the names of all installed modes, sorted. Imports none of them.

    >>> "static" in names()
    True
    """
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def load(name: str, *, where: str = "tfscale", field: str = "mode") -> type[ScalingMode]:
    """Return the class of one mode.

    Raises ``BadInputError`` that blames `field` of `where` when no mode has this name, when two packages bring different
    modes of this name, or when the mode cannot be imported. Other modes are not touched, so one broken plug-in breaks
    only its own pools.

    >>> load("static").name
    'static'
    """
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if len(found) != 1:
        want = f"one package that brings it, not {', '.join(sorted(found))}" if found else _advice(name)
        raise BadInputError(Problem(where=where, field=field, value=name, want=want))
    (entry,) = found.values()
    return _class_of(entry, where=where, field=field)


def _class_of(entry: EntryPoint, *, where: str, field: str) -> type[ScalingMode]:
    try:
        loaded = entry.load()
    except Exception as error:  # a plug-in may fail in any way while it is imported
        want = f"a mode that can be imported ({entry.value}: {type(error).__name__}: {error})"
        raise BadInputError(Problem(where=where, field=field, value=entry.name, want=want)) from error
    if not isinstance(loaded, type) or not callable(getattr(loaded, "open", None)):
        want = f"a scaling mode, which {entry.value} is not"
        raise BadInputError(Problem(where=where, field=field, value=entry.name, want=want))
    return loaded


def _advice(name: str) -> str:
    known = names()
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"{near[0]}? Known modes: {', '.join(known)}" if near else "one of " + ", ".join(known)
