"""What the world of the schedules begins with: a cloud, a pool, pods, and a machine that is somebody else's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tfscale.kube.port import Json
from tfscale.testing.fake_ec2 import Fault, SimulatedMachine, SimulatedType
from tfscale.testing.fake_ec2.events import Events

__all__ = [
    "NODES_MAX",
    "POOL",
    "QUEUE",
    "SHAPES",
    "START_S",
    "TYPES",
    "ZONES",
    "Cloud",
    "foreign_machine",
    "pod_object",
    "pool_object",
]

START_S = 1_800_000_000
POOL = "gpus"
QUEUE = "warnings"
NODES_MAX = 6
ZONES = ("us-east-1a", "us-east-1b")
TYPES = (
    SimulatedType(
        name="toy.t4", gpu_model="T4", gpu_count=1, vcpu=4, memory_mib=16_384, usd_per_hour="0.526", spot_usd_per_hour="0.2"
    ),
    SimulatedType(
        name="toy.l4x4", gpu_model="L4", gpu_count=4, vcpu=48, memory_mib=196_608, usd_per_hour="4.6", spot_usd_per_hour="2"
    ),
    SimulatedType(name="toy.a10g", gpu_model="A10G", gpu_count=1, vcpu=8, memory_mib=32_768, usd_per_hour="1.006"),
)


class Cloud(Protocol):
    """What the world needs of a simulated EC2."""

    launch_template: str
    region: str

    @property
    def session(self) -> Any: ...  # noqa: ANN401, D102 - a session of boto3, or what stands for one
    @property
    def machines(self) -> Sequence[SimulatedMachine]: ...  # noqa: D102
    @property
    def events(self) -> Events: ...  # noqa: D102
    def advance(self, now_s: int) -> None: ...  # noqa: D102
    def fail_next(self, operation: str, fault: Fault, *, times: int = 1) -> None: ...  # noqa: D102
    def set_capacity(self, capacity: Mapping[Any, int]) -> None: ...  # noqa: D102
    def take_away(self, machine_ids: Sequence[str]) -> None: ...  # noqa: D102
    def set_describe_lag(self, seconds: int) -> None: ...  # noqa: D102
    def answer_replays_with_id_only(self, *, on: bool = True) -> None: ...  # noqa: D102
    def set_quota(self, capacity_type: str, vcpus: int | None) -> None: ...  # noqa: D102
    def nodes(self) -> list[Json]: ...  # noqa: D102
    def gone_nodes(self) -> frozenset[str]: ...  # noqa: D102


def foreign_machine(cloud: Cloud) -> str:
    """Make the machine of another cluster that has a pool of the same name."""
    tags = [{"Key": "tfscale.io/cluster", "Value": "other"}, {"Key": "tfscale.io/pool", "Value": POOL}]
    reply = cloud.session.client("ec2", region_name=cloud.region).run_instances(
        LaunchTemplate={"LaunchTemplateName": cloud.launch_template},
        InstanceType=TYPES[0].name,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
    return str(reply["Instances"][0]["InstanceId"])


def pool_object(cloud: Cloud) -> Json:
    """Return the pool: three types, spot and on-demand, few nodes, impatient."""
    return {
        "apiVersion": "tfscale.io/v1alpha1",
        "kind": "GPUPool",
        "metadata": {"name": POOL},
        "spec": {
            "mode": "ec2",
            "default": True,
            "options": {
                "region": cloud.region,
                "launchTemplate": {"name": cloud.launch_template},
                "interruptionQueue": QUEUE,
            },
            "offers": {"instanceTypes": [kind.name for kind in TYPES], "capacityTypes": ["spot", "on-demand"]},
            "limits": {"nodes": NODES_MAX},
            "idleAfter": "1m",
        },
    }


SHAPES = (("6Gi", "50"), ("2Gi", "20"), ("12Gi", "90"), ("20Gi", "100"))


def pod_object(name: str, app: str, shape: int) -> Json:
    """Return a pod of an owner (`app`) that asks for one of the shares in ``SHAPES``."""
    vram, compute = SHAPES[shape]
    container = {"name": "main", "image": "example/main", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app": app, "tfscale.io/enabled": "true"},
            "annotations": {"tfscale.io/vram-request": vram, "tfscale.io/compute-percent-request": compute},
        },
        "spec": {"schedulerName": "tfscale", "containers": [container]},
    }
