"""One API server with our definitions for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.cluster.conftest import eventually, is_served
from tests.cluster.control_plane import ControlPlane
from tfscale.kube.client import KubeClient
from tfscale.kube.crds import OUR_KINDS, definition
from tfscale.kube.port import CRDS


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Give one API server to all tests."""
    with ControlPlane(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="package")
def installed(server: ControlPlane) -> KubeClient:
    """Give a client of it, after our definitions were installed and are served."""
    client = KubeClient.connect(kubeconfig=str(server.kubeconfig))
    for kind in OUR_KINDS:
        client.create(CRDS, definition(kind))
        eventually(partial(is_served, client, kind), f"{kind.plural} are served")
    return client
