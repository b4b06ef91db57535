"""The command line: parse, call one function, print, exit code.

Results go to standard output, logs and progress to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from enum import IntEnum
from threading import Event
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource, SettingsError, get_subcommand

from tfscale import __version__
from tfscale.errors import BadInputError, CloudUnreachableError, ClusterUnreachableError, TfscaleError
from tfscale.quantity import time_s
from tfscale.settings import (
    Adopt,
    Doctor,
    HandBack,
    HelpText,
    IamPolicy,
    Manifests,
    Plan,
    Reconcile,
    Settings,
    Simulate,
    flag_problems,
)

if TYPE_CHECKING:
    from tfscale.account import Account
    from tfscale.kube.leader import Elector
    from tfscale.reconcile import Clock, Reconciler, Report

__all__ = ["Exit", "main"]

log = logging.getLogger(__name__)


class Exit(IntEnum):
    """What the exit code says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 4
    PARTIAL = 5
    CHANGES = 10
    """A plan has actions, whatever else there is."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C or SIGTERM before the end that was asked for; a loop without an end stops with DONE."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `args` default to the process's own."""
    try:
        flags = CliSettingsSource[Any](Settings, formatter_class=HelpText)
        return _run(CliApp.run(Settings, cli_args=list(sys.argv[1:] if args is None else args), cli_settings_source=flags))
    except SystemExit as ended:
        return int(ended.code or 0)
    except (ValidationError, SettingsError) as error:
        return _say(flag_problems(error), Exit.USAGE)
    except TfscaleError as error:
        return _say(str(error).splitlines(), _code(error))
    except (KeyboardInterrupt, BrokenPipeError):
        # Ctrl-C before the signals are ours, or a reader (`| head`) that has enough: nothing is left to tell.
        _drop_output()
        return Exit.INTERRUPTED
    except OSError as error:
        _drop_output()
        return _say([f"standard output: {error.strerror}"], Exit.FAILED)


