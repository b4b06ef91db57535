"""A stand-in for Karpenter between the API server in memory and the simulated EC2. The real Karpenter is the judge."""

from tfscale.testing.fake_karpenter.stand_in import KarpenterStandIn

__all__ = ["KarpenterStandIn"]
