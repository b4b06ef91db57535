"""What the limits of a pool still allow to buy."""

from __future__ import annotations

from tfscale.model import Offer

__all__ = ["Budget"]


class Budget:
    """How many nodes and GPUs, and how much per hour, may still be bought; None is no limit. `called` are their names."""

    def __init__(self, nodes: int | None, gpus: int | None, micro_usd: int | None, called: tuple[str, str, str]) -> None:
        self._given = (nodes, gpus, micro_usd)
        self._called = called
        self._nodes, self._gpus, self._micro_usd = self._given

    def times(self, offer: Offer, most: int) -> int:
        """Return how many nodes of this offer may be bought, at most `most`."""
        if offer.price_micro_usd is None and self._micro_usd is not None:
            return 0
        spent = ((self._nodes, 1), (self._gpus, offer.gpu_count), (self._micro_usd, offer.price_micro_usd or 0))
        return max(min([most, *(left // each for left, each in spent if left is not None and each)]), 0)

    def spend(self, offer: Offer, times: int) -> None:
        """Count nodes that are bought."""
        self._nodes = _less(self._nodes, times)
        self._gpus = _less(self._gpus, times * offer.gpu_count)
        self._micro_usd = _less(self._micro_usd, times * (offer.price_micro_usd or 0))

    def refusal(self, offer: Offer) -> str:
        """Return which limit keeps a node of this offer from being bought."""
        nodes, gpus, micro_usd = self._given
        if self._nodes is not None and self._nodes < 1:
            return f"limit reached: {nodes} more {self._called[0]} allowed"
        if self._gpus is not None and self._gpus < offer.gpu_count:
            return f"limit reached: {gpus} more {self._called[1]} allowed"
        if offer.price_micro_usd is None:
            return f"price of {offer.instance_type} is unknown and the pool limits USD per hour"
        return f"limit reached: {(micro_usd or 0) / 1_000_000:.2f} more {self._called[2]} allowed"

    def can_replace(self, offer: Offer, other: Offer, share: int) -> bool:
        """Return whether `other` keeps the limits in place of a bought `offer`, if one node in `share` did the same."""
        if self._gpus is not None and other.gpu_count - offer.gpu_count > self._gpus // share:
            return False
        if self._micro_usd is None:
            return True
        prices = (offer.price_micro_usd, other.price_micro_usd)
        return None not in prices and (prices[1] or 0) - (prices[0] or 0) <= self._micro_usd // share


def _less(limit: int | None, used: int) -> int | None:
    return None if limit is None else limit - used
