"""Which pods wait, where they may go, and which are left alone with a reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.errors import BadInputError, Problem
from tfscale.gpus import GpuTable
from tfscale.kube.constraints import node_terms
from tfscale.kube.fields import named
from tfscale.kube.pods import BoundPods, allocation, keeps_busy, read_allocation, read_demand, waits
from tfscale.model import BoundPod, Demand, GpuSlice, Request
from tfscale.selectors import Operator, Requirement, Toleration, matches_any

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
ROW = {"key": "row", "operator": "In", "values": ["1", ""]}
slices = st.lists(
    st.builds(GpuSlice, gpu_id=st.text(min_size=1), vram_mib=st.integers(1, 10**6), compute_milli=st.integers(1, 1000)),
    unique_by=lambda part: part.gpu_id,
)


def pod(spec: dict[str, Any] | None = None, **meta: object) -> dict[str, Any]:
    """Return a pending pod of ours."""
    return {
        "metadata": {"namespace": "default", "name": "asr-0", "uid": "u1", **meta},
        "spec": {"schedulerName": "tfscale", "containers": [{}], **(spec or {})},
        "status": {"phase": "Pending"},
    }


def demand(obj: dict[str, Any]) -> Demand:
    """Return the pod as a demand."""
    return read_demand(named("pod", obj), pool="inference", gpus=GpuTable(), prefix="tensor-fusion.ai")


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    """Return a spec with required node affinity."""
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}}


@given(slices)
def test_an_allocation_record_survives_the_round_trip(parts: list[GpuSlice]) -> None:
    """What a bind writes is what the next tick reads."""
    obj = pod(annotations=allocation(parts))

    assert tuple(parts) == read_allocation(named("pod", obj))


@given(st.text())
def test_any_text_as_record_is_read_or_refused(text: str) -> None:
    """A record that somebody edited never ends the tick."""
    try:
        read_allocation(named("pod", pod(annotations={"tfscale.io/allocation": text})))
    except BadInputError as error:
        assert error.problem.field == "metadata.annotations[tfscale.io/allocation]"  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    "changed",
    [
        {"spec": {"nodeName": "n1"}},
        {"spec": {"schedulerName": "default-scheduler"}},
        {"spec": {"schedulingGates": [{"name": "quota"}]}},
        {"status": {"phase": "Running"}},
        {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
    ],
)
def test_a_pod_that_is_not_free_to_be_placed_does_not_wait(changed: dict[str, Any]) -> None:
    """Bound, gated, ended, deleted, or somebody else's."""
    obj = pod()

    assert waits(named("pod", obj))
    assert not waits(named("pod", {key: value | changed.get(key, {}) for key, value in obj.items()}))


def test_selector_and_affinity_hold_together() -> None:
    """The node selector goes into every term."""
    exists = {"key": "fast", "operator": "Exists"}
    obj = pod({"nodeSelector": {"zone": "a"}, **affinity({"matchExpressions": [ROW, exists]}, {"matchExpressions": [exists]})})
    zone = Requirement(key="zone", operator=Operator.IN, values=("a",))
    row = Requirement(key="row", operator=Operator.IN, values=("1", ""))
    fast = Requirement(key="fast", operator=Operator.EXISTS)
    terms = node_terms(named("pod", obj))

    assert ((zone, row, fast), (zone, fast)) == terms
    assert not matches_any(terms, {"fast": "1", "zone": "b"})


def test_a_demand_carries_what_placing_it_needs() -> None:
    """Tolerations, priority, and the time it was created."""
    obj = pod({"priority": -5, "tolerations": [{"key": "gpu", "operator": "Exists"}]}, creationTimestamp="1970-01-01T00:01:00Z")
    expected = Demand(
        id="default/asr-0",
        uid="u1",
        pool="inference",
        request=Request(),
        priority=-5,
        created_s=60,
        tolerations=(Toleration(key="gpu", operator="Exists"),),
    )

    assert expected == demand(obj)


@pytest.mark.parametrize(
    ("spec", "named_field"),
    [
        ({"affinity": {"podAffinity": {REQUIRED: [{}]}}}, f"spec.affinity.podAffinity.{REQUIRED}"),
        ({"affinity": {"podAntiAffinity": {REQUIRED: [{}]}}}, f"spec.affinity.podAntiAffinity.{REQUIRED}"),
        (
            affinity({"matchFields": [ROW], "matchExpressions": [ROW]}),
            f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchFields",
        ),
        (affinity({}), f"spec.affinity.nodeAffinity.{REQUIRED} that no node can match"),
        ({"topologySpreadConstraints": [{"maxSkew": 1}]}, "spec.topologySpreadConstraints[0] (DoNotSchedule)"),
        ({"containers": [{"ports": [{"hostPort": 80}]}]}, "spec.containers[0].ports[0].hostPort"),
        ({"hostNetwork": True, "containers": [{"ports": [{"containerPort": 80}]}]}, "spec.containers[0].ports[0].hostPort"),
        ({"volumes": [{"persistentVolumeClaim": {"claimName": "x"}}]}, "spec.volumes[0].persistentVolumeClaim"),
        ({"volumes": [{"ephemeral": {}}]}, "spec.volumes[0].ephemeral"),
        ({"resourceClaims": [{"name": "gpu"}]}, "spec.resourceClaims"),
        ({"tolerations": [{"key": "n", "operator": "Gt", "value": "1"}]}, "spec.tolerations[0].operator"),
        ({"containers": [{"resources": {"limits": {"nvidia.com/mig-1g.5gb": 1}}}]}, "a request for nvidia.com/mig-1g.5gb"),
        ({"containers": [{"resources": {"limits": {"amd.com/gpu": 1, "x": 0}}}]}, "a request for amd.com/gpu"),
    ],
)
def test_a_constraint_that_is_not_honoured_leaves_the_pod_alone(spec: dict[str, Any], named_field: str) -> None:
    """Its reason names the field."""
    assert f"tfscale does not place pods with {named_field}" == demand(pod(spec)).blocked


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("gpu-indices", "0,2", ""),
        ("partition", "1g.5gb", ""),
        ("gang-enabled", "true", ""),
        ("dedicated-gpu", "true", ""),
        ("vendor", "AMD", " 'AMD'"),
        ("isolation", "shared", " 'shared'"),
        ("isolation", "hard", " 'hard'"),
    ],
)
def test_what_tensor_fusion_can_and_tfscale_cannot_is_said(key: str, value: str, shown: str) -> None:
    """An annotation that changes the placement is never overlooked."""
    obj = pod(annotations={f"tensor-fusion.ai/{key}": value})

    assert f"tfscale does not place pods with metadata.annotations[tensor-fusion.ai/{key}]{shown}" == demand(obj).blocked


