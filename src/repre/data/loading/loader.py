"""From a source to batches: a seeded order, worker processes, replacements for unreadable files, exact resume.

`order` decides which images a step shows, so that nothing depends on the number of ranks or workers, and `workers` runs
the processes. A resumed run starts its loader at the step where it stopped.

    B  images in the local batch    C  channels    K  side of the canvas
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from repre.data.io.cache_folders import CachedSource
from repre.data.io.decode import UnreadableImage
from repre.data.io.frame_notes import noting_frames
from repre.data.io.remote_address import REMOTE_GIB
from repre.data.io.sources import Source
from repre.data.loading import slots
from repre.data.loading.manifest import changed_during_run
from repre.data.loading.order import RunOrder, check_batch
from repre.data.loading.slots import SlotRing
from repre.data.loading.sub_batches import BatchJoiner, Cut, cut_batch
from repre.data.loading.workers import IN_FLIGHT_GIB, in_workers, load_tracked
from repre.data.views.augmentations import Range
from repre.errors import RunError, UserError
from repre.types import Batch, Canvases, MixedCanvases, ViewParameters, Views
from repre.utils.config_checks import check_fields
from repre.utils.image_size import Size, height_and_width
from repre.utils.printable_text import say
from repre.utils.shared_memory import check_semaphores

WHOLE = 512
"""Files of up to so many pixels a side, as most of ImageNet's, are not shrunk by default."""
LIKELY = 0.1
"""Share of the crops that may have fewer pixels than their view because of the default decode size."""
ATTEMPTS = 32
"""Images tried for one position of the order before the run stops."""
EXTRA_SLOTS = 4
"""Sub-batches that the consumer may read from at once; copies to a device are still running while it receives the next."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """From files to stacked pixels."""

    decode_size: int = 0
    """Images larger than a square of this side are shrunk to fit it, with antialiasing. 0: 512, or more if nine of
    ten crops of a 4:3 image would otherwise have fewer pixels than the view, such as 624 for crops of 8 to 100 % at
    224 px (docs/data.md)."""
    max_unreadable: float = 0.05
    """Share of unreadable files above which the run stops; up to it they are skipped, counted and listed."""
    in_flight_gib: float = IN_FLIGHT_GIB
    """Most memory in GiB for images that the workers of a rank prepare in advance. If it is too small, fewer workers
    are used, but at least one."""
    cache: Literal["auto", "off", "on"] = "auto"
    """Keep decoded images on the disk and read them in later epochs and runs. `auto`: if the run has several epochs, and all
    images fit `cache_gib` and leave free space on the disk."""
    cache_gib: float = 50.0
    """Largest size in GiB of all decoded images on the disk, in the folder `decoded` of $REPRE_CACHE or of the user's cache
    folder. The least recently used data are removed first."""
    memory: Literal["auto", "off", "on"] = "auto"
    """Keep all decoded images in the memory of the training device, so that a batch is selected there and no process decodes
    after the start. `auto`: on CUDA, if the run has several epochs, and all images need at most a tenth of the free
    memory. `on`: on any device, up to half of it."""
    remote_cache_gib: float = REMOTE_GIB
    """Largest size in GiB of the downloaded files of s3://, gs:// and https:// data on the disk, in the folder
    `remote` of $REPRE_CACHE or of the user's cache folder. The least recently used are removed first; 0 keeps none."""

    def __post_init__(self) -> None:
        check_fields(self, "loader")
        if not 0 <= self.max_unreadable <= 1:
            raise UserError(f"loader.max_unreadable is a share and must lie in [0, 1], not {self.max_unreadable}")
        if not self.in_flight_gib > 0:
            raise UserError(f"loader.in_flight_gib must be positive, not {self.in_flight_gib}")


def sufficient_size(crops: Iterable[tuple[Size, Range]]) -> int:
    """The decode size that leaves files of `WHOLE` pixels a side alone, and nine of ten crops with the pixels of their view.

    Args:
        crops: of every view, its size in pixels, and the lowest and highest share of an image of 4:3 that it covers.
    """
    sides: list[float] = [WHOLE]
    for size, (low, high) in crops:
        height, width = height_and_width(size)
        sides += [height, width, math.sqrt(height * width) / math.sqrt(3 / 4 * (low + LIKELY * (high - low)))]
    return 16 * math.ceil(max(sides) / 16)


class Draw(Protocol):
    """Draws the parameters of all views, as `repre.data.views.render.draw_views` with config and seed."""

    def __call__(self, sizes: Tensor, positions: Tensor, *, epoch: int) -> list[ViewParameters]: ...


