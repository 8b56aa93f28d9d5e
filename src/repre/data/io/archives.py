"""Images in archives: tar shards, as WebDataset names them, and zip files. Any image is read by its place in its archive.

Where the members lie is listed once and kept in the user's cache; of archives that changed, the list is made again.
"""

import contextlib
import io
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from repre.data.io.archive_members import MAX_MEMBER_BYTES, Member, list_tar, list_zip, span, unpack
from repre.data.io.blobs import Blob
from repre.data.io.decode import EXTENSIONS
from repre.data.io.folder_index import holds_images
from repre.data.io.image_files import Stamp
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.index_files import index_path, one_at_a_time, read_index, write_index
from repre.data.io.names import Names, ending_of
from repre.data.io.storage_faults import check_away
from repre.errors import RunError, UserError
from repre.utils.progress import track

Array = np.ndarray

ARCHIVES = (".tar", ".zip")
"""Endings of archives, in lower case."""
OPEN_ARCHIVES = 64
"""Archives that a process keeps open."""
ZIP_ENDING = re.compile(r"\.zip(\?[^/]*)?$", re.IGNORECASE)
"""Of a path, or of an address with a query."""
AT_ONCE = 8
"""Archives that are listed at once."""
TABLE = np.dtype(
    [("offset", "<i8"), ("packed", "<i8"), ("size", "<i8"), ("checksum", "<u4"), ("packing", "<u4")], align=True
)
"""Where a member lies; see `Member`."""

_Known = tuple[list[Stamp], list[int], Names, Array, list[dict[str, int]]]
"""Stamps, numbers of images, names, places and other members of archives, as they were listed."""


