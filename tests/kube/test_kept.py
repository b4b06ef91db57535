"""What is cut away from pods, nodes and claims changes nothing of what tfscale reads, whatever is wrong with them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tfscale.gpus import GpuTable
from tfscale.kube.convert import pool_object, read_cluster
from tfscale.kube.kept import kept
from tfscale.kube.pods import keeps_busy
from tfscale.kube.port import NODE_CLAIMS, NODES, PODS, Json
from tfscale.model import Cluster, Machine
from tfscale.modes.nodeclaim_types import Living, living
from tfscale.pool import Pool

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
TIME = "2026-01-01T00:00:00Z"
TERM = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}], "matchFields": []}
CONTAINER: Json = {
    "name": "main",
    "image": "example/main",
    "env": [{"name": "KEY", "value": "value"}],
    "ports": [{"containerPort": 80, "hostPort": 0}],
    "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}, "claims": []},
    "restartPolicy": "Always",
}
WAITING: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "namespace": "default",
        "name": "waiting",
        "uid": "uid-waiting",
        "resourceVersion": "7",
        "creationTimestamp": TIME,
        "managedFields": [{"manager": "kubectl"}],
        "labels": {"app": "a", "tfscale.io/gpupool": "pool"},
        "annotations": {
            "tfscale.io/vram-request": "4Gi",
            "tensor-fusion.ai/compute-percent-request": "20",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
        },
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}],
    },
    "spec": {
        "schedulerName": "tfscale",
        "serviceAccountName": "default",
        "priority": 5,
        "nodeSelector": {"zone": "a"},
        "affinity": {
            "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [TERM]}, PREFERRED: []},
            "podAntiAffinity": {REQUIRED: [], PREFERRED: [{"weight": 1}]},
            "podAffinity": {REQUIRED: [{"topologyKey": "zone"}]},
        },
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}],
        "topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}],
        "containers": [CONTAINER, CONTAINER],
        "initContainers": [CONTAINER],
        "overhead": {"cpu": "10m"},
        "resources": {"requests": {"cpu": "3"}},
        "hostNetwork": False,
        "volumes": [
            {"name": "token", "projected": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
        ],
        "resourceClaims": [{"name": "c"}],
        "schedulingGates": [],
        "workloadRef": {"name": "w"},
        "schedulingGroup": {"name": "g"},
    },
    "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]},
}
RECORD = json.dumps([{"gpu": "0", "vramMib": 4096, "computeMilli": 200}])
BOUND: Json = {
    "metadata": {
        **WAITING["metadata"],
        "name": "bound",
        "uid": "uid-bound",
        "annotations": {
            "tfscale.io/vram-request": "4Gi",
            "tfscale.io/compute-percent-request": "20",
            "tfscale.io/allocation": RECORD,
            "kubernetes.io/config.mirror": "hash",
        },
    },
    "spec": {**WAITING["spec"], "nodeName": "node"},
    "status": {"phase": "Running", "podIP": "10.0.0.1"},
}
NODE: Json = {
    "metadata": {
        "name": "node",
        "uid": "uid-node",
        "resourceVersion": "9",
        "creationTimestamp": TIME,
        "labels": {
            "tfscale.io/pool": "pool",
            "nvidia.com/gpu.product": "Tesla-T4",
            "node.kubernetes.io/instance-type": "g4dn.xlarge",
            "topology.kubernetes.io/zone": "us-east-1a",
            "kubernetes.io/arch": "amd64",
            "karpenter.sh/initialized": "true",
        },
        "annotations": {"tfscale.io/idle-since": TIME, "tfscale.io/protected": "true", "csi.volume.kubernetes.io/nodeid": "{}"},
        "ownerReferences": [{"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": "claim", "uid": "u"}],
    },
    "spec": {
        "providerID": "aws:///us-east-1a/i-1",
        "podCIDR": "10.0.0.0/24",
        "taints": [{"key": "tfscale.io/pool", "value": "pool", "effect": "NoSchedule", "timeAdded": TIME}],
        "unschedulable": False,
    },
    "status": {
        "allocatable": {"cpu": "3920m", "memory": "15Gi", "pods": "29", "nvidia.com/gpu": "2"},
        "capacity": {"cpu": "4", "memory": "16Gi", "pods": "29", "nvidia.com/gpu": "2"},
        "conditions": [
            {"type": "Ready", "status": "True", "lastHeartbeatTime": TIME, "lastTransitionTime": TIME, "message": "m"}
        ],
        "images": [{"names": ["example/main"], "sizeBytes": 10**9}],
        "nodeInfo": {"architecture": "amd64"},
        "addresses": [{"type": "Hostname", "address": "node"}],
    },
}
junk = st.sampled_from([None, True, False, 0, 7, -1.5, "", "x", "1Gi", TIME, [], [1], {}, {"x": 1}]).map(copy.deepcopy)


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - any JSON
    """Yield where every value below this one is."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*here, key)
        yield from paths(inner, (*here, key))


