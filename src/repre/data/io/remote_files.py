"""Images at addresses: ``s3://``, ``gs://``, ``https://`` and the other protocols of fsspec.

s3://bucket/photos/                 a folder, listed anew at every start
https://host/photos/                a folder that the server shows as a page of links
https://host/photos.txt             a text list (.txt, .lst, .list): addresses, or names relative to the list
s3://bucket/shards/{0000..0099}.tar archives, of which parts are read; also one, or a folder that holds only archives

What was fetched is kept on the disk up to a limit (`remote_cache`).
"""

import errno
import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from repre.data.io import remote_access
from repre.data.io.archive_members import MAX_MEMBER_BYTES
from repre.data.io.archives import ARCHIVES, ArchiveFiles, open_archives
from repre.data.io.decode import EXTENSIONS
from repre.data.io.hub_data import TABLES
from repre.data.io.image_files import Files, Stamp
from repre.data.io.image_kinds import HEAD_BYTES, is_image_content
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.local_files import list_lines
from repre.data.io.names import Names
from repre.data.io.remote_address import (
    REMOTE_GIB,
    WEB,
    check_address,
    check_listed_addresses,
    protocol_of,
    relative_names,
    root_of,
)
from repre.data.io.remote_cache import RemoteCache
from repre.data.io.remote_errors import RemoteError
from repre.data.io.remote_listing import Listing, list_remote, stamps_in
from repre.data.io.spec_patterns import expand_braces
from repre.errors import UserError
from repre.utils.evenly_spaced import evenly_spaced

Array = np.ndarray

LISTS = (".txt", ".lst", ".list")
"""Endings of text lists."""
LIST_CHECKS = 4
"""Files of a list that are looked for at the start, evenly spaced."""
AT_ONCE = 16
"""Requests at once for the stamps of archives that no folder lists."""
INDEX_BYTES = 4 * 2**20
"""Bytes of a request while an archive is listed."""
WAYS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or ~/.aws/credentials; for a "
    "public bucket FSSPEC_S3_ANON=true",
    "gs": "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS in the environment",
    "https": "a line 'machine HOST login USER password PASSWORD' in ~/.netrc",
}
"""Where the libraries look for credentials."""
WAYS |= {"s3a": WAYS["s3"], "gcs": WAYS["gs"], "http": WAYS["https"]}


class RemoteFiles:
    """Files below an address.

    Args:
        root: address that `names` are relative to, with a slash at its end.
        names: of the files.
        sizes, times: in bytes and nanoseconds as the folder was listed, int64 [N]; 0 where unknown, None for all.
        cache: keeps what was fetched.
        left: see `repre.data.io.image_files.Files`.
    """

    def __init__(
        self,
        root: str,
        names: Names,
        *,
        sizes: Array | None = None,
        times: Array | None = None,
        cache: RemoteCache | None = None,
        left: dict[str, int] | None = None,
    ) -> None:
        self.root, self.names, self.counts, self.location = root, names, [len(names)], root
        self.sizes, self.times, self.cache = sizes, times, cache or RemoteCache()
        self.left = left or {}

    @classmethod
    def of_addresses(cls, names: Names, *, gib: float = REMOTE_GIB) -> "RemoteFiles":
        """The files of a list of addresses, which have one protocol and one host or bucket.

        Raises:
            UserError: they have several, one holds a secret, or files do not exist.
        """
        check_listed_addresses(names)
        root = root_of(names[0])
        files = cls(root, Names.of(relative_names(names, root)), cache=RemoteCache(gib))
        files.check()
        return files

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, index: int) -> str:
        return self.root + self.names[index]

    def stamp(self, index: int) -> Stamp:
        if self.sizes is None or self.times is None:
            return 0, 0
        return int(self.sizes[index]), int(self.times[index])

    def open(self, index: int) -> BinaryIO:
        address, stamp = self.describe(index), self.stamp(index)
        if stamp[0] > MAX_MEMBER_BYTES:
            raise UnreadableImage(f"{stamp[0] / 2**30:.1f} GiB: larger than any image")
        content = self.cache.get(address, stamp)
        if content is None:
            try:
                content = remote_access.read(address, size=stamp[0])
            except RemoteError as error:
                raise _fault(error, address) from None
            if is_image_content(content[:HEAD_BYTES]):  # else perhaps a page that asks for a password, which would stay
                self.cache.put(content, address, stamp)
        return io.BytesIO(content)

    def check(self) -> None:
        """Refuses a list if one of a few of its files does not exist or needs credentials."""
        for number in evenly_spaced(len(self), LIST_CHECKS):
            address = self.describe(number)
            try:
                remote_access.read(address, end=1)
            except RemoteError as error:
                raise _refusal(address, error) from None


