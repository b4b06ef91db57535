"""What kube-controller-manager does after a change: collect what has no owner, count disruptions. Here it acts at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tfscale.kube.port import DISRUPTION_BUDGETS, PODS, Json, Kind
from tfscale.testing.fake_kube import owning
from tfscale.testing.fake_kube.budgets import counted
from tfscale.testing.fake_kube.collecting import references, references_left
from tfscale.testing.fake_kube.owning import Manager
from tfscale.testing.fake_kube.state import Key, State, key_of

__all__ = ["Controllers"]

_NAME = "kube-controller-manager"


class Controllers:
    """Acts on the objects of a state. `delete` is the verb, which marks what has finalizers."""

    def __init__(self, state: State, *, now: Callable[[], float], delete: Callable[[Key], None]) -> None:
        self._state = state
        self._now = now
        self._delete = delete

    def after(self, kind: Kind, before: Json | None, after: Json | None) -> None:
        """Do what a change calls for."""
        if after is None and before is not None:
            for key in self._state.owned_by(before["metadata"]["uid"]):
                self._collect(key)
        elif after is not None and references(after) != references(before):
            self._collect(key_of(kind, after))
        if kind in (PODS, DISRUPTION_BUDGETS):
            self._count((after or before or {})["metadata"]["namespace"])

    def _collect(self, key: Key) -> None:
        """Delete an object without owners, or remove the references to those that are gone."""
        kind, namespace, name = key
        obj = self._state.objects(kind).get((namespace, name))
        left = obj and references_left(obj, partial(self._is_there, namespace))
        if obj is None or left is None:
            return
        if left:
            self._update(kind, obj, {**obj, "metadata": {**obj["metadata"], "ownerReferences": [*left]}}, Manager(_NAME))
        else:
            self._delete(key)

    def _is_there(self, namespace: str, ref: Json) -> bool | None:
        """Return whether an owner exists; None where that cannot be said."""
        kind = self._state.kind_named(ref["apiVersion"], ref["kind"])
        if kind is None or (kind.namespaced and not namespace):
            return None
        owner = self._state.objects(kind).get((namespace if kind.namespaced else "", ref["name"]))
        return owner is not None and owner["metadata"]["uid"] == ref["uid"]

    def _count(self, namespace: str) -> None:
        """Give the budgets of a namespace their status."""
        for budget in tuple(self._state.objects(DISRUPTION_BUDGETS).values()):
            if budget["metadata"]["namespace"] == namespace:
                new = counted(budget, self._state.objects(PODS).values(), self._now())
                self._update(DISRUPTION_BUDGETS, budget, new, Manager(_NAME, subresource="status"))

    def _update(self, kind: Kind, before: Json, after: Json, manager: Manager) -> None:
        owners = self._state.owners(key_of(kind, before))
        owners = owning.updated(owners, before, after, self._state.shape(kind), manager)
        self._state.store(kind, before, after, owners)
