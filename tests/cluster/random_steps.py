"""Random writes that two servers can be given side by side, and what is compared of their objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tfscale.errors import ClusterError
from tfscale.kube.port import CONFIG_MAPS, NODES, PODS, Json, Kind, Kube
from tfscale.testing.contracts import WIDGETS

__all__ = ["KINDS", "Step", "outcome", "shown", "step_of"]

KINDS = (WIDGETS, PODS, NODES, CONFIG_MAPS)
MANAGERS = ("tfscale", "somebody-else")
_COUNTED_APART = ("uid", "resourceVersion", "creationTimestamp")
_POD_SPEC = ("nodeName", "containers", "schedulingGates")
_FILLED_IN = ("allocatable", "nodeInfo", "daemonEndpoints", "qosClass", "observedGeneration", "resize")


@dataclass(frozen=True)
class Step:
    """One call on one object."""

    what: str
    kind: Kind
    name: str
    call: Callable[[Kube], object]

    @property
    def namespace(self) -> str | None:
        """Where the object is."""
        return "default" if self.kind.namespaced else None


def step_of(random: Random, run: str) -> Step:
    """Return a random step on one of a few objects whose names begin with `run`."""
    kind, name = random.choice(KINDS), f"{run}-{random.choice('ab')}"
    verbs: list[Callable[[Random, Kind, str], tuple[str, Callable[[Kube], object]]]]
    verbs = [_create, _create, _patch, _patch, _apply, _apply, _apply, _delete]
    verbs += [_patch_status, _apply_status] if kind != CONFIG_MAPS else []
    verbs += [_bind, _evict] if kind == PODS else []
    what, call = random.choice(verbs)(random, kind, name)
    return Step(f"{what} of {kind.plural}", kind, name, call)


def outcome(call: Callable[[], object]) -> object:
    """Return what a call gives, or the type of its error."""
    try:
        answer = call()
    except ClusterError as error:
        return type(error).__name__
    return shown(answer) if isinstance(answer, dict) else answer


def shown(obj: Json) -> Json:
    """Return what two servers must have in common: not what each counts for itself or fills in by default."""
    meta = {key: value for key, value in obj["metadata"].items() if key not in _COUNTED_APART}
    meta["deletionTimestamp"] = "deletionTimestamp" in meta
    spec, status = obj.get("spec"), {**obj.get("status", {})}
    if obj["kind"] == "Pod":
        spec = {key: value for key, value in obj["spec"].items() if key in _POD_SPEC}
        spec["containers"] = [{key: one.get(key) for key in ("name", "image", "env")} for one in spec["containers"]]
    if obj["kind"] in ("Pod", "Node"):
        spec, status = spec or {}, {key: value for key, value in status.items() if key not in _FILLED_IN}
        status["conditions"] = [(one["type"], one["status"]) for one in status.get("conditions", ())]
    return {"metadata": meta, "spec": spec, "status": status, "data": obj.get("data")}


def _create(random: Random, kind: Kind, name: str) -> tuple[str, Callable[[Kube], object]]:
    obj = _whole(random, kind, name)
    if kind == PODS:
        obj["spec"] = {"containers": [_container(random)], **obj.get("spec", {})}
    return f"create {obj}", lambda kube: kube.create(kind, obj, namespace=_home(kind))


def _patch(random: Random, kind: Kind, name: str) -> tuple[str, Callable[[Kube], object]]:
    patch = {"metadata": _metadata(random), **_fields(random, kind)}
    if kind == PODS:
        patch.pop("spec", None)
    return f"patch {patch}", lambda kube: kube.patch(kind, name, patch, namespace=_home(kind))


def _patch_status(random: Random, kind: Kind, name: str) -> tuple[str, Callable[[Kube], object]]:
    patch = {"status": _status(random, kind)}
    return f"patch_status {patch}", lambda kube: kube.patch_status(kind, name, patch, namespace=_home(kind))


def _apply(random: Random, kind: Kind, name: str) -> tuple[str, Callable[[Kube], object]]:
    obj = _whole(random, kind, name)
    if kind == PODS:
        # An object that does not exist is created by this, so it is complete.
        obj["spec"] = {"containers": [_container(random)]}
    how: dict[str, Any] = {"manager": random.choice(MANAGERS), "force": random.random() < 0.4}
    return f"apply {obj} {how}", lambda kube: kube.apply(kind, obj, namespace=_home(kind), **how)


def _apply_status(random: Random, kind: Kind, name: str) -> tuple[str, Callable[[Kube], object]]:
    obj = _without_null({"metadata": {"name": name}, "status": _status(random, kind)})
    how: dict[str, Any] = {"manager": random.choice(MANAGERS), "force": random.random() < 0.4, "subresource": "status"}
    return f"apply {obj} {how}", lambda kube: kube.apply(kind, obj, namespace=_home(kind), **how)


def _delete(random: Random, kind: Kind, name: str) -> tuple[str, Callable[[Kube], object]]:
    grace_s = random.choice((None, 0, 5, 20))
    return f"delete {grace_s}", lambda kube: kube.delete(kind, name, namespace=_home(kind), grace_period_s=grace_s)


def _bind(random: Random, kind: Kind, name: str) -> tuple[str, Callable[[Kube], object]]:
    annotations = random.choice(({}, {"a": "9", "b": "1"}))

    def call(kube: Kube) -> None:
        uid = kube.get(kind, name, namespace="default")["metadata"]["uid"]
        kube.bind(name, namespace="default", node="nowhere", uid=uid, annotations=annotations)

    return f"bind {annotations}", call


def _evict(_: Random, __: Kind, name: str) -> tuple[str, Callable[[Kube], object]]:
    return "evict", lambda kube: kube.evict(name, namespace="default")


def _whole(random: Random, kind: Kind, name: str) -> Json:
    """Return an object without null, and a custom resource without empty labels, annotations and finalizers.

    The real server stores those of a custom resource without showing them, so that taking them off makes a version.
    """
    obj = _without_null({"metadata": {"name": name, **_metadata(random)}, **_fields(random, kind)})
    if kind == WIDGETS:
        obj["metadata"] = {key: value for key, value in obj["metadata"].items() if value}
    whole: Json = obj
    return whole


def _metadata(random: Random) -> Json:
    return _some(
        random,
        labels=random.choice(({"t": "x"}, {"t": "y", "u": "z"}, {"t": None})),
        annotations=random.choice(({"a": "1"}, {"a": "2"}, {"a": None})),
        finalizers=random.choice((["ex.com/h"], ["ex.com/i", "ex.com/h"], [])),
    )


def _fields(random: Random, kind: Kind) -> Json:
    if kind == WIDGETS:
        return _some(random, spec=_widget(random))
    if kind == NODES:
        taints = [{"key": key, "effect": "NoSchedule"} for key in random.sample("kl", random.randint(0, 2))]
        return _some(random, spec=_some(random, taints=taints, unschedulable=random.choice((True, False))))
    if kind == CONFIG_MAPS:
        return _some(random, data=_some(random, a=random.choice(("1", "2")), b=random.choice(("1", None))))
    return {}


def _widget(random: Random) -> Json:
    parts = [_some(random, x=random.randint(0, 1), y=1) | {"name": name} for name in random.sample("pqr", random.randint(1, 3))]
    return _some(
        random,
        size=random.choice((0, 1, True, None)),
        deep=random.choice(({"a": 1}, {"a": 2, "b": {"c": 1}}, {"b": None}, 5)),
        parts=parts,
        tags=random.sample("tuv", random.randint(1, 3)),
        pair=random.choice(({"a": 1}, {"a": 1, "b": 2})),
        items=random.choice(([1, 2], [2])),
    )


def _status(random: Random, kind: Kind) -> Json:
    condition = {"type": random.choice(("A", "B")), "status": random.choice(("True", "False"))}
    more: dict[Kind, Json] = {
        WIDGETS: {"size": random.randint(0, 2)},
        PODS: {"phase": random.choice(("Pending", "Running", "Succeeded"))},
        NODES: {"capacity": {random.choice(("cpu", "x.io/y")): random.choice(("1", "2"))}},
    }
    return _some(random, conditions=[condition], **more[kind])


def _container(random: Random) -> Json:
    env = [{"name": name, "value": "1"} for name in ("A", "B")]
    return {"name": "main", "image": random.choice(("i", "j")), "env": env}


def _some(random: Random, **fields: Any) -> Json:  # noqa: ANN401 - any JSON value
    return {name: value for name, value in fields.items() if random.random() < 0.6}


def _without_null(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {key: _without_null(part) for key, part in value.items() if part is not None}
    return value


def _home(kind: Kind) -> str | None:
    return "default" if kind.namespaced else None
