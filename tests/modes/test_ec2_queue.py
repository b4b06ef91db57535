"""The interruption queue of a pool: what is said, until it is acknowledged."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.modes.fleets import A, batch_of, machine_ids, mode_of, offer
from tfscale.errors import BadInputError
from tfscale.model import Notice
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.ec2_queue import ASK_AGAIN_S, VISIBLE_AGAIN_S
from tfscale.testing.fake_ec2 import (
    ACCESS_DENIED,
    LOST_REPLY,
    SERVER_ERROR,
    UNREACHABLE,
    Fault,
    MemoryCloud,
    Region,
    SimulatedCloud,
    SimulatedReservation,
    SimulatedType,
)

RESERVED = "cr-0123456789abcdef0"


@pytest.fixture(name="memory")
def memory_cloud() -> MemoryCloud:
    """Return a cloud in memory, with a reservation and with a queue that hears everything."""
    reservation = SimulatedReservation(id=RESERVED, instance_type="g6.xlarge", zone=A, count=3)
    cloud = MemoryCloud(instance_types=(SimulatedType(name="g6.xlarge"),), reservations=(reservation,))
    cloud.events.send_to(queue(cloud))
    return cloud


def queue(cloud: Region, name: str = "news") -> str:
    """Make a queue and return its URL."""
    sqs: Any = cloud.session.client("sqs")
    return str(sqs.create_queue(QueueName=name)["QueueUrl"])


def left_in(cloud: Region, name: str = "news") -> int:
    """Return how many messages are in a queue, hidden ones included."""
    sqs: Any = cloud.session.client("sqs")
    found = sqs.get_queue_attributes(QueueUrl=queue(cloud, name), AttributeNames=["All"])["Attributes"]
    return int(found["ApproximateNumberOfMessages"]) + int(found["ApproximateNumberOfMessagesNotVisible"])


def spot_machines(mode: Ec2Mode, count: int) -> list[str]:
    """Launch spot machines and return their ids."""
    results = mode.launch(batch_of(mode, [offer(capacity_type="spot")], count))
    return [one for one in machine_ids(results) if one]


def said(notices: list[Notice] | tuple[Notice, ...]) -> list[tuple[str, str, int | None]]:
    """Return what notices are about."""
    return sorted((notice.machine_id, notice.event, notice.ends_s) for notice in notices)


def test_a_warning_is_said_until_it_is_acknowledged_and_then_deleted(cloud: SimulatedCloud) -> None:
    """On moto's own SQS, and the machine really goes when its time is over."""
    url = queue(cloud)
    cloud.events.send_to(url)
    mode = mode_of(cloud, interruptionQueue=url)
    one, other = spot_machines(mode, 2)
    now_s = cloud.now_s
    cloud.events.interrupt(one)
    cloud.events.recommend_rebalance(other)

    notices = list(mode.notices())
    assert said(notices) == sorted([(one, "SpotInterruption", now_s + 120), (other, "RebalanceRecommendation", None)])
    assert list(mode.notices()) == notices
    mode.acknowledge(notices)
    assert list(mode.notices()) == []
    assert left_in(cloud) == 0
    cloud.advance(now_s + 120)
    assert {one: "shutting-down", other: "running"} == {
        machine.id: machine.state for machine in cloud.machines if machine.id in (one, other)
    }


def test_a_pool_without_a_queue_hears_nothing(memory: MemoryCloud) -> None:
    """And asks nobody."""
    mode = mode_of(memory)
    before = memory.calls

    assert list(mode.notices()) == []
    mode.acknowledge([])
    assert before == memory.calls


def test_duplicates_are_one_notice(memory: MemoryCloud) -> None:
    """Several messages about one machine and one event are acknowledged together."""
    mode = mode_of(memory, interruptionQueue="news")
    for _ in range(25):
        memory.events.interrupt("i-0123456789abcdef0")
    notices = list(mode.notices())
    mode.acknowledge(notices)

    assert said(notices) == [("i-0123456789abcdef0", "SpotInterruption", 120)]
    assert left_in(memory) == 0


def test_a_message_about_many_machines_stays_until_all_are_acknowledged(memory: MemoryCloud) -> None:
    """A crash in between loses none of them."""
    mode = mode_of(memory, interruptionQueue="news")
    machines = [f"i-{number:017x}" for number in range(30)]
    memory.events.retire(machines, start_s=5_000)
    notices = list(mode.notices())
    mode.acknowledge(notices[:-1])
    kept = left_in(memory)
    mode.acknowledge(notices)

    assert said(notices) == [(machine, "HealthEvent", 5_000) for machine in machines]
    assert (kept, left_in(memory)) == (1, 0)


def test_what_a_crashed_process_heard_is_heard_by_the_next(memory: MemoryCloud) -> None:
    """After the time for which a message is hidden."""
    memory.events.interrupt("i-0123456789abcdef0", in_s=300)
    first = list(mode_of(memory, interruptionQueue="news").notices())
    restarted = mode_of(memory, interruptionQueue="news")
    hidden = list(restarted.notices())
    memory.advance(VISIBLE_AGAIN_S)

    assert hidden == []
    assert said(first) == said(list(restarted.notices())) != []


def test_the_end_of_a_block_is_said_of_every_machine_in_it(memory: MemoryCloud) -> None:
    """Those of other pools of the cluster too, but of no other cluster."""
    options: dict[str, Any] = {"interruptionQueue": "news", "reservations": [{"id": RESERVED}]}
    modes = [mode_of(memory, **options), mode_of(memory, pool="other", **options), mode_of(memory, cluster="foreign", **options)]
    place = replace(offer(capacity_type="reserved"), reservation=RESERVED, count_max=1)
    made = [machine_ids(mode.launch(batch_of(mode, [place])))[0] for mode in modes]
    memory.events.end_block(RESERVED, end_s=4_000)

    assert said(list(modes[0].notices())) == sorted((str(one), "CapacityBlockEnd", 2_200) for one in made[:2])


