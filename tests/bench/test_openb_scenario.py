"""The openb trace as a scenario."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests import recount
from tfscale.account import Account
from tfscale.gpus import GpuTable
from tfscale.kube.convert import read_cluster
from tfscale.kube.port import GPU_POOLS, PODS
from tfscale.model import Cluster
from tfscale.reconcile import run
from tfscale.scenario import Scenario, read_scenario
from tfscale.simulate import open_world

BENCH = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "openb_scenario.py"))
needs_trace = pytest.mark.skipif(not BENCH["DATA"].is_dir(), reason="the openb trace is not beside the repository")


def convert(tmp_path: Path, *options: str) -> Scenario:
    """Return the scenario that the script writes."""
    out = tmp_path / "openb.yaml"
    assert BENCH["main"]([*options, "-o", str(out)]) == 0
    return read_scenario(out.read_text(encoding="utf-8"), name=out.name)


def observed(scenario: Scenario) -> Cluster:
    """Return the cluster as the first tick sees it."""

    def of(kind: object) -> list[dict[str, Any]]:
        found = [obj for one, obj in scenario.objects if one == kind]
        return [obj | {"metadata": obj["metadata"] | {"uid": obj["metadata"]["name"]}} for obj in found]

    gpus = GpuTable(scenario.gpu_models)
    return read_cluster(pods=of(PODS), nodes=[], pools=of(GPU_POOLS), requests=[], batches=[], machines={}, now_s=0, gpus=gpus)


@needs_trace
def test_the_first_pods_become_demands_without_a_problem(tmp_path: Path) -> None:
    """500 pods by default: 39 without a GPU, 5 with several, and shares of one."""
    cluster = observed(convert(tmp_path))

    assert () == cluster.problems
    assert Counter({0: 39, 1: 456, 2: 1, 8: 4}) == Counter(demand.request.gpu_count for demand in cluster.demands)


@needs_trace
def test_a_share_of_a_gpu_is_that_share_of_compute_and_of_the_smallest_card(tmp_path: Path) -> None:
    """The trace's second pod asks for 460 thousandths: of 16 GiB where it names no model."""
    request = observed(convert(tmp_path, "-n", "2")).demands[1].request

    assert (6000, 12288, 460, 7537) == (request.cpu_milli, request.memory_mib, request.compute_milli, request.vram_mib)


@needs_trace
def test_the_cloud_has_the_nodes_of_the_trace(tmp_path: Path) -> None:
    """1,523 nodes of 27 shapes, none without a price."""
    cloud = convert(tmp_path, "-n", "1").cloud
    assert cloud is not None

    assert (27, 1523) == (len(cloud.instance_types), sum(row.machines for row in cloud.capacity))
    assert all(one.price_micro_usd for one in cloud.instance_types)


@needs_trace
@pytest.mark.parametrize("mode", ["ec2", "managed-nodeclaim", "reuse-nodeclaim"])
def test_the_loop_places_every_pod_of_the_trace(tmp_path: Path, mode: str) -> None:
    """`reconcile --local` on the first 500 pods ends with all of them bound and none over-committed, in every mode."""
    account = Account()
    with open_world(convert(tmp_path, "--mode", mode)) as world:
        run(world.reconciler, world, until_idle=True, on_report=lambda report: [*account.add(report)].clear())

        assert (500, {}) == (account.pools["openb"].bound, account.pools["openb"].unmet)
        assert account.as_json()["pools"] == recount.pools(world.kube)
        assert [] == recount.over_committed(world.kube)


def test_without_the_trace_one_line_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is that of wrong usage."""
    assert BENCH["main"](["--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"openb_scenario: {tmp_path}/openb_pod_list_default.csv is not there; want the openb trace, name its folder with --data\n"
    )


NODES_CSV = "model,gpu,cpu_milli,memory_mib\nT4,1,4000,16384\n"
PODS_CSV = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\np,1000,1024,1,500,T4\n"


def trace(folder: Path, *, pods: str = PODS_CSV, nodes: str = NODES_CSV) -> Path:
    """Write a trace of one pod and one node, and return its folder."""
    (folder / BENCH["PODS"]).write_text(pods, encoding="utf-8")
    (folder / BENCH["NODES"]).write_text(nodes, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("csv", "line"),
    [
        ({"pods": "a\n1\n"}, f"{BENCH['PODS']} has no column name, cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec"),
        ({"nodes": ""}, f"{BENCH['NODES']} has no column model, gpu, cpu_milli, memory_mib"),
        ({"nodes": NODES_CSV.replace("16384", "x")}, "invalid literal for int() with base 10: 'x'"),
        ({"pods": PODS_CSV.replace("T4", "H9")}, "'H9'"),
        ({"nodes": NODES_CSV.replace(",16384", "")}, "int() argument must be"),
    ],
)
def test_another_csv_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], csv: dict[str, str], line: str) -> None:
    """Columns that are not there, amounts that are none, a card that nobody knows."""
    assert BENCH["main"](["--data", str(trace(tmp_path, **csv))]) == 2
    assert capsys.readouterr().err.startswith(f"openb_scenario: {tmp_path} is not the openb trace as it was published: {line}")


@pytest.mark.parametrize(("output", "why"), [(".", "Is a directory"), ("none/x.yaml", "No such file or directory")])
def test_an_output_that_cannot_be_written_gives_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, why: str
) -> None:
    """It names the output, not the data."""
    path = tmp_path / output

    assert BENCH["main"](["--data", str(trace(tmp_path)), "-o", str(path)]) == 2
    assert f"openb_scenario: {path} cannot be used: {why}\n" == capsys.readouterr().err


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    """Not even the interpreter complains at its end about what it could not flush."""
    reader, writer = os.pipe()
    os.close(reader)
    script = Path(__file__).parents[2] / "bench" / "openb_scenario.py"
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, str(script), "--data", str(trace(tmp_path))],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (0, "") == (done.returncode, done.stderr)
