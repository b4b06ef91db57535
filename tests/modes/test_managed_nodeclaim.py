"""The mode for standalone NodeClaims: their shape, what is offered, and what it makes of every answer of the API server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.modes.nodeclaims import (
    CAPACITY_TYPE,
    INSTANCE_TYPE,
    ZONE,
    A,
    B,
    C,
    FailingKube,
    batch_of,
    cluster,
    condition,
    launched,
    machine_ids,
    made,
    managed,
    values,
)
from tfscale.errors import (
    BadInputError,
    CloudUnreachableError,
    ClusterUnreachableError,
    ForbiddenError,
    LaunchRefusedError,
    ModeError,
    NotFoundError,
    RefusedObjectError,
    TooManyRequestsError,
)
from tfscale.kube.port import CRDS, NODE_CLAIMS, NODE_CLASSES
from tfscale.model import NodeRequest, Offer
from tfscale.modes.base import ScalingMode
from tfscale.modes.nodeclaim_order import covered
from tfscale.pool import OfferFilter
from tfscale.testing import FakeKube

OFFERS = st.lists(
    st.builds(
        Offer,
        instance_type=st.sampled_from(["g4dn.xlarge", "g6.xlarge", "g6.12xlarge", "m5.large"]),
        zone=st.sampled_from([A, B, C]),
        capacity_type=st.just("spot"),
        gpu_count=st.integers(0, 4),
        cpu_milli=st.just(4_000),
        memory_mib=st.just(16_384),
        price_micro_usd=st.none(),
    ),
    min_size=1,
    unique_by=lambda offer: offer.id,
)
PASSING = st.sampled_from(
    [ClusterUnreachableError("cut"), TooManyRequestsError("slow down"), ForbiddenError("not now"), RefusedObjectError("no"), None]
)


@given(offers=OFFERS)
def test_a_claim_asks_for_offers_only(offers: list[Offer]) -> None:
    """Every type is on offer in every zone of the claim, the best offer is there, and GPUs are asked that all types have."""
    batch = batch_of(managed(cluster()), offers)
    (claim,) = batch.parameters["claims"].values()
    pairs = {(kind, zone) for kind in values(claim, INSTANCE_TYPE) for zone in values(claim, ZONE)}
    chosen = [offer for offer in offers if (offer.instance_type, offer.zone) in pairs]
    asked = int(claim["spec"].get("resources", {}).get("requests", {}).get("nvidia.com/gpu", 0))

    assert pairs == {(offer.instance_type, offer.zone) for offer in chosen}
    assert batch.offers == tuple(offer.id for offer in chosen)
    assert offers[0] is chosen[0]
    assert ["spot"] == values(claim, CAPACITY_TYPE)
    assert min(offer.gpu_count for offer in chosen) == asked


@given(offers=OFFERS)
def test_what_is_covered_is_covered_again(offers: list[Offer]) -> None:
    """Narrowing what was narrowed changes nothing: the choice is a fixed point."""
    assert covered(offers) == covered(covered(offers))


@given(errors=st.lists(PASSING, max_size=6), lost=st.booleans(), count=st.integers(1, 3))
def test_a_replay_makes_nothing_twice(errors: list[Exception], count: int, *, lost: bool) -> None:
    """Through any faults, one batch ends with one claim for each request, and every replay reports the same."""
    kube = cluster()
    mode = managed(kube)
    batch = batch_of(mode, mode.offers()[:1], count)
    kube.errors, kube.lost_replies = [*errors], lost  # type: ignore[list-item]  # the strategy gives errors of the cluster
    results = None
    while kube.errors or results is None:
        try:
            results = mode.launch(batch)
        except ModeError:
            continue
    final = mode.launch(batch)

    expected = sorted(batch.parameters["claims"])
    assert expected == sorted(made(kube))
    assert expected == sorted(filter(None, machine_ids(final)))
    assert [None if one.machine is None else one.request for one in final] == machine_ids(final)


@given(st.permutations(range(3)))
def test_the_order_of_the_requests_changes_nothing(order: list[int]) -> None:
    """The claims are named after the requests and are otherwise alike."""
    mode = managed(cluster())
    requests = [NodeRequest(name=f"r{number}", pool="gpus", mode=mode.name) for number in order]
    prepared = mode.prepare("b", requests, mode.offers()[:1], now_s=0)

    assert ["r0", "r1", "r2"] == list(prepared.parameters["claims"])
    assert 1 == len({str(claim["spec"]) for claim in prepared.parameters["claims"].values()})


def test_the_whole_claim() -> None:
    """Name, labels, annotations, taints and all the rest, as Karpenter reads it."""
    mode = managed(
        cluster(),
        labels={"team": "speech"},
        startupTaints=[{"key": "example.com/agent", "effect": "NoExecute"}],
        terminationGracePeriod="1h",
    )
    batch = batch_of(mode, [offer for offer in mode.offers() if offer.instance_type == "g6.xlarge"])

    expected = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {
            "name": "batch-0",
            "labels": {"team": "speech", "tfscale.io/pool": "gpus"},
            "annotations": {
                "tfscale.io/mode": "managed-nodeclaim",
                "tfscale.io/batch": "batch",
                "tfscale.io/epoch": "0",
                "karpenter.sh/do-not-disrupt": "true",
            },
        },
        "spec": {
            "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
            "requirements": [
                {"key": INSTANCE_TYPE, "operator": "In", "values": ["g6.xlarge"]},
                {"key": ZONE, "operator": "In", "values": [A, B]},
                {"key": CAPACITY_TYPE, "operator": "In", "values": ["on-demand"]},
                {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
            ],
            "resources": {"requests": {"nvidia.com/gpu": "1"}},
            "taints": [{"key": "tfscale.io/pool", "value": "gpus", "effect": "NoSchedule"}],
            "startupTaints": [{"key": "example.com/agent", "effect": "NoExecute"}],
            "terminationGracePeriod": "1h",
            "expireAfter": "Never",
        },
    }
    assert expected == batch.parameters["claims"]["batch-0"]


def test_offers_are_types_by_zones_by_capacity_types() -> None:
    """Types with GPUs of the usual architecture; a price that nobody tells is None, also of what is reserved."""
    wanted = OfferFilter(zones=(A,), capacity_types=("on-demand", "spot", "reserved"), gpu_models=("Tesla-T4", "T4G"))
    prices = {offer.id: offer.price_micro_usd for offer in managed(cluster(), wanted=wanted).offers()}

    expected = {f"g4dn.xlarge/{A}/on-demand": 526_000, f"g4dn.xlarge/{A}/spot": 200_000, f"g4dn.xlarge/{A}/reserved": None}
    assert expected == prices


def test_other_types_are_offered_by_name() -> None:
    """A type without GPU, or for images of another architecture, is wanted only where it is named."""
    mode = managed(cluster(), wanted=OfferFilter(zones=(A,), instance_types=("m5.large", "g5g.xlarge")))

    assert ["g5g.xlarge", "m5.large"] == [offer.instance_type for offer in mode.offers()]


def test_the_nodes_labels_and_taints_are_offered() -> None:
    """What follows from class, type and zone is there; the pool's own taint is not, others are."""
    taints = [{"key": "tfscale.io/pool", "value": "gpus"}, {"key": "nvidia.com/gpu", "effect": "NoExecute"}]
    mode = managed(
        cluster(), wanted=OfferFilter(zones=(B,), instance_types=("g6.xlarge",)), taints=taints, labels={"team": "speech"}
    )
    (offer,) = mode.offers()

    expected = {
        "team": "speech",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/region": "us-east-1",
        ZONE: B,
        "karpenter.k8s.aws/ec2nodeclass": "gpu",
        "karpenter.k8s.aws/instance-category": "g",
        "karpenter.k8s.aws/instance-generation": "6",
        "karpenter.k8s.aws/instance-family": "g6",
        "karpenter.k8s.aws/instance-size": "xlarge",
        "karpenter.k8s.aws/instance-cpu": "4",
        "karpenter.k8s.aws/instance-memory": "16384",
        "karpenter.k8s.aws/instance-gpu-name": "l4",
        "karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia",
        "karpenter.k8s.aws/instance-gpu-count": "1",
        "karpenter.k8s.aws/instance-gpu-memory": "22888",
    }
    assert expected == offer.labels
    assert ["nvidia.com/gpu:NoExecute"] == list(map(str, offer.taints))


