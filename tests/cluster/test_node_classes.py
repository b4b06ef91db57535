"""Node classes on a real API server: EC2NodeClass by the definition that its provider publishes, and kinds that are absent."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from tests.cluster.conftest import define, eventually
from tests.cluster.control_plane import TOOLS
from tests.cluster.karpenter import CLASS_REF, KWOK_CLASS, TYPES, ZONES, create_pods
from tests.cluster.running import ROOT, names
from tests.cluster.test_karpenter import reconciler_of
from tfscale.catalogue import snapshot
from tfscale.errors import LaunchRefusedError, RefusedObjectError
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.kube.port import NODE_CLAIMS, NODE_CLASSES, NODES, Json, Kind, Kube
from tfscale.manifests import read_manifests
from tfscale.model import LaunchBatch, NodeRequest
from tfscale.modes.base import ModeContext, Order
from tfscale.modes.managed_nodeclaim import ManagedNodeClaimMode
from tfscale.pool import OfferFilter, Pool
from tfscale.quantity import time_text

EC2_CLASS = NODE_CLASSES[0]
HASH = "karpenter.k8s.aws/ec2nodeclass-hash"
REF = {"group": EC2_CLASS.group, "kind": EC2_CLASS.kind, "name": "gpu"}
EXAMPLES = ("karpenter-aws.yaml", "three-modes.yaml")


def example(file: str) -> Json:
    """Return the node class of an example."""
    manifests = read_manifests((ROOT / "examples" / file).read_text(encoding="utf-8"), name=file)
    (found,) = (one.value for one in manifests if one.value["kind"] == EC2_CLASS.kind)
    return dict(found)


@pytest.fixture
def aws(kube: KubeClient) -> KubeClient:
    """Give a cluster that serves Karpenter's objects and those of its AWS provider, and where nobody acts on them."""
    define(kube, *sorted((TOOLS / "crds").rglob("*.yaml")))
    return kube


def mode_of(kube: Kube, ref: Json = REF) -> ManagedNodeClaimMode:
    """Return the mode of one pool with this node class."""
    pool = Pool(
        name="pool",
        mode="managed-nodeclaim",
        wanted=OfferFilter(instance_types=TYPES, zones=ZONES),
        options={"nodeClassRef": ref},
    )
    return ManagedNodeClaimMode.open(ModeContext(pool=pool, gpus=GpuTable(), kube=kube, cluster="test", catalogue=snapshot()))


def order(mode: ManagedNodeClaimMode) -> Order:
    """Return what would be ordered for one request."""
    request = NodeRequest(name="batch-0", pool="pool", mode="managed-nodeclaim", batch="batch")
    offers = [offer for offer in mode.offers() if offer.capacity_type == "on-demand"]
    return mode.prepare("batch", [request], offers, now_s=int(time.time()))


def launch(mode: ManagedNodeClaimMode) -> str:
    """Create the claim of one request, and return its name."""
    asked = order(mode)
    batch = LaunchBatch(
        name="batch",
        pool="pool",
        mode="managed-nodeclaim",
        requests=("batch-0",),
        offers=asked.offers,
        parameters=asked.parameters,
        created_s=int(time.time()),
    )
    (result,) = mode.launch(batch)
    assert result.machine
    return result.machine.id


def look_at(kube: Kube, *, hashed: str, images: Sequence[str], status: str = "True") -> None:
    """Do what the AWS provider does with a node class: its hash, its images, and whether it is Ready."""
    annotations = {HASH: hashed, f"{HASH}-version": "v4"}
    generation = kube.patch(EC2_CLASS, "gpu", {"metadata": {"annotations": annotations}})["metadata"]["generation"]
    ready = {
        "type": "Ready",
        "status": status,
        "reason": "Ready" if status == "True" else "AMINotFound",
        "message": "" if status == "True" else "no AMI was found",
        "lastTransitionTime": time_text(int(time.time())),
        "observedGeneration": generation,
    }
    amis = [{"id": image, "requirements": []} for image in images]
    kube.patch_status(EC2_CLASS, "gpu", {"status": {"conditions": [ready], "amis": amis}})


@pytest.mark.parametrize("file", EXAMPLES)
def test_the_node_classes_of_the_examples_are_what_aws_takes(aws: KubeClient, file: str) -> None:
    """Nothing of them is left out when they are stored."""
    wanted = example(file)
    stored = aws.create(EC2_CLASS, wanted)

    assert wanted["spec"] == {key: stored["spec"].get(key) for key in wanted["spec"]}


