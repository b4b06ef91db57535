"""Which pods a PodDisruptionBudget keeps from being evicted. A cluster's disruption controller counts in the background."""

from __future__ import annotations

import pytest

from tfscale.errors import ClusterError, RefusedObjectError, TooManyRequestsError
from tfscale.kube.port import DISRUPTION_BUDGETS, PODS, Json
from tfscale.testing.contracts.kube.workplace import HOME, Workplace

__all__ = ["GuardingContract"]


class GuardingContract:
    """Budgets of running pods."""

    def test_a_budget_counts_the_healthy_pods(self, world: Workplace) -> None:
        """Those that are ready, of all that it selects in its namespace."""
        world.running_pod("a")
        world.running_pod("b")
        world.running_pod("c", ready=False)

        status = world.budget_of(3, minAvailable=1)["status"]

        counted = [status[key] for key in ("currentHealthy", "desiredHealthy", "disruptionsAllowed", "observedGeneration")]
        assert counted == [2, 1, 1, 1]

    def test_one_too_many_evictions_is_refused(self, world: Workplace) -> None:
        """The pod stays as it is, and the server can be asked again."""
        first, second = world.running_pod("a"), world.running_pod("b")
        budget = world.budget_of(2, minAvailable=1)

        world.evict(first)

        with pytest.raises(TooManyRequestsError):
            world.evict(second)
        assert second == world.now(PODS, second)
        assert world.is_ending(first)
        world.eventually(
            lambda: world.now(DISRUPTION_BUDGETS, budget)["status"]["currentHealthy"] == 1, "the first is counted off"
        )
        with pytest.raises(TooManyRequestsError):
            world.evict(second)

    def test_a_second_eviction_of_one_pod_needs_no_budget(self, world: Workplace) -> None:
        """It is ending already."""
        pod = world.running_pod("a")
        world.running_pod("b")
        world.budget_of(2, minAvailable=1)

        for _ in range(2):
            world.evict(pod)

        assert world.is_ending(pod)

    @pytest.mark.parametrize("phase", ["Pending", "Succeeded", "Failed"])
    def test_pods_that_do_not_run_are_not_protected(self, world: Workplace, phase: str) -> None:
        """Not yet, or no more."""
        pod = world.running_pod("a", phase=phase, ready=False)
        world.budget_of(1, minAvailable=1)

        world.evict(pod)

        assert world.is_ending(pod)

    def test_an_unready_pod_goes_while_enough_are_healthy(self, world: Workplace) -> None:
        """Though no disruption is allowed: it makes none."""
        world.running_pod("a")
        unready = world.running_pod("b", ready=False)
        world.budget_of(2, minAvailable=1)

        world.evict(unready)

        assert world.is_ending(unready)

    def test_an_unready_pod_stays_while_too_few_are_healthy(self, world: Workplace) -> None:
        """It may become ready; unless the budget always lets such pods go."""
        unready = world.running_pod("a", ready=False)
        budget = world.budget_of(1, minAvailable=1)

        with pytest.raises(TooManyRequestsError):
            world.evict(unready)
        policy = {"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}
        world.kube.patch(DISRUPTION_BUDGETS, budget["metadata"]["name"], policy, namespace=HOME)
        world.eventually(lambda: world.now(DISRUPTION_BUDGETS, budget)["status"]["observedGeneration"] == 2, "the policy is seen")
        world.evict(unready)
        assert world.is_ending(unready)

    def test_several_budgets_of_one_pod_are_not_supported(self, world: Workplace) -> None:
        """The eviction fails (500), whatever they allow."""
        pod = world.running_pod("a")
        for suffix in "ab":
            world.budget_of(1, suffix, minAvailable=0)

        with pytest.raises(ClusterError) as caught:
            world.evict(pod)
        assert not isinstance(caught.value, TooManyRequestsError)
        assert pod == world.now(PODS, pod)

    @pytest.mark.parametrize("spec", [{"maxUnavailable": 1}, {"minAvailable": "50%"}], ids=str)
    def test_a_budget_that_counts_from_a_controller_protects_bare_pods(self, world: Workplace, spec: Json) -> None:
        """Nobody says how many there should be, so none may go."""
        pod = world.running_pod("a")
        world.running_pod("b")
        budget = world.budget_of(0, **spec)

        assert budget["status"]["disruptionsAllowed"] == 0
        with pytest.raises(TooManyRequestsError):
            world.evict(pod)

    @pytest.mark.parametrize("selector", [{"matchLabels": {"app": "nobody"}}, None], ids=["other-labels", "no-selector"])
    def test_a_budget_of_other_pods_protects_nobody(self, world: Workplace, selector: Json | None) -> None:
        """It selects by labels; without a selector it selects none."""
        pod = world.running_pod("a")
        world.budget_of(0, minAvailable=1, selector=selector)

        world.evict(pod)

        assert world.is_ending(pod)

    @pytest.mark.parametrize("spec", [{"minAvailable": 1, "maxUnavailable": 1}, {"minAvailable": -1}], ids=str)
    def test_a_budget_that_makes_no_sense_is_refused(self, world: Workplace, spec: Json) -> None:
        """Both limits, or less than none."""
        with pytest.raises(RefusedObjectError):
            world.made(DISRUPTION_BUDGETS, world.bare("a", spec=spec), HOME)
