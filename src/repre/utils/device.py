"""Chooses device, precision and number of decoding workers from the user's settings and the machine."""

import ctypes
import functools
import os
import platform
import re

import torch

from repre.errors import UserError
from repre.utils.config_checks import check_workers
from repre.utils.device_errors import device_advice, first_sentences
from repre.utils.dist import local_world_size
from repre.utils.pieces import is_out_of_memory

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Settings of glibc's malloc.h."""


def pick_device(name: str) -> torch.device:
    """The device of this process, ready for use.

    Args:
        name: cpu, cuda, cuda:N, mps, or `auto` for the best that is there.

    Raises:
        UserError: the device does not exist.
    """
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
        raise UserError(f"runtime.device: there is no device {name!r}; use cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        _open_cuda(device)
        torch.cuda.set_device(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("runtime.device: mps is not available here; use cpu")
    if device.type == "cpu":
        cache_freed_memory()
    return device


@functools.cache
def _open_cuda(device: torch.device) -> None:
    """Uses a CUDA device once, so that what is wrong with it is said before anything else begins.

    Raises:
        UserError: torch was built without CUDA, the driver is missing or too old, or the device does not exist, is held by
            another process, has no memory left or is too old or new for this build of torch.
    """
    if torch.version.cuda is None and torch.version.hip is None:
        raise UserError(
            f"runtime.device: torch {torch.__version__} was built without CUDA; install a build with CUDA from "
            "https://pytorch.org, or use cpu"
        )
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
        if device.index >= count:
            reason = (
                "torchrun started more processes than there are GPUs; lower --nproc-per-node"
                if "LOCAL_RANK" in os.environ
                else "use cpu"
                if count == 0
                else f"use cuda:0{f' to cuda:{count - 1}' * (count > 1)}"
            )
            raise UserError(f"runtime.device: there is no {device}, this process sees {count} CUDA devices; {reason}")
        torch.ones(1, device=device).add_(1).cpu()
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise UserError(
                f"runtime.device: {device} has no memory left, because other processes use it; end them, or choose another "
                "device"
            ) from error
        raise UserError(f"runtime.device: {device}: {first_sentences(error)}; {device_advice(str(error))}") from error


@functools.cache
def cache_freed_memory() -> bool:
    """Lets the process keep the memory of freed tensors for new ones, as PyTorch's allocator does on CUDA.

    By default, glibc returns every block above 32 MiB to the system at once, and each step pays page faults to get it
    again; docs/performance.md has measurements.

    Returns:
        Whether the setting was made; False where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25))
    )


def return_freed_memory() -> bool:
    """Lets the process return the memory of freed tensors to the system at once, the opposite of `cache_freed_memory`.

    For weights that are split over processes: every block of layers is gathered for a moment, in pieces of many sizes,
    between which the memory that is kept breaks up until it is larger than whole weights are.

    Returns:
        Whether the setting was made; False where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_TRIM_THRESHOLD, 2**20) and mallopt(M_MMAP_THRESHOLD, 2**20))


def release_freed_memory() -> None:
    """Returns the memory that is free now to the system, once. The setup of a run needs other memory than its steps."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def machine_bytes() -> int:
    """All memory of the machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The data type of matrix products.

    Args:
        name: fp32, bf16, fp16, or `auto` for bf16 on GPUs that support it and fp32 elsewhere.
        device: where they are computed.

    Raises:
        UserError: the device does not support it.
    """
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UserError("compute.precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bf16 and fp16 products with sums in fp32, from NVIDIA's data sheets, by words of the device's name; the first entry
whose words are all in the name counts."""


def peak_flops(device: torch.device, precision: torch.dtype) -> float | None:
    """FLOP/s of matrix products that the device's data sheet gives for bf16 and fp16; None for other devices and types."""
    if device.type != "cuda" or precision not in (torch.bfloat16, torch.float16):
        return None
    words = set(re.split("[ -]", torch.cuda.get_device_name(device)))
    return next((peak for name, peak in PEAK_FLOPS.items() if words >= set(name.split())), None)


def pick_workers(workers: int | None) -> int:
    """Number of decoding workers of this rank: the given number; None gives the rank its share of this machine's cores.

    Raises:
        UserError: the number is negative or too large.
    """
    check_workers(workers)
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores // local_world_size() - 1))
