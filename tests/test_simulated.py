"""``tfscale simulate``: the same result every time, costs that a recount confirms, faults at their times."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import recount
from tests.test_reconcile import FACTOR
from tfscale.cli import Exit, main
from tfscale.kube.port import GPU_POOLS, NODE_REQUESTS, PODS, Json
from tfscale.model import Cluster
from tfscale.plan import Plan
from tfscale.quantity import micro_usd
from tfscale.reconcile import Report
from tfscale.scenario import Arrivals, Fault, MachinesStop, Restart, Scenario, read_scenario
from tfscale.simulate import FAULTS, Ways, World, open_world
from tfscale.simulated import Simulated, simulated
from tfscale.timeline import PoolState, Timeline

POD = {
    "metadata": {"annotations": {"tfscale.io/vram-request": "6Gi", "tfscale.io/compute-percent-request": "40"}},
    "spec": {
        "schedulerName": "tfscale",
        "containers": [{"name": "main", "image": "example/main", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}],
    },
}
TYPES = [
    {"name": "g4dn.xlarge", "gpuModel": "T4", "cpu": 4, "memory": "16Gi", "usdPerHour": 0.526},
    {"name": "g6.xlarge", "gpuModel": "L4", "cpu": 4, "memory": "16Gi", "usdPerHour": 0.8048},
]
POOL = {
    "apiVersion": "tfscale.io/v1alpha1",
    "kind": "GPUPool",
    "metadata": {"name": "inference"},
    "spec": {
        "mode": "ec2",
        "options": {"region": "us-east-1", "launchTemplate": {"name": "tfscale"}},
        "offers": {"instanceTypes": ["g4dn.xlarge", "g6.xlarge"]},
        "idleAfter": "3m",
    },
}
LOAD = {"name": "chat", "replicas": 20, "arrivals": {"over": "2h", "pattern": "random"}, "runFor": "20m", "template": POD}


def text(**spec: Any) -> str:  # noqa: ANN401 - JSON
    """Return a scenario file: one cloud, one pool, twenty pods in two hours."""
    given_spec = {"cloud": {"zones": ["us-east-1a", "us-east-1b"], "instanceTypes": TYPES}, "workloads": [LOAD], **spec}
    document = {"apiVersion": "sim.tfscale.io/v1alpha1", "kind": "Scenario", "spec": given_spec}
    return f"{json.dumps(document)}\n---\n{json.dumps(POOL)}\n"


def scenario(**spec: Any) -> Scenario:  # noqa: ANN401 - JSON
    """Return the scenario of such a file."""
    return read_scenario(text(**spec), name="s.yaml")


def shown(world: World) -> Simulated:
    """Run a world to its end."""
    return simulated(world, on_report=lambda _: None, stopped=lambda: False)


def run(given_scenario: Scenario) -> Json:
    """Return the JSON result of a simulation."""
    with open_world(given_scenario, Ways(keep_ended=False)) as world:
        return shown(world).as_json()


def outputs(path: Path, *flags: str) -> list[bytes]:
    """Return what two processes print, whose sets and dictionaries are ordered differently."""
    command = [sys.executable, "-m", "tfscale", "simulate", str(path), *flags]
    return [
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout  # noqa: S603
        for seed in ("1", "2")
    ]


@pytest.mark.parametrize("flags", [(), ("-o", "json")], ids=["text", "json"])
def test_the_same_file_and_seed_give_the_same_output_byte_for_byte(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Nothing of the process, of its hashes or of the wall clock gets into the result."""
    path = tmp_path / "s.yaml"
    path.write_text(text(faults=[{"at": "1h", "machinesStop": 1}, {"at": "90m", "restart": True}]), encoding="utf-8")
    first, second = outputs(path, *flags)

    assert first == second