def _drop_output() -> None:
    """Let the interpreter find nothing to flush at its end, where it would fail again (documentation of ``signal``, SIGPIPE)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(settings: Settings) -> int:
    logging.basicConfig(
        stream=sys.stderr, level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    if settings.log_level != "debug":
        # What botocore fails to fetch fails the call too, which is told, and once. It would add a traceback each time.
        logging.getLogger("botocore.credentials").setLevel(logging.CRITICAL)
    if settings.version:
        print(f"tfscale {__version__}")
        return Exit.DONE
    command = get_subcommand(settings, is_required=False)
    if command is None:
        return _say(["a command is missing; want: tfscale reconcile [--local FILE] (tfscale --help lists all)"], Exit.USAGE)
    return _RUN[type(command)](settings, command)


def _code(error: TfscaleError) -> Exit:
    match error:
        case BadInputError():
            return Exit.USAGE
        case ClusterUnreachableError() | CloudUnreachableError():
            return Exit.UNREACHABLE
        case _:
            return Exit.FAILED


def _reconcile(settings: Settings, command: Reconcile) -> int:
    from tfscale.account import Account  # noqa: PLC0415 - `--help` must not pay for the machinery

    account = Account()
    with _stop_requested() as stop, _world(settings, command, stop) as (reconciler, clock, stamp, elector):
        _drive(command, reconciler, clock, stop, _Teller(command, account, stamp), elector)
    if command.output == "json":
        print(json.dumps(account.as_json() | ({"plan": account.planned} if command.dry_run else {}), indent=2))
    elif not command.dry_run:
        print(*account.summary(), sep="\n", flush=True)
    if stop.is_set() and not _endless(command):
        return Exit.INTERRUPTED
    if account.unreachable:
        return Exit.UNREACHABLE
    return Exit.DONE if account.complete or _endless(command) else Exit.PARTIAL


@contextmanager
def _world(
    settings: Settings, command: Reconcile, stop: Event
) -> Iterator[tuple[Reconciler, Clock, Callable[[int], str], Elector | None]]:
    """Yield what to reconcile, the clock that drives it, how to print a time of it, and who says whether to act."""
    policy = settings.policy()
    if command.local is not None:
        from tfscale import simulate  # noqa: PLC0415 - the simulation needs an extra that others need not install

        ways = simulate.Ways(cluster=settings.cluster_name, prefix=settings.annotation_prefix, policy=policy)
        with simulate.open_scenario(command.local, ways) as world:
            yield world.reconciler, world, world.stamp, None
        return
    from tfscale import live  # noqa: PLC0415 - the Kubernetes client takes most of a second to import

    elector = _elector(command)
    real = live.reconciler(
        kubeconfig=command.kubeconfig,
        context=command.context,
        cluster=settings.cluster_name,
        prefix=settings.annotation_prefix,
        policy=policy,
        epoch=elector.epoch if elector else lambda: 0,
    )
    with elector or nullcontext(), real as reconciler:
        yield reconciler, live.WallClock(command.interval or 10, stop), live.stamp, elector


def _elector(command: Reconcile) -> Elector | None:
    from tfscale import live  # noqa: PLC0415 - see above

    if command.dry_run or not command.leader_elect:
        return None
    return live.elector(
        kubeconfig=command.kubeconfig,
        context=command.context,
        namespace=command.lease_namespace,
        name=command.lease_name,
    )


def _simulate(settings: Settings, command: Simulate) -> int:
    from tfscale import simulate  # noqa: PLC0415 - the simulation needs an extra that others need not install
    from tfscale.simulated import simulated  # noqa: PLC0415 - the same

    ways = simulate.Ways(
        cluster=settings.cluster_name,
        prefix=settings.annotation_prefix,
        policy=settings.policy(),
        keep_ended=False,
    )
    with simulate.open_scenario(command.file, ways, seed=command.seed) as world, _stop_requested() as stop:
        result = simulated(world, on_report=_Progress(world.stamp), stopped=stop.is_set)
        if command.output == "json":
            print(json.dumps(result.as_json(), indent=2))
        else:
            print(*result.lines(), sep="\n", flush=True)
    if stop.is_set():
        return Exit.INTERRUPTED
    return Exit.DONE if result.account.complete else Exit.PARTIAL


def _plan(settings: Settings, command: Plan) -> int:
    from tfscale.dump import read_dump  # noqa: PLC0415 - `--help` must not pay for the machinery
    from tfscale.preview import preview  # noqa: PLC0415 - the same

    dump = read_dump(command.file).changed_by(read_dump(command.pool))
    latest_s = dump.latest_s() if command.now is None else time_s(command.now)
    result = preview(
        dump,
        now_s=int(time.time()) if latest_s is None else latest_s,
        cluster=settings.cluster_name,
        prefix=settings.annotation_prefix,
    )
    notes = (*(f"note {note}" for note in result.notes), *(f"problem {problem}" for problem in result.problems))
    print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr, flush=True)
    if command.output == "json":
        print(json.dumps(result.as_json(), indent=2))
    else:
        print(*result.lines(), sep="\n", flush=True)
    if result.plan.actions:
        return Exit.CHANGES
    return Exit.DONE if result.complete else Exit.PARTIAL


def _manifests(_: Settings, command: Manifests) -> int:
    from tfscale.kube.crds import OUR_KINDS, definition, definitions_text  # noqa: PLC0415 - `--help` must not pay for YAML

    if command.output == "json":
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": [definition(kind) for kind in OUR_KINDS]}, indent=2))
    else:
        print(definitions_text(), end="", flush=True)
    return Exit.DONE


def _iam_policy(settings: Settings, command: IamPolicy) -> int:
    from tfscale.iam import Scope, ec2_policy  # noqa: PLC0415 - `--help` must not pay for it

    if command.mode != "ec2":
        return _say([f"--mode is {command.mode!r}; want ec2: no other mode calls AWS, so none needs a policy"], Exit.USAGE)
    if not command.node_role:
        print("note without --node-role no role may be passed, so nodes get no instance profile", file=sys.stderr)
    scope = Scope(
        cluster=command.cluster or settings.cluster_name,
        partition=command.partition,
        account=command.account,
        region=command.region,
        node_role=command.node_role,
        queue=command.queue,
    )
    print(json.dumps(ec2_policy(scope), indent=2))
    return Exit.DONE


def _doctor(settings: Settings, command: Doctor) -> int:
    from tfscale import live  # noqa: PLC0415 - the Kubernetes client takes most of a second to import
    from tfscale.finding import table  # noqa: PLC0415 - see above

    found = live.examined(
        kubeconfig=command.kubeconfig, context=command.context, cluster=settings.cluster_name, names=command.pools
    )
    if command.output == "json":
        print(json.dumps([one.as_json() for one in found], indent=2))
    else:
        print(*table(found), sep="\n", flush=True)
    return Exit.FAILED if any(one.verdict == "fail" for one in found) else Exit.DONE


def _nodes(_: Settings, command: Adopt | HandBack) -> int:
    from tfscale import adoption, live  # noqa: PLC0415 - see above
    from tfscale.gpus import GpuTable  # noqa: PLC0415 - see above

    kube = live.client(kubeconfig=command.kubeconfig, context=command.context)
    if isinstance(command, Adopt):
        results = adoption.adopt(kube, command.nodes, pool=command.pool, gpus=GpuTable(), dry_run=command.dry_run)
    else:
        results = adoption.hand_back(kube, command.nodes, wait_s=command.wait, dry_run=command.dry_run)
    lines = [json.dumps([one.as_json() for one in results], indent=2)] if command.output == "json" else results
    print(*lines, sep="\n", flush=True)
    verdicts = {one.verdict for one in results}
    return Exit.FAILED if "refused" in verdicts else Exit.PARTIAL if "waits" in verdicts else Exit.DONE


def _drive(
    command: Reconcile,
    reconciler: Reconciler,
    clock: Clock,
    stop: Event,
    tell: Callable[[Report], None],
    elector: Elector | None,
) -> None:
    from tfscale.reconcile import ALONE, run  # noqa: PLC0415 - see above

    if command.dry_run:
        tell(reconciler.tick(clock.now_s(), dry_run=True))
        return
    if elector and not _endless(command) and not elector.await_lead(stopped=stop.is_set):
        return
    if command.once:
        reconciler.lead(elector.epoch() if elector else 0)
        tell(reconciler.tick(clock.now_s()))
        return
    run(
        reconciler,
        clock,
        until_idle=not _endless(command),
        on_report=tell,
        stopped=stop.is_set,
        leader=elector or ALONE,
    )


def _endless(command: Reconcile) -> bool:
    """Whether the command goes on until it is stopped. A simulation ends when nothing is left to happen."""
    return command.local is None and not (command.once or command.until_idle or command.dry_run)


class _Progress:
    """Says on standard error, now and then, how far a long run is."""

    EVERY_S = 5.0

    def __init__(self, stamp: Callable[[int], str]) -> None:
        self._stamp = stamp
        self._shown = time.monotonic()
        self._rounds = 0

    def __call__(self, report: Report) -> None:
        self._rounds += 1
        if time.monotonic() - self._shown < self.EVERY_S:
            return
        self._shown = time.monotonic()
        machines = sum(map(len, report.cluster.machines.values()))
        print(
            f"{self._stamp(report.cluster.now_s)} round {self._rounds}: {len(report.plan.waiting)} pods wait for a node, "
            f"{len(report.plan.unmet)} have no place, {machines} machines",
            file=sys.stderr,
            flush=True,
        )


class _Teller:
    """Prints what happens as it happens."""

    def __init__(self, command: Reconcile, account: Account, stamp: Callable[[int], str]) -> None:
        self._command = command
        self._account = account
        self._stamp = stamp
        # A loop without an end says what it does, and nothing while there is nothing to do.
        self._progress = None if _endless(command) else _Progress(stamp)

    def __call__(self, report: Report) -> None:
        text = self._command.output == "text"
        stamp = self._stamp(report.cluster.now_s)
        for line in self._account.add(report):
            problem = line.startswith("problem ")
            if text or problem:
                print(line if problem else f"{stamp} {line}", file=sys.stderr if problem else sys.stdout, flush=True)
        if self._command.dry_run and text:
            print(*self._account.planned, sep="\n")
        if self._progress:
            self._progress(report)


@contextmanager
def _stop_requested() -> Iterator[Event]:
    """Yield an event that Ctrl-C and SIGTERM set: the round under way is finished, then the run ends.

    The second one ends it at once. Nothing is lost by that: a round that breaks off anywhere is made good by the next one.
    """
    stop = Event()

    def ask(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_RUN: Mapping[type, Callable[[Settings, Any], int]] = {
    Reconcile: _reconcile,
    Simulate: _simulate,
    Plan: _plan,
    Manifests: _manifests,
    IamPolicy: _iam_policy,
    Doctor: _doctor,
    Adopt: _nodes,
    HandBack: _nodes,
}


def _say(lines: Sequence[str], code: Exit) -> int:
    """Print what is wrong, one line each, and return the exit code."""
    for line in lines:
        print(f"tfscale: {line.removeprefix('tfscale: ')}", file=sys.stderr)
    return code
