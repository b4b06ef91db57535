"""The cheapest nodes for the demands that no existing node takes.

The first demand that waits opens a node of every offer that can host it. Each of these imagined nodes is filled with
whatever else waits, and the one that gives most for its price is bought, as the cheapest offer that takes the same load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tfscale.model import Demand, Node, Offer
from tfscale.slicing.budget import Budget
from tfscale.slicing.capacity import Capacity, Ints
from tfscale.slicing.choices import Choice, Groups, cheapest_first, choices_of, imagine
from tfscale.slicing.columns import Column, Mix
from tfscale.slicing.order import competing_order
from tfscale.slicing.pack import Left, unpackable
from tfscale.slicing.packer import Placed
from tfscale.slicing.reasons import Shortage, counted, refusal, shortages
from tfscale.slicing.vacancy import Vacancy

__all__ = ["Purchase", "Shopping", "shop"]

_MOST_ALTERNATIVES = 20
_NO_LIMIT = 1 << 62
_SCALE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One node to buy."""

    offer: Offer
    alternatives: tuple[Offer, ...]
    """Offers of the same capacity type that take the same demands: first `offer`, then by price, unknown prices last."""
    placed: tuple[Placed, ...]
    """What it is bought for, on a node whose name means something only within this shopping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shopping:
    """What to buy: every demand is placed in one purchase or left, once."""

    purchases: tuple[Purchase, ...]
    left: tuple[Left, ...]


def shop(
    demands: Sequence[Demand],
    offers: Sequence[Offer],
    *,
    pool: str,
    nodes_max: int | None = None,
    gpus_max: int | None = None,
    micro_usd_max: int | None = None,
    called: tuple[str, str, str] = ("nodes", "GPUs", "USD per hour"),
) -> Shopping:
    """Choose nodes for the demands, several types mixed, and say of every demand that gets none why.

    The limits say what may be bought now, and `called` names them in reasons; they hold whichever alternatives are launched in
    the end. An offer of unknown price is taken only for a demand that no offer of known price can host, and never under a limit
    on money. Of an offer with a ``count_max`` no more is bought, and it stands for no other. The order of the arguments makes
    no difference.

    >>> from tfscale.model import Request
    >>> card = {"gpu_model": "T4", "gpu_count": 1, "vram_mib": 16_384, "mtflops": 65_000, "zone": "a"}
    >>> small = Offer(instance_type="small", cpu_milli=4_000, memory_mib=16_384, price_micro_usd=500_000,
    ...               capacity_type="spot", **card)
    >>> half = Request(gpu_count=1, vram_mib=8_192, compute_milli=500)
    >>> pods = [Demand(id=f"default/asr-{n}", uid=str(n), pool="inference", request=half) for n in range(3)]
    >>> [len(purchase.placed) for purchase in shop(pods, [small], pool="inference").purchases]
    [2, 1]
    """
    wanted, left = _single(*unpackable(sorted(demands, key=competing_order)))
    limits = (nodes_max, gpus_max, micro_usd_max)
    first = _Shopper(wanted, offers, pool, Budget(*limits, called))
    refused = first.serve()
    best, unserved = first, refused
    if first.nodes > 1:
        second = _Shopper(wanted, offers, pool, Budget(*limits, called))
        second.buy_whole(first.columns, below_micro_usd=first.cost()[1])
        still = second.serve()
        if second.cost() < first.cost() and {item.demand.uid for item in still} <= {item.demand.uid for item in refused}:
            best, unserved = second, still
    left = [*left, *unserved]
    return Shopping(purchases=best.purchases(), left=tuple(sorted(left, key=lambda item: competing_order(item.demand))))


def _single(good: Sequence[Demand], left: Sequence[Left]) -> tuple[list[Demand], list[Left]]:
    """Set aside what cannot be bought for one by one: half a gang would be bought, and a node for two that must be apart."""
    together = {demand.uid: f"gang {demand.gang}" for demand in good if demand.gang}
    together |= {demand.uid: f"pods of {demand.apart}, which must be apart" for demand in good if demand.apart}
    more = [
        Left(demand=demand, reasons=(f"nodes are not bought for {together[demand.uid]}",))
        for demand in good
        if demand.uid in together
    ]
    return [demand for demand in good if demand.uid not in together], [*left, *more]


@dataclass(frozen=True, slots=True)
class _Order:
    """A node that was chosen, with every offer of its capacity type that takes the same load."""

    offer: Offer
    others: tuple[Offer, ...]
    placed: tuple[Placed, ...]


class _Shopper:
    """What waits, what can be bought for it, and what was bought so far."""

    def __init__(self, demands: Sequence[Demand], offers: Sequence[Offer], pool: str, budget: Budget) -> None:
        self.groups = Groups(demands)
        self._bought: Counter[str] = Counter()
        self._every = choices_of((offer for offer in offers if offer.count_max != 0), self.groups, pool=pool)
        self._choices = list(self._every)
        self.columns: list[Column] = []
        """The loads that were bought, each once or more."""
        self._offers = sorted(offers, key=cheapest_first)
        self._pool = pool
        self._budget = budget
        self._orders: list[_Order] = []
        self._worth_micro_usd = self._worth()

    def _worth(self) -> Ints:
        """Return for each group what its part of a node costs where that is cheapest; 0 where no price is known."""
        worth = np.full(len(self.groups.count), _NO_LIMIT, dtype=np.int64)
        for choice in self._choices:
            if choice.price_micro_usd is not None:
                worth = np.where(choice.hosts, np.minimum(worth, choice.worth_micro_usd()), worth)
        return np.where(worth < _NO_LIMIT, worth, 0)

    def serve(self) -> list[Left]:
        """Buy for one group after the other; return those for which nothing can be bought."""
        left: list[Left] = []
        while (group := self.groups.first()) is not None:
            found = self.best(group)
            if found:
                self.buy(*found)
            else:
                reasons = self.reasons(group)
                left += [Left(demand=one, reasons=reasons) for one in self.groups.take(group, int(self.groups.count[group]))]
        return left

    def best(self, group: int) -> tuple[Choice, dict[int, int]] | None:
        """Return the node to buy next, which takes a demand of this group, and its load; None if there is none to buy."""
        candidates = self._candidates(group)
        affordable = [choice for choice in candidates if self._budget.times(choice.offers[0], 1)]
        if not affordable:
            return None
        if affordable[0].price_micro_usd is None:
            smallest = min(affordable, key=lambda choice: (_capacity_of(choice.offers[0]), choice.offers[0].id))
            return smallest, smallest.fill()
        _, load = min(((choice, choice.fill()) for choice in affordable), key=lambda filled: self._rating(*filled))
        return next(choice for choice in affordable if choice.takes(load)), load

    def _candidates(self, group: int) -> list[Choice]:
        """Return the choices that can host the group, cheapest first: those of unknown price only where there are no others."""
        hosting = [choice for choice in self._choices if choice.hosts[group]]
        return [choice for choice in hosting if choice.price_micro_usd is not None] or hosting

    def _rating(self, choice: Choice, load: Mapping[int, int]) -> tuple[int, int, str]:
        """Return the price for each unit of worth, the lowest being the best; the rest of the key makes it unique."""
        worth = sum(int(self._worth_micro_usd[group]) * number for group, number in load.items())
        price = choice.price_micro_usd or 0
        return price * _SCALE // max(worth, 1), price, choice.offers[0].id

    @property
    def nodes(self) -> int:
        """How many were bought."""
        return len(self._orders)

    def cost(self) -> tuple[int, int, int]:
        """Return what tells the better of two purchases: nodes of unknown price, micro-USD per hour, nodes."""
        prices = [order.offer.price_micro_usd for order in self._orders]
        return prices.count(None), sum(price or 0 for price in prices), len(prices)

    def buy_whole(self, start: Sequence[Column], *, below_micro_usd: int) -> None:
        """Buy the whole nodes of a cheap mix, which starts from loads that are known to fit."""
        for column, times in Mix(self.groups, self._every, start).whole(below_micro_usd):
            choice = self._every[column.choice]
            if column.offer in choice.offers:
                self.buy(choice, column.load, column.offer, times)

    def buy(self, choice: Choice, load: Mapping[int, int], wanted: Offer | None = None, most: int = _NO_LIMIT) -> None:
        """Buy the node, as often as its load waits and the limits allow, at most so often."""
        offer = wanted or choice.offers[0]
        waiting = min(most, *(int(self.groups.count[group]) // number for group, number in load.items()))
        self.columns.append(Column(choice=self._every.index(choice), offer=offer, load=load))
        times = self._budget.times(offer, waiting if offer.count_max is None else min(waiting, self._left_of(offer)))
        alike = [other for taking in self._choices if taking.takes(load) for other in taking.offers if other.count_max is None]
        others = sorted(
            (other for other in alike if other.capacity_type == offer.capacity_type and other is not offer), key=cheapest_first
        )
        for _ in range(times):
            demands = [demand for group in sorted(load) for demand in self.groups.take(group, load[group])]
            self._orders.append(_Order(offer, tuple(others), self._placed(offer, demands)))
        self._budget.spend(offer, times)
        self._bought[offer.id] += times
        if offer.count_max is not None and not self._left_of(offer):
            self._sold_out(choice, offer)

    def _left_of(self, offer: Offer) -> int:
        return max((offer.count_max or 0) - self._bought[offer.id], 0)

    def _sold_out(self, choice: Choice, offer: Offer) -> None:
        choice.offers = tuple(other for other in choice.offers if other is not offer)
        self._choices = [one for one in self._choices if one.offers]

    def _placed(self, offer: Offer, demands: Sequence[Demand]) -> tuple[Placed, ...]:
        name = f"new-{len(self._orders) + 1}"
        vacancy = Vacancy(imagine(offer, name=name, pool=self._pool))
        return tuple(
            Placed(demand=demand, node=name, slices=slices)
            for demand in demands
            if (slices := vacancy.place(demand.request)) is not None
        )

    def purchases(self) -> tuple[Purchase, ...]:
        """Return what was bought. The alternatives keep the limits even if every purchase takes its dearest one."""
        return tuple(
            Purchase(offer=order.offer, alternatives=self._alternatives(order), placed=order.placed) for order in self._orders
        )

    def _alternatives(self, order: _Order) -> tuple[Offer, ...]:
        share = len(self._orders)
        kept = [other for other in order.others if self._budget.can_replace(order.offer, other, share)]
        return (order.offer, *kept)[:_MOST_ALTERNATIVES]

    @cached_property
    def _empty(self) -> tuple[list[Node], Capacity]:
        """One empty node of every offer."""
        nodes = [imagine(offer, name=offer.id, pool=self._pool) for offer in self._offers]
        return nodes, Capacity([Vacancy(node) for node in nodes])

    def reasons(self, group: int) -> tuple[str, ...]:
        """Return why nothing is bought for the group: the limits, or that no offer can host it."""
        hosting = self._candidates(group)
        if hosting:
            return tuple(dict.fromkeys(self._budget.refusal(choice.offers[0]) for choice in hosting))
        demand = self.groups.examples[group]
        nodes, capacity = self._empty
        refusals = [refusal(demand, node) for node in nodes]
        rows = np.array([row for row, refused in enumerate(refusals) if not refused], dtype=np.int64)
        short = shortages(capacity, capacity.shape(demand.request), rows)
        nearest = [_too_small(short[-1], self._offers[short[-1].best_row])] if short else []
        causes = counted(Counter(refused for refused in refusals if refused), "offer")
        return (*nearest, *causes) or (f"there is no offer in pool {self._pool}",)


def _too_small(shortage: Shortage, largest: Offer) -> str:
    if not shortage.noun:
        return f"no offer has {shortage.need}"
    return f"no offer is large enough: needs {shortage.need}, largest offer has {shortage.best} ({largest.instance_type})"


def _capacity_of(offer: Offer) -> tuple[int, ...]:
    return (offer.gpu_count, offer.vram_mib, offer.mtflops, offer.cpu_milli, offer.memory_mib)
