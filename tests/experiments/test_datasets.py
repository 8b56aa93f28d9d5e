"""Data sets of the plan: foreground masks and boxes, and Fashion-MNIST cut to its first images."""

import struct
from pathlib import Path

import numpy as np
from experiments.datasets import ensure_dataset, masks_spec, truncate_idx
from experiments.presets import Data

from repre.data.labels.boxes import open_boxes
from repre.data.labels.masks import open_masks


def test_foreground_has_the_same_scenes_with_a_single_class(tmp_path: Path) -> None:
    data = ensure_dataset(Data(kind="scenes", size=32, train=3, val=4), folder=tmp_path, packages=tmp_path)
    masks, foreground_masks = (open_masks(masks_spec(folder), split="val") for folder in (data, data / "foreground"))
    boxes, foreground_boxes = (open_boxes(f"coco:{folder}", split="val") for folder in (data, data / "foreground"))
    assert foreground_masks.classes == ["background", "object"]
    assert foreground_boxes.classes == ["object"]
    for index in range(4):
        assert np.array_equal(foreground_masks.load(index)[1], masks.load(index)[1] > 0)
        all_classes, one_class = boxes.load(index), foreground_boxes.load(index)
        assert np.array_equal(one_class.image, all_classes.image)
        assert np.array_equal(one_class.boxes, all_classes.boxes)
        assert set(one_class.labels.tolist()) == {1}


def test_an_idx_file_is_cut_to_its_first_items() -> None:
    images = bytes([0, 0, 8, 3]) + struct.pack(">3I", 5, 2, 3) + bytes(range(30))
    assert truncate_idx(images, 2) == bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 2, 3) + bytes(range(12))
    assert truncate_idx(images, 9) == images
    labels = bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes([3, 1, 2, 0])
    assert truncate_idx(labels, 3) == bytes([0, 0, 8, 1]) + struct.pack(">I", 3) + bytes([3, 1, 2])
