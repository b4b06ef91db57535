"""Whoever applies fields to FakeKube gets them, keeps them, and can give them up again."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from tfscale.errors import ConflictError
from tfscale.kube.port import CRDS, Json
from tfscale.testing import FakeKube
from tfscale.testing.contracts import WIDGET_CRD, WIDGETS

VALUES = st.integers(0, 1)
PARTS = st.dictionaries(st.sampled_from("pqr"), st.dictionaries(st.sampled_from("xy"), VALUES, max_size=2), min_size=1)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "size": VALUES,
        "deep": st.dictionaries(st.sampled_from("abc"), VALUES, min_size=1, max_size=2),
        "parts": PARTS.map(lambda parts: [{"name": name, **fields} for name, fields in parts.items()]),
        "tags": st.lists(st.sampled_from("tuv"), min_size=1, max_size=2, unique=True),
        "pair": st.dictionaries(st.sampled_from("ab"), VALUES, min_size=1),
    },
)


def server() -> FakeKube:
    """Return a server that knows widgets."""
    kube = FakeKube(seed=0, now=lambda: 0.0)
    kube.create(CRDS, WIDGET_CRD)
    return kube


def applied(kube: FakeKube, spec: Json, **options: Any) -> Json:  # noqa: ANN401  # options of the verb
    """Apply a spec, or nothing where there is none, and return the object."""
    fields = {"spec": spec} if spec else {}
    return kube.apply(WIDGETS, {"metadata": {"name": "a"}, **fields}, namespace="default", **options)


def ordered(spec: Json) -> Json:
    """Return a spec whose lists with owners of their items are in order."""
    parts = {"parts": sorted(spec["parts"], key=str)} if "parts" in spec else {}
    tags = {"tags": sorted(spec["tags"])} if "tags" in spec else {}
    return {**spec, **parts, **tags}


@given(SPECS, SPECS, SPECS)
def test_applying_twice_is_applying_once(created: Json, theirs: Json, ours: Json) -> None:
    """Whoever else wrote before."""
    kube = server()
    kube.create(WIDGETS, {"metadata": {"name": "a"}, "spec": {"z": 1, **created}}, namespace="default")
    applied(kube, theirs, manager="somebody-else", force=True)

    first = applied(kube, ours, force=True)

    assert first == applied(kube, ours, force=True)
    assert first == applied(kube, ours)


@given(SPECS, SPECS)
def test_the_last_apply_of_the_only_manager_is_the_object(first: Json, second: Json) -> None:
    """Nothing of the one before is left."""
    kube = server()
    applied(kube, {"z": 1, **first})

    assert ordered({"z": 1, **second}) == ordered(applied(kube, {"z": 1, **second})["spec"])


@given(SPECS, SPECS, SPECS)
def test_what_came_without_force_goes_without_a_trace(created: Json, theirs: Json, ours: Json) -> None:
    """An apply that did not conflict, followed by one of nothing, leaves the object as it was, but for order."""
    kube = server()
    kube.create(WIDGETS, {"metadata": {"name": "a"}, "spec": {"z": 1, **created}}, namespace="default")
    applied(kube, theirs, manager="somebody-else", force=True)
    before = kube.get(WIDGETS, "a", namespace="default")
    try:
        applied(kube, ours)
    except ConflictError:
        assert before == kube.get(WIDGETS, "a", namespace="default")
        return

    assert ordered(before["spec"]) == ordered(applied(kube, {})["spec"])
