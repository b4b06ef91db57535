"""Scenario files as a whole: ordinary objects beside at most one ``Scenario`` document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from tfscale.errors import BadInputError, Problem
from tfscale.kube.fields import Field as Place
from tfscale.kube.fields import tried
from tfscale.kube.port import GPU_POOLS, NODE_CLAIMS, NODE_CLASSES, NODE_POOLS, NODES, PODS, Json, Kind
from tfscale.manifests import Manifest, read_manifests
from tfscale.scenario.document import in_quotes, read_document
from tfscale.scenario.facts import Scenario
from tfscale.spec import suggest

__all__ = ["read_scenario"]

SCENARIO = "Scenario"
API_VERSION = "sim.tfscale.io/v1alpha1"

_KINDS = {kind.kind: kind for kind in (GPU_POOLS, PODS, NODES, NODE_POOLS, NODE_CLAIMS, *NODE_CLASSES)}


def read_scenario(text: str, *, name: str) -> Scenario:
    """Return the scenario in `text`; `name` is the file's, for messages.

    Raises ``BadInputError`` with every problem of the file itself: its YAML, its kinds and names, its ``Scenario``. What a
    ``GPUPool``, ``Pod`` or ``Node`` says inside is judged by the loop, as in a real cluster, so that one of them does not
    stop the others.
    """
    problems: list[Problem] = []
    objects: list[tuple[Kind, Json]] = []
    scenarios: list[Scenario] = []
    manifests = read_manifests(text, name=name)
    if not manifests:
        raise BadInputError(Problem(where=name, field="number of documents", value="0", want="at least one"))
    for place in _documents(manifests, name, problems):
        if _is_scenario(place):
            scenarios += filter(None, [tried(problems, partial(read_document, place), None)])
        else:
            objects += tried(problems, partial(_object, place), ())
    problems += _twice(objects, name)
    if len(scenarios) > 1:
        problems.append(Problem(where=name, field="number of Scenario documents", value=str(len(scenarios)), want="at most one"))
    if problems:
        raise BadInputError(*problems)
    return replace(scenarios[0] if scenarios else Scenario(), objects=tuple(objects))


# --- documents --------------------------------------------------------------------------------------------------------


def _documents(manifests: Iterable[Manifest], name: str, problems: list[Problem]) -> Iterator[Place]:
    """Yield every document and every item of a ``List``, if it is a mapping."""
    for number, manifest in enumerate(manifests, start=1):
        place = Place(f"{name} document {number} (line {manifest.line})", "", manifest.value)
        yield from _unlisted(place, problems)


def _unlisted(place: Place, problems: list[Problem]) -> Iterator[Place]:
    """Yield the object here, or what is in the ``List`` here; a ``List`` may hold others."""
    for item in tried(problems, partial(_items, place), ()):
        yield from (item,) if item is place else _unlisted(item, problems)


def _items(place: Place) -> tuple[Place, ...]:
    if place.at("kind").value == "List":
        return tuple(Place(f"{item.where} {item.path}", "", item.value) for item in place.at("items").items())
    return (place,)


def _is_scenario(place: Place) -> bool:
    return (place.at("apiVersion").value, place.at("kind").value) == (API_VERSION, SCENARIO)


def _object(place: Place) -> tuple[tuple[Kind, Json]]:
    """Return the object under the kind that it says it is, with the namespace that kubectl would give it."""
    api_version, name = place.at("apiVersion").text(), place.at("kind").text()
    kind = _KINDS.get(name)
    if name == SCENARIO:
        raise place.at("apiVersion").refused(f"{API_VERSION} for a {SCENARIO}")
    if kind is None:
        raise place.at("kind").refused(suggest(name, [*_KINDS, "List", SCENARIO]))
    if api_version != kind.api_version:
        raise place.at("apiVersion").refused(f"{kind.api_version} for a {name}")
    metadata = dict(place.at("metadata").mapping())
    for texts in ("labels", "annotations"):
        for field in place.at("metadata", texts).entries().values():
            field.read(in_quotes)
    place.at("metadata", "name").needed()
    if kind.namespaced:
        metadata["namespace"] = place.at("metadata", "namespace").text() or "default"
    return ((kind, {**place.mapping(), "metadata": metadata}),)


def _twice(objects: Iterable[tuple[Kind, Json]], name: str) -> Iterator[Problem]:
    counts = Counter((kind.kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]) for kind, obj in objects)
    for (kind, namespace, own), count in counts.items():
        if count > 1:
            where = f"{kind.lower()} {namespace}/{own}" if namespace else f"{kind.lower()} {own}"
            yield Problem(where=f"{name}: {where}", field="number of documents", value=str(count), want="one")
