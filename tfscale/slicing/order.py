"""In which order demands are looked at. No two demands are equal in these orders, so the order of the input is forgotten."""

from __future__ import annotations

from tfscale.model import Demand, Request

__all__ = ["competing_order", "dense_order", "filling_order", "size_of"]


def size_of(request: Request) -> tuple[int, ...]:
    """Return a key by which the larger of two requests compares greater: cards first, then their parts, CPU and memory."""
    return (
        request.gpu_count,
        request.whole,
        request.vram_mib,
        request.compute_milli or 0,
        request.compute_mtflops or 0,
        request.cpu_milli,
        request.memory_mib,
    )


def competing_order(demand: Demand) -> tuple[object, ...]:
    """Return the sort key of demands that compete for nodes: priority, then age, then size."""
    return (-demand.priority, demand.created_s, *_largest_first(demand.request), demand.id, demand.uid)


def filling_order(demand: Demand) -> tuple[object, ...]:
    """Return the sort key of demands that fill one node: priority, then size, then age.

    A node is bought for a set of demands that fits in this order. Placed in the same order and by the same rule of the
    tightest card, the set fits again on the node that comes.
    """
    return (-demand.priority, *_largest_first(demand.request), demand.created_s, demand.id, demand.uid)


def dense_order(demand: Demand) -> tuple[object, ...]:
    """Return the sort key of demands of which not all fit, if cards are to be full: priority, then cards, then age and size.

    Those of several cards come first, as nothing else gives up a whole node for them; those without cards come last and take
    the CPU that cards do not need. Any other order by size was tried and loses later what it gains at once.
    """
    cards = demand.request.gpu_count
    return (-demand.priority, cards == 0, -cards, *competing_order(demand))


def _largest_first(request: Request) -> tuple[int, ...]:
    return tuple(-part for part in size_of(request))
