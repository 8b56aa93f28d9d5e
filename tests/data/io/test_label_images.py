"""Masks beside images are found in every usual layout, and photos in folders with such names stay."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.io import label_images
from repre.data.io.file_choice import FileChoice
from repre.data.io.image_files import FileSource
from repre.data.io.label_images import find_label_images
from repre.data.io.sources import open_source
from tests.data.packing import pack_tar, pack_zip

Draw = Callable[[int], Image.Image]


def photo(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8))


def xray(number: int) -> Image.Image:
    return photo(number).convert("L")


def mask(number: int) -> Image.Image:
    return Image.fromarray(np.kron(np.eye(2, dtype=np.uint8) * (number + 1), np.ones((12, 12), np.uint8)))


def palette(number: int) -> Image.Image:
    image = mask(number).convert("P")
    image.putpalette(list(range(256)) * 3)
    return image


def colors(number: int) -> Image.Image:
    return palette(number).convert("RGB").point(lambda value: 40 * value)


def write(root: Path, pattern: str, draw: Draw, count: int = 5) -> None:
    """Draws images; the pattern has a place for their number."""
    for number in range(count):
        path = root / pattern.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(number).save(path)


def kept(root: Path) -> tuple[list[str], list[str]]:
    """The names that are used, and the groups that are left out."""
    source = open_source(str(root), choice=FileChoice())
    assert isinstance(source, FileSource)
    return [*source.files.names], [group.where for group in source.label_images]


LAYOUTS: dict[str, tuple[tuple[str, Draw], tuple[str, Draw], str]] = {
    "folders": (("images/{}.jpg", photo), ("masks/{}.png", mask), "masks/*"),
    "palette": (("JPEGImages/{}.jpg", photo), ("SegmentationClass/{}.png", palette), "SegmentationClass/*"),
    "cityscapes": (
        ("leftImg8bit/train/a/a_{}_leftImg8bit.png", photo),
        ("gtFine/train/a/a_{}_gtFine_labelIds.png", mask),
        "*_gtFine_labelIds.png",
    ),
    "camvid": (
        ("701_StillsRaw_full/0001TP_{}.png", photo),
        ("LabeledApproved_full/0001TP_{}_L.png", colors),
        "*_L.png",
    ),
    "segnet": (("train/{}.png", photo), ("trainannot/{}.png", mask), "trainannot/*"),
    "deepglobe": (("{}_sat.jpg", photo), ("{}_mask.png", mask), "*_mask.png"),
    "same names": (("{}.jpg", photo), ("{}.png", palette), "*.png"),
    "kaggle cells": (("{0}/images/{0}.png", photo), ("{0}/masks/abc{0}x.png", mask), "masks/*"),
    "numbers": (("rgb/image_{}.png", photo), ("labels/label_{}.png", mask), "labels/*"),
    "x-rays": (("images/{}.png", xray), ("masks/{}.png", mask), "masks/*"),
    "depth": (("rgb/{}.png", photo), ("depth/{}.png", xray), "depth/*"),
    "webdataset": (("{}.jpg", photo), ("{}.seg.png", mask), "*.seg.png"),
    "brain": (
        ("mri-segmentation/P{0}/P{0}_1.tif", photo),
        ("mri-segmentation/P{0}/P{0}_1_mask.tif", mask),
        "*_mask.tif",
    ),
    "numpy": (("images/{}.png", photo), ("masks/{}.npy", mask), "masks/*"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_beside_images_are_left_out(tmp_path: Path, layout: str) -> None:
    (images, draw), (masks, draw_mask), where = LAYOUTS[layout]
    write(tmp_path, images, draw)
    if masks.endswith(".npy"):
        (tmp_path / "masks").mkdir()
        for number in range(5):
            np.save(tmp_path / masks.format(number), np.asarray(mask(number)).astype(np.int64))
    else:
        write(tmp_path, masks, draw_mask)
    names, groups = kept(tmp_path)
    assert sorted(names) == sorted(images.format(number) for number in range(5))
    assert groups == [where]
    assert len(open_source(str(tmp_path))) == 10, "evaluations choose their own files"


PHOTOS: dict[str, list[tuple[str, Draw]]] = {
    "photos of labels": [("images/{}.jpg", photo), ("labels/{}.jpg", photo)],
    "face masks": [("with_mask/{}.jpg", photo), ("without_mask/{}.jpg", photo)],
    "x-rays of classes": [("NORMAL/{}.png", xray), ("PNEUMONIA/{}.png", xray)],
    "masks alone": [("masks/{}.png", mask)],
    "drawings in two formats": [("{}.jpg", photo), ("{}.png", photo)],
    "gray and color": [("gray/{}.png", xray), ("color/{}.png", photo)],
    "graphics": [("icons/{}.png", colors), ("photos/{}.jpg", photo)],
    "numbers alone": [("train/{}.png", photo), ("labels of wine/bottle{}.png", photo)],
    "many gray images in a folder of labels": [("labels/{}.png", xray)],
}


@pytest.mark.parametrize("layout", PHOTOS)
def test_photos_stay_whatever_their_folders_are_called(tmp_path: Path, layout: str) -> None:
    for pattern, draw in PHOTOS[layout]:
        write(tmp_path, pattern, draw)
    names, groups = kept(tmp_path)
    assert not groups
    assert len(names) == 5 * len(PHOTOS[layout])


def test_the_choice_takes_them(tmp_path: Path) -> None:
    write(tmp_path, "images/{}.jpg", photo)
    write(tmp_path, "masks/{}.png", mask)
    assert len(open_source(str(tmp_path), choice=FileChoice(masks="take"))) == 10
    assert len(open_source(str(tmp_path), choice=FileChoice(include=("masks/*",)))) == 5, "they are asked for alone"
    assert len(open_source([str(tmp_path / "images"), str(tmp_path / "masks")], choice=FileChoice(masks="take"))) == 10


@pytest.mark.parametrize("pack", [pack_tar, pack_zip])
def test_they_are_left_out_of_archives(tmp_path: Path, pack: Callable[[Path, Path], Path]) -> None:
    write(tmp_path / "d", "images/{}.jpg", photo)
    write(tmp_path / "d", "masks/{}.png", mask)
    names, groups = kept(pack(tmp_path / "d", tmp_path / ("d.tar" if pack is pack_tar else "d.zip")))
    assert len(names) == 5
    assert groups == ["masks/*"]


def test_a_long_list_is_looked_at_by_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_images, "WINDOWS", 2)
    monkeypatch.setattr(label_images, "WINDOW", 4)
    write(tmp_path, "{}.jpg", photo, 12)
    write(tmp_path, "{}.png", mask, 12)
    source = open_source(str(tmp_path))
    assert isinstance(source, FileSource)
    (group,) = find_label_images(source.files)
    assert len(group.numbers) == 12
    assert all(source.files.names[number].endswith(".png") for number in group.numbers.tolist())
