"""One file -> pixels. Whatever is wrong with a file ends in `UnreadableImage` with a short reason, within bounded memory.

What a file claims is checked before anything is unpacked: its kind, its pixels, and how far packed strips would grow.
"""

import logging
import lzma
import math
import os
import stat
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

Array = np.ndarray
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of a damaged file is in the reason given here

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".npy")
"""Endings of the files that a folder is searched for, in lower case."""

MAX_PIXELS = 178_956_970
"""Larger images are taken for decompression bombs (Pillow's limit for an error)."""
MAX_ASPECT = 100
"""Longer strips cannot be cropped sensibly."""
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
"""What Pillow may take a file for, whatever its ending says. Never EPS: Pillow hands that to an interpreter of programs."""
GROWING: dict[int, Callable[[], Any]] = {
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    34925: lzma.LZMADecompressor,
}
"""TIFF's numbers of the compressions whose strips may grow a thousandfold, and what unpacks them piece by piece."""


def in_range(image: Array, value_range: tuple[float, float]) -> Array:
    """Pixel values brought from the range that a user declares to [0, 1]: float32 [H, W, C]."""
    low, high = value_range
    return ((image.astype(np.float32) - np.float32(low)) / np.float32(high - low)).clip(0, 1)


class UnreadableImage(Exception):
    """A file that gives no usable pixels; the message is the reason."""


def read_image(path: Path, *, channels: int = 3, canvas: int | None = None) -> Array:
    """Decodes a file to [H, W, channels] in uint8, uint16 or float32.

    One channel is gray, three are RGB (gray is repeated, transparency lies on mid-gray, CMYK is converted); for any other
    number the file must have exactly that many (TIFF, NumPy, or an RGBA file for four). EXIF rotation is applied.

    Args:
        channels: of the result.
        canvas: an image whose longer side is larger is shrunk to it, with antialiasing, keeping its aspect.

    Raises:
        UnreadableImage: the file is missing, damaged, no image, of other channels, not finite, or of an absurd shape.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of large images, which are checked here
            suffix = path.suffix.lower()
            if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would wait for ever
                raise UnreadableImage("not a regular file")
            if suffix == ".npy":
                image = _arrange(_read_numpy(path), channels)
            elif suffix in (".tif", ".tiff") and _needs_tifffile(path, channels):
                image = _arrange(_read_with_tifffile(path), channels)
            else:
                image = _read_with_pillow(path, channels, canvas)
    except UnreadableImage:
        raise
    except FileNotFoundError as error:
        raise UnreadableImage("the file has vanished") from error
    except PermissionError as error:
        raise UnreadableImage("no permission to read it") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image" if _size(path) else "an empty file") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too many pixels: a decompression bomb?") from error
    except Exception as error:  # decoders of damaged files raise anything: struct.error, IndexError, SyntaxError, ...
        raise UnreadableImage(f"damaged: {type(error).__name__}: {str(error)[:120]}") from error
    return _fit(image, canvas)


def _read_with_pillow(path: Path, channels: int, canvas: int | None) -> Array:
    with Image.open(path, formats=FORMATS) as file:
        _check_shape(file.height, file.width)
        if canvas is not None and file.format == "JPEG":
            share = canvas / max(file.size)  # a fraction of 2, 4 or 8 that still is at least what is needed
            file.draft(None, (max(1, int(file.width * share)), max(1, int(file.height * share))))
        file.load()
        image = ImageOps.exif_transpose(file)
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if deep:
        values = np.asarray(image)
        if image.mode == "I":
            values = values.clip(0, 65535)
        gray = values.astype(np.float32) if image.mode == "F" else values.astype(np.uint16)
        return _arrange(gray, channels)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") and channels in (1, 3):
        image = _on_mid_gray(image.convert("RGBA"))
    if channels == 1:
        image = image.convert("L")
    elif channels == 3:
        image = image.convert("RGB")
    return _arrange(np.asarray(image.convert("L") if image.mode == "1" else image), channels)


def _on_mid_gray(image: Image.Image) -> Image.Image:
    below = Image.new("RGBA", image.size, (128, 128, 128, 255))
    return Image.alpha_composite(below, image).convert("RGB")


def _needs_tifffile(path: Path, channels: int) -> bool:
    """Whether a TIFF has what Pillow does not read: more than 8 bits in several channels, or many channels."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        deep = page.bitspersample > 8 and page.samplesperpixel > 1
        return deep or channels not in (1, 3, 4) or page.samplesperpixel not in (1, 2, 3, 4) or len(file.pages) > 1


