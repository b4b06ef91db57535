"""What may import what, and what importing costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("boto3", "botocore", "kubernetes", "moto", "pydantic", "pynvml", "yaml")


def test_importing_tfscale_loads_nothing_heavy() -> None:
    """A controller that imports the library pays only for what it uses."""
    code = f"import sys, tfscale; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter

    assert "[]\n" == done.stdout


def test_help_does_not_load_the_cloud_or_the_cluster() -> None:
    """``--help`` answers without importing boto3, kubernetes or moto."""
    code = (
        "import sys; from tfscale.cli import main; main(['reconcile', '--help']); "
        "print([name for name in ('boto3', 'kubernetes', 'moto') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter

    assert done.stdout.endswith("[]\n")


def contracts_after(tmp_path: Path, file: str, line: str) -> subprocess.CompletedProcess[str]:
    """Run the import contracts on a copy of the package in which one more line was added to one file."""
    for source in (ROOT / "tfscale").rglob("*.py"):
        target = tmp_path / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text() + (f"\n{line}\n" if target == tmp_path / file else ""))
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    return subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", program, "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_hold(tmp_path: Path) -> None:
    """The package as it is breaks no contract."""
    done = contracts_after(tmp_path, "tfscale/plan.py", "")

    assert 0 == done.returncode, done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("tfscale/decide.py", "import time"),
        ("tfscale/slicing/pack.py", "import boto3"),
        ("tfscale/model.py", "import tfscale.reconcile"),
        ("tfscale/modes/base.py", "import tfscale.modes.ec2"),
        ("tfscale/modes/ec2.py", "import kubernetes"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path: Path, file: str, line: str) -> None:
    """Each contract fails when one line breaks it, and names the file."""
    done = contracts_after(tmp_path, file, line)

    assert 1 == done.returncode
    assert file.removesuffix(".py").replace("/", ".") in done.stdout
