"""What Karpenter's providers write on nodes of a type: told where it follows from the type, unknown where it does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.modes.nodeclaims import INSTANCE_TYPE, ZONE, cluster, managed, node_pool, reuse
from tfscale.kube.port import NODE_CLASSES, NODES, Json
from tfscale.modes.nodeclaim_labels import is_fact
from tfscale.modes.nodeclaim_providers import AWS, AZURE, KWOK, OCI, ZOOM, TypeFacts, provider_of
from tfscale.pool import OfferFilter

GROUPS = (AWS, AZURE, OCI, ZOOM, KWOK)
EXAMPLES = (
    "g6.xlarge",
    "u7i-12tb.224xlarge",
    "Standard_NC24ads_A100_v4",
    "Standard_NC6",
    "BM.GPU.A10.4",
    "VM.Standard3.Flex.4o.8g.1_1b",
)
"""Names of types of all clouds."""
FACTS = st.builds(
    TypeFacts,
    name=st.sampled_from(EXAMPLES) | st.text("abNCDv0129_.-", min_size=1, max_size=12),
    cpu_milli=st.none() | st.integers(1, 400_000),
    memory_mib=st.none() | st.integers(1, 2**24),
    gpu_model=st.sampled_from(["T4", "A100", "RTX-PRO-6000"]),
    gpu_count=st.integers(0, 16),
    vram_mib=st.integers(1, 2**18),
)


def azure(name: str, model: str, count: int) -> TypeFacts:
    """Return an Azure size with so many cards."""
    return TypeFacts(name=name, cpu_milli=24_000, memory_mib=225_280, gpu_model=model, gpu_count=count, vram_mib=81_920)


def told(group: str, facts: TypeFacts, *names: str) -> list[str | None]:
    """Return these labels of the provider: empty is known to be missing, None is unknown."""
    provider = provider_of(group)
    labels, keys = provider.labels(facts), [f"{group}/{name}" for name in names]
    return [labels.get(key, "") if provider.tells(key, facts) else None for key in keys]


@given(facts=FACTS, group=st.sampled_from(GROUPS))
def test_whatever_is_written_is_told_and_is_a_fact(facts: TypeFacts, group: str) -> None:
    """No label has a value that the provider says nothing about, and nobody else may set one; none is empty."""
    provider = provider_of(group)
    labels = provider.labels(facts)

    assert all(value and provider.tells(key, facts) and is_fact(key, group) for key, value in labels.items())
    assert set(labels) <= set(provider.rules)


@given(facts=FACTS, group=st.sampled_from(GROUPS))
def test_cards_are_never_told_of_a_type_without_them(facts: TypeFacts, group: str) -> None:
    """Azure counts none, the others say nothing."""
    bare = TypeFacts(name=facts.name, cpu_milli=facts.cpu_milli, memory_mib=facts.memory_mib)
    cards = {key: value for key, value in provider_of(group).labels(bare).items() if "gpu" in key}

    assert ({f"{AZURE}/sku-gpu-count": "0"} if group == AZURE else {}) == cards


@given(facts=FACTS)
def test_of_a_provider_in_no_table_nothing_is_told(facts: TypeFacts) -> None:
    """Its types are learned from nodes that live."""
    unknown = provider_of("example.com")

    assert ({}, False, "") == (unknown.labels(facts), unknown.tells("example.com/cpu", facts), unknown.region_of("eu-1-a"))


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("Standard_NC24ads_A100_v4", "A100", ["N", "NCads_v4", "4", "A100", "nvidia", "1"]),
        ("Standard_NC16as_T4_v3", "T4", ["N", "NCas_v3", "3", "T4", "nvidia", "1"]),
        ("Standard_NV12ads_A10_v5", "A10", ["N", "NVads_v5", "5", "A10", "nvidia", "1"]),
        ("Standard_NC128lds_xl_RTXPRO6000BSE_v6", "RTX-PRO-6000", ["N", "NClds_v6", "6", "RTXPRO6000BSE", "nvidia", "1"]),
        ("Standard_NC6s_v3", "V100", ["N", "NCs_v3", "3", None, "nvidia", "1"]),
        ("Standard_NC24", "V100", ["N", "NC", "1", None, "nvidia", "1"]),
        ("Standard_ND96is_flex_H100_v5", "H100", [None, None, None, None, "nvidia", "1"]),
    ],
)
def test_an_azure_size_is_read_from_its_name(name: str, model: str, expected: list[str | None]) -> None:
    """Family, series, version and card; a name that does not say its card, or that has another form, leaves it open."""
    parts = ("sku-family", "sku-series", "sku-version", "sku-gpu-name", "sku-gpu-manufacturer", "sku-gpu-count")

    assert expected == told(AZURE, azure(name, model, 1), *parts)


def test_azures_amounts_are_whole_cpus_and_mib_in_both_of_its_domains() -> None:
    """The provider writes them under its own group and under that of AKS."""
    labels = provider_of(AZURE).labels(azure("Standard_NC24ads_A100_v4", "A100", 1))

    assert ["24", "225280"] * 2 == [
        labels[f"{domain}/{name}"] for domain in (AZURE, "kubernetes.azure.com") for name in ("sku-cpu", "sku-memory")
    ]


def test_what_a_node_allocates_tells_no_totals_of_its_machine() -> None:
    """A learned type has the labels that its node carries, of both of Azure's domains, and no guessed ones."""
    ref = {"group": AZURE, "kind": "AKSNodeClass", "name": "gpu"}
    name, carried = "Standard_NC24ads_A100_v4", {f"{AZURE}/sku-memory": "225280", "kubernetes.azure.com/sku-cpu": "24"}
    facts = {INSTANCE_TYPE: name, ZONE: "eastus-1", "kubernetes.io/arch": "amd64", f"{AZURE}/sku-gpu-name": "A100"}
    allocatable = {"cpu": "23500m", "memory": "200Gi", "nvidia.com/gpu": "1"}
    kube = cluster()
    kube.create(
        NODES, {"metadata": {"name": "a", "labels": {**facts, **carried}}, "spec": {}, "status": {"allocatable": allocatable}}
    )
    wanted = OfferFilter(zones=("eastus-1",), instance_types=(name,))
    (offer,) = managed(kube, wanted=wanted, nodeClassRef=ref).offers()
    totals = {key: value for key, value in offer.labels.items() if key.endswith(("sku-cpu", "sku-memory"))}

    assert (23_500, carried) == (offer.cpu_milli, totals)


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [
        ("BM.GPU.A10.4", 4, ["BM.GPU.A10.4", "", "true", "true", ""]),
        ("VM.GPU.A10.1", 1, ["VM.GPU.A10.1", "", "true", "", ""]),
        ("VM.Standard3.Flex.4o.32g.1_1b", 0, ["VM.Standard3.Flex", "true", "", "", ""]),
        ("BM.DenseIO.52", 0, ["BM.DenseIO.52", "", "", "true", None]),
    ],
)
def test_an_oci_type_is_its_shape_with_its_size(name: str, gpus: int, expected: list[str | None]) -> None:
    """Marks of shapes are there or not, never false."""
    facts = TypeFacts(name=name, cpu_milli=8_000, memory_mib=32_768, gpu_model="A10" if gpus else "", gpu_count=gpus)

    assert expected == told(OCI, facts, "instance-shape", "flex-shape", "gpu-shape", "baremetal-shape", "denseio-shape")


