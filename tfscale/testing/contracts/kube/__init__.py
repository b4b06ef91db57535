"""The contract of the Kubernetes port: what a real API server does, and so every implementation.

Subclass :class:`KubeContract` and give it a fixture ``kube``::

    class TestMyKube(KubeContract):
        @pytest.fixture
        def kube(self) -> Kube:
            return MyKube()

On a real server the namespaces ``default`` and ``kube-system`` must exist and :data:`WIDGET_CRD` must be installed; the
garbage collector and the disruption controller must run, and no kubelet or scheduler may act on the objects. In
``FakeKube`` the definition is created, too: from it, it learns how the lists of widgets are merged. Every test makes objects
of its own names, so that the server may be shared and used again. The whole contract was run on Kubernetes 1.35.4.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tfscale.kube.port import Kube
from tfscale.testing.contracts.kube.applying import ApplyingContract
from tfscale.testing.contracts.kube.ending import LifeContract
from tfscale.testing.contracts.kube.guarding import GuardingContract
from tfscale.testing.contracts.kube.leasing import LeasingContract
from tfscale.testing.contracts.kube.owning import OwningContract
from tfscale.testing.contracts.kube.reading import ReadingContract
from tfscale.testing.contracts.kube.workplace import WIDGET_CRD, WIDGETS, Workplace
from tfscale.testing.contracts.kube.writing import WritingContract

__all__ = ["WIDGETS", "WIDGET_CRD", "KubeContract"]


class KubeContract(
    WritingContract, ApplyingContract, ReadingContract, LifeContract, OwningContract, GuardingContract, LeasingContract
):
    """Tests that every ``Kube`` passes. A subclass gives the fixture ``kube``."""

    @pytest.fixture
    def world(self, kube: Kube) -> Iterator[Workplace]:
        """A workplace with names of its own on the ``kube`` under test."""
        world = Workplace(kube)
        yield world
        world.clear()
