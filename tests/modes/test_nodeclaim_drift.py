"""Claims that are not what would be made now: by the pool's options and offers, by the node class, by Karpenter's word."""

from __future__ import annotations

from typing import Any

import pytest

from tests.modes.nodeclaims import A, B, batch_of, cluster, condition, launched, managed, node_pool, reuse
from tfscale.kube.port import NODE_CLAIMS, NODE_CLASSES, Json
from tfscale.model import Machine
from tfscale.modes.managed_nodeclaim import ManagedNodeClaimMode
from tfscale.pool import OfferFilter
from tfscale.testing import FakeKube

EC2_CLASSES = NODE_CLASSES[0]
HASH, VERSION = "karpenter.k8s.aws/ec2nodeclass-hash", "karpenter.k8s.aws/ec2nodeclass-hash-version"
TAINT: Json = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


def one_machine(mode: ManagedNodeClaimMode) -> Machine:
    """Return the only machine."""
    (machine,) = mode.observe()
    return machine


def running(kube: FakeKube, **options: Any) -> ManagedNodeClaimMode:  # noqa: ANN401 - any option
    """Return the mode with one claim that Karpenter launched as g6.xlarge on demand in zone A."""
    mode = managed(kube, **options)
    mode.launch(batch_of(mode, [offer for offer in mode.offers() if offer.instance_type == "g6.xlarge"][:1]))
    (claim,) = kube.list(NODE_CLAIMS).items
    launched(kube, claim["metadata"]["name"])
    return mode


def annotate(kube: FakeKube, kind: Any, name: str, **values: str) -> None:  # noqa: ANN401 - a kind
    """Write the hash annotations of Karpenter's AWS provider."""
    annotations = {{"hash": HASH, "version": VERSION}[key]: value for key, value in values.items()}
    kube.patch(kind, name, {"metadata": {"annotations": annotations}})


def test_a_claim_of_yesterday_is_as_good_as_one_of_today() -> None:
    """Opened again with the same options, whatever they are."""
    options: dict[str, Any] = {
        "labels": {"team": "vision"},
        "taints": [TAINT],
        "startupTaints": [{"key": "boot"}],
        "terminationGracePeriod": "1h",
    }
    kube = cluster()
    running(kube, **options)

    assert "" == one_machine(managed(kube, **options)).outdated


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": {"team": "vision"}}, "the pool says otherwise: label team"),
        ({"taints": [TAINT]}, "the pool says otherwise: taints"),
        ({"taints": []}, "the pool says otherwise: taints"),
        (
            {"startupTaints": [{"key": "boot"}], "terminationGracePeriod": "1h"},
            "the pool says otherwise: startupTaints, terminationGracePeriod",
        ),
        (
            {"nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "new"}},
            "the pool says otherwise: nodeClassRef",
        ),
        ({"wanted": OfferFilter(zones=(B,))}, f"the pool wants {B}, not {A}"),
        ({"wanted": OfferFilter(zones=(A,), instance_types=("g4dn.xlarge",))}, "the pool wants g4dn.xlarge, not g6.xlarge"),
        ({"wanted": OfferFilter(zones=(A,), capacity_types=("spot",))}, "the pool wants spot, not on-demand"),
        ({"wanted": OfferFilter(zones=(A, B), instance_types=("g4dn.xlarge", "g6.xlarge"))}, ""),
        ({"inFlight": 3}, ""),
    ],
)
def test_what_the_pool_says_otherwise_now_makes_a_claim_outdated(options: dict[str, Any], words: str) -> None:
    """Each in words; what does not concern a claim that is there changes nothing."""
    kube = cluster()
    running(kube)

    assert words == one_machine(managed(kube, **options)).outdated


