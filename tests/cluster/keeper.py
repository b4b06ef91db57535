"""Runs one program and ends it when whoever started this ends, however that happens: its standard input closes then.

It prints the program's process id first.

python keeper.py LOG PROGRAM [ARGUMENT ...]
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

GRACE_S = 10


def main(log: str, *command: str) -> int:
    """Run the command with its output in a file until it ends or nobody wants it any more; return its exit code."""
    with open(log, "ab") as out:  # noqa: PTH123 - the one file of a tiny program
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)  # noqa: S603 - what it is for
        print(program.pid, flush=True)  # noqa: T201 - for whoever pauses it
        threading.Thread(target=_watch, args=(program,), daemon=True).start()
        return program.wait()


def _watch(program: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    program.terminate()
    program.send_signal(signal.SIGCONT)  # a paused one could not end
    try:
        program.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        program.kill()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
