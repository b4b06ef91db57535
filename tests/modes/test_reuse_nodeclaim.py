"""Replicas of Karpenter's nodes: what they keep and lose of a NodePool, and how their protection ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.modes.nodeclaims import (
    CAPACITY_TYPE,
    DO_NOT_DISRUPT,
    EC2_CLASS,
    INSTANCE_TYPE,
    NOW_S,
    ZONE,
    A,
    B,
    FailingKube,
    batch_of,
    cluster,
    launched,
    machine_ids,
    made,
    managed,
    node_pool,
    reuse,
    values,
)
from tfscale.errors import ClusterUnreachableError, ConflictError, ModeError
from tfscale.kube.port import NODE_CLAIMS, NODE_CLASSES, NODE_POOLS, NODES, Json
from tfscale.modes.reuse_nodeclaim import ReuseNodeClaimMode
from tfscale.pool import OfferFilter

L4 = OfferFilter(zones=(A,), instance_types=("g6.xlarge",))
HASH = {"karpenter.sh/nodepool-hash": "123", "karpenter.sh/nodepool-hash-version": "v3"}
FACTS = (
    INSTANCE_TYPE,
    ZONE,
    CAPACITY_TYPE,
    "topology.kubernetes.io/region",
    "topology.k8s.aws/zone-id",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "kubernetes.io/hostname",
    "beta.kubernetes.io/instance-type",
    "karpenter.sh/registered",
    "karpenter.sh/initialized",
    "karpenter.k8s.aws/instance-family",
    "karpenter.k8s.aws/instance-gpu-name",
)
STALE = (
    "karpenter.sh/nodeclaim-termination-timestamp",
    "karpenter.sh/nodeclaim-min-values-relaxed",
    "karpenter.sh/requested-dra-drivers",
    "karpenter.k8s.aws/tagged",
    "karpenter.k8s.aws/instance-profile-name",
    "karpenter.k8s.aws/ec2nodeclass-hash",
    "compatibility.karpenter.sh/provider",
    "compatibility.karpenter.k8s.aws/cluster-name-tagged",
)
CUSTOM = ("team", "example.com/tier")
TRUE = {
    INSTANCE_TYPE: "g6.xlarge",
    ZONE: A,
    CAPACITY_TYPE: "on-demand",
    "kubernetes.io/arch": "amd64",
    "karpenter.k8s.aws/instance-family": "g6",
}
"""Facts of the machine that the tests' pool wants: what a template may be labelled with."""
VALUES = st.sampled_from(["x", "y", "stale"])


def texts(*keys: str) -> st.SearchStrategy[dict[str, str]]:
    """Return labels or annotations of these keys."""
    return st.dictionaries(st.sampled_from(keys), VALUES)


def replica(mode: ReuseNodeClaimMode) -> Json:
    """Return the claim that the mode would make for its offers."""
    return dict(batch_of(mode, mode.offers()).parameters["claims"]["batch-0"])


# --- strip and keep ---------------------------------------------------------------------------------------------------


