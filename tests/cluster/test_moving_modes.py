"""A pool that is moved from one mode to another, on the real Karpenter and with the real rules of its definition."""

from __future__ import annotations

import pytest

from tests.cluster.claims import claims, running, ticking
from tests.cluster.karpenter import POOLS, create_pods, pool_of
from tests.cluster.test_karpenter import loop, notes, nothing_is_left, reconciler_of, reconciler_on
from tfscale.errors import RefusedObjectError
from tfscale.kube.client import KubeClient
from tfscale.kube.port import CONFIG_MAPS, GPU_POOLS, NODE_CLAIMS, NODE_REQUESTS, NODES, PODS, Kube
from tfscale.reconcile import Reconciler


def move(kube: Kube, mode: str) -> None:
    """Edit the pool: another mode, and options that it understands."""
    before = kube.get(GPU_POOLS, "pool")["spec"].get("options", {})
    options = {**dict.fromkeys(before), **POOLS.get(mode, {})}
    offers = pool_of(mode)["spec"]["offers"] if mode in POOLS else None
    kube.patch(GPU_POOLS, "pool", {"spec": {"mode": mode, "options": options, "offers": offers, "idleAfter": "5s"}})


def end_pod(kube: Kube, name: str) -> None:
    """Delete a pod."""
    kube.delete(PODS, name, namespace="default", grace_period_s=0)


def modes_of(kube: Kube) -> list[str]:
    """Return the modes that the claims name."""
    return sorted(notes(claim)["tfscale.io/mode"] for claim in kube.list(NODE_CLAIMS).items)


def owners(kube: Kube) -> list[str]:
    """Return the modes that the records name."""
    return sorted(record["spec"]["mode"] for record in kube.list(NODE_REQUESTS).items)


def places(kube: Kube) -> dict[str, str]:
    """Return uid and node of each pod that runs."""
    pods = [pod for pod in kube.list(PODS).items if pod["status"].get("phase") == "Running"]
    return {pod["metadata"]["uid"]: pod["spec"]["nodeName"] for pod in pods}


def records(kube: Kube) -> list[str]:
    """Return the names of the ConfigMaps with records."""
    found = [one["metadata"]["name"] for one in kube.list(CONFIG_MAPS, namespace="default").items]
    return sorted(name for name in found if name != "kube-root-ca.crt")


def test_pods_run_on_through_three_modes_and_each_gives_back_its_own(karpenter: KubeClient) -> None:
    """Managed, reuse, static and back again, where no definition refuses it: nobody touches what another mode bought."""
    reconciler = reconciler_of(karpenter, "managed-nodeclaim")
    before = records(karpenter)
    create_pods(karpenter, 1, whole=True)
    loop(reconciler, lambda: running(karpenter, "pod-0"), "the first pod runs")
    move(reconciler.kube, "reuse-nodeclaim")
    create_pods(karpenter, 1, first=1, whole=True)
    ticking(reconciler, lambda: running(karpenter, "pod-1"), "the second pod runs")
    there = places(karpenter)
    assert ["managed-nodeclaim", "reuse-nodeclaim"] == modes_of(karpenter)

    move(reconciler.kube, "static")
    create_pods(karpenter, 1, first=2, whole=True)
    pods = {"bound": 2, "waiting": 0, "unmet": 1}
    ticking(reconciler, lambda: reconciler.kube.get(GPU_POOLS, "pool")["status"]["pods"] == pods, "the third pod is unmet")
    assert (there, 2) == (places(karpenter), len(claims(karpenter)))
    assert told(reconciler.kube)

    end_pod(karpenter, "pod-2")
    end_pod(karpenter, "pod-1")
    move(reconciler.kube, "reuse-nodeclaim")
    ticking(reconciler, lambda: owners(reconciler.kube) == ["managed-nodeclaim"], "the replica is reclaimed and forgotten")
    move(reconciler.kube, "managed-nodeclaim")
    ticking(reconciler, lambda: not told(reconciler.kube), "the pool is well again")
    assert (["managed-nodeclaim"], True) == (modes_of(karpenter), places(karpenter).items() <= there.items())
    end_pod(karpenter, "pod-0")
    loop(reconciler, lambda: nothing_is_left(reconciler) and records(karpenter) == before, "nothing is left")


def told(kube: Kube) -> bool:
    """Return whether the pool says that another mode has to give something back."""
    (ready,) = kube.get(GPU_POOLS, "pool")["status"]["conditions"]
    return ready["reason"] == "BadMode" and " is given back" in ready["message"]


def test_the_api_server_refuses_to_move_a_pool_until_all_is_given_back(cluster: KubeClient) -> None:
    """From managed by reuse to static: each step waits for the last pod, and nothing of the step before is left then."""
    cluster.create(GPU_POOLS, pool_of("managed-nodeclaim"))
    reconciler = reconciler_on(cluster)
    step(reconciler, "pod-0", "managed-nodeclaim", following="reuse-nodeclaim")
    step(reconciler, "pod-1", "reuse-nodeclaim", following="static")
    loop(reconciler, lambda: cluster.get(GPU_POOLS, "pool")["status"]["conditions"][0]["status"] == "True", "the pool is well")

    assert ("static", []) == (cluster.get(GPU_POOLS, "pool")["spec"]["mode"], cluster.list(NODES).items)


def step(reconciler: Reconciler, pod: str, mode: str, *, following: str) -> None:
    """Let a pod run in one mode, be refused the next mode as long as its node is there, and then move."""
    kube = reconciler.kube
    create_pods(kube, 1, first=int(pod.removeprefix("pod-")))
    loop(reconciler, lambda: running(kube, pod), "the pod runs")
    with pytest.raises(RefusedObjectError, match=f"mode must stay '{mode}' until all that it bought is given back"):
        move(kube, following)
    end_pod(kube, pod)
    loop(reconciler, lambda: nothing_is_left(reconciler), "nothing is left")
    loop(reconciler, lambda: kube.get(GPU_POOLS, "pool")["status"]["bought"] == 0, "the pool says so")
    move(kube, following)
