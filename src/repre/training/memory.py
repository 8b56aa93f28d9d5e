"""The memory of a step: how many images are encoded at once, so that it fits, and what takes it where nothing fits.

The gradient cache gives the update of the whole batch at any number, so it may change at any step. The largest number is
found by measuring: real forward and backward passes of a few images, then of the whole batch in pieces of the size that
those predict. Everything that could change the run is left as it was.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from repre.config import RunConfig
from repre.data.loading.feeder import RENDERED_AT_ONCE
from repre.data.loading.slots import leaves
from repre.data.views.fused import SCRATCH
from repre.data.views.render import draw_views
from repre.training.nonfinite import save_buffers
from repre.training.run_state import RunState
from repre.training.step import forward_backward, split_views
from repre.types import Features, Views
from repre.utils.dist import single_process
from repre.utils.fsdp import local_tensor
from repre.utils.pieces import attempt, free_memory

SMALLEST = 8
"""Images of the smallest piece, if the batch has as many."""
MEMORY_SHARE = 0.9
"""Share of the memory that is there that a step may take; validations and the allocator's gaps need the rest."""
COMPILED_SHARE = 0.65
"""Memory of a compiled step as a share of an eager one's: 13.1 of 20.3 GiB for ViT-S/16 with MoCo v3, the branch and 256
images on an H100."""
GIB = 2**30


class DeviceMemory(Protocol):
    """What a search asks of a device."""

    def available(self) -> int:
        """Bytes that this process has and can get; other processes have the rest."""

    def start(self) -> int:
        """Forgets the peak so far; returns the bytes that tensors take now."""

    def peak(self) -> int:
        """Bytes that this process took at most since `start`."""

    def synchronize(self) -> None:
        """Waits until everything is computed."""


class CudaMemory:
    """The memory of a CUDA device, as torch's allocator counts it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def available(self) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_reserved(self.device)

    def start(self) -> int:
        self.synchronize()
        free_memory()
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        self.synchronize()
        return torch.cuda.max_memory_reserved(self.device)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)


def device_memory(device: torch.device) -> DeviceMemory | None:
    """The memory of a device; None where it cannot be measured."""
    return CudaMemory(device) if device.type == "cuda" else None


# ------------------------------------------------------------------------------------------------------- the search


@dataclass(frozen=True)
class Measured:
    """The memory of forward and backward passes.

    Attributes:
        before: bytes that were taken before: weights, optimizer, views.
        peak: bytes that were taken at most.
    """

    before: int
    peak: int


class DoesNotFit(Exception):
    """Not even the smallest piece fits.

    Attributes:
        size: its images.
        few: what a pass of a few images in such pieces took; None if that did not fit either.
    """

    def __init__(self, size: int, few: Measured | None) -> None:
        super().__init__(f"not even {size} images at once fit")
        self.size, self.few = size, few


def piece_sizes(batch_size: int, *, at_most: int | None = None) -> list[int]:
    """Images of the equal pieces that a batch may be cut into, 1, 2, 4 and so on; the largest piece first.

    Args:
        at_most: of a piece; the smallest size remains whatever it is.
    """
    sizes = [batch_size]
    while (size := -(-batch_size // 2 ** len(sizes))) >= SMALLEST:
        sizes.append(size)
    return [size for size in sizes if at_most is None or size <= at_most] or sizes[-1:]


def largest_micro_batch(
    measure: Callable[[int, int], Measured],
    batch_size: int,
    *,
    limit: float,
    at_most: int | None = None,
    share: float = 1.0,
) -> tuple[int, Measured]:
    """The largest piece whose passes over the whole batch stay below a limit, and what they take.

    Passes of a few images and of twice as many predict the largest; it is verified, halved as long as it does not fit, and
    doubled if what it took says that more fits.

    Args:
        measure: (images of a piece, images of the batch) -> the memory of passes over so many images; raises torch's
            OutOfMemoryError where they do not fit.
        limit: in bytes.
        at_most: images of the largest piece to try; None: the whole batch.
        share: what a further image takes in passes over the whole batch, of what it takes in those of a few.

    Raises:
        DoesNotFit: the smallest piece does not fit.
    """
    sizes = piece_sizes(batch_size, at_most=at_most)
    small = min(sizes[-1], SMALLEST)
    few = attempt(partial(measure, small, min(batch_size, 2 * small)))
    if few is None:
        raise DoesNotFit(small, None)
    twice = attempt(partial(measure, 2 * small, 2 * small)) if 2 * small < batch_size and small < sizes[0] else None
    image = (few.peak - few.before if twice is None else max(0, twice.peak - few.peak)) / small
    fixed = few.peak - small * image
    number = next((n for n, size in enumerate(sizes) if fixed + share * image * size <= limit), len(sizes) - 1)
    best: tuple[int, Measured] | None = None
    while number < len(sizes):
        size = sizes[number]
        measured = attempt(partial(measure, size, batch_size))
        if measured is not None and measured.peak <= limit:
            best = size, measured
            # what an image takes; too much where the whole batch adds to it
            image = (measured.peak - few.peak) / max(size - small, 1)
            if number == 0 or size == small or measured.peak + image * (sizes[number - 1] - size) > limit:
                break
            number -= 1
        elif best is not None:
            break
        else:
            number += 1
    if best is None:
        raise DoesNotFit(sizes[-1], few)
    return best


class StepMemory:
    """Measures the memory of the forward and backward passes of a run's step, and leaves the run as it was.

    Args:
        views: of the local batch.
        progress: share of the run that is done.
        reserve: bytes that the run takes beside what is measured.
    """

    def __init__(
        self, state: RunState, views: Views, *, progress: float, memory: DeviceMemory, reserve: int = 0
    ) -> None:
        self.state, self.views, self.progress, self.memory = state, views, progress, memory
        self.limit = MEMORY_SHARE * memory.available() - missing_optimizer_state(state) - reserve

    def search(self, *, at_most: int | None = None) -> tuple[int, Measured]:
        """See `largest_micro_batch`."""
        return largest_micro_batch(
            self.measure,
            len(self.views.images[0]),
            limit=self.limit,
            at_most=at_most,
            share=COMPILED_SHARE if self.state.compiled else 1.0,
        )

    def measure(self, size: int, images: int) -> Measured:
        """The memory of passes over the first `images` in pieces of `size`.

        A few images are not compiled, which takes its time for every new size. With the whole batch, the views of the next
        step are there, as in the run.
        """
        views = next(split_views(self.views, images))
        whole = images == len(self.views.images[0])
        with self._undone(), nullcontext() if whole else torch.compiler.set_stance("force_eager"):
            before = self.memory.start()
            upcoming = [x.clone() for x in leaves(self.views)] if whole else []
            self._pass(views, size)
            del upcoming
            return Measured(before, self.memory.peak())

    def seconds(self, size: int) -> float:
        """Duration of a pass over the whole batch, as the run computes it; compiles first if the run does."""
        with self._undone():
            self._pass(self.views, size)
            self.memory.synchronize()
            begin = time.monotonic()
            self._pass(self.views, size)
            self.memory.synchronize()
            return time.monotonic() - begin

    def _pass(self, views: Views, size: int) -> None:
        state = self.state
        state.model.zero_grad(set_to_none=True)
        factor = state.scaler.get_scale() if state.scaler.is_enabled() else 1.0
        forward_backward(
            state.model,
            views,
            progress=self.progress,
            seed=0,
            micro_batch=size,
            precision=state.precision,
            scale=lambda loss: loss * factor,
        )

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Afterwards gradients are gone, and buffers and random states are as before; other ranks do not take part."""
        model, device = self.state.model, self.state.device
        restore_buffers = save_buffers(model.encoder)
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), single_process():
                yield
        finally:
            model.zero_grad(set_to_none=True)
            restore_buffers()


