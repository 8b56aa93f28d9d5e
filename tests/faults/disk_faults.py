"""Faults in disk operations of this process, and small disks of its own."""

import ctypes
import io
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repre.utils import io as atomic_io

NEW_NAMESPACE, PRIVATE = 0x20000, 0x44000
"""Flags of unshare and mount."""


def kill_this_process() -> None:
    """Kills this process with SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


class DiskFault:
    """Counts disk operations (writes of atomic files, fsync, link, rename) and injects a fault into one of them.

    A faulty write writes half of its content first; other faulty operations do nothing first.

    Args:
        at: index of the faulty operation; -1 for none, to count only.
        fault: what happens there.
        permanent: whether all later operations are faulty as well.

    Attributes:
        counts: number of operations by name.
    """

    def __init__(self, at: int, *, fault: Callable[[], None] = kill_this_process, permanent: bool = False) -> None:
        self.at, self.fault, self.permanent = at, fault, permanent
        self.counts = Counter[str]()

    def install(self) -> "DiskFault":
        """Replaces the operations in this process, for good."""
        disk = self

        class CountedWriter(io.BufferedWriter):
            def write(self, content: Any) -> int:
                if disk._count("write"):
                    super().write(bytes(content)[: len(content) // 2])
                    super().flush()
                    disk.fault()
                return super().write(content)

        def open_counted(path: Any, mode: str) -> Any:
            return open(path, mode) if "r" in mode else CountedWriter(io.FileIO(path, mode))

        atomic_io.open = open_counted  # type: ignore[attr-defined]
        for name in ("fsync", "replace", "link"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        return self

    def _count(self, name: str) -> bool:
        """Counts an operation and returns whether it is faulty."""
        index = self.counts.total()
        self.counts[name] += 1
        return index == self.at or (self.permanent and 0 <= self.at < index)

    def _counted(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._count(name):
                self.fault()
            return operation(*args, **kwargs)

        return call


def can_mount() -> bool:
    """Whether this process may mount a disk of its own; tried in a process that ends."""
    if sys.platform != "linux":
        return False
    if (pid := os.fork()) == 0:
        os._exit(0 if mount_disk(Path("/mnt"), 4096) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def mount_disk(place: Path, size: int) -> bool:
    """Mounts a disk in memory of so many bytes, which only this process and its children see; returns whether it may."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(NEW_NAMESPACE) or library.mount(b"none", b"/", None, PRIVATE, None):
        return False
    return not library.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, f"size={size}".encode())
