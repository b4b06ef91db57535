"""Sharing GPUs: ``pack`` puts demands onto existing nodes, ``shop`` finds the cheapest nodes for what is left."""

from tfscale.slicing.choices import imagine
from tfscale.slicing.offers import Purchase, Shopping, shop
from tfscale.slicing.pack import Left, Packing, Placed, pack

__all__ = ["Left", "Packing", "Placed", "Purchase", "Shopping", "imagine", "pack", "shop"]
