"""Where the tests of the contract make their objects."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from tfscale.errors import NotFoundError
from tfscale.kube.port import CONFIG_MAPS, DISRUPTION_BUDGETS, LEASES, NODES, PODS, Json, Kind, Kube, WatchEvent

__all__ = ["ELSEWHERE", "HOLD", "HOME", "NODE", "WIDGETS", "WIDGET_CRD", "Workplace"]

WIDGETS = Kind("contract.tfscale.io", "v1", "widgets", "Widget", namespaced=True)
"""A custom resource for the contract alone: a status subresource, anything in its spec, and one list of each type.

``spec.parts`` is a map by name, ``spec.tags`` a set, ``spec.pair`` one value, and ``status.conditions`` a map by type.
"""

_ANYTHING: Json = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _by_key(key: str) -> Json:
    """Return the schema of a list that is a map."""
    item = _ANYTHING | {"required": [key], "properties": {key: {"type": "string"}}}
    return {"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


_SPEC = _ANYTHING | {
    "properties": {
        "parts": _by_key("name"),
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "pair": _ANYTHING | {"x-kubernetes-map-type": "atomic"},
    }
}
_STATUS = _ANYTHING | {"properties": {"conditions": _by_key("type")}}

WIDGET_CRD: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.contract.tfscale.io"},
    "spec": {
        "group": "contract.tfscale.io",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": _SPEC, "status": _STATUS}}},
            }
        ],
    },
}
"""The definition of :data:`WIDGETS`, for a real server."""

HOME = "default"
ELSEWHERE = "kube-system"
HOLD = "contract.tfscale.io/hold"
NODE = "node-of-contract"
"""It need not exist."""
_LABEL = "contract.tfscale.io/run"
_PATIENCE_S = 10


class Workplace:
    """Objects of one test on a server that may be shared: they carry a label of their own and are gone afterwards."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.run = f"c{uuid.uuid4().hex[:10]}"
        self.mine = f"{_LABEL}={self.run}"
        """Selects the objects of this test."""
        self._made: list[tuple[Kind, Json]] = []

    def name(self, suffix: str) -> str:
        """Return a name that nobody else uses."""
        return f"{self.run}-{suffix}"

    def bare(self, suffix: str, *, metadata: Json | None = None, **fields: Any) -> Json:  # noqa: ANN401  # any JSON value
        """Return an object that was not created yet. ``metadata`` adds to name and label, or replaces the name."""
        given = metadata or {}
        labels = {_LABEL: self.run, **given.get("labels", {})}
        return {"metadata": {"name": self.name(suffix), **given, "labels": labels}, **fields}

    def made(self, kind: Kind, obj: Json, namespace: str | None) -> Json:
        """Create an object and remember to remove it."""
        created = self.kube.create(kind, obj, namespace=namespace)
        self._made.append((kind, created))
        return created

    def widget(self, suffix: str = "a", *, namespace: str = HOME, **fields: Any) -> Json:  # noqa: ANN401  # any JSON value
        """Create a custom resource."""
        return self.made(WIDGETS, self.bare(suffix, **fields), namespace)

    def node(self, suffix: str = "a", **fields: Any) -> Json:  # noqa: ANN401  # any JSON value
        """Create a node."""
        return self.made(NODES, self.bare(suffix, **fields), None)

    def pod(
        self,
        suffix: str = "a",
        *,
        metadata: Json | None = None,
        status: Json | None = None,
        **spec: Any,  # noqa: ANN401  # any JSON value
    ) -> Json:
        """Create a pending pod."""
        containers = [{"name": "main", "image": "registry.example/pause"}]
        pod = self.bare(suffix, metadata=metadata, spec={"containers": containers, **spec})
        return self.made(PODS, pod if status is None else {**pod, "status": status}, HOME)

    def bound_pod(self, suffix: str = "a", **spec: Any) -> Json:  # noqa: ANN401  # any JSON value
        """Create a pod and bind it."""
        pod = self.pod(suffix, **spec)
        self.bind(pod)
        return self.now(PODS, pod)

    def running_pod(self, suffix: str, *, phase: str = "Running", ready: bool = True) -> Json:
        """Create a pod that runs on a node."""
        pod = self.bound_pod(suffix)
        status = {"phase": phase, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
        return self.kube.patch_status(PODS, pod["metadata"]["name"], {"status": status}, namespace=HOME)

    def evict(self, pod: Json) -> None:
        """Evict a pod."""
        self.kube.evict(pod["metadata"]["name"], namespace=HOME)

    def is_ending(self, pod: Json) -> bool:
        """Return whether a pod is gone or about to."""
        return self.gone(PODS, pod) or "deletionTimestamp" in self.now(PODS, pod)["metadata"]

    def budget_of(self, expected: int, suffix: str = "budget", **spec: Any) -> Json:  # noqa: ANN401  # any JSON value
        """Create a disruption budget of this test's pods and return it when so many pods are expected by it."""
        selector = {"matchLabels": {_LABEL: self.run}}
        budget = self.made(DISRUPTION_BUDGETS, self.bare(suffix, spec={"selector": selector, **spec}), HOME)

        def is_counted() -> bool:
            status = self.now(DISRUPTION_BUDGETS, budget).get("status", {})
            return bool(status.get("observedGeneration") == 1 and status.get("expectedPods") == expected)

        self.eventually(is_counted, "the budget is counted")
        return self.now(DISRUPTION_BUDGETS, budget)

    def lease(self, **spec: Any) -> Json:  # noqa: ANN401  # any JSON value
        """Create a lease."""
        return self.made(LEASES, self.bare("a", spec=spec), HOME)

    def owned(self, suffix: str, *refs: Json, namespace: str = HOME, **metadata: Any) -> Json:  # noqa: ANN401  # any JSON value
        """Create a ConfigMap with owners."""
        return self.made(CONFIG_MAPS, self.bare(suffix, metadata={**metadata, "ownerReferences": [*refs]}), namespace)

    def canary(self) -> Json:
        """Create what the garbage collector will remove: when it is gone, the collector has seen what was before."""
        return self.owned("canary", self.reference(WIDGETS, self.widget("of-canary")) | {"uid": str(uuid.uuid4())})

    def references(self, obj: Json) -> list[Json]:
        """Return the owner references that a ConfigMap has now."""
        refs: list[Json] = self.now(CONFIG_MAPS, obj)["metadata"].get("ownerReferences", [])
        return refs

    def bind(self, pod: Json, *, node: str = NODE, uid: str = "", annotations: Mapping[str, str] | None = None) -> None:
        """Bind a pod, by its own uid unless another is given."""
        meta = pod["metadata"]
        self.kube.bind(meta["name"], namespace=HOME, node=node, uid=uid or meta["uid"], annotations=annotations or {})

    def applied(self, kind: Kind, suffix: str = "a", /, **options: Any) -> Json:  # noqa: ANN401  # options and parts of the object
        """Apply fields to an object of this test; ``metadata`` adds to its name."""
        how = {name: options.pop(name) for name in ("force", "subresource", "manager") if name in options}
        obj = {**options, "metadata": {"name": self.name(suffix), **options.get("metadata", {})}}
        after = self.kube.apply(kind, obj, namespace=HOME if kind.namespaced else None, **how)
        self._made.append((kind, after))
        return after

    def reference(self, kind: Kind, owner: Json, **fields: Any) -> Json:  # noqa: ANN401  # any JSON value
        """Return a reference to an owner."""
        meta = owner["metadata"]
        return {"apiVersion": kind.api_version, "kind": kind.kind, "name": meta["name"], "uid": meta["uid"], **fields}

    def eventually(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds that the cluster's controllers do, or fail with what was waited for."""
        end_s = time.monotonic() + _PATIENCE_S
        while not holds():
            assert time.monotonic() < end_s, f"not within {_PATIENCE_S} s: {what}"
            time.sleep(0.05)

    def now(self, kind: Kind, obj: Json) -> Json:
        """Return the object as it is now."""
        return self.kube.get(kind, obj["metadata"]["name"], namespace=obj["metadata"].get("namespace"))

    def gone(self, kind: Kind, obj: Json) -> bool:
        """Return whether the object exists no more."""
        try:
            self.now(kind, obj)
        except NotFoundError:
            return True
        return False

    def listed(self, kind: Kind, **selection: str) -> list[str]:
        """Return the suffixes of this test's objects that a list returns."""
        items = self.kube.list(kind, **{"label_selector": self.mine, **selection}).items
        return [self._suffix(item) for item in items if item["metadata"]["name"].startswith(self.run)]

    def version(self, kind: Kind = WIDGETS) -> str:
        """Return a version to watch from."""
        return self.kube.list(kind).resource_version

    def seen(self, since: str, count: int, *, kind: Kind = WIDGETS, **selection: str) -> list[tuple[str, str]]:
        """Return types and suffixes of the first events."""
        return [(event.type, self._suffix(event.object)) for event in self.events(since, count, kind=kind, **selection)]

    def events(self, since: str, count: int, *, kind: Kind = WIDGETS, **selection: str) -> list[WatchEvent]:
        """Return the first events, bookmarks apart; fewer when they do not come in time."""
        chosen = {"label_selector": self.mine, **selection}
        events = self.kube.watch(kind, resource_version=since, timeout_s=_PATIENCE_S, **chosen)
        return list(islice((event for event in events if event.type != "BOOKMARK"), count))

    def clear(self) -> None:
        """Remove what was made."""
        for kind, obj in self._made:
            meta = obj["metadata"]
            with suppress(NotFoundError):
                self.kube.patch(kind, meta["name"], {"metadata": {"finalizers": None}}, namespace=meta.get("namespace"))
                self.kube.delete(kind, meta["name"], namespace=meta.get("namespace"), grace_period_s=0)

    def _suffix(self, obj: Json) -> str:
        name: str = obj["metadata"]["name"]
        return name.removeprefix(f"{self.run}-")
