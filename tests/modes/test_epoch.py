"""The epoch on what modes launch, and that none of them changes anything for a process that does not lead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.modes.fleets import batch_of, machine_ids, offer
from tfscale.errors import NotLeadingError
from tfscale.gpus import GpuTable
from tfscale.modes.base import ModeContext
from tfscale.modes.ec2 import Ec2Mode
from tfscale.modes.guarded import guarded
from tfscale.pool import Pool
from tfscale.testing import FakeKube
from tfscale.testing.fake_ec2 import THROTTLED, SimulatedCloud

CHANGES = ("CreateFleet", "RunInstances", "TerminateInstances", "CreateTags")


class Term:
    """Who may act: asked so many times with success, then no more."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.left = 1_000

    def __call__(self) -> int:
        """Return the epoch, or raise."""
        self.left -= 1
        if self.left < 0:
            raise NotLeadingError("another one leads")
        return self.epoch


@pytest.fixture
def term() -> Term:
    """Return the seventh epoch."""
    return Term(7)


@pytest.fixture
def mode(cloud: SimulatedCloud, term: Term) -> Ec2Mode:
    """Return the EC2 mode of a process that leads."""
    pool = Pool(name="gpus", mode="ec2", options={"region": cloud.region, "launchTemplate": {"name": cloud.launch_template}})
    context = ModeContext(
        pool=pool,
        gpus=GpuTable(),
        kube=FakeKube(),
        cluster="test",
        aws=cloud.session,
        sleep=lambda _: None,
        epoch=term,
    )
    return Ec2Mode.open(context)


def changes(cloud: SimulatedCloud) -> list[int]:
    """Return how often each call that changes something arrived."""
    return [cloud.calls[name] for name in CHANGES]


def test_machines_carry_the_epoch_of_their_order(cloud: SimulatedCloud, mode: Ec2Mode, term: Term) -> None:
    """Also when the call is made again under another leader: it is sent word for word."""
    batch = batch_of(mode, [offer()])
    first = mode.launch(batch)
    term.epoch = 8
    again = mode.launch(batch)
    (instance,) = cloud.session.client("ec2").describe_instances(
        Filters=[{"Name": "tag:tfscale.io/batch", "Values": [batch.name]}]
    )["Reservations"][0]["Instances"]

    assert machine_ids(first) == machine_ids(again)
    assert {"Key": "tfscale.io/epoch", "Value": "7"} in instance["Tags"]


@pytest.mark.parametrize(
    "act",
    [
        lambda mode, batch, _: mode.launch(batch),
        lambda mode, _, machine_id: mode.terminate([machine_id]),
    ],
    ids=["launch", "terminate"],
)
def test_who_does_not_lead_changes_nothing_in_the_cloud(
    cloud: SimulatedCloud, mode: Ec2Mode, term: Term, act: Callable[[Ec2Mode, object, str], object]
) -> None:
    """It may look; nothing else arrives, and the loop is told why."""
    (launched,) = machine_ids(mode.launch(batch_of(mode, [offer()])))
    batch, before = batch_of(mode, [offer()]), changes(cloud)
    term.left = 0
    assert [launched] == [machine.id for machine in mode.observe()]
    with pytest.raises(NotLeadingError):
        act(mode, batch, str(launched))

    assert before == changes(cloud)


def test_every_try_of_a_call_is_asked_for(cloud: SimulatedCloud, mode: Ec2Mode, term: Term) -> None:
    """The lead is lost while a throttled call waits: it is not sent a second time."""
    ids = [str(one) for one in machine_ids(mode.launch(batch_of(mode, [offer()])))]
    before = cloud.calls["TerminateInstances"]
    cloud.fail_next("TerminateInstances", THROTTLED)
    term.left = 1
    with pytest.raises(NotLeadingError):
        mode.terminate(ids)

    assert (1, ids) == (cloud.calls["TerminateInstances"] - before, [machine.id for machine in mode.observe()])


def test_the_guard_around_a_mode_lets_it_through(cloud: SimulatedCloud, mode: Ec2Mode, term: Term) -> None:
    """It is no fault of the mode, and nothing whose outcome is unknown."""
    pool = Pool(name="gpus", mode="ec2", options={"region": cloud.region, "launchTemplate": {"name": cloud.launch_template}})
    context = ModeContext(pool=pool, gpus=GpuTable(), kube=FakeKube(), cluster="test", aws=cloud.session, epoch=term)
    careful = guarded(Ec2Mode).open(context)
    batch = replace(batch_of(mode, [offer()]), epoch=7)
    term.left = 0
    with pytest.raises(NotLeadingError):
        careful.launch(batch)
