"""Works through a list in several processes, the most important first, and ends all of them when the time is over.

Every process prints into a log file of its own. An error of one, or its end, stops none of the others.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from repre.data.loading.worker_start import end_with_parent
from repre.errors import RunError, UserError
from repre.utils.pieces import free_memory
from repre.utils.shared_memory import FORK
from repre.utils.signals import Interrupted, StopRequest

Item = TypeVar("Item")
GRACE = 10.0
"""Seconds that a process has to save its training and end, before it is killed."""
TICK = 1.0
"""Seconds between two looks for a signal."""


@dataclass(frozen=True)
class Ended(Generic[Item]):
    """An item that a process worked on.

    Attributes:
        result: what the work returned.
        error: why there is no result; None if there is one.
        seconds: how long it took.
    """

    item: Item
    result: Any
    error: str | None
    seconds: float


def run_pool(
    items: Sequence[Item],
    work: Callable[[Item], Any],
    *,
    processes: int,
    seconds: float,
    logs: Path,
    done: Callable[[Ended[Item]], None],
    key: Callable[[Item], Hashable],
) -> tuple[int, int]:
    """Works on items in their order.

    After `seconds`, or a signal, what still runs is asked to stop by SIGTERM: a training saves its state and can be resumed.

    Args:
        work: gives the result of an item, in another process; it can be pickled.
        processes: how many items are in work at once; if several, each has one thread on the CPU.
        logs: folder of the log files, process-1.log and so on.
        done: called here with each item that ended.
        key: items of one key are never in work at once; after an error, further ones of its key are left out.

    Returns:
        How many items were cut off, and how many were not started.

    Raises:
        Interrupted: a signal asked to stop.
    """
    begin, queue = time.monotonic(), list(items)
    members: list[_Member[Item]] = []
    logs.mkdir(parents=True, exist_ok=True)
    with StopRequest() as stop:
        try:
            while stop.signal is None and (left := seconds - (time.monotonic() - begin)) > 0:
                members = [member for member in members if member.process.is_alive() or member.item is not None]
                busy = {key(member.item) for member in members if member.item is not None}
                while (item := next((item for item in queue if key(item) not in busy), None)) is not None:
                    member = next((member for member in members if member.item is None), None)
                    if member is None:
                        if len(members) == processes:
                            break
                        member = _Member(work, logs, {other.number for other in members}, alone=processes == 1)
                        members.append(member)
                    queue.remove(item)
                    busy.add(key(item))
                    member.begin(item)
                working = {member.pipe: member for member in members if member.item is not None}
                if not working:
                    break
                for pipe in wait(list(working), timeout=min(left, TICK)):
                    ended = working[pipe].end()  # type: ignore[index]
                    if ended.error is not None:
                        queue = [item for item in queue if key(item) != key(ended.item)]
                    done(ended)
        finally:
            cut_off = sum(member.item is not None for member in members)
            _end(members)
        if stop.signal is not None:
            raise Interrupted("stopped. Run the same command to resume", code=128 + stop.signal)
    return cut_off, len(queue)


class _Member(Generic[Item]):
    """A process of the pool. It is forked, which saves the seconds that imports take, unless CUDA is in use here.

    Attributes:
        item: what it works on; None if it is idle.
    """

    def __init__(self, work: Callable[[Item], Any], logs: Path, taken: set[int], *, alone: bool) -> None:
        self.number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        context: Any = get_context("fork" if FORK and not torch.cuda.is_initialized() else "spawn")
        self.pipe, theirs = context.Pipe()
        log = logs / f"process-{self.number}.log"
        self.process = context.Process(target=_serve, args=(theirs, work, log, os.getpid(), alone))
        self.process.start()
        theirs.close()
        self.item: Item | None = None
        self._since = 0.0

    def begin(self, item: Item) -> None:
        self.item, self._since = item, time.monotonic()
        self.pipe.send(item)

    def end(self) -> Ended[Item]:
        """The item that it worked on, once its pipe has something to read."""
        assert self.item is not None
        item, self.item = self.item, None
        try:
            result, error = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            result, error = None, f"its process ended with code {self.process.exitcode}"
        return Ended(item, result, error, time.monotonic() - self._since)


def _end(members: list[_Member[Item]]) -> None:
    """Ends all processes, within `GRACE` seconds and a moment."""
    for member in members:
        if member.item is None:
            member.pipe.close()
        member.process.terminate()
    deadline = time.monotonic() + GRACE
    for member in members:
        member.process.join(max(0.0, deadline - time.monotonic()))
        if member.process.is_alive():
            member.process.kill()
            member.process.join()


def _serve(pipe: Connection, work: Callable[[Any], Any], log: Path, parent: int, alone: bool) -> None:
    """A process: works on items from the pipe and returns (result, error) of each."""
    end_with_parent(parent, by_main_thread=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())  # a training has a handler of its own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent then ends this process
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    if not alone:
        torch.set_num_threads(1)
    while True:
        item = pipe.recv()
        try:
            answer = work(item), None
        except Interrupted:  # the time is over
            return
        except (UserError, RunError) as error:
            print(error, flush=True)
            answer = None, str(error)
        except Exception as error:
            traceback.print_exc()
            answer = None, f"{type(error).__name__}: {error}"
        _forget()
        pipe.send(answer)


def _forget() -> None:
    """Gives back what an item leaves: memory of the device, and compiled functions, of which torch keeps few."""
    free_memory()
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()