@given(
    labels=texts(*CUSTOM),
    facts=st.sets(st.sampled_from(sorted(TRUE))),
    annotations=texts(*STALE, *CUSTOM),
    claim_labels=texts(*FACTS, *CUSTOM),
    claim_annotations=texts(*STALE, DO_NOT_DISRUPT),
    hashes=st.sampled_from([{}, HASH]),
    minimum=st.integers(1, 50),
)
def test_a_replica_keeps_the_template_and_nothing_stale(
    *,
    labels: dict[str, str],
    facts: set[str],
    annotations: dict[str, str],
    claim_labels: dict[str, str],
    claim_annotations: dict[str, str],
    hashes: dict[str, str],
    minimum: int,
) -> None:
    """Whatever template and claims carry, facts and Karpenter's own notes are left behind, and what is the user's is kept."""
    requirements: list[Json] = [
        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"], "minValues": minimum},
        {"key": INSTANCE_TYPE, "operator": "In", "values": ["g6.xlarge", "g6e.xlarge"], "minValues": minimum},
    ]
    template = {"labels": {**labels, **{key: TRUE[key] for key in facts}}, "annotations": annotations}
    kube = cluster(node_pool(requirements=requirements, template=template, metadata={"annotations": hashes}))
    source = {"name": "gpu-abcde", "labels": {**claim_labels, "karpenter.sh/nodepool": "gpu"}, "annotations": claim_annotations}
    kube.create(NODE_CLAIMS, {"metadata": source, "spec": {"resources": {"requests": {"cpu": "3"}}}})
    claim = replica(reuse(kube, wanted=L4))
    meta, spec, live = claim["metadata"], claim["spec"], kube.get(NODE_POOLS, "gpu")

    own = {"karpenter.sh/nodepool": "gpu", "karpenter.k8s.aws/ec2nodeclass": "gpu", "tfscale.io/pool": "gpus"}
    ours = {
        "tfscale.io/mode": "reuse-nodeclaim",
        "tfscale.io/batch": "batch",
        "tfscale.io/epoch": "0",
        "tfscale.io/protected": "true",
        DO_NOT_DISRUPT: "true",
    }
    owner = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "name": "gpu",
        "uid": live["metadata"]["uid"],
        "blockOwnerDeletion": True,
    }
    assert {"name", "labels", "annotations", "ownerReferences"} == meta.keys()
    assert labels | own == meta["labels"]
    assert {key: value for key, value in annotations.items() if key in CUSTOM} | hashes | ours == meta["annotations"]
    assert [owner] == meta["ownerReferences"]
    assert {"nvidia.com/gpu": "1"} == spec["resources"]["requests"]
    assert "minValues" not in str(spec)
    assert ["g6.xlarge"] == values(claim, INSTANCE_TYPE)
    assert (EC2_CLASS, "720h") == (spec["nodeClassRef"], spec["expireAfter"])
    assert "status" not in claim


def test_the_templates_spec_is_kept() -> None:
    """Taints, startup taints, grace period and requirements are the live template's; chosen keys are replaced."""
    gpu_taint = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
    requirements: list[Json] = [
        {"key": ZONE, "operator": "In", "values": [A, B]},
        {"key": "karpenter.k8s.aws/instance-generation", "operator": "Gte", "values": ["6"]},
    ]
    pool = node_pool(requirements=requirements)
    pool["spec"]["template"]["spec"] |= {
        "taints": [gpu_taint],
        "startupTaints": [{"key": "agent", "effect": "NoExecute"}],
        "terminationGracePeriod": "2h",
    }
    mode = reuse(cluster(pool), wanted=L4)
    spec = replica(mode)["spec"]

    expected = {
        "nodeClassRef": EC2_CLASS,
        "requirements": [
            {"key": "karpenter.k8s.aws/instance-generation", "operator": "Gte", "values": ["6"]},
            {"key": INSTANCE_TYPE, "operator": "In", "values": ["g6.xlarge"]},
            {"key": ZONE, "operator": "In", "values": [A]},
            {"key": CAPACITY_TYPE, "operator": "In", "values": ["on-demand"]},
        ],
        "resources": {"requests": {"nvidia.com/gpu": "1"}},
        "taints": [gpu_taint],
        "startupTaints": [{"key": "agent", "effect": "NoExecute"}],
        "terminationGracePeriod": "2h",
        "expireAfter": "720h",
    }
    assert expected == spec
    assert ["nvidia.com/gpu:NoSchedule"] == list(map(str, mode.offers()[0].taints))


