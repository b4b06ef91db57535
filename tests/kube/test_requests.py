"""What a pod asks for, read from annotations, mirrored resources and whole GPUs."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.errors import BadInputError
from tfscale.gpus import GpuTable
from tfscale.kube.fields import named
from tfscale.kube.requests import check_spelling, gpu_notes, gpu_request
from tfscale.kube.resources import pod_totals
from tfscale.model import Request

TF = "tensor-fusion.ai/"
OWN = "tfscale.io/"
NOTE = "metadata.annotations[tfscale.io/"
LIMITS = "spec.containers[0].resources.limits"
BASE = {"vram-request": "4Gi", "tflops-request": "10"}


def pod(annotations: dict[str, Any] | None = None, limits: dict[str, Any] | None = None, **spec: object) -> dict[str, Any]:
    """Return a pod of one container."""
    container = {"name": "main", "resources": {"limits": limits or {}}}
    return {
        "metadata": {"namespace": "default", "name": "asr-0", "annotations": annotations or {}},
        "spec": {"containers": [container], **spec},
    }


def read(obj: dict[str, Any], prefix: str = "tensor-fusion.ai") -> Request:
    """Return the pod's request."""
    field = named("pod", obj)
    return gpu_request(field, pod_totals(field), gpu_notes(field, prefix), GpuTable())


def notes(values: dict[str, str], owner: str = OWN) -> dict[str, str]:
    """Return the annotations under one prefix."""
    return {owner + key: value for key, value in values.items()}


def refusal(obj: dict[str, Any]) -> str:
    """Return the one line that a malformed pod gives."""
    with pytest.raises(BadInputError) as caught:
        read(obj)
    return str(caught.value)


KEYS = ["vram", "tflops", "compute-percent"]


@given(
    st.dictionaries(
        st.sampled_from([owner + key + end for owner in (TF, OWN) for key in KEYS for end in ("-request", "-limit")]),
        st.sampled_from(["4Gi", "4096Mi", "1", "500m", "50", "101", "0", "NaN", "", "x"]),
    ),
    st.dictionaries(
        st.sampled_from(["tfscale.io/vram-mib", "tfscale.io/compute-mtflops", "nvidia.com/gpu", "cpu"]), st.integers(0, 3)
    ),
)
def test_a_request_that_is_read_is_whole_or_has_vram_and_compute_once(
    annotations: dict[str, str], limits: dict[str, int]
) -> None:
    """Whatever is combined, either one clear problem comes out or a request that can be packed."""
    try:
        request = read(pod(annotations, limits))
    except BadInputError as error:
        assert all(problem.where == "pod default/asr-0" and problem.want for problem in error.problems)  # noqa: PT017 - either outcome is right
        return
    ways = [request.compute_mtflops, request.compute_milli]
    if request.whole or not request.gpu_count:
        assert (ways, request.vram_mib) == ([None, None], 0)
    else:
        assert request.vram_mib > 0
        assert len([way for way in ways if way]) == 1


@given(st.integers(1, 128), st.integers(1, 10**6), st.integers(1, 10**6))
def test_mirrored_sums_are_never_booked_short(count: int, vram_mib: int, mtflops: int) -> None:
    """Each GPU gets its part of the sum, rounded up."""
    limits = {"tfscale.io/vram-mib": vram_mib, "tfscale.io/compute-mtflops": mtflops}
    request = read(pod(notes({"gpu-count": str(count)}), limits))

    assert 0 <= request.vram_mib * count - vram_mib < count
    assert 0 <= (request.compute_mtflops or 0) * count - mtflops < count


@given(st.integers(1, 1000))
def test_percentages_are_exact_to_the_thousandth(milli: int) -> None:
    """12.5 percent are 125 thousandths."""
    request = read(pod(notes({"vram-request": "1Gi", "compute-percent-request": f"{milli // 10}.{milli % 10}"})))

    assert milli == request.compute_milli


@pytest.mark.parametrize("owner", [TF, OWN])
def test_both_prefixes_are_understood(owner: str) -> None:
    """TensorFusion's annotations and ours mean the same."""
    annotations = notes(
        {"vram-request": "1500M", "tflops-request": "500m", "gpu-count": "2", "gpu-model": "NVIDIA-L4, T4"}, owner
    )
    expected = Request(gpu_count=2, vram_mib=1431, compute_mtflops=500, gpu_models=("L4", "T4"))

    assert expected == read(pod(annotations))


