"""TIFFs with deep colors, many channels or several pages: read as tifffile reads them, and never to more than they hold."""

import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from repre.data.io import tiff
from repre.data.io.decode import UnreadableImage, read_image
from repre.data.io.frame_notes import noting_frames

SHAPE = (50, 70, 5)
VALUES = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3001).astype(np.uint16)
LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {"rowsperstrip": 50},
    "strips": {"rowsperstrip": 8},
    "tiles": {"tile": (16, 32)},
    "planes": {"planarconfig": "separate", "rowsperstrip": 16},
    "differences": {"predictor": True, "rowsperstrip": 8},
}


def write(path: Path, values: np.ndarray, **options: Any) -> None:
    tifffile.imwrite(path, values, **{"photometric": "minisblack", "planarconfig": "contig"} | options)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", [None, "deflate", "adobe_deflate", "lzma"])
def test_values_arrive(tmp_path: Path, compression: str | None, layout: str, kind: type) -> None:
    path, values, options = tmp_path / "a.tif", VALUES.astype(kind), LAYOUTS[layout]
    if options.get("predictor") and (compression is None or kind is np.float32):
        pytest.skip("differences are of compressed integers")
    stored = values.transpose(2, 0, 1) if layout == "planes" else values
    write(path, stored, compression=compression, **options)
    image = read_image(path, channels=5)
    assert image.dtype == kind
    assert (image == values).all()


def test_pages_are_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, VALUES.transpose(2, 0, 1), compression="zlib", photometric="minisblack", rowsperstrip=10)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 5
    assert (read_image(path, channels=5) == VALUES).all()


def test_an_empty_segment_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, VALUES, compression="zlib", rowsperstrip=10)
    with tifffile.TiffFile(path, mode="r+b") as file:
        counts = list(file.pages.first.databytecounts)
        file.pages.first.tags["StripByteCounts"].overwrite([*counts[:-1], 0])
    image = read_image(path, channels=5)
    assert (image[:40] == VALUES[:40]).all()
    assert (image[40:] == 0).all()


