"""The loop with its records as custom resources, and what people see of them."""

from __future__ import annotations

import json
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import define
from tests.cluster.control_plane import TOOLS, ControlPlane
from tests.cluster.crds.objects import pool, put
from tfscale import modes
from tfscale.catalogue import snapshot
from tfscale.errors import RefusedObjectError
from tfscale.gpus import GpuTable
from tfscale.kube.client import KubeClient
from tfscale.kube.convert import pool_object
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_CLAIMS, NODE_CLASSES, NODE_REQUESTS, NODES, PODS, Json, Kind, Kube
from tfscale.manifests import read_manifests
from tfscale.modes.base import ModeContext
from tfscale.pool import OfferFilter, Pool
from tfscale.reconcile import Reconciler

NOW_S = 1_800_000_000
CLASS = next(kind for kind in NODE_CLASSES if kind.kind == "KWOKNodeClass")
CARDS = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "22888"}
GUIDE = Path(__file__).parents[3] / "docs" / "resources.md"


@pytest.fixture
def empty(installed: KubeClient) -> KubeClient:
    """Give the cluster without pools and records of other tests."""
    for kind in (GPU_POOLS, NODE_REQUESTS, LAUNCH_BATCHES):
        for obj in installed.list(kind).items:
            name = obj["metadata"]["name"]
            installed.patch(kind, name, {"metadata": {"finalizers": []}})
            installed.delete(kind, name)
    return installed


def reconciler(kube: Kube) -> Reconciler:
    """Return the loop of the cluster."""
    gpus = GpuTable()
    return Reconciler(
        kube=kube,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="test", catalogue=snapshot()),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )


def conditions(obj: Json) -> dict[str, tuple[str, str]]:
    """Return status and reason of each condition."""
    return {one["type"]: (one["status"], one["reason"]) for one in obj["status"]["conditions"]}


