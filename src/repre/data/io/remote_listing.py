"""Which images and archives a remote folder holds, with their sizes and times, in arrays."""

from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from repre.data.io.archives import ARCHIVES
from repre.data.io.decode import EXTENSIONS
from repre.data.io.image_files import Stamp
from repre.data.io.image_kinds import HEAD_BYTES, is_image_content
from repre.data.io.names import Names, ending_of
from repre.data.io.remote_access import file_system, list_bucket, list_folder, read, stamp_of
from repre.data.io.remote_address import WEB, protocol_of, root_of
from repre.data.io.remote_errors import RemoteError
from repre.utils.progress import track

Array = np.ndarray

AT_ONCE = 16
"""Folders that are listed at once."""
MAX_DEPTH = 2
"""Folders of a bucket that are deeper are not listed one by one."""


class Entry(NamedTuple):
    """A file in a folder: its path relative to it, size in bytes, time in nanoseconds; 0 where unknown."""

    name: str
    size: int
    modified: int


class Listing(NamedTuple):
    """What a folder holds.

    Attributes:
        names: of the images, relative to the folder, sorted by their bytes.
        sizes, times: of the images, int64 [N]; 0 where unknown.
        archives: directly in the folder, sorted, with their stamps.
        others: number of other files by their ending.
    """

    names: Names
    sizes: Array
    times: Array
    archives: dict[str, Stamp]
    others: dict[str, int]

    def between(self, start: int, end: int) -> "Listing":
        """The images from `start` up to `end`."""
        part = slice(start, end)
        return self._replace(names=self.names.between(start, end), sizes=self.sizes[part], times=self.times[part])


def list_remote(folder: str, *, any_ending: bool) -> Listing:
    """Lists a folder, whose address ends with a slash, and those in it, with a progress bar. Hidden ones are skipped.

    Raises:
        RemoteError: a folder cannot be listed.
    """
    sizes, times = array("q"), array("q")
    archives: dict[str, Stamp] = {}
    others: Counter[str] = Counter()

    def images() -> Iterator[str]:
        for name, size, modified in track(_entries(folder), f"list {folder}", total=None, unit="file"):
            if name.startswith(".") or "/." in name:
                continue
            lower = name.lower()
            if lower.endswith(EXTENSIONS) or (any_ending and _is_image(folder + name)):
                sizes.append(size)
                times.append(modified)
                yield name
            elif lower.endswith(ARCHIVES) and "/" not in name:
                archives[name] = size, modified
            else:
                others[ending_of(name)] += 1

    names = Names.of(images())
    found = np.array(sizes, np.int64), np.array(times, np.int64)
    if any(one >= other for one, other in pairwise(_encoded(names))):
        order = np.array(sorted(range(len(names)), key=names.encoded), np.int64)
        names, found = names.take(order), (found[0][order], found[1][order])
    return Listing(names, *found, dict(sorted(archives.items())), dict(others))


def stamps_in(folder: str) -> dict[str, Stamp]:
    """Size and time of the files directly in a folder; 0 where the listing does not tell them.

    Raises:
        RemoteError: it cannot be listed.
    """
    return {name: (size, modified) for name, size, modified, is_folder in _children(folder, "") if not is_folder}


def _entries(folder: str) -> Iterator[Entry]:
    """The files below a folder, in any order; several folders are listed at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        if hasattr(file_system(protocol_of(folder)), "call_s3"):
            for found in _objects(folder, len(folder), pool):
                yield from found
            return
        pending = [""]
        while pending:
            below: list[str] = []
            for children in pool.map(lambda relative: [*_children(folder, relative)], pending):
                for name, size, modified, is_folder in children:
                    if not is_folder:
                        yield Entry(_readable(folder, name), size, modified)
                    elif not name.rpartition("/")[2].startswith("."):
                        below.append(f"{name}/")
            pending = below


def _objects(folder: str, skipped: int, pool: ThreadPoolExecutor, *, depth: int = 0) -> Iterator[list[Entry]]:
    """The objects below a folder of S3, page by page.

    A page holds 1000 keys whatever their folders are, and the next one is known only after it. So a tree is listed as a
    whole, but where it has a few folders at its top, they are listed at once.

    Args:
        skipped: letters of an address that names leave out.
        depth: of the folder below the first one.
    """
    first = next(list_bucket(folder, delimiter="/"))
    root = root_of(folder)
    if first.get("IsTruncated") or depth == MAX_DEPTH:
        yield from (_page(root, page, skipped) for page in list_bucket(folder))
        return
    yield _page(root, first, skipped)
    folders = [root + found["Prefix"] for found in first.get("CommonPrefixes", [])]
    if len(folders) < AT_ONCE:
        for one in folders:
            yield from _objects(one, skipped, pool, depth=depth + 1)
        return
    for pages in pool.map(lambda one: [_page(root, page, skipped) for page in list_bucket(one)], folders):
        yield from pages


def _page(root: str, page: dict[str, Any], skipped: int) -> list[Entry]:
    return [Entry((root + found["Key"])[skipped:], *stamp_of(found)) for found in page.get("Contents", [])]


def _children(root: str, relative: str) -> Iterator[tuple[str, int, int, bool]]:
    """Path relative to the root, size, time, and whether it is a folder, of what a folder in the root holds."""
    system = file_system(protocol_of(root))
    beginning = str(system._strip_protocol(root)).rstrip("/") + "/"
    for found in list_folder(root + relative):
        path = str(found["name"])
        name = path[len(beginning) :].rstrip("/")
        if path.startswith(beginning) and name and name != relative.rstrip("/"):
            yield name, *stamp_of(found), found.get("type") == "directory"


def _readable(folder: str, name: str) -> str:
    """A name of a web address as the file system of the server has it, where it can be written in an address as it is."""
    text = unquote(name) if protocol_of(folder) in WEB else name
    return name if set(text) & set("?#%") else text


def _encoded(names: Names) -> Iterator[bytes]:
    for number in range(len(names)):
        yield names.encoded(number)


def _is_image(address: str) -> bool:
    """Whether a file begins as an image does; one that cannot be read is left out, as on a disk."""
    try:
        return is_image_content(read(address, end=HEAD_BYTES))
    except RemoteError:
        return False
