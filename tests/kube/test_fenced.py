"""Nothing is sent by a process that does not lead: not to Kubernetes, not to EC2, and no plan is carried out further."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kubernetes.client import Configuration

from tfscale.errors import NotLeadingError
from tfscale.kube.client import KubeClient
from tfscale.kube.port import CONFIG_MAPS, PODS, Kube
from tfscale.testing import FakeKube, KubeServer
from tfscale.testing.kube_server import Call, Reply

READS: dict[str, Callable[[Kube], Any]] = {
    "list": lambda kube: kube.list(CONFIG_MAPS),
    "watch": lambda kube: next(kube.watch(CONFIG_MAPS, resource_version="1001", namespace="default", timeout_s=0)),
    "get": lambda kube: kube.get(CONFIG_MAPS, "there", namespace="default"),
}
WRITES: dict[str, Callable[[Kube], Any]] = {
    "create": lambda kube: kube.create(CONFIG_MAPS, {"metadata": {"name": "new"}}, namespace="default"),
    "patch": lambda kube: kube.patch(CONFIG_MAPS, "there", {"data": {"a": "b"}}, namespace="default"),
    "patch_status": lambda kube: kube.patch_status(PODS, "pod", {"status": {"phase": "Running"}}, namespace="default"),
    "apply": lambda kube: kube.apply(CONFIG_MAPS, {"metadata": {"name": "applied"}}, namespace="default"),
    "delete": lambda kube: kube.delete(CONFIG_MAPS, "there", namespace="default"),
    "evict": lambda kube: kube.evict("pod", namespace="default"),
    "bind": lambda kube: kube.bind("pod", namespace="default", node="n", uid=uid_of(kube), annotations={}),
}


def uid_of(kube: Kube) -> str:
    """Return the uid of the pod."""
    found: str = kube.get(PODS, "pod", namespace="default")["metadata"]["uid"]
    return found


def cluster() -> FakeKube:
    """Return a cluster with something to write to."""
    kube = FakeKube(now=lambda: 0.0, seed=1)
    kube.create(CONFIG_MAPS, {"metadata": {"name": "there"}}, namespace="default")
    container = {"name": "main", "image": "example/main"}
    kube.create(PODS, {"metadata": {"name": "pod"}, "spec": {"containers": [container]}}, namespace="default")
    return kube


def contents(kube: Kube) -> str:
    """Return all that is there, as text."""
    return json.dumps([kube.list(kind).items for kind in (CONFIG_MAPS, PODS)], sort_keys=True)


@contextmanager
def client_of(kube: FakeKube, before_write: Callable[[], object]) -> Iterator[KubeClient]:
    """Yield a client of the cluster that asks before it writes."""
    with KubeServer(kube) as server:
        yield KubeClient(lambda: Configuration(host=server.url), before_write=before_write)


def refuse() -> int:
    """Say that another process leads."""
    raise NotLeadingError("another one leads")


def test_every_verb_is_a_read_or_a_write() -> None:
    """What the port gets anew is fenced too, or this fails."""
    assert {*READS, *WRITES} == {name for name in vars(Kube) if not name.startswith("_")}


@pytest.mark.parametrize("verb", READS)
def test_reads_pass(verb: str) -> None:
    """Whoever leads."""
    with client_of(cluster(), refuse) as client:
        assert READS[verb](cluster()) == READS[verb](client)


@pytest.mark.parametrize("verb", WRITES)
def test_writes_are_sent_while_leading(verb: str) -> None:
    """With the same answer and the same effect, after one question."""
    epochs = iter([1])
    plain, fenced = cluster(), cluster()
    expected = WRITES[verb](plain)
    with client_of(fenced, lambda: next(epochs)) as client:
        answer = WRITES[verb](client)

    assert (expected, contents(plain), []) == (answer, contents(fenced), [*epochs])


@pytest.mark.parametrize("verb", WRITES)
def test_writes_do_not_leave_otherwise(verb: str) -> None:
    """The server never hears of them."""
    kube = cluster()
    before = contents(kube)
    with client_of(kube, refuse) as client, pytest.raises(NotLeadingError):
        WRITES[verb](client)

    assert before == contents(kube)


def test_the_question_comes_after_all_waiting() -> None:
    """The lead may be lost while a busy server lets the write wait: then it is not sent again."""
    kube, calls, leads = cluster(), list[str](), iter([True, False])

    def busy(call: Call) -> Reply | None:
        calls.append(call.method)
        return Reply(status=429, headers={"Retry-After": "0"})

    def asked() -> None:
        if not next(leads):
            refuse()

    with KubeServer(kube, intercept=busy) as server:
        client = KubeClient(lambda: Configuration(host=server.url), before_write=asked)
        with pytest.raises(NotLeadingError):
            WRITES["create"](client)

    assert ["POST"] == calls
