"""A test on the training images is noted, for pairs of files as for classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.labels.masks import open_masks
from repre.data.labels.same_images import SAME_IMAGES, notes_on_pair


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """Six images with masks of two classes."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for index in range(6):
        mask = np.zeros((16, 16), np.uint8)
        mask[: 2 + index] = 1
        Image.fromarray(mask * 90).convert("RGB").save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    return f"pairs:{tmp_path / 'images'},{tmp_path / 'masks'}"


@pytest.mark.parametrize(("whole", "noted"), [(True, True), (False, False)])
def test_only_a_test_on_the_training_images_is_noted(whole: bool, noted: bool, pairs: str) -> None:
    """As a whole the pairs are given as --test, too; else a part of them is held out."""
    train, test = (open_masks(pairs, split=split, whole=whole) for split in ("train", "val"))
    assert (SAME_IMAGES in notes_on_pair(train, test)) == noted
