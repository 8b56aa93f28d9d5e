"""Draws of labeled images: shares of every class, nested, seeded; and what identifies pixels."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.io.image_files import FileSource
from repre.data.io.local_files import LocalFiles
from repre.data.io.names import Names
from repre.data.io.torchvision_sets import ArraySource
from repre.data.labels.splits import LabeledImages, draw_share, draw_shots, hold_out, label_subset
from repre.data.scenes import Scenes, ScenesConfig
from repre.errors import UserError

LABELS = np.repeat([0, 1, 2], [40, 20, 2])
SEVERAL = np.random.default_rng(0).random((60, 4)) < [0.5, 0.3, 0.2, 0.0]
SEVERAL[7, 3] = True  # the only image of its class


def test_hold_out_takes_the_same_share_of_every_class() -> None:
    kept, held = hold_out(LABELS, 0.25, seed=0)
    assert sorted([*kept, *held]) == list(range(62))
    assert np.bincount(LABELS[held]).tolist() == [10, 5, 1]
    assert not np.array_equal(held, hold_out(LABELS, 0.25, seed=1)[1])
    np.testing.assert_array_equal(held, hold_out(LABELS, 0.25, seed=0)[1])


def test_hold_out_leaves_every_class_an_image() -> None:
    assert hold_out(np.array([0, 1, 1]), 0.9, seed=0)[0].tolist()[0] == 0
    kept, held = hold_out(SEVERAL.astype(np.float32), 0.9, seed=0)
    assert SEVERAL[kept].any(0).all()
    assert 7 in kept
    assert len(held) > 40


def test_smaller_shares_lie_within_larger_ones() -> None:
    for targets in (LABELS, SEVERAL.astype(np.float32)):
        tenth, half = (set(draw_share(targets, share, seed=3).tolist()) for share in (0.1, 0.5))
        assert tenth < half
        assert draw_share(targets, 1.0, seed=3).tolist() == list(range(len(targets)))
    assert np.bincount(LABELS[draw_share(LABELS, 0.1, seed=0)]).tolist() == [4, 2, 1]
    assert SEVERAL[draw_share(SEVERAL.astype(np.float32), 0.01, seed=0)].any(0).all()


def test_shots() -> None:
    names = ["cat", "dog", "owl"]
    assert np.bincount(LABELS[draw_shots(LABELS, 2, seed=0, classes=names)]).tolist() == [2, 2, 2]
    with pytest.raises(UserError, match=r"3 shots.*owl \(2\)"):
        draw_shots(LABELS, 3, seed=0, classes=names)


def test_taken_images_keep_their_targets() -> None:
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2)
    source = ArraySource("toys", pixels, None, [], channels=1)
    images = LabeledImages(source, np.arange(6) % 3, classes=["a", "b", "c"]).take(np.array([4, 1, 5]))
    again = images.take(np.array([2, 0]))
    assert [int(again.load(i)[0, 0, 0]) for i in range(2)] == [5, 4]
    assert again.targets.tolist() == [2, 1]
    assert again.describe(0) == "toys image 5"


def test_identity_follows_the_pixels(tmp_path: Path) -> None:
    def of_array(value: int, places: list[int]) -> str:
        source = ArraySource("x", np.full((4, 2, 2, 1), value, np.uint8), None, [], channels=1)
        return LabeledImages(source, np.zeros(4, np.int64), classes=["a"]).take(np.array(places)).identity()

    assert of_array(1, [0, 1]) == of_array(1, [0, 1])
    assert len({of_array(1, [0, 1]), of_array(2, [0, 1]), of_array(1, [0, 1, 2])}) == 3

    def of_scenes(seed: int, split: str) -> str:
        source = Scenes(2, config=ScenesConfig(size=16, seed=seed), split=split)
        return LabeledImages(source, np.zeros(2, np.int64), classes=["a"]).identity()

    assert len({of_scenes(0, "train"), of_scenes(0, "val"), of_scenes(1, "train")}) == 3

    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    images = LabeledImages(
        FileSource("x", LocalFiles(tmp_path, Names.of(["a.png"])), channels=1, canvas=None),
        np.zeros(1, np.int64),
        classes=["a"],
    )
    before = images.identity()
    os.utime(tmp_path / "a.png", ns=(1, 1))
    assert images.identity() != before


def test_label_subsets_nest() -> None:
    subsets = [set(label_subset(50, share, seed=3)) for share in (0.001, 0.1, 0.5, 1.0)]
    assert [len(part) for part in subsets] == [1, 5, 25, 50]
    assert all(small < large for small, large in pairwise(subsets))
    assert set(label_subset(50, 0.1, seed=4)) != subsets[1]
    assert label_subset(50, 0.1, seed=3) == [3, 4, 22, 30, 34]
