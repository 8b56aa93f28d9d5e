"""The worker processes of a loader as the main process sees them: their deaths in words, and their end with it."""

import atexit
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch

from repre.errors import RunError
from repre.utils.shared_memory import shared_bytes

NAME_BYTES = 1024
"""Longest recorded file name; the rest is cut off."""

DEATH = re.compile(r"DataLoader worker \(pid\S* ([\d, ]+)\)")
"""torch's errors of a dead worker: "DataLoader worker (pid 5) is killed by signal" and "DataLoader worker (pid(s) 5, 6)
exited unexpectedly". If torch changes them, a run still ends with torch's error, but without the name of the file."""
GRACE = 1.0
"""Seconds that workers have to end by themselves once nobody needs their items."""


class Pool:
    """The workers of one loader. They share the memory of `pids` and `names`.

    Attributes:
        pids: process of every worker, int64 [workers]; 0 until it has begun.
        names: zero-terminated name of the last file that every worker opened, uint8 [workers, NAME_BYTES].
        processes: the workers, once they are started.
        death: message of the error if one of them died.
        is_ending: whether nobody needs their items any more, so that their deaths are no errors.
        parent, by_main_thread: the process that starts them, and whether its main thread does.
    """

    def __init__(self, workers: int) -> None:
        memory = shared_bytes(workers * (8 + NAME_BYTES))
        self.pids = memory[: 8 * workers].view(torch.int64)
        self.names = memory[8 * workers :].view(workers, NAME_BYTES)
        self.parent, self.by_main_thread = os.getpid(), threading.current_thread() is threading.main_thread()
        self.processes: list[BaseProcess] = []
        self.death = ""
        self.is_ending = False

    def kill(self) -> None:
        """Ends the workers, whatever they do."""
        for process in self.processes:
            process.kill()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Inside, the workers have `GRACE` seconds to end; torch waits 5 s for each, and then sends what they ignore."""
        self.is_ending = True
        if sys.is_finalizing():  # no thread would start any more, and waiting for its start would never end
            self.kill()
            yield
            return
        timer = threading.Timer(GRACE, self.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # a thread that is left when the interpreter ends may abort the process

    def last_files(self, pids: list[int]) -> list[str]:
        """The last file of each of these workers that has opened one."""
        names = [row.numpy().tobytes().partition(b"\0")[0] for row, pid in zip(self.names, self.pids) if pid in pids]
        return [name.decode("utf-8", "replace") for name in names if name]


_pools: WeakSet[Pool] = WeakSet()
_workers: WeakKeyDictionary[BaseProcess, int] = WeakKeyDictionary()
"""Every worker, with the id of the process that started it."""


def register(pool: Pool, processes: list[BaseProcess]) -> None:
    """Takes note of the processes that were started for a pool."""
    if sys.unraisablehook is not _unraisable_hook:
        _unraisable_hook.default, sys.unraisablehook = sys.unraisablehook, _unraisable_hook
    pool.processes = processes
    _workers.update(dict.fromkeys(processes, os.getpid()))
    _pools.add(pool)
    _explain_in_signal_handler()


def _explain_death(error: RuntimeError) -> RunError | None:
    """torch's error of a dead worker as one that names the file; None for any other error.

    Also kills the other workers of the loader: a worker that dies may hold a lock, and torch would wait for them in vain.
    """
    message = str(error).strip()
    if (match := DEATH.search(message)) is None:
        return None
    if isinstance(error, RunError):
        return error
    pids = [int(pid) for pid in match[1].split(",")]
    pool = next((pool for pool in _pools if any(process.pid in pids for process in pool.processes)), None)
    if pool is not None and pool.death:  # now torch also counts the workers that were killed here
        return RunError(pool.death, kind="worker")
    files = [] if pool is None else pool.last_files(pids)
    last = f"the last file that it opened is {', '.join(files)}" if files else "it had not opened a file"
    death = (
        f"a worker process died ({message}); {last}. If that file is damaged, repair or remove it. If memory ran out, use "
        "fewer --runtime.workers or a smaller --loader.decode-size. Then run the same command again"
    )
    if pool is not None:
        pool.death = death
        pool.kill()
    return RunError(death, kind="worker")


def _is_ending(error: RuntimeError) -> bool:
    """Whether an error tells of the death of a worker that nobody needs any more."""
    match = DEATH.search(str(error))
    pids = [] if match is None else [int(pid) for pid in match[1].split(",")]
    return any(pool.is_ending and any(process.pid in pids for process in pool.processes) for pool in _pools)


def raise_explained(error: RuntimeError) -> None:
    """Raises the explanation of a dead worker; returns if `error` is another error, or explained already."""
    explained = _explain_death(error)
    if explained is not None and explained is not error:
        try:
            raise explained from error
        finally:
            del explained  # else the exception and this frame refer to each other, and keep the loader alive


class _ChildExitHandler:
    """Calls torch's handler of SIGCHLD and explains the error that it raises.

    torch raises from this handler, so in any code that the main thread executes when a worker dies, such as a training step
    or an evaluation. If torch stops using a handler, `in_workers` still explains the error that the next item raises.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            if not _is_ending(error):
                raise_explained(error)
                raise


def _explain_in_signal_handler() -> None:
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return  # torch installs no handler there either
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not isinstance(handler, _ChildExitHandler):
        signal.signal(signal.SIGCHLD, _ChildExitHandler(handler))


class _UnraisableHook:
    """Hides a worker's death if it is raised in `__del__` or while the process exits. The next item raises it again."""

    default: Callable[[Any], object] = sys.__unraisablehook__

    def __call__(self, unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and DEATH.search(str(unraisable.exc_value))):
            self.default(unraisable)


_unraisable_hook = _UnraisableHook()


@atexit.register
def _kill_workers() -> None:
    """multiprocessing would send SIGTERM, which workers ignore, and wait forever.

    torch's handler would report these deaths wherever the exit of the process is.
    """
    if _workers and hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker, parent in list(_workers.items()):
        if parent == os.getpid() and worker.is_alive():
            worker.kill()