@pytest.mark.parametrize(
    ("at_launch", "now", "words"),
    [
        ({"hash": "1", "version": "v4"}, {"hash": "1", "version": "v4"}, ""),
        ({"hash": "1", "version": "v4"}, {"hash": "2", "version": "v4"}, "EC2NodeClass gpu has changed"),
        ({"hash": "1", "version": "v3"}, {"hash": "2", "version": "v4"}, ""),
        ({"hash": "1", "version": "v4"}, {}, ""),
        ({}, {"hash": "2", "version": "v4"}, ""),
    ],
    ids=["the same", "another", "another way to hash", "no hash now", "no hash then"],
)
def test_a_changed_node_class_makes_its_claims_outdated(at_launch: dict[str, str], now: dict[str, str], words: str) -> None:
    """Compared are hashes of one kind only: Karpenter writes both."""
    kube = cluster()
    mode = running(kube)
    annotate(kube, NODE_CLAIMS, one_machine(mode).id, **at_launch)
    annotate(kube, EC2_CLASSES, "gpu", **now)

    assert words == one_machine(mode).outdated


@pytest.mark.parametrize(
    ("group", "kind", "key"),
    [
        ("karpenter.azure.com", "AKSNodeClass", "karpenter.azure.com/aksnodeclass-hash"),
        ("oci.oraclecloud.com", "OCINodeClass", "oci.oraclecloud.com/nodeclass-hash"),
        ("karpenter.k8s.oracle", "OciNodeClass", "karpenter.k8s.oracle/ocinodeclass-hash"),
    ],
)
def test_each_provider_has_an_annotation_of_its_own_for_the_hash(group: str, kind: str, key: str) -> None:
    """Most are called after the kind of the class; that of Oracle's own provider is not."""
    kube = cluster()
    classes = next(one for one in NODE_CLASSES if (one.group, one.kind) == (group, kind))
    kube.create(classes, {"metadata": {"name": "gpu", "annotations": {key: "2", f"{key}-version": "v1"}}})
    mode = running(kube, nodeClassRef={"group": group, "kind": kind, "name": "gpu"})
    kube.patch(NODE_CLAIMS, one_machine(mode).id, {"metadata": {"annotations": {key: "1", f"{key}-version": "v1"}}})

    assert f"{kind} gpu has changed" == one_machine(mode).outdated


def test_an_image_that_its_class_does_not_select_any_more_makes_a_claim_outdated() -> None:
    """A new AMI came out; before the class has looked for images nothing is concluded."""
    kube = cluster()
    mode = running(kube)
    name = one_machine(mode).id
    kube.patch_status(NODE_CLAIMS, name, {"status": {"imageID": "ami-1"}})
    before = one_machine(mode).outdated
    kube.patch_status(EC2_CLASSES, "gpu", {"status": {"amis": [{"id": "ami-1"}, {"id": "ami-2"}]}})
    selected = one_machine(mode).outdated
    kube.patch_status(EC2_CLASSES, "gpu", {"status": {"amis": [{"id": "ami-2"}]}})

    assert ("", "", "its image ami-1 is none of EC2NodeClass gpu") == (before, selected, one_machine(mode).outdated)


def test_a_class_that_is_gone_makes_nothing_outdated() -> None:
    """It says nothing about the nodes that it made."""
    kube = cluster()
    mode = running(kube)
    kube.delete(EC2_CLASSES, "gpu")

    assert "" == one_machine(mode).outdated


@pytest.mark.parametrize(("status", "words"), [("True", "Karpenter says NodePoolDrifted"), ("False", ""), ("Unknown", "")])
def test_of_a_replica_karpenter_says_whether_it_has_drifted(status: str, words: str) -> None:
    """It knows the NodePool's hash; the node is ours to replace."""
    kube = cluster(node_pool())
    mode = reuse(kube)
    mode.launch(batch_of(mode, mode.offers()[:1]))
    (claim,) = kube.list(NODE_CLAIMS).items
    drifted = {**condition("Drifted", status), "reason": "NodePoolDrifted"}
    kube.patch_status(NODE_CLAIMS, claim["metadata"]["name"], {"status": {"conditions": [drifted]}})

    assert [words] == [machine.outdated for machine in mode.observe()]
