"""Which NodePool a replica is of: what each allows, what its limits leave room for, and why one cannot be used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.modes.nodeclaims import (
    CAPACITY_TYPE,
    INSTANCE_TYPE,
    ZONE,
    A,
    B,
    batch_of,
    cluster,
    condition,
    foreign_claim,
    launched,
    machine_ids,
    node_pool,
    reuse,
)
from tfscale.errors import LaunchRefusedError, NotFoundError
from tfscale.kube.port import NODE_CLAIMS, NODE_CLASSES, NODE_POOLS, Json
from tfscale.modes.reuse_nodeclaim import ReuseNodeClaimMode
from tfscale.pool import OfferFilter

L4 = OfferFilter(zones=(A,), instance_types=("g6.xlarge",))


def node_pool_of(mode: ReuseNodeClaimMode) -> str:
    """Return the NodePool of which the mode would make a replica."""
    claim = batch_of(mode, mode.offers()).parameters["claims"]["batch-0"]
    return str(claim["metadata"]["labels"]["karpenter.sh/nodepool"])


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (node_pool(replicas=2), "it is static, and its template has no label tfscale.io/pool=gpus"),
        (node_pool(status={"conditions": [condition("Ready", "False")]}), "its condition Ready is False"),
        (
            node_pool(status={"conditions": [condition("NodeRegistrationHealthy", "False")]}),
            "its condition NodeRegistrationHealthy is False",
        ),
        (node_pool(template={"labels": {"tfscale.io/pool": "b"}}), "its nodes are labelled as those of gpupool b"),
        (node_pool(requirements=[{"key": "k", "operator": "Near"}]), "want one of In, NotIn"),
        (node_pool(requirements=[{"key": f"k{n}", "operator": "DoesNotExist"} for n in range(97)]), "has 97 requirements"),
    ],
)
def test_a_pool_that_cannot_be_used_says_why(pool: Json, reason: str) -> None:
    """Nothing is offered, and the check names the NodePool with its reason."""
    mode = reuse(cluster(pool))
    (problem,) = mode.check()

    assert "gpupool gpus: spec.options.nodePools is 'gpu'; want a NodePool that nodes can be taken from (gpu:" in str(problem)
    assert reason in str(problem)
    assert [] == mode.offers()


def test_a_pool_that_goes_is_not_replicated() -> None:
    """A NodePool that is being deleted takes its claims with it."""
    kube = cluster(node_pool(metadata={"finalizers": ["karpenter.sh/termination"]}))
    kube.delete(NODE_POOLS, "gpu")

    assert [] == reuse(kube).offers()


def test_the_check_names_what_is_missing() -> None:
    """No NodePool, one that nobody made, a class that is gone, Karpenter itself, and filters that leave nothing."""
    kube = cluster()
    assert "is ''; want a NodePool that nodes can be taken from (there is none)" in str(reuse(kube).check()[0])

    kube.create(NODE_POOLS, node_pool(requirements=[{"key": ZONE, "operator": "In", "values": [B]}]))
    assert [] == reuse(kube).check()
    assert "spec.options.nodePools[0] is 'gpus'; want gpu?" in str(reuse(kube, nodePools=["gpus"]).check()[0])
    assert f"spec.offers is 'g6.xlarge, {A}, on-demand'; want what one of its" in str(reuse(kube, wanted=L4).check()[0])

    kube.delete(NODE_CLASSES[0], "gpu")
    assert "(gpu: there is no EC2NodeClass gpu)" in str(reuse(kube).check()[0])
    kube.list_errors["nodepools"] = NotFoundError("no such resource")
    assert "this one serves no nodepools.karpenter.sh" in str(reuse(kube).check()[0])


def test_the_best_pool_stands_for_an_offer() -> None:
    """First the weight decides, then the latest success with the type, then the name."""
    kube = cluster(node_pool("a"), node_pool("b"), node_pool("c"))
    assert "a" == node_pool_of(reuse(kube, wanted=L4))

    foreign_claim(kube, "b-1", "b")
    launched(kube, "b-1")
    assert "b" == node_pool_of(reuse(kube, wanted=L4))

    kube.patch(NODE_POOLS, "c", {"spec": {"weight": 10}})
    assert "c" == node_pool_of(reuse(kube, wanted=L4))
    assert "a" == node_pool_of(reuse(kube, wanted=L4, nodePools=["a"]))


@pytest.mark.parametrize("change", [{"Ready": "False"}, {"Drifted": "True"}])
def test_an_unhealthy_claim_proves_nothing(change: dict[str, str]) -> None:
    """A claim that is not Ready, or drifted, does not speak for its NodePool."""
    kube = cluster(node_pool("a"), node_pool("b"))
    foreign_claim(kube, "b-1", "b")
    launched(kube, "b-1")
    conditions = {"Ready": "True", **change}
    kube.patch_status(NODE_CLAIMS, "b-1", {"status": {"conditions": [condition(*one) for one in conditions.items()]}})

    assert "a" == node_pool_of(reuse(kube, wanted=L4))


def test_what_works_just_there_comes_before_what_works_elsewhere() -> None:
    """Both NodePools have launched the type; only the older success was in this zone."""
    kube = cluster(node_pool("a"), node_pool("b"))
    for name, zone in (("b", A), ("a", B)):
        foreign_claim(kube, f"{name}-1", name)
        launched(kube, f"{name}-1", f"g6.xlarge/{zone}/on-demand")
        kube.now_s += 60

    assert "b" == node_pool_of(reuse(kube, wanted=L4))


def test_a_pool_whose_claim_cannot_be_launched_comes_last() -> None:
    """Whatever its weight: the next claim would wait with that one."""
    kube = cluster(node_pool("a", weight=10), node_pool("b"))
    foreign_claim(kube, "a-1", "a")
    failed = {**condition("Launched", "Unknown"), "reason": "LaunchFailed", "message": "no subnet"}
    kube.patch_status(NODE_CLAIMS, "a-1", {"status": {"conditions": [failed]}})

    assert "b" == node_pool_of(reuse(kube, wanted=L4))
    kube.delete(NODE_CLAIMS, "a-1")
    assert "a" == node_pool_of(reuse(kube, wanted=L4))


def test_why_nothing_is_on_offer_is_said() -> None:
    """One NodePool is full, the other one is not Ready."""
    kube = cluster(
        node_pool("full", limits={"nodes": "0"}), node_pool("sick", status={"conditions": [condition("Ready", "False")]})
    )
    mode = reuse(kube, wanted=L4)

    assert [] == list(mode.offers())
    assert [
        "nodepool full: its limits leave no room for g6.xlarge: nodes 0 + 1 of 0",
        "nodepool sick: its condition Ready is False",
    ] == list(mode.withheld())


def test_a_doctor_tells_of_each_pool_that_gives_nothing() -> None:
    """Although another one can be used, so that the mode finds nothing wrong."""
    kube = cluster(node_pool("a"), node_pool("sick", status={"conditions": [condition("Ready", "False")]}))

    assert [("ok", "options"), ("warn", "nodepool")] == [(one.verdict, one.check) for one in reuse(kube, wanted=L4).examine()]


def test_a_claim_is_of_one_pool() -> None:
    """The best offer says of which; offers of other NodePools are left out of the order."""
    kube = cluster(
        node_pool("t4", requirements=[{"key": INSTANCE_TYPE, "operator": "In", "values": ["g4dn.xlarge"]}], weight=5),
        node_pool("l4", requirements=[{"key": INSTANCE_TYPE, "operator": "In", "values": ["g6.xlarge"]}]),
    )
    mode = reuse(kube)
    batch = batch_of(mode, sorted(mode.offers(), key=lambda offer: offer.price_micro_usd or 0))

    assert {"g4dn.xlarge": "t4", "g6.xlarge": "l4"} == {
        offer.instance_type: offer.labels["karpenter.sh/nodepool"] for offer in mode.offers()
    }
    assert (f"g4dn.xlarge/{A}/on-demand", f"g4dn.xlarge/{B}/on-demand") == batch.offers
    assert "t4" == batch.parameters["claims"]["batch-0"]["metadata"]["labels"]["karpenter.sh/nodepool"]


SMALL, LARGE, OLD = "g6.xlarge", "g6.12xlarge", "g4dn.xlarge"
AWS = "karpenter.k8s.aws"
REQUIREMENTS: list[tuple[str, Json, set[str]]] = [
    ("family", {"key": f"{AWS}/instance-family", "operator": "In", "values": ["g6"]}, {SMALL, LARGE}),
    ("generation", {"key": f"{AWS}/instance-generation", "operator": "Gt", "values": ["5"]}, {SMALL, LARGE}),
    ("size", {"key": f"{AWS}/instance-size", "operator": "NotIn", "values": ["xlarge"]}, {LARGE}),
    ("few GPUs", {"key": f"{AWS}/instance-gpu-count", "operator": "Lte", "values": ["1"]}, {SMALL, OLD}),
    ("many CPUs", {"key": f"{AWS}/instance-cpu", "operator": "Gte", "values": ["48"]}, {LARGE}),
    ("card", {"key": f"{AWS}/instance-gpu-name", "operator": "In", "values": ["t4"]}, {OLD}),
    ("no GPU", {"key": f"{AWS}/instance-gpu-count", "operator": "DoesNotExist"}, set()),
    ("arch", {"key": "kubernetes.io/arch", "operator": "In", "values": ["arm64"]}, set()),
    ("unknown", {"key": f"{AWS}/instance-local-nvme", "operator": "Exists"}, set()),
    ("unknown and negative", {"key": f"{AWS}/instance-hypervisor", "operator": "NotIn", "values": ["xen"]}, set()),
    ("unknown place", {"key": "topology.k8s.aws/zone-id", "operator": "NotIn", "values": ["use1-az4"]}, set()),
    ("capacity type", {"key": CAPACITY_TYPE, "operator": "In", "values": ["spot"]}, set()),
    ("region", {"key": "topology.kubernetes.io/region", "operator": "In", "values": ["us-east-1"]},
     {SMALL, LARGE, OLD}),
]  # fmt: skip


@pytest.mark.parametrize(("requirement", "expected"), [row[1:] for row in REQUIREMENTS], ids=[row[0] for row in REQUIREMENTS])
def test_the_templates_requirements_choose_the_types(requirement: Json, expected: set[str]) -> None:
    """Each operator is held against what the node will carry; what nobody can know keeps a type out."""
    offers = reuse(cluster(node_pool(requirements=[requirement]))).offers()

    assert expected == {offer.instance_type for offer in offers}


def test_a_living_node_proves_what_nobody_could_know() -> None:
    """Once a node of the type lives, its labels say whether it meets the requirement."""
    nvme = {"key": "karpenter.k8s.aws/instance-local-nvme", "operator": "Gt", "values": ["100"]}
    place = {"key": "topology.k8s.aws/zone-id", "operator": "In", "values": ["use1-az4"]}
    kube = cluster(node_pool(requirements=[nvme, place]))
    facts = {"karpenter.k8s.aws/instance-local-nvme": "250", "topology.k8s.aws/zone-id": "use1-az4"}
    foreign_claim(kube, "gpu-1", "gpu", labels=facts)
    launched(kube, "gpu-1", f"g6.xlarge/{B}/on-demand")

    assert [f"g6.xlarge/{B}/on-demand"] == [offer.id for offer in reuse(kube).offers()]


def test_zones_come_from_the_template_or_from_living_nodes() -> None:
    """A pool that names no zones takes those of the NodePool, else those where nodes live."""
    wanted = OfferFilter(instance_types=("g6.xlarge",))
    kube = cluster(node_pool(requirements=[{"key": ZONE, "operator": "In", "values": [B]}]))
    assert [B] == [offer.zone for offer in reuse(kube, wanted=wanted).offers()]

    kube = cluster(node_pool())
    assert [] == reuse(kube, wanted=wanted).offers()
    foreign_claim(kube, "gpu-1", "gpu")
    launched(kube, "gpu-1")
    assert [A] == [offer.zone for offer in reuse(kube, wanted=wanted).offers()]


# --- limits -----------------------------------------------------------------------------------------------------------


@given(limit=st.integers(0, 6), held=st.integers(0, 3), told=st.integers(0, 6), count=st.integers(1, 5))
def test_limits_are_never_exceeded(limit: int, held: int, told: int, count: int) -> None:
    """However often it is asked, the mode makes no more claims than the NodePool's limit of GPUs leaves room for."""
    kube = cluster(node_pool(limits={"nvidia.com/gpu": str(limit)}, status={"resources": {"nvidia.com/gpu": str(told)}}))
    for number in range(held):
        foreign_claim(kube, f"gpu-{number}", "gpu")
        launched(kube, f"gpu-{number}", node=False)
    mode = reuse(kube, wanted=L4)
    for number in range(10):
        if offers := mode.offers():
            mode.launch(batch_of(mode, offers, count, name=f"b{number}"))

    # Karpenter's own count stays as it is here, so that the claims are what fills the rest.
    expected = max(limit - held, 0) if told < limit else 0
    assert expected == len(mode.observe())