def stack(images: list[np.ndarray]) -> tuple[Canvases, Tensor]:
    """Stacks images [H, W, C] of any size on square canvases whose side is the longest one of all images of their type.

    Returns:
        Pixels [B, C, K, K], channels last in memory, zero beyond every image; and sizes [B, 2] (height, width), int64.
    """
    sizes = torch.tensor([image.shape[:2] for image in images])
    by_type: dict[np.dtype[Any], list[int]] = {}
    for number, image in enumerate(images):
        by_type.setdefault(image.dtype, []).append(number)
    if len(by_type) == 1:
        return _stack(images), sizes
    rows = sorted(by_type.values(), key=len, reverse=True)
    groups = [_stack([images[number] for number in numbers]) for numbers in rows]
    return MixedCanvases(groups, [torch.tensor(numbers) for numbers in rows]), sizes


def _stack(images: list[np.ndarray]) -> Tensor:
    """Images of one type on canvases."""
    canvas = max(max(image.shape[:2]) for image in images)
    pixels = slots.empty((len(images), canvas, canvas, images[0].shape[2]), images[0].dtype)
    for square, image in zip(pixels, images):
        height, width = image.shape[:2]
        square[:height, :width] = image
        square[:height, width:] = 0
        square[height:] = 0
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


class Parts(Dataset[Batch | RunError]):
    """Item n is sub-batch n of the run. It is decoded in the process that asks for it, usually a worker."""

    def __init__(
        self,
        source: Source,
        order: RunOrder,
        cut: Cut,
        *,
        draw: Draw | None = None,
        render: Callable[[Batch], Views] | None = None,
    ) -> None:
        self.source, self.order, self.cut = source, order, cut
        self.draw, self.render = draw, render

    def __getitem__(self, number: int) -> Batch | RunError:
        step, part = divmod(number, self.cut.parts)
        epoch, positions = self.order.positions(step)
        positions = positions[self.cut.rows(part, len(positions))]
        images: list[Any] = []
        indices: list[int] = []
        failures: list[tuple[int, str]] = []
        several: list[int] = []
        for position in positions:
            loaded = self._load(epoch, position, failures)
            if loaded is None:
                index, reason = failures[-1]
                return RunError(
                    f"{ATTEMPTS} files in a row cannot be read; the last one is {self.source.describe(index)}: {reason}",
                    kind="data",
                )
            indices.append(loaded[0])
            images.append(loaded[1])
            if loaded[2]:
                several.append(loaded[0])
        with nullcontext() if self.render is None else slots.outside():
            pixels, sizes = self.stack(images)
        numbers = torch.arange(positions.start, positions.stop)
        batch = Batch(
            pixels=pixels,
            sizes=sizes,
            positions=numbers,
            indices=torch.tensor(indices),
            epoch=epoch,
            failures=failures,
            parameters=None if self.draw is None else self.draw(sizes, numbers, epoch=epoch),
            changed=[index for index in indices if self.is_changed(index)],
            several_frames=several,
        )
        return batch if self.render is None else replace(without_pixels(batch), views=self.render(batch))

    def read(self, index: int) -> tuple[Any, bool]:
        """An image, and whether its file has several frames.

        Raises:
            UnreadableImage: the file cannot be read.
        """
        with noting_frames() as note:
            image = load_tracked(self.source, index)
        return image, note.several

    def is_changed(self, index: int) -> bool:
        """Whether the file of an image changed after the run began."""
        return changed_during_run(self.source, index)

    def stack(self, images: list[Any]) -> tuple[Canvases, Tensor]:
        """Pixels and sizes of images that were read; see `stack`."""
        return stack(images)

    def _load(self, epoch: int, position: int, failures: list[tuple[int, str]]) -> tuple[int, Any, bool] | None:
        """Index and pixels of the image at a position or of a replacement, and whether its file has several frames; None if
        all attempts fail."""
        for attempt in range(ATTEMPTS):
            index = self.order.index(epoch, position, attempt=attempt)
            try:
                return index, *self.read(index)
            except UnreadableImage as error:
                failures.append((index, str(error)))
        return None


