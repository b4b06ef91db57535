"""One message of EventBridge: what it says, and that nothing in it can do harm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfscale.modes.ec2_events import News, UnreadableError, read_news

MACHINE = "i-0123456789abcdef0"
TIME = "2026-11-23T08:45:31Z"
AT_S = 1_795_423_531
KINDS = (
    "EC2 Spot Instance Interruption Warning",
    "EC2 Instance Rebalance Recommendation",
    "EC2 Instance State-change Notification",
    "EC2 Capacity Reservation Instance Interruption Warning",
    "Capacity Block Expiration Warning",
    "AWS Health Event",
)
FIELDS = (
    "instance-id", "instance-action", "instance-termination-time", "capacity-reservation-id", "end-date", "state", "service",
    "eventTypeCategory", "eventTypeCode", "statusCode", "startTime", "affectedEntities",
)  # fmt: skip
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([MACHINE, TIME, "EC2", "scheduledChange"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FIELDS, "entityValue"]), inner, max_size=4),
    max_leaves=8,
)


def event(kind: str, detail: object, **changes: object) -> str:
    """Return a message as EventBridge writes it."""
    return json.dumps({"detail-type": kind, "source": "aws.ec2", "time": TIME, "detail": detail, **changes})


@given(st.text() | st.binary().map(lambda raw: raw.decode(errors="surrogateescape")))
def test_no_text_does_harm(text: str) -> None:
    """Whatever is in a queue, it says nothing or is unreadable."""
    try:
        news = read_news(text)
    except UnreadableError:
        return
    assert news is None


@given(
    kind=st.sampled_from(KINDS),
    detail=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=8) | ANYTHING,
    time=st.just(TIME) | ANYTHING,
    envelope=st.booleans(),
)
def test_no_event_does_harm(*, kind: str, detail: object, time: object, envelope: bool) -> None:
    """Fields of wrong types and absurd values are unreadable; what is read names machines, and holds no foreign text."""
    body = event(kind, detail, time=time)
    try:
        news = read_news(json.dumps({"Type": "Notification", "Message": body}) if envelope else body)
    except UnreadableError:
        return
    if news:
        assert all(len(one) <= 19 and one.startswith("i-") for one in news.machine_ids)
        assert news.ends_s is None or type(news.ends_s) is int
        assert news.why.isascii()
        assert len(news.why) < 150


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "", "null", "[]", '"i-0123456789abcdef0"', "{}"]
)
def test_what_is_no_event_is_unreadable(body: str) -> None:
    """Also where a parser would run out of stack or of digits."""
    with pytest.raises(UnreadableError):
        read_news(body)


@pytest.mark.parametrize(
    ("kind", "detail", "expected"),
    [
        (
            KINDS[0],
            {"instance-id": MACHINE, "instance-action": "terminate"},
            News(
                event="SpotInterruption",
                machine_ids=(MACHINE,),
                ends_s=AT_S + 120,
                scarce=True,
                why="EC2 takes the spot machine back",
            ),
        ),
        (
            KINDS[1],
            {"instance-id": MACHINE},
            News(
                event="RebalanceRecommendation",
                machine_ids=(MACHINE,),
                scarce=True,
                why="EC2 says that the spot machine is likely to be taken back",
            ),
        ),
        (
            KINDS[3],
            {"instance-id": MACHINE, "instance-termination-time": "2026-11-23T08:47:31Z"},
            News(
                event="ReservationInterruption",
                machine_ids=(MACHINE,),
                ends_s=AT_S + 120,
                scarce=True,
                why="EC2 takes the machine of a capacity reservation back",
            ),
        ),
        (
            KINDS[4],
            {"capacity-reservation-id": "cr-0123456789abcdef0", "end-date": "2026-11-23T11:30:00Z"},
            News(
                event="CapacityBlockEnd",
                reservation="cr-0123456789abcdef0",
                ends_s=AT_S - 31 + 900 + 7_200,
                scarce=True,
                why="capacity block cr-0123456789abcdef0 ends",
            ),
        ),
        (
            KINDS[5],
            {
                "service": "EC2",
                "eventTypeCategory": "scheduledChange",
                "eventTypeCode": "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED",
                "startTime": "Mon, 23 Nov 2026 08:45:31 GMT",
                "affectedEntities": [
                    {"entityValue": MACHINE},
                    {"entityValue": "vol-0123456789abcdef0"},
                    {"entityValue": MACHINE},
                ],
            },
            News(
                event="HealthEvent",
                machine_ids=(MACHINE,),
                ends_s=AT_S,
                why="AWS Health announces AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED",
            ),
        ),
    ],
)
def test_each_kind_says_what_goes_and_when(kind: str, detail: dict[str, Any], expected: News) -> None:
    """Raw, through a topic, and with EC2's other spelling of the kind."""
    plain = event(kind, detail)
    wrapped = json.dumps({"Type": "Notification", "Message": plain})
    underscored = plain.replace("detail-type", "detail_type")

    assert [expected] * 3 == [read_news(one) for one in (plain, wrapped, underscored)]


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("EC2 Instance State-change Notification", {"instance-id": MACHINE, "state": "terminated"}),
        ("Capacity Block Delivered", {}),
        ("EBS Volume Notification", {}),
        ("AWS Health Event", {"service": "EC2", "eventTypeCategory": "issue", "affectedEntities": [{"entityValue": MACHINE}]}),
        ("AWS Health Event", {"service": "RDS", "eventTypeCategory": "scheduledChange"}),
        (
            "AWS Health Event",
            {"service": "EC2", "eventTypeCategory": "scheduledChange", "statusCode": "closed", "affectedEntities": []},
        ),
    ],
)
def test_other_events_say_nothing(kind: str, detail: dict[str, Any]) -> None:
    """Nobody needs to do anything, or the list of machines shows it."""
    assert read_news(event(kind, detail)) is None


def test_an_interruption_without_a_time_is_one() -> None:
    """It is only not known when the machine goes."""
    news = read_news(event(KINDS[0], {"instance-id": MACHINE}, time="soon"))

    assert news is not None
    assert (news.machine_ids, news.ends_s) == ((MACHINE,), None)


def test_the_rules_of_the_docs_are_for_events_that_are_read() -> None:
    """And for each kind of warning of EC2's there is one, under each name that it has."""
    text = (Path(__file__).parents[2] / "docs" / "interruptions.md").read_text(encoding="utf-8")
    rule = re.search(r"^rule ec2 aws.ec2 '(.*?)'$", text, flags=re.DOTALL | re.MULTILINE)
    assert rule is not None
    kinds: list[str] = json.loads(f"[{rule[1]}]")

    assert {*KINDS[:2], *KINDS[3:5]} <= {*kinds}
    for kind in kinds:
        with pytest.raises(UnreadableError, match="without"):
            read_news(event(kind, {}))