def test_a_full_pool_says_so() -> None:
    """The refusal names each limit with what is used and what was asked for."""
    limits = {"cpu": "6", "memory": "20Gi", "nodes": "1"}
    kube = cluster(node_pool(limits=limits))
    mode = reuse(kube, wanted=L4)
    offers = mode.offers()
    mode.launch(batch_of(mode, offers))

    assert [] == mode.offers()
    expected = (
        "nodepool gpu: its limits leave no room for g6.xlarge: cpu 4 \\+ 4 of 6, memory 16Gi \\+ 16Gi of 20Gi, nodes 1 \\+ 1 of 1"
    )
    with pytest.raises(LaunchRefusedError, match=expected):
        batch_of(mode, offers, name="next")


def test_limits_may_leave_room_for_fewer() -> None:
    """Then so many claims are made, and offers of which so many do not fit are left out."""
    kube = cluster(node_pool(limits={"nvidia.com/gpu": "5"}))
    mode = reuse(kube, wanted=OfferFilter(zones=(A,), instance_types=("g6.xlarge", "g6.12xlarge")))
    small_first = sorted(mode.offers(), key=lambda offer: offer.gpu_count)
    batch = batch_of(mode, small_first, 6)

    assert [f"g6.xlarge/{A}/on-demand"] == [*batch.offers]
    assert [*(f"batch-{number}" for number in range(5)), None] == machine_ids(mode.launch(batch))


