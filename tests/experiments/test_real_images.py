"""CamVid and CIFAR-10 are cut to the sizes of a preset, from a folder or an archive."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from experiments.datasets import ensure_dataset, images_spec, labels_spec, masks_spec
from experiments.presets import Data
from PIL import Image

from repre.data.io.sources import open_source
from repre.data.labels.classes import open_labeled
from repre.data.labels.masks import open_masks
from repre.errors import UserError
from tests.experiments.real_copies import CLASSES, write_camvid, write_cifar10


def test_camvid_is_resized_and_its_validation_frames_follow_the_training_frames(tmp_path: Path) -> None:
    write_camvid(tmp_path, {"train": 4, "val": 2, "test": 3})
    folder = ensure_dataset(
        Data(kind="camvid", size=16, train=6, val=2), folder=tmp_path / "data", packages=tmp_path, real=tmp_path
    )
    names = [path.stem for path in sorted((folder / "train" / "images").iterdir())]
    assert names == ["train000", "train001", "train002", "train003", "val000", "val001"]
    assert Image.open(folder / "train" / "images" / "train000.png").size == (20, 16)
    masks = open_masks(masks_spec(folder), split="val")
    assert (masks.classes, len(masks)) == (list(CLASSES), 2)
    original = np.asarray(Image.open(tmp_path / "camvid" / "test" / "masks" / "test000.png"))
    assert np.array_equal(masks.load(0)[1], original[1::2, 1::2])
    assert len(open_source(images_spec(folder), labels=False)) == 6


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_cifar10_has_equally_many_images_of_every_class(tmp_path: Path, packed: bool) -> None:
    write_cifar10(tmp_path, {"train": 5, "test": 4})
    real = tmp_path
    if packed:
        real = tmp_path / "packed"
        real.mkdir()
        with tarfile.open(real / "cifar10.tar.xz", "w:xz") as tar:
            tar.add(tmp_path / "cifar10", "cifar10")
    data = Data(kind="cifar10", size=48, train=6, val=4)
    folder = ensure_dataset(data, folder=tmp_path / "data", packages=tmp_path, real=real)
    splits = open_labeled(labels_spec(folder))
    assert splits.classes == ["cat", "dog"]
    assert np.bincount(splits.train.targets).tolist() == [3, 3]
    assert np.bincount(splits.test.targets).tolist() == [2, 2]
    assert len(open_source(images_spec(folder), labels=False)) == 6


@pytest.mark.parametrize(
    ("kind", "real", "message"),
    [("camvid", None, "pass --real FOLDER"), ("cifar10", "empty", "has neither cifar10/"), ("camvid", "few", "of 9;")],
)
def test_a_copy_that_is_missing_or_small_is_refused_and_leaves_nothing(
    tmp_path: Path, kind: str, real: str | None, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_camvid(tmp_path / "few", {"train": 4, "val": 2, "test": 3})
    data = Data(kind=kind, size=16, train=9, val=2)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        ensure_dataset(data, folder=tmp_path / "data", packages=tmp_path, real=real and tmp_path / real)
    assert not list((tmp_path / "data").glob("*"))
