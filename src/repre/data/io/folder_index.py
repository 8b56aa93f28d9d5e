"""Which images a folder holds: a recursive search, and a cache of its result."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repre.data.io.decode import EXTENSIONS
from repre.data.io.image_kinds import HEAD_BYTES, is_image_content
from repre.data.io.index_files import index_path, one_at_a_time, read_index, write_index
from repre.data.io.names import NO_ENDING, Names, ending_of
from repre.errors import RunError, UserError
from repre.utils.os_errors import reason_of

MAX_ENDINGS = 1000
"""Endings after so many others count as none."""
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
"""Folders that archives, network drives and operating systems leave among the user's: they hold thumbnails and remains."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is left out by its name: it begins with a dot, or a system made it."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


class Listing(NamedTuple):
    """What a folder holds.

    Attributes:
        names: paths of all image files, relative to the folder, sorted by their bytes.
        left: how many other files there are, by their ending.
    """

    names: Names
    left: dict[str, int]


def list_images(folder: Path, *, any_ending: bool = False, cache_dir: Path | None = None) -> Listing:
    """Finds all image files below a folder.

    Args:
        any_ending: take files of other endings, or of none, too if their content is that of an image.
        cache_dir: folder of the cache, which is valid while no folder of the tree changes; by default the user's.

    Raises:
        UserError: a folder cannot be read, or there are no images.
    """
    root = folder.resolve()
    cache = cache_path(root, any_ending=any_ending, cache_dir=cache_dir)
    found = _read_cache(cache, root)
    if found is None:
        with one_at_a_time(cache):
            found = _read_cache(cache, root)  # another process may have made it meanwhile
            if found is None:
                folders: dict[str, int] = {}
                left: Counter[str] = Counter()
                names = Names.of(_scan(root, folders, left, any_ending=any_ending))
                found = Listing(names, dict(left))
                write_cache(cache, root, found, folders)
    if not len(found.names):
        raise UserError(f"--data: {_describe_content(folder, found.left)}")
    return found


def holds_images(folder: Path) -> bool:
    """Whether a folder, or one below it, holds a file with the ending of an image."""
    return any(name.lower().endswith(EXTENSIONS) for _, _, names in os.walk(folder) for name in names)


def _scan(root: Path, folders: dict[str, int], left: Counter[str], *, any_ending: bool) -> Iterator[str]:
    """Image files below `root`, sorted by their bytes; adds the modification time of every folder searched to `folders`, and
    the number of other files to `left`.

    Hidden files and folders are skipped. Linked folders are followed once, so that loops end. A dangling link is listed,
    and reported when it is read. A folder that cannot be read is an error, since its images would be missing silently.
    """
    visited: set[tuple[int, int]] = set()
    pending: list[Iterator[tuple[bytes, str, bool]]] = [iter([(b"", "", True)])]
    # Depth first; a folder sorts as its name and a slash, so that paths come in the order of their bytes.
    while pending:
        _, name, is_folder = next(pending[-1], (b"", None, False))
        if name is None:
            pending.pop()
        elif is_folder:
            pending.append(_entries(root, name, visited, folders, left, any_ending=any_ending))
        else:
            yield name


def _entries(
    root: Path,
    relative: str,
    visited: set[tuple[int, int]],
    folders: dict[str, int],
    left: Counter[str],
    *,
    any_ending: bool,
) -> Iterator[tuple[bytes, str, bool]]:
    """The images and folders in a folder: key to sort by, path relative to `root`, whether it is a folder."""
    folder = root / relative
    found: list[tuple[bytes, str, bool]] = []
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            return iter(())
        visited.add((status.st_dev, status.st_ino))
        folders[relative] = status.st_mtime_ns
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                name = f"{relative}/{entry.name}" if relative else entry.name
                if _is(entry.is_dir):
                    found.append((os.fsencode(entry.name) + b"/", name, True))
                elif _is_image(entry, any_ending=any_ending):
                    found.append((os.fsencode(entry.name), name, False))
                else:
                    ending = ending_of(entry.name)
                    left[ending if ending in left or len(left) < MAX_ENDINGS else NO_ENDING] += 1
    except PermissionError as error:
        raise UserError(f"--data: no permission to read the folder {folder}") from error
    except OSError as error:
        raise UserError(f"--data: cannot read the folder {folder}: {reason_of(error)}") from error
    return iter(sorted(found))


def _is_image(entry: "os.DirEntry[str]", *, any_ending: bool) -> bool:
    if entry.name.lower().endswith(EXTENSIONS):
        return _is(entry.is_file) or (entry.is_symlink() and not os.path.exists(entry.path))
    if not any_ending or not _is(entry.is_file):
        return False
    with contextlib.suppress(OSError), open(entry.path, "rb") as file:
        return is_image_content(file.read(HEAD_BYTES))
    return False


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False


def _describe_content(folder: Path, endings: dict[str, int]) -> str:
    """What a folder without images holds instead."""
    if not endings:
        inner = " and has no files in its folders" if any(_is(entry.is_dir) for entry in os.scandir(folder)) else ""
        return f"{folder} is an empty folder{inner}; name one that holds images ({', '.join(EXTENSIONS)})"
    counts = ", ".join(f"{count} of {ending}" for ending, count in Counter(endings).most_common(4))
    if found := next((ending for ending in (".tar", ".zip") if ending in endings), None):
        return (
            f"{folder} holds no images, only files with other endings ({counts}); name archives in its folders by a "
            f"pattern: '{folder}/**/*{found}'"
        )
    return (
        f"{folder} holds no images, only files with other endings ({counts}); {', '.join(EXTENSIONS)} are supported, "
        "and with --any-ending every file that contains an image"
    )


def _read_cache(cache: Path, root: Path) -> Listing | None:
    if (content := read_index(cache)) is None:
        return None
    arrays, meta = content
    if meta["root"] != str(root) or "left" not in meta:
        return None
    folders = Names(arrays["folders"], arrays["folder_ends"])
    try:
        for relative, modified in zip(folders, arrays["modified"].tolist()):
            if os.stat(root / relative).st_mtime_ns != modified:
                return None
    except OSError:
        return None
    return Listing(Names(arrays["names"], arrays["ends"]), dict(meta["left"]))


def cache_path(root: Path, *, any_ending: bool, cache_dir: Path | None = None) -> Path:
    """The file that holds the list of a folder."""
    key = os.fsencode(root) + repr((EXTENSIONS, any_ending, sorted(SYSTEM_FOLDERS))).encode()
    return index_path(key, cache_dir)


def write_cache(cache: Path, root: Path, found: Listing, folders: dict[str, int]) -> None:
    """Best effort: without the cache the next run searches again.

    Args:
        folders: modification time in nanoseconds of every folder that was searched, relative to `root`.
    """
    searched = Names.of(folders)
    arrays = {
        "names": found.names.block,
        "ends": found.names.ends,
        "folders": searched.block,
        "folder_ends": searched.ends,
        "modified": np.array([*folders.values()], np.int64),
    }
    with contextlib.suppress(OSError, RunError, UnicodeEncodeError):
        write_index(cache, arrays, {"root": str(root), "left": found.left})