def test_a_pool_with_room_stands_in_for_a_full_one() -> None:
    """An order for what the full pool had is refused: its pods may not tolerate the other's taints."""
    kube = cluster(node_pool("first", weight=9, limits={"nodes": "1"}), node_pool("second"))
    mode = reuse(kube, wanted=L4)
    before = mode.offers()
    mode.launch(batch_of(mode, before))

    assert ["second"] == [offer.labels["karpenter.sh/nodepool"] for offer in mode.offers()]
    with pytest.raises(LaunchRefusedError, match=f"no NodePool allows g6.xlarge/{A}/on-demand any more"):
        batch_of(mode, before, name="late")


def test_labels_of_the_template_that_name_facts_are_requirements() -> None:
    """As for Karpenter: they choose zone and type. On the claim they would hide what was really launched."""
    labels = {ZONE: B, "karpenter.k8s.aws/instance-family": "g6", "team": "vision"}
    mode = reuse(cluster(node_pool(template={"labels": labels})))
    (claim,) = batch_of(mode, mode.offers()).parameters["claims"].values()
    asked = {item["key"]: item["values"] for item in claim["spec"]["requirements"]}

    assert {("g6", B)} == {(offer.instance_type.partition(".")[0], offer.zone) for offer in mode.offers()}
    assert ([B], ["g6"]) == (asked[ZONE], asked["karpenter.k8s.aws/instance-family"])
    assert {"team": "vision"} == {key: value for key, value in claim["metadata"]["labels"].items() if key in labels}
