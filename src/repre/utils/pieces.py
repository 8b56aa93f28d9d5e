"""Batches that are cut where memory runs out: what counts as that, what may be cut, and calls that halve their batch."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from repre.errors import RunError

T = TypeVar("T")

OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "DefaultCPUAllocator",
)
"""Parts of messages of plain RuntimeErrors that stand for a lack of memory: those of cuBLAS, cuDNN, MPS and the CPU, which
have no exception class of their own. If a message changes, the user sees theirs instead of ours."""


class FinalMemoryError(RunError):
    """Memory ran out in the midst of a change, so the same call must not be tried with less."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a call failed because memory ran out, of the device or of the process."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    is_torchs = isinstance(error, RuntimeError) and not isinstance(error, RunError)
    return is_torchs and any(part in str(error) for part in OUT_OF_MEMORY)


def free_memory() -> None:
    """Frees what nothing refers to any more, and returns the device's cached blocks to it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def attempt(function: Callable[[], T]) -> T | None:
    """The result of a call, or None if memory ran out; what the call had allocated is free then."""
    try:
        return function()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    free_memory()  # not before the except block has ended: the error refers to the tensors of the call
    return None


@contextmanager
def no_repetition() -> Iterator[None]:
    """Inside, a lack of memory becomes a `FinalMemoryError`: what was begun cannot be repeated."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise FinalMemoryError(str(error)) from error


class Halving:
    """Calls a function on a batch, or on pieces of it: after each lack of memory the pieces are half as large, and stay so.

    For passes without gradient, whose result for an image does not depend on the other images.

    Attributes:
        size: images at once; None: all.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def __call__(self, count: int, function: Callable[[slice], T]) -> Iterator[T]:
        """Yields the results of the pieces, in order.

        Args:
            count: images of the batch.
            function: takes the rows of a piece; does not return None.

        Raises:
            torch.OutOfMemoryError: not even one image fits, or what torch raises for other devices.
        """
        start = 0
        while start < count:
            rows = slice(start, min(start + (self.size or count), count))
            length = rows.stop - start
            result = attempt(partial(function, rows)) if length > 1 else function(rows)
            if result is None:
                self.size = -(-length // 2)
            else:
                start = rows.stop
                yield result


def with_fewer(function: Callable[[int], T], count: int, *, smallest: int = 1) -> T:
    """Calls a function with a number of images, which is halved as long as memory runs out, down to `smallest`."""
    while count > smallest:
        result = attempt(partial(function, count))
        if result is not None:
            return result
        count = max(smallest, count // 2)
    return function(count)


def batch_dependence(module: nn.Module) -> str | None:
    """Why a batch cannot be passed through a module in pieces with the same result, in words; None if it can."""
    norm = batch_norm(module)
    if norm is not None:
        return f"{norm} normalizes over the batch; layer normalization does not"
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.dropout._DropoutNd) and child.p:
            return f"{name} is a dropout of {child.p:g}, which cannot be repeated piece by piece; drop path can"
    return None


def batch_norm(module: nn.Module) -> str | None:
    """Name of the first part of a module that normalizes over the batch; None if there is none."""
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            return name
    return None
