"""Averages gradients over ranks while the backward pass computes the rest of them.

The parameters lie in buckets, the last one first, because backward passes reach it first. A bucket is summed over ranks once
its gradients are complete and all buckets before it were started, so every rank starts them in the same order.

A step may consist of many backward passes (the gradient cache). Gradients count as complete after as many additions as in
the step before. Where a step adds more (another number of pieces), the bucket is summed again at the end; where it adds
fewer (the branch has ended), the bucket is summed at the end. So the result never depends on this guess.

The buckets are our own because DistributedDataParallel wraps one forward call that one backward pass follows, while the
gradient cache calls encoder, heads and decoder separately and ends each step with one backward pass per piece.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from repre.utils.dist import world_size
from repre.utils.fsdp import is_dtensor

BUCKET_BYTES = 25 * 2**20
"""Size at which a bucket is full: large enough for the bandwidth, small enough to start early."""


@contextmanager
def exchange_gradients(model: nn.Module, *, first: nn.Module) -> Iterator[None]:
    """Inside, backward passes add up the local gradients; at the end, every `.grad` is averaged over ranks.

    A collective call: all ranks must run the same backward passes. FSDP averages the gradients of split parameters. The
    first call for a model registers hooks on its trainable parameters, which live as long as the model.

    Args:
        first: the part of the model whose gradients are complete first.
    """
    if world_size() == 1:
        yield
        return
    exchange = _exchanges.get(model)
    if exchange is None:
        exchange = _exchanges[model] = _Exchange(model, first)
    exchange.begin()
    try:
        yield
        exchange.finish()
    finally:
        exchange.active = False


@dataclass(eq=False)
class _Bucket:
    """Parameters whose gradients are summed together.

    Attributes:
        parameters: of one dtype and device.
        expected: additions to their gradients that complete them.
        added: additions to their gradients in this step.
        summed: additions that the sum contains; -1 before there is one.
    """

    parameters: list[nn.Parameter] = field(default_factory=list)
    expected: float = math.inf
    added: int = 0
    summed: int = -1
    gradients: list[Tensor] = field(default_factory=list)
    flat: Tensor | None = None
    work: dist.Work | None = None

    @property
    def is_complete(self) -> bool:
        return self.added >= self.expected

    def start(self) -> None:
        """Starts to sum a copy of the gradients as they are now."""
        self.wait()
        self.summed = self.added
        self.gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.gradients:
            self.flat = torch.cat([gradient.reshape(-1) for gradient in self.gradients])
            self.work = dist.all_reduce(self.flat, async_op=True)

    def wait(self) -> None:
        """Waits for a sum that was started; on CUDA the stream waits, not the host."""
        if self.work is not None:
            self.work.wait()
            self.work = None

    def finish(self) -> None:
        """Writes the averages into the gradients."""
        self.wait()
        if self.flat is not None:
            self.flat /= world_size()
            parts = self.flat.split([gradient.numel() for gradient in self.gradients])
            torch._foreach_copy_(self.gradients, [part.view_as(g) for part, g in zip(parts, self.gradients)])

    def reset(self) -> None:
        self.added, self.summed, self.gradients, self.flat, self.work = 0, -1, [], None, None


class _Exchange:
    """The buckets of a model, and hooks that start them."""

    def __init__(self, model: nn.Module, first: nn.Module) -> None:
        self.buckets: list[_Bucket] = []
        self.started = 0
        self.active = False
        early = set(first.parameters())
        parameters = reversed([p for p in model.parameters() if p.requires_grad and not is_dtensor(p)])
        kind, size = None, BUCKET_BYTES
        for parameter in sorted(parameters, key=lambda p: p not in early):
            if size >= BUCKET_BYTES or kind != (parameter.dtype, parameter.device):
                self.buckets.append(_Bucket())
                kind, size = (parameter.dtype, parameter.device), 0
            self.buckets[-1].parameters.append(parameter)
            size += parameter.nbytes
            parameter.register_post_accumulate_grad_hook(
                partial(_add, weakref.ref(self.buckets[-1]), weakref.ref(self))
            )

    def begin(self) -> None:
        """Forgets what an interrupted step left behind."""
        for bucket in self.buckets:
            bucket.reset()
        self.started, self.active = 0, True

    def finish(self) -> None:
        """Sums what is not summed yet, writes the averages, and remembers how often each bucket was added to."""
        for bucket in self.buckets:
            if bucket.summed != bucket.added:
                bucket.start()
        for bucket in self.buckets:
            bucket.finish()
            bucket.expected = bucket.added
            bucket.reset()

    def start_complete(self) -> None:
        """Starts the buckets that are next in order and complete."""
        while self.started < len(self.buckets) and self.buckets[self.started].is_complete:
            self.buckets[self.started].start()
            self.started += 1


def _add(bucket_ref: weakref.ref[_Bucket], exchange_ref: weakref.ref[_Exchange], _parameter: Tensor) -> None:
    """Counts an addition to a gradient. The references are weak: torch would never free a parameter that its hook keeps."""
    bucket, exchange = bucket_ref(), exchange_ref()
    if bucket is not None and exchange is not None and exchange.active:
        bucket.added += 1
        exchange.start_complete()


_exchanges: weakref.WeakKeyDictionary[nn.Module, _Exchange] = weakref.WeakKeyDictionary()
"""One per model."""
