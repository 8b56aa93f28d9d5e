"""The list of files that a run began with. Files that are added or removed later never change its order.

The order of a run is a permutation of its files: one file more or less would silently reshuffle all of it when the run is
resumed. So the run's folder holds the list. A file that was removed is reported like any unreadable one, a new file is not
used, and a file whose content changed is listed.

files.gz    gzip of: the time of the list in nanoseconds, then the names, each after a NUL byte
"""

import gzip
import hashlib
import os
import time
import zlib
from pathlib import Path, PurePosixPath

from repre.data.io.cache_folders import CachedSource
from repre.data.io.folders import FileSource
from repre.data.io.sources import Source
from repre.errors import UserError
from repre.utils.io import write_atomically

MAX_BYTES = 1 << 30
"""A list that unpacks to more is refused."""


def write_manifest(source: Source, path: Path) -> None:
    """Writes the list of files of a new run. Sources without files have none."""
    if isinstance(source, FileSource):
        parts = [str(time.time_ns()).encode(), *map(os.fsencode, source.names())]
        content = gzip.compress(b"\0".join(parts), compresslevel=3, mtime=0)
        write_atomically(path, lambda file: file.write(content))


def apply_manifest(source: Source, path: Path) -> tuple[Source, str | None]:
    """The source with the run's own list of files, and a warning if the files differ from it.

    Raises:
        UserError: the list is damaged, or names files outside of the data.
    """
    if not isinstance(source, FileSource) or not path.is_file():
        return source, None
    run_started, listed = _read(path)
    present = source.names()
    if listed == present:
        source.run_started = run_started
        return source, None
    if not any(map(_leaves_root, present)) and (outside := [name for name in listed if _leaves_root(name)]):
        raise UserError(f"{path} names files outside of --data, such as {outside[0]!r}: it is not the list of this run")
    removed, added = len(set(listed) - set(present)), len(set(present) - set(listed))
    run_source = FileSource(source.spec, source.root, listed, channels=source.channels, canvas=source.canvas)
    run_source.run_started = run_started
    return run_source, (
        f"--data changed since the run began: {removed} of its {len(listed)} files are gone, {added} are new; the run keeps "
        "its list of files and their order (start a run with another --out to use the new files)"
    )


def manifest_hash(source: Source) -> str:
    """SHA-256 of the names of all files in their order; of sources without files, of what they were opened from."""
    names = source.names() if isinstance(source, FileSource) else [source.spec, str(len(source))]
    return hashlib.sha256(b"\0".join(map(os.fsencode, names))).hexdigest()


def changed_during_run(source: Source, index: int) -> bool:
    """Whether a file was modified after its run began, by the clock of the file system."""
    if isinstance(source, CachedSource):
        source = source.source
    if not isinstance(source, FileSource) or source.run_started is None:
        return False
    try:
        return source.run_started < os.stat(source.path(index)).st_mtime_ns <= time.time_ns()
    except OSError:
        return False


def _read(path: Path) -> tuple[int, list[str]]:
    """When the run began, in nanoseconds, and its files."""
    try:
        unpacker = zlib.decompressobj(31)
        content = unpacker.decompress(path.read_bytes(), MAX_BYTES)
        if not unpacker.eof:
            raise ValueError("truncated, or larger than a list of files")
        run_started, *names = content.split(b"\0")
        return int(run_started), [os.fsdecode(name) for name in names]
    except (OSError, ValueError, zlib.error) as error:
        raise UserError(
            f"{path}, the list of the run's files, is damaged ({error}); delete it to continue with the files of --data"
        ) from error


def _leaves_root(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
