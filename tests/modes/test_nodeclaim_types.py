"""What living nodes tell of types that no catalogue knows, and of those that one does."""

from __future__ import annotations

from tests.modes.nodeclaims import INSTANCE_TYPE, ZONE, A, cluster, managed
from tfscale.kube.port import NODES
from tfscale.model import Offer
from tfscale.pool import OfferFilter
from tfscale.testing import FakeKube

TWO_CARDS = {"cpu": "7800m", "memory": "30Gi", "nvidia.com/gpu": "2"}


def node(kube: FakeKube, name: str, kind: str, allocatable: dict[str, str], **labels: str) -> None:
    """Create a living node; dots in label names are written as ``__`` and slashes as ``___``."""
    own = {key.replace("___", "/").replace("__", "."): value for key, value in labels.items()}
    facts = {INSTANCE_TYPE: kind, ZONE: A, "kubernetes.io/arch": "amd64"}
    kube.create(
        NODES, {"metadata": {"name": name, "labels": {**facts, **own}}, "spec": {}, "status": {"allocatable": allocatable}}
    )


def offers(kube: FakeKube, *kinds: str) -> list[Offer]:
    """Return what is offered of these types in one zone."""
    return [*managed(kube, wanted=OfferFilter(zones=(A,), instance_types=kinds)).offers()]


def test_a_living_node_tells_what_its_type_is() -> None:
    """A type that is in no catalogue is offered, without a price; the node whose cards are not there yet does not hide them."""
    kube = cluster()
    node(kube, "a", "new_2x", TWO_CARDS, nvidia__com___gpu__product="NVIDIA-A10")
    node(kube, "b", "new_2x", {"cpu": "7800m", "memory": "30Gi"})
    (one,) = offers(kube, "new_2x")

    assert ("A10", 2, 7_800, 30_720, None) == (one.gpu_model, one.gpu_count, one.cpu_milli, one.memory_mib, one.price_micro_usd)


def test_an_azure_node_tells_its_cards_before_feature_discovery_does() -> None:
    """By what Karpenter's Azure provider wrote; how many there are says the device plugin."""
    kube = cluster()
    node(kube, "a", "Standard_NC48ads_A100_v4", TWO_CARDS, **{"karpenter__azure__com___sku-gpu-name": "A100"})
    (one,) = offers(kube, "Standard_NC48ads_A100_v4")

    assert ("A100", 2) == (one.gpu_model, one.gpu_count)


def test_a_node_that_does_not_name_its_cards_tells_nothing() -> None:
    """Its type would look like one without GPUs."""
    kube = cluster()
    node(kube, "a", "dark_2x", TWO_CARDS)

    assert [] == offers(kube, "dark_2x")


def test_a_catalogues_type_keeps_its_facts_and_gains_labels() -> None:
    """What the provider writes on every node of the type is offered; class, reservation and the labels of users are not."""
    kube = cluster()
    labels = {
        "karpenter__k8s__aws___instance-local-nvme": "250",
        "karpenter__k8s__aws___capacity-reservation-id": "cr-1",
        "karpenter__k8s__aws___ec2nodeclass": "other",
        "team": "speech",
    }
    node(kube, "a", "g6.xlarge", {"cpu": "1"}, **labels)
    node(kube, "b", "g6.xlarge", {"cpu": "1"})
    (one,) = offers(kube, "g6.xlarge")

    assert (4_000, "250", "gpu") == (
        one.cpu_milli,
        one.labels["karpenter.k8s.aws/instance-local-nvme"],
        one.labels["karpenter.k8s.aws/ec2nodeclass"],
    )
    assert {"karpenter.k8s.aws/capacity-reservation-id", "team"}.isdisjoint(one.labels)