def test_a_type_of_the_options_replaces_the_catalogues() -> None:
    """What a contract says of a type counts, and a type of any other cloud can be named."""
    own = [
        {"name": "g6.xlarge", "gpuModel": "NVIDIA-L4", "cpu": "4", "memory": "16Gi", "usdPerHour": 0.5},
        {"name": "Standard_NC4as_T4_v3", "gpuModel": "T4", "gpus": 1, "cpu": 4, "memory": "28Gi"},
    ]
    wanted = OfferFilter(zones=(A,), instance_types=("g6.xlarge", "Standard_NC4as_T4_v3"))
    offers = managed(cluster(), wanted=wanted, instanceTypes=own).offers()

    expected = [("Standard_NC4as_T4_v3", "T4", 28_672, None), ("g6.xlarge", "L4", 16_384, 500_000)]
    assert expected == [(one.instance_type, one.gpu_model, one.memory_mib, one.price_micro_usd) for one in offers]


def test_a_claim_becomes_a_machine() -> None:
    """Its offer is empty until Karpenter chose, then it is what Karpenter says; a deletion is seen."""
    kube = cluster()
    mode = managed(kube)
    mode.launch(batch_of(mode, mode.offers()))
    (before,) = mode.observe()
    launched(kube, "batch-0", f"g6.xlarge/{B}/spot")
    kube.patch(NODE_CLAIMS, "batch-0", {"metadata": {"finalizers": ["karpenter.sh/termination"]}})
    (after,) = mode.observe()
    mode.terminate(["batch-0", "never-there"])
    (leaving,) = mode.observe()

    assert ("batch-0", "batch", "gpus", "", "", False) == (
        before.id, before.batch, before.pool, before.offer, before.provider_id, before.stopping,
    )  # fmt: skip
    assert (f"g6.xlarge/{B}/spot", f"aws:///{B}/i-batch-0", None) == (after.offer, after.provider_id, after.protected_until_s)
    assert leaving.stopping


