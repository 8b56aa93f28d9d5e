"""Memory that worker processes share with the process that starts them, and the check of what they need of /dev/shm."""

import mmap
import os
import sys

import torch
from torch import Tensor

from repre.errors import UserError

FORK = sys.platform == "linux"
"""Whether workers are forked. They then inherit memory and open files; elsewhere both are sent to them."""
SEMAPHORE_BYTES, SEMAPHORES_PER_WORKER, OTHER_SEMAPHORES = 4096, 5, 16
"""What a pool of workers takes of /dev/shm: a page for each semaphore of its queues."""


def shared_bytes(count: int) -> Tensor:
    """Zeros that forked or spawned workers share, uint8 [count]. A page takes memory once it is touched.

    Forked workers inherit an anonymous mapping, which is not subject to the size of /dev/shm; elsewhere torch shares it.

    Raises:
        UserError: the system refuses that much.
    """
    try:
        if not FORK:
            return torch.zeros(count, dtype=torch.uint8).share_memory_()
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        return torch.frombuffer(mmap.mmap(-1, count, flags=flags), dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the system refuses {count / 2**30:.2f} GiB of memory to share with workers ({error}); use a smaller "
            "--loader.in-flight-gib, or --runtime.workers 0"
        ) from error


def check_semaphores(workers: int, *, folder: str = "/dev/shm") -> None:
    """Refuses to start workers whose queues would find no room for their semaphores.

    Args:
        folder: where the C library keeps semaphores on Linux; other systems keep them elsewhere.

    Raises:
        UserError: there is too little room, or the folder is missing.
    """
    if not FORK or not workers:
        return
    needed = SEMAPHORE_BYTES * (SEMAPHORES_PER_WORKER * workers + OTHER_SEMAPHORES)
    try:
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
    except OSError as error:
        raise UserError(f"{workers} workers need {folder}: {error.strerror}; use --runtime.workers 0") from error
    if free < needed:
        raise UserError(
            f"{workers} workers need {needed // 1024} KiB in {folder}, which has {free // 1024} KiB left. Use "
            "--runtime.workers 0, or make it larger (docker run --shm-size 64m)"
        )
