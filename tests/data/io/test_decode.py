"""Every format and mode that is promised, and every kind of damage as one clear reason."""

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from repre.data.io import image_limits
from repre.data.io.decode import EXTENSIONS, UnreadableImage, _read_with_pillow, read_image
from repre.data.io.frame_notes import noting_frames
from tests.faults.broken_images import many_scans

COLOR = np.zeros((40, 60, 3), np.uint8)
COLOR[:, :30] = (200, 40, 40)
COLOR[:20, 30:] = (40, 180, 60)
COLOR[20:, 30:] = (30, 60, 210)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "bmp"])
def test_formats(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(COLOR).save(path, **({"quality": 95} if ending in ("jpg", "webp") else {}))
    image = read_image(path)
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - COLOR).mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I") else "a.png")
    picture = Image.fromarray(COLOR)
    if mode in ("I;16", "I"):
        deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        picture = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(deep.astype(np.int32), "I")
    else:
        picture = picture.quantize(16) if mode == "P" else picture.convert(mode)
    picture.save(path)
    image = read_image(path)
    assert image.shape == (40, 60, 3)
    top = 65535 if mode in ("I;16", "I") else 255
    assert image.dtype == (np.uint16 if top == 65535 else np.uint8)
    expected = COLOR if mode in ("RGBA", "CMYK", "P") else np.asarray(Image.fromarray(COLOR).convert("L"))[..., None]
    if mode != "1":
        assert np.abs(image / top - expected / 255).mean() < 0.02
    assert read_image(path, channels=1).shape == (40, 60, 1)


