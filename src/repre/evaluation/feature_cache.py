"""The folder of kept features and maps stays below a limit: what was not of use for longest goes first."""

import os
import shutil
from pathlib import Path

GIB = 2**30


def used_now(entry: Path) -> None:
    """Marks a kept file or folder as of use now; a cache on a read-only disk stays as it is."""
    try:
        os.utime(entry)
    except OSError:
        return


def make_room(root: Path, *, most: float, keep: Path) -> list[Path]:
    """Removes entries of ``root/features`` and ``root/maps`` until they take at most `most` GiB; gives what went.

    Args:
        keep: the entry that was just written, which stays whatever its size.
    """
    entries = []
    for entry in [*root.glob("features/*.npy"), *root.glob("maps/*")]:
        if entry != keep and not entry.name.startswith("."):  # a name with a dot is being written
            try:
                entries.append((entry.stat().st_mtime, _size(entry), entry))
            except FileNotFoundError:  # another process made room
                continue
    total = sum(size for _, size, _ in entries) + _size(keep)
    gone = []
    for _, size, entry in sorted(entries, key=lambda found: found[0]):
        if total <= most * GIB:
            break
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        total -= size
        gone.append(entry)
    return gone


def _size(entry: Path) -> int:
    if entry.is_dir():
        return sum(file.stat().st_size for file in entry.iterdir())
    return entry.stat().st_size
