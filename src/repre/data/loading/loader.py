"""From a source to batches: a seeded order, worker processes, replacements for unreadable files, exact resume.

`order` decides which images a step shows, so that nothing depends on the number of ranks or workers, and `workers` runs
the processes. A resumed run starts its loader at the step where it stopped.

    B  images in the local batch    C  channels    K  side of the canvas
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source
from repre.data.loading.manifest import changed_during_run
from repre.data.loading.order import RunOrder
from repre.data.loading.workers import in_workers, load_tracked
from repre.errors import RunError, UserError
from repre.types import Batch, Views
from repre.utils.config_checks import check_fields

ATTEMPTS = 32
"""Images tried for one position of the order before the run stops."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """From files to stacked pixels."""

    decode_size: int = 0
    """Side of the square that images are stacked on; larger images are shrunk to fit it, with antialiasing.
    0: twice the side of the global views."""
    max_unreadable: float = 0.05
    """Share of unreadable files above which the run stops; up to it they are skipped, counted and listed."""

    def __post_init__(self) -> None:
        check_fields(self, "loader")
        if self.decode_size < 0:
            raise UserError(f"loader.decode_size must not be negative, not {self.decode_size}")
        if not 0 <= self.max_unreadable <= 1:
            raise UserError(f"loader.max_unreadable is a share and must lie in [0, 1], not {self.max_unreadable}")


def stack(images: list[np.ndarray], *, canvas: int, keep_values: bool = False) -> tuple[Tensor, Tensor]:
    """Stacks images [H, W, C] of any size on a square canvas.

    Images of one dtype keep it. Mixed dtypes become float32: integers are divided by their largest value, unless
    `keep_values` is set (for a declared value range).

    Returns:
        Pixels [B, C, K, K], channels last in memory, zero beyond every image; and sizes [B, 2] (height, width), int64.
    """
    if len({image.dtype for image in images}) > 1:
        images = [image.astype(np.float32) if keep_values else _to_unit_range(image) for image in images]
    sizes = torch.tensor([image.shape[:2] for image in images])
    pixels = np.zeros((len(images), canvas, canvas, images[0].shape[2]), dtype=images[0].dtype)
    for square, image in zip(pixels, images):
        square[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), sizes


def _to_unit_range(image: np.ndarray) -> np.ndarray:
    top = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
    return image.astype(np.float32) / np.float32(top)


class _LocalBatch(Batch):
    """A batch whose pixels torch can copy to page-locked memory; everything else is read on the CPU."""

    def pin_memory(self) -> "_LocalBatch":
        return replace(self, pixels=self.pixels.pin_memory())


class _Steps(Dataset[Batch | RunError]):
    """Item t is the local batch of step t. It is decoded in the process that asks for it, usually a worker."""

    def __init__(
        self,
        source: Source,
        order: RunOrder,
        *,
        canvas: int,
        keep_values: bool,
        render: Callable[[Batch], Views] | None,
    ) -> None:
        self.source, self.order = source, order
        self.canvas, self.keep_values, self.render = canvas, keep_values, render

    def __getitem__(self, step: int) -> Batch | RunError:
        epoch, positions = self.order.positions(step)
        images: list[np.ndarray] = []
        indices: list[int] = []
        failures: list[tuple[int, str]] = []
        for position in positions:
            loaded = self._load(epoch, position, failures)
            if loaded is None:
                index, reason = failures[-1]
                return RunError(
                    f"{ATTEMPTS} files in a row cannot be read; the last one is {self.source.describe(index)}: {reason}"
                )
            indices.append(loaded[0])
            images.append(loaded[1])
        pixels, sizes = stack(images, canvas=self.canvas, keep_values=self.keep_values)
        batch = _LocalBatch(
            pixels=pixels,
            sizes=sizes,
            positions=torch.arange(positions.start, positions.stop),
            indices=torch.tensor(indices),
            epoch=epoch,
            failures=failures,
            changed=[index for index in indices if changed_during_run(self.source, index)],
        )
        if self.render is None:
            return batch
        no_pixels = torch.empty(*pixels.shape[:2], 0, 0, dtype=pixels.dtype)
        return replace(batch, pixels=no_pixels, views=self.render(batch))

    def _load(self, epoch: int, position: int, failures: list[tuple[int, str]]) -> tuple[int, np.ndarray] | None:
        """Index and pixels of the image at a position or of a replacement; None if all attempts fail."""
        for attempt in range(ATTEMPTS):
            index = self.order.index(epoch, position, attempt=attempt)
            try:
                return index, load_tracked(self.source, index)
            except UnreadableImage as error:
                failures.append((index, str(error)))
        return None


class Loader:
    """Iterates over the batches of a run from step `start` to its last step; workers decode ahead.

    Args:
        source: where the images come from, decoded to fit `canvas`.
        batch_size: images per step over all ranks; a multiple of `world_size`.
        epochs: passes over the data. Images that do not fill a last batch are left out of their epoch.
        canvas: side K of the square that images are stacked on.
        workers: number of worker processes; 0 decodes in this process.
        start: first step to show.
        keep_values: see `stack`.
        pin: copy batches to page-locked memory, for CUDA.
        render: makes the views of a batch in the worker; the pixels then stay there. For training on the CPU: an
            accelerator makes views faster, and from fewer bytes.

    Raises:
        UserError: the batch is larger than the source or cannot be divided among the ranks.
        RunError, while iterating: too many files in a row are unreadable, or a worker died.
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
        order = RunOrder(count=len(source), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.source, self.steps_per_epoch = source, order.steps_per_epoch
        self.total_steps = epochs * self.steps_per_epoch
        self._start, self._workers, self._pin = start, workers, pin
        self._steps = _Steps(source, order, canvas=canvas, keep_values=keep_values, render=render)

    def __iter__(self) -> Iterator[Batch]:
        return in_workers(self._steps, range(self._start, self.total_steps), workers=self._workers, pin=self._pin)
