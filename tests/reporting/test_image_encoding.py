"""Panels are cut along their images, images survive encoding, features keep their directions."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from repre.reporting.image_encoding import data_uri, encode_patches, read_panels, shrink
from repre.reporting.run_data import read_run
from tests.reporting import fake_run


def decoded(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))))


def test_a_panel_is_cut_into_its_images(tmp_path: Path) -> None:
    panels = read_panels(read_run(fake_run.make_run(tmp_path / "a")), max_count=25)
    assert panels is not None
    images = fake_run.draw_images(fake_run.PANEL_IMAGES)
    assert all(np.array_equal(a, b) for a, b in zip(panels.originals, images, strict=True))
    assert list(panels.rebuilt) == [0, 50, 100, 150, 200]
    assert np.array_equal(panels.rebuilt[200][1], images[1])
    assert all((cell == 128).all() for cell in panels.rebuilt[0])
    each = [10 * np.log10(255**2 / np.mean((images[i].astype(float) - 128) ** 2)) for i in range(fake_run.PANEL_IMAGES)]
    assert abs(panels.psnr[0] - np.mean(each)) < 1e-9


def test_few_panels_keep_the_first_and_the_last(tmp_path: Path) -> None:
    panels = read_panels(read_run(fake_run.make_run(tmp_path / "a")), max_count=2)
    assert panels is not None
    assert list(panels.rebuilt) == [0, 200]


def test_files_that_are_no_panels_are_skipped(tmp_path: Path) -> None:
    run = fake_run.make_run(tmp_path / "a")
    (run / "panel" / "step-0000050.png").write_bytes(b"no image")
    Image.new("RGB", (50, 31)).save(run / "panel" / "step-0000100.png")
    Image.new("RGB", (72, 72)).save(run / "panel" / "step-0000150.png")
    panels = read_panels(read_run(run), max_count=25)
    assert panels is not None
    assert list(panels.rebuilt) == [0, 200]
    assert read_panels(read_run(run), max_count=0) is None


def test_images_survive() -> None:
    image = fake_run.draw_images(2)[1]
    assert np.array_equal(decoded(data_uri(image, jpeg=None)), image)
    assert np.abs(decoded(data_uri(image, jpeg=90)).astype(int) - image).mean() < 6
    assert shrink(image, 8).shape == (8, 8, 3)
    assert shrink(np.zeros((10, 40, 3), np.uint8), 20).shape == (5, 20, 3)


def test_patches_are_kept_or_averaged_over_neighbors() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(2, 4, 3, 8))
    patches = np.round(directions / np.linalg.norm(directions, axis=-1, keepdims=True) * 127).astype(np.int8)
    whole = encode_patches(patches, max_patches=12)
    assert whole["shape"] == [2, 4, 3, 8]
    assert np.array_equal(np.frombuffer(base64.b64decode(whole["values"]), np.int8).reshape(patches.shape), patches)
    halved = encode_patches(patches, max_patches=11)
    averaged = np.frombuffer(base64.b64decode(halved["values"]), np.int8).reshape(halved["shape"]).astype(float)
    mean = patches[1, 2:4, 0:2].astype(float).mean((0, 1))
    assert halved["shape"] == [2, 2, 1, 8]
    assert averaged[1, 1, 0] @ mean / np.linalg.norm(mean) / np.linalg.norm(averaged[1, 1, 0]) > 0.999