class Loader:
    """Iterates over the batches of a run from step `start` to its last step; workers decode ahead.

    Workers hand over sub-batches (`sub_batches`), so that what is in flight is bounded in bytes.

    Args:
        source: where the images come from, decoded to fit `canvas`.
        batch_size: images per step over all ranks; a multiple of `world_size`.
        epochs: passes over the data. Images that do not fill a last batch are left out of their epoch.
        canvas: largest side K of the squares that images are stacked on; each batch takes the longest side of its images.
        workers: number of worker processes; 0 decodes in this process.
        start: first step to show.
        pin: the pixels lie in page-locked memory, for CUDA.
        draw: draws the parameters of the views of images of these sizes at these positions of an epoch, in the worker, so
            that the device's process need not.
        render: makes the views of a sub-batch in the worker; the pixels then stay there. For training on the CPU: an
            accelerator makes views faster, and from fewer bytes.
        in_flight_gib: largest size of what the workers make ahead.
        keep: gives the parts of a run whose images are in the memory of its device, from those that are read from files, or
            None if these are to be used; called before the first batch.
        log: prints a message for the user.

    Attributes:
        total_steps: last step of the run.
        local: images of the local batch.
        is_resident: the images are in the memory of the device; see `prepare`.

    Raises:
        UserError: the batch is larger than the source or cannot be divided among the ranks, or /dev/shm is too small.
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
        pin: bool = False,
        draw: Draw | None = None,
        render: Callable[[Batch], Views] | None = None,
        in_flight_gib: float = IN_FLIGHT_GIB,
        keep: Callable[[Parts], Parts | None] | None = None,
        log: Callable[[str], object] = say,
    ) -> None:
        check_batch(batch_size, images=len(source), spec=source.spec, processes=world_size)
        order = RunOrder(count=len(source), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.source, self.steps_per_epoch = source, order.steps_per_epoch
        self.total_steps = epochs * self.steps_per_epoch
        self.start, self.local = start, batch_size // world_size
        self._pin, self._keep, self._log = pin, keep, log
        self.is_resident = False
        image_bytes = _largest_bytes(canvas, source.channels, render) if workers else 0
        self.cut = cut_batch(
            self.local, image_bytes=image_bytes, workers=workers, budget=int(in_flight_gib * 2**30), extra=EXTRA_SLOTS
        )
        check_semaphores(self.cut.workers)  # now, not after the first validation
        if self.cut.workers < workers:
            log(
                f"{self.cut.workers} of {workers} workers decode: images of up to {image_bytes / 2**20:.1f} MiB do not fit "
                f"{in_flight_gib} GiB; use a smaller --loader.decode-size or a larger --loader.in-flight-gib"
            )
        self._data = Parts(source, order, self.cut, draw=draw, render=render)

    def prepare(self) -> None:
        """Reads all images now if the run keeps them in the memory of its device; comes before `ring` and `parts`."""
        keep, self._keep = self._keep, None
        if keep is not None and (resident := keep(self._data)) is not None:
            self._data, self.cut, self.is_resident = resident, resident.cut, True
            self.report()

    def parts(self, ring: SlotRing | None) -> Iterator[Batch]:
        """The sub-batches in order, `cut.parts` of them for every step.

        They are views of the slots of a ring made by `ring`: each stays as it is until `EXTRA_SLOTS` more are requested.
        """
        numbers = range(self.start * self.cut.parts, self.total_steps * self.cut.parts)
        return in_workers(self._data, numbers, workers=self.cut.workers, ring=ring, prefetch=self.cut.prefetch)

    def ring(self) -> SlotRing | None:
        """New slots for the sub-batches; None without workers, where a sub-batch has its own memory."""
        return SlotRing(self.cut.slots, self.cut.slot_bytes) if self.cut.workers else None

    def __iter__(self) -> Iterator[Batch]:
        self.prepare()
        ring = self.ring()
        parts = self.parts(ring)
        if ring is None and self.cut.parts == 1 and not self._pin:
            for part in parts:
                self.report()
                yield part
            return
        for _ in range(self.start, self.total_steps):
            joiner = BatchJoiner(self.local, pin=self._pin)
            for part in islice(parts, self.cut.parts):
                joiner.add(part)
            self.report()
            yield joiner.batch()

    def report(self) -> None:
        """Prints what the workers have to say."""
        if isinstance(self.source, CachedSource) and (notice := self.source.cache.notice()) is not None:
            self._log(notice)


def without_pixels(batch: Batch) -> Batch:
    """The batch with pixels [B, C, 0, 0]."""
    return replace(batch, pixels=torch.empty(*batch.pixels.shape[:2], 0, 0, dtype=torch.uint8))


def _largest_bytes(canvas: int, channels: int, render: Callable[[Batch], Views] | None) -> int:
    """The most bytes that a worker hands over for one image: its canvas in float32, or its views; and 4 KiB of numbers."""
    if render is None:
        return canvas**2 * channels * 4 + 4096
    one = torch.zeros(1, dtype=torch.int64)
    pixels = torch.zeros(1, channels, canvas, canvas, dtype=torch.uint8)
    views = render(Batch(pixels, torch.full((1, 2), canvas), one, one, epoch=0))
    return sum(view.numel() * view.itemsize for view in slots.leaves(views)) + 4096