def _fault(error: RemoteError, address: str) -> UnreadableImage | OSError:
    """What to raise for a request that failed: an error of the storage where another attempt may help."""
    return TimeoutError(errno.ETIMEDOUT, str(error), address) if error.again else UnreadableImage(str(error))


class RemoteBlob:
    """An archive at an address, of which parts are read.

    Args:
        location: its address.
        stamp: its size and time at the start of the run.
        cache: keeps the parts that were read.
    """

    def __init__(self, location: str, stamp: Stamp, cache: RemoteCache) -> None:
        self.location, self._stamp, self.cache = location, stamp, cache

    def stamp(self) -> Stamp:
        return self._stamp

    def read(self, start: int, size: int) -> bytes:
        content = self.cache.get(self.location, self._stamp, start, size)
        if content is None:
            content = self.fetch(start, size)
            self.cache.put(content, self.location, self._stamp, start, size)
        return content

    def fetch(self, start: int, size: int) -> bytes:
        """As `read`, without the cache."""
        whole = self._stamp[0]
        end = min(start + size, whole)
        if end <= start:
            return b""
        try:
            return remote_access.read(self.location, start=start, end=end, size=whole)
        except RemoteError as error:
            raise _fault(error, self.location) from None

    def open(self) -> BinaryIO:
        return io.BufferedReader(_BlobReader(self, self._stamp[0]), INDEX_BYTES)

    def close(self) -> None:
        """Nothing stays open."""


class _BlobReader(io.RawIOBase):
    """The bytes of an archive in order, by a request for every read."""

    def __init__(self, blob: RemoteBlob, size: int) -> None:
        self.blob, self.size, self.position = blob, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence])
        return self.position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self.blob.fetch(self.position, len(buffer))
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def open_remote(
    spec: str, *, split: str, any_ending: bool, cache_dir: Path | None = None, gib: float = REMOTE_GIB
) -> Files:
    """Opens what an address names; see the top of this file.

    Args:
        split: train or val: of a folder that holds both, that one; any other word: all of it.
        any_ending: also take files of other endings if their content is that of an image, which costs a request for each.
        cache_dir: folder for the lists of archives; by default the user's.
        gib: size in GiB of what is kept on the disk.

    Raises:
        UserError: there is nothing, credentials or packages are missing, or the address holds a secret.
    """
    check_address(spec)
    cache, path = RemoteCache(gib), _path(spec)
    lower = path.lower()
    if "*" in spec:
        raise UserError(
            f"--data {spec}: patterns do not work in addresses; name the folder and give the pattern as --include"
        )
    if lower.endswith(TABLES):
        raise UserError(
            f"--data {spec}: tables at addresses are not supported; download it, or name its data set as hf:NAME"
        )
    if lower.endswith(EXTENSIONS):
        raise UserError(f"--data {spec} is one image; name a folder, or a text list of images (.txt)")
    try:
        if lower.endswith(ARCHIVES):
            return _open_archives(expand_braces(spec), cache, cache_dir)
        if lower.endswith(LISTS):
            return _open_list(spec, cache)
        return _open_folder(path.rstrip("/") + "/", split, any_ending, cache, cache_dir)
    except RemoteError as error:
        raise _refusal(spec, error) from None


