"""Writes leave only while this process may act: a layer over any Kube that asks right before each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from tfscale.kube.port import FIELD_MANAGER, Json, Kind, Kube, Listing, WatchEvent

__all__ = ["Fenced"]


class Fenced:
    """A :class:`~tfscale.kube.port.Kube` whose writes raise ``NotLeadingError`` where `epoch` does; reads pass."""

    def __init__(self, kube: Kube, epoch: Callable[[], int]) -> None:
        self._kube = kube
        self._epoch = epoch

    def list(self, kind: Kind, *, namespace: str | None = None, label_selector: str = "", field_selector: str = "") -> Listing:
        """Return all objects that match."""
        return self._kube.list(kind, namespace=namespace, label_selector=label_selector, field_selector=field_selector)

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
        """Yield what changed."""
        return self._kube.watch(
            kind,
            resource_version=resource_version,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            timeout_s=timeout_s,
        )

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Json:
        """Return one object."""
        return self._kube.get(kind, name, namespace=namespace)

    def create(self, kind: Kind, obj: Json, *, namespace: str | None = None) -> Json:
        """Create and return the object."""
        self._epoch()
        return self._kube.create(kind, obj, namespace=namespace)

    def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to everything but the status."""
        self._epoch()
        return self._kube.patch(kind, name, patch, namespace=namespace)

    def patch_status(self, kind: Kind, name: str, patch: Mapping[str, Any], *, namespace: str | None = None) -> Json:
        """Apply a merge patch to the status alone."""
        self._epoch()
        return self._kube.patch_status(kind, name, patch, namespace=namespace)

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
        self._epoch()
        return self._kube.apply(kind, obj, namespace=namespace, force=force, subresource=subresource, manager=manager)

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
        """Delete an object."""
        self._epoch()
        self._kube.delete(
            kind, name, namespace=namespace, uid=uid, resource_version=resource_version, grace_period_s=grace_period_s
        )

    def evict(self, name: str, *, namespace: str, grace_period_s: int | None = None) -> None:
        """Evict a pod."""
        self._epoch()
        self._kube.evict(name, namespace=namespace, grace_period_s=grace_period_s)

    def bind(self, name: str, *, namespace: str, node: str, uid: str, annotations: Mapping[str, str]) -> None:
        """Bind a pod."""
        self._epoch()
        self._kube.bind(name, namespace=namespace, node=node, uid=uid, annotations=annotations)