def test_transparent_pixels_become_mid_gray(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (np.abs(read_image(tmp_path / "a.png").astype(int) - 128) <= 1).all()
    assert read_image(tmp_path / "a.png", channels=4).shape == (8, 8, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(COLOR)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == COLOR.shape
    assert np.abs(image.astype(int) - COLOR).mean() < 4


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("ending", ["tif", "npy"])
def test_many_channels(tmp_path: Path, ending: str, kind: type, planar: bool) -> None:
    values = (np.arange(20 * 30 * 7).reshape(20, 30, 7) % 200).astype(kind)
    stored = np.ascontiguousarray(values.transpose(2, 0, 1)) if planar else values
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, stored)
    else:
        tifffile.imwrite(path, stored, planarconfig="separate" if planar else "contig", photometric="minisblack")
    image = read_image(path, channels=7)
    assert image.dtype == kind
    assert (image == values).all()
    with pytest.raises(UnreadableImage, match=r"7.*not of 5 channels"):
        read_image(path, channels=5)


def test_16_bit_color_tiff_keeps_its_depth(tmp_path: Path) -> None:
    deep = COLOR.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    assert (read_image(tmp_path / "a.tif") == deep).all()


@pytest.mark.parametrize("ending", ["webp", "avif", "jp2", "png", "bmp", "gif", "ppm"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, ending: str) -> None:
    options: dict[str, Any] = {"webp": {"lossless": True}, "avif": {"quality": 100, "subsampling": "4:4:4"}}
    Image.fromarray(COLOR).save(tmp_path / f"a.{ending}", **options.get(ending, {}))
    difference = np.abs(read_image(tmp_path / f"a.{ending}").astype(int) - COLOR)
    assert difference.max() <= (2 if ending == "avif" else 0), "AVIF rounds its luma and chroma"


def written(path: Path) -> Path:
    """Writes an image in the format of the path's ending."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    if path.suffix == ".npy":
        np.save(path, noise)
    elif path.suffix == ".tiff":
        tifffile.imwrite(path, noise.astype(np.uint16) * 257, photometric="rgb", compression="zlib")
    elif path.suffix == ".tif":
        Image.fromarray(noise).save(path, compression="tiff_lzw")
    else:
        Image.fromarray(noise).save(path)
    return path


ENDINGS = [ending for ending in EXTENSIONS if ending not in (".jpeg", ".dcm")]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_open_file_gives_the_pixels_of_its_path(tmp_path: Path, ending: str) -> None:
    """Whatever its ending says, and wherever it was read before."""
    path = written(tmp_path / f"a{ending}")
    image = read_image(path, canvas=32)
    memory = io.BytesIO(path.read_bytes())
    memory.seek(20)
    assert np.array_equal(read_image(memory, canvas=32), image)
    assert not memory.closed
    for other in ("a", "a.jpg" if ending == ".npy" else "a.npy", "a.tif" if ending == ".png" else "a.png"):
        assert np.array_equal(read_image(path.rename(tmp_path / other), canvas=32), image)
        path = tmp_path / other


@pytest.mark.parametrize("ending", ENDINGS)
def test_damage_of_an_open_file_is_named_as_that_of_its_path(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"a{ending}")
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UnreadableImage) as of_path:
            read_image(path)
        with pytest.raises(UnreadableImage) as of_memory:
            read_image(io.BytesIO(content))
        assert str(of_memory.value).split(" object at ")[0] == str(of_path.value).split(" object at ")[0]


@pytest.mark.parametrize("ending", ["jpg", "png", "npy"])
def test_a_large_image_is_shrunk_to_the_canvas(tmp_path: Path, ending: str) -> None:
    ramp = np.linspace(0, 255, 900)[None, :, None].repeat(600, 0).repeat(3, 2).astype(np.uint8)
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, ramp.astype(np.uint16) * 200)
    else:
        Image.fromarray(ramp).save(path)
    image = read_image(path, canvas=90).astype(float)
    assert image.shape == (60, 90, 3)
    top = 255 * 200 if ending == "npy" else 255
    assert np.abs(image[30, :, 0] / top - np.linspace(0, 1, 90)).max() < 0.02
    assert read_image(path, canvas=2000).shape == (600, 900, 3)


def test_shrinking_agrees_with_pillow_on_the_whole_image(tmp_path: Path) -> None:
    smooth = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    picture = Image.fromarray(smooth).resize((640, 480), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as file:
        for canvas in (500, 300, 100):  # decoded whole, at half and at a fourth of its size
            wanted = np.asarray(file.convert("RGB").resize((canvas, canvas * 3 // 4), Image.Resampling.BICUBIC)).astype(
                int
            )
            found = read_image(tmp_path / "a.jpg", canvas=canvas).astype(int)
            assert np.abs(found - wanted).mean() < 1
            assert np.abs(found - wanted).max() <= 10


@pytest.mark.parametrize("shape", [(683, 1023), (683, 1024), (300, 512), (90, 2047), (2049, 30), (40, 30)])
def test_the_decoder_shrinks_by_halves_and_never_below_the_canvas(tmp_path: Path, shape: tuple[int, int]) -> None:
    Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(tmp_path / "a.jpg")
    with open(tmp_path / "a.jpg", "rb") as file:
        decoded = max(_read_with_pillow(file, 3, 512).shape)
    assert min(512, max(shape)) <= decoded <= 1024
    assert decoded == -(-max(shape) // (2 ** max(0, int(math.log2(max(shape) / 512)))))


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "avif"])
def test_the_first_frame_of_an_animation(tmp_path: Path, ending: str) -> None:
    colors = ["red", "lime", "blue"]
    frames = [Image.new("RGB", (60, 40), color) for color in colors]
    options: dict[str, Any] = {"webp": {"lossless": True}, "avif": {"quality": 100, "subsampling": "4:4:4"}}
    frames[0].save(tmp_path / f"one.{ending}", **options.get(ending, {}))
    frames[0].save(tmp_path / f"all.{ending}", save_all=True, append_images=frames[1:], **options.get(ending, {}))
    for name, several in (("one", False), ("all", True)):
        with noting_frames() as note:
            image = read_image(tmp_path / f"{name}.{ending}")
        assert np.abs(image.astype(int) - (255, 0, 0)).max() <= (2 if ending == "avif" else 0)
        assert note.several is several


def test_a_photo_with_its_preview_is_one_image(tmp_path: Path) -> None:
    """Phones write a second, smaller picture into the same JPEG."""
    picture = Image.fromarray(COLOR)
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture.resize((30, 20))], quality=95)
    with noting_frames() as note:
        assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - COLOR).mean() < 4
    assert not note.several


def damaged(path: Path, kind: str) -> str:
    """Writes a file with a fault of this kind; gives a word of the reason."""
    if kind == "vanished":
        return "vanished"
    if kind == "empty":
        path.write_bytes(b"")
        return "empty"
    if kind == "text":
        path.write_text("hello")
        return "not an image"
    if kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
        return "damaged"
    Image.new("1", (20000, 20000) if kind == "bomb" else (1, 20000)).save(path)
    return "bomb" if kind == "bomb" else "strip"


@pytest.mark.parametrize("kind", ["vanished", "empty", "text", "truncated", "bomb", "strip"])
def test_damage_is_named(tmp_path: Path, kind: str, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "a.png"
    word = damaged(path, kind)
    with pytest.raises(UnreadableImage, match=word):
        read_image(path)
    assert not list(recwarn)


def test_arrays_that_are_no_images_are_refused(tmp_path: Path) -> None:
    for name, values, word in [
        ("nan", np.full((4, 4, 3), np.nan), "NaN"),
        ("deep", np.zeros((4, 4, 3, 2)), "dimensions"),
        ("long", np.zeros((4, 4, 3), np.int64), "int64"),
        ("object", np.array([{"a": 1}], dtype=object), "damaged"),
    ]:
        np.save(tmp_path / f"{name}.npy", values, allow_pickle=True)
        with pytest.raises(UnreadableImage, match=word):
            read_image(tmp_path / f"{name}.npy")


def test_random_damage_never_raises_anything_else(tmp_path: Path) -> None:
    """Flipped and cut bytes of every format: a picture or one reason, nothing else."""
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 255, (30, 30, 3)).astype(np.uint8))
    outcomes = {"read": 0, "refused": 0}
    for ending in ("jpg", "png", "webp", "avif", "gif", "jp2", "ppm", "tif", "bmp"):
        path = tmp_path / f"whole.{ending}"
        picture.save(path)
        whole = path.read_bytes()
        for number in range(60):
            broken = bytearray(whole[: generator.integers(1, len(whole))] if number % 3 == 0 else whole)
            for place in generator.integers(0, len(broken), 12):
                broken[place] = generator.integers(256)
            path = tmp_path / f"broken.{ending}"
            path.write_bytes(bytes(broken))
            try:
                read_image(path, canvas=64)
                outcomes["read"] += 1
            except UnreadableImage:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        read_image(tmp_path / "a.png")


def test_what_a_numpy_header_claims_is_not_believed(tmp_path: Path) -> None:
    for shape, word in (
        ((5000, 5000, 3), "shorter than its header"),
        ((10**6, 10**6, 3), "bomb"),
        ((0, 4, 3), "array"),
    ):
        with open(tmp_path / "a.npy", "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
            file.write(bytes(100))
        with pytest.raises(UnreadableImage, match=word):
            read_image(tmp_path / "a.npy")


def test_eps_is_never_given_to_its_interpreter(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UnreadableImage, match="not an image"):
        read_image(tmp_path / "a.png")


def test_a_jpeg_of_many_scans_is_refused_before_it_takes_minutes() -> None:
    assert read_image(io.BytesIO(many_scans(20))).shape == (1000, 1000, 3)
    with pytest.raises(UnreadableImage, match="more than 100 scans: a decompression bomb"):
        read_image(io.BytesIO(many_scans(20_000)))


def test_a_jpeg_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.effect_noise((600, 600), 100).save(content, "JPEG", quality=95)  # more than one piece of 64 KiB
    assert read_image(content).shape == (600, 600, 3)
    monkeypatch.setattr(image_limits, "MAX_SECONDS", 0.0)
    with pytest.raises(UnreadableImage, match="takes longer than 0 s to decode"):
        read_image(content)
