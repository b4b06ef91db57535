"""What a pod asks of a node in all, counted as Kubernetes counts it.

Containers add up; an init container runs alone beside the sidecars that were started before it (init containers that
restart always), so the larger of both phases counts; amounts of the whole pod (``spec.resources``) replace the sum; the
overhead of the runtime class is added at the end. A limit stands for a request that is missing, as the API server sets it.

Source: Kubernetes, ``k8s.io/component-helpers/resource`` PodRequests.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from tfscale.kube.fields import Field

__all__ = ["Amounts", "places_of", "pod_totals"]

Amounts = dict[str, Fraction]
"""Exact amounts by resource name, in the base unit: CPUs, bytes, pieces."""

_WHOLE_POD = ("cpu", "memory")


def pod_totals(pod: Field) -> Amounts:
    """Return what the pod asks for, without what is 0. Raises ``BadInputError`` that names the container's field."""
    spec = pod.at("spec")
    running: Amounts = {}
    for container in spec.at("containers").items():
        running = _sum(running, _asked(container))
    sidecars, starting = _init_phase(spec.at("initContainers"))
    totals = _most(_sum(running, sidecars), starting)
    totals |= _of_the_whole_pod(spec, totals)
    totals = _sum(totals, _amounts(spec.at("overhead")))
    return {name: amount for name, amount in totals.items() if amount}


def places_of(pod: Field, name: str) -> Iterator[Field]:
    """Yield every place where a container asks for this resource."""
    for containers in (pod.at("spec", "containers"), pod.at("spec", "initContainers")):
        for container in containers.items():
            places = (container.at("resources", kind, name) for kind in ("requests", "limits"))
            yield from (place for place in places if place.given)


def _init_phase(containers: Field) -> tuple[Amounts, Amounts]:
    """Return what the sidecars ask for, and the most that is asked for while init containers run."""
    sidecars: Amounts = {}
    most: Amounts = {}
    for container in containers.items():
        now = _sum(sidecars, _asked(container))
        most = _most(most, now)
        if container.at("restartPolicy").text() == "Always":
            sidecars = now
    return sidecars, most


def _of_the_whole_pod(spec: Field, totals: Amounts) -> Amounts:
    limits = _amounts(spec.at("resources", "limits"))
    requests = _amounts(spec.at("resources", "requests"))
    asked = {name: amount for name, amount in limits.items() if name not in totals} | requests
    return {name: asked[name] for name in asked if name in _WHOLE_POD or name.startswith("hugepages-")}


def _asked(container: Field) -> Amounts:
    return _amounts(container.at("resources", "limits")) | _amounts(container.at("resources", "requests"))


def _amounts(resources: Field) -> Amounts:
    return {name: field.amount() for name, field in resources.entries().items()}


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return one | {name: one[name] + amount if name in one else amount for name, amount in other.items()}


def _most(one: Amounts, other: Amounts) -> Amounts:
    return one | {name: max(one[name], amount) if name in one else amount for name, amount in other.items()}
