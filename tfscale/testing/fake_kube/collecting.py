"""Which objects go with their owners.

Source: the garbage collector of Kubernetes 1.35. It works in the background; here it acts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfscale.kube.port import Json
from tfscale.testing.fake_kube.syntax import refusal

__all__ = ["check_references", "owner_uids", "references", "references_left"]


def references(obj: Json | None) -> Sequence[Json]:
    """Return the owner references of an object that may not exist."""
    return (obj or {}).get("metadata", {}).get("ownerReferences") or ()


def owner_uids(obj: Json | None) -> set[str]:
    """Return the uids of an object's owners."""
    return {ref["uid"] for ref in references(obj)}


def references_left(obj: Json, is_there: Callable[[Json], bool | None]) -> Sequence[Json] | None:
    """Return the references to owners that exist: none are left when the object is to be collected.

    Return None where nothing is to be done: it has no owners or all are there, it is being deleted, or of an owner nobody
    can say, as of one whose kind is not served. ``is_there`` tells of one reference.
    """
    refs = references(obj)
    found = [is_there(ref) for ref in refs]
    if None in found or all(found) or "deletionTimestamp" in obj["metadata"]:
        return None
    return [ref for ref, there in zip(refs, found, strict=True) if there]


def check_references(where: str, refs: Sequence[Json]) -> None:
    """Raise ``RefusedObjectError`` for references that the API server does not take."""
    for ref in refs:
        if not isinstance(ref, dict):
            raise refusal(where, "metadata.ownerReferences", ref, "objects")
        for field in ("apiVersion", "kind", "name", "uid"):
            if not (isinstance(value := ref.get(field), str) and value):
                raise refusal(where, f"metadata.ownerReferences.{field}", value, "text that is not empty")
    if sum(ref.get("controller") is True for ref in refs) > 1:
        raise refusal(where, "metadata.ownerReferences", "two controllers", "one controller at most")
