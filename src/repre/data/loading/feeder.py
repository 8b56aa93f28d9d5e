"""Feeds a training with the batches and views of its steps, made while the step before is computed.

On CUDA the canvases go from the workers' slots to the device, and views are made of them, on a stream of their own, and from
a part of the step at a time: the canvases of a large batch are never on the device together. On the CPU the workers make the
views. Views are functions of positions, so they do not depend on how a step is cut.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from repre.data.loading.loader import EXTRA_SLOTS, Loader, without_pixels
from repre.data.loading.slots import PAGE, SlotRing, leaves
from repre.data.loading.sub_batches import BatchJoiner
from repre.types import Batch, Views

RENDERED_AT_ONCE = 256
"""Images whose canvases are on the device at once, and become views together."""


_Step = tuple[Batch, Views, Any]
"""A batch without pixels, its views, and the moment when they are complete."""


class Lane:
    """Runs copies to a device and the views: here in the order of the calls; `CudaLane` runs them beside the training."""

    def running(self) -> AbstractContextManager[Any]:
        """A context for the work of this lane."""
        return nullcontext()

    def mark(self) -> Any:
        """The moment when all work that was issued so far is done."""
        return None

    def wait(self, mark: Any) -> None:
        """Blocks this process until a moment."""

    def hand_over(self, tensors: list[Tensor], mark: Any) -> None:
        """Lets the caller's work use tensors of the lane that are complete at a moment."""

    def lock(self, slot: Tensor, used: int) -> None:
        """Page-locks the first bytes of a slot, so that copies from it need no wait; they work without it as well."""

    def close(self) -> None:
        """Ends the use of slots."""


