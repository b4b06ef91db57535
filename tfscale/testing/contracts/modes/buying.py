"""Buying: the order that is recorded, the call, and the same call again after a crash."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pytest

from tfscale.errors import LaunchRefusedError, ModeError
from tfscale.model import Machine
from tfscale.modes.base import LaunchResult, results_of
from tfscale.testing.contracts.modes.buyer import Buyer
from tfscale.testing.contracts.modes.ground import Ground

__all__ = ["BuyingContract"]


class BuyingContract:
    """Prepare, launch, and launch again."""

    def test_an_order_is_only_words(self, ground: Ground, buyer: Buyer) -> None:
        """Nothing is made by preparing, and what is written down comes back as it was."""
        if not ground.buys:
            pytest.skip("buys nothing")
        before = set(ground.really_there())
        order, _ = buyer.order("words", 3)
        buyer.order("words", 3)
        ground.settle()

        assert order.parameters == json.loads(json.dumps(dict(order.parameters), allow_nan=False))
        assert before == set(ground.really_there())
        assert not buyer.seen()

    def test_an_order_names_some_of_the_offers_best_first(self, ground: Ground, buyer: Buyer) -> None:
        """What the call may give is among what was allowed, in the same order, and something is."""
        if not ground.buys:
            pytest.skip("buys nothing")
        allowed = [offer.id for offer in buyer.offers()]
        named = list(buyer.order("names", 1)[0].offers)

        assert named
        assert named == [offer for offer in allowed if offer in named]

    def test_every_request_gets_a_machine_of_its_own(self, ground: Ground, buyer: Buyer) -> None:
        """As many machines in the world as were ordered, with the call and the pool written on them."""
        before = set(ground.really_there())
        batch = buyer.batch(3)
        results = buyer.launch(batch)
        machines = _machines(results)

        assert len({machine.id for machine in machines}) == 3
        assert {machine.id for machine in machines} == set(ground.really_there()) - before
        assert {(batch.name, buyer.pool)} == {(machine.batch, machine.pool) for machine in machines}
        assert {machine.offer for machine in machines} <= {"", *batch.offers}

    def test_requests_are_matched_as_the_loop_would_match_them(self, buyer: Buyer) -> None:
        """After a crash the loop may find all machines by itself: sorted ids to sorted names, as ``results_of`` has it."""
        batch = buyer.batch(4)
        results = buyer.launch(batch)

        assert _given(results_of(batch, _machines(results))) == _given(results)

    @pytest.mark.parametrize("settled", [False, True], ids=["at once", "settled"])
    @pytest.mark.parametrize("restarted", [False, True], ids=["same process", "new process"])
    def test_a_replay_launches_nothing_more(self, ground: Ground, buyer: Buyer, *, restarted: bool, settled: bool) -> None:
        """The same call, three times more: the same machines for the same requests, and no other machine."""
        before = set(ground.really_there())
        batch = buyer.batch(3)
        first = _given(buyer.launch(batch))
        for _ in range(3):
            if settled:
                ground.settle()
            if restarted:
                buyer.restart()

            assert first == _given(buyer.launch(batch))
            assert {*first.values()} == set(ground.really_there()) - before

    def test_a_lost_reply_costs_nothing(self, ground: Ground, buyer: Buyer) -> None:
        """The outcome is unknown, which is no refusal. The replay gives each request its machine, and no request two."""
        before = set(ground.really_there())
        batch = buyer.batch(3)
        if not ground.lose_reply():
            pytest.skip("this ground cannot lose a reply")
        with pytest.raises(ModeError) as caught:
            buyer.launch(batch)
        buyer.restart()
        results = buyer.launch(batch)

        assert not isinstance(caught.value, LaunchRefusedError)
        assert {*_given(results).values()} == set(ground.really_there()) - before
        assert len({machine.id for machine in _machines(results)}) == 3

    def test_a_lost_reply_that_took_the_last_room_costs_nothing(self, ground: Ground, buyer: Buyer) -> None:
        """The replay tells of every machine that is there, although there is no room for another."""
        before = set(ground.really_there())
        batch = buyer.batch(2)
        if not (ground.leave_room_for(2) and ground.lose_reply()):
            pytest.skip("this ground cannot lose a reply, or has no end of capacity")
        with pytest.raises(ModeError):
            buyer.launch(batch)
        buyer.restart()
        told = _ids(_machines(buyer.launch(batch)))

        assert told
        assert told == set(ground.really_there()) - before

    def test_a_call_means_what_was_recorded(self, ground: Ground, buyer: Buyer) -> None:
        """And not what the pool wants by now: it may have been edited between the record and the call."""
        if not ground.buys:
            pytest.skip("buys nothing")
        types = sorted({offer.instance_type for offer in buyer.offers()})
        if len(types) == 1:
            pytest.skip("this ground has one type")
        buyer.wants(types[0])
        batch = buyer.batch()
        buyer.wants(types[-1])
        (machine,) = _machines(buyer.launch(batch))
        ground.settle()

        assert {machine.id: True} == {one.id: one.offer in {"", *batch.offers} for one in buyer.mode.observe()}
        assert machine.offer in {"", *batch.offers}

    def test_two_calls_never_share_a_machine(self, buyer: Buyer) -> None:
        """Nor do two that were prepared before either was made, though the second may get fewer machines then."""
        early = buyer.batch(2)
        batches = [buyer.batch(2), early]
        taken = [_ids(_machines(buyer.launch(batch))) for batch in batches]
        batches.append(buyer.batch(2))
        taken.append(_ids(_machines(buyer.launch(batches[-1]))))

        assert sum(map(len, taken)) == len(set().union(*taken))
        assert [len(taken[0]), len(taken[2])] == [2, 2]
        assert taken == [_ids(_machines(buyer.launch(batch))) for batch in batches]

    def test_capacity_that_runs_out_gives_fewer_machines(self, ground: Ground, buyer: Buyer) -> None:
        """Some are refused in the reply, or gone later; never are there more than fit, and the mode sees what is there.

        A replay tells of the same machines, as long as they are there.
        """
        before = set(ground.really_there())
        batch = buyer.batch(3)
        if not ground.leave_room_for(2):
            pytest.skip("this ground has no end of capacity")
        results = buyer.launch(batch)
        ground.settle()
        again = _given(buyer.launch(batch))
        ground.settle()
        there = set(ground.really_there()) - before

        assert all(again[name] == machine for name, machine in _given(results).items() if machine in there)
        assert len(_machines(results)) == len(_ids(_machines(results)))
        assert 0 < len(there) <= 2
        assert there == buyer.seen()

    def test_no_capacity_is_told(self, ground: Ground, buyer: Buyer) -> None:
        """Nothing is there in the end; a reply without a machine says why, so that another offer is tried."""
        before = set(ground.really_there())
        batch = buyer.batch(2)
        if not ground.leave_room_for(0):
            pytest.skip("this ground has no end of capacity")
        try:
            results = buyer.launch(batch)
        except LaunchRefusedError:
            results = []
        ground.settle()
        unserved = [result for result in results if not result.machine]
        refused = {refusal.offer for result in results for refusal in result.refusals}

        assert refused <= {*batch.offers}
        assert refused or not unserved
        assert before == set(ground.really_there())
        assert not buyer.seen()


def _given(results: Sequence[LaunchResult]) -> dict[str, str]:
    """Return the machine of each request."""
    return {result.request: result.machine.id if result.machine else "" for result in results}


def _machines(results: Iterable[LaunchResult]) -> list[Machine]:
    return [result.machine for result in results if result.machine]


def _ids(machines: Iterable[Machine]) -> set[str]:
    return {machine.id for machine in machines}