@st.composite
def broken(draw: st.DrawFn, whole: Json) -> Json:
    """Return the object with some of its values taken out or replaced by others that may be of another type."""
    obj = copy.deepcopy(whole)
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from([*paths(obj)]))
        place: Any = obj
        for key in way:
            place = place[key]
        if isinstance(place, dict) and draw(st.booleans()):
            del place[last]
        else:
            place[last] = draw(junk)
    return obj


def read(pods: list[Json], nodes: list[Json]) -> Cluster:
    """Return what is read of these objects."""
    machine = Machine(id="claim", batch="b", pool="pool", offer="o", provider_id="aws:///us-east-1a/i-1")
    pools = [pool_object(Pool(name="pool", mode="static"))]
    known: dict[str, Any] = {"pools": pools, "requests": [], "batches": [], "machines": {"pool": [machine]}}
    return read_cluster(pods=pods, nodes=nodes, **known, now_s=0, gpus=GpuTable())


@settings(max_examples=400)
@given(broken(WAITING), broken(BOUND), broken(NODE))
def test_what_is_kept_reads_as_the_whole(waiting: Json, bound: Json, node: Json) -> None:
    """The cluster with its problems, word for word; and which pods keep a node busy."""
    pods, nodes = [waiting, bound], [node]
    kept_pods, kept_nodes = [*map(kept(PODS), copy.deepcopy(pods))], [*map(kept(NODES), copy.deepcopy(nodes))]

    assert read(pods, nodes) == read(kept_pods, kept_nodes)
    assert [*map(keeps_busy, pods)] == [*map(keeps_busy, kept_pods)]


def test_the_whole_is_read_without_problems() -> None:
    """So that the property above compares more than complaints."""
    seen = read([WAITING, BOUND], [NODE])

    assert () == seen.problems
    assert [["default/bound"], ["default/waiting"]] == [[pod.id for pod in seen.nodes[0].pods], [one.id for one in seen.demands]]


def test_living_nodes_teach_the_same() -> None:
    """What modes learn of types and zones from nodes and claims."""

    def learned(keep_node: Any, keep_claim: Any) -> Living:  # noqa: ANN401 - functions on JSON
        objects = [keep_node(copy.deepcopy(NODE)), keep_claim(copy.deepcopy({**NODE, "kind": "NodeClaim"}))]
        return living(objects, GpuTable(), {})

    assert learned(lambda obj: obj, lambda obj: obj) == learned(kept(NODES), kept(NODE_CLAIMS))
    assert learned(kept(NODES), kept(NODE_CLAIMS)).types


def test_the_large_parts_are_gone() -> None:
    """Managed fields, images, environments, foreign annotations."""
    pod, node = kept(PODS)(copy.deepcopy(WAITING)), kept(NODES)(copy.deepcopy(NODE))

    for gone in ("managedFields", "last-applied", "env", "image", "serviceAccountName", "podIP"):
        assert gone not in json.dumps(pod)
    for gone in ("images", "nodeInfo", "lastHeartbeatTime", "csi.volume"):
        assert gone not in json.dumps(node)
    assert "true" == node["metadata"]["annotations"]["tfscale.io/protected"]


def test_another_prefix_is_kept() -> None:
    """TensorFusion's annotations may have one."""
    obj = {"metadata": {"name": "a", "annotations": {"gpu.example.com/vram-request": "1Gi", "other.example.com/x": "y"}}}

    assert ["gpu.example.com/vram-request"] == [*kept(PODS, prefix="gpu.example.com")(obj)["metadata"]["annotations"]]


def test_claims_stay_whole_but_for_their_managed_fields() -> None:
    """They are few, and modes read much of them."""
    claim = {"metadata": {"name": "c", "managedFields": []}, "spec": {"requirements": [{"key": "k"}]}, "status": {"x": {"y": 1}}}

    assert {**claim, "metadata": {"name": "c"}} == kept(NODE_CLAIMS)(copy.deepcopy(claim))
