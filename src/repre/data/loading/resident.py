"""All images of a run in the memory of its device: each is decoded once, and a batch is selected there.

Then no process decodes during the training, and nothing is copied or waited for. Batches are those of the ordinary loader,
bit by bit, but a file is read at the start only: what becomes of it later plays no part. Every process of a run holds all
images, because each epoch gives it others of them.

    N  images that can be read    B  images in the batch    C  channels    K  side of the canvas
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from repre.data.io.cache_folders import decoded_sizes
from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source
from repre.data.loading.feeder import RENDERED_AT_ONCE
from repre.data.loading.loader import Parts, stack
from repre.data.loading.slots import SlotRing
from repre.data.loading.sub_batches import MOST_IMAGES, CanvasJoiner, Cut, cut_batch
from repre.data.loading.workers import in_workers
from repre.errors import counted
from repre.utils.device import machine_bytes

Memory = Literal["auto", "off", "on"]
SHARES: dict[Memory, float] = {"auto": 0.1, "on": 0.5}
"""Share of the free memory that the images may take. Canvases that turn out too small are there beside larger ones for a
moment."""


@dataclass
class _Piece:
    """Some images of a source as a worker read them; `pixels` and `sizes` are None where none can be read."""

    pixels: Tensor | None = None
    sizes: Tensor | None = None
    indices: list[int] = field(default_factory=list)
    types: set[str] = field(default_factory=set)
    unreadable: dict[int, str] = field(default_factory=dict)
    several: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)


class _Pieces(Dataset[_Piece]):
    """Item n is the n-th piece of a source, in the order of its images."""

    def __init__(self, files: Parts, cut: Cut) -> None:
        self.files, self.cut = files, cut

    def __getitem__(self, number: int) -> _Piece:
        piece, images = _Piece(), []
        for index in range(len(self.files.source))[self.cut.rows(number, len(self.files.source))]:
            try:
                image, several = self.files.read(index)
            except UnreadableImage as error:
                piece.unreadable[index] = str(error)
                continue
            images.append(image)
            piece.indices.append(index)
            piece.types.add(image.dtype.name)
            piece.several += [index] * several
            piece.changed += [index] * self.files.is_changed(index)
        if len(piece.types) == 1:
            pixels, piece.sizes = stack(images)
            assert isinstance(pixels, Tensor), "they have one type"
            piece.pixels = pixels
        return piece


class ResidentParts(Parts):
    """The sub-batches of a run whose images are in the memory of its device; see `Parts`.

    Args:
        files: the sub-batches that are read from files.
        pixels: [N, C, K, K] on the device.
        read: everything else that the workers found.
    """

    def __init__(self, files: Parts, pixels: Tensor, read: _Piece) -> None:
        local = files.order.batch_size // files.order.world_size
        parts = math.ceil(local / RENDERED_AT_ONCE)
        cut = Cut(math.ceil(local / parts), parts, workers=0, prefetch=0, extra=0, slot_bytes=0)
        super().__init__(files.source, files.order, cut)
        assert read.sizes is not None, "an image could be read"
        self._pixels, self._sizes = pixels, read.sizes
        self._rows = {index: row for row, index in enumerate(read.indices)}
        self._unreadable, self._several, self._changed = read.unreadable, set(read.several), set(read.changed)

    def read(self, index: int) -> tuple[int, bool]:
        """The row of an image, and whether its file has several frames.

        Raises:
            UnreadableImage: the file could not be read.
        """
        if (reason := self._unreadable.get(index)) is not None:
            raise UnreadableImage(reason)
        return self._rows[index], index in self._several

    def is_changed(self, index: int) -> bool:
        """Whether the file changed between the begin of the run and when it was read."""
        return index in self._changed

    def stack(self, images: list[Any]) -> tuple[Tensor, Tensor]:
        """The canvases [B, C, k, k] and sizes [B, 2] of rows; k is the longest side of these images, as in `stack`."""
        rows = torch.tensor(images)
        sizes = self._sizes[rows]
        side = int(sizes.max())
        pixels = self._pixels.permute(0, 2, 3, 1)[:, :side, :side]
        if pixels.dtype == torch.uint16:
            pixels = pixels.view(torch.int16)  # the same bits, because torch selects no uint16 on CUDA
        if pixels.is_cuda:
            rows = rows.pin_memory()
        chosen = pixels.index_select(0, rows.to(pixels.device, non_blocking=True)).view(self._pixels.dtype)
        return chosen.permute(0, 3, 1, 2), sizes


def keep_resident(
    files: Parts,
    *,
    memory: Memory,
    device: torch.device,
    canvas: int,
    workers: int,
    in_flight_gib: float,
    log: Callable[[str], object],
) -> ResidentParts | None:
    """Decodes all images into the memory of the device; None, with a line that says why, where that cannot be.

    Args:
        files: the sub-batches that are read from files.
        memory: `auto` or `on`.
        canvas: largest side of an image.
        workers: processes that decode.
        in_flight_gib: largest size of what they make ahead.
        log: prints a message.
    """
    where = "memory" if device.type == "cpu" else "device memory"

    def check(size: int) -> None:
        if size > SHARES[memory] * free_bytes(device):
            share = f"{SHARES[memory]:.0%} of what is free (loader.memory {memory})"
            raise _CannotKeep(f"{size / 2**30:.2f} GiB is more than {share}")

    try:
        check(resident_bytes(files.source))
        log(f"decoding {counted(len(files.source), 'image')} once, to keep them in {where}")
        pieces = _read_all(files, canvas=canvas, workers=workers, in_flight_gib=in_flight_gib)
        pixels, read = _join(pieces, len(files.source), device, check)
    except _CannotKeep as reason:
        log(f"images are not kept in {where}: {reason}")
        return None
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # they will be read on another stream
    size = pixels.untyped_storage().nbytes() / 2**30
    log(f"{counted(len(pixels), 'image')} {'is' if len(pixels) == 1 else 'are'} kept in {where} ({size:.2f} GiB)")
    return ResidentParts(files, pixels, read)


class _CannotKeep(Exception):
    """The images cannot be kept in memory; the message says why."""


def _read_all(files: Parts, *, canvas: int, workers: int, in_flight_gib: float) -> Iterator[_Piece]:
    """Yields all pieces; one stays as it is until the next is requested."""
    count, image_bytes = len(files.source), canvas**2 * files.source.channels * 4 + 4096
    cut, ring = Cut(MOST_IMAGES, math.ceil(count / MOST_IMAGES), 0, 0, 0, 0), None
    if workers:
        budget = int(in_flight_gib * 2**30)
        cut = cut_batch(count, image_bytes=image_bytes, workers=workers, budget=budget, extra=1)
        ring = SlotRing(cut.slots, cut.slot_bytes)
    data = _Pieces(files, cut)
    return in_workers(data, range(cut.parts), workers=cut.workers, ring=ring, prefetch=cut.prefetch)


def _join(
    pieces: Iterator[_Piece], count: int, device: torch.device, check: Callable[[int], None]
) -> tuple[Tensor, _Piece]:
    """The pixels of all images [N, C, K, K] on the device, and all else of the pieces.

    Args:
        count: images that there are at most.
        check: refuses a number of bytes.
    """
    joiner, whole, sizes = CanvasJoiner(count, device=device), _Piece(), []
    for piece in pieces:
        whole.types |= piece.types
        if len(whole.types) > 1:
            raise _CannotKeep(f"their values have several types: {', '.join(sorted(whole.types))}")
        whole.indices += piece.indices
        whole.unreadable |= piece.unreadable
        whole.several += piece.several
        whole.changed += piece.changed
        if piece.pixels is not None and piece.sizes is not None:
            if joiner.pixels is None or joiner.pixels.shape[-1] < piece.pixels.shape[-1]:
                check(count * piece.pixels[0].numel() * piece.pixels.itemsize)
            joiner.add(piece.pixels)
            sizes.append(piece.sizes.clone())
    if not sizes:
        raise _CannotKeep("none can be read")
    whole.sizes = torch.cat(sizes)
    assert isinstance(joiner.pixels, Tensor), "they have one type"
    return joiner.pixels, whole


def is_wanted(memory: Memory, *, device: torch.device, epochs: int) -> bool:
    """Whether a run keeps its images in the memory of the device if they fit: `auto` does on CUDA in several epochs."""
    return memory == "on" or (memory == "auto" and device.type == "cuda" and epochs > 1)


def planned_bytes(source: Source, *, memory: Memory, device: torch.device, epochs: int) -> int:
    """About how many bytes of the device the images of a run will take; 0 if they will not be kept there."""
    if not is_wanted(memory, device=device, epochs=epochs):
        return 0
    size = resident_bytes(source)
    return size if size <= SHARES[memory] * free_bytes(device) else 0


def resident_bytes(source: Source) -> int:
    """About how many bytes all images take on canvases that fit the largest of them, by the headers of some files."""
    sizes = decoded_sizes(source)
    side = math.ceil(max(max(height, width) for height, width, _ in sizes))
    return len(source) * side**2 * source.channels * max(itemsize for _, _, itemsize in sizes)


def free_bytes(device: torch.device) -> int:
    """Bytes of a device that images could take: what is free on CUDA, elsewhere all memory of the machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return machine_bytes()