def test_custom_requirements_become_labels() -> None:
    """A label that only a requirement asks for is on the claim, or the node would be called drifted; offers carry it too."""
    requirements: list[Json] = [
        {"key": "team", "operator": "In", "values": ["vision", "speech"]},
        {"key": "team", "operator": "NotIn", "values": ["speech"]},
        {"key": "example.com/gpu", "operator": "Exists"},
        {"key": "legacy", "operator": "DoesNotExist"},
        {"key": "tier", "operator": "In", "values": ["gold"]},
    ]
    mode = reuse(cluster(node_pool(requirements=requirements, template={"labels": {"tier": "gold"}})), wanted=L4)
    labels, expected = replica(mode)["metadata"]["labels"], {"team": "vision", "example.com/gpu": "true", "tier": "gold"}

    assert expected == {key: labels[key] for key in expected}
    assert "legacy" not in labels
    assert expected.items() <= mode.offers()[0].labels.items()


def test_a_template_that_forbids_disruption_keeps_its_word() -> None:
    """Then the protection is the user's: there is nothing for us to take off."""
    kube = cluster(node_pool(template={"annotations": {DO_NOT_DISRUPT: "true"}}))
    mode = reuse(kube, wanted=L4)
    mode.launch(batch_of(mode, mode.offers()))
    launched(kube, "batch-0")
    mode.release(["batch-0"])

    assert "true" == made(kube)["batch-0"]["metadata"]["annotations"][DO_NOT_DISRUPT]
    assert "true" == kube.get(NODES, "node-batch-0")["metadata"]["annotations"][DO_NOT_DISRUPT]
    assert [None] == [machine.protected_until_s for machine in mode.observe()]


# --- protection -------------------------------------------------------------------------------------------------------


def protected(kube: FailingKube, **options: Any) -> ReuseNodeClaimMode:  # noqa: ANN401 - options of the mode
    """Return a mode with one launched and registered machine, batch-0."""
    mode = reuse(kube, wanted=L4, **options)
    mode.launch(batch_of(mode, mode.offers()))
    return mode


def test_a_new_machine_is_protected_for_a_time() -> None:
    """Counted from the moment when its node can take pods; before, until no node could come any more."""
    kube = cluster(node_pool())
    mode = protected(kube, protectFor="2m")
    (before,) = mode.observe()
    launched(kube, "batch-0", ready_since_s=NOW_S + 100)
    (after,) = mode.observe()

    assert NOW_S + 900 + 120 == before.protected_until_s
    assert NOW_S + 100 + 120 == after.protected_until_s


@given(on_node=st.booleans(), human_node=st.booleans(), human_claim=st.booleans(), times=st.integers(1, 2))
def test_a_release_takes_only_our_protection_off(*, on_node: bool, human_node: bool, human_claim: bool, times: int) -> None:
    """After a release, in whatever state, nothing of ours is left; what a person sets afterwards stays."""
    kube = cluster(node_pool())
    mode = protected(kube)
    launched(kube, "batch-0", node=on_node)
    mode.release(["batch-0"])
    forbid = {"metadata": {"annotations": {DO_NOT_DISRUPT: "true"}}}
    if human_claim:
        kube.patch(NODE_CLAIMS, "batch-0", forbid)
    if on_node and human_node:
        kube.patch(NODES, "node-batch-0", forbid)
    for _ in range(times):
        mode.release(["batch-0"])

    notes = made(kube)["batch-0"]["metadata"]["annotations"]
    assert ("tfscale.io/protected" in notes, DO_NOT_DISRUPT in notes) == (False, human_claim)
    assert [None] == [machine.protected_until_s for machine in mode.observe()]
    if on_node:
        notes = kube.get(NODES, "node-batch-0")["metadata"]["annotations"]
        assert ("tfscale.io/protected" in notes, DO_NOT_DISRUPT in notes) == (False, human_node)