def test_only_its_own_claims_are_seen_and_deleted() -> None:
    """Claims of another pool, of another mode, or of Karpenter with the pool's label stay."""
    kube = cluster()
    mode, other = managed(kube), managed(kube, pool="others")
    mode.launch(batch_of(mode, mode.offers(), 2))
    other.launch(batch_of(other, mode.offers(), name="other"))
    kube.create(NODE_CLAIMS, {"metadata": {"name": "karpenters", "labels": {"tfscale.io/pool": "gpus"}}, "spec": {}})
    mode.terminate(["batch-0", "other-0", "karpenters"])

    assert ["batch-1"] == [machine.id for machine in mode.observe()]
    assert {"batch-1", "other-0", "karpenters"} == made(kube).keys()


def test_a_name_that_is_taken_gives_no_machine() -> None:
    """Another's claim of the same name is not ours; the other requests get theirs, and with none the launch is refused."""
    kube = cluster()
    mode = managed(kube)
    kube.create(NODE_CLAIMS, {"metadata": {"name": "batch-0"}, "spec": {}})

    assert [None, "batch-1"] == machine_ids(mode.launch(batch_of(mode, mode.offers(), 2)))
    with pytest.raises(LaunchRefusedError, match="nodeclaim batch-0 exists already"):
        mode.launch(batch_of(mode, mode.offers()))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ForbiddenError("not allowed"), LaunchRefusedError),
        (RefusedObjectError("spec is wrong"), LaunchRefusedError),
        (TooManyRequestsError("slow down"), ModeError),
        (ClusterUnreachableError("no answer"), CloudUnreachableError),
    ],
)
def test_errors_say_what_is_known(error: ModeError, expected: type[ModeError]) -> None:
    """What the API server refused was not made; of anything else the outcome is not known."""
    kube = cluster()
    mode = managed(kube)
    batch = batch_of(mode, mode.offers())
    kube.errors = [error]

    with pytest.raises(ModeError, match=f"launch batch: {error}") as caught:
        mode.launch(batch)
    assert expected is type(caught.value)


