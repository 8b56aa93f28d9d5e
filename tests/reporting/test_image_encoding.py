"""Panels are cut where the images lie, pictures survive, features keep their directions."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from repre.reporting.image_encoding import patches_as_text, read_panels, smaller, uri
from repre.reporting.run_data import read_run
from tests.reporting import fake_run as make


def decoded(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))))


def test_a_panel_is_cut_into_its_images(tmp_path: Path) -> None:
    found = read_panels(read_run(make.make_run(tmp_path / "a")), most=25)
    assert found is not None
    images = make.pictures(make.PANEL)
    assert all(np.array_equal(a, b) for a, b in zip(found.originals, images, strict=True))
    assert list(found.rebuilt) == [0, 50, 100, 150, 200]
    assert np.array_equal(found.rebuilt[200][1], images[1])
    assert all((cell == 128).all() for cell in found.rebuilt[0])
    each = [10 * np.log10(255**2 / np.mean((images[i].astype(float) - 128) ** 2)) for i in range(make.PANEL)]
    assert abs(found.psnr[0] - np.mean(each)) < 1e-9


def test_few_panels_keep_the_first_and_the_last(tmp_path: Path) -> None:
    found = read_panels(read_run(make.make_run(tmp_path / "a")), most=2)
    assert found is not None
    assert list(found.rebuilt) == [0, 200]


def test_panels_that_are_none_are_passed_over(tmp_path: Path) -> None:
    run = make.make_run(tmp_path / "a")
    (run / "panel" / "step-0000050.png").write_bytes(b"no picture")
    Image.new("RGB", (50, 31)).save(run / "panel" / "step-0000100.png")
    Image.new("RGB", (72, 72)).save(run / "panel" / "step-0000150.png")
    found = read_panels(read_run(run), most=25)
    assert found is not None
    assert list(found.rebuilt) == [0, 200]
    assert read_panels(read_run(run), most=0) is None


def test_pictures_come_back() -> None:
    image = make.pictures(2)[1]
    assert np.array_equal(decoded(uri(image, jpeg=None)), image)
    assert np.abs(decoded(uri(image, jpeg=90)).astype(int) - image).mean() < 6
    assert smaller(image, 8).shape == (8, 8, 3)
    assert smaller(np.zeros((10, 40, 3), np.uint8), 20).shape == (5, 20, 3)


def test_patches_are_kept_or_averaged_by_twos() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(2, 4, 3, 8))
    patches = np.round(directions / np.linalg.norm(directions, axis=-1, keepdims=True) * 127).astype(np.int8)
    whole = patches_as_text(patches, cells=12)
    assert whole["shape"] == [2, 4, 3, 8]
    assert np.array_equal(np.frombuffer(base64.b64decode(whole["values"]), np.int8).reshape(patches.shape), patches)
    halved = patches_as_text(patches, cells=11)
    found = np.frombuffer(base64.b64decode(halved["values"]), np.int8).reshape(halved["shape"]).astype(float)
    mean = patches[1, 2:4, 0:2].astype(float).mean((0, 1))
    assert halved["shape"] == [2, 2, 1, 8]
    assert found[1, 1, 0] @ mean / np.linalg.norm(mean) / np.linalg.norm(found[1, 1, 0]) > 0.999
