"""Faults of the storage, not of a file: they are waited for instead of counting the file as damaged.

A disk that does not answer, a network folder that was unmounted, or a limit of open files would otherwise turn good files
into unreadable ones, and a run would train on other images without a word.
"""

import errno
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from repre.data.io.image_limits import UnreadableImage
from repre.errors import RunError
from repre.utils.os_errors import no_permission
from repre.utils.printable_text import say

T = TypeVar("T")

NAMES = (
    "EIO ESTALE ETIMEDOUT EMFILE ENFILE ENOMEM EAGAIN EINTR EBUSY ENODEV ENXIO ENOTCONN ECONNRESET ECONNABORTED "
    "ECONNREFUSED EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH EREMOTEIO ENOLINK ESHUTDOWN EPROTO"
)
TRANSIENT = frozenset(getattr(errno, name) for name in NAMES.split() if hasattr(errno, name))
"""Errors of the system that say nothing about the file."""
PATIENCE = 300.0
"""Seconds that a fault of the storage may last."""
FIRST_DELAY, LONGEST_DELAY, QUIET = 0.05, 10.0, 2.0
"""Seconds: the first wait before another attempt, which then doubles; the longest; and until a message says so."""


def is_storage_fault(error: OSError) -> bool:
    """Whether another attempt to read the same file may succeed."""
    return error.errno in TRANSIENT


def unreadable_or_fault(error: OSError) -> UnreadableImage | OSError:
    """What to raise for a file that cannot be read: the error itself where the storage is at fault."""
    return error if is_storage_fault(error) else UnreadableImage(os_error_reason(error))


def check_away(path: str | Path, others: Iterable[str | Path]) -> None:
    """Refuses to take a file for vanished where everything else is missing too, as when a network folder is not mounted.

    Raises:
        OSError: a storage fault; neither the file nor one of the others is there.
    """
    if not any(map(os.path.lexists, (path, *others))):
        raise OSError(errno.ESTALE, "it is missing, and so is all other data", str(path))


def os_error_reason(error: OSError) -> str:
    """Why a file cannot be read, in words."""
    if isinstance(error, FileNotFoundError):
        return "the file has vanished"
    if isinstance(error, PermissionError):
        return no_permission(error)
    if isinstance(error, IsADirectoryError):
        return "not a regular file"
    return f"cannot be read: {error.strerror or error}"


def read_patiently(read: Callable[[], T], *, name: Callable[[], str], seconds: float = PATIENCE) -> T:
    """The result of `read`, which is called again, ever more rarely, as long as the storage is at fault.

    Args:
        read: opens and reads one file.
        name: of the file, for messages.
        seconds: how long the fault may last.

    Raises:
        RunError: it lasts longer.
    """
    begin, delay, said = time.monotonic(), FIRST_DELAY, False
    while True:
        try:
            return read()
        except OSError as error:
            if not is_storage_fault(error):
                raise
            waited, reason = time.monotonic() - begin, error.strerror or str(error)
            if waited + delay > seconds:
                raise RunError(
                    f"{name()}: {reason}, for {waited:.0f} s. The file is fine: check the disk, the connection to it, "
                    "and the limit of open files (ulimit -n). Then run the same command again",
                    kind="disk",
                ) from error
        if waited > QUIET and not said:
            said = True
            say(f"{name()}: {reason}; retrying for up to {seconds:.0f} s", error=True)
        time.sleep(delay)
        delay = min(2 * delay, LONGEST_DELAY)
