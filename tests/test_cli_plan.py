"""``tfscale plan``: exit codes, streams, and that nothing is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tfscale import modes
from tfscale.catalogue import snapshot
from tfscale.cli import Exit, main
from tfscale.dump import read_dump
from tfscale.gpus import GpuTable
from tfscale.kube.port import GPU_POOLS, LAUNCH_BATCHES, NODE_CLAIMS, NODE_CLASSES, NODE_POOLS, NODE_REQUESTS, NODES, PODS
from tfscale.modes.base import ModeContext
from tfscale.reconcile import Reconciler
from tfscale.testing import FakeKube

ROOT = Path(__file__).parents[1]
DUMP, POOLS = str(ROOT / "examples" / "dump.json"), str(ROOT / "examples" / "pools.yaml")
KINDS = (PODS, NODES, NODE_CLAIMS, NODE_POOLS, NODE_CLASSES[0], GPU_POOLS, NODE_REQUESTS, LAUNCH_BATCHES)


def changed(tmp_path: Path, old: str, new: str) -> str:
    """Return the path of the example dump with one text in place of another."""
    text = Path(DUMP).read_text()
    assert old in text
    path = tmp_path / "dump.json"
    path.write_text(text.replace(old, new))
    return str(path)


def test_the_example_prints_actions_with_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 10 says that there is something to do; only the plan is on standard output."""
    code = main(["plan", "-f", DUMP, "--pool", POOLS])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()

    assert (Exit.CHANGES, ["place", "place", "place", "buy", "as"]) == (code, [line.split()[0] for line in lines])
    assert "(cheapest that fits; next best g6.2xlarge at 0.9776 USD/h)" in lines[3]
    assert "note taken to exist, as the dump has no node classes: EC2NodeClass gpu\n" == printed.err


def test_what_was_done_is_not_planned_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cluster that is restored from the dump and carries the plan out gives a dump with nothing to do, exit 0."""
    dump = read_dump([DUMP]).changed_by(read_dump([POOLS]))
    now_s = dump.latest_s() or 0
    kube, gpus = FakeKube(now=lambda: float(now_s)), GpuTable()
    for (kind, _, _), obj in dump.objects.items():
        kube.restore(kind, obj)
    kube.create(NODE_CLASSES[0], {"metadata": {"name": "gpu"}})
    reconciler = Reconciler(
        kube=kube,
        mode_of=modes.load,
        open_with=lambda pool: ModeContext(pool=pool, gpus=gpus, kube=kube, cluster="c", catalogue=snapshot()),
        gpus=gpus,
        prefix="tensor-fusion.ai",
    )
    report = reconciler.tick(now_s)
    path = tmp_path / "after.yaml"
    items = [obj for kind in KINDS for obj in kube.list(kind).items]
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}}))
    code = main(["plan", "-f", str(path)])
    first, last = capsys.readouterr().out.splitlines()

    assert (4, ()) == (len(report.outcomes), report.failed)
    assert (Exit.DONE, "nothing to do") == (code, first)
    assert last.endswith("actions: 0; nodes to buy: 0; pods that wait for a node: 1; pods without a place: 0")


def test_the_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same for a program."""
    code = main(["plan", "-f", DUMP, "--pool", POOLS, "-o", "json"])
    found = json.loads(capsys.readouterr().out)

    assert Exit.CHANGES == code
    assert ["now", "changes", "actions", "unmet", "waiting", "problems"] == [*found]
    assert ("2026-07-20T13:44:30Z", True, [], []) == (found["now"], found["changes"], found["unmet"], found["problems"])
    assert all(action["why"] for action in found["actions"])
    assert ["vision/segment-5f7d6c9b4d-kq8zn"] == found["waiting"] == found["actions"][-1]["pods"]


