"""From a file to pixels. Any fault of a file ends in `UnreadableImage` with a short reason, within bounded memory.

What a file claims is checked before it is unpacked: its format, its size, and how far packed data would grow.
"""

import math
import os
import stat
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

from repre.data.io.image_limits import UnreadableImage, check_shape, check_values
from repre.data.io.tiff import needs_tifffile, read_tiff

Array = np.ndarray

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".npy")
"""Endings of image files, in lower case."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
"""Formats that Pillow may recognize, for any file ending. Never EPS, which Pillow passes to Ghostscript."""


def in_range(image: Array, value_range: tuple[float, float]) -> Array:
    """Scales pixel values from the value range (lowest, highest) to [0, 1] and clips them: float32 [H, W, C]."""
    low, high = value_range
    return ((image.astype(np.float32) - np.float32(low)) / np.float32(high - low)).clip(0, 1)


def read_image(path: Path, *, channels: int = 3, canvas: int | None = None) -> Array:
    """Decodes a file to [H, W, channels] in uint8, uint16 or float32.

    One channel is gray and three are RGB: gray is repeated, transparent pixels are blended with mid-gray, CMYK is converted.
    For any other number the file must have exactly that many channels (TIFF, NumPy, or an RGBA file for four). EXIF rotation
    is applied.

    Args:
        channels: channels of the result.
        canvas: images are shrunk to fit a square of this side, with antialiasing; None leaves them as they are.

    Raises:
        UnreadableImage: the file is missing, damaged, no image, of other channels, not finite, or of an absurd shape.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about odd metadata and large images
            suffix = path.suffix.lower()
            if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would wait forever
                raise UnreadableImage("not a regular file")
            if suffix == ".npy":
                image = _arrange(_read_numpy(path), channels)
            elif suffix in (".tif", ".tiff") and needs_tifffile(path, channels):
                image = _arrange(read_tiff(path), channels)
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
        check_shape(file.height, file.width)
        if canvas is not None and file.format == "JPEG":
            scale = canvas / max(file.size)  # `draft` decodes at 1, 1/2, 1/4 or 1/8 of the size, at least at this scale
            file.draft(None, (max(1, int(file.width * scale)), max(1, int(file.height * scale))))
        file.load()
        ImageOps.exif_transpose(file, in_place=True)
        return _arrange(_to_array(file, channels), channels)


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


def _read_numpy(path: Path) -> Array:
    """Reads a NumPy file, after checking that it is as long as its header claims."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        check_values(shape)
        if not dtype.hasobject and file.tell() + math.prod(shape) * dtype.itemsize > os.fstat(file.fileno()).st_size:
            raise UnreadableImage("damaged: the file is shorter than its header says")
        file.seek(0)
        return np.asarray(np.load(file, allow_pickle=False))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # removed in the meantime
        return 0


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
        raise UnreadableImage(f"values of type {values.dtype}; uint8, uint16 or float are read")
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
