"""What an image becomes in a shard: copied, shrunk as a run would shrink it, and in a format that holds it."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from repre.data.io.decode import read_image
from repre.data.io.image_limits import UnreadableImage
from repre.data.tools.shard_config import ShardConfig
from repre.data.tools.shard_images import encode, member_name
from repre.errors import UserError

RNG = np.random.default_rng(0)
EIGHT = RNG.integers(0, 255, (40, 60, 4), dtype=np.uint8)


def pillow(values: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def numpy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


DEEP = RNG.integers(0, 65535, (40, 60, 5), dtype=np.uint16)
LOSSLESS = {  # content, name, channels to read, ending that is new
    "rgba": (pillow(EIGHT, "PNG"), "a.png", 4, ".png"),
    "gray and transparency": (pillow(EIGHT[..., :2], "PNG"), "a.png", 2, ".png"),
    "16 bits": (pillow(DEEP[..., 0], "PNG"), "a.png", 1, ".png"),
    "float": (numpy(EIGHT[..., :3].astype(np.float32)), "a.npy", 3, ".npy"),
    "many channels": (tiff(DEEP, photometric="minisblack", planarconfig="contig"), "a.tif", 5, ".npy"),
    "deep color": (tiff(DEEP[..., :3], photometric="rgb"), "a.tif", 3, ".npy"),
}


@pytest.mark.parametrize("case", LOSSLESS)
@pytest.mark.parametrize("kind", ["auto", "jpeg", "webp"])
def test_what_jpeg_cannot_hold_keeps_its_shrunk_values(case: str, kind: Any) -> None:
    content, name, channels, ending = LOSSLESS[case]
    if case == "rgba" and kind == "webp":
        return  # which holds transparency, with losses
    made, new = encode(content, name=name, config=ShardConfig(size=30, format=kind, channels=channels))
    assert new == ending
    expected = read_image(io.BytesIO(content), channels=channels, canvas=30)
    assert max(expected.shape[:2]) == 30
    read = read_image(io.BytesIO(made), channels=channels)
    assert read.dtype == expected.dtype
    assert np.array_equal(read, expected)


def test_rotated_and_gray_images_are_those_of_a_run() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for values, channels in ((EIGHT[..., :3], 3), (EIGHT[..., 0], 1)):
        content = pillow(values, "JPEG", exif=exif, quality=90)
        made, ending = encode(content, name="a.jpg", config=ShardConfig(size=30, format="png"))
        assert ending == ".png"
        expected = read_image(io.BytesIO(content), channels=channels, canvas=30)
        assert expected.shape == (30, 20, channels)
        assert np.array_equal(read_image(io.BytesIO(made), channels=channels), expected)


@pytest.mark.parametrize(("kind", "found", "ending"), [("auto", "JPEG", ".jpg"), ("webp", "WEBP", ".webp")])
def test_colors_are_encoded_with_the_quality(kind: Any, found: str, ending: str) -> None:
    content = pillow(EIGHT[..., :3], "BMP")
    sizes = []
    for quality in (95, 20):
        made, new = encode(content, name="a.bmp", config=ShardConfig(size=30, format=kind, quality=quality))
        assert new == ending
        with Image.open(io.BytesIO(made)) as image:
            assert (image.format, image.size, image.mode) == (found, (30, 20), "RGB")
        sizes.append(len(made))
    assert sizes[0] > sizes[1]
    made, _ = encode(pillow(EIGHT[..., 0], "PNG"), name="a.png", config=ShardConfig(size=30))
    assert Image.open(io.BytesIO(made)).mode == "L"


def test_what_fits_and_has_the_format_is_copied() -> None:
    for content, name in ((pillow(EIGHT, "PNG"), "a.png"), (numpy(DEEP[..., :3]), "b.npy"), (tiff(DEEP), "c.tif")):
        for config in (ShardConfig(), ShardConfig(size=60, channels=5 if name == "c.tif" else 3)):
            assert encode(content, name=name, config=config) == (content, "")
    webp = pillow(EIGHT, "WEBP")
    assert encode(webp, name="a.webp", config=ShardConfig(format="webp")) == (webp, "")
    assert encode(webp, name="a.webp", config=ShardConfig(format="png"))[1] == ".png"
    assert encode(webp, name="17", config=ShardConfig()) == (webp, ".webp")


def test_damaged_files_are_refused_where_pixels_are_read() -> None:
    torn = pillow(EIGHT, "PNG")[:2000]
    assert encode(torn, name="a.png", config=ShardConfig()) == (torn, "")
    for content in (torn, b"no image at all", b""):
        with pytest.raises(UnreadableImage):
            encode(content, name="a.png", config=ShardConfig(size=100))
    with pytest.raises(UnreadableImage):
        encode(b"no image at all", name="17", config=ShardConfig())
    with pytest.raises(UnreadableImage, match="not of 3 channels"):
        encode(tiff(DEEP), name="c.tif", config=ShardConfig(size=60))


def test_names_rise_by_their_bytes() -> None:
    assert member_name("cat/1.png", ".jpg", after="") == "cat/1.jpg"
    assert member_name("cat/1.png", ".jpg", after="cat/1.jpg") == "cat/1.png.jpg"
    assert member_name("cat/1.png", "", after="cat/0.png") == "cat/1.png"
    assert member_name("cat/1.x", ".jpg", after="") == "cat/1.x.jpg"
    assert member_name("17", ".jpg", after="") == "17.jpg"
    assert member_name("a.png", ".jpg", after="b.jpg") is None


@pytest.mark.parametrize("wrong", [{"size": 0}, {"quality": 101}, {"shard_mib": 0}, {"format": "gif"}, {"channels": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        ShardConfig(**wrong)
