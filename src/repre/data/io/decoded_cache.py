"""Decoded images on the disk, so that every image of a run is decoded once.

A folder of the cache belongs to one list of images and one way of decoding them; `cache_folders` chooses it. It holds

    index     64 bytes for each image: what its file was, the shape of its pixels, their checksum, and a checksum of these
    images    the pixels of image i from i x `record_bytes` on; a sparse file, which takes the space of what was written

Any number of processes may read and write at once, and be killed at any moment. Pixels are written before their entry of
`index`, and both checksums are compared in the reader's own memory, so what is half written or being rewritten is decoded.
Files are read by pread, not mapped: a full disk or a file that someone cut is then an error that can be handled, and no
signal that ends the process.
"""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.frame_notes import note_several_frames, noting_frames
from repre.utils.os_errors import reason_of
from repre.utils.shared_memory import shared_bytes

Array = np.ndarray

ENTRY_BYTES = 64
ENTRY = struct.Struct("<qqIIIHHQ")
"""Size and modification time in nanoseconds of the file; height, width, channels, type of the pixels; 1 if the
file has several frames, else 0; the checksum of the pixels."""
CHECK = struct.Struct("<I")
TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
NOTICE_BYTES = 512

Stamp = tuple[int, int]
"""Size of a file, and when it was modified, in nanoseconds. Another stamp means another image."""


class DecodedCache:
    """The decoded images of one folder. It is sent to worker processes.

    Args:
        folder: exists.
        record_bytes: room for one image; larger ones are not kept.
        most_bytes: what the folder may take on the disk.
        reserve: bytes of the disk that stay free.
    """

    def __init__(self, folder: Path, *, record_bytes: int, most_bytes: int, reserve: int) -> None:
        self.folder, self.record_bytes, self.most_bytes, self.reserve = folder, record_bytes, most_bytes, reserve
        self._notice = shared_bytes(NOTICE_BYTES)  # set by the first process that stops writing, for all others
        self._noticed = False
        self._descriptors: tuple[int, int] | None = None
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": None}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors") or ():
            os.close(descriptor)

    def _open(self) -> tuple[int, int]:
        """Descriptors of `index` and `images`; forked workers inherit them."""
        if self._descriptors is None:
            index, images = (
                os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                for name in ("index", "images")
            )
            self._descriptors = index, images
        return self._descriptors

    @property
    def size(self) -> int:
        """What the images take on the disk, in bytes."""
        return os.fstat(self._open()[1]).st_blocks * 512

    def load(self, number: int, stamp: Stamp, decode: Callable[[], Array]) -> Array:
        """Image `number` as it is kept, or decoded and kept; what `decode` raises is raised."""
        kept = self._read(number, stamp)
        if kept is None:
            with noting_frames() as note:
                image = decode()
            self._write(number, stamp, image, several=note.several)
            return image
        image, several = kept
        if several:
            note_several_frames()
        return image

    def _read(self, number: int, stamp: Stamp) -> tuple[Array, bool] | None:
        """The image and whether its file has several frames, if it is there whole and was made of a file of this stamp."""
        try:
            index, images = self._open()
            entry = os.pread(index, ENTRY_BYTES, number * ENTRY_BYTES)
            if len(entry) < ENTRY_BYTES or entry[: ENTRY.size + CHECK.size] != _checked(entry[: ENTRY.size]):
                return None
            *found, height, width, channels, kind, several, checksum = ENTRY.unpack_from(entry)
            if tuple(found) != stamp or kind >= len(TYPES):
                return None
            image = np.empty((height, width, channels), TYPES[kind])
            content = image.data.cast("B")
            if len(content) > self.record_bytes or os.preadv(images, [content], number * self.record_bytes) < len(
                content
            ):
                return None
            return (image, bool(several)) if _checksum(image) == checksum else None
        except (OSError, ValueError):  # an empty image has no memory to cast
            return None

    def _write(self, number: int, stamp: Stamp, image: Array, *, several: bool) -> None:
        if self._notice[0] or image.dtype not in TYPES or not 0 < image.nbytes <= self.record_bytes:
            return
        image = np.ascontiguousarray(image)
        try:
            index, images = self._open()
            disk = os.fstatvfs(images)
            if self.size + image.nbytes > self.most_bytes:
                self._stop(f"they take {self.size / 2**30:.1f} GiB, all that --loader.cache-gib allows")
            elif disk.f_bavail * disk.f_frsize < self.reserve + image.nbytes:
                self._stop("the disk is almost full")
            else:
                _write_all(images, image.data.cast("B"), number * self.record_bytes)
                entry = ENTRY.pack(*stamp, *image.shape, TYPES.index(image.dtype), several, _checksum(image))
                _write_all(index, memoryview(_checked(entry).ljust(ENTRY_BYTES, b"\0")), number * ENTRY_BYTES)
        except OSError as error:
            self._stop(reason_of(error))

    def _stop(self, reason: str) -> None:
        """Ends writing in all processes; what is kept is read as before."""
        text = reason.encode()[: NOTICE_BYTES - 1]
        memory = self._notice.numpy()
        memory[1 : 1 + len(text)] = np.frombuffer(text, np.uint8)
        memory[0] = 1

    def notice(self) -> str | None:
        """A message if no more images are kept, once."""
        if self._noticed or not self._notice[0]:
            return None
        self._noticed = True
        reason = self._notice.numpy()[1:].tobytes().partition(b"\0")[0].decode("utf-8", "replace")
        return f"no more decoded images are cached in {self.folder}: {reason}; the others are decoded in every epoch"


def _checked(entry: bytes) -> bytes:
    return entry + CHECK.pack(zlib.crc32(entry))


def _checksum(image: Array) -> int:
    """The sum of the pixels as 64-bit words: a page that never reached the disk is zero and changes it. It takes a third of
    the time of a CRC."""
    content = image.reshape(-1).view(np.uint8)
    whole = len(content) // 8 * 8
    words = int(np.add.reduce(content[:whole].view(np.uint64), dtype=np.uint64))
    return (words + zlib.crc32(content[whole:].tobytes()) + len(content)) % 2**64


def _write_all(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written