def node(name: str, pool_name: str, **spec: Any) -> Json:  # noqa: ANN401 - JSON
    """Return a ready node with one L4."""
    status = {
        "capacity": {"nvidia.com/gpu": "1"},
        "allocatable": {"cpu": "4", "memory": "16Gi", "pods": "58", "nvidia.com/gpu": "1"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
    }
    instance_type = {"node.kubernetes.io/instance-type": "g6.xlarge"}
    return {
        "metadata": {"name": name, "labels": {"tfscale.io/pool": pool_name, **instance_type, **CARDS}},
        "spec": spec,
        "status": status,
    }


def create_pod(kube: Kube, name: str, pool_name: str, vram: str = "8Gi") -> None:
    """Create a pod that waits in a pool."""
    annotations = {
        "tfscale.io/vram-request": vram,
        "tfscale.io/compute-percent-request": "40",
        "tfscale.io/gpupool": pool_name,
    }
    container = {"name": "main", "image": "example/main", "resources": {"requests": {"cpu": "300m", "memory": "1Gi"}}}
    spec = {"schedulerName": "tfscale", "terminationGracePeriodSeconds": 0, "containers": [container]}
    kube.create(PODS, {"metadata": {"name": name, "annotations": annotations}, "spec": spec}, namespace="default")


def test_a_static_pool_tells_how_it_is(empty: KubeClient) -> None:
    """Two ticks: a pod is placed, then seen; a third one writes nothing."""
    name = put(empty, GPU_POOLS, pool(mode="static"))
    empty.create(NODES, node("rack-1", name))
    create_pod(empty, "asr-0", name)
    create_pod(empty, "huge", name, vram="40Gi")
    loop = reconciler(empty)
    reports = [loop.tick(NOW_S), loop.tick(NOW_S + 1)]
    written = empty.get(GPU_POOLS, name)
    loop.tick(NOW_S + 2)

    assert [(), ()] == [report.problems for report in reports]
    assert written == empty.get(GPU_POOLS, name)
    assert {"Ready": ("True", "ModeAnswers")} == conditions(written)
    counts = {key: written["status"][key] for key in ("nodes", "gpus", "bought", "pods")}
    assert {"nodes": 1, "gpus": 1, "bought": 0, "pods": {"bound": 1, "waiting": 0, "unmet": 1}} == counts
    for pod in ("asr-0", "huge"):
        empty.delete(PODS, pod, namespace="default", grace_period_s=0)
    empty.delete(NODES, "rack-1")


def test_a_pool_that_is_wrong_tells_why(empty: KubeClient) -> None:
    """What no schema can check is on its status: names of modes, options, names of cards, two defaults."""
    wrong = {
        "BadMode": pool(mode="statik"),
        "BadOptions": pool(mode="static", options={"a": 1}),
        "BadSpec": pool(offers={"gpuModels": ["A10X"]}),
    }
    names = {reason: put(empty, GPU_POOLS, spec) for reason, spec in wrong.items()}
    reconciler(empty).tick(NOW_S)

    assert {reason: {"Ready": ("False", reason)} for reason in wrong} == {
        reason: conditions(empty.get(GPU_POOLS, name)) for reason, name in names.items()
    }


def test_a_node_that_is_bought_goes_through_its_conditions(empty: KubeClient) -> None:
    """A claim of our own, played by hand from the order to the return."""
    define(empty, *sorted((TOOLS / "crds").glob("*.yaml")))
    empty.create(
        CLASS, {"apiVersion": f"{CLASS.group}/{CLASS.version}", "kind": CLASS.kind, "metadata": {"name": "default"}, "spec": {}}
    )
    ref = {"group": CLASS.group, "kind": CLASS.kind, "name": "default"}
    wanted = OfferFilter(instance_types=("g6.xlarge",), zones=("us-east-1a",))
    mode = Pool(
        name="bought", mode="managed-nodeclaim", options={"nodeClassRef": ref, "labels": CARDS}, wanted=wanted, idle_after_s=5
    )
    empty.create(GPU_POOLS, pool_object(mode))
    create_pod(empty, "asr-0", "bought")
    loop = reconciler(empty)
    loop.tick(NOW_S)
    (request,), (batch,) = empty.list(NODE_REQUESTS).items, empty.list(LAUNCH_BATCHES).items

    assert {"Settled": ("True", "OutcomeKnown")} == conditions(batch)
    assert ("Launched", ("True", "Launched")) == (request["status"]["state"], conditions(request)["Launched"])
    assert {"Registered", "Initialized", "Ready"} == {
        name for name, (status, _) in conditions(request).items() if status == "Unknown"
    }
    loop.tick(NOW_S + 10)
    status = empty.get(GPU_POOLS, "bought")["status"]
    assert (1, 0, {"bound": 0, "waiting": 1, "unmet": 0}) == (status["bought"], status["nodes"], status["pods"])
    with pytest.raises(RefusedObjectError, match="mode must stay 'managed-nodeclaim' until all"):
        empty.patch(GPU_POOLS, "bought", {"spec": {"mode": "ec2"}})

    (claim,) = [obj["metadata"]["name"] for obj in empty.list(NODE_CLAIMS).items]
    empty.patch(NODE_CLAIMS, claim, {"metadata": {"finalizers": ["karpenter.sh/termination"]}})
    empty.patch_status(NODE_CLAIMS, claim, {"status": {"providerID": "kwok://n1", "nodeName": "n1"}})
    empty.create(NODES, node("n1", "bought", providerID="kwok://n1"))
    loop.tick(NOW_S + 20)
    (request,) = empty.list(NODE_REQUESTS).items
    assert {"True"} == {status for status, _ in conditions(request).values()}
    assert {"2027-01-15T08:00:00Z", "2027-01-15T08:00:20Z"} == {
        one["lastTransitionTime"] for one in request["status"]["conditions"]
    }

    empty.delete(PODS, "asr-0", namespace="default", grace_period_s=0)
    for later_s in (30, 40):
        loop.tick(NOW_S + later_s)
    (request,) = empty.list(NODE_REQUESTS).items
    assert ("True", "Initialized") == conditions(request)["Initialized"]
    assert ("False", "Terminating") == conditions(request)["Ready"]

    empty.patch(NODE_CLAIMS, claim, {"metadata": {"finalizers": []}})
    for later_s in (50, 60):
        loop.tick(NOW_S + later_s)
    assert [] == [*empty.list(NODE_REQUESTS).items, *empty.list(LAUNCH_BATCHES).items]
    assert "ec2" == empty.patch(GPU_POOLS, "bought", {"spec": {"mode": "ec2"}})["spec"]["mode"]


# --- what people see --------------------------------------------------------------------------------------------------


def answer(server: ControlPlane, path: str, *, accept: str = "application/json") -> Json:
    """Return what the API server answers at a path."""
    config = json.loads(server.kubeconfig.read_text(encoding="utf-8"))
    cluster, token = config["clusters"][0]["cluster"], config["users"][0]["user"]["token"]
    request = urllib.request.Request(cluster["server"] + path, headers={"Authorization": f"Bearer {token}", "Accept": accept})  # noqa: S310 - of 127.0.0.1
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    with urllib.request.urlopen(request, timeout=10, context=context) as reply:  # noqa: S310 - the same
        found: Json = json.load(reply)
        return found


@pytest.mark.parametrize(
    ("kind", "narrow", "wide"),
    [
        (
            GPU_POOLS,
            ["Name", "Mode", "Nodes", "GPUs", "Ready", "Age"],
            ["Default", "Bought", "Bound", "Waiting", "Unmet", "Reason"],
        ),
        (NODE_REQUESTS, ["Name", "Pool", "State", "Offer", "Node", "Age"], ["Mode", "Machine", "Ready", "Launched"]),
        (LAUNCH_BATCHES, ["Name", "Pool", "Mode", "Settled", "Age"], ["Requests"]),
    ],
)
def test_kubectl_get_shows_what_matters(
    installed: KubeClient, server: ControlPlane, kind: Kind, narrow: list[str], wide: list[str]
) -> None:
    """The table as kubectl asks for it; the others come with `-o wide`."""
    installed.list(kind)
    path = f"/apis/{kind.api_version}/{kind.plural}"
    columns = answer(server, path, accept="application/json;as=Table;v=v1;g=meta.k8s.io")["columnDefinitions"]

    assert narrow == [column["name"] for column in columns if not column["priority"]]
    assert wide == [column["name"] for column in columns if column["priority"]]


def test_a_row_tells_how_a_pool_is(empty: KubeClient, server: ControlPlane) -> None:
    """Mode, nodes, cards and whether it works, taken from spec and status."""
    name = put(empty, GPU_POOLS, pool(mode="static"))
    reconciler(empty).tick(NOW_S)
    table = answer(server, f"/apis/{GPU_POOLS.api_version}/gpupools", accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    (row,) = table["rows"]

    assert [name, "static", 0, 0, "True"] == row["cells"][:5]


def test_kubectl_explain_has_a_sentence_for_every_field(installed: KubeClient, server: ControlPlane) -> None:
    """From the document that kubectl explain reads."""
    installed.list(GPU_POOLS)
    schemas = answer(server, f"/openapi/v3/apis/{GPU_POOLS.api_version}")["components"]["schemas"]
    limits = schemas["io.tfscale.v1alpha1.GPUPool"]["properties"]["spec"]["properties"]["limits"]

    assert limits["description"].startswith("How much the pool may hold, nodes on their way included.")
    assert {"nodes", "gpus", "usdPerHour", "inFlight", "launchesPerMinute"} == limits["properties"].keys()
    assert all(one["description"] for one in limits["properties"].values())


def test_the_examples_of_the_guide_are_taken(empty: KubeClient) -> None:
    """Word for word, and pools of them can be read."""
    blocks = GUIDE.read_text(encoding="utf-8").split("```yaml\n")[1:]
    objects = [one.value for block in blocks for one in read_manifests(block.partition("```")[0], name=GUIDE.name)]
    kinds = {kind.kind: kind for kind in (GPU_POOLS, NODE_REQUESTS, LAUNCH_BATCHES)}
    for obj in objects:
        empty.create(kinds[obj["kind"]], obj)
        if "status" in obj:
            empty.patch_status(kinds[obj["kind"]], obj["metadata"]["name"], {"status": obj["status"]})

    assert kinds.keys() == {obj["kind"] for obj in objects}
    for obj in objects:
        stored = empty.get(kinds[obj["kind"]], obj["metadata"]["name"])
        assert obj["spec"].items() <= stored["spec"].items()
        assert obj.get("status", {}).items() <= stored.get("status", {}).items()
