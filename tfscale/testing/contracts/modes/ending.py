"""What a mode sees of what it launched, and how machines are given back or left to others."""

from __future__ import annotations

import pytest

from tfscale.testing.contracts.modes.buyer import Buyer
from tfscale.testing.contracts.modes.ground import Ground

__all__ = ["EndingContract"]

_UNKNOWN = "there-is-no-such-machine"
_NEIGHBOUR = "contract-2"
"""Another pool, whose name begins like ours: no prefix tells whose a machine is."""


class EndingContract:
    """Observe, terminate and release."""

    @pytest.fixture
    def others(self, ground: Ground) -> set[str]:
        """Return the ids of machines that are not ours: one of another pool, where it buys any, and a foreign one."""
        bought = Buyer(ground, _NEIGHBOUR).bought() if ground.buys else []
        return {ground.foreign(), *(machine.id for machine in bought)}

    @pytest.mark.parametrize("restarted", [False, True], ids=["same process", "new process"])
    def test_all_that_was_launched_is_seen(self, ground: Ground, buyer: Buyer, *, restarted: bool) -> None:
        """With its call and its pool, each machine once; by its provider id, once known, a node is known to be that machine."""
        expected: dict[str, str] = {}
        for count in (2, 1):
            batch = buyer.batch(count)
            expected |= {result.machine.id: batch.name for result in buyer.launch(batch) if result.machine}
        ground.settle()
        if restarted:
            buyer.restart()
        seen = buyer.mode.observe()

        assert expected == {machine.id: machine.batch for machine in seen}
        assert len(expected) == len(seen) == 3
        assert [(buyer.pool, False)] * 3 == [(machine.pool, machine.stopping) for machine in seen]
        provider_ids = [machine.provider_id for machine in seen if machine.provider_id]
        assert len(provider_ids) == len({*provider_ids})

    def test_no_machine_of_others_is_seen(self, buyer: Buyer, others: set[str]) -> None:
        """Neither one of another pool nor one that nobody here launched."""
        assert others
        assert not buyer.seen() & others

    def test_what_is_terminated_ends(self, ground: Ground, buyer: Buyer) -> None:
        """It is gone from the world and from what the mode sees; what was not named stays."""
        before = set(ground.really_there())
        ended, kept = [machine.id for machine in buyer.bought(2)]
        buyer.give_back([ended])

        assert {kept} == set(ground.really_there()) - before
        assert {kept} == buyer.seen()

    def test_a_machine_is_seen_until_it_is_gone(self, ground: Ground, buyer: Buyer) -> None:
        """One that is being ended still exists, still counts, and is asked to end until it does."""
        before = set(ground.really_there())
        ended, _ = [machine.id for machine in buyer.bought(2)]
        buyer.mode.terminate([ended])

        assert set(ground.really_there()) - before == buyer.seen()

    def test_a_machine_on_its_way_can_be_terminated(self, ground: Ground, buyer: Buyer) -> None:
        """Right after the launch, before anything has settled."""
        before = set(ground.really_there())
        results = buyer.launch(buyer.batch(2))
        buyer.give_back([result.machine.id for result in results if result.machine])

        assert before == set(ground.really_there())

    def test_terminating_again_is_no_error(self, ground: Ground, buyer: Buyer) -> None:
        """Nor is one that is gone, one that never was, the same one twice, or none at all."""
        before = set(ground.really_there())
        (machine,) = buyer.bought()
        for _ in range(2):
            buyer.mode.terminate([machine.id, _UNKNOWN, machine.id])
        buyer.give_back([machine.id])
        buyer.restart()
        buyer.mode.terminate([_UNKNOWN, machine.id])
        buyer.mode.terminate([])

        assert before == set(ground.really_there())

    def test_no_machine_of_others_is_terminated(self, ground: Ground, buyer: Buyer, others: set[str]) -> None:
        """Whoever asks for it: the ids of others are passed over, and our own among them is ended."""
        ours = {machine.id for machine in buyer.bought()} if ground.buys else set()
        for _ in range(2):
            buyer.mode.terminate(sorted(ours | others))
            ground.settle()

        assert others <= set(ground.really_there())
        assert not ours & set(ground.really_there())

    def test_release_ends_the_protection_and_nothing_else(self, ground: Ground, buyer: Buyer) -> None:
        """Once or twice: the machines stay, and those that were named are protected no more."""
        bought = {machine.id for machine in buyer.bought(2)}
        before = {machine.id: (machine.protected_until_s, False) for machine in buyer.mode.observe()}
        for named in (sorted(bought)[:1], sorted(bought)):
            expected = before | dict.fromkeys(named, (None, False))
            for _ in range(2):
                buyer.mode.release(named)

                assert expected == {m.id: (m.protected_until_s, m.stopping) for m in buyer.mode.observe()}
        assert bought <= set(ground.really_there())

    def test_a_hold_ends_nothing_and_is_over_when_released(self, ground: Ground, buyer: Buyer, others: set[str]) -> None:
        """Once or twice, and whoever else is named: where nobody removes machines there is nothing to hold."""
        bought = {machine.id for machine in buyer.bought(2)}
        for _ in range(2):
            buyer.mode.hold(sorted({*bought, *others, _UNKNOWN}))
        held = {machine.id for machine in buyer.mode.observe() if machine.held}
        buyer.mode.release(sorted(bought))

        assert held <= (bought if buyer.mode.reclaims_idle else set())
        assert not any(machine.held for machine in buyer.mode.observe())
        assert bought | others <= set(ground.really_there())

    def test_what_is_not_ours_or_gone_is_not_released(self, ground: Ground, buyer: Buyer, others: set[str]) -> None:
        """It is no error, and the protection of another pool's machines stays."""
        neighbour = Buyer(ground, _NEIGHBOUR)
        before = [(machine.id, machine.protected_until_s) for machine in neighbour.mode.observe()]
        buyer.mode.release([*sorted(others), _UNKNOWN])

        assert before == [(machine.id, machine.protected_until_s) for machine in neighbour.mode.observe()]
        assert others <= set(ground.really_there())