def test_a_prefix_of_ones_own_is_understood() -> None:
    """TensorFusion can be installed with another domain; then its default one means nothing."""
    annotations = notes(BASE, "acme.example/") | notes({"vram-request": "1Gi"}, TF)

    assert read(pod(annotations), prefix="acme.example").vram_mib == 4096


def test_a_missing_request_is_the_limit() -> None:
    """As with Kubernetes' own resources."""
    assert read(pod(notes(BASE))) == read(pod(notes({"vram-limit": "4Gi", "tflops-limit": "10"})))


def test_annotations_decide_over_mirrored_resources() -> None:
    """The mirror only tells the scheduler the least that the annotations can mean."""
    limits = {"tfscale.io/vram-mib": 1, "tfscale.io/compute-mtflops": 1}

    assert read(pod(notes(BASE))) == read(pod(notes(BASE), limits))


def test_whole_gpus_may_be_pinned_to_a_model() -> None:
    """A plain request for GPUs takes all of each card."""
    expected = Request(gpu_count=2, whole=True, gpu_models=("L4",))

    assert expected == read(pod(notes({"gpu-model": "L4"}), {"nvidia.com/gpu": 2}))


def test_a_pod_without_gpus_asks_for_cpu_and_memory() -> None:
    """Amounts are rounded up to millicores and MiB."""
    assert Request(cpu_milli=1, memory_mib=2) == read(pod(limits={"cpu": "0.1m", "memory": "1025Ki"}))


def test_pod_totals_are_counted_as_kubernetes_counts_them() -> None:
    """Sidecars add to the containers, init containers only where they need more, overhead at the end."""

    def container(cpu: int, **more: object) -> dict[str, object]:
        return {"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": 99, "memory": 7}}, **more}

    obj = {
        "spec": {
            "containers": [container(1), container(2)],
            "initContainers": [container(3), container(4, restartPolicy="Always"), container(9)],
            "overhead": {"cpu": "500m"},
        }
    }
    expected = {"cpu": Fraction(27, 2), "memory": Fraction(21)}

    assert expected == pod_totals(named("pod", obj))


def test_amounts_of_the_whole_pod_replace_the_sum() -> None:
    """``spec.resources`` speaks for CPU and memory; a limit there only where no container asks for any."""
    resources = {"requests": {"cpu": 5}, "limits": {"memory": 9, "cpu": 6}}
    obj = pod(limits={"cpu": 1, "nvidia.com/gpu": 1}, resources=resources, overhead={"cpu": 1})
    expected = {"cpu": Fraction(6), "memory": Fraction(9), "nvidia.com/gpu": Fraction(1)}

    assert expected == pod_totals(named("pod", obj))


@pytest.mark.parametrize(
    ("changed", "limits", "line"),
    [
        (
            {"vram-request": "4Gx"},
            {},
            f"{NOTE}vram-request] is '4Gx'; want a quantity such as 500m, 2 or 4Gi",
        ),
        ({"vram-request": "4096"}, {}, f"{NOTE}vram-request] is '4096'; want at least 1Mi, such as 4Gi"),
        ({"tflops-request": "0"}, {}, f"{NOTE}tflops-request] is '0'; want more than 0, such as 12.5"),
        (
            {"vram-limit": "2Gi"},
            {},
            f"{NOTE}vram-request] is '4Gi'; want at most tfscale.io/vram-limit, '2Gi'",
        ),
        (
            {"compute-percent-request": "20"},
            {},
            f"{NOTE}compute-percent-request] is '20'; want compute given once, not tfscale.io/tflops-request beside it",
        ),
        ({"gpu-count": "129"}, {}, f"{NOTE}gpu-count] is '129'; want a whole number from 1 to 128"),
        ({"gpu-model": "A10X"}, {}, f"{NOTE}gpu-model] is 'A10X'; want A10?"),
        (
            {},
            {"nvidia.com/gpu": 1},
            "resources[nvidia.com/gpu] is '1'; want either whole GPUs or a share of one, not tfscale.io/vram-request beside it",
        ),
    ],
)
def test_a_malformed_request_gives_one_line(changed: dict[str, str], limits: dict[str, int], line: str) -> None:
    """The line names object, field, value and what was wanted."""
    assert f"pod default/asr-0: {line}" == refusal(pod(notes(BASE | changed), limits))


