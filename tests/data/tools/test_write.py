"""Scenes on the disk are the scenes in memory, by every reader."""

from pathlib import Path

import numpy as np
import pytest

from repre.data.labels.boxes import open_boxes
from repre.data.labels.classes import open_labeled
from repre.data.labels.masks import open_masks
from repre.data.scenes import Scenes, ScenesConfig
from repre.data.tools.write import write_scenes
from repre.errors import UserError

CONFIG = ScenesConfig(size=32, max_objects=3, seed=5)


def test_every_reader_gives_back_what_was_drawn(tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    write_scenes(out, {"train": 30, "val": 3}, config=CONFIG)
    for split, count in (("train", 30), ("val", 3)):
        scenes = Scenes(count, config=CONFIG, split=split)
        masks = open_masks(f"pairs:{out}/{{split}}/images,{out}/{{split}}/masks", split=split)
        boxes = open_boxes(f"coco:{out}", split=split)
        assert masks.classes == ["background", *scenes.classes]
        assert open_masks(f"pairs:{out}/{split}/images,{out}/{split}/masks", split="train").classes == masks.classes
        assert boxes.classes == list(scenes.classes)
        assert len(masks) == len(boxes) == count
        for index in range(count):
            drawn = scenes.scene(index)
            image, mask = masks.load(index)
            assert np.array_equal(image, drawn.image)
            assert np.array_equal(mask, drawn.semantic)
            objects = boxes.load(index)
            assert np.array_equal(objects.labels, drawn.classes + 1)
            assert np.allclose(objects.boxes[:, 2:] - objects.boxes[:, :2], drawn.boxes[:, 2:])
            assert objects.masks is not None
            for place, own in enumerate(objects.masks):
                assert np.array_equal(own, drawn.instances == place + 1)
    labeled = open_labeled(f"csv:{out}/labels.csv")
    drawn_labels = [scenes.scene(i).label for i in range(3)]
    assert [labeled.classes[t] for t in labeled.test.targets] == [scenes.classes[i] for i in drawn_labels]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        write_scenes(tmp_path, {"train": 1, "val": 1}, config=CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="at least one"):
        write_scenes(tmp_path / "new", {"train": 0, "val": 1}, config=CONFIG)
    with pytest.raises(UserError, match="cannot be written"):
        write_scenes(tmp_path / "mine.txt" / "below", {"train": 1, "val": 1}, config=CONFIG)