def test_a_lost_reply_is_found_although_the_replay_is_refused() -> None:
    """A permission that is gone since does not hide what the first call made."""
    kube = cluster()
    mode = managed(kube)
    batch = batch_of(mode, mode.offers())
    kube.errors, kube.lost_replies = [ClusterUnreachableError("cut")], True
    with pytest.raises(CloudUnreachableError):
        mode.launch(batch)
    kube.errors, kube.lost_replies = [ForbiddenError("not any more")], False

    assert ["batch-0"] == machine_ids(mode.launch(batch))


def test_the_check_names_what_is_missing() -> None:
    """Karpenter itself, the node class, a Ready one, and types that nobody knows."""
    kube = cluster()
    assert [] == managed(kube).check()

    kube.patch_status(NODE_CLASSES[0], "gpu", {"status": {"conditions": [condition("Ready", "False") | {"message": "no AMI"}]}})
    wanted = OfferFilter(zones=(A,), instance_types=("g6.xlarge", "g9.xlarge"))
    lines = list(map(str, managed(kube, wanted=wanted).check()))
    unknown = "gpupool gpus: spec.offers.instanceTypes[1] is 'g9.xlarge'; want a type of the catalogue, of spec.options"
    unready = "is 'gpu'; want a node class that can be used (EC2NodeClass gpu is not Ready: no AMI)"
    assert lines[0].startswith(unknown)
    assert lines[1].endswith(unready)

    kube.list_errors["nodeclaims"] = NotFoundError("no such resource")
    (problem,) = managed(kube).check()
    assert "want a mode that needs no Karpenter, or a cluster with Karpenter 1.0 or newer: this one serves no nodeclaims" in str(
        problem
    )


def test_who_may_not_list_node_classes_is_told_of_a_missing_one() -> None:
    """Whether the cluster serves their kind cannot be known then."""
    kube = cluster()
    kube.list_errors["ec2nodeclasses"] = NotFoundError("no such resource")
    kube.delete(NODE_CLASSES[0], "gpu")
    (unserved,) = managed(kube).check()
    kube.list_errors["ec2nodeclasses"] = ForbiddenError("you may not")
    (missing,) = managed(kube).check()

    assert "(this cluster serves no ec2nodeclasses.karpenter.k8s.aws)" in str(unserved)
    assert "(there is no EC2NodeClass gpu)" in str(missing)


def test_nothing_is_ordered_with_a_class_that_is_not_ready() -> None:
    """Karpenter would delete the claims at once; a kind of class that nobody knows here is left to it."""
    kube = cluster()
    foreign = managed(kube, nodeClassRef={"group": "example.com", "kind": "RackClass", "name": "r1"})
    kube.delete(NODE_CLASSES[0], "gpu")

    assert [] == foreign.check()
    assert batch_of(foreign, foreign.offers()).offers
    with pytest.raises(LaunchRefusedError, match="batch batch: there is no EC2NodeClass gpu"):
        batch_of(managed(kube), foreign.offers())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": "False", "message": "no AMI"}, "no AMI"),
        ({"status": "Unknown", "reason": "AwaitingReconciliation"}, "AwaitingReconciliation"),
        ({"status": "Unknown"}, "it does not say why"),
        ({"status": "True", "observedGeneration": 0}, "its last change was not looked at yet"),
    ],
)
def test_nothing_is_ordered_while_a_class_does_not_say_that_it_can_be_used(changes: dict[str, Any], why: str) -> None:
    """Karpenter tries such a claim again and again, and buys for nobody else meanwhile."""
    kube = cluster()
    offers = managed(kube).offers()
    kube.patch_status(NODE_CLASSES[0], "gpu", {"status": {"conditions": [condition("Ready") | changes]}})

    with pytest.raises(LaunchRefusedError, match=f"EC2NodeClass gpu is not Ready: {why}"):
        batch_of(managed(kube), offers)


