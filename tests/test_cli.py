"""The command line: exit codes, streams and messages."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tfscale import __version__
from tfscale.cli import Exit, main

ROOT = Path(__file__).parents[1]
FIRST = str(ROOT / "examples" / "first.yaml")

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{server}"}}}}]
users: [{{name: u, user: {{token: secret-of-a-test}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a command is missing; want: tfscale reconcile [--local FILE] (tfscale --help lists all)"),
        (["reconcile", "--interval", "0"], "--interval is '0'; want greater than or equal to 1"),
        (["reconcile", "-o", "xml"], "--output is 'xml'; want 'text' or 'json'"),
        (["reconcile", "--once", "--until-idle"], "--once and --until-idle exclude each other"),
        (["reconcile", "--local", "x", "--context", "y"], "--local runs without a cluster; leave out --kubeconfig and --context"),
        (["reconcile", "--local", "x", "--interval", "5"], "--local runs in simulated time; leave out --interval"),
        (["--log-level", "loud", "reconcile"], "--log-level is 'loud'; want 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the flag, the value and what was wanted; nothing goes to standard output."""
    code = main(arguments)
    printed = capsys.readouterr()

    assert (Exit.USAGE, f"tfscale: {message}\n", "") == (code, printed.err, printed.out)


@pytest.mark.parametrize("arguments", [["reconcile", "--locall", "x"], ["frobnicate"], ["reconcile", "--local"]])
def test_unknown_flags_and_commands_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The usage is shown with what is wrong."""
    assert Exit.USAGE == main(arguments)
    assert "tfscale" in capsys.readouterr().err


def test_a_setting_of_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad variable is named like its flag."""
    monkeypatch.setenv("TFSCALE_MACHINE_LAG", "soon")

    assert Exit.USAGE == main(["reconcile", "--local", FIRST])
    assert capsys.readouterr().err.startswith("tfscale: --machine-lag is 'soon'; want a valid integer")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """As every command has it."""
    assert Exit.DONE == main(["--version"])
    assert f"tfscale {__version__}\n" == capsys.readouterr().out


def test_a_full_disk_under_standard_output_is_one_line() -> None:
    """No traceback where the result cannot be written."""
    command = f"{sys.executable} -m tfscale reconcile --local {FIRST} > /dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603, S607 - a shell, for its redirection

    assert (Exit.FAILED, "tfscale: standard output: No space left on device\n") == (done.returncode, done.stderr)


def test_the_plan_of_a_dry_run_is_in_the_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each action, as in the text."""
    main(["reconcile", "--local", FIRST, "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    main(["reconcile", "--local", FIRST, "--dry-run", "-o", "json"])

    assert lines == json.loads(capsys.readouterr().out)["plan"]


def test_help_is_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Every flag is explained."""
    assert Exit.DONE == main(["reconcile", "--help"])
    assert "--until-idle" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", "plan", "simulate", "reconcile"])
def test_help_speaks_to_people(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command is explained, and no default is shown where there is none."""
    assert Exit.DONE == main([*filter(None, [command]), "--help"])
    shown = capsys.readouterr().out

    assert not [odd for odd in ("(none)", "[]", "list[") if odd in shown]
    assert command or "plan                Print what would be done in a cluster" in shown


def scenario(tmp_path: Path, text: str) -> str:
    """Write a scenario file and return its path."""
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    return str(path)


def test_a_wrong_scenario_is_exit_2_and_suggests_the_near_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown key is answered with the key that was probably meant."""
    text = "apiVersion: sim.tfscale.io/v1alpha1\nkind: Scenario\nmetadata: {name: x}\nspec: {workload: []}\n"

    assert Exit.USAGE == main(["reconcile", "--local", scenario(tmp_path, text)])
    assert "workloads" in capsys.readouterr().err


def test_a_pod_without_a_place_is_exit_5_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be done is in the result, with the reason; the rest is done."""
    text = Path(FIRST).read_text().replace("tfscale.io/vram-request: 10Gi", "tfscale.io/vram-request: 90Gi")
    code = main(["reconcile", "--local", scenario(tmp_path, text), "-o", "json"])
    pool = json.loads(capsys.readouterr().out)["pools"]["inference"]

    assert (Exit.PARTIAL, 15, ["default/vision-0"]) == (code, pool["bound"], [unmet["pod"] for unmet in pool["unmet"]])
    assert all(unmet["reasons"] for unmet in pool["unmet"])


def test_a_bad_pod_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its problem is one line on standard error, once, and the exit code is 5."""
    text = Path(FIRST).read_text().replace("tfscale.io/vram-request: 10Gi", "tfscale.io/vram-request: 10Gx")
    code = main(["reconcile", "--local", scenario(tmp_path, text), "-o", "json"])
    printed = capsys.readouterr()

    assert (Exit.PARTIAL, 15) == (code, json.loads(printed.out)["pools"]["inference"]["bound"])
    assert 1 == len(printed.err.splitlines())
    assert "pod default/vision-0: metadata.annotations[tfscale.io/vram-request] is '10Gx'; want" in printed.err


def unused_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_an_unreachable_cluster_is_exit_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the server, without a traceback and without the token."""
    config = tmp_path / "config"
    config.write_text(KUBECONFIG.format(server=f"http://127.0.0.1:{unused_port()}"))
    code = main(["reconcile", "--kubeconfig", str(config), "--once", "--no-leader-elect"])
    printed = capsys.readouterr()

    assert Exit.UNREACHABLE == code
    assert "127.0.0.1" in printed.err
    assert "Traceback" not in printed.err
    assert "secret-of-a-test" not in printed.err


def test_a_missing_kubeconfig_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The path is named."""
    path = str(tmp_path / "none")

    assert Exit.USAGE == main(["reconcile", "--kubeconfig", path, "--once"])
    assert path in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_loop_without_an_end_stops_cleanly_on_signals(tmp_path: Path, number: signal.Signals) -> None:
    """Even while the cluster cannot be reached: exit 0, no traceback."""
    config = tmp_path / "config"
    config.write_text(KUBECONFIG.format(server=f"http://127.0.0.1:{unused_port()}"))
    command = [sys.executable, "-m", "tfscale", "reconcile", "--kubeconfig", str(config), "--interval", "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own interpreter
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(number)
        _, rest = process.communicate(timeout=30)

    assert "trying again" in first
    assert (0, False) == (process.returncode, "Traceback" in rest)


def test_an_interrupted_run_to_an_end_is_exit_130() -> None:
    """Ctrl-C in the middle of a simulation still prints the account so far."""
    command = [sys.executable, "-u", "-m", "tfscale", "reconcile", "--local", FIRST]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own interpreter
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert (Exit.INTERRUPTED, "") == (process.returncode, err)
    assert out.splitlines()[-1].startswith("pool inference: ")


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    """Whatever is under way, here a call that nobody answers."""
    config = tmp_path / "config"
    with socket.create_server(("127.0.0.1", 0)) as server:
        config.write_text(KUBECONFIG.format(server=f"http://127.0.0.1:{server.getsockname()[1]}"))
        command = [sys.executable, "-m", "tfscale", "reconcile", "--kubeconfig", str(config)]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own interpreter
            asked, _ = server.accept()
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
            asked.close()

    assert (Exit.INTERRUPTED, "") == (process.returncode, err)


def test_a_closed_pipe_is_no_traceback() -> None:
    """`tfscale ... | head -1` ends quietly."""
    command = f"{sys.executable} -m tfscale reconcile --local {FIRST} | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603, S607 - a shell, for its pipe

    assert ("", 1) == (done.stderr, len(done.stdout.splitlines()))