@pytest.mark.parametrize(("compression", "module"), [("zlib", zlib), ("lzma", lzma)])
def test_every_segment_is_unpacked_once(
    tmp_path: Path, compression: str, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.tif", VALUES, compression=compression, rowsperstrip=10)
    number = int(tifffile.COMPRESSION.ADOBE_DEFLATE if module is zlib else tifffile.COMPRESSION.LZMA)
    unpackers = []

    def counted(make: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: unpackers.append(make()) or unpackers[-1]  # type: ignore[func-returns-value]

    monkeypatch.setitem(tiff.UNPACKERS, number, counted(tiff.UNPACKERS[number]))
    monkeypatch.setattr(module, "decompress", lambda *_, **__: pytest.fail("tifffile unpacked a segment again"))
    assert (read_image(tmp_path / "a.tif", channels=5) == VALUES).all()
    assert len(unpackers) == 5


def replace_strip(path: Path, packed: bytes, *, times: int = 1) -> None:
    """Makes every strip of a TIFF the same bytes, which lie behind the file."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        page, end = file.pages.first, path.stat().st_size
        page.tags["StripOffsets"].overwrite([end] * times if times > 1 else end)
        page.tags["StripByteCounts"].overwrite([len(packed)] * times if times > 1 else len(packed))
    with open(path, "ab") as raw:
        raw.write(packed)


@pytest.mark.parametrize(("compression", "pack"), [("zlib", zlib.compress), ("lzma", lzma.compress)])
def test_a_strip_that_unpacks_to_more_than_the_image_is_refused(
    tmp_path: Path, compression: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.tif"
    write(path, np.zeros((64, 64, 5), np.uint16), compression=compression)
    replace_strip(path, pack(bytes(20_000_000)))
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        read_image(path, channels=5)


def test_strips_that_together_unpack_to_more_than_the_image_are_refused(tmp_path: Path) -> None:
    """Each alone would fit the image."""
    path = tmp_path / "a.tif"
    image = np.random.default_rng(0).integers(0, 60000, (64, 64, 5), dtype=np.uint16)
    write(path, image, compression="zlib", rowsperstrip=8)
    replace_strip(path, zlib.compress(bytes(image.nbytes // 4)), times=8)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        read_image(path, channels=5)


def test_huge_tiles_of_a_small_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, VALUES, compression="zlib", tile=(16, 32))
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages.first.tags[name].overwrite(65520)
    with pytest.raises(UnreadableImage, match="too many values"):
        read_image(path, channels=5)


def test_a_truncated_strip_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, VALUES, compression="zlib", rowsperstrip=50)
    replace_strip(path, zlib.compress(VALUES.tobytes())[:-200])
    with pytest.raises(UnreadableImage, match="ends too early"):
        read_image(path, channels=5)


def test_a_huge_dictionary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, VALUES, compression="lzma", rowsperstrip=50)
    packed = bytearray(lzma.compress(VALUES.tobytes(), format=lzma.FORMAT_ALONE))
    packed[1:5] = b"\xff\xff\xff\xff"  # the dictionary's size
    replace_strip(path, bytes(packed))
    with pytest.raises(UnreadableImage, match="LZMAError"):
        read_image(path, channels=5)


def rows(number: int) -> np.ndarray:
    """An RGB picture that differs with its number."""
    return np.roll(np.arange(50 * 70 * 3, dtype=np.uint8).reshape(50, 70, 3), number, axis=0)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "jpeg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_page_of_several_rgb_pages(tmp_path: Path, channels: int, compression: str | None) -> None:
    pages = [Image.fromarray(rows(number)) for number in range(3)]
    pages[0].save(tmp_path / "one.tif", compression=compression)
    pages[0].save(tmp_path / "all.tif", compression=compression, save_all=True, append_images=pages[1:])
    first = read_image(tmp_path / "one.tif", channels=channels)
    assert first.shape == (50, 70, channels)
    with noting_frames() as note:
        assert np.array_equal(read_image(tmp_path / "all.tif", channels=channels), first)
    assert note.several


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_the_first_page_of_deep_pages(tmp_path: Path, compression: str | None) -> None:
    pages = np.stack([VALUES, VALUES // 2])
    write(tmp_path / "a.tif", pages, compression=compression)
    assert np.array_equal(read_image(tmp_path / "a.tif", channels=5), VALUES)
    colors = np.stack([VALUES[..., :3], VALUES[..., 2:]])
    tifffile.imwrite(tmp_path / "a.tif", colors, compression=compression, photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "a.tif"), VALUES[..., :3])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("pages", "channels", "stacked"), [(3, 3, True), (5, 5, True), (5, 3, False), (3, 1, False)])
def test_gray_pages_are_channels_where_they_are_as_many(
    tmp_path: Path, pages: int, channels: int, stacked: bool, kind: type
) -> None:
    values = VALUES[..., :pages].astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", values.transpose(2, 0, 1), photometric="minisblack")
    with noting_frames() as note:
        image = read_image(tmp_path / "a.tif", channels=channels)
    assert np.array_equal(image, values if stacked else values[..., :1].repeat(channels, axis=2))
    assert image.dtype == kind
    assert note.several is not stacked


def test_rows_as_pages(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 50
    assert np.array_equal(read_image(tmp_path / "a.tif", channels=5), VALUES)
    with pytest.raises(UnreadableImage, match="an array of 50 x 70 x 5, not of 3 channels"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", [np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("pages", [1, 2])
def test_kinds_that_pillow_does_not_know(tmp_path: Path, pages: int, kind: type) -> None:
    """Big-endian BigTIFF, and floats of 64 bits."""
    values = VALUES[..., :pages].astype(kind).transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", bigtiff=True, byteorder=">")
    assert np.array_equal(read_image(tmp_path / "a.tif", channels=1), VALUES[..., :1])


def test_other_numbers_of_pages_are_not_channels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES.transpose(2, 0, 1), photometric="minisblack")
    with pytest.raises(UnreadableImage, match="5 pages of one channel each, not of 6 channels"):
        read_image(tmp_path / "a.tif", channels=6)


def test_the_levels_of_a_pyramid_are_not_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(rows(0), photometric="rgb")
        file.write(rows(0)[::2, ::2], photometric="rgb", subfiletype=1)
    with noting_frames() as note:
        assert np.array_equal(read_image(tmp_path / "a.tif"), rows(0))
    assert not note.several
