"""Locks on what one process writes at a time: taken, waited for in words, released, and looked at by other processes."""

import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import fstat
from pathlib import Path
from typing import IO, BinaryIO

from repre.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second process out there
    fcntl = None  # type: ignore[assignment]

LOCK_TIMEOUT = 10.0
"""Seconds to wait for the lock, because a process that is about to end may still hold it."""
SILENT_SECONDS = 1.0
"""Shorter waits go without a word."""
LONG_WAIT = 86400.0
"""Seconds to wait where another process makes just what this one needs."""
_own: set[Path] = set()
"""Locks of this process. To open and close such a file again would release its lock."""


class FolderLock:
    """Keeps a second process, or a second thread of this one, out of a folder, by a lock on a file in it.

    The system releases the lock however this process ends, so no lock outlives its owner: the file may stay, and means
    nothing. Workers do not inherit the lock.

    Args:
        path: the file.
        what: what the lock keeps others from writing to, for messages; by default the folder of the file.
    """

    def __init__(self, path: Path, *, what: Path | None = None) -> None:
        self.path, self.what = path, what or path.parent
        self._file: BinaryIO | None = None

    def acquire(self, *, patience: float | None = None) -> bool:
        """Takes the lock, if this object does not have it; file systems without locks are accepted.

        Args:
            patience: seconds to wait for another process, by default `LOCK_TIMEOUT`.

        Returns:
            Whether another one had it before, and this one has waited.

        Raises:
            UserError: another one still has it.
        """
        if fcntl is None or self._file is not None:
            return False
        begin, patience = time.monotonic(), LOCK_TIMEOUT if patience is None else patience
        waited, said = 0.0, False
        while (holder := self._try()) is not None:
            waited = time.monotonic() - begin
            if waited >= patience:
                raise UserError(f"{holder} is writing to {self.what}; wait for it, or stop it")
            if waited >= SILENT_SECONDS and not said:
                said = True
                limit = f"{patience:.0f} s" if patience < 3600 else f"{patience / 3600:.0f} hours"
                print(
                    f"{holder} is writing to {self.what}; waiting for it, at most {limit}",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(0.1)
        return waited > 0

    def is_in_place(self) -> bool:
        """Whether the file is still where it was when this object took the lock; True without a lock."""
        return self._file is None or _is_at(self._file, self.path)

    def release(self, *, remove: bool = False) -> None:
        """Releases the lock, if this object has it.

        Args:
            remove: also remove its file.
        """
        if self._file is None:
            return
        _own.discard(self.path.resolve())
        if remove:
            with suppress(OSError):
                self.path.unlink()
        self._file.close()
        self._file = None

    def _try(self) -> str | None:
        """Takes the lock, or says who has it."""
        if self.path.resolve() in _own:
            return "another thread of this process"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(self.path, "ab")  # noqa: SIM115 - stays open, because closing it releases the lock
        except FileNotFoundError:  # the one that had the lock has just removed the folder
            return "another process"
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file, self.path):  # locked just after its owner had removed it
                file.close()
                return "another process"
        except (BlockingIOError, PermissionError):
            holder = _holder(file)
            file.close()
            return holder
        except OSError:  # a file system without locks
            pass
        self._file = file
        _own.add(self.path.resolve())
        return None


@contextmanager
def writing(out: Path, *, patience: float | None = None) -> Iterator[bool]:
    """Inside, no other process is inside for the same file or folder `out`, by a lock on a hidden file beside it.

    Where no file can be made there, as beside the only folder that a user may write to, nothing keeps others out.

    Yields:
        Whether this process had to wait for another one.

    Raises:
        UserError: another process was inside for longer than `patience` seconds (`LOCK_TIMEOUT`).
    """
    out = out.resolve()
    lock = FolderLock(out.with_name(f".{out.name}.lock"), what=out)
    waited = False
    with suppress(OSError):  # what is written next says why nothing can be written, if that is so
        waited = lock.acquire(patience=patience)
    try:
        yield waited
    finally:
        lock.release(remove=True)


def lock_within(file: IO[bytes], kind: int, *, seconds: float) -> None:
    """Takes a lock that others hold for moments only.

    Args:
        kind: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`.

    Raises:
        BlockingIOError: another process holds it for longer than `seconds`.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def is_locked(path: Path) -> bool | None:
    """Whether a process has the lock on a file; None if that cannot be told: no such file, or no locks on its system."""
    if path.resolve() in _own:
        return True
    if fcntl is None:
        return None
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, apart from what cannot be opened
    except OSError:
        return None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:
            return None
    return False


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file still has this name."""
    with suppress(OSError):
        found, own = path.stat(), fstat(file.fileno())
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)
    return False


def _holder(file: BinaryIO) -> str:
    """The process that has the lock on a file, for messages; with its number where the system tells it."""
    if sys.platform == "linux":
        with suppress(OSError):
            asked = struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0)  # struct flock
            pid = struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked))[4]
            if pid > 0:  # a process of this machine
                return f"another process ({pid})"
    return "another process"
