"""A Kubernetes API server in memory."""

from tfscale.testing.fake_kube.store import FakeKube

__all__ = ["FakeKube"]
