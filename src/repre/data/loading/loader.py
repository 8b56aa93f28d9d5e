"""From a source to batches: a seeded order, decoding workers, replacements for unreadable files, exact resume.

A run is one sequence of steps; step t of a run with G images per step shows the positions [t' G, (t' + 1) G) of the
order of its epoch, and every rank takes a slice of them. Nothing depends on the number of ranks or workers, and a
resumed run starts its loader at the step it stopped at.
"""

import atexit
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source
from repre.data.loading.manifest import changed
from repre.errors import RunError, UserError
from repre.types import Batch, Views
from repre.utils.config_checks import check_fields

ATTEMPTS = 32
"""Replacements tried for one unreadable file before the run stops."""

T = TypeVar("T")
Raw = tuple[Tensor, Tensor, Tensor, Tensor, int, list[tuple[int, str]], list[int], Views | None]


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """From files to stacked pixels."""

    decode_size: int = 0
    """Side of the square that images are stacked on; a larger image is shrunk, with antialiasing, until it fits.
    0: twice the side of the global views."""
    max_unreadable: float = 0.05
    """Share of unreadable files above which the run stops; up to it they are skipped, counted and listed."""

    def __post_init__(self) -> None:
        check_fields(self, "loader")
        if self.decode_size < 0:
            raise UserError(f"loader.decode_size must not be negative, not {self.decode_size}")
        if not 0 <= self.max_unreadable <= 1:
            raise UserError(f"loader.max_unreadable is a share and must lie in [0, 1], not {self.max_unreadable}")


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch shows the images: a permutation of 0 .. count - 1, int64."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)


def stack(images: list[np.ndarray], *, canvas: int, keep_values: bool = False) -> tuple[Tensor, Tensor]:
    """Stacks images [H, W, C] on a square canvas: pixels [B, C, K, K], the channels last in memory, and sizes [B, 2]
    (height, width).

    Images of one dtype keep it. Mixed ones become float32: integers divided by their largest value, or as they are with
    `keep_values` (for a declared range).
    """
    kinds = {image.dtype for image in images}
    if len(kinds) > 1:
        images = [image.astype(np.float32) if keep_values else _unit(image) for image in images]
    sizes = torch.tensor([image.shape[:2] for image in images])
    pixels = np.zeros((len(images), canvas, canvas, images[0].shape[2]), dtype=images[0].dtype)
    for place, image in zip(pixels, images):
        place[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), sizes


def _unit(image: np.ndarray) -> np.ndarray:
    top = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
    return image.astype(np.float32) / np.float32(top)