@pytest.mark.parametrize(
    ("group", "zone", "region"),
    [
        (AWS, "us-east-1a", "us-east-1"),
        (AWS, "us-gov-west-1b", "us-gov-west-1"),
        (AWS, "eastus-1", ""),
        (AZURE, "eastus-1", "eastus"),
        (AZURE, "eastus2-3", "eastus2"),
        (AZURE, "0", ""),
        (OCI, "PHX-AD-1", ""),
        (KWOK, "test-zone-a", ""),
    ],
)
def test_a_zone_says_its_region_where_its_name_does(group: str, zone: str, region: str) -> None:
    """A machine of Azure outside of all zones is in zone 0, of no region."""
    assert region == provider_of(group).region_of(zone)


def test_an_azure_nodepool_is_understood_before_a_node_lives() -> None:
    """By its card, memory and region; what nobody can know keeps a type out."""
    size: Json = {"name": "Standard_NC24ads_A100_v4", "cpu": 24, "memory": "220Gi", "gpuModel": "A100"}
    other: Json = {"name": "Standard_NC16as_T4_v3", "cpu": 16, "memory": "110Gi", "gpuModel": "T4"}
    ref = {"group": AZURE, "kind": "AKSNodeClass", "name": "gpu"}
    wanted = OfferFilter(zones=("eastus-1", "westus2-1"), instance_types=(size["name"], other["name"]))

    def offered(*requirements: Json) -> list[str]:
        pool = node_pool(requirements=requirements)
        pool["spec"]["template"]["spec"]["nodeClassRef"] = ref
        kube = cluster(pool)
        kube.create(NODE_CLASSES[1], {"metadata": {"name": "gpu"}})
        return [offer.id for offer in reuse(kube, wanted=wanted, instanceTypes=[size, other]).offers()]

    card: Json = {"key": f"{AZURE}/sku-gpu-name", "operator": "In", "values": ["A100"]}
    memory: Json = {"key": f"{AZURE}/sku-memory", "operator": "Gt", "values": ["200000"]}
    region: Json = {"key": "topology.kubernetes.io/region", "operator": "In", "values": ["eastus"]}
    unknown: Json = {"key": f"{AZURE}/sku-storage-premium-capable", "operator": "In", "values": ["true"]}

    assert ["Standard_NC24ads_A100_v4/eastus-1/on-demand"] == offered(card, memory, region)
    assert [] == offered(unknown)


def test_claims_of_oracles_provider_need_the_taint_of_gpus() -> None:
    """Without it the provider gives claims no types with GPUs: the pool says so, where it has such types."""
    ref = {"group": OCI, "kind": "OCINodeClass", "name": "gpu"}
    shape: Json = {"name": "VM.GPU.A10.1", "cpu": 30, "memory": "240Gi", "gpuModel": "A10"}
    wanted = OfferFilter(zones=("PHX-AD-1",), instance_types=("VM.GPU.A10.1",))
    kube = cluster()
    kube.create(next(kind for kind in NODE_CLASSES if kind.group == OCI), {"metadata": {"name": "gpu"}})
    taint = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}

    def said(**options: Any) -> list[str]:  # noqa: ANN401 - any option
        return [*map(str, managed(kube, wanted=wanted, nodeClassRef=ref, instanceTypes=[shape], **options).check())]

    (without,) = said()
    assert "spec.options.taints" in without
    assert "nvidia.com/gpu:NoSchedule, without which OCINodeClass gives no types with GPUs" in without
    assert [] == said(taints=[taint])
