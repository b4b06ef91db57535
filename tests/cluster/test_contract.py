"""The contract of the Kubernetes port on the real control plane, and on the one in memory that has to be equal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import eventually, is_served
from tests.cluster.contract_table import ContractTable
from tests.cluster.control_plane import ControlPlane
from tfscale.kube.client import KubeClient, Timing
from tfscale.kube.port import CRDS
from tfscale.testing import FakeKube
from tfscale.testing.contracts import WIDGET_CRD, WIDGETS, KubeContract

UNHURRIED = Timing(calls_per_s=1_000, burst=1_000)


@pytest.fixture(scope="module", autouse=True)
def _table(request: pytest.FixtureRequest) -> None:
    table = ContractTable(KubeContract, (TestRealServer.__name__, TestInMemory.__name__))
    request.config.pluginmanager.register(table)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the kubeconfig of one API server, with its controllers, to all of these tests."""
    with ControlPlane(tmp_path_factory.mktemp("contract")) as running:
        kube = KubeClient.connect(kubeconfig=str(running.kubeconfig))
        kube.create(CRDS, WIDGET_CRD)
        eventually(lambda: is_served(kube, WIDGETS), "widgets are served")
        kube.close()
        # Only now: the garbage collector looks for new kinds every half minute.
        running.start_controllers()
        yield running.kubeconfig


class TestRealServer(KubeContract):
    """What Kubernetes does."""

    @pytest.fixture
    def kube(self, server: Path) -> Iterator[KubeClient]:
        """Give a client of its own to each test."""
        kube = KubeClient.connect(kubeconfig=str(server), timing=UNHURRIED)
        yield kube
        kube.close()


class TestInMemory(KubeContract):
    """What FakeKube does."""

    @pytest.fixture
    def kube(self) -> FakeKube:
        """Give a fresh server to each test."""
        kube = FakeKube()
        kube.create(CRDS, WIDGET_CRD)
        return kube
