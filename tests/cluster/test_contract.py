"""The contract of the Kubernetes port, on the real API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import eventually, is_served
from tests.cluster.control_plane import ControlPlane
from tfscale.kube.client import KubeClient
from tfscale.kube.port import CRDS
from tfscale.testing.contracts import WIDGET_CRD, WIDGETS, KubeContract


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the kubeconfig of one API server to all of these tests."""
    with ControlPlane(tmp_path_factory.mktemp("contract")) as running:
        kube = KubeClient.connect(kubeconfig=str(running.kubeconfig), context=None)
        kube.create(CRDS, WIDGET_CRD)
        eventually(lambda: is_served(kube, WIDGETS), "widgets are served")
        yield running.kubeconfig


class TestRealApiServer(KubeContract):
    """What FakeKube passes too."""

    @pytest.fixture
    def kube(self, server: Path) -> KubeClient:
        """Give a client of its own to each test."""
        return KubeClient.connect(kubeconfig=str(server), context=None)
