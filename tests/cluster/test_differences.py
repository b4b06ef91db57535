"""Random writes have the same effect on the real API server and on the one in memory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest

from tests.cluster.conftest import eventually, is_served
from tests.cluster.control_plane import ControlPlane
from tests.cluster.random_steps import KINDS, Step, outcome, step_of
from tfscale.errors import ClusterError, NotFoundError
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import CRDS, Kind, Kube
from tfscale.testing import FakeKube
from tfscale.testing.contracts import WIDGET_CRD, WIDGETS

STEPS = 40
RUNS = 12 * int(os.environ.get("TFSCALE_FUZZ", "1"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeClient]:
    """Give a client of an API server on which nobody else acts."""
    with ControlPlane(tmp_path_factory.mktemp("differences")) as running:
        kube = KubeClient.connect(str(running.kubeconfig), timing=Timing(calls_per_s=1_000, burst=1_000))
        kube.create(CRDS, WIDGET_CRD)
        eventually(lambda: is_served(kube, WIDGETS), "widgets are served")
        yield kube
        kube.close()


def version(kube: Kube, step: Step) -> str:
    """Return the version of the object that a step is about, empty where there is none."""
    try:
        return str(kube.get(step.kind, step.name, namespace=step.namespace)["metadata"]["resourceVersion"])
    except NotFoundError:
        return ""


def effect(kube: Kube, step: Step) -> tuple[object, object, bool]:
    """Return what a step gives, what the object is like then, and whether it has a new version."""
    before = version(kube, step)
    answer = outcome(lambda: step.call(kube))
    return answer, outcome(lambda: kube.get(step.kind, step.name, namespace=step.namespace)), before != version(kube, step)


def events(kube: Kube, kind: Kind, since: str, run: str) -> list[tuple[str, str]]:
    """Return what a watch shows of the objects of a run."""
    timeout_s = 0 if isinstance(kube, FakeKube) else 1
    seen = [event for event in kube.watch(kind, resource_version=since, timeout_s=timeout_s) if event.type != "BOOKMARK"]
    names = [(event.type, event.object["metadata"]["name"]) for event in seen]
    return [(what, name) for what, name in names if name.startswith(run)]


def clear(kube: Kube, run: str) -> None:
    """Remove the objects of a run."""
    for kind in KINDS:
        namespace = "default" if kind.namespaced else None
        for name in (f"{run}-{suffix}" for suffix in "ab"):
            with suppress(ClusterError):
                kube.patch(kind, name, {"metadata": {"finalizers": None}}, namespace=namespace)
                kube.delete(kind, name, namespace=namespace, grace_period_s=0)


@pytest.mark.parametrize("seed", range(RUNS))
def test_random_writes_have_the_same_effect(real: KubeClient, seed: int) -> None:
    """The same answers and errors, objects, new versions and, in the end, events."""
    random, run = Random(seed), f"d{uuid.uuid4().hex[:8]}"  # noqa: S311 - not a secret
    fake = FakeKube(seed=seed)
    fake.create(CRDS, WIDGET_CRD)
    # A watch of the real server takes a second at least, so each run has one.
    watched = KINDS[seed % len(KINDS)]
    since = {kube: kube.list(watched).resource_version for kube in (real, fake)}
    told = []
    try:
        for _ in range(STEPS):
            step = step_of(random, run)
            told.append(f"{step.name}: {step.what}")
            assert effect(real, step) == effect(fake, step), "\n".join(line for line in told if line.startswith(step.name))
        assert events(real, watched, since[real], run) == events(fake, watched, since[fake], run), "\n".join(told)
    finally:
        clear(real, run)