def test_a_pod_without_a_place_is_exit_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be done about it; the reason is on the line."""
    dump = changed(tmp_path, '"schedulerName": "tfscale"', '"schedulerName": "other"')
    pod = {"name": "big", "namespace": "x", "annotations": {"tfscale.io/vram-request": "90Gi", "tfscale.io/tflops-request": "1"}}
    other = tmp_path / "pod.yaml"
    other.write_text(
        yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {**pod, "uid": "u"}, "spec": {"schedulerName": "tfscale"}})
    )

    assert Exit.PARTIAL == main(["plan", "-f", dump, "-f", str(other), "--pool", POOLS])
    assert capsys.readouterr().out.startswith("unmet   x/big: ")
    assert Exit.DONE == main(["plan", "-f", dump, "--pool", POOLS])


def test_a_problem_is_exit_5_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Actions win over problems: whoever waits for changes must not miss them."""
    quiet = changed(tmp_path, '"schedulerName": "tfscale"', '"schedulerName": "other"')
    broken = tmp_path / "broken.yaml"
    broken.write_text("apiVersion: v1\nkind: List\nitems: [{kind: Pod}]\n")

    assert Exit.PARTIAL == main(["plan", "-f", quiet, "-f", str(broken), "--pool", POOLS])
    assert (
        f"problem {broken}, document at line 1: items[0].apiVersion is ''; want text that is not empty\n"
        in capsys.readouterr().err
    )
    assert Exit.CHANGES == main(["plan", "-f", DUMP, "-f", str(broken), "--pool", POOLS])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-f is missing; want tfscale plan -f FILE"),
        (["-f", DUMP], "--pool is ''; want a file with a GPUPool: there is none in the dump"),
        (["-f", "none.json"], "file is 'none.json'; want a file that can be read (No such file or directory)"),
        (["-f", DUMP, "--now", "noon"], "--now is 'noon'; want an RFC 3339 time such as 2026-07-20T13:44:30Z"),
        (["-f", DUMP, "-o", "yaml"], "--output is 'yaml'; want 'text' or 'json'"),
        (["-f", "[x"], 'Parsing error encountered for plan.f: Missing end delimiter "]"'),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As with every command, and nothing goes to standard output."""
    code = main(["plan", *arguments])
    printed = capsys.readouterr()

    assert (Exit.USAGE, f"tfscale: {message}\n", "") == (code, printed.err, printed.out)


def test_a_dump_that_is_cut_off_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Never a plan on half of the facts."""
    path = tmp_path / "cut.json"
    path.write_text(Path(DUMP).read_text()[:20_000])

    assert Exit.USAGE == main(["plan", "-f", str(path), "--pool", POOLS])
    printed = capsys.readouterr()
    assert ("", 1, True) == (printed.out, len(printed.err.splitlines()), "the file is cut off" in printed.err)


def test_the_time_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a dump that tells no time, it is now; --now tells it in any case."""
    path = tmp_path / "pool.yaml"
    path.write_text("apiVersion: tfscale.io/v1alpha1\nkind: GPUPool\nmetadata: {name: p}\nspec: {mode: static}\n")

    assert Exit.DONE == main(["plan", "-f", str(path)])
    assert "as of 19" not in capsys.readouterr().out
    assert Exit.CHANGES == main(["plan", "-f", DUMP, "--pool", POOLS, "--now", "2026-08-01T00:00:00+02:00"])
    assert "as of 2026-07-31T22:00:00Z: " in capsys.readouterr().out


def test_several_files_and_standard_input_are_one_dump() -> None:
    """Other kinds are named on standard error."""
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "tfscale", "plan", "-f", DUMP, "-f", "-", "--pool", POOLS],
        cwd=ROOT,
        input=json.dumps(deployment),
        capture_output=True,
        text=True,
        check=False,
    )

    assert Exit.CHANGES == done.returncode
    assert "note not read: 1 Deployment (apps/v1)\n" in done.stderr


def test_nothing_is_called_and_nothing_is_written(tmp_path: Path) -> None:
    """Not even in a pool whose mode has a cloud: no connection, no name is looked up, no file is opened for writing."""
    pool = {"mode": "ec2", "options": {"region": "us-east-1", "launchTemplate": {"name": "gpu-node"}}}
    path = tmp_path / "pool.json"
    path.write_text(
        json.dumps({"apiVersion": GPU_POOLS.api_version, "kind": "GPUPool", "metadata": {"name": "inference"}, "spec": pool})
    )
    program = f"""
import os, sys
touched = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "subprocess.Popen"):
        touched.append(event)
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        touched.append(arguments[0])
sys.dont_write_bytecode = True
sys.addaudithook(watch)
from tfscale.cli import main
code = main(["plan", "-f", {DUMP!r}, "--pool", {str(path)!r}])
sys.exit(code if not touched else str(touched))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter

    assert Exit.CHANGES == done.returncode, done.stderr
    assert "buy     1 x g6.xlarge/us-east-1a/on-demand" in done.stdout
