"""Work in a forked process that can be ended with all processes that it started.

A fork needs no time to import torch again. The forking process must not use CUDA before: then its children can.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from gpu_parts.context import Skip

SKIPPED = 77
"""Exit code of a part that cannot run here."""


class Forked:
    """A function that runs in a process of its own, with its output in a file.

    Args:
        own_group: whether `kill` also ends the processes that it started.
    """

    def __init__(self, function: Callable[[], object], log: Path, *, own_group: bool = False) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._own_group = own_group
        self.log = log
        self._process = multiprocessing.get_context("fork").Process(target=_run, args=(function, log, own_group))
        self._process.start()

    def wait(self, seconds: float) -> int | None:
        """Waits and returns the exit code, negative after a signal; None if the process still runs."""
        self._process.join(max(0.0, seconds))
        return self._process.exitcode

    def signal(self, number: int) -> None:
        """Sends a signal to the process alone."""
        if self._process.pid is not None and self._process.exitcode is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Ends the process and, with a group of its own, everything that it started and left running."""
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if self._own_group else os.kill)(self._process.pid, signal.SIGKILL)
        self._process.join()

    def output(self) -> str:
        """Everything that the process printed so far."""
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


def wait_for(condition: Callable[[], bool], process: Forked, *, seconds: float) -> bool:
    """Waits until a condition holds; returns False if the process ends or the time is up before."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or process.wait(0.1) is not None:
            return condition()
    return True


def _run(function: Callable[[], object], log: Path, own_group: bool) -> None:
    if own_group:
        os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    try:
        code = function()
    except Skip as reason:
        print(f"skipped: {reason}", flush=True)
        sys.exit(SKIPPED)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
