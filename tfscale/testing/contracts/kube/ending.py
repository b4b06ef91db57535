"""How objects end, and the two verbs that are only for pods: bind and evict."""

from __future__ import annotations

import uuid

import pytest

from tfscale.errors import ConflictError, NotFoundError, RefusedObjectError
from tfscale.kube.port import PODS
from tfscale.testing.contracts.kube.workplace import HOLD, HOME, NODE, WIDGETS, Workplace

__all__ = ["LifeContract"]


class LifeContract:
    """Deletes, finalizers, grace periods, binds and evictions."""

    def test_delete_removes(self, world: Workplace) -> None:
        """And a second delete does not find it."""
        widget = world.widget()

        world.kube.delete(WIDGETS, widget["metadata"]["name"], namespace=HOME)

        assert world.gone(WIDGETS, widget)
        with pytest.raises(NotFoundError):
            world.kube.delete(WIDGETS, widget["metadata"]["name"], namespace=HOME)

    @pytest.mark.parametrize("field", ["uid", "resource_version"])
    def test_delete_of_another_object_or_version_conflicts(self, world: Workplace, field: str) -> None:
        """A successor of the same name is not deleted by mistake."""
        widget = world.widget()
        world.kube.patch(WIDGETS, widget["metadata"]["name"], {"spec": {"size": 2}}, namespace=HOME)
        stale = {"resource_version": widget["metadata"]["resourceVersion"], "uid": str(uuid.uuid4())}

        with pytest.raises(ConflictError):
            world.kube.delete(WIDGETS, widget["metadata"]["name"], namespace=HOME, **{field: stale[field]})
        assert not world.gone(WIDGETS, widget)

    def test_delete_of_this_object_and_version_is_done(self, world: Workplace) -> None:
        """Preconditions that hold do no harm."""
        widget = world.widget()
        meta = widget["metadata"]

        world.kube.delete(WIDGETS, meta["name"], namespace=HOME, uid=meta["uid"], resource_version=meta["resourceVersion"])

        assert world.gone(WIDGETS, widget)

    def test_a_finalizer_keeps_the_object(self, world: Workplace) -> None:
        """It is marked once, and goes with its last finalizer."""
        widget = world.widget(metadata={"finalizers": [HOLD]})
        name = widget["metadata"]["name"]

        world.kube.delete(WIDGETS, name, namespace=HOME)
        marked = world.now(WIDGETS, widget)
        world.kube.delete(WIDGETS, name, namespace=HOME)

        assert marked == world.now(WIDGETS, widget)
        assert marked["metadata"]["deletionTimestamp"]
        assert marked["metadata"]["generation"] == 2
        world.kube.patch(WIDGETS, name, {"metadata": {"finalizers": None}}, namespace=HOME)
        assert world.gone(WIDGETS, widget)

    def test_a_dying_object_takes_no_new_finalizer(self, world: Workplace) -> None:
        """Or it would never end. Its labels and spec can still change."""
        widget = world.widget(metadata={"finalizers": [HOLD]})
        name = widget["metadata"]["name"]
        world.kube.delete(WIDGETS, name, namespace=HOME)

        with pytest.raises(RefusedObjectError):
            world.kube.patch(WIDGETS, name, {"metadata": {"finalizers": [HOLD, f"{HOLD}-more"]}}, namespace=HOME)
        assert world.kube.patch(WIDGETS, name, {"spec": {"x": 1}}, namespace=HOME)["spec"] == {"x": 1}

    def test_a_finalizer_on_a_pod_outlives_its_kubelet(self, world: Workplace) -> None:
        """Grace period and finalizers both have to end."""
        pod = world.pod(metadata={"finalizers": [HOLD]})
        world.bind(pod)

        world.kube.delete(PODS, pod["metadata"]["name"], namespace=HOME, grace_period_s=0)

        assert not world.gone(PODS, pod)
        world.kube.patch(PODS, pod["metadata"]["name"], {"metadata": {"finalizers": None}}, namespace=HOME)
        assert world.gone(PODS, pod)

    def test_a_pod_without_a_node_goes_at_once(self, world: Workplace) -> None:
        """There is no kubelet to wait for, whatever the grace period."""
        pod = world.pod()

        world.kube.delete(PODS, pod["metadata"]["name"], namespace=HOME, grace_period_s=60)

        assert world.gone(PODS, pod)

    def test_a_bound_pod_waits_for_its_kubelet(self, world: Workplace) -> None:
        """It is marked with its own grace period and removed by a delete without one."""
        pod = world.bound_pod(terminationGracePeriodSeconds=77)
        name = pod["metadata"]["name"]

        world.kube.delete(PODS, name, namespace=HOME)

        meta = world.now(PODS, pod)["metadata"]
        assert meta["deletionGracePeriodSeconds"] == 77
        assert meta["deletionTimestamp"]
        world.kube.delete(PODS, name, namespace=HOME, grace_period_s=0)
        assert world.gone(PODS, pod)

    def test_a_grace_period_can_only_be_shortened(self, world: Workplace) -> None:
        """A second delete with a longer one, or with none, changes nothing."""
        pod = world.bound_pod()
        name = pod["metadata"]["name"]

        granted = []
        for asked in (50, 90, None, 20):
            world.kube.delete(PODS, name, namespace=HOME, grace_period_s=asked)
            granted.append(world.now(PODS, pod)["metadata"]["deletionGracePeriodSeconds"])

        assert granted == [50, 50, 50, 20]

    def test_bind_writes_node_annotations_and_condition_at_once(self, world: Workplace) -> None:
        """One version, and the annotations that the pod had stay."""
        pod = world.pod(metadata={"annotations": {"kept": "1", "both": "1"}})
        since = world.version(PODS)

        world.bind(pod, node="gpu-7", annotations={"both": "2", "tfscale.io/slices": "[]"})

        (event,) = world.events(since, 1, kind=PODS)
        bound = event.object
        assert (event.type, bound["spec"]["nodeName"]) == ("MODIFIED", "gpu-7")
        assert bound["metadata"]["annotations"] == {"kept": "1", "both": "2", "tfscale.io/slices": "[]"}
        assert [one["status"] for one in bound["status"]["conditions"] if one["type"] == "PodScheduled"] == ["True"]
        assert bound == world.now(PODS, pod)

    def test_bind_of_another_pod_of_that_name_conflicts(self, world: Workplace) -> None:
        """The uid is a precondition."""
        pod = world.pod()

        with pytest.raises(ConflictError):
            world.bind(pod, uid=str(uuid.uuid4()), annotations={"x": "y"})
        assert pod == world.now(PODS, pod)

    def test_a_second_bind_conflicts(self, world: Workplace) -> None:
        """Even to the same node; its annotations are not written."""
        pod = world.pod()
        world.bind(pod, annotations={"x": "1"})
        bound = world.now(PODS, pod)

        for node in (NODE, "elsewhere"):
            with pytest.raises(ConflictError):
                world.bind(pod, node=node, annotations={"x": "2"})
        assert bound == world.now(PODS, pod)

    def test_bind_of_a_dying_pod_conflicts(self, world: Workplace) -> None:
        """It would hold a place that it never uses."""
        pod = world.pod(metadata={"finalizers": [HOLD]})
        world.kube.delete(PODS, pod["metadata"]["name"], namespace=HOME)

        with pytest.raises(ConflictError):
            world.bind(pod)

    def test_bind_of_a_gated_pod_conflicts(self, world: Workplace) -> None:
        """Until the gate is removed."""
        pod = world.pod(schedulingGates=[{"name": "contract.tfscale.io/gate"}])

        with pytest.raises(ConflictError):
            world.bind(pod)
        world.kube.patch(PODS, pod["metadata"]["name"], {"spec": {"schedulingGates": None}}, namespace=HOME)
        world.bind(pod)
        assert world.now(PODS, pod)["spec"]["nodeName"] == NODE

    def test_a_gated_pod_says_so(self, world: Workplace) -> None:
        """It has a condition from the beginning; a gate cannot be added later."""
        gates = [{"name": "contract.tfscale.io/gate"}]
        gated, free = world.pod("a", schedulingGates=gates), world.pod("b")

        (condition,) = gated["status"]["conditions"]

        assert (condition["type"], condition["status"], condition["reason"]) == ("PodScheduled", "False", "SchedulingGated")
        with pytest.raises(RefusedObjectError):
            world.kube.patch(PODS, free["metadata"]["name"], {"spec": {"schedulingGates": gates}}, namespace=HOME)

    def test_bind_makes_no_generation(self, world: Workplace) -> None:
        """The author's wish did not change."""
        pod = world.pod()
        world.bind(pod)

        assert [pod["metadata"]["generation"], world.now(PODS, pod)["metadata"]["generation"]] == [1, 1]

    def test_evict_removes_a_pod_without_a_node(self, world: Workplace) -> None:
        """As a delete does."""
        pod = world.pod()

        world.kube.evict(pod["metadata"]["name"], namespace=HOME)

        assert world.gone(PODS, pod)

    def test_evict_gives_a_bound_pod_time(self, world: Workplace) -> None:
        """It is marked, and says why."""
        pod = world.bound_pod()

        world.kube.evict(pod["metadata"]["name"], namespace=HOME, grace_period_s=40)

        after = world.now(PODS, pod)
        assert after["metadata"]["deletionGracePeriodSeconds"] == 40
        assert "DisruptionTarget" in [one["type"] for one in after["status"]["conditions"]]

    def test_a_second_eviction_changes_nothing(self, world: Workplace) -> None:
        """The pod is ending already."""
        pod = world.bound_pod()
        world.kube.evict(pod["metadata"]["name"], namespace=HOME)
        ending = world.now(PODS, pod)

        world.kube.evict(pod["metadata"]["name"], namespace=HOME)

        assert ending == world.now(PODS, pod)

    def test_an_eviction_that_means_another_pod_is_refused(self, world: Workplace) -> None:
        """One that was made anew under the name stays as it is."""
        pod = world.bound_pod()
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]

        with pytest.raises(ConflictError):
            world.kube.evict(name, namespace=HOME, uid="00000000-0000-0000-0000-000000000000")
        assert "deletionTimestamp" not in world.now(PODS, pod)["metadata"]

        world.kube.evict(name, namespace=HOME, uid=uid)
        assert world.is_ending(pod)
