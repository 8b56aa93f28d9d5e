"""From a file to pixels. Any fault of a file ends in `UnreadableImage` with a short reason, within bounded memory.

The content of a file chooses its decoder, not its ending. What it claims is checked before it is unpacked: its format, its
size, and how far packed data would grow.
"""

import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from repre.data.io.dicom import read_dicom
from repre.data.io.frame_notes import note_several_frames
from repre.data.io.image_kinds import FORMATS, HEAD_BYTES, image_kind
from repre.data.io.image_limits import BoundedJpeg, UnreadableImage, check_shape, check_values
from repre.data.io.storage_faults import is_storage_fault, read_patiently
from repre.data.io.tiff import needs_tifffile, read_tiff
from repre.utils.os_errors import no_permission
from repre.utils.printable_text import printable

Array = np.ndarray

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".npy"),
    *(".avif", ".gif", ".jp2", ".ppm", ".pgm", ".dcm"),
)
"""Endings of image files, in lower case."""


def in_range(image: Array, value_range: tuple[float, float]) -> Array:
    """Scales pixel values from the value range (lowest, highest) to [0, 1] and clips them: float32 [H, W, C]."""
    low, high = value_range
    return ((image.astype(np.float32) - np.float32(low)) / np.float32(high - low)).clip(0, 1)


def read_image(
    file: Path | BinaryIO,
    *,
    name: str = "",
    channels: int = 3,
    canvas: int | None = None,
    raw_values: bool = False,
) -> Array:
    """Decodes a file to [H, W, channels] in uint8, uint16 or float32.

    One channel is gray and three are RGB: gray is repeated, transparent pixels are blended with mid-gray, CMYK is converted.
    For any other number the file must have exactly that many channels (TIFF, NumPy, or an RGBA file for four). EXIF rotation
    is applied.

    Args:
        file: a path, or an open file that can seek; it is read from its beginning and stays open.
        name: name of an open file; a path has its own. One that ends in .dcm is DICOM, even without DICOM's first bytes.
        channels: channels of the result.
        canvas: images are shrunk to fit a square of this side, with antialiasing; None leaves them as they are.
        raw_values: of DICOM return the measured values instead of the window that its tags name; see `read_dicom`.

    Raises:
        UnreadableImage: the file is missing, damaged, no image, of other channels, not finite, or of an absurd shape.
        OSError: the storage of an open file is at fault; see `storage_faults`.
        RunError: the storage of a path is at fault for too long.
    """
    read = partial(_read, file, name, channels, canvas, raw_values=raw_values)
    return read_patiently(read, name=partial(printable, file)) if isinstance(file, Path) else read()


def _read(file: Path | BinaryIO, name: str, channels: int, canvas: int | None, *, raw_values: bool) -> Array:
    """See `read_image`."""
    try:
        with warnings.catch_warnings(), _opened(file) as opened:
            warnings.simplefilter("ignore")  # of Pillow, about odd metadata and large images
            head = opened.read(HEAD_BYTES)
            if not head:
                raise UnreadableImage("an empty file")
            opened.seek(0)
            ending = (name or (file.name if isinstance(file, Path) else ""))[-4:].lower()
            kind = image_kind(head) or ("dicom" if ending == ".dcm" else "")
            image = _decode(opened, kind, channels, canvas, raw_values=raw_values)
    except UnreadableImage:
        raise
    except FileNotFoundError as error:
        raise UnreadableImage("the file has vanished") from error
    except PermissionError as error:
        raise UnreadableImage(no_permission(error)) from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too many pixels: a decompression bomb?") from error
    except Exception as error:  # decoders of damaged files raise anything: struct.error, IndexError, SyntaxError, ...
        if isinstance(error, OSError) and is_storage_fault(error):
            raise
        raise UnreadableImage(f"damaged: {type(error).__name__}: {str(error)[:120]}") from error
    return _fit(image, canvas)


def as_image(values: Array | Image.Image, *, channels: int = 3, canvas: int | None = None) -> Array:
    """An image in memory as `read_image` gives one of a file: [H, W, channels] in uint8, uint16 or float32.

    Args:
        values: a PIL image, or an array [H, W] or [H, W, C].
        channels, canvas: as in `read_image`.

    Raises:
        UnreadableImage: other channels or types, not finite, or of an absurd shape.
    """
    if isinstance(values, Image.Image):
        values = _to_array(ImageOps.exif_transpose(values), channels)
    return _fit(_arrange(values, channels), canvas)