def test_another_seed_gives_another_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The flag wins over the file."""
    path = tmp_path / "s.yaml"
    path.write_text(text(seed=1), encoding="utf-8")
    results = []
    for flags in ([], ["--seed", "1"], ["--seed", "2"]):
        assert Exit.DONE == main(["simulate", str(path), "-o", "json", *flags])
        results.append(json.loads(capsys.readouterr().out))

    assert results[0] == results[1]
    assert results[0]["timeline"] != results[2]["timeline"]


def paid_micro_usd(world: World, end_s: int) -> int:
    """Return what all machines cost, from the cloud's own book: by the second, from launch until they are gone."""
    total = 0
    for machine in world.cloud.machines:
        gone_s = end_s if machine.state != "terminated" or machine.terminate_asked_s is None else machine.terminate_asked_s + 30
        total += (gone_s - machine.launched_s) * {"g4dn.xlarge": 526_000, "g6.xlarge": 804_800}[machine.instance_type]
    return -(-total // 3_600)


@settings(max_examples=6 * FACTOR)
@given(st.integers(0, 10**6), st.sampled_from(["even", "random", "diurnal"]), st.sampled_from([None, "40m", "100m"]))
def test_totals_equal_a_recount_from_the_cloud_and_the_cluster(seed: int, pattern: str, duration: str | None) -> None:
    """Costs from the cloud's own book; machines and pods from moto and the raw objects."""
    load = LOAD | {"arrivals": {"over": "2h", "pattern": pattern}}
    given_scenario = scenario(seed=seed, workloads=[load], **({"duration": duration} if duration else {}))
    with open_world(given_scenario) as world:
        result = shown(world)
        pool = result.as_json()["pools"]["inference"]
        counted = recount.pools(world.kube)["inference"]

        assert paid_micro_usd(world, result.end_s) == micro_usd(pool["cost_usd"])
        assert {key: counted[key] for key in ("launched", "bound", "terminated", "machines_left")} == {
            key: pool[key] for key in ("launched", "bound", "terminated", "machines_left")
        }


def test_a_simulation_ends_at_its_duration() -> None:
    """What still runs then is left."""
    result = run(scenario(duration="30m", workloads=[LOAD | {"arrivals": None, "runFor": "2h"}]))

    assert ("2026-01-01T00:30:00Z", 1_800) == (result["end"], result["timeline"][-1]["after_s"])
    assert 20 == result["pools"]["inference"]["bound"]
    assert result["pools"]["inference"]["machines_left"] > 0


def fails(operation: str, how: str, times: int, at: str = "0s") -> list[Json]:
    """Return the faults of a scenario in which one operation fails."""
    return [{"at": at, "callsFail": {"operation": operation, "fault": how, "times": times}}]


def test_an_outage_does_not_end_a_day_early() -> None:
    """The cloud answers no call for many rounds; later everything is made good, until the time is up."""
    result = run(scenario(duration="4h", faults=fails("CreateFleet", "unreachable", 60)))

    assert ("2026-01-01T04:00:00Z", 20, []) == (result["end"], result["pools"]["inference"]["bound"], result["failed"])


def test_without_a_duration_calls_that_keep_failing_end_the_run_and_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits for ever, and nobody has to guess what was wrong."""
    path = tmp_path / "s.yaml"
    path.write_text(text(faults=fails("CreateFleet", "unreachable", 10**6)), encoding="utf-8")

    assert Exit.PARTIAL == main(["simulate", str(path), "-o", "json"])
    (failed, *_) = json.loads(capsys.readouterr().out)["failed"]
    assert Exit.PARTIAL == main(["simulate", str(path)])
    assert failed in capsys.readouterr().out.splitlines()
    assert failed.startswith("failed  ")


def test_machines_are_paid_for_while_the_cloud_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    """They are not seen for some rounds, and cost what they cost."""
    outage = fails("DescribeInstances", "throttled", 60, at="10m")
    load = LOAD | {"arrivals": None, "runFor": "2h"}
    with open_world(scenario(duration="1h", faults=outage, workloads=[load])) as world:
        result = shown(world)
        states = [moment["pools"]["inference"] for moment in result.as_json()["timeline"] if 600 <= moment["after_s"] < 1_200]

        assert paid_micro_usd(world, result.end_s) == micro_usd(result.as_json()["pools"]["inference"]["cost_usd"])
        assert {len(world.cloud.machines)} == {state["machines"] for state in states}
        assert "RequestLimitExceeded" in caplog.text


def test_a_cost_that_lacks_machines_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A price that nobody knows is not zero."""
    path = tmp_path / "s.yaml"
    types = [{key: value for key, value in one.items() if key != "usdPerHour"} for one in TYPES]
    cloud = {"zones": ["us-east-1a"], "instanceTypes": types}
    path.write_text(text(cloud=cloud, workloads=[LOAD | {"arrivals": None, "replicas": 2}]), encoding="utf-8")

    assert Exit.DONE == main(["simulate", str(path)])
    assert "  the cost lacks machines whose price is not known, up to 1 at once" in capsys.readouterr().out.splitlines()


@given(st.integers(1, 20 * 365 * 86_400), st.sampled_from([2, 25, 300]))
def test_a_timeline_never_has_more_moments_than_asked_for(length_s: int, most: int) -> None:
    """Be it of seconds or of years; they are at equal distances from the start on."""
    timeline = Timeline(start_s=0, prices={})
    timeline.add(Report(cluster=Cluster(now_s=0), plan=Plan(), outcomes=(), problems=(), unreachable=()))
    times_s = [time_s for time_s, _ in timeline.samples(length_s, most=most)]

    assert 0 == times_s[0]
    assert len({after - before for before, after in itertools.pairwise(times_s)}) < 2
    assert 1 <= len(times_s) <= most


def test_the_timeline_shows_every_moment_as_it_was() -> None:
    """Before the first node, while pods run, and after the last: few enough rows for a screen."""
    result = run(scenario(workloads=[LOAD | {"arrivals": None, "replicas": 2}]))
    moments = {moment["after_s"]: moment["pools"]["inference"] for moment in result["timeline"]}

    assert {"waiting": 2, "nodes": 0, "headroom_pct": None}.items() <= moments[0].items()
    assert {"nodes": 1, "pods": 2, "compute_pct": 80.0, "usd_per_hour": "0.526", "headroom_pct": 20.0}.items() <= moments[
        600
    ].items()
    assert len(moments) <= 300


def test_headroom_is_what_is_free_of_the_scarcer_of_compute_and_memory() -> None:
    """A card whose VRAM is taken has no room, however idle it computes."""
    state = PoolState(compute_milli=1_000, compute_held_milli=200, vram_mib=16_000, vram_held_mib=12_000)

    assert (20.0, 75.0, 25.0) == (state.compute_pct, state.vram_pct, state.headroom_pct)


FAULT_LISTS = st.lists(
    st.one_of(
        st.builds(lambda at, n: {"at": f"{at}m", "machinesStop": n}, st.integers(0, 180), st.integers(1, 3)),
        st.builds(lambda at: {"at": f"{at}m", "restart": True}, st.integers(0, 180)),
        st.builds(
            lambda at, zone, n: {"at": f"{at}m", "capacity": {"instanceType": "g4dn.xlarge", "zone": zone, "machines": n}},
            st.integers(0, 180),
            st.sampled_from(["us-east-1a", "us-east-1b"]),
            st.integers(0, 3),
        ),
        st.builds(
            lambda at, operation, fault: {"at": f"{at}m", "callsFail": {"operation": operation, "fault": fault}},
            st.integers(0, 180),
            st.sampled_from(["CreateFleet", "TerminateInstances", "DescribeInstances"]),
            st.sampled_from(sorted(set(FAULTS) - {"accessDenied"})),
        ),
    ),
    max_size=5,
)


@settings(max_examples=8 * FACTOR)
@given(FAULT_LISTS, st.integers(0, 100))
def test_whatever_breaks_every_pod_runs_to_its_end_and_nothing_is_left(faults: list[Json], seed: int) -> None:
    """Pods that were lost are made again and placed again; every machine is returned."""
    with open_world(scenario(faults=faults, seed=seed)) as world:
        result = shown(world)
        ended = [pod for pod in world.kube.list(PODS).items if pod["status"]["phase"] == "Succeeded"]

        assert 20 == len(ended) == len(world.kube.list(PODS).items)
        assert {} == result.account.pools["inference"].unmet
        assert {"terminated"} >= {state for _, _, state in recount.instances()}
        assert [] == world.kube.list(NODE_REQUESTS).items


def test_lost_pods_run_for_the_rest_of_their_time_only() -> None:
    """A pod that ran ten of its twenty minutes runs ten more."""
    load = LOAD | {"arrivals": None, "replicas": 1}
    quiet = run(scenario(workloads=[load]))
    broken = run(scenario(workloads=[load], faults=[{"at": "690s", "machinesStop": 1}]))

    # 90 s of boot twice, 600 s and 30 s until the machine is gone before the second, then the other 600 s.
    assert (1, 2) == (quiet["pools"]["inference"]["launched"], broken["pools"]["inference"]["launched"])
    assert 1 == broken["pools"]["inference"]["removed_by_others"]


def test_a_restart_loses_nothing_but_memory() -> None:
    """The modes are opened anew and the day ends as without it."""
    usual, restarted = (run(replace(scenario(), faults=faults)) for faults in ((), (Restart(at_s=1_000), Restart(at_s=3_000))))

    assert usual["pools"] == restarted["pools"]


def test_machines_that_stop_are_drawn_by_the_seed() -> None:
    """The same seed takes the same machines; none are taken where none run."""
    faults: tuple[Fault, ...] = (MachinesStop(at_s=0, machines=3), MachinesStop(at_s=3_600, machines=1))
    results = [run(replace(scenario(seed=5), faults=faults)) for _ in range(2)]

    assert results[0] == results[1]
    assert 1 == results[0]["pools"]["inference"]["removed_by_others"]


@given(st.integers(1, 300), st.integers(1, 100_000), st.integers(0, 10_000), st.integers(0, 10**9))
def test_arrivals_are_ordered_within_their_span_and_follow_from_the_seed(
    count: int, over_s: int, after_s: int, seed: int
) -> None:
    """For every pattern."""
    for pattern in ("even", "random", "diurnal"):
        arrivals = Arrivals(over_s=over_s, pattern=pattern, peak_at_s=3_600)
        times_s = arrivals.times_s(count, after_s=after_s, seed=str(seed))

        assert sorted(times_s) == times_s == arrivals.times_s(count, after_s=after_s, seed=str(seed))
        assert after_s <= times_s[0] <= times_s[-1] < after_s + over_s
        assert count == len(times_s)


@pytest.mark.parametrize("ratio", [2.0, 5.0])
def test_a_diurnal_load_has_its_peak_and_its_trough(ratio: float) -> None:
    """Of many pods in many days, the hour of the peak gets as many more as it should."""
    arrivals = Arrivals(over_s=10 * 86_400, pattern="diurnal", peak_at_s=14 * 3_600, peak_to_trough=ratio)
    hours = Counter(time_s % 86_400 // 3_600 for time_s in arrivals.times_s(50_000, after_s=0, seed="x"))

    assert ratio == pytest.approx((hours[13] + hours[14]) / (hours[1] + hours[2]), rel=0.15)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"faults": [{"at": "1h"}]}, "spec.faults[0] is \"{'at': '1h'}\"; want at, and one of capacity, callsFail"),
        ({"faults": [{"at": "1h", "restart": True, "machinesStop": 1}]}, "want at, and one of capacity, callsFail"),
        (
            {"faults": [{"at": "1h", "capacity": {"instanceType": "g5.x", "zone": "us-east-1a", "machines": 1}}]},
            "spec.faults[0].capacity.instanceType is 'g5.x'; want one of g4dn",
        ),
        ({"cloud": None, "faults": [{"at": "1h", "machinesStop": 1}]}, "a fault of a scenario with spec.cloud"),
        (
            {"workloads": [LOAD | {"arrivals": {"over": "1h", "peakAt": "1h"}}]},
            "want a peak only with pattern diurnal",
        ),
        ({"workloads": [LOAD | {"arrivals": {"over": "0s"}}]}, "spec.workloads[0].arrivals.over is '0s'; want greater than"),
        ({"duration": "0s"}, "spec.duration is '0s'; want greater than or equal to 1"),
    ],
)
def test_a_load_or_fault_that_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, Any], line: str
) -> None:
    """One line, exit code 2, before anything is simulated."""
    path = tmp_path / "s.yaml"
    path.write_text(text(**spec), encoding="utf-8")

    assert Exit.USAGE == main(["simulate", str(path)])
    assert line in capsys.readouterr().err


def test_pods_that_have_no_place_are_told_and_the_exit_code_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As with reconcile."""
    huge = json.loads(json.dumps(LOAD | {"name": "huge", "replicas": 1, "arrivals": None, "template": POD}))
    huge["template"]["metadata"]["annotations"]["tfscale.io/vram-request"] = "90Gi"
    path = tmp_path / "s.yaml"
    path.write_text(text(workloads=[huge]), encoding="utf-8")

    assert Exit.PARTIAL == main(["simulate", str(path)])
    assert "default/huge-0: " in capsys.readouterr().out


def test_the_pool_is_shown_with_its_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table for people has the numbers of the JSON."""
    path = tmp_path / "s.yaml"
    path.write_text(text(), encoding="utf-8")
    main(["simulate", str(path)])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("inference"))

    assert ["inference", "ec2"] == row.split()[:2]
    assert [] == [kind for kind in (GPU_POOLS,) if kind.plural in row]
