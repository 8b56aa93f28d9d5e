"""Where a process computes: device, precision, decoding processes, chosen from what the user asked and what is there."""

import ctypes
import functools
import os
import platform

import torch

from repre.errors import UserError
from repre.utils.dist import world_size


def pick_device(name: str) -> torch.device:
    """The device of this process, made ready for it; UserError where it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"runtime.device: no device {name!r}; use cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("runtime.device: this machine or this build of torch has no CUDA; use cpu")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        torch.cuda.set_device(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("runtime.device: mps is not available here; use cpu")
    if device.type == "cpu":
        keep_freed_memory()
    return device


@functools.cache
def keep_freed_memory() -> bool:
    """Lets the process keep the memory of freed tensors, as PyTorch does on CUDA; False where the allocator is not glibc's.

    By default glibc hands every block above 32 MiB back to the system at once, and each step pays page faults to get it
    again: docs/performance.md has the figures.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(m_trim_threshold, 2**31 - 1) and (mallopt(m_mmap_threshold, 2**30) or mallopt(m_mmap_threshold, 2**25))
    )


def hand_freed_memory_back() -> None:
    """Gives what was freed until now back to the system, once: the start of a run takes other memory than its steps."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UserError("compute.precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def pick_workers(wanted: int | None) -> int:
    """Decoding processes of this rank: as wanted, or a share of the processor's cores."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores // world_size() - 1))
