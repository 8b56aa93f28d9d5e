"""Worker processes that decode ahead, for training and for evaluation.

`in_workers` adds to torch's DataLoader:

- If a worker dies, the error names the last file that it opened. `load_tracked` records that file.
- Errors that a data set returns as items are raised in the calling process, without the traceback of a worker.
- Items travel through a ring of slots in shared memory of a fixed size (`slots`), and need no /dev/shm.
- Workers ignore Ctrl-C, SIGTERM and SIGUSR1. The main process saves its work first and then ends them.
- Workers that still run when the main process exits are killed; if it is killed itself, they end with it.
"""

import atexit
import ctypes
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from PIL import AvifImagePlugin
from torch.utils.data import DataLoader, Dataset

from repre.data.loading.slots import SlotRing, private_copy
from repre.errors import RunError, UserError
from repre.utils.hidden_main import hidden_main
from repre.utils.shared_memory import FORK, check_semaphores, shared_bytes
from repre.utils.signals import signals_later

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

NAME_BYTES = 1024
"""Longest recorded file name; the rest is cut off."""

DEATH = re.compile(r"DataLoader worker \(pid\S* ([\d, ]+)\)")
"""torch's errors of a dead worker: "DataLoader worker (pid 5) is killed by signal" and "DataLoader worker (pid(s) 5, 6)
exited unexpectedly". If torch changes them, a run still ends with torch's error, but without the name of the file."""


class Loadable(Protocol[T_co]):
    """Anything that loads items by index and describes them: sources of images, masks or boxes."""

    def load(self, index: int) -> T_co:
        """Item `index`."""

    def describe(self, index: int) -> str:
        """Name of item `index` in messages, such as its path."""


IN_FLIGHT_GIB = 2.0
"""Largest size of the items of one pool of workers that are made ahead."""
PREFETCH = 2
"""Items that each worker makes ahead."""
PR_SET_PDEATHSIG = 1


