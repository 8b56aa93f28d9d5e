"""Ranks, gathers and sums. Every function also works, as the identity, in a process without a process group.

Gradient convention: each rank differentiates the mean over its own samples and the ranks' gradients are averaged
afterwards (as DistributedDataParallel does), which gives the gradient of the mean over the global batch. So the backward
pass of a gather or a sum adds up the gradients of all ranks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from repre.errors import RunError
from repre.utils.rank_watch import meet, watching

NEVER = timedelta(days=7)
"""Longest wait of a collective call: `rank_watch` ends what hangs, and a process may wait long for one that works."""

_single_process = False
_hosts: list[str] = []
"""Of every rank, the name of its machine."""


@contextmanager
def single_process() -> Iterator[None]:
    """Inside, this process computes as if it were the only one: gathers and sums leave the other ranks out."""
    global _single_process
    before, _single_process = _single_process, True
    try:
        yield
    finally:
        _single_process = before


@contextmanager
def all_processes() -> Iterator[None]:
    """Inside, this process computes with the other ranks, also within `single_process`."""
    global _single_process
    before, _single_process = _single_process, False
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


def started_processes() -> int:
    """Processes that torchrun started for this command, whether they form a group or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Ranks on this machine, as torchrun says, or else by the names of the ranks' machines."""
    own = _hosts.count(_hosts[rank()]) if len(_hosts) == world_size() > 1 else world_size()
    return int(os.environ.get("LOCAL_WORLD_SIZE", own))


def is_main_process() -> bool:
    """Whether this process logs and saves for all; also correct before and after the process group exists."""
    return (rank() if is_initialized() else int(os.environ.get("RANK", "0"))) == 0


def rendezvous(*, seconds: float = 1800.0) -> tuple[dist.Store, int, int]:
    """Meets the other processes that torchrun started: a store that all of them see, this rank, and their number.

    Raises:
        RunError: they do not all come within this time.
    """
    try:
        store, group_rank, group_size = next(dist.rendezvous("env://", timeout=timedelta(seconds=seconds)))
    except (dist.DistError, RuntimeError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RunError(
            f"not all {started_processes()} processes met at {address} within {seconds:.0f} s. Start all of them together, "
            "and check that this machine reaches that address. If one failed, its message gives the reason",
            kind="lost",
        ) from error
    # torchrun keeps its store across restarts: a prefix per restart keeps the keys of dead processes apart
    store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    return store, group_rank, group_size


@contextmanager
def process_group(device: torch.device, *, stuck_minutes: float = 30.0) -> Iterator[None]:
    """Inside, the processes that torchrun started form a group: NCCL between CUDA devices, gloo otherwise.

    Args:
        stuck_minutes: how long the others may give no sign of life, or none may move, before this process ends; see
            `repre.utils.rank_watch`.

    Raises:
        RunError: not all of them start within this time, or one of them ends.
    """
    if is_initialized() or started_processes() == 1:
        yield
        return
    on_cuda, limit = device.type == "cuda", 60 * stuck_minutes
    store, group_rank, group_size = rendezvous(seconds=limit)
    _hosts[:] = meet(store, rank=group_rank, size=group_size, seconds=limit)
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=store,
        rank=group_rank,
        world_size=group_size,
        device_id=device if on_cuda else None,
        timeout=NEVER,
    )
    try:
        with watching(store.clone(), rank=group_rank, size=group_size, limit=limit):
            yield
    except BaseException as error:
        reason = RunError(PEER_ENDED, kind="lost") if is_lost_peer(error) else error
        with suppress(OSError):
            ErrorHandler().record_exception(reason)  # torchrun prints the reason of the first process that failed
        if reason is not error:
            raise reason from error
        raise
    finally:
        dist.destroy_process_group()


PEER_ENDED = (
    "another process of this run ended, so this one cannot continue; everything saved so far is intact, and the other "
    "process's message gives the reason"
)
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
"""Parts of gloo's messages about a lost peer. It has no exception class of its own: if a message changes, the user sees
gloo's instead of ours."""


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective call failed because the process at its other end is gone."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error) and any(part in str(error) for part in _LOST_PEER)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gathered = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(gathered, x.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _AllReduceSum.apply(grad).chunk(world_size())[rank()]


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # a copy: autograd may pass the same gradient tensor to several functions
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _AllReduceSum.apply(grad)


def all_gather_with_grad(x: Tensor) -> Tensor:
    """Concatenates the ranks' tensors of equal shape in rank order, with gradient: [B, ...] -> [world_size * B, ...]."""
    return _AllGather.apply(x) if world_size() > 1 else x


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum over ranks, with gradient; the shape stays."""
    return _AllReduceSum.apply(x) if world_size() > 1 else x


def mean_over_ranks(x: Tensor) -> Tensor:
    """Mean over ranks, with gradient; the shape stays."""
    return sum_over_ranks(x) / world_size() if world_size() > 1 else x


def max_over_ranks(x: Tensor) -> Tensor:
    """Maximum over ranks, without gradient; the shape stays."""
    x = x.detach()
    if world_size() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on every rank if `flag` is true on any rank; a collective call."""
    if world_size() == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def gather_objects(items: list[Any]) -> list[Any]:
    """The lists of all ranks, concatenated in rank order; a collective call."""
    if world_size() == 1:
        return items
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()
