"""The contract of scaling modes on hosts in an in-memory Kubernetes, and what only this mode does.

The mode is found by its name, as a pool finds it: install the package first.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import pytest
from tfscale_metal3 import HOSTS

from tfscale.errors import BadInputError
from tfscale.gpus import GpuTable
from tfscale.kube.port import Json
from tfscale.modes import load
from tfscale.modes.base import ModeContext, ScalingMode
from tfscale.pool import Pool
from tfscale.testing import FakeKube, Ground, LossyKube, ScalingModeContract

NAMESPACE = "metal"
TYPES = {"rack-l4": ("L4", 2), "rack-t4": ("T4", 1)}


class Metal3Ground(Ground):
    """Forty free hosts of two types. Their baseboard controllers do what they are told when the world settles."""

    mode: ClassVar[type[ScalingMode]] = load("metal3")

    def __init__(self) -> None:
        self.kube = FakeKube()
        self._lossy = LossyKube(self.kube)
        self._numbers = itertools.count()
        for _ in range(20):
            for kind in TYPES:
                self.host(kind)

    def context(self, pool: str) -> ModeContext:
        """Return a pool that may take hosts of both types."""
        types = {kind: {"gpuModel": model, "gpus": gpus} for kind, (model, gpus) in TYPES.items()}
        options = {"namespace": NAMESPACE, "types": types | {"rack-l4": types["rack-l4"] | {"usdPerHour": 1}}}
        return ModeContext(
            pool=Pool(name=pool, mode="metal3", options=options), gpus=GpuTable(), kube=self._lossy, cluster="test"
        )

    def really_there(self) -> Collection[str]:
        """Count the hosts that are on or told to be."""
        return [f"{NAMESPACE}/{_name(host)}" for host in self.hosts() if host["spec"]["online"] or host["status"]["poweredOn"]]

    def foreign(self) -> str:
        """Switch on a host for somebody else, who took it from a pool that had it before."""
        host = self.host("rack-l4")
        marks = {"labels": {"tfscale.io/pool": "contract"}, "annotations": {"tfscale.io/batch": "contract-1"}}
        consumer = {"apiVersion": "infrastructure.cluster.x-k8s.io/v1beta1", "kind": "Metal3Machine", "name": "contract"}
        self.change(host, {"metadata": marks, "spec": {"online": True, "consumerRef": consumer}})
        return f"{NAMESPACE}/{host}"

    def settle(self) -> None:
        """Let the power follow the order."""
        for host in self.hosts():
            self.change_status(_name(host), poweredOn=host["spec"]["online"])

    def lose_reply(self) -> bool:
        """Lose the answer to the next patch."""
        return self._lossy.lose_reply()

    def leave_room_for(self, machines: int) -> bool:
        """Break all hosts that are off but a few, as they may break between the choice and the call: the last ones."""
        free = [_name(host) for host in self.hosts() if not host["spec"]["online"]]
        for host in free[machines:]:
            self.change_status(host, operationalStatus="error")
        return True

    def host(self, kind: str) -> str:
        """Add a free host and return its name."""
        labels = {"node.kubernetes.io/instance-type": kind, "topology.kubernetes.io/zone": "hall-1"}
        name = f"host-{next(self._numbers):03}"
        meta = {"name": name, "namespace": NAMESPACE, "labels": labels}
        self.kube.create(HOSTS, {"metadata": meta, "spec": {"online": False}})
        hardware = {"cpu": {"arch": "x86_64", "count": 32}, "ramMebibytes": 131_072}
        provisioning = {"state": "externally provisioned"}
        self.change_status(name, operationalStatus="OK", poweredOn=False, hardware=hardware, provisioning=provisioning)
        return name

    def hosts(self) -> list[Json]:
        """Return all hosts."""
        return self.kube.list(HOSTS).items

    def change(self, host: str, patch: Mapping[str, Any]) -> None:
        """Change a host by hand."""
        self.kube.patch(HOSTS, host, patch, namespace=NAMESPACE)

    def change_status(self, host: str, **status: object) -> None:
        """Report about a host, as Metal3 does."""
        self.kube.patch_status(HOSTS, host, {"status": status}, namespace=NAMESPACE)


class TestMetal3Mode(ScalingModeContract):
    """What the loop relies on."""

    @pytest.fixture
    def ground(self) -> Ground:
        """Fresh hosts."""
        return Metal3Ground()


def test_hosts_are_offered_as_they_are() -> None:
    """Cards from the options and the GPU table, the rest from the inspection; no price is told for a T4."""
    ground = Metal3Ground()
    offers = {offer.id: offer for offer in ground.mode.open(ground.context("a")).offers()}

    assert {"rack-l4/hall-1/on-demand", "rack-t4/hall-1/on-demand"} == set(offers)
    l4, t4 = offers["rack-l4/hall-1/on-demand"], offers["rack-t4/hall-1/on-demand"]
    assert ("L4", 2, 24_576, 32_000, 131_072) == (l4.gpu_model, l4.gpu_count, l4.vram_mib, l4.cpu_milli, l4.memory_mib)
    assert (1_000_000, None) == (l4.price_micro_usd, t4.price_micro_usd)


@pytest.mark.parametrize(
    "status",
    [
        {"operationalStatus": "error"},
        {"poweredOn": True},
        {"provisioning": {"state": "available"}},
        {"hardware": None},
    ],
)
def test_a_host_that_would_not_boot_as_a_node_is_not_offered(status: dict[str, object]) -> None:
    """It is broken, on already, without an image, or nobody knows what it is."""
    ground = Metal3Ground()
    for host in ground.hosts():
        ground.change_status(_name(host), **status)

    assert not ground.mode.open(ground.context("a")).offers()


def test_options_are_read_strictly() -> None:
    """A card that no table has, and a type of which there is no host."""
    context = Metal3Ground().context("a")
    types = context.pool.options["types"]
    types["rack-h900"] = {"gpuModel": "L4", "gpus": 8}

    assert ["rack-h900"] == [problem.value for problem in Metal3Ground.mode.open(context).check()]
    types["rack-h900"]["gpuModel"] = "H900"
    with pytest.raises(BadInputError, match=r"spec\.options\.types\.rack-h900\.gpuModel is 'H900'"):
        Metal3Ground.mode.open(context)


def _name(host: Json) -> str:
    return str(host["metadata"]["name"])