# ------------------------------------------------------------------------------------------------ what takes the memory


def missing_optimizer_state(state: RunState) -> int:
    """Bytes that AdamW's two averages will take once the optimizer has made its first step; 0 afterwards."""
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    return sum(2 * p.numel() * p.element_size() for p in parameters if p not in state.optimizer.state)


def feeder_bytes(config: RunConfig, count: int) -> int:
    """Bytes that making the views of `count` images takes beside them: canvases of bytes, and room for what is between."""
    return min(count, RENDERED_AT_ONCE) * config.encoder.channels * config.decode_size**2 + SCRATCH


def model_bytes(state: RunState) -> int:
    """Bytes of all weights and buffers, and of the gradients and AdamW's averages of those that are trained."""
    tensors = [local_tensor(x) for x in (*state.model.parameters(), *state.model.buffers())]
    return sum(x.numel() * x.element_size() * (4 if x.requires_grad else 1) for x in tensors)


def view_bytes(config: RunConfig, count: int) -> int:
    """Bytes of the views of `count` images, and of their targets where those are other pixels."""
    views = config.rendered_views
    large = views.n_global * (2 if views.target == "clean" else 1)
    pixels = large * math.prod(views.shape) + views.n_local * math.prod(views.local_shape)
    return 4 * count * config.encoder.channels * pixels


def head_bytes(state: RunState, *, count: int) -> int:
    """Bytes that heads and loss of `count` images keep for the backward pass, at any micro-batch, without weights."""
    model, views = state.model, state.views
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def count_storage(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    device, encoder, n_global = next(model.parameters()).device, model.encoder, views.n_global
    rows, columns = encoder.check_size(*views.shape).patches.grid

    def features(n: int, *, train: bool) -> list[Features]:
        def ones(*shape: int) -> Tensor:
            return torch.ones(count, *shape, device=device, requires_grad=train)

        patches = model.framework.needs.patches
        return [
            Features(ones(encoder.embedding_dim), ones(rows * columns, encoder.patch_dim) if patches else None)
            for _ in range(n)
        ]

    positions = torch.arange(count)
    drawn = draw_views(views, torch.tensor(views.shape).expand(count, 2), positions, epoch=0, seed=0)[:n_global]
    masks = [view.hidden.to(device) for view in drawn if view.hidden is not None]
    student, teacher = features(n_global + views.n_local, train=True), features(n_global, train=False)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0]], device=device).expand(count, 5)
    crops = [whole] * len(student) if model.framework.needs.crops else None
    seen = Views(images=[], targets=[], n_global=n_global, masks=masks or None, crops=crops)
    with torch.autograd.graph.saved_tensors_hooks(count_storage, lambda tensor: tensor), single_process():
        output = model.contrastive_loss(student, teacher, seen, 0.5)
    del output  # the graph had to live until here
    return sum(kept.values())