class CudaLane(Lane):
    """A stream of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        self._locked: dict[int, int] = {}  # bytes by address
        self._refused = False

    def running(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self.stream)

    def mark(self) -> torch.cuda.Event:
        return self.stream.record_event()

    def wait(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()

    def hand_over(self, tensors: list[Tensor], mark: torch.cuda.Event) -> None:
        current = torch.cuda.current_stream(self.device)
        current.wait_event(mark)
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(current)  # else the lane could reuse its memory before the training has read it

    def lock(self, slot: Tensor, used: int) -> None:
        address, size = slot.data_ptr(), -(-used // PAGE) * PAGE
        if self._refused or self._locked.get(address, 0) >= size:
            return
        if address in self._locked:
            torch.cuda.cudart().cudaHostUnregister(address)
            del self._locked[address]
        if torch.cuda.cudart().cudaHostRegister(address, size, 0) == torch.cuda.cudart().cudaError.success:
            self._locked[address] = size
        else:  # a limit of locked memory
            self._refused = True
            with suppress(RuntimeError):
                torch.zeros(1, device=self.device)  # the next kernel would report the refusal as its own error

    def close(self) -> None:
        self.stream.synchronize()
        for address in self._locked:
            torch.cuda.cudart().cudaHostUnregister(address)
        self._locked.clear()


class Feeder:
    """Makes one step after another ahead: `advance` prepares the next step, and `take` gives it to the training.

    Args:
        loader: the batches. For a training on the CPU it renders the views.
        render: makes the views of a batch on the device.
        device: of the training.
        lane: copies sub-batches to the device, where views are made; None uses one on CUDA alone.
        at_once: images whose canvases are on the device together.
    """

    def __init__(
        self,
        loader: Loader,
        render: Callable[[Batch], Views],
        device: torch.device,
        *,
        lane: Lane | None = None,
        at_once: int = RENDERED_AT_ONCE,
    ) -> None:
        if lane is None and device.type == "cuda":
            lane = CudaLane(device)
        self._lane = lane or Lane()
        self._maker = _Maker(loader, render, device, self._lane, at_once)
        self._steps = self._maker.from_loader() if lane is None else self._maker.on_device()
        self._next: _Step | None = None

    @property
    def waited(self) -> float:
        """Seconds that the last `advance` waited for decoded images."""
        return self._maker.waited

    @property
    def upcoming(self) -> Views | None:
        """The views of the step that `advance` prepared and nobody took."""
        if self._next is None:
            return None
        _, views, mark = self._next
        self._lane.hand_over(leaves(views), mark)
        return views

    def advance(self) -> None:
        """Prepares the next step.

        Raises:
            RunError: too many files in a row are unreadable, or a worker died.
        """
        self._maker.waited = 0.0
        self._next = next(self._steps)

    def take(self) -> tuple[Batch, Views]:
        """The step that `advance` prepared: the batch without pixels, and its views on the device."""
        assert self._next is not None, "advance comes first"
        (batch, views, mark), self._next = self._next, None
        self._lane.hand_over(leaves(views), mark)
        return batch, views


class _Maker:
    """Makes the steps. It does not refer to its generators, because what is in a cycle ends its workers late."""

    def __init__(
        self, loader: Loader, render: Callable[[Batch], Views], device: torch.device, lane: Lane, at_once: int
    ) -> None:
        self.loader, self.render, self.device, self.lane, self.at_once = loader, render, device, lane, at_once
        self.waited = 0.0

    def from_loader(self) -> Iterator[_Step]:
        batches = iter(self.loader)
        for _ in range(self.loader.start, self.loader.total_steps):
            yield self._complete(self._timed(batches))

    def _complete(self, batch: Batch) -> _Step:
        return without_pixels(batch), batch.views or self.render(batch), None

    def on_device(self) -> Iterator[_Step]:
        begin = time.monotonic()
        self.loader.prepare()
        self.waited += time.monotonic() - begin
        ring = self.loader.ring()
        parts = self._guarded(self.loader.parts(ring), ring)
        try:
            for _ in range(self.loader.start, self.loader.total_steps):
                yield self._make(
                    parts
                )  # nothing here refers to the step, so the training alone decides when it is freed
        finally:
            self.lane.close()

    def _make(self, parts: Iterator[Batch]) -> _Step:
        """Copies the next step to the device and renders it."""
        size, local = self.loader.cut.images, self.loader.local
        at_once = max(1, self.at_once // size) * size
        step = BatchJoiner(local)
        with self.lane.running():
            for start in range(0, local, at_once):
                batch = self._render(parts, min(at_once, local - start))
                if at_once < local:
                    step.add(batch)
            if at_once < local:
                batch = step.batch()
            self.loader.report()
            assert batch.views is not None, "they were rendered"
            return replace(batch, views=None), batch.views, self.lane.mark()

    def _render(self, parts: Iterator[Batch], count: int) -> Batch:
        """The next `count` images as views; their canvases leave the device."""
        if self.loader.is_resident and count <= self.loader.cut.images:
            batch = next(parts)
        else:
            canvases = BatchJoiner(count, device=self.device)
            for part in islice(parts, -(-count // self.loader.cut.images)):
                canvases.add(part)
            batch = canvases.batch()
        return replace(without_pixels(batch), parameters=None, views=self.render(batch))

    def _guarded(self, parts: Iterator[Batch], ring: SlotRing | None) -> Iterator[Batch]:
        """Sub-batches whose slots stay as they are until the copies from them are done."""
        copies: deque[Any] = deque()
        for number in range((self.loader.total_steps - self.loader.start) * self.loader.cut.parts):
            part = self._timed(parts)
            if ring is not None:
                slot = ring.slot(number)
                ends = [group.data_ptr() + group.numel() * group.itemsize for group in leaves(part.pixels)]
                self.lane.lock(slot, max(ends) - slot.data_ptr())
            yield part
            copies.append(self.lane.mark())
            if len(copies) == EXTRA_SLOTS:  # the next request lets a worker write to the slot of the oldest
                self.lane.wait(copies.popleft())

    def _timed(self, batches: Iterator[Batch]) -> Batch:
        begin = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - begin
        return batch
