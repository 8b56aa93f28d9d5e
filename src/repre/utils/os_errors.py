"""Errors of the operating system in words: what happened, at which path, and what helps. Imports no torch.

A command ends with code 2 where the path is one that the user named, and with 1 where the machine lacks something. A
missing file that nobody named is a mistake of this program and keeps its traceback, as does everything with REPRE_DEBUG=1.
"""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

from repre.errors import RunError, UserError
from repre.utils.io import cache_home

MACHINE = {
    errno.ENOSPC: "free some space, or name a folder on another disk",
    errno.EDQUOT: "the quota is used up; remove other files, or name a folder on another disk",
    errno.EROFS: "name a folder that can be written",
    errno.EMFILE: "raise the limit with `ulimit -n 4096`, then run the same command again",
    errno.ENFILE: "end other programs that hold many files open, then run the same command again",
    errno.ENOMEM: "end other processes that use memory, then run the same command again",
    errno.EIO: "the disk or the connection to it fails; check it, then run the same command again",
    errno.ESTALE: "the connection to the network disk was lost; run the same command again",
    errno.EFBIG: "the file is larger than this disk or the limit of `ulimit -f` allows; name a folder on another disk",
    errno.EAGAIN: "the limit of processes is reached (`ulimit -u`); end other processes, or use --runtime.workers 0",
}
"""What helps where the machine lacks something. The numbers are those of conditions that no correct program avoids."""
TEXTS = (
    (ValueError, "embedded null", "a path contains a null character; name another path"),
    (
        RuntimeError,
        "determine home directory",
        "a path begins with ~ and an unknown user name; write it in full",
    ),
    (RuntimeError, "Symlink loop", "a path contains links that form a loop; name the folder itself"),
)
"""Errors of Python's paths that are no OSError: class, a part of the text, and the message."""
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY)
"""Errors that a mistake of this program may cause as well: only those at paths that the user named are in words."""
SEPARATORS = re.compile(r"[=:,@\[\]]")
"""What separates paths within an argument, such as ``pairs:images,masks`` or ``random:runs/a``."""
MAX_SHOWN = 120
"""Longest path in a message; of longer ones the middle is left out."""


def describe_os_error(error: BaseException, arguments: Sequence[str]) -> UserError | RunError | None:
    """The error to report for one of the operating system; None for an error that keeps its traceback.

    Args:
        arguments: those of the command, which name paths.
    """
    if os.environ.get("REPRE_DEBUG") == "1":
        return None
    for raised, part, message in TEXTS:
        if type(error) is raised and part in str(error):
            return UserError(message)
    if not isinstance(error, OSError) or error.errno is None:
        return None
    path = _path_of(error)
    if path is None:
        return _without_path(error)
    if error.errno in MACHINE:
        return RunError(f"{shown(path)}: {_reason(error)}; {_where(path) or MACHINE[error.errno]}", kind="disk")
    named = _is_named(path, arguments)
    if error.errno in MISSING and not named:
        return None
    advice = _advice(error, Path(path))
    if advice is None:
        return None
    kind = UserError if named else RunError
    return kind(f"{shown(path)}: {advice}")


def shown(path: str) -> str:
    """A path for a message: control characters escaped, and of a very long one the middle left out."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in path)
    return text if len(text) <= MAX_SHOWN else f"{text[:80]}...{text[-30:]}"


def _path_of(error: OSError) -> str | None:
    """The path of an error: of two, such as of a rename, the second."""
    path = error.filename2 if error.filename2 is not None else error.filename
    if isinstance(path, int) or path is None:
        return None
    return os.fsdecode(path)


def _without_path(error: OSError) -> RunError | None:
    if error.errno == errno.ENOENT and not _has_working_folder():
        return RunError("the working folder was deleted or moved; change to one that exists: cd FOLDER", kind="disk")
    if error.errno in MACHINE:
        return RunError(f"the system refuses: {_reason(error)}; {MACHINE[error.errno]}", kind="disk")
    return None


def _has_working_folder() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def _reason(error: OSError) -> str:
    """The system's own words, such as ``no space left on device``."""
    text = error.strerror or "error"
    return text[:1].lower() + text[1:]


def reason_of(error: Exception) -> str:
    """Why the system refuses, for a message: its own words, and the folder that the user may not enter if that is why."""
    reason = str(getattr(error, "strerror", None) or error)
    if isinstance(error, PermissionError) and (path := _path_of(error)) is not None:
        return reason + _in_closed_folder(path)
    return reason


def no_permission(error: PermissionError) -> str:
    """Why an image cannot be read that the user may not open."""
    path = _path_of(error)
    return "no permission to read it" + ("" if path is None else _in_closed_folder(path))


def _in_closed_folder(path: str) -> str:
    folder = closed_folder(Path(path))
    return "" if folder is None else f": you may not enter the folder {shown(str(folder))}"


def _is_named(path: str, arguments: Sequence[str]) -> bool:
    """Whether a path is one of the arguments, lies below one or above one; relative paths only stem from the user."""
    if not os.path.isabs(path):
        return True
    texts = {text for argument in arguments for text in (argument, *SEPARATORS.split(argument)) if text}
    named = [os.path.abspath(os.path.expanduser(text)) for text in texts if not text.startswith("-")]
    path = os.path.abspath(path)
    return any(_is_below(path, one) or _is_below(one, path) for one in named)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _where(path: str) -> str | None:
    """Advice for a path in the cache, which another option moves."""
    try:
        in_cache = _is_below(os.path.abspath(path), os.path.abspath(cache_home()))
    except (OSError, UserError):
        return None
    return "that is the cache; name a folder with space that can be written in REPRE_CACHE" if in_cache else None


def _advice(error: OSError, path: Path) -> str | None:
    """What is wrong with a path and what helps."""
    number = error.errno
    if number in (errno.EACCES, errno.EPERM):
        folder = closed_folder(path)
        what = f"you may not enter {shown(str(folder))}" if folder is not None else "permission denied"
        fix = f"ask for permission (see: ls -ld {shown(str(folder or path))}), or name another path"
        return f"{what}; {_where(str(path)) or fix}"
    if number == errno.ENAMETOOLONG:
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
        return f"a name of {longest} bytes is too long for the system, which allows 255; name a shorter path"
    if number == errno.ELOOP:
        return "links form a loop; remove them, or name the file itself"
    if number == errno.ENOTDIR:
        file = next((one for one in reversed(path.parents) if _is_file(one)), None)
        return (
            "a folder is needed, and this is a file; name a folder"
            if file is None
            else f"{file} is a file, not a folder"
        )
    if number == errno.EISDIR:
        return "a file is needed, and this is a folder; name a file"
    if number == errno.ENOENT:
        return "no such file or folder; if it was there before, it was moved or deleted. Check the path"
    if number == errno.EEXIST:
        return "this name already exists; name another path"
    if number == errno.ENOTEMPTY:
        return "the folder is not empty; name another one"
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def closed_folder(path: Path) -> Path | None:
    """The first folder above a path that the user may not enter."""
    for folder in reversed(path.parents):
        try:
            if folder.is_dir() and not os.access(folder, os.X_OK):
                return folder
        except OSError:
            return None
    return None
