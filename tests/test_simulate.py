"""The demo scenario: what it prints is what happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import recount
from tfscale.account import Account
from tfscale.errors import BadInputError
from tfscale.kube.port import PODS
from tfscale.reconcile import run
from tfscale.simulate import open_scenario

ROOT = Path(__file__).parents[1]
FIRST = "examples/first.yaml"


def tfscale(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    command = [sys.executable, "-m", "tfscale", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter


def test_the_printed_result_equals_a_recount() -> None:
    """launched, bound, unmet, terminated and machines_left are those of FakeKube's objects and moto's instances."""
    printed = tfscale("reconcile", "--local", FIRST, "--until-idle", "-o", "json")
    account = Account()
    with open_scenario(str(ROOT / FIRST)) as world:
        run(world.reconciler, world, until_idle=True, on_report=lambda report: [*account.add(report)].clear())
        counted = recount.pools(world.kube)
        left = recount.records(world.kube)
        unbound = [pod for pod in world.kube.list(PODS).items if not pod["spec"].get("nodeName")]
    result = json.loads(printed.stdout)

    assert 0 == printed.returncode, printed.stderr
    assert counted == {name: recount.without_reasons(pool) for name, pool in result["pools"].items()}
    assert result == account.as_json()
    assert ([], {"noderequests": 0, "launchbatches": 0}) == (unbound, left)
    assert 0 == counted["inference"]["machines_left"] < counted["inference"]["launched"]


def test_the_account_tells_what_was_bought_placed_refused_and_returned() -> None:
    """A reader sees type, zone and reason of each node, the share of each pod, and the offer that had run out."""
    done = tfscale("reconcile", "--local", FIRST, "--until-idle")
    lines = done.stdout.splitlines()

    assert (0, "") == (done.returncode, done.stderr)
    assert any("buy " in line and "g4dn.xlarge/us-east-1a/on-demand at 0.526 USD/h for" in line for line in lines)
    assert any("refused g4dn.xlarge/us-east-1a/on-demand: InsufficientInstanceCapacity; the next offer" in line for line in lines)
    assert any("buy " in line and "no capacity left for g4dn.xlarge" in line for line in lines)
    assert any("place   default/asr-0 ->" in line and "GPU 0: 3072 MiB, 20% compute" in line for line in lines)
    assert any("return  i-" in line and "idle for 300 s" in line for line in lines)
    assert lines[-1].startswith("pool inference: 4 nodes bought, 16 pods placed, 4 nodes returned, 0 machines left, 0 pods")


def test_the_same_scenario_gives_the_same_account() -> None:
    """Two runs print the same bytes."""
    first, second = (tfscale("reconcile", "--local", FIRST, "--until-idle").stdout for _ in range(2))

    assert first == second


def test_a_dry_run_prints_the_plan_of_the_first_round() -> None:
    """Nothing is bought: the plan is all there is."""
    done = tfscale("reconcile", "--local", FIRST, "--dry-run")

    assert 0 == done.returncode, done.stderr
    assert done.stdout.startswith("buy ")
    assert "place " not in done.stdout


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "tfscale: scenario file is '{path}'; want a file that can be read (No such file or directory)"),
        (b"\xff\xfe", "tfscale: scenario file is '{path}'; want a file that can be read (not UTF-8 text)"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, line: str) -> None:
    """One line with the path and what was wanted."""
    path = tmp_path / "scenario.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInputError) as caught, open_scenario(str(path)):
        pass

    assert line.format(path=path) == str(caught.value)
