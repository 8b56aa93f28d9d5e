"""Worker processes that decode ahead, for training and for evaluation.

`in_workers` adds to torch's DataLoader:

- If a worker dies, the error names the last file that it opened. `load_tracked` records that file.
- UserErrors and RunErrors of a data set, raised or returned, are raised in the calling process, without the traceback of a
  worker.
- Items travel through a ring of slots in shared memory of a fixed size (`slots`), and need no /dev/shm.
- Workers ignore Ctrl-C, SIGTERM and SIGUSR1. The main process saves its work first and then ends them.
- Workers that still run when the main process exits are killed; if it is killed itself, they end with it (`worker_start`).
- Whoever waits for an item for a minute is told which files the workers read, and after half an hour the wait is an error.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import AvifImagePlugin
from torch.utils.data import DataLoader, Dataset

from repre.data.loading.slots import SlotRing, private_copy
from repre.data.loading.worker_pool import NAME_BYTES, Pool, raise_explained, register
from repre.data.loading.worker_start import end_with_parent, leave_signals_and_output_to_parent
from repre.errors import RunError, UserError
from repre.utils.hidden_main import hidden_main
from repre.utils.shared_memory import FORK, check_semaphores
from repre.utils.signals import signals_later

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


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
TICK, FIRST_WORD, LONGEST_WAIT = 5.0, 60.0, 1800.0
"""Seconds: how often a wait for an item looks at the workers, when it says so first, and when it ends the run."""
TIMED_OUT = "DataLoader timed out"
"""Begin of torch's error after `TICK` seconds."""


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
        data: makes the items. It loads files by `load_tracked`, and raises or returns a UserError or RunError.
        workers: number of worker processes that make items ahead; 0 makes them in the calling process.
        pin: copy tensors to page-locked memory, for CUDA.
        ring: the slots for the items. Without it, items have memory of their own. With it, they are views of their slots:
            of N slots, `extra` = N - workers x prefetch are the consumer's, and an item stays as it is until `extra` more
            items are requested.
        prefetch: items that each worker makes ahead.

    Raises:
        UserError, RunError: the data set raised or returned it.
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
    pool = Pool(workers)
    loader = DataLoader(
        _InSlots(data, ring),
        sampler=_Numbered(items),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        prefetch_factor=prefetch,
        worker_init_fn=partial(_begin_worker, pool),
        multiprocessing_context="fork" if FORK else None,
        timeout=TICK,
    )
    iterator = _start(loader, pool)
    try:
        while True:
            item = ring.unpack(_raise_error(_next(iterator, pool)))
            yield item if own is None else private_copy(item, pin=pin)
    except StopIteration:
        return
    except RuntimeError as error:
        raise_explained(error)
        raise
    finally:
        with pool.ending():
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
        try:
            return self.ring.make(number, partial(self.data.__getitem__, item))
        except (UserError, RunError) as error:  # raised here it would carry the traceback of a worker
            return error


def load_tracked(source: Loadable[T], index: int) -> T:
    """Loads item `index` of a source. In a worker, records its description first, for the error if the worker dies."""
    if _last_opened is not None:
        name = source.describe(index).encode("utf-8", "surrogateescape")[: NAME_BYTES - 1] + b"\0"
        _last_opened[: len(name)] = np.frombuffer(name, np.uint8)
    return source.load(index)


# ------------------------------------------------------------------------------------------------- inside a worker

_last_opened: np.ndarray | None = None
"""In a worker: its row of `Pool.names`."""


def _begin_worker(pool: Pool, worker: int) -> None:
    """Makes a worker record the files that it opens, use one thread, ignore signals, and end with its parent."""
    global _last_opened
    end_with_parent(pool.parent, by_main_thread=pool.by_main_thread)
    leave_signals_and_output_to_parent()
    pool.pids[worker] = os.getpid()
    _last_opened = pool.names[worker].numpy()
    AvifImagePlugin.DEFAULT_MAX_THREADS = (
        1  # else every AVIF starts as many threads as there are cores; torch's are set
    )


def _unchanged(item: Any) -> Any:
    return item


# -------------------------------------------------------------------------------------------- in the main process


def _start(loader: DataLoader[T], pool: Pool) -> Iterator[T]:
    """Starts the workers of a loader."""
    before = set(multiprocessing.active_children())
    with signals_later(), hidden_main():
        iterator = iter(loader)
    register(pool, [process for process in multiprocessing.active_children() if process not in before])
    return iterator


def _next(iterator: Iterator[T], pool: Pool) -> T:
    """The next item of a DataLoader; says what is waited for.

    A worker that dies while it sends an item breaks the pipe before torch knows of the death. Asked again, torch raises
    the error of a dead worker.

    Raises:
        RunError: no item came for `LONGEST_WAIT` seconds.
    """
    started, word, broken = time.monotonic(), FIRST_WORD, False
    while True:
        try:
            return next(iterator)
        except (EOFError, ConnectionError):
            if broken:
                raise
            broken = True
        except RuntimeError as error:
            if not str(error).startswith(TIMED_OUT):
                raise
            waited = time.monotonic() - started
            files = ", ".join(pool.last_files(pool.pids.tolist())) or "none yet"
            if waited >= LONGEST_WAIT:
                pool.kill()
                raise RunError(
                    f"no data came for {waited / 60:.0f} minutes; the files that the worker processes opened last: {files}. "
                    "If one of them is at fault, remove it; if the disk or the network hangs, wait until it answers. Then "
                    "run the same command again",
                    kind="worker",
                ) from None
            if waited >= word:
                print(f"no data for {waited:.0f} s; the workers are reading {files}", file=sys.stderr, flush=True)
                word *= 2