class _Steps(Dataset[Raw]):
    """Item t is the local batch of step t; decoded where it is asked for, so in a worker."""

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        canvas: int,
        rank: int,
        world_size: int,
        keep_values: bool,
        workers: int,
        render: Callable[[Batch], Views] | None,
    ) -> None:
        self.source, self.seed, self.canvas, self.keep_values = source, seed, canvas, keep_values
        self.render = render
        self.batch_size, self.local, self.rank = batch_size, batch_size // world_size, rank
        self.steps_per_epoch = len(source) // batch_size
        self.order = lru_cache(maxsize=2)(self._order)
        # what every worker has in hand (its process, an image): readable when it has died
        self.in_hand = torch.full((workers, 2), -1).share_memory_() if workers else None

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "order"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.order = lru_cache(maxsize=2)(self._order)

    def _order(self, epoch: int) -> np.ndarray:
        return epoch_order(len(self.source), seed=self.seed, epoch=epoch)

    def __getitem__(self, step: int) -> Raw:
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        start = step_in_epoch * self.batch_size + self.rank * self.local
        order, images, indices = self.order(epoch), [], []
        failures: list[tuple[int, str]] = []
        altered: list[int] = []
        for position in range(start, start + self.local):
            loaded = self._load(order, position, failures)
            if loaded is None:  # the training process raises; an error raised here would arrive as a traceback
                nothing = torch.empty(0)
                return nothing, nothing, nothing, nothing, epoch, failures, altered, None
            indices.append(loaded[0])
            images.append(loaded[1])
            if changed(self.source, loaded[0]):
                altered.append(loaded[0])
        pixels, sizes = stack(images, canvas=self.canvas, keep_values=self.keep_values)
        positions, places, views = torch.arange(start, start + self.local), torch.tensor(indices), None
        if self.render is not None:
            views = self.render(Batch(pixels, sizes, positions, places, epoch))
            pixels = torch.empty(*pixels.shape[:2], 0, 0, dtype=pixels.dtype)
        return pixels, sizes, positions, places, epoch, failures, altered, views

    def _load(self, order: np.ndarray, position: int, failures: list[tuple[int, str]]) -> tuple[int, np.ndarray] | None:
        """The image at a position, or at a far position of the same epoch that is readable: never a neighbor, which
        would show one image twice in a batch. None where nothing could be read."""
        for attempt in range(ATTEMPTS):
            place = (position + (len(order) // 2 + attempt - 1 if attempt else 0)) % len(order)
            index = int(order[place])
            self._note(index)
            try:
                return index, self.source.load(index)
            except UnreadableImage as error:
                failures.append((index, str(error)))
        return None

    def _note(self, index: int) -> None:
        worker = get_worker_info()
        if worker is not None and self.in_hand is not None:
            self.in_hand[worker.id, 0], self.in_hand[worker.id, 1] = os.getpid(), index


class Loader:
    """Iterates over the batches of a run from `start` to its last step, decoding ahead in workers.

    Args:
        source: where the images come from, decoded to fit `canvas`.
        batch_size: images per step over all ranks; a multiple of `world_size`.
        epochs: passes over the data; the images that do not fill a last batch wait for the next epoch's order.
        start: first step to show.
        keep_values: see `stack`.
        pin: copy batches to page-locked memory, for CUDA.
        render: makes the views of a batch where it is decoded, so in a worker; its pixels then stay there. For training on
            the CPU: an accelerator makes them faster, and from fewer bytes.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        canvas: int,
        workers: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        keep_values: bool = False,
        pin: bool = False,
        render: Callable[[Batch], Views] | None = None,
    ) -> None:
        if batch_size > len(source):
            raise UserError(
                f"batch_size is {batch_size}, but {source.spec} has only {len(source)} images; "
                f"use --batch-size {max(2, len(source) // 2)} or less"
            )
        if batch_size % world_size:
            raise UserError(f"batch_size {batch_size} must be a multiple of the {world_size} processes")
        steps = _Steps(
            source,
            batch_size=batch_size,
            seed=seed,
            canvas=canvas,
            rank=rank,
            world_size=world_size,
            keep_values=keep_values,
            workers=workers,
            render=render,
        )
        self.source, self.in_hand = source, steps.in_hand
        self.steps_per_epoch = steps.steps_per_epoch
        self.total_steps = epochs * self.steps_per_epoch
        self._batches: DataLoader[Raw] = DataLoader(
            steps,
            sampler=range(start, self.total_steps),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            pin_memory=pin,
            worker_init_fn=leave_signals_to_the_run,
        )

    def __iter__(self) -> Iterator[Batch]:
        batches = begin(self._batches)
        while True:
            try:
                pixels, sizes, positions, indices, epoch, failures, altered, views = next_of(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if (explained := self.explain(error)) is None:
                    raise
                raise explained from error
            if not len(pixels):
                index, reason = failures[-1]
                raise RunError(
                    f"{ATTEMPTS} files in a row cannot be read, the last of them {self.source.describe(index)}: {reason}"
                )
            broken = [(int(i), reason) for i, reason in failures]
            yield Batch(pixels, sizes, positions, indices, int(epoch), broken, [int(i) for i in altered], views)

    def explain(self, error: RuntimeError) -> RunError | None:
        """The death of a worker, with the file that it had in hand; None for any other error. torch raises it in whatever
        the training process does when its child dies, so the loop asks too."""
        if "DataLoader worker" not in str(error):
            return None
        named = re.search(r"pid\S* ([\d, ]+)", str(error))
        dead = {int(number) for number in named[1].replace(",", " ").split()} if named else set()
        hands = [] if self.in_hand is None else self.in_hand.tolist()
        files = [self.source.describe(index) for process, index in hands if process in dead and index >= 0]
        what = f"while it had {', '.join(files)} in hand" if files else "before it opened a file"
        return RunError(
            f"a decoding process died {what} ({str(error).strip()}). If that file is at fault, take it away: it then counts "
            "as unreadable and the same command goes on. If memory ran out, use fewer --runtime.workers or a smaller "
            "--loader.decode-size"
        )


_workers: WeakSet[BaseProcess] = WeakSet()


def begin(loader: DataLoader[T]) -> Iterator[T]:
    """Starts the workers of a loader; those that are left when this process ends are killed."""
    if sys.unraisablehook is not _unraisable:
        _unraisable.otherwise, sys.unraisablehook = sys.unraisablehook, _unraisable
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    _workers.update(set(multiprocessing.active_children()) - before)
    return batches


class _Unraisable:
    """Is silent about a worker's death where no exception can leave. torch raises it from a signal handler in whatever runs
    at that moment, which may be a `__del__` or the end of the process; the next batch asked for raises it again."""

    otherwise: Callable[[Any], object] = sys.__unraisablehook__

    def __call__(self, unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and "DataLoader worker" in str(unraisable.exc_value)):
            self.otherwise(unraisable)


_unraisable = _Unraisable()


@atexit.register
def _end_workers() -> None:
    """multiprocessing would ask them with SIGTERM, which they leave to the run, and wait for ever."""
    for worker in _workers:
        if worker._parent_pid == os.getpid() and worker.is_alive():  # type: ignore[attr-defined]
            worker.kill()


def next_of(batches: Iterator[T]) -> T:
    """The next batch of a DataLoader. A worker that dies while it hands one over breaks the pipe before torch has heard of
    its death; asked again, torch says so."""
    try:
        return next(batches)
    except (EOFError, ConnectionError):
        return next(batches)


def leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C, a scheduler or `timeout` signal the whole group: the training process saves first, then ends its workers."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
