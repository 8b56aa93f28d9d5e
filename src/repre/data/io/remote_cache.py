"""Files of remote storage on the local disk, as they were sent, up to a limit: those used longest ago are removed first.

Any number of processes and runs share the folder, and any may be killed at any moment: an entry is renamed to its name when
it is whole, and its length and checksum are compared when it is read. It may be deleted at any time.

lock            how many bytes all entries take, by those who wrote them
XX/KEY          `HEADER`, then the content; its time tells when it was last used
"""

import contextlib
import hashlib
import os
import shutil
import struct
import time
import zlib
from pathlib import Path
from typing import IO, Any

from repre.data.io.cache_folders import RESERVE_BYTES, RESERVE_SHARE
from repre.data.io.remote_address import REMOTE_GIB
from repre.utils.folder_lock import lock_within
from repre.utils.io import cache_home

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HEADER = struct.Struct("<4sIQ")
"""A mark, CRC-32 of the content, its length."""
MARK = b"RPR1"
KEPT_SHARE = 0.9
"""Of the limit; so much is left after entries are removed."""
USED_SECONDS = 3600.0
"""An entry whose time is older gets a new one when it is read."""
ABANDONED_SECONDS = 3600.0
"""Unfinished entries that are older belong to a process that was killed."""

LOCK_SECONDS = 10.0
"""Longest wait for another process that adds to the size; then this one keeps nothing more."""


class RemoteCache:
    """Contents by their keys.

    Args:
        gib: what all entries may take; 0 keeps nothing.
        folder: by default `remote` in the user's cache.
    """

    def __init__(self, gib: float = REMOTE_GIB, folder: Path | None = None) -> None:
        self.limit = int(gib * 2**30) if fcntl is not None else 0
        self.folder = folder or cache_home() / "remote"
        self._writes = self.limit > 0

    def get(self, *key: Any) -> bytes | None:
        """The content of a key, or None."""
        if not self.limit:
            return None
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                content = file.read()
                modified = os.fstat(file.fileno()).st_mtime
        except OSError:
            return None
        body = memoryview(content)[HEADER.size :]
        if len(content) < HEADER.size or HEADER.unpack_from(content) != (MARK, zlib.crc32(body), len(body)):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        if time.time() - modified > USED_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(path)
        return bytes(body)

    def put(self, content: bytes, *key: Any) -> None:
        """Keeps a content, if there is room on the disk; what cannot be kept is fetched again."""
        size = HEADER.size + len(content)
        if not self._writes or size > self.limit * (1 - KEPT_SHARE):
            return
        path = self._path(key)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            disk = shutil.disk_usage(path.parent)
            if disk.free - size < max(RESERVE_BYTES, RESERVE_SHARE * disk.total):
                return
            self._count(size)
            with open(partial, "wb") as file:
                file.write(HEADER.pack(MARK, zlib.crc32(content), len(content)))
                file.write(content)
            os.replace(partial, path)
        except OSError:  # a full disk, a folder that cannot be written
            self._writes = False
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _path(self, key: tuple[Any, ...]) -> Path:
        name = hashlib.sha256(repr(key).encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self.folder / name[:2] / name

    def _count(self, size: int) -> None:
        """Adds to the size of all entries, and removes entries if it is above the limit.

        The size may be too large, after a process was killed or an entry was replaced, until it reaches the limit.
        """
        with open(self.folder / "lock", "a+b") as lock:
            lock_within(lock, fcntl.LOCK_EX, seconds=LOCK_SECONDS)
            total = self._total(lock) + size
            if total > self.limit:
                total = self._remove_oldest(int(KEPT_SHARE * self.limit) - size) + size
            lock.truncate(0)
            lock.write(total.to_bytes(8, "little"))

    def _total(self, lock: IO[bytes]) -> int:
        lock.seek(0)
        written = lock.read(8)
        return int.from_bytes(written, "little") if len(written) == 8 else self._remove_oldest(self.limit)

    def _remove_oldest(self, allowed: int) -> int:
        """Removes entries, those used longest ago first, until all take at most `allowed` bytes; returns what they take."""
        entries: list[tuple[float, int, str]] = []
        for folder in self.folder.iterdir():
            with contextlib.suppress(OSError):
                for entry in os.scandir(folder):
                    with contextlib.suppress(OSError):
                        status = entry.stat()
                        abandoned = entry.name.startswith(".") and time.time() - status.st_mtime > ABANDONED_SECONDS
                        entries.append((0.0 if abandoned else status.st_mtime, status.st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        for modified, size, path in sorted(entries):
            if total <= allowed and modified > 0:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size
        return total
