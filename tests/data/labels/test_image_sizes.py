"""Sizes by headers are those of the decoded images."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.io.decode import read_image
from repre.data.io.image_limits import UnreadableImage
from repre.data.labels.image_sizes import image_size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_sizes_are_upright(name: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (7, 5)).save(tmp_path / name, exif=exif)
    assert image_size(tmp_path / name) == read_image(tmp_path / name).shape[:2]


def test_other_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 6, 3), np.uint8))
    assert image_size(tmp_path / "a.npy") == (4, 6)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    os.mkfifo(tmp_path / "c.jpg")  # reading it would wait for ever
    for name, reason in (("b.jpg", "not an image"), ("c.jpg", "not a regular file"), ("d.jpg", "vanished")):
        with pytest.raises(UnreadableImage, match=reason):
            image_size(tmp_path / name)


def test_a_png_is_not_decoded(tmp_path: Path) -> None:
    Image.effect_noise((300, 200), 80).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    assert image_size(tmp_path / "a.png") == (200, 300)


def test_arrays_of_many_channels(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 40, 60), np.uint8))
    assert image_size(tmp_path / "a.npy", channels=5) == (40, 60)
    with pytest.raises(UnreadableImage, match="not of 3 channels"):
        image_size(tmp_path / "a.npy")
