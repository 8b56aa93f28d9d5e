"""Writers of broken image files. Each takes a random generator, a path and the suffix of the format."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

FORMATS = ("jpg", "png", "webp", "tif", "bmp", "npy")
Writer = Callable[[np.random.Generator, Path, str], None]


def encode_noise(rng: np.random.Generator, suffix: str) -> bytes:
    """Returns an intact file of random pixels."""
    values = rng.integers(0, 255, (40, 43, 3)).astype(np.uint8)
    memory = io.BytesIO()
    if suffix == "npy":
        np.save(memory, values)
    else:
        image_format = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
        Image.fromarray(values).save(memory, image_format)
    return memory.getvalue()


def truncated(rng: np.random.Generator, path: Path, suffix: str) -> None:
    content = encode_noise(rng, suffix)
    path.write_bytes(content[: int(rng.integers(0, len(content)))])


def flipped(rng: np.random.Generator, path: Path, suffix: str) -> None:
    content = bytearray(encode_noise(rng, suffix))
    for offset in rng.integers(0, len(content), int(rng.choice([1, 4, 64]))):
        content[offset] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(content))


def flipped_head(rng: np.random.Generator, path: Path, suffix: str) -> None:
    """Random bytes in the header, which holds sizes and types."""
    content = bytearray(encode_noise(rng, suffix))
    for offset in rng.integers(0, min(120, len(content)), 3):
        content[offset] = int(rng.integers(256))
    path.write_bytes(bytes(content))


def wrong_ending(rng: np.random.Generator, path: Path, suffix: str) -> None:
    path.write_bytes(encode_noise(rng, str(rng.choice([name for name in FORMATS if name != suffix]))))


def zero_bytes(rng: np.random.Generator, path: Path, suffix: str) -> None:
    path.write_bytes(bytes(int(rng.choice([0, 0, 1, 100, 5000]))))


def noise(rng: np.random.Generator, path: Path, suffix: str) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(1, 4000))))


def huge(rng: np.random.Generator, path: Path, suffix: str) -> None:
    """A PNG, BMP or NumPy file whose header claims billions of pixels."""
    width, height = (int(rng.integers(20_000, 2**31 - 1)) for _ in range(2))
    if suffix == "bmp":
        path.write_bytes(
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 200, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        )
    elif suffix == "npy":
        with open(path, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (height, width, 3)}
            np.lib.format.write_array_header_1_0(file, header)
    else:
        path.write_bytes(_png(width, height, b""))


def bomb(rng: np.random.Generator, path: Path, suffix: str) -> None:
    """A file of a few kilobytes that unpacks to hundreds of megabytes."""
    if suffix in ("tif", "npy"):
        with tifffile.TiffWriter(path) as file:
            file.write(np.zeros((20_000, 20_000), np.uint8), rowsperstrip=2000, compression="zlib")
    else:
        path.write_bytes(_png(15_000, 15_000, zlib.compress(bytes(15_001 * 15_000 // 8), 9)))


def odd_mode(rng: np.random.Generator, path: Path, suffix: str) -> None:
    modes = {
        "png": ["1", "L", "LA", "P", "RGBA", "I;16"],
        "jpg": ["L", "CMYK"],
        "tif": ["1", "L", "CMYK", "F", "I", "LAB"],
    }
    mode = str(rng.choice(modes.get(suffix, ["L"])))
    values = Image.fromarray(rng.integers(0, 255, (33, 41), np.uint8))
    image = values.convert("I").convert("I;16") if mode == "I;16" else values.convert("RGB").convert(mode)
    image_format = {"jpg": "JPEG", "tif": "TIFF", "npy": "PNG"}.get(suffix, suffix.upper())
    image.save(path, image_format)


def broken_exif(rng: np.random.Generator, path: Path, suffix: str) -> None:
    image, exif = Image.fromarray(rng.integers(0, 255, (40, 30, 3)).astype(np.uint8)), Image.Exif()
    exif[0x0112] = int(rng.integers(1, 9))
    content = bytearray(exif.tobytes())
    for offset in rng.integers(0, len(content), 4):
        content[offset] = int(rng.integers(256))
    image.save(path, "JPEG", exif=bytes(content))


def nan_tiff(rng: np.random.Generator, path: Path, suffix: str) -> None:
    values = rng.random((20, 20, 5), np.float32)
    values[3, 3, 1] = rng.choice([np.nan, np.inf, -np.inf])
    tifffile.imwrite(path, values[..., 0] if rng.random() < 0.5 else values, photometric="minisblack")
    if suffix == "npy":
        np.save(path.open("wb"), values)


def odd_shape(rng: np.random.Generator, path: Path, suffix: str) -> None:
    """An image of 1 x 1, 1 x 20000 or similar pixels."""
    shape = [(1, 1), (1, 20_000), (20_000, 1), (1, 99), (2, 150)][int(rng.integers(5))]
    image_format = {"jpg": "JPEG", "tif": "TIFF", "webp": "PNG", "npy": "PNG"}.get(suffix, suffix.upper())
    Image.new("RGB", shape, (200, 30, 60)).save(path, image_format)


def not_a_file(rng: np.random.Generator, path: Path, suffix: str) -> None:
    kind = int(rng.integers(4))
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to(path)
    elif kind == 2:
        path.symlink_to(path.with_name("absent.png"))
    else:
        path.mkdir()


def many_scans(count: int) -> bytes:
    """A progressive JPEG of 1000 x 1000 pixels with so many further scans, each of a few bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 1000), (90, 120, 30)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    start = content.rindex(b"\xff\xda")
    header = content[start : start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")]
    return content[:-2] + header * count + content[-2:]


def _png(width: int, height: int, compressed: bytes) -> bytes:
    """Returns a black and white PNG with this compressed content."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


FAULTS: tuple[Writer, ...] = (
    truncated,
    flipped,
    flipped_head,
    wrong_ending,
    zero_bytes,
    noise,
    huge,
    bomb,
    odd_mode,
    broken_exif,
    nan_tiff,
    odd_shape,
    not_a_file,
)
INTERVALS: dict[Writer, int] = {bomb: 20}
"""Faults that are used in every Nth turn only, because writing them takes a second."""
