"""Processes that start together on this machine, as torchrun starts them."""

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

LONGEST = 120.0
"""Seconds after which processes are killed: they wait for each other for ever."""


def rank_environments(count: int) -> list[dict[str, str]]:
    """The environment variables of every process of a group, which meets at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        for rank in range(count)
    ]


class Outcome(NamedTuple):
    """How a call on one rank ended."""

    result: Any = None
    """What it returned."""
    error: str = ""
    """Type of the exception that it raised."""
    message: str = ""
    """Its text."""
    code: int | None = None
    """Its exit code."""
    signal: int = 0
    """The signal that ended the process."""


def call_on_ranks(count: int, function: Callable[[int], Any], folder: Path) -> list[Outcome]:
    """Calls a function with the number of the rank in `count` forked processes of a group.

    Args:
        folder: for their results.

    Raises:
        TimeoutError: one of them did not end.
    """
    pids = [_fork(rank, function, folder, variables) for rank, variables in enumerate(rank_environments(count))]
    found: dict[int, int] = {}
    until = time.monotonic() + LONGEST
    while len(found) < count:
        for rank, pid in enumerate(pids):
            if rank not in found and os.waitpid(pid, os.WNOHANG) != (0, 0):
                found[rank] = pid
        if time.monotonic() > until:
            for rank in set(range(count)) - set(found):
                os.kill(pids[rank], signal.SIGKILL)
                os.waitpid(pids[rank], 0)
            raise TimeoutError(f"only ranks {sorted(found)} of {count} ended")
        time.sleep(0.01)
    return [
        pickle.loads(file.read_bytes()) if (file := _file(folder, rank)).is_file() else Outcome(signal=signal.SIGKILL)
        for rank in range(count)
    ]


def _fork(rank: int, function: Callable[[int], Any], folder: Path, variables: dict[str, str]) -> int:
    _file(folder, rank).unlink(missing_ok=True)
    if pid := os.fork():
        return pid
    try:
        os.environ.update(variables)
        torch.set_num_threads(1)  # a new pool, see `tests.faults.common.renew_thread_pool`
        try:
            outcome = Outcome(function(rank))
        except BaseException as error:
            outcome = Outcome(error=type(error).__name__, message=str(error), code=getattr(error, "code", None))
            traceback.print_exc()
        _file(folder, rank).write_bytes(pickle.dumps(outcome))
    finally:
        os._exit(0)


def _file(folder: Path, rank: int) -> Path:
    return folder / f"outcome-{rank}.pkl"