@given(waiting=st.integers(0, 4), asked=st.integers(1, 4))
def test_no_more_claims_wait_for_their_machines_than_may(waiting: int, asked: int) -> None:
    """The rest of the requests get nothing now; a claim that has its machine counts no more."""
    kube = cluster()
    mode = managed(kube, inFlight=4)
    mode.launch(batch_of(mode, mode.offers(), 1, name="done"))
    launched(kube, "done-0")
    for number in range(waiting):
        mode.launch(batch_of(mode, mode.offers(), 1, name=f"early{number}"))
    if waiting == 4:
        with pytest.raises(LaunchRefusedError, match="4 claims of pool gpus wait for their machines already"):
            batch_of(mode, mode.offers(), asked)
        return
    results = mode.launch(batch_of(mode, mode.offers(), asked))

    assert min(asked, 4 - waiting) == sum(result.machine is not None for result in results)
    assert asked == len(results)


@pytest.mark.parametrize(
    ("wanted", "options", "line"),
    [
        (OfferFilter(), {}, "spec.offers.zones is ''; want at least one zone: a NodeClaim without a NodePool says itself where"),
        (None, {"labels": {ZONE: A}}, f"want labels without {ZONE}, which is not yours to set"),
        (None, {"labels": {"tfscale.io/pool": "x"}}, "want labels without tfscale.io/pool, which is not yours to set"),
        (None, {"nodeClassRef": {"group": "a/v1", "kind": "K", "name": "n"}}, "is 'a/v1'; want a group without version"),
        (None, {"terminationGracePeriod": "soon"}, "is 'soon'; want a duration such as 48h or 1h30m"),
        (None, {"instanceTypes": [{"name": "x", "cpu": 1, "memory": "1Gi", "gpus": 2}]}, "with the gpuModel of its 2 GPUs"),
        (None, {"taint": []}, "a key of spec.options is 'taint'; want taints\\?"),
        (OfferFilter(zones=(A,), gpu_models=("Tesla-T5",)), {}, "spec.offers.gpuModels\\[0\\] is 'Tesla-T5'; want T4\\?"),
    ],
)
def test_wrong_options_are_refused(wanted: OfferFilter | None, options: dict[str, object], line: str) -> None:
    """One line names pool, field, value and what was wanted."""
    with pytest.raises(BadInputError, match=line):
        managed(FakeKube(), wanted=wanted, pool="gpus", **options)


def test_a_pool_name_that_is_no_label_is_refused() -> None:
    """Claims and nodes carry the pool's name as a label."""
    with pytest.raises(BadInputError, match=r"metadata.name is 'p{64}'; want at most 63 characters in mode managed-nodeclaim"):
        managed(FakeKube(), pool="p" * 64)


def test_a_cluster_that_does_not_answer_is_an_error_of_the_mode() -> None:
    """Every call of the mode says so in the mode's own errors."""
    kube = FailingKube()
    mode: ScalingMode = managed(kube)
    kube.list_errors = {"nodeclaims": ClusterUnreachableError("no answer")}

    for call in (mode.check, mode.offers, mode.observe, lambda: mode.terminate(["x"])):
        with pytest.raises(CloudUnreachableError, match="no answer"):
            call()


def test_a_karpenter_from_before_version_one_is_told_from_none() -> None:
    """Its API server serves the claims in a version that nobody reads any more."""
    kube = cluster()
    kube.list_errors["nodeclaims"] = NotFoundError("no such resource")
    versions = [{"name": "v1beta1", "served": True, "storage": True}, {"name": "v1alpha5", "served": False, "storage": False}]
    names = {"plural": "nodeclaims", "kind": "NodeClaim", "singular": "nodeclaim", "listKind": "NodeClaimList"}
    spec = {"group": "karpenter.sh", "scope": "Cluster", "names": names, "versions": versions}
    kube.create(CRDS, {"metadata": {"name": "nodeclaims.karpenter.sh"}, "spec": spec})
    (problem,) = managed(kube).check()

    assert "with Karpenter 1.0 or newer: this one serves nodeclaims.karpenter.sh in v1beta1 only, not in v1" in str(problem)
