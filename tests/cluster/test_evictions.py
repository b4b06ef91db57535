"""A node is emptied on the real API server, whose disruption controller counts the pods."""

from __future__ import annotations

from dataclasses import replace

from tests.cluster.conftest import eventually
from tests.cluster.control_plane import ControlPlane
from tfscale.kube.client import KubeClient
from tfscale.kube.evictions import evict
from tfscale.kube.port import DISRUPTION_BUDGETS, NODES, PODS, Json
from tfscale.kube.taints import take_out_of_service
from tfscale.model import DISRUPTED, Guest
from tfscale.testing.contracts.kube.workplace import HOME, Workplace


def guest(pod: Json) -> Guest:
    """Return a pod as the plan of a drain names it."""
    return Guest(id=f"{HOME}/{pod['metadata']['name']}", uid=pod["metadata"]["uid"], demand=None)


def test_a_node_is_taken_out_of_service_once(kube: KubeClient) -> None:
    """Foreign taints stay, and what is done already is not written again; a node that is gone is fine."""
    foreign = {"key": "example.com/maintenance", "effect": "NoExecute"}
    kube.create(NODES, {"metadata": {"name": "a"}, "spec": {"taints": [foreign]}})
    take_out_of_service(kube, "a")
    marked = kube.get(NODES, "a")
    take_out_of_service(kube, "a")
    take_out_of_service(kube, "gone")

    assert marked["spec"]["unschedulable"]
    assert {foreign["key"], DISRUPTED} <= {taint["key"] for taint in marked["spec"]["taints"]}
    assert marked == kube.get(NODES, "a")


def test_pods_leave_as_their_budget_allows(control_plane: ControlPlane, kube: KubeClient) -> None:
    """One now, the other when somebody else runs in its place; one that took over the name stays."""
    control_plane.start_controllers("disruption")
    world = Workplace(kube)
    first, second = world.running_pod("a"), world.running_pod("b")
    budget = world.budget_of(2, minAvailable=1)
    follower = replace(guest(first), uid="00000000-0000-0000-0000-000000000000")

    assert [] == evict(kube, [follower])
    assert not world.is_ending(first)
    assert [guest(second).id] == evict(kube, [guest(first), guest(second)])
    assert [True, False] == [world.is_ending(pod) for pod in (first, second)]
    third = world.running_pod("c")
    eventually(lambda: world.now(DISRUPTION_BUDGETS, budget)["status"]["disruptionsAllowed"] == 1, "the third is counted")
    assert [] == evict(kube, [guest(first), guest(second)])
    assert [True, False] == [world.is_ending(pod) for pod in (second, third)]
    assert all(world.now(PODS, pod)["metadata"]["deletionGracePeriodSeconds"] == 30 for pod in (first, second))
