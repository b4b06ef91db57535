"""The schedules: what may happen in one, as a state machine of hypothesis."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.fuzz.objects import POOL, TYPES, ZONES, Cloud
from tests.fuzz.process import find_ec2
from tests.fuzz.traps import TRAPS, trap
from tests.fuzz.world import FuzzWorld, Tally
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_REQUESTS, NODES, Kind
from tfscale.reconcile import FindMode
from tfscale.testing.fake_ec2 import LOST_REPLY, SERVER_ERROR, THROTTLED, UNREACHABLE

__all__ = ["FAULTS", "LaunchSchedule", "Schedule"]

WRITE = st.integers(1, 7) | st.integers(1, 14)
"""Which write of a round: a purchase of two nodes makes seven, so most rounds that write make no more."""
RESYNC_S = 60
FAULTS = {"throttled": THROTTLED, "server errors": SERVER_ERROR, "unreachable": UNREACHABLE, "lost replies": LOST_REPLY}
OPERATIONS = (
    "CreateFleet",
    "CreateFleet",
    "TerminateInstances",
    "DescribeInstances",
    "DescribeFleets",
    "DescribeLaunchTemplates",
    "ReceiveMessage",
    "DeleteMessageBatch",
)
PLACES = st.tuples(st.sampled_from([kind.name for kind in TYPES]), st.sampled_from(ZONES), st.sampled_from(["spot", "on-demand"]))


class Schedule(RuleBasedStateMachine):
    """One schedule, in whatever mode. `open_cloud` gives an empty cloud and what closes it again."""

    open_cloud: Callable[[], tuple[Cloud, Callable[[], None]]]
    tally: Tally
    find_mode: FindMode = staticmethod(find_ec2)

    def __init__(self) -> None:
        super().__init__()
        cloud, self._close = type(self).open_cloud()
        self.world = self.open_world(cloud)

    def open_world(self, cloud: Cloud) -> FuzzWorld:
        """Return the world of this mode."""
        return FuzzWorld(cloud, self.tally, type(self).find_mode)

    @initialize(shapes=st.lists(st.integers(0, 3), min_size=1, max_size=4))
    def begin(self, shapes: list[int]) -> None:
        """Let some pods wait."""
        for shape in shapes:
            self.world.add_pod(shape)

    # --- what goes well ---

    @rule()
    def round(self) -> None:
        """One round."""
        self.world.round()

    @rule(count=st.integers(2, 4))
    def some_rounds(self, count: int) -> None:
        """As many as follow on each other when nothing happens meanwhile."""
        for _ in range(count):
            self.world.round()
            self.world.pass_time(10)

    @rule(shape=st.integers(0, 3))
    def pod_comes(self, shape: int) -> None:
        """One more pod."""
        self.world.add_pod(shape)

    @rule(number=st.integers(0, 9))
    def pod_ends(self, number: int) -> None:
        """One pod less."""
        self.world.end_pod(number)

    @rule(seconds=st.sampled_from([1, 5, 20, 60, 60, 200, 1_000]))
    def time_passes(self, seconds: int) -> None:
        """Machines boot and end, nodes join, timeouts come; a gap does not last for long."""
        if seconds >= RESYNC_S:
            self.world.process.view.thaw()
        self.world.pass_time(seconds)

    # --- processes ---

    @rule(at=WRITE, what=st.sampled_from([*sorted(TRAPS), "loses the answer", "is refused", "is refused"]))
    def write_goes_wrong(self, at: int, what: str) -> None:
        """Something befalls one write of this round, or of a later one."""
        self.world.round(at=at, trap=trap(self.world, what))

    @rule()
    def late_write_arrives(self) -> None:
        """A write arrives whose process is dead."""
        self.world.deliver()

    @rule()
    def another_leads(self) -> None:
        """The lead changes between two rounds."""
        self.world.lead_anew()

    # --- Kubernetes ---

    @rule()
    def watch_gap(self) -> None:
        """From now on no event arrives."""
        self.world.count("watch gaps")
        self.world.process.view.freeze()

    @rule()
    def watch_resumes(self) -> None:
        """Events arrive again."""
        self.world.process.view.thaw()

    @rule()
    def api_server_away(self) -> None:
        """The next lists fail."""
        self.world.count("API server away")
        self.world.process.view.unreachable = 2

    @rule(kind=st.sampled_from([NODE_REQUESTS, LAUNCH_BATCHES]), number=st.integers(0, 9))
    def record_deleted(self, kind: Kind, number: int) -> None:
        """Somebody deletes a record."""
        self.world.delete_by_hand(kind, number)

    @rule(number=st.integers(0, 9))
    def node_deleted(self, number: int) -> None:
        """Somebody deletes a node."""
        self.world.delete_by_hand(NODES, number)

    @rule(seconds=st.sampled_from([-3_600, -90, 90, 3_600]))
    def clock_steps(self, seconds: int) -> None:
        """The clock of the process is put forward or back."""
        self.world.count("clock steps")
        self.world.skew_s = seconds

    # --- the cloud ---

    @rule(limits=st.dictionaries(PLACES, st.integers(0, 1), max_size=8))
    def capacity_changes(self, limits: dict[tuple[str, str, str], int]) -> None:
        """Some offers have no capacity, or hardly any."""
        self.world.count("capacity changes")
        self.world.cloud.set_capacity(limits)

    @rule(capacity_type=st.sampled_from(["spot", "on-demand"]), vcpus=st.sampled_from([None, 0, 8]))
    def quota_changes(self, capacity_type: str, vcpus: int | None) -> None:
        """The account may have fewer machines, or as many as it likes."""
        self.world.count("quota changes")
        self.world.cloud.set_quota(capacity_type, vcpus)

    @rule(number=st.integers(0, 9))
    def machine_is_taken_away(self, number: int) -> None:
        """A machine is interrupted, or terminated by hand."""
        if live := self.world.live():
            self.world.count("interruptions")
            self.world.cloud.take_away([live[number % len(live)].id])

    @invariant()
    def holds(self) -> None:
        """Check what must hold at every moment."""
        self.tally.steps += 1
        self.world.check()

    def teardown(self) -> None:
        """Let calm come, and see that all is well in the end."""
        try:
            self.world.end_trouble()
            self.world.calm()
            self.tally.schedules += 1
        finally:
            self._close()


class LaunchSchedule(Schedule):
    """One schedule in which machines are bought from EC2 directly."""

    @rule(what=st.sampled_from(sorted(TRAPS)))
    def call_goes_wrong(self, what: str) -> None:
        """Something befalls the next call that launches."""
        self.world.round(at="create_fleet", trap=trap(self.world, what))

    @rule(change=st.sampled_from([
        {"offers": {"instanceTypes": ["toy.t4", "toy.a10g"]}},
        {"offers": {"instanceTypes": [kind.name for kind in TYPES]}},
        {"options": {"prices": {"toy.t4": "9.99"}}},
        {"options": {"prices": None}},
        {"idleAfter": "30s"},
        {"registerWithin": "2m"},
        {"registerWithin": "15m"},
    ]))  # fmt: skip
    def pool_changes(self, change: dict[str, object]) -> None:
        """Somebody edits the pool."""
        self.world.count("pool changes")
        self.world.kube.patch(GPU_POOLS, POOL, {"spec": change})

    @rule(operation=st.sampled_from(OPERATIONS), fault=st.sampled_from(sorted(FAULTS)), times=st.integers(1, 2))
    def call_fails(self, operation: str, fault: str, times: int) -> None:
        """The next calls of an operation fail; it counts when they do."""
        self.world.fail_next(operation, fault, FAULTS[fault], times)

    @rule(seconds=st.sampled_from([0, 10, 60]))
    def listing_lags(self, seconds: int) -> None:
        """New machines are listed later."""
        self.world.count("describe lags")
        self.world.cloud.set_describe_lag(seconds)

    @rule(on=st.booleans())
    def replays_are_short(self, on: bool) -> None:  # noqa: FBT001 - a parameter of the rule
        """A repeated call is answered with the id of its fleet alone."""
        self.world.count("short replays")
        self.world.cloud.answer_replays_with_id_only(on=on)

    @rule(kind=st.sampled_from(["interruption", "interruption", "rebalance", "retirement", "nonsense"]), number=st.integers(0, 9))
    def cloud_warns(self, kind: str, number: int) -> None:
        """A machine is to go, or may go; the same may be said twice."""
        if live := self.world.live():
            self.world.warn(kind, live[number % len(live)].id)