def test_a_node_class_that_aws_refuses_is_refused(aws: KubeClient) -> None:
    """By the schema and by its rules; the error says which."""
    both, neither, family = (example("karpenter-aws.yaml") for _ in range(3))
    both["spec"]["instanceProfile"] = "profile"
    del neither["spec"]["subnetSelectorTerms"]
    family["spec"]["amiFamily"] = "Bottlerocket"

    for wrong, words in ((both, "exactly one of"), (neither, "subnetSelectorTerms"), (family, "when using an AL2023 alias")):
        with pytest.raises(RefusedObjectError, match=words):
            aws.create(EC2_CLASS, wrong)


def test_a_managed_pool_reads_an_ec2_node_class(aws: KubeClient) -> None:
    """Whether it is Ready and for which of its changes, its hash, and its images: before the launch and after it."""
    mode = mode_of(aws)
    aws.create(EC2_CLASS, example("karpenter-aws.yaml"))
    look_at(aws, hashed="1", images=["ami-1"], status="False")
    (problem,) = mode.check()
    assert "EC2NodeClass gpu is not Ready: no AMI was found" in str(problem)
    with pytest.raises(LaunchRefusedError, match="no AMI was found"):
        order(mode)

    look_at(aws, hashed="1", images=["ami-1"])
    assert [] == [*mode.check()]
    name = launch(mode)
    aws.patch(NODE_CLAIMS, name, {"metadata": {"annotations": {HASH: "1", f"{HASH}-version": "v4"}}})
    aws.patch_status(NODE_CLAIMS, name, {"status": {"imageID": "ami-1"}})
    assert REF == aws.get(NODE_CLAIMS, name)["spec"]["nodeClassRef"]
    assert [""] == [machine.outdated for machine in mode.observe()]

    aws.patch(EC2_CLASS, "gpu", {"spec": {"tags": {"team": "vision"}}})
    (problem,) = mode.check()
    assert "EC2NodeClass gpu is not Ready: its last change was not looked at yet" in str(problem)
    look_at(aws, hashed="2", images=["ami-1"])
    assert [] == [*mode.check()]
    assert ["EC2NodeClass gpu has changed"] == [machine.outdated for machine in mode.observe()]

    look_at(aws, hashed="1", images=["ami-2"])
    assert ["its image ami-1 is none of EC2NodeClass gpu"] == [machine.outdated for machine in mode.observe()]


def test_a_cluster_without_the_kind_of_a_node_class_says_so(kube: KubeClient) -> None:
    """Each kind by its name; where its definition is there, only the object is missing."""
    define(kube, *sorted((TOOLS / "crds").glob("*.yaml")))

    def said(kind: Kind) -> str:
        problem, *_ = mode_of(kube, {"group": kind.group, "kind": kind.kind, "name": "gpu"}).check()
        return problem.want.partition("(")[2].partition(")")[0]

    absent = [kind for kind in NODE_CLASSES if kind != KWOK_CLASS]
    assert [f"this cluster serves no {kind.plural}.{kind.group}" for kind in absent] == [said(kind) for kind in absent]
    assert "there is no KWOKNodeClass gpu" == said(KWOK_CLASS)


def test_a_node_carries_the_labels_that_its_offer_told(karpenter: KubeClient) -> None:
    """Those of the kwok provider, the only one whose controller needs no cloud."""
    reconciler = reconciler_of(karpenter, "managed-nodeclaim")
    create_pods(karpenter, 1)
    reconciler.tick(int(time.time()))
    assert 1 == len(names(karpenter))
    registered = "karpenter.sh/registered"  # Only then the node has all labels of its claim.
    eventually(lambda: any(registered in one["metadata"]["labels"] for one in karpenter.list(NODES).items), "the node is there")
    (node,) = karpenter.list(NODES).items
    labels = node["metadata"]["labels"]
    offers = {offer.id: offer.labels for offer in mode_of(karpenter, CLASS_REF).offers()}
    place = ("node.kubernetes.io/instance-type", "topology.kubernetes.io/zone", "karpenter.sh/capacity-type")
    told = offers["/".join(labels[key] for key in place)]

    assert 4 == sum(key.startswith(f"{KWOK_CLASS.group}/instance-") for key in told)
    assert told == {key: labels.get(key) for key in told}