@pytest.mark.parametrize(
    ("annotations", "limits", "line"),
    [
        (
            {OWN + "vram-request": "4Gi"},
            {},
            f"{NOTE}vram-request] is '4Gi'; want vram-request together with tflops-request or compute-percent-request",
        ),
        (
            {OWN + "compute-percent-limit": "20"},
            {},
            f"{NOTE}compute-percent-limit] is '20'; want vram-request together with tflops-request or compute-percent-request",
        ),
        (
            {OWN + "compute-percent-request": "120", OWN + "vram-request": "1Gi"},
            {},
            f"{NOTE}compute-percent-request] is '120'; want a percentage from 0 to 100, such as 12.5",
        ),
        (
            {OWN + "gpu-model": "L4"},
            {},
            f"{NOTE}gpu-model] is 'L4'; want vram-request and compute beside it, or nvidia.com/gpu",
        ),
        (
            {TF + "vram-request": "4Gi", OWN + "vram-request": "5Gi"},
            {},
            f"{NOTE}vram-request] is '5Gi'; want the same as tensor-fusion.ai/vram-request has, '4Gi'",
        ),
        (
            {},
            {"tfscale.io/vram-mib": 5},
            "resources[tfscale.io/compute-mtflops] is '0'; want tfscale.io/vram-mib together with tfscale.io/compute-mtflops",
        ),
        ({}, {"nvidia.com/gpu": 1.5}, f"{LIMITS}[nvidia.com/gpu] is '1.5'; want a whole number from 1 to 128"),
        ({}, {"nvidia.com/gpu": "500m"}, f"{LIMITS}[nvidia.com/gpu] is '500m'; want a whole number from 1 to 128"),
        ({}, {"nvidia.com/gpu": 129}, "resources[nvidia.com/gpu] is '129'; want a whole number from 1 to 128"),
        ({}, {"cpu": "-1"}, "spec.containers[0].resources.limits.cpu is '-1'; want a quantity such as 500m, 2 or 4Gi"),
        (
            {OWN + "gpu-count": "2"},
            {"nvidia.com/gpu": 1},
            f"{NOTE}gpu-count] is '2'; want 1, as nvidia.com/gpu says",
        ),
        (
            {OWN + "gpu-count": 2},
            {},
            f"{NOTE}gpu-count] is '2'; want text; a number or a truth value needs quotes",
        ),
    ],
)
def test_contradictions_give_one_line(annotations: dict[str, Any], limits: dict[str, Any], line: str) -> None:
    """What contradicts itself is refused rather than guessed."""
    assert f"pod default/asr-0: {line}" == refusal(pod(annotations, limits))


@pytest.mark.parametrize(
    ("key", "want"),
    [
        (OWN + "vram-reqest", "tfscale.io/vram-request?"),
        (OWN + "gpu-modle", "tfscale.io/gpu-model?"),
        (TF + "gpupol", "tensor-fusion.ai/gpupool?"),
        (TF + "compute-percent-requst", "tensor-fusion.ai/compute-percent-request?"),
        (OWN + "colour", "one of tfscale.io/vram-request, "),
    ],
)
def test_a_misspelled_annotation_is_refused(key: str, want: str) -> None:
    """Passed over, it would place the pod without what it asked for."""
    with pytest.raises(BadInputError) as caught:
        check_spelling(named("pod", pod({key: "1"})), "tensor-fusion.ai", ())

    assert str(caught.value).startswith(f"pod default/asr-0: a key of metadata.annotations is '{key}'; want {want}")


def test_annotations_of_others_are_left_alone() -> None:
    """TensorFusion has many keys that are none of ours, and so has everybody else."""
    theirs = {TF + "qos": "high", TF + "inject-container": "main", "sidecar.istio.io/inject": "false", OWN + "gpupool": "a"}

    check_spelling(named("pod", pod(theirs)), "tensor-fusion.ai", ())
