"""Arrays on the disk that are mapped, not read: an index of ten million entries opens at once and is in memory only once.

A file holds one line of JSON, which names the arrays, and the arrays, each from a multiple of `ALIGNMENT` on.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from repre.utils.io import cache_home, write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Array = np.ndarray

ALIGNMENT = 4096
SILENT_SECONDS, LONGEST_WAIT = 2.0, 1800.0
"""Of a wait for another process that makes the same index: when it is told, and when this process makes its own."""
MAX_HEADER = 1 << 28
"""A longer first line is no index."""


class MappedArray(np.memmap):
    """An array of an index file; sent to another process, it is mapped there again."""

    def __reduce__(self) -> Any:
        if self.base is None or self.base is not getattr(self, "_mmap", None):
            return np.asarray(self).__reduce__()
        return _map, (str(self.filename), self.dtype.str, self.shape, self.offset)


def write_index(path: Path, arrays: dict[str, Array], meta: dict[str, Any]) -> None:
    """Writes arrays and plain values, atomically.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    places: dict[str, list[Any]] = {}
    offset = 0
    for name, array in arrays.items():
        places[name] = [array.dtype.str, list(array.shape), offset]
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    header = json.dumps({"arrays": places, "bytes": offset, "meta": meta}).encode() + b"\n"

    def write(file: BinaryIO) -> None:
        file.write(header.ljust(_aligned(len(header)), b" "))
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
            file.write(bytes(_aligned(array.nbytes) - array.nbytes))

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)


def index_path(key: bytes, cache_dir: Path | None = None) -> Path:
    """The index file of what `key` names; `cache_dir` is by default the folder of indexes in the user's cache."""
    return (cache_dir or cache_home() / "index") / f"{hashlib.sha256(key).hexdigest()[:32]}.index"


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Lets one process of this machine make an index; others wait here, and find it when they may go on.

    Best effort: without locks, or after `LONGEST_WAIT` seconds, each process makes its own.
    """
    lock = None
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "ab")  # noqa: SIM115 - closing it releases the lock
        if fcntl is not None:
            _wait_for(lock)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _wait_for(lock: BinaryIO) -> None:
    """Takes a lock; says that another process has it, and goes on without it after `LONGEST_WAIT` seconds."""
    begin, said = time.monotonic(), False
    while (waited := time.monotonic() - begin) < LONGEST_WAIT:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if waited > SILENT_SECONDS and not said:
            said = True
            limit = f"at most {LONGEST_WAIT / 60:.0f} minutes"
            print(f"another process is indexing the same files; waiting for it, {limit}", file=sys.stderr)
        time.sleep(0.05)


def read_index(path: Path) -> tuple[dict[str, Array], dict[str, Any]] | None:
    """The arrays and plain values of an index file; None if it is missing, cut or no index."""
    try:
        with open(path, "rb") as file:
            header = file.readline(MAX_HEADER)
            content = json.loads(header)
            start = _aligned(len(header))
            if path.stat().st_size != start + content["bytes"]:
                return None
        arrays = {
            name: _map(str(path), dtype, tuple(shape), start + offset)
            for name, (dtype, shape, offset) in content["arrays"].items()
        }
        return arrays, content["meta"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _map(path: str, dtype: str, shape: tuple[int, ...], offset: int) -> Array:
    if 0 in shape:
        return np.empty(shape, dtype)
    return MappedArray(path, np.dtype(dtype), "r", offset, shape)