def test_constraints_that_change_nothing_are_fine() -> None:
    """Preferences, what TensorFusion does by default anyway, and what is switched off."""
    spec = {"topologySpreadConstraints": [{"whenUnsatisfiable": "ScheduleAnyway"}], "affinity": {"podAffinity": {}}}
    annotations = {"isolation": "soft", "vendor": "NVIDIA", "gang-enabled": "false", "qos": "high"}

    assert demand(pod(spec, annotations={f"tensor-fusion.ai/{key}": value for key, value in annotations.items()})).blocked == ""


@pytest.mark.parametrize(
    ("expression", "line"),
    [
        ({"key": "a", "operator": "in"}, "operator is 'in'; want one of In, NotIn, Exists, DoesNotExist, Gt, Lt"),
        ({"key": "a", "operator": "In"}, "values is ''; want at least one value"),
        ({"key": "a", "operator": "Gt", "values": ["x"]}, "values is \"['x']\"; want one whole number as text"),
        ({"operator": "Exists"}, "key is ''; want text that is not empty"),
    ],
)
def test_an_affinity_that_kubernetes_would_refuse_gives_one_line(expression: dict[str, Any], line: str) -> None:
    """The line names the place in the object."""
    path = f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0]"
    with pytest.raises(BadInputError) as caught:
        demand(pod(affinity({"matchExpressions": [expression]})))

    assert f"pod default/asr-0: {path}.{line}" == str(caught.value)


def bound(obj: dict[str, Any]) -> tuple[BoundPod, str, list[Problem]]:
    """Return what the pod holds, why its node is fenced, and what is wrong."""
    problems: list[Problem] = []
    held, fence = BoundPods(GpuTable(), "tensor-fusion.ai").read(named("pod", obj), problems)
    return held, fence, problems


def test_a_broken_record_fences_the_node_and_is_named() -> None:
    """Which part of a card the pod holds is not known then."""
    held, fence, problems = bound(pod({"nodeName": "n1"}, annotations={"tfscale.io/allocation": "[{}]"}))
    line = (
        "pod default/asr-0: metadata.annotations[tfscale.io/allocation] is '[{}]'; "
        'want a JSON list such as [{"gpu":"0","vramMib":4096,"computeMilli":200}], each GPU once'
    )

    assert (held.slices, fence) == ((), "what pod default/asr-0 holds is not known")
    assert [line] == [str(problem) for problem in problems]


def test_a_good_record_counts_even_if_the_request_was_broken_since() -> None:
    """Annotations can be edited on a running pod; what it holds does not change by that."""
    part = GpuSlice(gpu_id="0", vram_mib=1, compute_milli=1)
    held, fence, problems = bound(pod(annotations={"tfscale.io/vram-request": "x", **allocation([part])}))

    assert ((part,), "", 1) == (held.slices, fence, len(problems))


def test_a_share_without_a_record_fences_the_node() -> None:
    """Somebody else bound the pod: where its share is is not known."""
    annotations = {"tensor-fusion.ai/vram-request": "1Gi", "tensor-fusion.ai/tflops-request": "1"}

    assert bound(pod(annotations=annotations))[1:] == (
        "pod default/asr-0 asks for a share of a GPU but has no tfscale.io/allocation",
        [],
    )


@pytest.mark.parametrize(
    ("meta", "phase", "expected"),
    [
        ({}, "Running", "default/asr-0"),
        ({}, "Succeeded", ""),
        ({"ownerReferences": [{"kind": "DaemonSet"}]}, "Running", ""),
        ({"ownerReferences": [{"kind": "Node"}]}, "Running", ""),
        ({"annotations": {"kubernetes.io/config.mirror": "x"}}, "Running", ""),
        ({"ownerReferences": "broken"}, "Running", "default/asr-0"),
    ],
)
def test_only_workloads_keep_a_node_busy(meta: dict[str, Any], phase: str, expected: str) -> None:
    """Pods of the node itself go with it; a pod that cannot be read stays."""
    assert expected == keeps_busy(pod({"nodeName": "n1"}, **meta) | {"status": {"phase": phase}})