def _open_list(spec: str, cache: RemoteCache) -> RemoteFiles:
    content = remote_access.read(spec, seconds=remote_access.LISTING_SECONDS)
    if content.lstrip()[:1] == b"<":
        raise UserError(f"--data: {spec} is a web page, not a text list; name the address of the list itself")
    names = list_lines(io.BytesIO(content))
    if not len(names):
        raise UserError(f"--data: the list {spec} names no files; write one address or name per line")
    if b"://" in names.encoded(0):
        return RemoteFiles.of_addresses(names, gib=cache.limit / 2**30)
    check_listed_addresses(names, below=root_of(spec))
    files = RemoteFiles(_path(spec).rpartition("/")[0] + "/", names, cache=cache)
    files.check()
    return files


def _open_folder(root: str, split: str, any_ending: bool, cache: RemoteCache, cache_dir: Path | None) -> Files:
    listing = list_remote(root, any_ending=any_ending)
    ranges = {name: listing.names.folder_range(name) for name in ("train", "val")}
    if split in ranges and all(first < last for first, last in ranges.values()):
        return _in_folder(f"{root}{split}/", listing.between(*ranges[split]), cache, cut=len(split) + 1)
    if len(listing.names):
        return _in_folder(root, listing, cache)
    if listing.archives:
        return _open_blobs({root + name: stamp for name, stamp in listing.archives.items()}, cache, cache_dir)
    found = f"only {sum(listing.others.values())} files of other endings" if listing.others else "no files"
    hint = "; if the server shows no page of links there, name a text list (.txt)" if protocol_of(root) in WEB else ""
    raise UserError(f"--data: {root} holds {found}; {', '.join(EXTENSIONS)} are supported{hint}")


def _in_folder(root: str, listing: Listing, cache: RemoteCache, *, cut: int = 0) -> RemoteFiles:
    """The files of a listing, whose names lose their first `cut` letters."""
    names = listing.names
    if cut:
        names = Names.of(names.encoded(number)[cut:] for number in range(len(names)))
    return RemoteFiles(root, names, sizes=listing.sizes, times=listing.times, cache=cache, left=listing.others)


def _open_archives(addresses: Sequence[str], cache: RemoteCache, cache_dir: Path | None) -> ArchiveFiles:
    """Archives by their addresses; several that lie in one folder get their stamps from its list."""
    folders = {os.path.dirname(address) for address in addresses}
    stamps = dict.fromkeys(addresses, (0, 0))
    if len(addresses) > 1 and len(folders) == 1 and protocol_of(addresses[0]) not in WEB:
        folder = folders.pop() + "/"
        known = {folder + name: stamp for name, stamp in stamps_in(folder).items()}
        if absent := [address for address in addresses if address not in known]:
            raise UserError(f"--data: {len(absent)} of {len(addresses)} archives do not exist, such as {absent[0]}")
        stamps = {address: known[address] for address in addresses}
    return _open_blobs(stamps, cache, cache_dir)


def _open_blobs(stamps: dict[str, Stamp], cache: RemoteCache, cache_dir: Path | None) -> ArchiveFiles:
    """Opens archives; those without a stamp are asked for it."""

    def blob(address: str) -> RemoteBlob:
        try:
            return RemoteBlob(address, stamps[address] if stamps[address][0] else remote_access.stamp(address), cache)
        except RemoteError as error:
            raise _refusal(address, error) from None

    remote_access.file_system(protocol_of(next(iter(stamps))))  # one for all threads
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return open_archives(list(pool.map(blob, stamps)), cache_dir=cache_dir)


def _path(address: str) -> str:
    """A web address without its query; any other address as it is."""
    return re.split("[?#]", address, maxsplit=1)[0] if protocol_of(address) in WEB else address


def _refusal(address: str, error: RemoteError) -> UserError:
    """What an error at the start means for the user."""
    hint = ""
    if error.kind == "denied":
        ways = WAYS.get(protocol_of(address), "the usual places of that library")
        hint = f"; check the credentials, which come from {ways}"
    elif error.kind == "missing":
        hint = "; check the address" + (", or name a text list (.txt)" if protocol_of(address) in WEB else "")
    return UserError(f"--data: cannot read {address}: {error}{hint}")
