"""The lock on a folder that one process writes to: taken, released, and looked at by other processes."""

import os
import time
from pathlib import Path
from typing import BinaryIO

from repre.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second process out there
    fcntl = None  # type: ignore[assignment]

LOCK_TIMEOUT = 10.0
"""Seconds to wait for the lock, because a process that is about to end may still hold it."""
_own: set[Path] = set()
"""Locks of this process. To open and close such a file again would release its lock."""


class FolderLock:
    """Keeps a second process out of a folder, by a lock on a file in it.

    The system releases the lock however this process ends; workers do not inherit it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def acquire(self) -> None:
        """Takes the lock, if this process does not have it; file systems without locks are accepted.

        Raises:
            UserError: another process has it.
        """
        if fcntl is None or self._file is not None:
            return
        begin = time.monotonic()
        self._file = open(self.path, "ab")  # noqa: SIM115 - stays open, because closing it releases the lock
        _own.add(self.path.resolve())
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError) as error:
                if time.monotonic() - begin > LOCK_TIMEOUT:
                    self.release()
                    raise UserError(
                        f"another process is writing to {self.path.parent}; wait for it, or stop it"
                    ) from error
                time.sleep(0.1)
            except OSError:  # a file system without locks
                return

    def is_in_place(self) -> bool:
        """Whether the file is still where it was when this process took the lock; True without a lock."""
        if self._file is None:
            return True
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except OSError:
            return False

    def release(self) -> None:
        """Releases the lock, if this process has it."""
        if self._file is not None:
            self._file.close()
            self._file = None
            _own.discard(self.path.resolve())


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
