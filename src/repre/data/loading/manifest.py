"""The list of files that a run began with, so that what comes to or goes from its folder never changes what it shows.

The order of a run is a permutation of its files: one file more or less would reshuffle all of it without a word when the
run is taken up again. So the list lies in the run's folder; a file that has gone is reported like any unreadable one, a
new one waits for the next run, and a file whose content changed meanwhile is named.

files.gz    gzip of: the time of the list in nanoseconds, then the names, each after a NUL byte
"""

import gzip
import os
import time
import zlib
from pathlib import Path, PurePosixPath

from repre.data.io.sources import FileSource, Source
from repre.errors import UserError
from repre.utils.io import write_atomically

LARGEST = 1 << 30
"""Bytes of the names together; a list that unpacks to more is refused."""


def write_manifest(source: Source, path: Path) -> None:
    """Writes the list of a run that begins; sources without files have none."""
    if isinstance(source, FileSource):
        parts = [str(time.time_ns()).encode(), *map(os.fsencode, source.names())]
        content = gzip.compress(b"\0".join(parts), compresslevel=3, mtime=0)
        write_atomically(path, lambda file: file.write(content))


def apply_manifest(source: Source, path: Path) -> tuple[Source, str | None]:
    """The source with the run's own list, and words about what differs from what is there now.

    Raises UserError where the list is damaged, or names files outside of the data.
    """
    if not isinstance(source, FileSource) or not path.is_file():
        return source, None
    since, kept = _read(path)
    found = source.names()
    if kept == found:
        source.since = since
        return source, None
    here = set(found)
    if not any(map(_climbs, found)) and (outside := [name for name in kept if _climbs(name)]):
        raise UserError(f"{path} names files outside of --data, such as {outside[0]!r}: it is not this run's own list")
    gone, new = len(set(kept) - here), len(here - set(kept))
    own = FileSource(source.spec, source.root, kept, channels=source.channels, canvas=source.canvas)
    own.since = since
    return own, (
        f"--data changed since the run began: {gone} of its {len(kept)} files are gone, {new} are new; the run goes on "
        "with the list that it began with, so that its order stays (a new --out takes the new files)"
    )


def changed(source: Source, index: int) -> bool:
    """Whether a file was written to after its run began, by the file system's clock."""
    if not isinstance(source, FileSource) or source.since is None:
        return False
    try:
        return source.since < os.stat(source.path(index)).st_mtime_ns <= time.time_ns()
    except OSError:
        return False


def _read(path: Path) -> tuple[int, list[str]]:
    try:
        unpack = zlib.decompressobj(31)
        content = unpack.decompress(path.read_bytes(), LARGEST)
        if not unpack.eof:
            raise ValueError("torn, or larger than a list of files")
        since, *names = content.split(b"\0")
        return int(since), [os.fsdecode(name) for name in names]
    except (OSError, ValueError, zlib.error) as error:
        raise UserError(
            f"{path}, the list of the run's files, is damaged ({error}); delete it to go on with the files of --data"
        ) from error


def _climbs(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
