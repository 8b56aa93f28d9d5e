"""Image files with every fault that we could think of, drawn from a seed."""

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
Draw = np.random.Generator


def picture(draw: Draw, ending: str, *, side: int = 40, mode: str = "RGB") -> bytes:
    """A whole file of noise."""
    values = draw.integers(0, 255, (side, side + 3, 3)).astype(np.uint8)
    memory = io.BytesIO()
    if ending == "npy":
        np.save(memory, values)
    else:
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
        Image.fromarray(values).convert(mode).save(memory, kind)
    return memory.getvalue()


def truncated(draw: Draw, path: Path, ending: str) -> None:
    whole = picture(draw, ending)
    path.write_bytes(whole[: int(draw.integers(0, len(whole)))])


def flipped(draw: Draw, path: Path, ending: str) -> None:
    content = bytearray(picture(draw, ending))
    for place in draw.integers(0, len(content), int(draw.choice([1, 4, 64]))):
        content[place] ^= 1 << int(draw.integers(8))
    path.write_bytes(bytes(content))


def flipped_head(draw: Draw, path: Path, ending: str) -> None:
    """Bits of the first bytes, where sizes and types stand."""
    content = bytearray(picture(draw, ending))
    for place in draw.integers(0, min(120, len(content)), 3):
        content[place] = int(draw.integers(256))
    path.write_bytes(bytes(content))


def wrong_ending(draw: Draw, path: Path, ending: str) -> None:
    path.write_bytes(picture(draw, str(draw.choice([one for one in FORMATS if one != ending]))))


def zero_bytes(draw: Draw, path: Path, ending: str) -> None:
    path.write_bytes(bytes(int(draw.choice([0, 0, 1, 100, 5000]))))


def noise(draw: Draw, path: Path, ending: str) -> None:
    path.write_bytes(draw.bytes(int(draw.integers(1, 4000))))


def huge(draw: Draw, path: Path, ending: str) -> None:
    """A PNG, BMP or NumPy file that claims billions of pixels."""
    width, height = (int(draw.integers(20_000, 2**31 - 1)) for _ in range(2))
    if ending == "bmp":
        path.write_bytes(
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 200, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        )
    elif ending == "npy":
        with open(path, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (height, width, 3)}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
    else:
        path.write_bytes(_png(width, height, b""))


def bomb(draw: Draw, path: Path, ending: str) -> None:
    """A few kilobytes that unpack to hundreds of megabytes."""
    if ending in ("tif", "npy"):
        with tifffile.TiffWriter(path) as file:
            file.write(np.zeros((20_000, 20_000), np.uint8), rowsperstrip=2000, compression="zlib")
    else:
        path.write_bytes(_png(15_000, 15_000, zlib.compress(bytes(15_001 * 15_000 // 8), 9)))


def odd_mode(draw: Draw, path: Path, ending: str) -> None:
    modes = {
        "png": ["1", "L", "LA", "P", "RGBA", "I;16"],
        "jpg": ["L", "CMYK"],
        "tif": ["1", "L", "CMYK", "F", "I", "LAB"],
    }
    mode = str(draw.choice(modes.get(ending, ["L"])))
    values = Image.fromarray(draw.integers(0, 255, (33, 41), np.uint8))
    image = values.convert("I").convert("I;16") if mode == "I;16" else values.convert("RGB").convert(mode)
    kind = {"jpg": "JPEG", "tif": "TIFF", "npy": "PNG"}.get(ending, ending.upper())
    image.save(path, kind)


def broken_exif(draw: Draw, path: Path, ending: str) -> None:
    image, exif = Image.fromarray(draw.integers(0, 255, (40, 30, 3)).astype(np.uint8)), Image.Exif()
    exif[0x0112] = int(draw.integers(1, 9))
    head = bytearray(exif.tobytes())
    for place in draw.integers(0, len(head), 4):
        head[place] = int(draw.integers(256))
    image.save(path, "JPEG", exif=bytes(head))


def nan_tiff(draw: Draw, path: Path, ending: str) -> None:
    values = draw.random((20, 20, 5), np.float32)
    values[3, 3, 1] = draw.choice([np.nan, np.inf, -np.inf])
    tifffile.imwrite(path, values[..., 0] if draw.random() < 0.5 else values, photometric="minisblack")
    if ending == "npy":
        np.save(path.open("wb"), values)


def odd_shape(draw: Draw, path: Path, ending: str) -> None:
    """1 x 1, 1 x 20000 and the like."""
    shape = [(1, 1), (1, 20_000), (20_000, 1), (1, 99), (2, 150)][int(draw.integers(5))]
    kind = {"jpg": "JPEG", "tif": "TIFF", "webp": "PNG", "npy": "PNG"}.get(ending, ending.upper())
    Image.new("RGB", shape, (200, 30, 60)).save(path, kind)


def not_a_file(draw: Draw, path: Path, ending: str) -> None:
    kind = int(draw.integers(4))
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to(path)
    elif kind == 2:
        path.symlink_to(path.with_name("absent.png"))
    else:
        path.mkdir()


def _png(width: int, height: int, packed: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


FAULTS: tuple[Callable[[Draw, Path, str], None], ...] = (
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
RARE = {bomb: 20}
"""Of these every twentieth only: they take a second to write."""
