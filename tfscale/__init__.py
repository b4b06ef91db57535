"""Share GPUs between models and buy only the nodes that are needed.

The pure core, for controllers that bring their own loop: describe a :class:`Cluster`, say what can be bought, and
:func:`decide` returns a :class:`Plan`. Whatever talks to a cloud or a cluster lives in modules of its own and is loaded
only by who imports it.
"""

from __future__ import annotations

from tfscale.decide import Policy, Supply, decide
from tfscale.errors import BadInputError, ClusterError, ModeError, Problem, TfscaleError
from tfscale.gpus import GpuModel, GpuTable
from tfscale.model import BoundPod, Cluster, Demand, Gpu, GpuSlice, LaunchBatch, Machine, Node, NodeRequest, Offer, Request
from tfscale.plan import Plan
from tfscale.pool import Pool
from tfscale.slicing import pack, shop

__version__ = "0.1.0"

__all__ = [
    "BadInputError",
    "BoundPod",
    "Cluster",
    "ClusterError",
    "Demand",
    "Gpu",
    "GpuModel",
    "GpuSlice",
    "GpuTable",
    "LaunchBatch",
    "Machine",
    "ModeError",
    "Node",
    "NodeRequest",
    "Offer",
    "Plan",
    "Policy",
    "Pool",
    "Problem",
    "Request",
    "Supply",
    "TfscaleError",
    "decide",
    "pack",
    "shop",
]
