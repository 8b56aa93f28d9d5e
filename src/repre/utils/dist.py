"""Ranks, gathers and sums. Every function also works, as the identity, in a process without a process group.

Gradient convention: each rank differentiates the mean over its own samples and the ranks' gradients are averaged
afterwards (as DistributedDataParallel does), which gives the gradient of the mean over the global batch. So the backward
of a gather or a sum adds up what every rank asks of the tensor.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from repre.errors import RunError

_single_process = False


@contextmanager
def single_process() -> Iterator[None]:
    """While entered, this process computes as if it were the only one: the others take no part in its gathers and sums."""
    global _single_process
    before, _single_process = _single_process, True
    try:
        yield
    finally:
        _single_process = before


def is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if is_initialized() and not _single_process else 0


def world_size() -> int:
    return dist.get_world_size() if is_initialized() and not _single_process else 1


def is_main_process() -> bool:
    """Whether this process speaks for all; also true of one before and after the process group."""
    return (rank() if is_initialized() else int(os.environ.get("RANK", "0"))) == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """While entered, the processes that torchrun started are a group: NCCL between CUDA devices, else gloo."""
    if is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    on_cuda = device.type == "cuda"
    store, number, count = next(dist.rendezvous("env://"))
    # torchrun keeps its store when it starts the processes again: without names of their own they find the dead ones' there
    store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=store,
        rank=number,
        world_size=count,
        device_id=device if on_cuda else None,
    )
    try:
        yield
    except BaseException as error:
        reason = RunError(_LOST) if _lost_another(error) else error
        with suppress(OSError):
            ErrorHandler().record_exception(reason)  # torchrun's closing words give the reason of the first to fail
        if reason is not error:
            raise reason from error
        raise
    finally:
        dist.destroy_process_group()


_LOST = "another process of this run ended, so this one cannot go on; what was saved is intact, and that one says why"


def _lost_another(error: BaseException) -> bool:
    """Whether a collective call failed because a process at its other end is gone."""
    if isinstance(error, dist.DistError):
        return True
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
    return isinstance(error, RuntimeError) and "gloo" in str(error) and any(word in str(error) for word in words)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(out, x.contiguous())
        return torch.cat(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


def all_gather_with_grad(x: Tensor) -> Tensor:
    """Concatenates the ranks' tensors of equal shape in rank order, with gradient: [B, ...] -> [world * B, ...]."""
    return _Gather.apply(x) if world_size() > 1 else x


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum over ranks, with gradient; the shape stays."""
    return _Sum.apply(x) if world_size() > 1 else x


def mean_over_ranks(x: Tensor) -> Tensor:
    """Mean over ranks, with gradient; the shape stays."""
    return sum_over_ranks(x) / world_size() if world_size() > 1 else x


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on every rank if `flag` is true on one of them; a collective call."""
    if world_size() == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()
