"""TIFF files that Pillow does not read: deep colors, many channels, several pages. The only file that uses tifffile.

Segments (strips or tiles) packed by deflate or LZMA may grow a thousandfold, and tifffile unpacks them without a limit. So
they are unpacked here, once and only to what the image can hold, and tifffile decodes the unpacked bytes.
"""

import logging
import lzma
import math
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import tifffile

from repre.data.io.frame_notes import note_several_frames
from repre.data.io.image_limits import UnreadableImage, check_values

Array = np.ndarray
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the reason of UnreadableImage holds what it would log

LZMA_MEMORY = 2**28
"""Most bytes of an LZMA decoder; the strongest preset needs 2**26. A file may claim a dictionary of 4 GiB."""
NARROW = 16
"""Gray pages of at most so many pixels a row are rows of an array [H, W, C]."""
UNPACKERS: dict[int, Callable[[], Any]] = {
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    50013: zlib.decompressobj,
    34925: lambda: lzma.LZMADecompressor(memlimit=LZMA_MEMORY),
}
"""Incremental decompressors by the TIFF number of their compression."""
try:
    from compression.zstd import ZstdDecompressor  # type: ignore[import-not-found]

    UNPACKERS |= {34926: ZstdDecompressor, 50000: ZstdDecompressor}
except ImportError:  # before Python 3.14 tifffile does not unpack Zstandard either
    pass


def needs_tifffile(binary: BinaryIO, channels: int) -> bool:
    """Whether Pillow cannot read a TIFF: more than 8 bits in several channels, other numbers of channels, or pages that are
    channels. Notes whether it has further pages that are not used."""
    with tifffile.TiffFile(binary) as file:
        page = file.pages.first
        if len(file.pages) > 1:
            if _stacks(file, channels):
                return True
            second: Any = file.pages[1]
            if not any(getattr(second, kind, False) for kind in ("is_reduced", "is_mask")):  # of a pyramid
                note_several_frames()
        deep = page.bitspersample > 8 and page.samplesperpixel > 1
        return deep or channels not in (1, 3, 4) or page.samplesperpixel not in (1, 2, 3, 4)


def read_tiff(binary: BinaryIO, channels: int) -> Array:
    """The first page of a TIFF, or all pages as channels if they are gray, of one shape, and as many; not in [H, W, C] yet.

    Raises:
        UnreadableImage: the file claims too many values, or its segments unpack to more than they may hold.
        Exception: tifffile's errors on damaged files.
    """
    with tifffile.TiffFile(binary) as file:
        if not _stacks(file, channels):
            page: Any = file.pages.first
            if len(file.pages) > 1 and page.samplesperpixel == 1 and channels not in (1, 3):
                raise UnreadableImage(f"{len(file.pages)} pages of one channel each, not of {channels} channels")
            check_values(page.shape)
            return _read_packed([page], page)[0] if page.compression in UNPACKERS else np.asarray(page.asarray())
        series: Any = file.series[0]
        check_values(series.shape)
        compressions = {page.keyframe.compression for page in series.pages if page is not None}
        if not compressions & UNPACKERS.keys():
            return np.asarray(series.asarray())
        if len(compressions) > 1:
            raise UnreadableImage("pages of several compressions")
        return _read_packed(series.pages, series.keyframe).reshape(series.shape)


def _stacks(file: Any, channels: int) -> bool:
    """Whether the gray pages of a TIFF are one array: the channels of an image, or rows, as tifffile writes [H, W, C]."""
    series = file.series[0]
    shape, page = series.shape, series.keyframe.shape
    if len(page) != 2 or len(shape) == 2:
        return False
    return page[1] <= NARROW or (len(shape) == 3 and channels > 1 and channels in (shape[0], shape[2]))


def _read_packed(pages: Any, layout: Any) -> Array:
    """Reads packed pages of one layout, [pages, *shape]."""
    if layout.fillorder != 1:
        raise UnreadableImage("packed in reversed bits")
    unpacker = UNPACKERS[layout.compression]
    segments, values = math.prod(layout.chunked), math.prod(layout.chunks)
    check_values((len(pages), segments, values))
    most_bytes = max(segments * values, math.prod(layout.shape)) * -(-layout.bitspersample // 8)
    images = np.zeros((len(pages), *layout.shaped), layout.dtype)
    for page, image in zip(pages, images):
        if page is None:  # a page that the file leaves out
            continue
        key, handle, left = page.keyframe, page.parent.filehandle, most_bytes
        key.compression = tifffile.COMPRESSION.NONE  # `decode` then takes unpacked bytes
        for index, offset, size in zip(range(segments), page.dataoffsets, page.databytecounts):
            unpacked = None  # of an empty segment
            if size:
                handle.seek(offset)
                unpacked = _unpack(unpacker(), handle.read(min(size, handle.size)), left)
                left -= len(unpacked)
            segment, (sample, depth, row, column, _), shape = key.decode(unpacked, index)
            area = image[sample, depth : depth + shape[0], row : row + shape[1], column : column + shape[2]]
            area[...] = key.nodata if segment is None else segment[tuple(map(slice, area.shape[:3]))]
    return images.reshape(len(pages), *layout.shape)


def _unpack(unpacker: Any, packed: bytes, most_bytes: int) -> bytes:
    unpacked: bytes = unpacker.decompress(packed, most_bytes + 1)
    if len(unpacked) > most_bytes:
        raise UnreadableImage("segments that unpack to more than the image: a decompression bomb?")
    if not unpacker.eof:
        raise UnreadableImage("damaged: a segment ends too early")
    return unpacked
