"""The list of files that a run began with. Files that are added or removed later never change its order.

The order of a run is a permutation of its files: one file more or less would silently reshuffle all of it when the run is
resumed. So the run's folder holds the list. A file that was removed is reported like any unreadable one, a new file is not
used, and a file whose content changed is listed. If the data moved, the run resumes with the new path where the list and
the content of a few files are the same.

files.gz    gzip of: a line of JSON (`_Header`), the length of every name as uint32, the names
"""

import contextlib
import gzip
import hashlib
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from repre.data.io.cache_folders import CachedSource
from repre.data.io.image_files import Files, FileSource
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.joined_files import ChosenFiles
from repre.data.io.names import Names
from repre.data.io.sources import Source
from repre.errors import UserError
from repre.utils.device import machine_bytes
from repre.utils.evenly_spaced import evenly_spaced
from repre.utils.io import write_atomically

MAX_HEADER = 1 << 24
MAX_BYTES, MAX_GROWTH, MAX_SHARE = 1 << 30, 4, 4
"""A list is refused that has more bytes, more than so many times those of the present names, and more than one part in so
many of this machine's memory: what is packed in a small file would otherwise take all of it."""
SAMPLE = 16
"""Files whose content is compared where the data moved or were copied again."""


@dataclass(frozen=True)
class _Header:
    started: int
    """When the run began, in nanoseconds."""
    data: str
    """The ``--data`` string of the run."""
    digest: str
    """Of the names; see `Names.digest`."""
    counts: list[int]
    """Files of each part of the data; see `Files`."""
    size: int
    """Bytes of all names together."""
    sample: dict[str, str]
    """SHA-256 of the content of a few files by their numbers."""


def write_manifest(source: Source, path: Path) -> None:
    """Writes the list of files of a new run. Sources without files have none."""
    if not isinstance(source, FileSource):
        return
    files = source.files
    names = files.names
    header = _Header(
        started=time.time_ns(),
        data=source.spec,
        digest=names.digest,
        counts=files.counts,
        size=len(names.block),
        sample=content_sample(files),
    )

    def write(file: BinaryIO) -> None:
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
            packed.write(json.dumps(asdict(header)).encode() + b"\n")
            packed.write(np.diff(names.ends, prepend=0).astype("<u4").data)
            packed.write(np.ascontiguousarray(names.block).data)

    write_atomically(path, write)


def apply_manifest(source: Source, path: Path) -> tuple[Source, str | None]:
    """The source with the run's own list of files, and a warning if the files differ from it.

    Raises:
        UserError: the list is damaged, or the data moved and are other ones now.
    """
    if not isinstance(source, FileSource) or not path.is_file():
        return source, None
    header, listed = _read(path, source.files)
    left_out = source.label_images
    if listed is not None and left_out:  # a run that began with the masks keeps them
        source = source.with_label_images()
        header, listed = _read(path, source.files)
    moved = header.data != source.spec
    if moved:
        _check_moved(source, header, listed)
    source.run_started = _content_since(source, header) if listed is None else header.started
    if listed is None:
        return source, None
    files = _choose(source.files, listed, header.counts)
    if files is None:
        raise UserError(
            f"--data {source.spec} now has {len(source.files.counts)} parts (folders or archives), but the run began "
            f"with {len(header.counts)}; give the original data, or start a run with another --out"
        )
    removed = int((files.numbers < 0).sum())
    known = np.zeros(len(source), bool)
    known[files.numbers[files.numbers >= 0]] = True
    for group in left_out:
        known[group.numbers] = True
    added = int((~known).sum())
    run_source = FileSource(
        source.spec, files, channels=source.channels, canvas=source.canvas, raw_values=source.raw_values
    )
    run_source.run_started = header.started
    return run_source, (
        f"--data changed since the run began: {removed} of its {len(files)} files are gone, {added} are new; the run keeps "
        "its list of files and their order (start a run with another --out to use the new files)"
    )


def manifest_hash(source: Source) -> str:
    """SHA-256 of the names of all files in their order; of sources without files, of what they were opened from."""
    if isinstance(source, FileSource):
        return source.files.names.digest
    return hashlib.sha256(f"{source.spec}\0{len(source)}".encode("utf-8", "surrogateescape")).hexdigest()


