"""A pool whose mode is edited at any moment of its life: nothing is adopted, nothing is disturbed, nothing leaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import recount
from tests.test_reconcile import FACTOR, restarted
from tests.test_three_modes import PODS_OF_EACH, nothing_is_left, one_pool
from tfscale.account import Account
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_CLAIMS, NODE_REQUESTS, PODS, Json, Kube
from tfscale.reconcile import Report, run
from tfscale.scenario import Scenario
from tfscale.simulate import World, open_world

POOL = "claimed"
OFFERS = {"instanceTypes": ["g4dn.xlarge", "g6.xlarge", "g6.12xlarge"], "zones": ["us-east-1a", "us-east-1b"]}
NODE_CLASS = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
SPECS: dict[str, Json] = {
    "ec2": {"options": {"region": "us-east-1", "launchTemplate": {"name": "tfscale-node"}}, "offers": OFFERS},
    "managed-nodeclaim": {"options": {"nodeClassRef": NODE_CLASS}, "offers": OFFERS},
    "reuse-nodeclaim": {"options": {"nodePools": ["gpu"]}, "offers": OFFERS},
    "static": {},
}
"""What a pool says beside each mode."""
OTHERS = ("options", "offers")
CALLS = 400
"""About as many calls to the API server as a run makes."""


class EditedKube:
    """A cluster in which somebody edits the pool right before some of the calls of a process, by their number."""

    def __init__(self, kube: Kube, edits: Mapping[int, str]) -> None:
        self._kube = kube
        self._edits = dict(edits)
        self.calls = 0

    def settle(self) -> None:
        """Nobody edits it any more."""
        self._edits.clear()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any verb
        verb: Callable[..., Any] = getattr(self._kube, name)

        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - as the verb
            self.calls += 1
            if mode := self._edits.get(self.calls):
                move(self._kube, mode)
            return verb(*args, **options)

        return call


def move(kube: Kube, mode: str) -> None:
    """Edit the pool: another mode, and all that it needs."""
    before = kube.get(GPU_POOLS, POOL)["spec"]
    kube.patch(GPU_POOLS, POOL, {"spec": {"mode": mode, **{key: _edit(before, SPECS[mode], key) for key in OTHERS}}})


def _edit(before: Json, after: Json, key: str) -> Json | None:
    """Return the merge patch that leaves nothing of what was there."""
    return None if key not in after else dict.fromkeys(before.get(key, {})) | after[key]


def moved(world: World, edits: Mapping[int, str]) -> EditedKube:
    """Let somebody edit the pool between calls of the process that works in this world."""
    healthy, kube = world.reconciler, EditedKube(world.kube, edits)
    edited: Any = kube
    world.reconciler = restarted(healthy, edited)
    world.reconciler.open_with = lambda pool: replace(healthy.open_with(pool), kube=edited)
    return kube


def end(world: World, *checks: Callable[[Report], None]) -> None:
    """Run until nothing is left to do."""
    account = Account()

    def on_report(report: Report) -> None:
        account.add(report).clear()
        assert account.ticks < 2_000
        for check in checks:
            check(report)

    run(world.reconciler, world, until_idle=True, on_report=on_report)


def each_is_its_own(world: World) -> None:
    """Assert that no machine is in two records, that each is in one of its own mode, and that no card is over-committed."""
    records = world.kube.list(NODE_REQUESTS).items
    named = {record["status"]["machineId"]: record for record in records if record.get("status", {}).get("machineId")}
    modes = {claim["metadata"]["name"]: claim["metadata"]["annotations"]["tfscale.io/mode"] for claim in claims(world)}
    batches = {batch["metadata"]["name"]: batch["spec"] for batch in world.kube.list(LAUNCH_BATCHES).items}

    assert len(named) == sum(bool(record.get("status", {}).get("machineId")) for record in records)
    for machine, record in named.items():
        mode = record["spec"]["mode"]
        assert mode == ("ec2" if machine.startswith("i-") else modes.get(machine, mode))
        assert mode == batches.get(record["spec"].get("batch", ""), {"mode": mode})["mode"]
    for batch in batches.values():
        assert ("claims" in batch["parameters"]) == batch["mode"].endswith("nodeclaim")
    assert [] == recount.over_committed(world.kube)


def claims(world: World) -> Sequence[Json]:
    """Return the claims that carry our mode."""
    return [one for one in world.kube.list(NODE_CLAIMS).items if "tfscale.io/mode" in one["metadata"].get("annotations", {})]


def owners(world: World) -> set[str]:
    """Return the modes that the records name."""
    return {record["spec"]["mode"] for record in world.kube.list(NODE_REQUESTS).items}


def settle(world: World, last: str) -> None:
    """Move the pool back to each mode that still has something, so that it gives it back; end in one that can buy."""
    for mode in (*sorted(owners(world)), "ec2" if last == "static" else last):
        move(world.kube, mode)
        end(world, lambda _: each_is_its_own(world))


def disturbed(world: World) -> list[str]:
    """Return the pods that were lost and made again."""
    return [pod["metadata"]["name"] for pod in world.kube.list(PODS).items if "." in pod["metadata"]["name"]]


MODES = st.sampled_from(sorted(SPECS))
EDITS = st.dictionaries(st.integers(1, CALLS), MODES, min_size=1, max_size=3)


@settings(max_examples=24 * FACTOR)
@given(MODES, EDITS)
def test_at_whatever_moment_the_mode_is_edited_nothing_is_adopted_disturbed_or_lost(first: str, edits: dict[int, str]) -> None:
    """Between any two calls, also twice and back: when it was moved back to whoever bought, all ran and all is given back."""
    with open_world(scenario_of(first)) as world:
        kube = moved(world, edits)
        end(world, lambda _: each_is_its_own(world))
        kube.settle()
        settle(world, [first, *(edits[at] for at in sorted(edits))][-1])
        pods = world.kube.list(PODS).items

        assert (PODS_OF_EACH, {"Succeeded"}) == (len(pods), {pod["status"]["phase"] for pod in pods})
        assert [] == disturbed(world)
        assert nothing_is_left(world)
        assert {"noderequests": 0, "launchbatches": 0} == recount.records(world.kube)


BUYERS = [mode for mode in SPECS if mode != "static"]


@pytest.mark.parametrize(("first", "second"), [(first, second) for first in BUYERS for second in SPECS if first != second])
def test_a_pool_that_was_moved_keeps_what_it_bought_and_says_until_when(first: str, second: str) -> None:
    """Its pods run to their end, its nodes stay listed, and its condition names the mode that can give them back."""
    with open_world(scenario_of(first)) as world:
        ran: dict[str, str] = {}

        def edit_when_a_pod_runs(_: Report) -> None:
            if not ran and (places := running(world)):
                ran.update(places)
                move(world.kube, second)
            each_is_its_own(world)

        end(world, edit_when_a_pod_runs)
        pods = {pod["metadata"]["name"]: pod for pod in world.kube.list(PODS).items}
        status = world.kube.get(GPU_POOLS, POOL)["status"]
        (ready,) = status["conditions"]

        assert ran
        assert ran == {name: pods[name]["spec"]["nodeName"] for name in ran if pods[name]["status"]["phase"] == "Succeeded"}
        assert ({first}, len(world.kube.list(NODE_REQUESTS).items)) == (owners(world), status["bought"])
        assert ("False", "BadMode") == (ready["status"], ready["reason"])
        assert f"spec.mode is '{second}'; want {first} until" in ready["message"]


def running(world: World) -> dict[str, str]:
    """Return the nodes of the pods that run, by pod."""
    pods = [pod for pod in world.kube.list(PODS).items if pod["status"]["phase"] == "Running"]
    return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in pods}


def test_a_pool_that_has_bought_nothing_is_moved_and_buys_by_its_new_mode() -> None:
    """As soon as its pods can have a node; nothing has to be moved back."""
    for mode in BUYERS:
        with open_world(scenario_of("static")) as world:
            end(world)
            move(world.kube, mode)
            end(world)

            assert {"Succeeded"} == {pod["status"]["phase"] for pod in world.kube.list(PODS).items}
            assert nothing_is_left(world)


def scenario_of(mode: str) -> Scenario:
    """Return the example with one pool, which begins in a mode."""
    whole = one_pool(POOL)
    for kind, obj in whole.objects:
        if kind == GPU_POOLS:
            obj["spec"] = {"mode": mode, "idleAfter": "5m", **SPECS[mode]}
    return whole
