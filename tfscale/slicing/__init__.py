"""Sharing GPUs: ``pack`` puts demands onto existing nodes, ``shop`` finds the cheapest nodes for what is left.

``Packer`` does what ``pack`` does one demand at a time, on nodes that come and go.
"""

from tfscale.slicing.choices import imagine
from tfscale.slicing.offers import Purchase, Shopping, shop
from tfscale.slicing.pack import Left, Packing, pack
from tfscale.slicing.packer import Packer, Placed
from tfscale.slicing.scores import Weights
from tfscale.slicing.typical import typical_of

__all__ = [
    "Left",
    "Packer",
    "Packing",
    "Placed",
    "Purchase",
    "Shopping",
    "Weights",
    "imagine",
    "pack",
    "shop",
    "typical_of",
]