def changed_during_run(source: Source, index: int) -> bool:
    """Whether a file was modified or replaced after its run began, by the clock of where it is."""
    if isinstance(source, CachedSource):
        source = source.source
    if not isinstance(source, FileSource) or source.run_started is None:
        return False
    try:
        return source.run_started < source.files.stamp(index)[1] <= time.time_ns()
    except (UnreadableImage, OSError):
        return False


def _content_since(source: FileSource, header: _Header) -> int:
    """From when on a new stamp of a file means another content, in nanoseconds: the start of the run, or now if files of
    the sample were written again with the content that they had, as when all data were copied."""
    again = []
    for number in map(int, header.sample):
        with contextlib.suppress(UnreadableImage):
            if header.started < source.files.stamp(number)[1]:
                again.append(number)
    now = content_sample(source.files, again)
    same = bool(again) and all(now.get(str(number)) == header.sample[str(number)] for number in again)
    return time.time_ns() if same else header.started


def _check_moved(source: FileSource, header: _Header, listed: Names | None) -> None:
    """Refuses data at another path than before unless they are the same."""
    if listed is None and header.counts == source.files.counts:
        now = content_sample(source.files, [int(number) for number in header.sample])
        changed = [int(number) for number, content in header.sample.items() if now.get(number) != content]
        if not changed:
            return
        difference = f"the content of {source.describe(changed[0])} differs"
    else:
        difference = f"{len(source)} images, then {sum(header.counts)}, or other names"
    raise UserError(
        f"--data {source.spec} does not hold the images that the run began with at {header.data} ({difference}); give the "
        "folder to which they moved, or start a run with another --out"
    )


def content_sample(files: Files, numbers: Sequence[int] | None = None) -> dict[str, str]:
    """SHA-256 of the content of evenly spaced files, or of those with these numbers; without those that cannot be read."""
    if numbers is None:
        numbers = evenly_spaced(len(files), SAMPLE)
    found: dict[str, str] = {}
    for number in numbers:
        try:
            with files.open(number) as file:
                found[str(number)] = hashlib.sha256(file.read()).hexdigest()
        except (UnreadableImage, OSError):
            continue
    return found


def _choose(files: Files, listed: Names, counts: list[int]) -> ChosenFiles | None:
    """The listed files among those that are there, part by part; None if there are other numbers of parts."""
    if len(counts) != len(files.counts):
        return None
    numbers = np.full(len(listed), -1, np.int64)
    start = there = 0
    for count, present in zip(counts, files.counts):
        places = {files.names.encoded(number): number for number in range(there, there + present)}
        for number in range(start, start + count):
            numbers[number] = places.get(listed.encoded(number), -1)
        start, there = start + count, there + present
    return ChosenFiles(files, listed, numbers, counts)


def _read(path: Path, files: Files) -> tuple[_Header, Names | None]:
    """The header of a list, and its names unless they are those of `files`."""
    try:
        with gzip.open(path, "rb") as packed:
            content: dict[str, Any] = json.loads(packed.readline(MAX_HEADER))
            header = _Header(**content)
            if header.digest == files.names.digest and header.counts == files.counts:
                return header, None
            count = sum(header.counts)
            present, memory = len(files.names.block) + 4 * len(files), machine_bytes()
            size = 4 * count + header.size
            if size > max(MAX_BYTES, MAX_GROWTH * present, memory // MAX_SHARE):
                raise UserError(
                    f"{path}, the list of the run's files, holds {count} names of {size / 2**30:.1f} GiB, and --data only "
                    f"{len(files)} files: too many for this machine with {memory / 2**30:.1f} GiB. Give the data that "
                    f"the run began with, or delete the list to continue with the files of --data"
                )
            lengths = np.frombuffer(packed.read(4 * count), "<u4")
            block = np.frombuffer(packed.read(header.size), np.uint8)
            names = Names(block, np.cumsum(lengths, dtype=np.int64))
            if names.digest != header.digest:
                raise ValueError("its checksum differs")
            return header, names
    except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        raise UserError(
            f"{path}, the list of the run's files, is damaged ({error}); delete it to continue with the files of --data"
        ) from error