def test_what_makes_no_sense_is_counted_told_once_and_deleted(memory: MemoryCloud, caplog: pytest.LogCaptureFixture) -> None:
    """The other messages are heard all the same."""
    mode = mode_of(memory, interruptionQueue="news")
    sqs: Any = memory.session.client("sqs")
    for body in ("?", "??", '{"source": "aws.ec2"}', "[" * 10_000, '{"detail-type": "EBS Volume Notification", "source": "x"}'):
        sqs.send_message(QueueUrl=queue(memory), MessageBody=body)
    memory.events.change_state("i-0123456789abcdef0", "terminated")
    memory.events.interrupt("i-0123456789abcdef0")
    notices = list(mode.notices())
    mode.acknowledge(notices)

    assert said(notices) == [("i-0123456789abcdef0", "SpotInterruption", 120)]
    assert left_in(memory) == 0
    assert dict(mode.unreadable) == {"no JSON": 3, "no event of EventBridge": 1}
    assert len(caplog.records) == 2


@pytest.mark.parametrize("fault", [ACCESS_DENIED, UNREACHABLE, SERVER_ERROR])
def test_a_silent_queue_costs_the_pool_nothing_else(memory: MemoryCloud, caplog: pytest.LogCaptureFixture, fault: Fault) -> None:
    """It is told once, asked about once a minute, and heard again when it answers."""
    mode = mode_of(memory, interruptionQueue="news")
    memory.events.interrupt("i-0123456789abcdef0", in_s=10_000)
    memory.fail_next("ReceiveMessage", fault, times=10_000)
    for _ in range(100):
        memory.advance(memory.now_s + 10)
        assert list(mode.notices()) == []
    asked = memory.calls["ReceiveMessage"]
    memory.forget_faults()
    memory.advance(memory.now_s + ASK_AGAIN_S)

    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert asked <= (1_000 // ASK_AGAIN_S + 1) * 8
    assert [notice.event for notice in mode.notices()] == ["SpotInterruption"]


def test_a_queue_that_is_not_there_is_told_once(memory: MemoryCloud, caplog: pytest.LogCaptureFixture) -> None:
    """In the cloud's own words."""
    mode = mode_of(memory, interruptionQueue="nowhere")
    for _ in range(20):
        memory.advance(memory.now_s + 10)
        assert list(mode.notices()) == []

    assert ["queue nowhere: GetQueueUrl: AWS.SimpleQueueService.NonExistentQueue: The specified queue does not exist."] == [
        record.getMessage() for record in caplog.records
    ]


def test_a_flood_is_read_in_parts(memory: MemoryCloud) -> None:
    """A round takes some hundred messages, and the next one goes on."""
    mode = mode_of(memory, interruptionQueue="news")
    for number in range(700):
        memory.events.recommend_rebalance(f"i-{number:017x}")
    heard = set()
    for _ in range(4):
        notices = list(mode.notices())
        assert len(notices) <= 300
        heard |= {notice.machine_id for notice in notices}
        mode.acknowledge(notices)

    assert len(heard) == 700
    assert left_in(memory) == 0


STEPS = st.sampled_from(["say", "repeat", "hear", "acknowledge", "some", "crash", "wait", "fault"])


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25), st.randoms(use_true_random=False))
def test_nothing_is_lost_and_nothing_stays(steps: list[str], random: Any) -> None:  # noqa: ANN401 - hypothesis' random
    """Through any faults and crashes, each warning is acknowledged after it was heard, and calm empties the queue."""
    cloud = MemoryCloud(instance_types=(SimulatedType(name="g6.xlarge"),))
    cloud.events.send_to(queue(cloud))
    mode = mode_of(cloud, interruptionQueue="news")
    warned, acknowledged = set[str](), set[str]()
    for step in steps:
        match step:
            case "say" | "repeat":
                machine = f"i-{len(warned) if step == 'say' else 0:017x}"
                warned.add(machine)
                cloud.events.recommend_rebalance(machine)
            case "hear":
                mode.notices()
            case "acknowledge" | "some":
                notices = [one for one in mode.notices() if step != "some" or random.random() < 0.5]
                acknowledged |= {one.machine_id for one in notices}
                mode.acknowledge(notices)
            case "crash":
                mode = mode_of(cloud, interruptionQueue="news")
            case "wait":
                cloud.advance(cloud.now_s + random.choice([1, 30, 61]))
            case _:
                operation = random.choice(["ReceiveMessage", "DeleteMessageBatch", "GetQueueUrl"])
                cloud.fail_next(operation, random.choice([LOST_REPLY, SERVER_ERROR, ACCESS_DENIED]))
    cloud.forget_faults()
    for _ in range(4):
        cloud.advance(cloud.now_s + VISIBLE_AGAIN_S)
        notices = list(mode.notices())
        acknowledged |= {one.machine_id for one in notices}
        mode.acknowledge(notices)

    assert warned == acknowledged
    assert left_in(cloud) == 0


@pytest.mark.parametrize(
    "name", ["", "a queue", "https://example.com/queue", "http://sqs.us-east-1.amazonaws.com/123456789012/q"]
)
def test_a_name_that_is_none_is_refused(memory: MemoryCloud, name: str) -> None:
    """Before anything is called."""
    with pytest.raises(BadInputError, match="want the name or URL of a queue"):
        mode_of(memory, interruptionQueue=name)
