"""The README is true: its commands run, its example is executed, its excerpts are what is printed."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.removeprefix("$ ") for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) for line in block.splitlines()
]
DEMO = "python -m tfscale simulate examples/three-modes.yaml"
FIRST = "python -m tfscale reconcile --local examples/first.yaml --until-idle"
PLAN = "python -m tfscale plan -f examples/dump.json --pool examples/pools.yaml"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run one command in the repository."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - commands of our own README


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python -m tfscale ")])
def test_every_tfscale_command_works(command: str) -> None:
    """Each ends with exit code 0, a plan that has actions with 10."""
    done = run(sys.executable, *command.split()[1:])

    assert (10 if command == PLAN else 0) == done.returncode, done.stderr


def test_every_other_command_is_a_promise_of_the_makefile() -> None:
    """There are two of them, and the Makefile runs the demo and this suite for them."""
    others = [command for command in COMMANDS if not command.startswith("python -m tfscale ")]
    recipes = {command: run(*command.split(), "--dry-run", "-o", ".venv/.installed").stdout for command in others}

    assert ["make demo", "make test"] == others
    assert DEMO in recipes["make demo"]
    assert "python -m pytest" in recipes["make test"]


def test_the_demo_runs_from_the_makefile() -> None:
    """`make demo` with this interpreter in place of the one that it would install."""
    binaries = str(Path(sys.executable).parent)
    done = run("make", "demo", "-o", ".venv/.installed", f"BIN={binaries}")

    assert 0 == done.returncode, done.stderr


def test_the_excerpt_is_what_the_demo_prints() -> None:
    """Each line of the README's excerpt is a line of the demo."""
    printed = run(sys.executable, *DEMO.split()[1:]).stdout.splitlines()
    block = next(block for block in re.findall(r"```text\n(.*?)```", README, re.DOTALL) if "nodes bought" in block)

    assert [] == [line for line in block.splitlines() if line not in printed]


def test_the_excerpt_is_what_the_first_example_prints() -> None:
    """Each line of it is a line of the story of one pool."""
    printed = run(sys.executable, *FIRST.split()[1:]).stdout.splitlines()
    block = next(block for block in re.findall(r"```text\n(.*?)```", README, re.DOTALL) if "refused" in block)

    assert [] == [line for line in block.splitlines() if line not in printed]


def test_the_excerpt_is_what_the_plan_prints() -> None:
    """Each line of it is a line of the plan of the example."""
    printed = run(sys.executable, *PLAN.split()[1:]).stdout.splitlines()
    block = next(block for block in re.findall(r"```text\n(.*?)```", README, re.DOTALL) if "vision/segment" in block)

    assert [] == [line for line in block.splitlines() if line not in printed]


def test_the_example_is_executed() -> None:
    """The library example prints what the README says."""
    failed, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False)

    assert (0, True) == (failed, tried > 0)


DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Files that a document links to exist."""
    path = ROOT / document
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()) if "://" not in target]

    assert [] == [target for target in targets if not (path.parent / target).exists()]
