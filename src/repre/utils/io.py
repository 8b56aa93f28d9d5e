"""Files that are either whole or absent, and one hash for whatever defines a piece of work."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from repre.errors import RunError, UserError

try:
    import fcntl
except ImportError:  # Windows: two processes that write one file at once disturb each other there
    fcntl = None  # type: ignore[assignment]

WRITER_SECONDS = 120.0
"""Longest wait for another process that writes the same file."""
FULL_BYTES = 2**20
"""A disk with less space left is full, where a library does not say why it could not write."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, backup: Path | None = None) -> None:
    """Lets `write` fill a file beside `path`, flushes it to the disk and renames it to `path`.

    A reader sees the old file or the new one, never a part of it, even after a power loss: the content is on the disk before
    the name points to it. Processes that write the same file do so one after the other.

    Args:
        backup: another name that the old file keeps; it replaces what had that name.

    Raises:
        RunError: the disk is full, the folder cannot be written, or another process writes this file for minutes. The old
            file is intact.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _alone(partial):
            try:
                with open(partial, "wb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                if backup is not None and path.is_file():
                    _second_name(path, backup)
                os.replace(partial, path)
            except (OSError, RuntimeError):
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a failed write as RuntimeError
        raise RunError(
            f"could not write {path}: {_reason(error, path)}; what was saved before is intact", kind="disk"
        ) from error


def keep_copy(path: Path, copy: Path) -> None:
    """Gives the content of a file that is only ever replaced a further name, atomically: a link, which takes no space on the
    disk until `path` is replaced, or a copy where the system has no links.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    try:
        _link(path, copy)
        _sync_folder(copy.parent)
    except OSError:
        with open(path, "rb") as file:
            write_atomically(copy, lambda target: shutil.copyfileobj(file, target, 1 << 20))


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which replaces `path` at the end; after an error it is removed.

    A reader sees the old folder, none, or the new one as a whole. A link to a folder stays one. Files have the permissions
    that the user's umask allows.

    Raises:
        OSError: the folder cannot be written or replaced.
    """
    path = path.resolve()
    partial, old = (path.with_name(f".{path.name}.{word}") for word in ("partial", "old"))
    for folder in (partial, old):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Writes plain values as indented JSON, atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(content, indent=1) + "\n").encode()))


def json_hash(content: Any, *, length: int = 64) -> str:
    """The first `length` hex digits of the SHA-256 of plain values as JSON with sorted keys.

    Names files by everything that defines them: results, cached features, checkpoints of an evaluation. What JSON cannot
    hold (paths, data types) counts as its text.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:length]


def cache_home() -> Path:
    """The cache folder of this project: $REPRE_CACHE, $XDG_CACHE_HOME/repre or ~/.cache/repre.

    A user without a home gets a folder among the temporary files, which no other user may write to.
    """
    if own := os.environ.get("REPRE_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repre"
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"repre-{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = os.lstat(folder)
        if status.st_uid != os.getuid() or status.st_mode & 0o077 or not folder.is_dir():
            raise UserError(f"{folder} belongs to another user; name a folder for the cache in REPRE_CACHE") from None
        return folder


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Inside, no other process is inside with the same file. The system lets the next one in if this one is killed; file
    systems without locks are accepted.

    Raises:
        OSError: the file cannot be made, or another process is inside for `WRITER_SECONDS`.
    """
    if fcntl is None:
        yield
        return
    until = time.monotonic() + WRITER_SECONDS
    while True:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(partial) and os.path.samestat(os.stat(partial), os.fstat(descriptor)):
                break
        except FileNotFoundError:  # renamed or removed by the one before
            pass
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(descriptor)
                raise
            time.sleep(0.02)
        except OSError:  # a file system without locks
            break
        os.close(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a worker that was forked meanwhile has the descriptor too
        os.close(descriptor)


def _reason(error: BaseException, path: Path) -> str:
    """Why a file cannot be written: the error of the system where there is one below what a library made of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BlockingIOError):
            return "another process is writing it"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    with contextlib.suppress(OSError):
        if shutil.disk_usage(path.parent).free < FULL_BYTES:
            return os.strerror(errno.ENOSPC)
    return str(error)


def _second_name(path: Path, backup: Path) -> None:
    """Gives the file a second name without a moment in which it has none; where the system has no links, it moves."""
    try:
        _link(path, backup)
    except OSError:
        os.replace(path, backup)


def _link(path: Path, name: Path) -> None:
    """Gives a file a further name, which replaces what had it; OSError where the system has no links."""
    partial = name.with_name(f".{name.name}.partial")
    partial.unlink(missing_ok=True)
    os.link(path, partial)
    os.replace(partial, name)
    partial.unlink(missing_ok=True)  # a rename between two names of one file does nothing


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable where the system allows opening folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