def in_workers(
    data: Dataset[Any],
    items: Sequence[int],
    *,
    workers: int,
    pin: bool = False,
    ring: SlotRing | None = None,
    prefetch: int = PREFETCH,
) -> Iterator[Any]:
    """Yields `data[i]` for every i of `items`, in order.

    An item that is larger than its slot goes through a pipe: slower, but in the same bounded memory of others.

    Args:
        data: makes the items. It loads files by `load_tracked` and may return a UserError or RunError as an item.
        workers: number of worker processes that make items ahead; 0 makes them in the calling process.
        pin: copy tensors to page-locked memory, for CUDA.
        ring: the slots for the items. Without it, items have memory of their own. With it, they are views of their slots:
            of N slots, `extra` = N - workers x prefetch are the consumer's, and an item stays as it is until `extra` more
            items are requested.
        prefetch: items that each worker makes ahead.

    Raises:
        UserError, RunError: the data set returned it as an item.
        UserError: the system has no room for the workers' semaphores or shared memory.
        RunError: a worker died; the message names the last file that it opened. Python raises it wherever the main
            thread is at that moment, so also in the body of a loop over the items.
    """
    if not workers:
        for item in map(data.__getitem__, items):
            yield private_copy(_raise_error(item), pin=True) if pin else _raise_error(item)
        return
    check_semaphores(workers)
    own = None
    if ring is None:
        count = workers * prefetch + 1
        ring = own = SlotRing(count, int(IN_FLIGHT_GIB * 2**30) // count)
    # The ring needs this bound: torch hands out items in order, at first workers x prefetch of them and one more whenever
    # it delivers one. So while the consumer has got item k, the newest item in the making is k + workers x prefetch. It
    # uses the slot of item k - extra, and items k - extra + 1 .. k are intact.
    assert ring.count > workers * prefetch, "the consumer needs a slot to read from"
    pool = _Pool(workers)
    loader = DataLoader(
        _InSlots(data, ring),
        sampler=_Numbered(items),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        prefetch_factor=prefetch,
        worker_init_fn=partial(_begin_worker, pool),
        multiprocessing_context="fork" if FORK else None,
    )
    iterator = _start(loader, pool)
    try:
        while True:
            item = ring.unpack(_raise_error(_next(iterator)))
            yield item if own is None else private_copy(item, pin=pin)
    except StopIteration:
        return
    except RuntimeError as error:
        _raise_explained(error)
        raise
    finally:
        del iterator  # ends the workers now, even if a traceback keeps this frame alive


def _raise_error(item: Any) -> Any:
    """The item, unless it is an error to raise."""
    if isinstance(item, UserError | RunError):
        raise item
    return item


class _Numbered:
    """The items with their numbers 0, 1, ... in the order of delivery, which choose their slots."""

    def __init__(self, items: Sequence[int]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return enumerate(self.items)

    def __len__(self) -> int:
        return len(self.items)


class _InSlots(Dataset[Any]):
    """The items of a data set, made in their slots."""

    def __init__(self, data: Dataset[Any], ring: SlotRing) -> None:
        self.data, self.ring = data, ring

    def __getitem__(self, numbered: tuple[int, int]) -> Any:
        number, item = numbered
        return self.ring.make(number, partial(self.data.__getitem__, item))


def load_tracked(source: Loadable[T], index: int) -> T:
    """Loads item `index` of a source. In a worker, records its description first, for the error if the worker dies."""
    if _last_opened is not None:
        name = source.describe(index).encode("utf-8", "surrogateescape")[: NAME_BYTES - 1] + b"\0"
        _last_opened[: len(name)] = np.frombuffer(name, np.uint8)
    return source.load(index)


# ------------------------------------------------------------------------------------------------- inside a worker

_last_opened: np.ndarray | None = None
"""In a worker: its row of `_Pool.names`."""


def _begin_worker(pool: "_Pool", worker: int) -> None:
    """Makes a worker record the files that it opens, use one thread, ignore signals, and end with its parent.

    Ctrl-C, a scheduler and `timeout` signal the whole process group, but the main process has to save before workers end.
    """
    global _last_opened
    if FORK and pool.by_main_thread:  # Linux sends the signal when the thread that forked ends
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != pool.parent:  # it died before
            os._exit(1)
    pool.pids[worker] = os.getpid()
    _last_opened = pool.names[worker].numpy()
    AvifImagePlugin.DEFAULT_MAX_THREADS = (
        1  # else every AVIF starts as many threads as there are cores; torch's are set
    )
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _unchanged(item: Any) -> Any:
    return item


# -------------------------------------------------------------------------------------------- in the main process


class _Pool:
    """The workers of one loader. They share the memory of `pids` and `names`.

    Attributes:
        pids: process of every worker, int64 [workers]; 0 until it has begun.
        names: zero-terminated name of the last file that every worker opened, uint8 [workers, NAME_BYTES].
        processes: the workers, once they are started.
        death: message of the error if one of them died.
        parent, by_main_thread: the process that starts them, and whether its main thread does.
    """

    def __init__(self, workers: int) -> None:
        memory = shared_bytes(workers * (8 + NAME_BYTES))
        self.pids = memory[: 8 * workers].view(torch.int64)
        self.names = memory[8 * workers :].view(workers, NAME_BYTES)
        self.parent, self.by_main_thread = os.getpid(), threading.current_thread() is threading.main_thread()
        self.processes: list[BaseProcess] = []
        self.death = ""

    def last_files(self, pids: list[int]) -> list[str]:
        """The last file of each of these workers that has opened one."""
        names = [row.numpy().tobytes().partition(b"\0")[0] for row, pid in zip(self.names, self.pids) if pid in pids]
        return [name.decode("utf-8", "replace") for name in names if name]


_pools: WeakSet[_Pool] = WeakSet()
_workers: WeakKeyDictionary[BaseProcess, int] = WeakKeyDictionary()
"""Every worker, with the id of the process that started it."""


def _start(loader: DataLoader[T], pool: _Pool) -> Iterator[T]:
    """Starts the workers of a loader."""
    if sys.unraisablehook is not _unraisable_hook:
        _unraisable_hook.default, sys.unraisablehook = sys.unraisablehook, _unraisable_hook
    before = set(multiprocessing.active_children())
    with signals_later(), hidden_main():
        iterator = iter(loader)
    pool.processes = [process for process in multiprocessing.active_children() if process not in before]
    _workers.update(dict.fromkeys(pool.processes, os.getpid()))
    _pools.add(pool)
    _explain_in_signal_handler()
    return iterator


def _next(iterator: Iterator[T]) -> T:
    """The next item of a DataLoader.

    A worker that dies while it sends an item breaks the pipe before torch knows of the death. Asked again, torch raises
    the error of a dead worker.
    """
    try:
        return next(iterator)
    except (EOFError, ConnectionError):
        return next(iterator)


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
        for process in pool.processes:
            process.kill()
    return RunError(death, kind="worker")


def _raise_explained(error: RuntimeError) -> None:
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
            _raise_explained(error)
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
