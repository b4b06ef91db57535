"""What follows from a machine that never became a node: what is left out of the next purchases."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tfscale.lifecycle import TIMEOUTS, Event, State
from tfscale.model import Machine, NodeRequest, Trouble

__all__ = ["OTHERS_FIRST", "blamed", "left_out", "told"]

OTHERS_FIRST = "*"
"""What is set aside after a launch that was stuck: everything, so that whoever it held up has his turn."""

_WORD = re.compile(r"[A-Za-z0-9]+(?:[-.][A-Za-z0-9]+)*")


def left_out(
    request: NodeRequest, event: Event | None, asked: Sequence[str], trouble: Trouble | None, machine: Machine | None
) -> tuple[str, ...]:
    """Return what is not to be bought again at once, as in ``SetAside.offer``.

    `asked` are the offers that the machine could be, for as long as nobody has chosen one. While nobody has even noticed it,
    nothing is known about them: whoever should run it may be down.
    """
    late = event in TIMEOUTS
    if not late and not (event in {Event.MACHINE_GONE, Event.STOPPED} and request.state is State.LAUNCHED):
        return ()
    if request.offer:
        # A node was paid for where the machine ran: none of its type is tried again soon.
        paid_for = late and event is not Event.LAUNCH_TIMED_OUT
        return (request.offer.partition("/")[0] if paid_for else request.offer,)
    guilty = blamed(asked, trouble) if machine is None or machine.noticed else ()
    return (*guilty, OTHERS_FIRST) if event is Event.LAUNCH_TIMED_OUT else guilty


def blamed(asked: Sequence[str], trouble: Trouble | None) -> tuple[str, ...]:
    """Return which of the offers of one call its failure is about: those that its words name, else all of them.

    >>> asked = ["g5.xlarge/a/spot", "g5.xlarge/b/spot", "g6.xlarge/a/spot", "g6.xlarge/b/spot"]
    >>> blamed(asked, Trouble(reason="InsufficientCapacityError", message="not enough g6.xlarge in the zone (a)."))
    ('g6.xlarge/a/spot',)
    """
    words = {*_WORD.findall(trouble.message)} if trouble else set()
    places = [tuple(offer.split("/")[:2]) for offer in asked]
    kinds, zones = {kind for kind, _ in places} & words, {zone for _, zone in places} & words
    named = [
        offer
        for offer, (kind, zone) in zip(asked, places, strict=True)
        if (not kinds or kind in kinds) and (not zones or zone in zones)
    ]
    return tuple(named or asked)


def told(trouble: Trouble | None, machine: Machine | None) -> str:
    """Return what is known about a failure, to follow what was seen of it."""
    if trouble is not None:
        return f": {trouble}"
    return "" if machine is None or machine.noticed else "; nobody has looked at it"