def test_a_release_that_was_cut_off_is_done_again() -> None:
    """The claim is marked until its node is free; a person who forbids disruption in between has the last word."""

    class Contested(FailingKube):
        """Somebody else writes the claim just before we do."""

        def patch(self, *args: Any, **options: Any) -> Json:  # noqa: ANN401 - as the port has it
            """Refuse the first patches of a claim."""
            if args[0] == NODE_CLAIMS and self.errors:
                raise self.errors.pop() or AssertionError
            return super().patch(*args, **options)

    kube = Contested()
    for kind, obj in ((NODE_CLASSES[0], {"metadata": {"name": "gpu"}}), (NODE_POOLS, node_pool())):
        kube.create(kind, obj)
    mode = protected(kube)
    launched(kube, "batch-0")
    kube.errors = [ConflictError("somebody else wrote first")] * 3
    with pytest.raises(ModeError, match="release: somebody else wrote first"):
        mode.release(["batch-0"])
    assert mode.observe()[0].protected_until_s is not None
    kube.patch(NODES, "node-batch-0", {"metadata": {"annotations": {DO_NOT_DISRUPT: "true"}}})
    kube.errors = [ConflictError("Karpenter writes the status of its claims all the time")] * 2
    mode.release(["batch-0"])

    assert mode.observe()[0].protected_until_s is None
    assert {DO_NOT_DISRUPT: "true"}.items() <= kube.get(NODES, "node-batch-0")["metadata"]["annotations"].items()


def test_a_node_that_is_marked_although_its_claim_is_not_is_released_too() -> None:
    """Karpenter copies the claim's annotations, and only later names the node in the claim: in between, a release may come."""
    kube = cluster(node_pool())
    mode = protected(kube)
    mode.release(["batch-0"])
    launched(kube, "batch-0")
    kube.patch(NODES, "node-batch-0", {"metadata": {"annotations": {DO_NOT_DISRUPT: "true", "tfscale.io/protected": "true"}}})
    kube.patch_status(NODE_CLAIMS, "batch-0", {"status": {"nodeName": None}})
    assert [NOW_S + 300] == [machine.protected_until_s for machine in mode.observe()]
    mode.release(["batch-0"])

    assert [None] == [machine.protected_until_s for machine in mode.observe()]
    assert DO_NOT_DISRUPT not in kube.get(NODES, "node-batch-0")["metadata"]["annotations"]


def test_a_release_leaves_others_alone() -> None:
    """A node that took over the name, a claim that is gone and machines of other modes are not touched."""
    kube = cluster(node_pool())
    mode, other = protected(kube), managed(kube)
    other.launch(batch_of(other, other.offers(), name="other"))
    launched(kube, "batch-0")
    kube.delete(NODES, "node-batch-0")
    annotations = {DO_NOT_DISRUPT: "true", "tfscale.io/protected": "true"}
    meta = {"name": "node-batch-0", "annotations": annotations}
    kube.create(NODES, {"metadata": meta, "spec": {"providerID": "aws:///us-east-1a/i-another"}})
    mode.release(["batch-0", "other-0", "gone"])
    mode.release(["batch-0"])

    assert annotations == kube.get(NODES, "node-batch-0")["metadata"]["annotations"]
    assert "true" == made(kube)["other-0"]["metadata"]["annotations"][DO_NOT_DISRUPT]
    assert DO_NOT_DISRUPT not in made(kube)["batch-0"]["metadata"]["annotations"]


def test_a_replay_makes_nothing_twice() -> None:
    """After a lost reply the claims are found, and no NodePool is asked again."""
    kube = cluster(node_pool())
    mode = reuse(kube, wanted=L4)
    batch = batch_of(mode, mode.offers(), 2)
    kube.errors, kube.lost_replies = [ClusterUnreachableError("cut")], True
    with pytest.raises(ModeError):
        mode.launch(batch)
    # On its way out, for good: with the pool itself its claims would go.
    kube.patch(NODE_POOLS, "gpu", {"metadata": {"finalizers": ["karpenter.sh/termination"]}})
    kube.delete(NODE_POOLS, "gpu")

    assert ["batch-0", "batch-1"] == machine_ids(mode.launch(batch))
    assert ["batch-0", "batch-1"] == sorted(made(kube))


def test_both_modes_can_be_told_apart() -> None:
    """Two pools of one name and different modes do not see each other's claims."""
    kube = cluster(node_pool())
    mode, other = protected(kube), managed(kube)

    assert (["batch-0"], []) == ([machine.id for machine in mode.observe()], other.observe())