def _read_with_tifffile(path: Path) -> Array:
    """The first series of a TIFF. It allocates what a file claims and unpacks strips without a limit, so both are bounded
    before."""
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        _check_values(series.shape)
        for page in series.pages:
            if page is not None and (key := page.keyframe) is not None and key.compression in GROWING:
                _check_strips(file.filehandle, page)
        return np.asarray(series.asarray())


def _check_strips(file: Any, page: Any) -> None:
    """Refuses strips or tiles that unpack to more than one of them, or the whole page, can hold."""
    key = page.keyframe
    largest = max(math.prod(key.chunks), math.prod(key.shape)) * -(-key.bitspersample // 8)
    for offset, count in zip(page.dataoffsets, page.databytecounts):
        file.seek(offset)
        unpack, packed, unpacked = GROWING[key.compression](), file.read(count), 0
        while not unpack.eof and (packed or not getattr(unpack, "needs_input", True)):
            unpacked += len(unpack.decompress(packed, 1 << 20))
            packed = getattr(unpack, "unconsumed_tail", b"")
            if unpacked > largest:
                raise UnreadableImage("a strip that unpacks to more than the image: a decompression bomb?")


def _read_numpy(path: Path) -> Array:
    """A NumPy file whose header is believed only where the file is as long as it says."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        _check_values(shape)
        if not dtype.hasobject and file.tell() + math.prod(shape) * dtype.itemsize > os.fstat(file.fileno()).st_size:
            raise UnreadableImage("damaged: the file is shorter than its header says")
        file.seek(0)
        return np.asarray(np.load(file, allow_pickle=False))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it went away meanwhile
        return 0


def _arrange(values: Array, channels: int) -> Array:
    """Any array of an image -> [H, W, channels] in uint8, uint16 or float32."""
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise UnreadableImage(f"{values.ndim} dimensions where an image has two or three")
    if values.shape[2] not in (1, channels) and values.shape[0] in (1, channels):
        values = values.transpose(1, 2, 0)
    if values.shape[2] == 1 and channels == 3:
        values = values.repeat(3, axis=2)
    if values.shape[2] != channels:
        raise UnreadableImage(f"an array of {' x '.join(map(str, values.shape))}, wanted {channels} channels")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise UnreadableImage("NaN or infinite values")
    elif values.dtype not in (np.uint8, np.uint16):
        raise UnreadableImage(f"values of type {values.dtype}; uint8, uint16 or float are read")
    _check_shape(*values.shape[:2])
    return np.ascontiguousarray(values)


def _check_shape(height: int, width: int) -> None:
    if min(height, width) < 1:
        raise UnreadableImage(f"{height} x {width} pixels")
    if height * width > MAX_PIXELS:
        raise UnreadableImage("too many pixels: a decompression bomb?")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UnreadableImage(f"{height} x {width} pixels: a strip, not an image")


def _check_values(shape: tuple[int, ...]) -> None:
    if min(shape, default=0) < 1:
        raise UnreadableImage(f"an array of {' x '.join(map(str, shape))}")
    if math.prod(shape) > 4 * MAX_PIXELS:
        raise UnreadableImage("too many values: a decompression bomb?")


def _fit(image: Array, canvas: int | None) -> Array:
    """Shrinks an image to fit a square of side `canvas`, antialiased; smaller ones stay as they are."""
    height, width = image.shape[:2]
    if canvas is None or max(height, width) <= canvas:
        return image
    share = canvas / max(height, width)
    size = max(1, round(height * share)), max(1, round(width * share))
    if image.dtype == np.uint8:  # channels last and uint8 is what torch resizes several times as fast as Pillow
        kept = torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)[None]
        return F.interpolate(kept, size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).contiguous().numpy()
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    shrunk = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    if image.dtype.kind == "f":
        return np.ascontiguousarray(shrunk)
    return np.ascontiguousarray(shrunk.round().clip(0, np.iinfo(image.dtype).max).astype(image.dtype))
