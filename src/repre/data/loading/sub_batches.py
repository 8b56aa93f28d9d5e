"""How the local batch of a step is cut into the sub-batches that workers make, and joined again.

All workers then work on the first batch together, and what they make ahead is bounded in bytes for any batch size and number
of workers. The cut changes neither the order nor the views, which are functions of an image's position.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from repre.data.loading.slots import leaves, map_leaves
from repre.data.loading.workers import PREFETCH
from repre.types import Batch, Canvases, MixedCanvases, ViewParameters

MOST_IMAGES = 16
"""Images of a sub-batch. Fewer make more messages; more make the first batch late and its shares uneven."""

STEPS_AHEAD = 1
"""Steps that all workers together make ahead, if the budget allows. With less, few workers stop before the training has
finished its step, and it waits for the rest of the next one."""


@dataclass(frozen=True)
class Cut:
    """How a local batch is cut, and how much is made ahead.

    Attributes:
        images: in a sub-batch; the last one of a step may be smaller.
        parts: sub-batches of a step.
        workers: worker processes.
        prefetch: sub-batches that each worker makes ahead.
        extra: slots that the consumer reads from.
        slot_bytes: largest size of a sub-batch.
    """

    images: int
    parts: int
    workers: int
    prefetch: int
    extra: int
    slot_bytes: int

    @property
    def slots(self) -> int:
        """Number of slots."""
        return self.workers * self.prefetch + self.extra

    def rows(self, part: int, local: int) -> slice:
        """The samples of the local batch that a sub-batch holds."""
        return slice(part * self.images, min((part + 1) * self.images, local))


def cut_batch(local: int, *, image_bytes: int, workers: int, budget: int, extra: int) -> Cut:
    """The largest sub-batches whose slots fit a budget.

    Where even one image per slot does not fit, fewer images are made ahead and fewer workers are used; one worker always is.

    Args:
        local: images of the local batch.
        image_bytes: largest size of what a worker hands over for one image.
        workers: worker processes; with 0 the batch is not cut, because nothing is in flight.
        budget: bytes.
        extra: slots that the consumer reads from.
    """
    if not workers:
        return Cut(local, 1, 0, 0, 0, 0)
    fitting = budget // image_bytes
    prefetch = PREFETCH if workers * PREFETCH + extra <= fitting else 1
    workers = max(1, min(workers, fitting - extra))
    images = max(1, min(MOST_IMAGES, local, fitting // (workers * prefetch + extra)))
    parts = -(-local // images)
    images = -(-local // parts)  # of equal size
    ahead = -(-STEPS_AHEAD * parts // workers)
    prefetch = max(prefetch, min(ahead, (fitting // images - extra) // workers))
    return Cut(images, parts, workers, prefetch, extra, images * image_bytes)


class Joiner:
    """Writes the tensors of one part after another into tensors of the whole, [count, ...] instead of [n, ...].

    Args:
        count: length of the whole.
        device: where the whole is; None: where the parts are.
        pin: the whole lies in page-locked memory.

    Attributes:
        whole: an item of the structure of the parts; None before the first.
    """

    def __init__(self, count: int, *, device: torch.device | None = None, pin: bool = False) -> None:
        self.count, self.device, self.pin, self.filled = count, device, pin, 0
        self.whole: Any = None

    def add(self, part: Any) -> None:
        """Copies the next part; all parts have one structure, and tensors in the same places have the same type."""
        tensors = leaves(part)
        if self.whole is None:
            self.whole = map_leaves(self._allocate, part, (Tensor,))
            self._targets = leaves(self.whole)
        for target, tensor in zip(self._targets, tensors, strict=True):
            target[self.filled : self.filled + len(tensor)].copy_(tensor, non_blocking=True)
        self.filled += len(tensors[0])

    def _allocate(self, part: Tensor) -> Tensor:
        return torch.empty_strided(
            (self.count, *part.shape[1:]),
            (part[0].numel(), *part.stride()[1:]),
            dtype=part.dtype,
            device=self.device or part.device,
            pin_memory=self.pin,
        )


class CanvasJoiner:
    """Joins canvases [n, C, K, K]: of each type on the largest side among them, zero beyond the others.

    Args:
        count: canvases of all types.
        device: where they come together; None: where the parts are.
        pin: they lie in page-locked memory.

    Attributes:
        filled: canvases that were added.
    """

    def __init__(self, count: int, *, device: torch.device | None = None, pin: bool = False) -> None:
        self.count, self.device, self.pin, self.filled = count, device, pin, 0
        self._types: dict[torch.dtype, _OneType] = {}
        self._rows: dict[torch.dtype, list[Tensor]] = {}

    def add(self, part: Canvases) -> None:
        """Copies the canvases of the next part."""
        if isinstance(part, Tensor):
            part = MixedCanvases([part], [torch.arange(len(part))])
        for group, rows in zip(part.groups, part.rows):
            if group.dtype not in self._types:  # a second type is rare in its batch, so room is made when it comes
                room = len(group) if self._types else self.count
                self._types[group.dtype] = _OneType(room, device=self.device, pin=self.pin)
            self._types[group.dtype].add(group)
            self._rows.setdefault(group.dtype, []).append(rows + self.filled)
        self.filled += part.shape[0]

    @property
    def pixels(self) -> Canvases | None:
        """All canvases that were added, without a copy; None before the first."""
        groups = [one.whole[: one.filled] for one in self._types.values()]
        if len(groups) > 1:
            return MixedCanvases(groups, [torch.cat(rows) for rows in self._rows.values()])
        return groups[0] if groups else None


class _OneType(Joiner):
    """Joins canvases of one type; makes room where there are more than `count`."""

    def add(self, part: Tensor) -> None:
        """Copies the canvases of the next part."""
        if self.whole is None:
            super().add(part)
            return
        needed, side = self.filled + len(part), max(self.whole.shape[-1], part.shape[-1])
        if needed > self.count or side > self.whole.shape[-1]:
            there = self.whole[: self.filled]
            self.count = self.count if needed <= self.count else 2 * needed
            self.whole = self._allocate(part if part.shape[-1] == side else self.whole)
            _to_corner(self.whole[: self.filled], there)
            self._targets = [self.whole]
        if part.shape[-1] == side:
            super().add(part)
        else:  # to the device as it is: copies that rearrange on the way are slow
            smaller = part.to(self.whole.device, non_blocking=True)
            _to_corner(self.whole[self.filled : needed], smaller)
            self.filled = needed


def _to_corner(canvases: Tensor, smaller: Tensor) -> None:
    side = smaller.shape[-1]
    canvases.zero_()
    canvases[..., :side, :side] = smaller


class BatchJoiner:
    """Joins sub-batches into one batch.

    Args:
        count: images of the batch.
        device: where the pixels of the batch are; None: on the CPU.
        pin: its pixels lie in page-locked memory.
    """

    def __init__(self, count: int, *, device: torch.device | None = None, pin: bool = False) -> None:
        self._pixels = CanvasJoiner(count, device=device, pin=pin)
        self._rest = Joiner(count)
        self._last: Batch | None = None
        self._failures: list[tuple[int, str]] = []
        self._changed: list[int] = []
        self._several_frames: list[int] = []
        self._parameters: list[list[ViewParameters] | None] = []
        self._masked: list[tuple[Tensor, int]] = []
        self._count = count

    def add(self, part: Batch) -> None:
        """Copies a sub-batch."""
        self._pixels.add(part.pixels)
        views = part.views
        if views is not None and views.masked is not None:
            self._masked.append((views.masked, len(part.positions)))
            views = replace(views, masked=None)
        self._rest.add([part.sizes, part.positions, part.indices, views])
        self._parameters.append(part.parameters)
        self._failures += part.failures
        self._changed += part.changed
        self._several_frames += part.several_frames
        self._last = part

    def batch(self) -> Batch:
        """The whole batch, once all sub-batches are there."""
        pixels = self._pixels.pixels
        assert self._last is not None, "a batch has a part"
        assert pixels is not None, "a batch has a part"
        sizes, positions, indices, views = self._rest.whole
        if self._masked:
            views = replace(views, masked=_join_masked(self._masked, self._count, patches=views.masks[0][0].numel()))
        return replace(
            self._last,
            pixels=pixels,
            sizes=sizes,
            positions=positions,
            indices=indices,
            parameters=_join_parameters(self._parameters),
            views=views,
            failures=self._failures,
            changed=self._changed,
            several_frames=self._several_frames,
        )


def _join_parameters(parts: list[list[ViewParameters] | None]) -> list[ViewParameters] | None:
    """The parameters of all views of a batch, from those of its sub-batches; None if they were not drawn."""
    drawn = [part for part in parts if part is not None]
    return [ViewParameters.concatenate(view) for view in zip(*drawn)] if drawn else None


def _join_masked(parts: list[tuple[Tensor, int]], count: int, *, patches: int) -> Tensor:
    """`Views.masked` of `count` images, from that of each part and the images in it; without waiting for the device."""
    joined, start = [], 0
    for masked, images in parts:
        view = masked // (images * patches)  # what follows is the place within the images of the view
        joined.append(view * count * patches + start * patches + masked % (images * patches))
        start += images
    return torch.cat(joined).sort().values
