"""A Kubernetes API server in memory."""

from tfscale.testing.fake_kube.store import BUDGETS, FakeKube

__all__ = ["BUDGETS", "FakeKube"]