class ArchiveFiles:
    """Images in archives, sorted by name within each.

    Args:
        archives: in the order of the images.
        stamps: of the archives when they were listed.
        counts: images of each archive.
        names: of all images, those of the first archive first.
        table: where they lie, `TABLE` [N].
        lefts: of each archive, how many other members there are, by their ending.
    """

    def __init__(
        self,
        archives: Sequence[Blob],
        stamps: list[Stamp],
        counts: list[int],
        names: Names,
        table: Array,
        lefts: list[dict[str, int]] | None = None,
    ) -> None:
        self.archives, self.stamps, self.counts, self.names, self.table = archives, stamps, counts, names, table
        self.lefts = lefts or [{} for _ in archives]
        self.left = dict(sum(map(Counter, self.lefts), Counter()))
        self.location = _place(archives[0]) if len(archives) == 1 else os.path.dirname(_place(archives[0]))
        self._ends = np.cumsum(counts)
        self._used: OrderedDict[int, Blob] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_used": OrderedDict()}

    def __len__(self) -> int:
        return len(self.names)

    def _archive(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def open(self, index: int) -> BinaryIO:
        member = Member("", *self.table[index].item())
        largest = max(member.size, member.packed)
        if largest > MAX_MEMBER_BYTES:
            raise UnreadableImage(f"{largest / 2**30:.1f} GiB: larger than any image")
        content = self._opened(self._archive(index)).read(member.offset, span(member))
        return io.BytesIO(unpack(member, content))

    def _opened(self, number: int) -> Blob:
        """An archive that is as it was when it was listed; those that were not used for long are closed."""
        blob = self.archives[number]
        if number not in self._used:
            try:
                stamp = blob.stamp()
            except UnreadableImage:
                check_away(blob.location, (other.location for other in self.archives))
                raise
            if stamp != self.stamps[number]:
                raise UnreadableImage("its archive changed after it was listed; run the command again to list it again")
            self._used[number] = blob
            if len(self._used) > OPEN_ARCHIVES:
                self._used.popitem(last=False)[1].close()
        self._used.move_to_end(number)
        return blob

    def stamp(self, index: int) -> Stamp:
        return int(self.table["size"][index]), self.stamps[self._archive(index)][1]

    def describe(self, index: int) -> str:
        return f"{self.archives[self._archive(index)].location}: {self.names[index]}"


def open_archives(archives: Sequence[Blob], *, cache_dir: Path | None = None) -> ArchiveFiles:
    """Opens archives by the list of their members, which is made where it is missing or older than an archive.

    Args:
        archives: tar or zip files, by the ending of their names.
        cache_dir: folder of the lists; by default the user's.

    Raises:
        UserError: an archive is missing, damaged or cut, or holds two members of one name; or none holds an image.
    """
    cache = cache_path(archives, cache_dir=cache_dir)
    stamps = [_stamp(blob) for blob in archives]
    files = _known(archives, stamps, cache)
    if files is None:
        with one_at_a_time(cache):
            files = _known(archives, stamps, cache)  # another process may have listed them meanwhile
            if files is None:
                files = _list(archives, stamps, _read_cache(cache, len(archives)))
                write_cache(cache, files)
    if not len(files):
        raise UserError(f"--data: {files.location} holds no images ({', '.join(EXTENSIONS)})")
    return files


def archives_alone(folder: Path) -> list[Path]:
    """The archives in a folder without images, sorted; none if there are images beside them.

    The first image ends the search, because the folder may hold millions. Hidden files do not count.
    """
    archives = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                lower = entry.name.lower()
                if lower.endswith(EXTENSIONS):
                    return []
                if lower.endswith(ARCHIVES) and not lower.startswith("."):
                    archives.append(folder / entry.name)
    except OSError:  # `list_images` says why it cannot be read
        return []
    return [] if archives and holds_images(folder) else sorted(archives)


def cache_path(archives: Sequence[Blob], *, cache_dir: Path | None = None) -> Path:
    """The file that holds the list of the members of archives."""
    key = "\0".join(map(_place, archives)) + repr(EXTENSIONS)
    return index_path(os.fsencode(key), cache_dir)


def write_cache(cache: Path, files: ArchiveFiles) -> None:
    """Best effort: without the cache the next run lists the archives again."""
    arrays = {"names": files.names.block, "ends": files.names.ends, "table": files.table.view(np.uint8)}
    with contextlib.suppress(OSError, RunError):
        write_index(cache, arrays, {"stamps": files.stamps, "counts": files.counts, "lefts": files.lefts})


def _place(blob: Blob) -> str:
    """The address or whole path of an archive, whatever folder a command runs in."""
    return blob.location if "://" in blob.location else os.path.abspath(blob.location)


def _stamp(blob: Blob) -> Stamp:
    try:
        return blob.stamp()
    except UnreadableImage as error:
        reason = "there is no such file" if isinstance(error.__cause__, FileNotFoundError) else error
        raise UserError(f"--data: cannot open {blob.location}: {reason}") from error


def _known(archives: Sequence[Blob], stamps: list[Stamp], cache: Path) -> ArchiveFiles | None:
    """The archives by their list in the cache; None if one of them changed since."""
    known = _read_cache(cache, len(archives))
    return ArchiveFiles(archives, stamps, *known[1:]) if known is not None and known[0] == stamps else None


def _list(archives: Sequence[Blob], stamps: list[Stamp], known: _Known | None) -> ArchiveFiles:
    """Lists the archives, except those whose stamps are known."""
    parts: dict[int, tuple[Names, Array, dict[str, int]]] = {}
    if known is not None:
        ends = np.cumsum(known[1]).tolist()
        for number, (start, end) in enumerate(zip([0, *ends], ends)):
            if known[0][number] == stamps[number]:
                parts[number] = known[2].between(start, end), known[3][start:end], known[4][number]
    missing = [number for number in range(len(archives)) if number not in parts]
    with ThreadPoolExecutor(AT_ONCE) as pool:  # those elsewhere are mostly waited for
        listed = pool.map(_members, [archives[number] for number in missing])
        parts |= dict(zip(missing, track(listed, "list archives", total=len(missing), unit="archive")))
    names, tables, lefts = zip(*(parts[number] for number in range(len(archives))))
    return ArchiveFiles(
        archives, stamps, [*map(len, names)], Names.concatenate(names), np.concatenate(tables), list(lefts)
    )


def _members(blob: Blob) -> tuple[Names, Array, dict[str, int]]:
    """Names and places of the images of one archive, sorted by the bytes of the names, and the endings of other members."""
    reader = list_zip if ZIP_ENDING.search(blob.location) else list_tar
    members: list[tuple[bytes, tuple[int, ...]]] = []
    left: Counter[str] = Counter()
    try:
        with blob.open() as file:
            for member in reader(file, blob.location):
                parts = [part for part in member.name.split("/") if part != "."]  # of tar c photos/.
                name = "/".join(parts)
                hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in parts)
                if name.lower().endswith(EXTENSIONS) and not hidden:
                    members.append((os.fsencode(name), member[1:]))
                elif not hidden:
                    left[ending_of(name)] += 1
    except (UnreadableImage, OSError) as error:
        raise UserError(f"--data: cannot read {blob.location}: {error}") from error
    members.sort()
    for (one, _), (other, _) in pairwise(members):
        if one == other:
            raise UserError(
                f"--data: {blob.location} holds two members called {os.fsdecode(one)!r}; write the archive again with "
                "each name once"
            )
    return Names.of(name for name, _ in members), np.array([place for _, place in members], TABLE), dict(left)


def _read_cache(cache: Path, count: int) -> _Known | None:
    content = read_index(cache)
    if content is None:
        return None
    arrays, meta = content
    stamps = [(int(size), int(modified)) for size, modified in meta["stamps"]]
    if len(stamps) != count or "lefts" not in meta:
        return None
    names = Names(arrays["names"], arrays["ends"])
    return stamps, list(meta["counts"]), names, arrays["table"].view(TABLE), list(meta["lefts"])