@contextmanager
def _opened(file: Path | BinaryIO) -> Iterator[BinaryIO]:
    """A file at its beginning; closes what it opens."""
    if not isinstance(file, Path):
        file.seek(0)
        yield file
        return
    if not stat.S_ISREG(os.stat(file).st_mode):  # opening a pipe would wait forever
        raise UnreadableImage("not a regular file")
    with open(file, "rb") as opened:
        yield opened


def _decode(file: BinaryIO, kind: str, channels: int, canvas: int | None, *, raw_values: bool) -> Array:
    """Decodes an open file of a kind of `image_kind`."""
    if kind == "numpy":
        return _arrange(_read_numpy(file), channels)
    if kind == "dicom":
        frame = read_dicom(file, raw_values=raw_values)
        if frame.shape[2:] == (3,) and frame.dtype == np.uint8:
            frame = _to_array(Image.fromarray(frame), channels)
        return _arrange(frame, channels)
    if kind == "tiff":
        if not needs_tifffile(file, channels):
            file.seek(0)
            with suppress(UnidentifiedImageError):  # of types and byte orders that it does not know
                return _read_with_pillow(file, channels, canvas)
        file.seek(0)
        return _arrange(read_tiff(file, channels), channels)
    return _read_with_pillow(file, channels, canvas)


def _read_with_pillow(file: BinaryIO, channels: int, canvas: int | None) -> Array:
    with Image.open(file, formats=FORMATS) as image:
        check_shape(image.height, image.width)
        if image.format not in ("TIFF", "MPO") and getattr(image, "is_animated", False):
            note_several_frames()  # a TIFF was asked by `needs_tifffile`; an MPO is a photo with its preview
        if isinstance(image, JpegImageFile):
            image.fp = cast(BinaryIO, BoundedJpeg(file))
        if canvas is not None and image.format == "JPEG":
            scale = canvas / max(
                image.size
            )  # `draft` decodes at 1, 1/2, 1/4 or 1/8 of the size, at least at this scale
            image.draft(None, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _arrange(_to_array(image, channels), channels)


def _to_array(image: Image.Image, channels: int) -> Array:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "I":
            values = values.clip(0, 65535)
        return values.astype(np.float32) if image.mode == "F" else values.astype(np.uint16)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") and channels in (1, 3):
        image = _blend_with_gray(image.convert("RGBA"))
    mode = {1: "L", 3: "RGB"}.get(channels, "L" if image.mode == "1" else image.mode)
    return np.asarray(image if image.mode == mode else image.convert(mode))  # convert would copy it


def _blend_with_gray(image: Image.Image) -> Image.Image:
    background = Image.new("RGBA", image.size, (128, 128, 128, 255))
    return Image.alpha_composite(background, image).convert("RGB")


def _read_numpy(file: BinaryIO) -> Array:
    """Reads a NumPy file, after checking that it is as long as its header claims."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    check_values(shape)
    start, end = file.tell(), file.seek(0, os.SEEK_END)
    if not dtype.hasobject and start + math.prod(shape) * dtype.itemsize > end:
        raise UnreadableImage("damaged: the file is shorter than its header says")
    file.seek(0)
    return np.asarray(np.load(file, allow_pickle=False))


def _arrange(values: Array, channels: int) -> Array:
    """Brings an array of an image to [H, W, channels] in uint8, uint16 or float32."""
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise UnreadableImage(f"{values.ndim} dimensions; an image has two or three")
    if values.shape[2] not in (1, channels) and values.shape[0] in (1, channels):
        values = values.transpose(1, 2, 0)
    if values.shape[2] == 1 and channels == 3:
        values = values.repeat(3, axis=2)
    if values.shape[2] != channels:
        raise UnreadableImage(f"an array of {' x '.join(map(str, values.shape))}, not of {channels} channels")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise UnreadableImage("NaN or infinite values")
    elif values.dtype not in (np.uint8, np.uint16):
        raise UnreadableImage(f"values of type {values.dtype}; uint8, uint16 or float are supported")
    check_shape(*values.shape[:2])
    return np.ascontiguousarray(values)


def _fit(image: Array, canvas: int | None) -> Array:
    """Shrinks an image to fit a square of side `canvas`, antialiased; smaller ones stay as they are."""
    height, width = image.shape[:2]
    if canvas is None or max(height, width) <= canvas:
        return image
    scale = canvas / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if image.dtype == np.uint8:  # with channels last, torch resizes uint8 several times as fast as Pillow
        bytewise = torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)[None]
        return (
            F.interpolate(bytewise, size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).contiguous().numpy()
        )
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    shrunk = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    if image.dtype.kind == "f":
        return np.ascontiguousarray(shrunk)
    return np.ascontiguousarray(shrunk.round().clip(0, np.iinfo(image.dtype).max).astype(image.dtype))
