"""Keeps the cache of features and maps below a size, and continues without it if it cannot be written.

The entries that were not used for longest go first.
"""

import os
import shutil
import warnings
from pathlib import Path

from repre.utils.os_errors import reason_of

GIB = 2**30
_refused: set[Path] = set()
"""Caches of which this process said that they cannot be written."""


def go_on_without(root: Path, error: Exception) -> None:
    """Warns that nothing more is kept in a cache, once for each."""
    if root not in _refused:
        _refused.add(root)
        reason = reason_of(error)
        warnings.warn(
            f"the cache {root} cannot be written ({reason}); the evaluation continues without it. Name another folder "
            "with --runtime.cache",
            stacklevel=3,
        )


def mark_used(entry: Path) -> None:
    """Sets the time of a cached file or folder to now. On a read-only disk it stays as it is."""
    try:
        os.utime(entry)
    except OSError:
        return


def evict(root: Path, *, max_gib: float, keep: Path) -> list[Path]:
    """Removes entries of ``root/features`` and ``root/maps`` until they take at most `max_gib` GiB.

    Args:
        keep: the entry that was just written; it stays whatever its size.

    Returns:
        The removed entries.
    """
    entries = []
    for entry in [*root.glob("features/*.npy"), *root.glob("maps/*")]:
        if entry != keep and not entry.name.startswith("."):  # hidden entries are being written
            try:
                entries.append((entry.stat().st_mtime, _size(entry), entry))
            except FileNotFoundError:  # another process removed it
                continue
    total = sum(size for _, size, _ in entries) + _size(keep)
    removed = []
    for _, size, entry in sorted(entries, key=lambda item: item[0]):
        if total <= max_gib * GIB:
            break
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        total -= size
        removed.append(entry)
    return removed


def _size(entry: Path) -> int:
    if entry.is_dir():
        return sum(file.stat().st_size for file in entry.iterdir())
    return entry.stat().st_size
