"""Before anything is bought: what a mode is, what it is opened with, and what it offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tfscale.errors import BadInputError, LaunchRefusedError
from tfscale.model import LaunchBatch, NodeRequest, Offer
from tfscale.pool import OfferFilter
from tfscale.testing.contracts.modes.buyer import NOW_S, Buyer
from tfscale.testing.contracts.modes.ground import Ground

__all__ = ["OpeningContract"]

_METHODS = ("open", "check", "offers", "prepare", "launch", "observe", "terminate", "release")


class OpeningContract:
    """A mode, its options, its checks and its offers."""

    @pytest.fixture
    def buyer(self, ground: Ground) -> Buyer:
        """Return the loop of one pool."""
        return Buyer(ground, "contract")

    def test_it_is_a_mode(self, ground: Ground) -> None:
        """It has every method and says whether its nodes are reclaimed by others and are objects of the cluster."""
        mode = ground.mode

        assert not [name for name in _METHODS if not callable(getattr(mode, name, None))]
        assert mode.name == ground.context("contract").pool.mode
        assert {mode.reclaims_idle, mode.in_cluster} <= {True, False}

    def test_an_option_that_it_does_not_know_is_refused(self, ground: Ground) -> None:
        """A misspelled option is named with its pool, and never ignored."""
        context = ground.context("contract")
        misspelled = replace(context.pool, options={**context.pool.options, "noSuchOption": "x"})

        with pytest.raises(BadInputError) as caught:
            ground.mode.open(replace(context, pool=misspelled))
        assert str(caught.value).startswith("gpupool contract: ")
        assert "spec.options" in str(caught.value)
        assert "noSuchOption" in str(caught.value)

    def test_a_good_world_has_no_problem(self, ground: Ground, buyer: Buyer) -> None:
        """Opening, checking and looking at offers finds nothing wrong and changes nothing."""
        before = set(ground.really_there())

        assert not list(buyer.mode.check())
        assert ground.buys == bool(buyer.mode.offers())
        assert before == set(ground.really_there())

    def test_offers_can_be_told_apart_and_paid_for(self, buyer: Buyer) -> None:
        """Each id is there once; no price is zero, which would be bought before all others; an unknown price is None."""
        offers = buyer.mode.offers()

        assert not _twice([offer.id for offer in offers])
        assert not [offer.id for offer in offers if offer.price_micro_usd is not None and offer.price_micro_usd <= 0]
        assert not [offer.id for offer in offers if offer.cpu_milli <= 0 or offer.memory_mib <= 0 or offer.pods_max <= 0]
        assert not [offer.id for offer in offers if min(offer.gpu_count, offer.vram_mib, offer.mtflops) < 0]
        assert not [offer.id for offer in offers if offer.gpu_count and not (offer.gpu_model and offer.vram_mib)]

    def test_only_what_the_pool_wants_is_offered(self, ground: Ground, buyer: Buyer) -> None:
        """As the pool is, with a pool that wants one of its offers alone, and with each capacity type."""
        offers = buyer.mode.offers()
        wanted = ground.context("contract").pool.wanted

        assert not [offer.id for offer in offers if not _accepts(wanted, offer)]
        for offer in (*offers[:1], *offers[-1:]):
            alone = replace(
                wanted, instance_types=(offer.instance_type,), zones=(offer.zone,), capacity_types=(offer.capacity_type,)
            )
            assert [offer.id] == _offered(ground, alone)
        for capacity_type in ("on-demand", "spot"):
            offered = _offered(ground, replace(wanted, capacity_types=(capacity_type,)))
            assert not [offer for offer in offered if not offer.endswith(f"/{capacity_type}")]

    @pytest.mark.parametrize("what", ["instance_type", "zone", "capacity_type"])
    def test_each_filter_counts_by_itself(self, ground: Ground, buyer: Buyer, what: str) -> None:
        """A pool that wants one type, zone or capacity type is offered all of it, and nothing else."""
        offers = buyer.mode.offers()
        values = sorted({getattr(offer, what) for offer in offers})
        for value in {*values[:1], *values[-1:]}:
            wanted = replace(ground.context("contract").pool.wanted, **{f"{what}s": (value,)})
            expected = {offer.id for offer in offers if getattr(offer, what) == value}

            assert expected == set(_offered(ground, wanted))

    def test_a_pool_may_want_one_card_model(self, ground: Ground, buyer: Buyer) -> None:
        """No card of another model is offered to it."""
        for model in sorted({offer.gpu_model for offer in buyer.mode.offers() if offer.gpu_count}):
            wanted = replace(ground.context("contract").pool.wanted, gpu_models=(model,))
            expected = {offer.id for offer in buyer.mode.offers() if offer.gpu_model in {model, ""}}

            assert expected == set(_offered(ground, wanted))

    def test_what_buys_nothing_says_so(self, ground: Ground, buyer: Buyer) -> None:
        """Where there is nothing to buy, a call is refused for good instead of being tried for ever."""
        if ground.buys:
            pytest.skip("buys")
        request = NodeRequest(name="r", pool="contract", mode=buyer.mode.name)

        with pytest.raises(LaunchRefusedError):
            buyer.mode.prepare("b", [request], [], now_s=NOW_S)
        with pytest.raises(LaunchRefusedError):
            buyer.mode.launch(LaunchBatch(name="b", pool="contract", mode=buyer.mode.name, requests=("r",), parameters={}))


def _offered(ground: Ground, wanted: OfferFilter) -> list[str]:
    context = ground.context("contract")
    return [offer.id for offer in ground.mode.open(replace(context, pool=replace(context.pool, wanted=wanted))).offers()]


def _accepts(wanted: OfferFilter, offer: Offer) -> bool:
    """Card models are left out here: a pool may name them as its GPU table does not."""
    return all(
        value in allowed or not allowed
        for value, allowed in (
            (offer.instance_type, wanted.instance_types),
            (offer.zone, wanted.zones),
            (offer.capacity_type, wanted.capacity_types),
        )
    )


def _twice(ids: Sequence[str]) -> list[str]:
    return sorted({one for one in ids if ids.count(one) > 1})
